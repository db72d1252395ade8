// LiveReader: what a follower of a partition reads from a log that is being written.
#include "src/wal/live_reader.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "src/wal/log_impl.h"
#include "tests/support/seeds.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::Body;
using log_test::LogTest;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

// Reads until there is nothing more for now, and checks that units continue each other and have the
// records that were appended.
class Follower {
 public:
  Follower(Log* log, const Stream& stream, const HistoryPoint& after = {}, uint64_t retention_bytes = 0)
      : partition_(stream.partition()), end_(after) {
    Result<std::unique_ptr<LiveReader>> reader = log->OpenReader(stream.handle(), after, retention_bytes);
    CHECK(reader.ok()) << reader.status().ToString();
    reader_ = *std::move(reader);
  }

  Task<Status> Follow(size_t max_bytes = 1u << 20) {
    for (;;) {
      std::string bytes;
      Result<LiveReader::Units> units = co_await reader_->Read(max_bytes, &bytes);
      if (!units.ok()) co_return units.TakeStatus();
      EXPECT_TRUE(units->needs_bytes == 0 || (units->count == 0 && units->needs_bytes > max_bytes));
      if (units->needs_bytes > 0) units = co_await reader_->Read(units->needs_bytes, &bytes);
      if (!units.ok()) co_return units.TakeStatus();
      EXPECT_EQ(Accept(bytes), units->count);
      if (units->count == 0) co_return Status();
    }
  }

  LiveReader& reader() { return *reader_; }
  Lsn last() const { return end_.lsn; }
  void Close() { reader_.reset(); }
  // (epoch, LSN) of the records read, of which later ones replace earlier ones.
  const std::map<Lsn, Epoch>& records() const { return records_; }

 private:
  size_t Accept(std::string_view bytes) {
    PayloadReader payload(bytes);
    size_t count = 0;
    for (; payload.Next() == PayloadReader::Item::kUnit; ++count) {
      const WriteUnit& unit = payload.unit;
      EXPECT_EQ(payload.partition, partition_);
      EXPECT_EQ(payload.flags, 0);
      EXPECT_EQ(unit.first_lsn, end_.lsn + 1);
      EXPECT_EQ(unit.chain_before, end_.chain);
      EXPECT_EQ(unit.chain_after, UnitChain(unit));
      EXPECT_GE(unit.epoch, end_.epoch);
      ByteReader reader(unit.records);
      for (Lsn lsn = unit.first_lsn; lsn <= unit.last_lsn(); ++lsn) {
        const std::string_view body = reader.LengthPrefixed();
        const size_t prefix = Body(partition_, unit.epoch, lsn, 0).size();
        EXPECT_EQ(body, Body(partition_, unit.epoch, lsn, body.size() - prefix));
        records_[lsn] = unit.epoch;
      }
      end_ = {unit.epoch, unit.last_lsn(), unit.chain_after};
    }
    EXPECT_EQ(payload.Next(), PayloadReader::Item::kEnd);
    EXPECT_EQ(reader_->position().lsn, end_.lsn);
    return count;
  }

  Uuid partition_;
  HistoryPoint end_;
  std::map<Lsn, Epoch> records_;
  std::unique_ptr<LiveReader> reader_;
};

Task<void> AppendAndRelease(Reactor& reactor, Stream& stream, int units, size_t filler) {
  for (int i = 0; i < units; ++i) {
    stream.Append(filler);
    co_await stream.UntilDurable(reactor, stream.last());
    stream.SetCommit(stream.last());
    stream.Release(stream.last());
  }
}

class LiveReaderTest : public LogTest {};

// Units are there as soon as they are submitted, from memory: no segment is read.
TEST_F(LiveReaderTest, WhoKeepsUpReadsFromMemory) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      Follower follower(&log, a);
      for (int i = 0; i < 200; ++i) {
        a.Append({10, 300});
        b.Append(200);
        co_await follower.reader().UntilMore();
        EXPECT_LT(a.durable(), a.last()) << "the unit comes while it is written";
        EXPECT_TRUE((co_await follower.Follow()).ok());
        EXPECT_EQ(follower.last(), a.last());
        co_await b.UntilDurable(reactor, b.last());
        co_await a.UntilDurable(reactor, a.last());
      }
      EXPECT_EQ(log.stats().reader_segments_read_total, 0u);
      EXPECT_EQ(log.stats().readers, 1u);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// One that lags reads the segments, each once for all partitions, and then goes on from memory.
TEST_F(LiveReaderTest, WhoLagsReadsSegments) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      for (int i = 0; i < 100; ++i) {
        a.Append(2000);
        b.Append({100, 1000});
        co_await a.UntilDurable(reactor, a.last());
      }
      co_await b.UntilDurable(reactor, b.last());
      const uint64_t segments = log.stats().segments;
      EXPECT_GT(segments, 4u);
      Follower fa(&log, a), fb(&log, b);
      while (fa.last() < a.last() || fb.last() < b.last()) {  // side by side
        CHECK((co_await fa.Follow(5000)).ok());
        CHECK((co_await fb.Follow(5000)).ok());
      }
      EXPECT_LE(log.stats().reader_segments_read_total, 2 * segments);
      const uint64_t read = log.stats().reader_segments_read_total;
      a.Append(40);
      co_await fa.reader().UntilMore();
      EXPECT_TRUE((co_await fa.Follow()).ok());
      EXPECT_EQ(fa.last(), a.last());
      EXPECT_EQ(log.stats().reader_segments_read_total, read);
      co_await a.UntilDurable(reactor, a.last());
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// A unit that is larger than what the caller has room for is announced, and nothing is read.
TEST_F(LiveReaderTest, ALargeUnitSaysWhatItNeeds) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      a.Append(10);
      a.Append(30'000);
      co_await a.UntilDurable(reactor, a.last());
      for (const bool from_memory : {false, true}) {
        Follower follower(&log, a);
        if (from_memory) {
          CHECK((co_await follower.Follow()).ok());
          a.Append(30'000);
          co_await follower.reader().UntilMore();
        }
        EXPECT_TRUE((co_await follower.Follow(1000)).ok());  // it asks again for what is needed
        EXPECT_EQ(follower.last(), a.last());
      }
      co_await a.UntilDurable(reactor, a.last());
    }
  };
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 256u << 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// LR2: released segments stay for a reader, up to its own limit, and writers do not notice.
TEST_F(LiveReaderTest, ReleasedSegmentsStayForAReader) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      const uint64_t kRetention = 6 * (64u << 10);
      Follower follower(&log, a, {}, kRetention), hurried(&log, a, {}, 0);
      co_await AppendAndRelease(reactor, a, 30, 5000);  // about four segments
      EXPECT_GE(log.stats().retained_bytes, 3 * (64u << 10));
      EXPECT_LE(log.stats().retained_bytes, kRetention);
      EXPECT_LE(log.stats().unreleased_bytes, 64u << 10);
      uint64_t retained = 0;
      for (const DurableSegment& s : log.DurableSegments()) retained += s.retained ? s.bytes : 0;
      EXPECT_EQ(retained, log.stats().retained_bytes);
      EXPECT_TRUE((co_await follower.Follow()).ok());
      EXPECT_EQ(follower.last(), a.last());
      EXPECT_EQ(log.stats().retained_bytes, 0u);
      // Too far behind.
      co_await AppendAndRelease(reactor, a, 200, 5000);
      EXPECT_LE(log.stats().retained_bytes, kRetention);
      const Status gone = co_await follower.Follow();
      EXPECT_EQ(gone.code(), Code::kNotFound) << gone.ToString();
      EXPECT_EQ((co_await hurried.Follow()).code(), Code::kNotFound);
      EXPECT_EQ(log.stats().readers_gone_total, 2u);
      EXPECT_EQ(log.stats().append_waits_total, 0u);
    }
  };
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 16u << 10;  // holds three of the units
  options.budget_bytes = 256u << 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// LR2: on a full disk, writers get the segments that were kept for a reader.
TEST_F(LiveReaderTest, AFullDiskEndsRetention) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      Follower follower(&log, a, {}, 64u << 20);
      co_await AppendAndRelease(reactor, a, 40, 5000);
      EXPECT_GE(log.stats().retained_bytes, 4 * (64u << 10));
      disk->SetCapacity(disk->used_bytes());
      co_await AppendAndRelease(reactor, a, 200, 5000);
      EXPECT_EQ(a.durable(), 240u);
      EXPECT_EQ(log.stats().append_waits_total, 0u);
      EXPECT_EQ((co_await follower.Follow()).code(), Code::kNotFound);
    }
    SimDisk* disk;
  };
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 16u << 10;
  const Status status = Use(options, Body{&machine_->disk()});
  EXPECT_TRUE(status.ok()) << status.ToString();
}

// Others that need room get it from the segments that are kept for readers, and only from those.
TEST_F(LiveReaderTest, RetainedSegmentsGoBackToTheFileSystem) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      EXPECT_FALSE(co_await log.GiveUpRetained());
      Follower follower(&log, a, {}, 64u << 20);
      co_await AppendAndRelease(reactor, a, 40, 5000);
      const HistoryPoint released{a.epoch(), a.last(), a.chain()};
      for (int i = 0; i < 20; ++i) a.Append(5000);
      co_await a.UntilDurable(reactor, a.last());
      const uint64_t retained = log.stats().retained_bytes, used = disk->used_bytes();
      EXPECT_GE(retained, 4 * (64u << 10));
      EXPECT_TRUE(co_await log.GiveUpRetained());
      EXPECT_LE(disk->used_bytes(), used - retained + (64u << 10)) << "one segment may have been prepared meanwhile";
      EXPECT_EQ(log.stats().retained_bytes, 0u);
      EXPECT_FALSE(co_await log.GiveUpRetained());
      log.CheckInvariants();
      Follower late(&log, a, released, 0);
      EXPECT_TRUE((co_await late.Follow()).ok());
      EXPECT_EQ(late.last(), a.last());
      EXPECT_EQ((co_await follower.Follow()).code(), Code::kNotFound);
      co_await AppendAndRelease(reactor, a, 40, 5000);
    }
    SimDisk* disk;
  };
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 16u << 10;
  const Status status = Use(options, Body{&machine_->disk()});
  EXPECT_TRUE(status.ok()) << status.ToString();
}

// Segments that are kept for whoever may come are still there after a restart.
TEST_F(LiveReaderTest, ReleasedSegmentsStayOverARestart) {
  LogOptions options = SmallLog();
  options.retained_bytes = 5 * options.segment_bytes;
  struct Before {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      co_await AppendAndRelease(reactor, a, 30, 5000);
      EXPECT_GT(log.stats().retained_bytes, 0u);
      *end = {a.epoch(), a.last(), a.chain()};
    }
    HistoryPoint* end;
  };
  struct After {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      Stream a(&log, PartitionUuid(0), end.lsn + 1, end.epoch, recovered.chain(PartitionUuid(0)));
      log.ReleaseUnknownStreams();
      Follower follower(&log, a);
      const Status status = co_await follower.Follow();
      EXPECT_TRUE(status.ok()) << status.ToString();
      EXPECT_EQ(follower.last(), end.lsn);
      co_await AppendAndRelease(reactor, a, 60, 5000);
      EXPECT_LE(log.stats().retained_bytes, limit);
      EXPECT_TRUE((co_await follower.Follow()).ok());
      EXPECT_EQ(follower.last(), a.last());
    }
    HistoryPoint end;
    uint64_t limit;
  };
  for (const bool power_loss : {false, true}) {
    options.directory = power_loss ? "/wal1" : "/wal0";
    HistoryPoint end;
    EXPECT_TRUE(Use(options, Before{&end}).ok());
    Reboot(power_loss);
    EXPECT_TRUE(Use(options, After{end, options.retained_bytes}).ok());
  }
}

// LR1: a reader that has returned units of which a higher epoch takes the place ends. Another one,
// opened where the histories part, has the new units only, from memory as from segments.
TEST_F(LiveReaderTest, SupersededUnitsAreNotRead) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      a.Append();
      a.Append();
      const HistoryPoint fork{a.epoch(), a.last(), a.chain()};
      Follower early(&log, a), at_fork(&log, a);
      a.Append();
      a.Append();
      co_await a.UntilDurable(reactor, 4);
      EXPECT_TRUE((co_await early.Follow()).ok());
      EXPECT_EQ(early.last(), 4u);
      co_await at_fork.reader().UntilMore();
      a.Supersede(2, /*epoch=*/7);
      const Status superseded = co_await early.Follow();
      EXPECT_EQ(superseded.code(), Code::kAborted) << superseded.ToString();
      co_await a.UntilDurable(reactor, 3);
      EXPECT_TRUE((co_await at_fork.Follow()).ok());
      EXPECT_EQ(at_fork.records(), (std::map<Lsn, Epoch>{{1, 1}, {2, 1}, {3, 7}}));
      at_fork.Close();
      early.Close();
      Follower later(&log, a, fork);  // from the segment
      EXPECT_TRUE((co_await later.Follow()).ok());
      EXPECT_EQ(later.records(), (std::map<Lsn, Epoch>{{3, 7}}));
      // A follower with another past.
      HistoryPoint strange = fork;
      strange.chain ^= 1;
      Follower other(&log, a, strange);
      EXPECT_EQ((co_await other.Follow()).code(), Code::kAborted);
      Follower longer(&log, a, {1, 9, 0});
      EXPECT_EQ((co_await longer.Follow()).code(), Code::kAborted);
      Follower same_end(&log, a, {7, a.last(), a.chain() ^ 1});
      EXPECT_EQ((co_await same_end.Follow()).code(), Code::kAborted);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// The tail of a partition that cannot commit is appended again; the first copies are recycled.
TEST_F(LiveReaderTest, UnitsThatWereAppendedAgainAreReadOnce) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream stuck(&log, PartitionUuid(0)), busy(&log, PartitionUuid(1));
      for (int i = 0; i < 5; ++i) stuck.Append(1000);
      co_await stuck.UntilDurable(reactor, 5);
      for (int round = 0; round < 4; ++round) {
        co_await AppendAndRelease(reactor, busy, 40, 5000);
        stuck.Append(1000);
        co_await stuck.UntilDurable(reactor, stuck.last());
        const size_t again = stuck.appended_again() + stuck.AppendAgain();
        while (stuck.appended_again() < again) co_await Sleep(reactor, kMillisecond);
        Follower all(&log, stuck), some(&log, stuck);
        EXPECT_TRUE((co_await all.Follow(3000)).ok());
        EXPECT_EQ(all.last(), stuck.last());
      }
      EXPECT_LE(log.stats().segments, 4u);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// What recovery does not need of a segment is still read, as long as the segment is there.
TEST_F(LiveReaderTest, ReleasedUnitsBeforeATailAreRead) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), busy(&log, PartitionUuid(1));
      for (int i = 0; i < 10; ++i) a.Append(1000);
      co_await a.UntilDurable(reactor, 10);
      a.SetCommit(5);
      a.Release(5);
      while (log.stats().segments < 2) {
        busy.Append(5000);
        co_await busy.UntilDurable(reactor, busy.last());
      }
      const size_t again = a.AppendAgain();
      EXPECT_EQ(again, 5u);
      while (a.appended_again() < again) co_await Sleep(reactor, kMillisecond);
      Follower follower(&log, a);
      const Status status = co_await follower.Follow();
      EXPECT_TRUE(status.ok()) << status.ToString();
      EXPECT_EQ(follower.last(), 10u);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
}

// Whoever waits for a partition that nobody writes can be ended, and keeps nothing from then on.
TEST_F(LiveReaderTest, AReaderIsStopped) {
  struct Body {
    static Task<void> Wait(Follower* follower, Status* status) {
      co_await follower->reader().UntilMore();
      *status = co_await follower->Follow();
    }
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream idle(&log, PartitionUuid(0)), busy(&log, PartitionUuid(1));
      Follower waiting(&log, idle), lagging(&log, busy, {}, 64u << 20);
      co_await AppendAndRelease(reactor, busy, 40, 5000);
      EXPECT_GT(log.stats().retained_bytes, 0u);
      lagging.reader().Stop();
      EXPECT_EQ(log.stats().retained_bytes, 0u);
      EXPECT_EQ((co_await lagging.Follow()).code(), Code::kUnavailable);
      TaskGroup tasks;
      Status status;
      tasks.Spawn(Wait(&waiting, &status));
      co_await Sleep(reactor, kMillisecond);
      EXPECT_TRUE(status.ok());
      waiting.reader().Stop();
      co_await tasks.Drain();
      EXPECT_EQ(status.code(), Code::kUnavailable);
    }
  };
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 16u << 10;
  EXPECT_TRUE(Use(options, Body()).ok());
}

// Whoever waits is told when there will be nothing more.
TEST_F(LiveReaderTest, ClosingEndsReaders) {
  SimReactor& reactor = Boot();
  Recovered recovered;
  Status status;
  auto log = kernel_.RunTask(reactor, log_test::OpenLog(reactor, SmallLog(), &recovered, &status));
  ASSERT_TRUE(status.ok()) << status.ToString();
  auto a = std::make_unique<Stream>(log->get(), PartitionUuid(0));
  auto b = std::make_unique<Stream>(log->get(), PartitionUuid(1));
  Follower fa(log->get(), *a), fb(log->get(), *b);
  std::vector<Code> ends;
  auto wait = [](Follower* follower, std::vector<Code>* codes) -> Task<void> {
    co_await follower->reader().UntilMore();
    codes->push_back((co_await follower->Follow()).code());
  };
  TaskGroup tasks;
  tasks.Spawn(wait(&fa, &ends));
  tasks.Spawn(wait(&fb, &ends));
  kernel_.RunFor(kMillisecond);
  EXPECT_TRUE(ends.empty());
  (*log)->RemoveStream(a->handle());
  kernel_.RunFor(kMillisecond);
  EXPECT_EQ(ends, std::vector<Code>{Code::kUnavailable});
  EXPECT_TRUE(kernel_.RunTask(reactor, (*log)->Close())->ok());
  kernel_.RunFor(kMillisecond);
  EXPECT_EQ(ends.size(), 2u);
  EXPECT_EQ(ends.back(), Code::kUnavailable);
  log->reset();
  EXPECT_EQ(kernel_.RunTask(reactor, fb.Follow())->code(), Code::kUnavailable);
}

// LR3: the ring and the images are reserved, and given back.
TEST_F(LiveReaderTest, MemoryIsReserved) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      for (int i = 0; i < 60; ++i) {
        a.Append(5000);
        co_await a.UntilDurable(reactor, a.last());
      }
      {
        Follower follower(&log, a);
        EXPECT_GE(memory->used_bytes(), ring);
        const int64_t rest = memory->limit_bytes() - memory->used_bytes();
        CHECK(memory->TryReserve(rest));
        EXPECT_EQ((co_await follower.Follow()).code(), Code::kOverloaded);
        memory->Release(rest);
        EXPECT_TRUE((co_await follower.Follow()).ok());
        EXPECT_EQ(follower.last(), a.last());
        EXPECT_EQ(memory->used_bytes(), ring) << "nobody lags any more";
      }
      EXPECT_EQ(memory->used_bytes(), 0);
      CHECK(memory->TryReserve(memory->limit_bytes()));
      EXPECT_EQ(log.OpenReader(a.handle(), {}, 0).code(), Code::kOverloaded);
      memory->Release(memory->limit_bytes());
    }
    MemoryBudget* memory;
    int64_t ring;
  };
  MemoryBudget memory(1 << 20);
  LogOptions options = SmallLog();
  options.reader_ring_bytes = 64u << 10;
  options.reader_memory = &memory;
  EXPECT_TRUE(Use(options, Body{&memory, 64 << 10}).ok());
}

// Readers at all distances, while partitions append, cut, append again, commit and release.
TEST_F(LiveReaderTest, FollowersHaveTheHistory) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      std::mt19937_64 random(seed);
      auto below = [&](uint64_t n) { return random() % n; };
      std::vector<std::unique_ptr<Stream>> streams;
      for (int i = 0; i < 3; ++i) streams.push_back(std::make_unique<Stream>(&log, PartitionUuid(i)));
      struct Reader {
        Stream* stream;
        std::unique_ptr<Follower> follower;
      };
      std::vector<Reader> readers;
      for (int step = 0; step < 600; ++step) {
        Stream& stream = *streams[below(streams.size())];
        switch (below(12)) {
          case 0:
            if (readers.size() < 6) {
              readers.push_back({&stream, std::make_unique<Follower>(&log, stream, HistoryPoint{}, below(5) * 65536)});
            }
            break;
          case 1:
            if (const auto ends_open = stream.EndsNotCommitted(); !ends_open.empty() && below(3) == 0) {
              const Lsn end = ends_open[below(ends_open.size())];
              if (below(2) == 0) {
                stream.Supersede(end, stream.epoch() + 1 + below(2));
              } else {
                stream.Cut(end, below(3) == 0 ? stream.epoch() + 1 : 0);
              }
            }
            break;
          case 2: stream.AppendAgain(); break;
          case 3:
          case 4:
            stream.SetCommit(std::max(stream.commit(), stream.durable()));
            stream.Release(stream.commit());
            break;
          case 5: co_await Sleep(reactor, below(300) * kMicrosecond); break;
          case 6:
            if (!readers.empty() && below(8) == 0) readers.erase(readers.begin() + below(readers.size()));
            break;
          case 7:
          case 8: {
            if (readers.empty()) break;
            const size_t at = below(readers.size());
            const Status status = co_await readers[at].follower->Follow(500 + below(20'000));
            ++(*ends)[status.code()];
            if (!status.ok()) readers.erase(readers.begin() + static_cast<ptrdiff_t>(at));
            break;
          }
          default: stream.Append(std::vector<size_t>(1 + below(3), below(3000))); break;
        }
        log.CheckInvariants();
      }
      for (auto& stream : streams) co_await stream->UntilDurable(reactor, stream->last());
      for (Reader& reader : readers) {
        const Status status = co_await reader.follower->Follow();
        ++(*ends)[status.code()];
        if (!status.ok()) continue;
        EXPECT_EQ(reader.follower->last(), reader.stream->last());
        EXPECT_EQ(reader.follower->reader().position().chain, reader.stream->chain()) << "LR1";
      }
      readers.clear();
      co_await Sleep(reactor, kSecond);  // until what was appended again is durable too
    }
    uint64_t seed;
    std::map<Code, int>* ends;
  };
  std::map<Code, int> ends;
  for (const uint64_t seed : Seeds(24)) {
    SCOPED_TRACE(Replay(seed));
    LogOptions options = SmallLog(fmt::format("/wal{}", seed));
    options.reader_ring_bytes = seed % 2 == 0 ? 1u << 20 : 8u << 10;
    options.budget_bytes = 4u << 20;
    const Status status = Use(options, Body{seed, &ends});
    EXPECT_TRUE(status.ok()) << status.ToString();
    if (HasFailure()) return;
  }
  for (const auto& [code, times] : ends) {
    EXPECT_TRUE(code == Code::kOk || code == Code::kNotFound || code == Code::kAborted) << CodeName(code);
  }
  if (Seeds(24).size() == 1) return;
  EXPECT_EQ(ends.size(), 3u) << "readers keep up, are superseded, and lag too far";
}

}  // namespace
}  // namespace pando
