// L12: partitions that were removed from the log, in this process or an earlier one.
#include <gtest/gtest.h>

#include "src/wal/live_reader.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::LogTest;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

class LogRemoved : public LogTest {
 protected:
  // Releases everything that it appends, so that the log is recycled.
  static Task<void> AppendMuch(Reactor* reactor, Stream* stream, int units) {
    for (int i = 0; i < units; ++i) {
      stream->Append(5000);
      co_await stream->UntilDurable(*reactor, stream->last());
      stream->SetCommit(stream->last());
      stream->Release(stream->last());
    }
  }
};

Task<void> ReadToTheEnd(LiveReader* reader, Status* end) {
  std::string out;
  for (;;) {
    Result<LiveReader::Units> read = co_await reader->Read(1u << 20, &out);
    if (!read.ok()) {
      *end = read.TakeStatus();
      co_return;
    }
    if (read->count == 0) co_await reader->UntilMore();
  }
}

TEST_F(LogRemoved, WhatIsOnItsWayIsWaitedFor) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stays(&log, PartitionUuid(0)), leaves(&log, PartitionUuid(1));
      auto reader = log.OpenReader(leaves.handle(), {}, 0);
      EXPECT_TRUE(reader.ok());
      Status end;
      TaskGroup tasks;
      tasks.Spawn(ReadToTheEnd(reader->get(), &end));
      for (int i = 0; i < 30; ++i) {
        leaves.Append(9000);
        stays.Append(9000);
      }
      EXPECT_LT(leaves.durable(), leaves.last());
      co_await log.UntilAnnounced(leaves.handle());
      EXPECT_EQ(leaves.durable(), leaves.last());
      log.RemoveStream(leaves.handle());
      co_await tasks.Drain();
      EXPECT_EQ(end.code(), Code::kUnavailable) << end.ToString();
      EXPECT_EQ(log.RemovedPartitions(), std::vector<Uuid>{PartitionUuid(1)});
      co_await stays.UntilDurable(reactor, stays.last());
      co_await log.UntilAnnounced(stays.handle());  // at once
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

Task<void> WaitForRoom(Log* log, LogStream* stream, Status* status) {
  *status = (co_await log->WaitForSpace(stream, 1000, /*deadline_ns=*/0)).status();
}

// A stream that ends is announced only as far as it is on its way to the disk. It keeps nothing back and
// nobody waiting.
TEST_F(LogRemoved, OneThatEndsHoldsUpNobody) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      auto stays = std::make_unique<Stream>(&log, PartitionUuid(0));
      auto leaves = std::make_unique<Stream>(&log, PartitionUuid(1));
      leaves->Append();
      co_await leaves->UntilDurable(reactor, 1);
      for (int i = 0; log.HasSpace(1000); ++i) leaves->Append(5000);
      Status of_leaves, of_stays;
      TaskGroup tasks;
      tasks.Spawn(WaitForRoom(&log, leaves->handle(), &of_leaves));
      tasks.Spawn(WaitForRoom(&log, stays->handle(), &of_stays));
      co_await Sleep(reactor, 10 * kMillisecond);
      EXPECT_EQ(tasks.running(), 2u);
      leaves->Append(5000);
      const Lsn on_its_way = leaves->last();
      co_await Yield(reactor);  // it is in a batch
      leaves->Append(5000);     // this is not
      stays->Append();
      log.EndStream(leaves->handle(), Error(Code::kAborted, "it leaves"));
      log.CheckInvariants();
      EXPECT_TRUE(log.OldestPinnedStream().IsNil());
      co_await log.UntilAnnounced(leaves->handle());
      EXPECT_EQ(leaves->durable(), on_its_way);
      co_await tasks.Drain();
      EXPECT_EQ(of_leaves.code(), Code::kAborted) << of_leaves.ToString();
      EXPECT_TRUE(of_stays.ok()) << of_stays.ToString();
      co_await stays->UntilDurable(reactor, 1);
      EXPECT_EQ(log.stats().unreleased_records, 1u);
      log.RemoveStream(leaves->handle());
      log.CheckInvariants();
    }
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 200'000;
  EXPECT_TRUE(Use(options, Body()).ok());
}

TEST_F(LogRemoved, OneIsGoneOnceItsSegmentsAre) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stays(&log, PartitionUuid(0)), leaves(&log, PartitionUuid(1));
      co_await AppendMuch(&reactor, &leaves, 3);
      log.RemoveStream(leaves.handle());
      const uint64_t segment = PositionSegment(log.written_end());
      int rounds = 0;
      for (; !log.RemovedPartitions().empty() && rounds < 1000; ++rounds) {
        // A segment with this number, or with a lower one, must still be there.
        bool found = false;
        for (uint64_t n = 1; n <= segment; ++n) found |= machine->disk().Exists("/wal/" + SegmentFileName(n));
        found |= machine->disk().Exists("/wal/preparing.tmp");
        EXPECT_TRUE(found || rounds > 0);
        co_await AppendMuch(&reactor, &stays, 1);
      }
      EXPECT_GT(rounds, 5);
      EXPECT_LT(rounds, 1000);
      for (uint64_t n = 1; n <= segment; ++n) EXPECT_FALSE(machine->disk().Exists("/wal/" + SegmentFileName(n)));
    }
    SimMachine* machine;
  };
  EXPECT_TRUE(Use(SmallLog(), Body{machine_}).ok());
}

// A partition is dropped, and later held again under the same UUID, with another history.
TEST_F(LogRemoved, WhatLiesBeforeTheDropMeansNothing) {
  struct First {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stays(&log, PartitionUuid(0)), other(&log, PartitionUuid(2));
      {
        Stream leaves(&log, PartitionUuid(1));
        for (int i = 0; i < 9; ++i) leaves.Append();
        co_await leaves.UntilDurable(reactor, 9);
        leaves.SetCommit(9);
        co_await log.UntilAnnounced(leaves.handle());
        log.RemoveStream(leaves.handle());
      }
      *until = log.written_end();
      Stream again(&log, PartitionUuid(1), /*next_lsn=*/5, /*epoch=*/1, /*chain=*/77);
      again.Append();
      stays.Append();
      co_await again.UntilDurable(reactor, 5);
      again.SetCommit(5);
      co_await stays.UntilDurable(reactor, 1);
      other.Append();
      co_await other.UntilDurable(reactor, 1);
      co_await log.UntilAnnounced(other.handle());
      log.RemoveStream(other.handle());
    }
    LogPosition* until;
  };
  struct Second {
    Task<void> operator()(Reactor&, Log& log, Recovered& recovered) {
      EXPECT_TRUE(recovered.broken.empty());
      EXPECT_EQ(recovered.partitions[PartitionUuid(1)].units, (std::vector<Lsn>{5}));
      EXPECT_EQ(recovered.marks[PartitionUuid(1)].commit_lsn, 5u);
      EXPECT_EQ(recovered.last(PartitionUuid(0)), 1u);
      EXPECT_FALSE(recovered.partitions.contains(PartitionUuid(2)));
      EXPECT_FALSE(recovered.marks.contains(PartitionUuid(2)));
      std::vector<Uuid> removed{PartitionUuid(1), PartitionUuid(2)};
      EXPECT_EQ(log.RemovedPartitions(), removed);
      co_return;
    }
  };
  LogPosition until = 0;
  EXPECT_TRUE(Use(SmallLog(), First{&until}).ok());
  Reboot(true);
  LogOptions options = SmallLog();
  options.dropped = {{PartitionUuid(1), until}, {PartitionUuid(2), ~LogPosition{0}}};
  EXPECT_TRUE(Use(options, Second()).ok());
}

// The segment that the position lies in is lost, and with it the log.
TEST_F(LogRemoved, ALostLogGoesOnAfterThePosition) {
  struct First {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stream(&log, PartitionUuid(1));
      for (int i = 0; i < 9; ++i) stream.Append();
      co_await stream.UntilDurable(reactor, 9);
      *until = log.written_end();
    }
    LogPosition* until;
  };
  struct Second {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      EXPECT_GT(log.written_end(), until) << "L13";
      Stream again(&log, PartitionUuid(1), /*next_lsn=*/5, /*epoch=*/1, /*chain=*/77);
      again.Append();
      co_await again.UntilDurable(reactor, 5);
    }
    LogPosition until;
  };
  struct Third {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_EQ(recovered.partitions[PartitionUuid(1)].units, (std::vector<Lsn>{5}));
      co_return;
    }
  };
  LogPosition until = 0;
  EXPECT_TRUE(Use(SmallLog(), First{&until}).ok());
  EXPECT_GT(PositionOffset(until), 0u);
  LogOptions options = SmallLog();
  Reboot(true);
  machine_->disk().RemoveTree(options.directory);
  options.dropped = {{PartitionUuid(1), until}};
  EXPECT_TRUE(Use(options, Second{until}).ok());
  Reboot(true);
  EXPECT_TRUE(Use(options, Third()).ok());
}

TEST_F(LogRemoved, UnitsThatWereKeptAreForgotten) {
  struct First {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream leaves(&log, PartitionUuid(1));
      leaves.Append();
      co_await leaves.UntilDurable(reactor, 1);
    }
  };
  struct Second {
    Task<void> operator()(Reactor&, Log& log, Recovered&) {
      log.KeepUnits(PartitionUuid(1));
      log.ReleaseUnknownStreams();
      EXPECT_EQ(log.OldestPinnedStream(), PartitionUuid(1));
      log.ForgetUnits(PartitionUuid(1));
      log.ForgetUnits(PartitionUuid(1));  // nothing is left
      EXPECT_TRUE(log.OldestPinnedStream().IsNil());
      EXPECT_EQ(log.RemovedPartitions().size(), 1u);
      co_return;
    }
  };
  EXPECT_TRUE(Use(SmallLog(), First()).ok());
  EXPECT_TRUE(Use(SmallLog(), Second()).ok());
}

}  // namespace
}  // namespace pando
