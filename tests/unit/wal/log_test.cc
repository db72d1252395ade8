// The Log on the simulated kernel: group commit, announcements, budgets, recycling and failures.
#include "src/wal/log.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "src/wal/log_impl.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::LogTest;
using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

size_t CountFiles(SimMachine* machine) { return machine->disk().AllFiles().size(); }

// -- recovery of appended records

struct AppendToThree {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
    EXPECT_TRUE(recovered.partitions.empty());
    std::vector<std::unique_ptr<Stream>> streams;
    for (uint64_t p = 0; p < 3; ++p) streams.push_back(std::make_unique<Stream>(&log, PartitionUuid(p), 1, 4));
    for (size_t i = 0; i < 30; ++i) {
      Stream& stream = *streams[i % 3];
      stream.SetCommit(stream.durable());
      const Lsn last = stream.Append({i * 10, 0, i * 100});
      if (i % 4 == 0) co_await stream.UntilDurable(reactor, last);
    }
    for (auto& stream : streams) co_await stream->UntilDurable(reactor, stream->last());
  }
};
struct Expect30Each {
  Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
    EXPECT_EQ(recovered.partitions.size(), 3u);
    for (uint64_t p = 0; p < 3; ++p) {
      const Recovered::Partition& found = recovered.partitions[PartitionUuid(p)];
      EXPECT_EQ(found.first, 1u);
      EXPECT_EQ(found.last, 30u);
      EXPECT_EQ(found.epoch, 4u);
      EXPECT_GT(found.commit, 0u);
      EXPECT_LE(found.commit, 30u);
    }
    co_return;
  }
};

TEST_F(LogTest, WhatIsAppendedIsRecovered) {
  EXPECT_TRUE(Use(SmallLog(), AppendToThree()).ok());
  EXPECT_TRUE(Use(SmallLog(), Expect30Each()).ok());
  Reboot(true);
  EXPECT_TRUE(Use(SmallLog(), Expect30Each()).ok());
  EXPECT_TRUE(Use(SmallLog(), Expect30Each()).ok());
}

TEST_F(LogTest, WriteThenSyncRecoversTheSame) {
  LogOptions options = SmallLog();
  options.sync_mode = LogOptions::SyncMode::kWriteThenSync;
  EXPECT_TRUE(Use(options, AppendToThree()).ok());
  Reboot(true);
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
}

TEST_F(LogTest, TheProbeLeavesAUsableLog) {
  LogOptions options = SmallLog();
  options.segment_bytes = 1u << 20;
  options.sync_mode = LogOptions::SyncMode::kProbe;
  EXPECT_TRUE(Use(options, AppendToThree()).ok());
  Reboot(true);
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
}

TEST_F(LogTest, ReadOnlyChangesNothing) {
  EXPECT_TRUE(Use(SmallLog(), AppendToThree()).ok());
  auto contents = [&] {
    std::map<std::string, std::string> all;
    for (const std::string& path : machine_->disk().AllFiles()) all[path] = machine_->disk().ReadAll(path);
    return all;
  };
  const auto before = contents();
  LogOptions options = SmallLog();
  options.read_only = true;
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
  EXPECT_EQ(before, contents());
}

TEST_F(LogTest, StreamsGoOnAfterARestart) {
  struct First {
    Task<void> operator()(Reactor&, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      for (int i = 0; i < 5; ++i) a.Append(), b.Append();
      co_await a.UntilDurable(*reactor, 5);
      co_await b.UntilDurable(*reactor, 5);
    }
    Reactor* reactor;
  };
  struct Second {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      EXPECT_EQ(recovered.last(PartitionUuid(0)), 5u);
      // The owner of b has lost its last two records.
      Stream a(&log, PartitionUuid(0), 6, 1, recovered.chain(PartitionUuid(0))), b(&log, PartitionUuid(1), 4);
      a.Append(), b.Append();
      co_await a.UntilDurable(reactor, 6);
      co_await b.UntilDurable(reactor, 4);
    }
  };
  SimReactor& reactor = Boot();
  EXPECT_TRUE(Use(SmallLog(), First{&reactor}).ok());
  EXPECT_TRUE(Use(SmallLog(), Second()).ok());
  Recovered recovered;
  Status status;
  auto log = kernel_.RunTask(reactor, OpenLog(reactor, SmallLog(), &recovered, &status));
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(recovered.last(PartitionUuid(0)), 6u);
  EXPECT_EQ(recovered.last(PartitionUuid(1)), 4u);
  EXPECT_EQ(recovered.bad, "LSN 4 follows 5");
  EXPECT_TRUE(kernel_.RunTask(reactor, (*log)->Close())->ok());
}

// -- group commit

TEST_F(LogTest, AppendsDuringAWriteShareTheNext) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      std::vector<std::unique_ptr<Stream>> streams;
      for (uint64_t p = 0; p < 10; ++p) streams.push_back(std::make_unique<Stream>(&log, PartitionUuid(p)));
      streams[0]->Append();
      while (log.stats().device_writes_total == 0) co_await Yield(reactor);
      for (size_t i = 0; i < 50; ++i) {
        streams[i % 10]->Append(100);
        if (i % 7 == 0) co_await Yield(reactor);  // spreads the appends over several turns
      }
      EXPECT_EQ(streams[0]->durable(), 0u) << "the first write should still be in flight";
      EXPECT_EQ(log.stats().device_writes_total, 1u);
      for (auto& stream : streams) co_await stream->UntilDurable(reactor, stream->last());
      EXPECT_EQ(log.stats().device_writes_total, 2u);
      EXPECT_EQ(log.stats().appended_records_total, 51u);
    }
  };
  kernel_.options().disk_min_ns = kernel_.options().disk_max_ns = kMillisecond;
  LogOptions options = SmallLog();
  options.segment_bytes = 1u << 20;
  options.max_batch_bytes = 512u << 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

TEST_F(LogTest, AppendsOfOneTurnShareAWrite) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      for (int i = 0; i < 20; ++i) a.Append(), b.Append();
      co_await a.UntilDurable(reactor, 20);
      EXPECT_EQ(b.durable(), 20u);
      EXPECT_EQ(log.stats().device_writes_total, 1u);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

TEST_F(LogTest, DurabilityIsAnnouncedInOrderWhateverCompletesFirst) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      // Every append is its own group. Several are in flight together and complete in any order.
      std::vector<std::unique_ptr<Stream>> streams;
      std::vector<uint64_t> announced;
      for (uint64_t p = 0; p < 200; ++p) {
        streams.push_back(std::make_unique<Stream>(&log, PartitionUuid(p)));
        streams.back()->on_durable = [&announced, p](Lsn) { announced.push_back(p); };
        streams.back()->Append(20000);
        most_in_flight = std::max(most_in_flight, log.stats().device_writes_total - announced.size());
        if (p % 8 == 7) co_await Yield(reactor);
      }
      for (auto& stream : streams) co_await stream->UntilDurable(reactor, 1);
      EXPECT_EQ(announced.size(), 200u);
      EXPECT_TRUE(std::is_sorted(announced.begin(), announced.end()));
      EXPECT_EQ(log.stats().device_writes_total, 200u);
      EXPECT_EQ(most_in_flight, kMaxWritesInFlight) << "the test needs several writes in flight";
      co_return;
    }
    uint64_t most_in_flight = 0;
  };
  kernel_.options().disk_max_ns = 5 * kMillisecond;
  LogOptions options = SmallLog();
  options.segment_bytes = 8u << 20;
  options.budget_bytes = 64u << 20;
  EXPECT_TRUE(Use(options, Body()).ok());
}

TEST_F(LogTest, ALargeBatchIsWrittenWhole) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      Stream a(&log, PartitionUuid(0), recovered.last(PartitionUuid(0)) + 1);
      a.Append(10);
      const Lsn last = a.Append({4u << 20, 5});
      a.Append(10);
      co_await a.UntilDurable(reactor, last + 1);
    }
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_EQ(recovered.partitions[PartitionUuid(0)].units.size(), 9u);
      EXPECT_EQ(recovered.last(PartitionUuid(0)), 12u);
      co_return;
    }
  };
  LogOptions options = SmallLog();
  options.segment_bytes = 8u << 20;
  options.budget_bytes = 64u << 20;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Use(options, Body()).ok());
  EXPECT_TRUE(Use(options, Check()).ok());
}

TEST_F(LogTest, AnIdleLogWritesOneClosingPosition) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      co_await Sleep(reactor, kSecond);
      EXPECT_EQ(log.stats().device_writes_total, 0u) << "nothing to close";
      Stream a(&log, PartitionUuid(0));
      for (uint64_t round = 1; round <= 3; ++round) {
        a.Append();
        co_await a.UntilDurable(reactor, a.last());
        EXPECT_EQ(log.stats().device_writes_total, 2 * round - 1);
        co_await Sleep(reactor, kSecond);
        EXPECT_EQ(log.stats().device_writes_total, 2 * round);
      }
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// -- budgets and release

struct WaitInLine {
  static Task<void> Waiter(Log* log, Stream* stream, int id, std::vector<int>* order) {
    Result<LogSpace> space = co_await log->WaitForSpace(stream->handle(), 3000, /*deadline_ns=*/0);
    EXPECT_TRUE(space.ok()) << space.status().ToString();
    order->push_back(id);
    stream->Append(3000);
  }
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0));
    while (log.HasSpace(3000)) {
      co_await Waiter(&log, &a, -1, &order);
      co_await a.UntilDurable(reactor, a.last());
    }
    const Lsn filled = a.last();
    EXPECT_GT(filled, 5u);
    EXPECT_EQ(log.OldestPinnedStream(), a.partition());
    order.clear();
    TaskGroup tasks;
    for (int i = 0; i < 5; ++i) tasks.Spawn(Waiter(&log, &a, i, &order));
    co_await Sleep(reactor, kSecond);
    EXPECT_TRUE(order.empty());
    EXPECT_EQ(log.stats().append_waits_total, 5u);
    a.Release(a.durable());
    EXPECT_TRUE(order.empty()) << "resumed inside Release";
    co_await tasks.Drain();
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
    co_await a.UntilDurable(reactor, a.last());
    a.Release(a.durable());
    EXPECT_EQ(log.stats().unreleased_bytes, 0u);
    EXPECT_EQ(log.stats().unreleased_records, 0u);
    EXPECT_TRUE(log.OldestPinnedStream().IsNil());
  }
  std::vector<int> order;
};

TEST_F(LogTest, AppendersWaitInLineForBytes) {
  LogOptions options = SmallLog();
  options.budget_bytes = 100u << 10;
  EXPECT_TRUE(Use(options, WaitInLine()).ok());
}

TEST_F(LogTest, AppendersWaitInLineForRecords) {
  LogOptions options = SmallLog();
  options.budget_records = 10;
  EXPECT_TRUE(Use(options, WaitInLine()).ok());
}

// A waiter that gives up lets those behind it pass. A writer that is admitted but does not append
// passes its space on.
TEST_F(LogTest, AWaiterThatGivesUpHoldsNobodyBack) {
  struct Body {
    static Task<void> Waiter(Log* log, Stream* stream, size_t bytes, Nanos deadline_ns, bool append,
                             std::vector<Code>* codes) {
      Result<LogSpace> space = co_await log->WaitForSpace(stream->handle(), bytes, deadline_ns);
      codes->push_back(space.code());
      if (space.ok() && append) stream->Append(bytes);
    }
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      while (log.HasSpace(3000)) {
        a.Append(3000);
        co_await a.UntilDurable(reactor, a.last());
      }
      std::vector<Code> late, in_time;
      TaskGroup tasks;
      tasks.Spawn(Waiter(&log, &a, 3000, reactor.NowNs() + kSecond, true, &late));
      tasks.Spawn(Waiter(&log, &a, 3000, 0, false, &in_time));
      tasks.Spawn(Waiter(&log, &a, 3000, reactor.NowNs() + 10 * kSecond, true, &in_time));
      co_await Sleep(reactor, 2 * kSecond);
      EXPECT_EQ(late, std::vector<Code>{Code::kDeadline});
      EXPECT_TRUE(in_time.empty());
      a.Release(a.durable());
      co_await tasks.Drain();
      EXPECT_EQ(in_time, (std::vector<Code>{Code::kOk, Code::kOk}));
      co_await a.UntilDurable(reactor, a.last());
    }
  };
  LogOptions options = SmallLog();
  options.budget_records = 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

TEST_F(LogTest, StagingIsBounded) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      uint64_t staged = 0;
      while (log.HasSpace(100'000)) {
        a.Append(100'000);
        staged += 100'000;
      }
      EXPECT_LE(staged, kMaxStagedBytes);
      EXPECT_GT(staged, kMaxStagedBytes / 2);
      {
        Result<LogSpace> space = co_await log.WaitForSpace(a.handle(), 100'000, /*deadline_ns=*/0);
        EXPECT_TRUE(space.ok());
      }
      EXPECT_GT(log.stats().device_writes_total, 0u);
      co_await a.UntilDurable(reactor, a.last());
    }
  };
  LogOptions options = SmallLog();
  options.segment_bytes = 1u << 20;
  options.budget_bytes = 64u << 20;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// L5: a segment that still holds an unreleased record is not recycled.
TEST_F(LogTest, SegmentsAreRecycledAndNothingNeededIsLost) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream hot(&log, PartitionUuid(0)), cold(&log, PartitionUuid(1));
      Lsn hot_kept = 0;
      for (int i = 0; i < 3000; ++i) {
        Result<LogSpace> space = co_await log.WaitForSpace(hot.handle(), 2000, /*deadline_ns=*/0);
        EXPECT_TRUE(space.ok());
        hot.Append(1500);
        if (i % 50 == 0) cold.Append(10);
        if (i % 3 == 0) co_await hot.UntilDurable(reactor, hot.last());
        if (i % 40 == 39) {
          hot_kept = std::max<Lsn>(hot.durable(), 60) - 50;
          hot.Release(hot_kept);
          if (cold.durable() > 2) cold.Release(cold.durable() - 2);
        }
        *most_files = std::max(*most_files, CountFiles(machine));
      }
      co_await hot.UntilDurable(reactor, hot.last());
      co_await cold.UntilDurable(reactor, cold.last());
      *kept = hot_kept;
      *last = hot.last();
    }
    SimMachine* machine;
    size_t* most_files;
    Lsn *kept, *last;
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 512u << 10;
  size_t most_files = 0;
  Lsn kept = 0, last = 0;
  Boot();
  EXPECT_TRUE(Use(options, Body{machine_, &most_files, &kept, &last}).ok());
  EXPECT_GE(last, 3000u);  // 4.5 MB were appended
  EXPECT_LE(most_files, 512u / 64 + 2);
  Reboot(true);
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_LE(recovered.partitions[PartitionUuid(0)].first, kept + 1);
      EXPECT_EQ(recovered.last(PartitionUuid(0)), last);
      EXPECT_LE(recovered.partitions[PartitionUuid(1)].first, 59u);
      EXPECT_EQ(recovered.last(PartitionUuid(1)), 60u);
      co_return;
    }
    Lsn kept, last;
  };
  EXPECT_TRUE(Use(options, Check{kept, last}).ok());
}

TEST_F(LogTest, RestartsDoNotGrowTheLog) {
  EXPECT_TRUE(Use(SmallLog(), AppendToThree()).ok());
  struct Nothing {
    Task<void> operator()(Reactor& reactor, Log&, Recovered&) { co_await Sleep(reactor, kSecond); }
  };
  EXPECT_TRUE(Use(SmallLog(), Nothing()).ok());
  const size_t files = CountFiles(machine_);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Use(SmallLog(), Nothing()).ok());
    if (i % 3 == 0) Reboot(i % 2 == 0);
  }
  EXPECT_LE(CountFiles(machine_), files + 1);
  EXPECT_TRUE(Use(SmallLog(), Expect30Each()).ok());
}

TEST_F(LogTest, UnknownStreamsPinUntilReleased) {
  EXPECT_TRUE(Use(SmallLog(), AppendToThree()).ok());
  struct Body {
    Task<void> operator()(Reactor&, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0), 31);
      EXPECT_EQ(log.stats().unreleased_records, 90u);
      EXPECT_FALSE(log.OldestPinnedStream().IsNil());
      a.Release(30);
      EXPECT_NE(log.OldestPinnedStream(), a.partition());
      EXPECT_GT(log.stats().unreleased_records, 0u);
      log.ReleaseUnknownStreams();
      EXPECT_TRUE(log.OldestPinnedStream().IsNil());
      EXPECT_EQ(log.stats().unreleased_records, 0u);
      EXPECT_EQ(log.stats().segments, 1u);
      // A partition that is registered later is pinned again.
      Stream b(&log, PartitionUuid(1), 31);
      b.Append();
      co_await b.UntilDurable(*reactor, 31);
      EXPECT_EQ(log.OldestPinnedStream(), b.partition());
    }
    Reactor* reactor;
  };
  SimReactor& reactor = *machine_->reactor();
  EXPECT_TRUE(Use(SmallLog(), Body{&reactor}).ok());
}

// -- failures

struct FailUnderLoad {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
    for (int i = 0; i < 40; ++i) {
      a.Append(5000);
      b.Append(5000);
      if (i == 10) machine->AddFault(fault);
      if (i % 4 == 0) co_await Sleep(reactor, 200 * kMicrosecond);
    }
    while (a.failure().ok()) co_await Sleep(reactor, kMillisecond);
    EXPECT_EQ(a.failure().code(), Code::kIoError) << a.failure().ToString();
    EXPECT_FALSE(b.failure().ok());
    EXPECT_LT(a.durable(), a.last());
    *announced = a.durable();
    EXPECT_FALSE(log.HasSpace(1));
    Result<LogSpace> refused = co_await log.WaitForSpace(a.handle(), 1, /*deadline_ns=*/0);
    EXPECT_EQ(refused.code(), Code::kUnavailable);
    a.Append();  // never written
    co_await Sleep(reactor, kSecond);
    EXPECT_EQ(a.durable(), *announced) << "announced after the failure";
  }
  SimMachine* machine;
  DiskFault fault;
  Lsn* announced;
};
struct ExpectAtLeast {
  Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
    EXPECT_GE(recovered.last(PartitionUuid(0)), announced);
    co_return;
  }
  Lsn announced;
};

// L4: a failed write is not tried again. Every stream is told, and nothing more is announced.
TEST_F(LogTest, AFailedWriteFailsTheLogForGood) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kWrite;
  fault.path_contains = "/wal/segment-";
  Lsn announced = 0;
  Boot();
  LogOptions options = SmallLog();
  options.segment_bytes = 1u << 20;
  EXPECT_EQ(Use(options, FailUnderLoad{machine_, fault, &announced}).code(), Code::kIoError);
  machine_->ClearFaults();
  Reboot(true);
  EXPECT_TRUE(Use(options, ExpectAtLeast{announced}).ok());
}

TEST_F(LogTest, AFailedSyncFailsTheLogForGood) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kSync;
  fault.path_contains = "/wal/segment-";
  Lsn announced = 0;
  Boot();
  LogOptions options = SmallLog();
  options.segment_bytes = 1u << 20;
  options.sync_mode = LogOptions::SyncMode::kWriteThenSync;
  EXPECT_EQ(Use(options, FailUnderLoad{machine_, fault, &announced}).code(), Code::kIoError);
  machine_->ClearFaults();
  Reboot(true);
  EXPECT_TRUE(Use(options, ExpectAtLeast{announced}).ok());
}

TEST_F(LogTest, FailingToMakeASegmentFailsTheLog) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kWrite;
  fault.path_contains = "preparing.tmp";
  fault.skip = 2;
  Lsn announced = 0;
  Boot();
  EXPECT_EQ(Use(SmallLog(), FailUnderLoad{machine_, fault, &announced}).code(), Code::kIoError);
  machine_->ClearFaults();
  Reboot(false);
  EXPECT_TRUE(Use(SmallLog(), ExpectAtLeast{announced}).ok());
}

// Writes until the log needs another segment, but the store has passed to another process.
struct WriteAStoreThatIsAnothers {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0));
    co_await Sleep(reactor, kSecond);  // the log has prepared its segments
    *names = *reactor.ListDirectory("/wal");
    *is_anothers = true;
    for (int i = 0; i < 1000 && a.failure().ok(); ++i) {
      a.Append(5000);
      co_await a.UntilDurable(reactor, a.last());
      a.Release(a.durable());
    }
    EXPECT_EQ(a.failure().code(), Code::kUnavailable) << a.failure().ToString();
  }
  bool* is_anothers;
  std::vector<std::string>* names;
};
// G3: once the store belongs to another process, no file of the log is created, renamed or removed.
TEST_F(LogTest, AStoreThatIsAnothersKeepsItsSegments) {
  bool is_anothers = false;
  std::vector<std::string> names;
  LogOptions options = SmallLog();
  options.may_change = [&is_anothers] {
    return is_anothers ? Error(Code::kUnavailable, "the store is another's") : Status();
  };
  EXPECT_EQ(Use(options, WriteAStoreThatIsAnothers{&is_anothers, &names}).code(), Code::kUnavailable);
  EXPECT_GT(names.size(), 1u);
  EXPECT_EQ(*machine_->reactor()->ListDirectory("/wal"), names);
}

TEST_F(LogTest, AFullDiskMakesWritersWaitUntilSegmentsAreReleased) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      // Appends 500 KB, on a disk with room for a third of it.
      for (int i = 0; i < 100; ++i) a.Append(5000);
      co_await Sleep(reactor, 5 * kSecond);
      EXPECT_TRUE(a.failure().ok()) << a.failure().ToString();
      EXPECT_LT(a.durable(), 100u);
      EXPECT_GT(a.durable(), 0u);
      Lsn last = 0;
      while (a.durable() < 100) {
        EXPECT_GT(a.durable(), last) << "the log must continue after everything is released";
        if (a.durable() == last) co_return;
        last = a.durable();
        a.Release(a.durable());
        co_await Sleep(reactor, 3 * kSecond);
      }
    }
  };
  Boot();
  machine_->disk().SetCapacity(machine_->disk().used_bytes() + (200u << 10));
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  machine_->disk().SetCapacity(1u << 30);
}

TEST_F(LogTest, ClosingOnAFullDiskSaysSo) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream* a = streams->emplace_back(std::make_unique<Stream>(&log, PartitionUuid(0))).get();
      for (int i = 0; i < 100; ++i) a->Append(5000);
      co_await Sleep(reactor, kMillisecond);
    }
    std::vector<std::unique_ptr<Stream>>* streams;
  };
  Boot();
  std::vector<std::unique_ptr<Stream>> streams;
  machine_->disk().SetCapacity(machine_->disk().used_bytes() + (200u << 10));
  EXPECT_EQ(Use(SmallLog(), Body{&streams}).code(), Code::kDiskFull);
  machine_->disk().SetCapacity(1u << 30);
  EXPECT_TRUE(Use(SmallLog(), ExpectAtLeast{streams[0]->durable()}).ok());
}

TEST_F(LogTest, OptionsThatCannotWorkAreRefused) {
  struct Body {
    Task<void> operator()(Reactor&, Log&, Recovered&) { co_return; }
  };
  LogOptions options = SmallLog();
  options.segment_bytes = 4096;
  EXPECT_EQ(Use(options, Body()).code(), Code::kInvalidArgument);
  options.segment_bytes = (64u << 10) + 1;
  EXPECT_EQ(Use(options, Body()).code(), Code::kInvalidArgument);
  options = SmallLog();
  options.max_batch_bytes = 100;
  EXPECT_EQ(Use(options, Body()).code(), Code::kInvalidArgument);
}

TEST_F(LogTest, AnotherSegmentSizeIsTakenUp) {
  EXPECT_TRUE(Use(SmallLog(), AppendToThree()).ok());
  LogOptions options = SmallLog();
  options.segment_bytes = 256u << 10;
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
  options.segment_bytes = 32u << 10;
  EXPECT_TRUE(Use(options, Expect30Each()).ok());
}

}  // namespace
}  // namespace pando
