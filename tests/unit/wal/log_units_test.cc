// The units of partitions in the Log: epochs that supersede, marks, and units that are appended again.
#include <gtest/gtest.h>

#include "src/wal/log_impl.h"
#include "tests/support/log_damage.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::LogTest;
using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

class LogUnits : public LogTest {};

// L9: even if all records of a partition are released and their segments recycled, the log states
// what must exist of it.
TEST_F(LogUnits, TheLogStatesWhatIsReleased) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream idle(&log, PartitionUuid(0)), busy(&log, PartitionUuid(1));
      for (int i = 0; i < 3; ++i) idle.Append();
      co_await idle.UntilDurable(reactor, 3);
      idle.SetCommit(3);
      idle.Release(2);
      idle.Release(3);
      for (int i = 0; i < 100; ++i) {
        busy.Append(5000);
        co_await busy.UntilDurable(reactor, busy.last());
        busy.SetCommit(busy.last());
        busy.Release(busy.last());
      }
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_FALSE(recovered.partitions.contains(PartitionUuid(0))) << "its segment must be gone";
      const StreamMark& idle = recovered.marks[PartitionUuid(0)];
      EXPECT_EQ(idle.durable_lsn, 3u);
      EXPECT_EQ(idle.commit_lsn, 3u);
      EXPECT_EQ(idle.released_lsn, 3u);
      EXPECT_EQ(idle.hlc, VersionAtMs(3));
      EXPECT_EQ(recovered.marks[PartitionUuid(1)].released_lsn, 100u);
      co_return;
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  for (int restarts = 0; restarts < 3; ++restarts) {
    Reboot(true);
    EXPECT_TRUE(Use(SmallLog(), Check()).ok());
  }
}

TEST_F(LogUnits, AHigherEpochSupersedesTheTail) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      a.Append({10, 10});
      a.Append();
      co_await a.UntilDurable(reactor, 3);
      a.SetCommit(2);
      a.Append();
      b.Append();
      EXPECT_EQ(a.Supersede(2, /*epoch=*/5), 3u);  // the durable one at 3, the staged one at 4
      a.Append();
      co_await a.UntilDurable(reactor, 4);
      co_await b.UntilDurable(reactor, 1);
      // Also what is in flight.
      a.Append();
      co_await Yield(reactor);
      a.Supersede(4, /*epoch=*/6);
      co_await a.UntilDurable(reactor, 5);
      a.SetCommit(5);
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      const Recovered::Partition& found = recovered.partitions[PartitionUuid(0)];
      EXPECT_EQ(found.units, (std::vector<Lsn>{2, 3, 4, 5}));
      EXPECT_EQ(found.epoch, 6u);
      EXPECT_EQ(found.commit, 5u);
      EXPECT_EQ(recovered.last(PartitionUuid(1)), 1u);
      EXPECT_TRUE(recovered.broken.empty());
      co_return;
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  EXPECT_TRUE(Use(SmallLog(), Check()).ok());
}

// An operator accepted that the end of the log is lost: its owner continues above what the log holds.
// The marks that go out before its next unit must not state what is not there (WU3).
TEST_F(LogUnits, AStreamThatContinuesElsewhereIsRecovered) {
  struct Appends {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      Stream a(&log, PartitionUuid(0), next, 1, recovered.chain(PartitionUuid(0)));
      for (int i = 0; i < records; ++i) a.Append();
      co_await a.UntilDurable(reactor, a.last());
      a.SetCommit(a.durable());
    }
    Lsn next;
    int records;
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_TRUE(recovered.broken.empty());
      EXPECT_EQ(recovered.last(PartitionUuid(0)), last);
      co_return;
    }
    Lsn last;
  };
  EXPECT_TRUE(Use(SmallLog(), Appends{1, 5}).ok());
  EXPECT_TRUE(Use(SmallLog(), Appends{9, 0}).ok());
  Reboot(true);
  EXPECT_TRUE(Use(SmallLog(), Check{5}).ok());
  EXPECT_TRUE(Use(SmallLog(), Appends{9, 0}).ok());
  SimReactor& reactor = *machine_->reactor();
  Recovered recovered;
  Status status;
  auto log = kernel_.RunTask(reactor, OpenLog(reactor, SmallLog(), &recovered, &status));
  ASSERT_TRUE(status.ok()) << status.ToString();
  {
    Stream a(log->get(), PartitionUuid(0), 9);
    a.Append();
    kernel_.RunTask(reactor, a.UntilDurable(reactor, 9));
    EXPECT_EQ(a.durable(), 9u);
  }
  EXPECT_TRUE(kernel_.RunTask(reactor, (*log)->Close())->ok());
  Recovered again;
  log = kernel_.RunTask(reactor, OpenLog(reactor, SmallLog(), &again, &status));
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(again.last(PartitionUuid(0)), 9u);
  EXPECT_TRUE(again.broken.empty());
  EXPECT_TRUE(kernel_.RunTask(reactor, (*log)->Close())->ok());
}

// A partition whose history breaks in the middle: every start says so, all of its units stay in the
// log, and so does what the log states about it. The other partition is recovered.
TEST_F(LogUnits, TheUnitsOfABrokenPartitionAreKept) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      for (int i = 0; i < 60; ++i) {
        a.Append(5000);
        b.Append();
        co_await a.UntilDurable(reactor, a.last());
      }
      co_await b.UntilDurable(reactor, b.last());
      // b claims more than it has.
      b.SetCommit(60);
      a.Release(60);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  ASSERT_TRUE(BreakUnit(&machine_->disk(), "/wal", log_test::kNode, PartitionUuid(1), 30));
  struct Check {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      EXPECT_EQ(recovered.broken.size(), 1u);
      EXPECT_EQ(recovered.broken[PartitionUuid(1)].code(), Code::kCorruption);
      EXPECT_LT(recovered.last(PartitionUuid(1)), 60u);
      EXPECT_EQ(recovered.last(PartitionUuid(0)), last);
      Stream a(&log, PartitionUuid(0), last + 1, 1, recovered.chain(PartitionUuid(0)));
      log.KeepUnits(PartitionUuid(1));
      log.ReleaseUnknownStreams();
      a.SetCommit(last);
      a.Release(last);
      EXPECT_EQ(log.OldestPinnedStream(), PartitionUuid(1));
      for (int i = 0; i < 10; ++i) a.Append(5000);
      co_await a.UntilDurable(reactor, a.last());
      if (!drop) co_return;
      const uint64_t before = log.stats().segments;
      log.DropUnits(PartitionUuid(1));
      EXPECT_LT(log.stats().segments, before);
      for (int i = 0; i < 40; ++i) {  // until the break is not in the log any more
        a.Append(5000);
        co_await a.UntilDurable(reactor, a.last());
        a.SetCommit(a.last());
        a.Release(a.last());
      }
    }
    Lsn last;
    bool drop;
  };
  Lsn last = 60;
  for (int start = 0; start < 3; ++start, last += 10) {
    Status status = Use(SmallLog(), Check{last, /*drop=*/start == 2});
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  // The log goes on to state that there was more than it may still hold.
  struct Dropped {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_EQ(recovered.marks[PartitionUuid(1)].released_lsn, 60u);
      EXPECT_EQ(recovered.marks[PartitionUuid(1)].durable_lsn, 60u);
      co_return;
    }
  };
  Status status = Use(SmallLog(), Dropped());
  EXPECT_TRUE(status.ok()) << status.ToString();
}

// L10: what was appended again, and what was superseded, does not keep an old segment.
TEST_F(LogUnits, ATailThatIsAppendedAgainReleasesItsSegment) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stuck(&log, PartitionUuid(0)), cut(&log, PartitionUuid(1)), busy(&log, PartitionUuid(2));
      for (int i = 0; i < 3; ++i) stuck.Append(), cut.Append();
      co_await cut.UntilDurable(reactor, 3);
      auto fill = [&]() -> Task<void> {
        for (int i = 0; i < 100; ++i) {
          busy.Append(5000);
          co_await busy.UntilDurable(reactor, busy.last());
          busy.SetCommit(busy.last());
          busy.Release(busy.last());
        }
      };
      co_await fill();
      EXPECT_GT(log.stats().segments, 3u) << "the tails pin them";
      EXPECT_EQ(stuck.AppendAgain(), 3u);
      EXPECT_EQ(stuck.durable(), 3u);
      while (stuck.appended_again() < 3) co_await Sleep(reactor, kMillisecond);
      EXPECT_GT(log.stats().segments, 3u) << "the other tail still pins them";
      cut.Supersede(0, /*epoch=*/2);
      co_await cut.UntilDurable(reactor, 1);
      EXPECT_LE(log.stats().segments, 2u);
      EXPECT_EQ(log.OldestPinnedStream(), stuck.partition());
      co_await fill();
      EXPECT_GT(log.stats().segments, 3u) << "they are pinned where they are now";
      stuck.SetCommit(3);
      stuck.Release(3);
      cut.SetCommit(1);
      cut.Release(1);
      EXPECT_LE(log.stats().segments, 2u);
    }
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 4u << 20;
  EXPECT_TRUE(Use(options, Body()).ok());
}

TEST_F(LogUnits, WhatWasAppendedAgainIsRecoveredOnce) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      for (int i = 0; i < 5; ++i) a.Append();
      co_await a.UntilDurable(reactor, 5);
      a.SetCommit(2);
      EXPECT_EQ(a.AppendAgain(), 3u);
      a.Append();
      co_await a.UntilDurable(reactor, 6);
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_EQ(recovered.partitions[PartitionUuid(0)].units, (std::vector<Lsn>{1, 2, 3, 4, 5, 6}));
      EXPECT_TRUE(recovered.broken.empty());
      co_return;
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  EXPECT_TRUE(Use(SmallLog(), Check()).ok());
}

// WU4: the first segment of a tail is gone, the second one is not.
TEST_F(LogUnits, ATailThatLiesInSeveralSegmentsIsRecovered) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), pin(&log, PartitionUuid(1)), busy(&log, PartitionUuid(2));
      auto fill = [&]() -> Task<void> {
        for (int i = 0; i < 30; ++i) {
          busy.Append(5000);
          co_await busy.UntilDurable(reactor, busy.last());
          busy.Release(busy.last());
        }
      };
      a.Append(), a.Append();
      co_await fill();
      pin.Append(), a.Append();
      co_await fill();
      a.Append();
      co_await fill();
      const uint64_t before = log.stats().segments;
      EXPECT_EQ(a.AppendAgain(), 4u);
      while (a.appended_again() < 4) co_await Sleep(reactor, kMillisecond);
      EXPECT_LT(log.stats().segments, before) << "the first segment was not released";
      EXPECT_EQ(log.OldestPinnedStream(), pin.partition());
      a.Append();
      co_await a.UntilDurable(reactor, 5);
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      const auto& a = recovered.partitions[PartitionUuid(0)];
      EXPECT_EQ(a.units, (std::vector<Lsn>{1, 2, 3, 4, 5}));
      EXPECT_EQ(a.first, 1u);
      EXPECT_TRUE(recovered.broken.empty());
      EXPECT_EQ(recovered.bad, "");
      co_return;
    }
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 4u << 20;
  EXPECT_TRUE(Use(options, Body()).ok());
  EXPECT_TRUE(Use(options, Check()).ok());
}

// A dropped partition pins nothing and is stated nowhere.
TEST_F(LogUnits, ARemovedStreamIsForgotten) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      a.Append(), b.Append();
      co_await a.UntilDurable(reactor, 1);
      EXPECT_EQ(log.OldestPinnedStream(), a.partition());
      log.RemoveStream(a.handle());
      EXPECT_EQ(log.OldestPinnedStream(), b.partition());
      b.Append();
      co_await b.UntilDurable(reactor, 2);
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log& log, Recovered&) {
      Stream b(&log, PartitionUuid(1), 3);
      log.ReleaseUnknownStreams();
      EXPECT_EQ(log.OldestPinnedStream(), b.partition());
      co_return;
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  EXPECT_TRUE(Use(SmallLog(), Check()).ok());
}

}  // namespace
}  // namespace pando
