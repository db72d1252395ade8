// Several streams that share a Log and take turns, and the segments of the log when space runs out.
#include "src/wal/log.h"

#include <gtest/gtest.h>

#include "src/wal/log_impl.h"
#include "src/wal/log_reader.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::kNode;
using log_test::LogTest;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

class LogSharing : public LogTest {};

// -- several streams

// Keeps `units` units of 16 KiB waiting in the log at all times.
struct HotStream {
  HotStream(Log* log, uint64_t partition, int units) : stream(log, PartitionUuid(partition)) {
    stream.on_durable = [this](Lsn up_to) {
      while (running && stream.last() < up_to + static_cast<Lsn>(waiting)) stream.Append(16u << 10);
      stream.Release(up_to);
    };
    waiting = units;
    for (int i = 0; i < units; ++i) stream.Append(16u << 10);
  }
  Stream stream;
  int waiting = 0;
  bool running = true;
};

struct ColdBesideHot {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    std::vector<std::unique_ptr<HotStream>> hot;
    for (uint64_t i = 0; i < hot_streams; ++i) hot.push_back(std::make_unique<HotStream>(&log, i, 48));
    Stream cold(&log, PartitionUuid(1000));
    co_await Sleep(reactor, 20 * kMillisecond);
    for (int round = 0; round < 5; ++round) {
      const uint64_t before = log.stats().device_writes_total;
      cold.Append(100);
      for (int i = 0; i < 10'000 && cold.durable() < cold.last(); ++i) co_await Sleep(reactor, 100 * kMicrosecond);
      // The writes that were in flight, and the group that holds the record.
      EXPECT_LE(log.stats().device_writes_total - before, kMaxWritesInFlight + 1);
      EXPECT_EQ(cold.durable(), cold.last()) << "starved";
      cold.Release(cold.durable());
    }
    Lsn least = ~Lsn{0}, most = 0;
    for (auto& h : hot) {
      h->running = false;
      least = std::min(least, h->stream.durable());
      most = std::max(most, h->stream.durable());
    }
    EXPECT_LE(most - least, 8u) << "busy streams must get equal shares";
    for (auto& h : hot) co_await h->stream.UntilDurable(reactor, h->stream.last());
  }
  uint64_t hot_streams;
};

// L7: a record goes out soon, however much other streams have waiting, and these get equal shares.
TEST_F(LogSharing, HotStreamsDoNotHoldUpTheOthers) {
  kernel_.options().disk_min_ns = kernel_.options().disk_max_ns = kMillisecond;
  LogOptions options = SmallLog();
  options.segment_bytes = 4u << 20;
  options.budget_bytes = 256u << 20;
  options.max_batch_bytes = 128u << 10;
  for (uint64_t hot : {1, 3, 10}) {
    SCOPED_TRACE(hot);
    EXPECT_TRUE(Use(options, ColdBesideHot{hot}).ok());
    Reboot(true);
    machine_->disk() = SimDisk();
  }
}

TEST_F(LogSharing, ALargeUnitIsNotHeldUpBySmallOnes) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      HotStream hot(&log, 0, 64);
      Stream cold(&log, PartitionUuid(1));
      co_await Sleep(reactor, 20 * kMillisecond);
      const Lsn hot_before = hot.stream.durable();
      cold.Append(512u << 10);  // as many bytes as four groups hold
      co_await cold.UntilDurable(reactor, 1);
      // At most as many bytes of the hot stream before it, plus the writes in flight.
      EXPECT_LE(hot.stream.durable() - hot_before, 2 * 32u + 8 * kMaxWritesInFlight);
      hot.running = false;
      co_await hot.stream.UntilDurable(reactor, hot.stream.last());
    }
  };
  kernel_.options().disk_min_ns = kernel_.options().disk_max_ns = kMillisecond;
  LogOptions options = SmallLog();
  options.segment_bytes = 4u << 20;
  options.budget_bytes = 256u << 20;
  options.max_batch_bytes = 128u << 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// Writers that wait for space before each append, as partitions do.
struct Admission {
  Task<void> Writer(Reactor* reactor, Log* log, Stream* stream, size_t bytes) {
    while (running) {
      {
        Result<LogSpace> space = co_await log->WaitForSpace(stream->handle(), bytes, /*deadline_ns=*/0);
        EXPECT_TRUE(space.ok()) << space.status().ToString();
        stream->Append(bytes);
      }
      co_await stream->UntilDurable(*reactor, stream->last());
    }
  }
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream hot(&log, PartitionUuid(0)), cold(&log, PartitionUuid(1));
    hot.on_durable = [&hot](Lsn up_to) { hot.Release(up_to); };
    TaskGroup writers;
    // They want 12 MiB, but only 8 MiB may be staged.
    for (int i = 0; i < 200; ++i) writers.Spawn(Writer(&reactor, &log, &hot, 64u << 10));
    co_await Sleep(reactor, 50 * kMillisecond);
    EXPECT_FALSE(log.HasSpace(100));
    for (int round = 0; round < 5; ++round) {
      const uint64_t before = log.stats().device_writes_total;
      {
        Result<LogSpace> space = co_await log.WaitForSpace(cold.handle(), 100, /*deadline_ns=*/0);
        EXPECT_TRUE(space.ok());
        cold.Append(100);
      }
      co_await cold.UntilDurable(reactor, cold.last());
      EXPECT_LE(log.stats().device_writes_total - before, 2 * kMaxWritesInFlight);
    }
    running = false;
    co_await writers.Drain();
  }
  bool running = true;
};

TEST_F(LogSharing, AdmissionTakesTurnsToo) {
  kernel_.options().disk_min_ns = kernel_.options().disk_max_ns = kMillisecond;
  LogOptions options = SmallLog();
  options.segment_bytes = 4u << 20;
  options.budget_bytes = 256u << 20;
  options.max_batch_bytes = 128u << 10;
  EXPECT_TRUE(Use(options, Admission()).ok());
}

struct GivesUpItsSpace {
  static Task<void> Waiter(Log* log, Stream* stream, bool append, int* admitted) {
    Result<LogSpace> space = co_await log->WaitForSpace(stream->handle(), 30'000, /*deadline_ns=*/0);
    EXPECT_TRUE(space.ok()) << space.status().ToString();
    ++*admitted;
    if (append) stream->Append(30'000);
  }
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
    while (log.HasSpace(30'000)) {
      int ignored = 0;
      co_await Waiter(&log, &a, true, &ignored);
      co_await a.UntilDurable(reactor, a.last());
    }
    int admitted = 0;
    TaskGroup tasks;
    for (int i = 0; i < 10; ++i) tasks.Spawn(Waiter(&log, i % 2 == 0 ? &a : &b, /*append=*/i == 9, &admitted));
    co_await Sleep(reactor, kSecond);
    EXPECT_EQ(admitted, 0);
    a.Release(a.durable());  // space for a few; nothing else is ever released
    co_await Sleep(reactor, kSecond);
    EXPECT_EQ(admitted, 10) << "a writer that was admitted but appended nothing kept the others waiting";
    co_await tasks.Drain();
    co_await b.UntilDurable(reactor, b.last());
  }
};

TEST_F(LogSharing, SpaceThatIsNotUsedIsPassedOn) {
  LogOptions options = SmallLog();
  options.budget_bytes = 100'000;
  EXPECT_TRUE(Use(options, GivesUpItsSpace()).ok());
}

TEST_F(LogSharing, WhatIsGrantedCountsUntilItIsStaged) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      std::vector<LogSpace> held;
      while (log.HasSpace(10'000)) {
        Result<LogSpace> space = co_await log.WaitForSpace(a.handle(), 10'000, /*deadline_ns=*/0);
        held.push_back(*std::move(space));
      }
      EXPECT_LE(held.size(), 10u);
      EXPECT_GE(held.size(), 8u);
      const Nanos begin = reactor.NowNs();
      Result<LogSpace> late = co_await log.WaitForSpace(a.handle(), 10'000, begin + 5 * kMillisecond);
      EXPECT_EQ(late.code(), Code::kDeadline);
      EXPECT_GE(reactor.NowNs() - begin, 5 * kMillisecond);
      held.pop_back();
      EXPECT_TRUE(log.HasSpace(10'000));
    }
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 100'000;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// -- segments

Task<Status> ReadLog(Reactor* reactor, LogPosition* end, LogPosition* records_end, LogPosition* durable) {
  LogReader::Options options;
  options.directory = "/wal";
  options.node = kNode;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(*reactor, std::move(options)));
  LogEntry entry;
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
    if (!more) break;
    *durable = entry.header.durable_position;
  }
  *end = reader->end();
  *records_end = reader->records_end();
  co_return Status();
}

// W4: fills the segment with groups of one block each, on a disk without space for another segment
// beside the one that is kept for recovery.
TEST_F(LogSharing, TheClosingPositionNeedsNoOtherSegment) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      for (int i = 0; i < records; ++i) {
        a.Append(3000);
        co_await a.UntilDurable(reactor, a.last());
      }
      if (idle) co_await Sleep(reactor, kSecond);
    }
    int records;
    bool idle;
  };
  for (bool idle : {true, false}) {
    SCOPED_TRACE(idle);
    SimReactor& reactor = Boot();
    machine_->disk().SetCapacity(machine_->disk().used_bytes() + (144u << 10));
    EXPECT_TRUE(Use(SmallLog(), Body{(64 - 4 - 4 - 4) / 4, idle}).ok());
    LogPosition end = 0, records_end = 0, durable = 0;
    Status read = *kernel_.RunTask(reactor, ReadLog(&reactor, &end, &records_end, &durable));
    EXPECT_TRUE(read.ok()) << read.ToString();
    EXPECT_EQ(PositionSegment(records_end), 1u);
    EXPECT_EQ(durable, records_end)
        << "the closing position does not cover the last records, so their loss would look like a torn tail";
    EXPECT_GT(end, records_end);
    Reboot(true);
    machine_->disk() = SimDisk();
  }
}

// W3: while a released segment cannot leave the log, no later one leaves it. Otherwise recovery
// would find a hole (W2).
TEST_F(LogSharing, ARecycleThatFindsNoSpaceIsTriedAgainAndLeavesNoHole) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      for (int i = 0; i < 200; ++i) {
        if (i == 30) machine->AddFault(fault);
        a.Append(3000);
        co_await a.UntilDurable(reactor, a.last());
        if (i >= 60) a.Release(a.last() - 50);
      }
      EXPECT_TRUE(a.failure().ok()) << a.failure().ToString();
      *last = a.last();
    }
    SimMachine* machine;
    DiskFault fault;
    Lsn* last;
  };
  struct Check {
    Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
      EXPECT_EQ(recovered.last(PartitionUuid(0)), last);
      EXPECT_LE(recovered.partitions[PartitionUuid(0)].first, last - 49);
      co_return;
    }
    Lsn last;
  };
  struct Case {
    IoOp::Kind kind;
    const char* path;
    uint64_t skip;
    uint64_t count;
  };
  const Case cases[] = {
      {IoOp::Kind::kRename, "/wal/segment-", 0, 1},       // away from its old name
      {IoOp::Kind::kRename, "/wal/segment-", 1, 1},       // the second rename
      {IoOp::Kind::kRename, "/wal/segment-", 0, 3},       // several times in a row
      {IoOp::Kind::kRename, "/wal/preparing.tmp", 0, 2},  // to its new name
      {IoOp::Kind::kOpen, "/wal/preparing.tmp", 0, 2},
      {IoOp::Kind::kOpen, "/wal/segment-", 0, 2},  // under its new name
      {IoOp::Kind::kWrite, "/wal/preparing.tmp", 0, 2},
      {IoOp::Kind::kUnlink, "/wal/segment-", 0, 2},
  };
  for (const Case& c : cases) {
    for (bool small_budget : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", static_cast<int>(c.kind), c.path, c.skip, small_budget));
      DiskFault fault;
      fault.kind = c.kind;
      fault.path_contains = c.path;
      fault.skip = c.skip;
      fault.count = c.count;
      fault.error_number = 28;  // ENOSPC
      Boot();
      const uint64_t struck = machine_->faults_struck();
      LogOptions options = SmallLog();
      if (small_budget) options.budget_bytes = 4 * options.segment_bytes;
      Lsn last = 0;
      EXPECT_TRUE(Use(options, Body{machine_, fault, &last}).ok());
      // With a small budget, released segments are removed rather than recycled.
      const bool of_released = c.kind == IoOp::Kind::kRename && std::string_view(c.path) == "/wal/segment-";
      const bool strikes = c.kind == IoOp::Kind::kUnlink ? small_budget : !of_released || !small_budget;
      EXPECT_EQ(machine_->faults_struck() - struck, strikes ? c.count : 0);
      machine_->ClearFaults();
      Reboot(true);
      EXPECT_TRUE(Use(options, Check{last}).ok());
      Reboot(true);
      machine_->disk() = SimDisk();
    }
  }
}

TEST_F(LogSharing, AFailedSyncOfTheDirectoryIsNotTriedAgain) {
  for (int error_number : {5, 28}) {  // EIO, ENOSPC
    DiskFault fault;
    fault.kind = IoOp::Kind::kSync;
    fault.path_contains = "/wal";
    fault.error_number = error_number;
    fault.skip = 1000;
    struct Body {
      Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
        Stream a(&log, PartitionUuid(0));
        a.Append(3000);
        co_await a.UntilDurable(reactor, 1);
        fault.skip = 0;
        machine->AddFault(fault);
        for (int i = 0; i < 200 && a.failure().ok(); ++i) {
          a.Append(3000);
          co_await a.UntilDurable(reactor, a.last());
          a.Release(a.durable());
        }
        EXPECT_EQ(a.failure().code(), Code::kIoError) << a.failure().ToString();
      }
      SimMachine* machine;
      DiskFault fault;
    };
    Boot();
    EXPECT_EQ(Use(SmallLog(), Body{machine_, fault}).code(), Code::kIoError);
    machine_->ClearFaults();
    Reboot(true);
    machine_->disk() = SimDisk();
  }
}

}  // namespace
}  // namespace pando
