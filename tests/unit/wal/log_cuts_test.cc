// Log::Cut: histories that end, and go on in another way, also in lower epochs (L14, WU2).
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "src/base/hash.h"
#include "src/wal/log_impl.h"
#include "tests/support/seeds.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::LogTest;
using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

class LogCuts : public LogTest {
 protected:
  // Recovers and closes the log.
  Recovered Recover(LogOptions options = SmallLog()) {
    struct Keep {
      Task<void> operator()(Reactor&, Log&, Recovered& recovered) {
        *found = recovered;
        co_return;
      }
      Recovered* found;
    };
    Recovered found;
    const Status status = Use(std::move(options), Keep{&found});
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_TRUE(found.broken.empty()) << found.broken.begin()->second.ToString();
    return found;
  }
  std::map<Lsn, Lsn> Found(uint64_t partition, LogOptions options = SmallLog()) {
    return Recover(std::move(options)).partitions[PartitionUuid(partition)].found;
  }
};

// Appends and releases until so many more segments have been begun.
Task<void> Fill(Reactor& reactor, Stream& busy, int units = 30) {
  for (int i = 0; i < units; ++i) {
    busy.Append(5000);
    co_await busy.UntilDurable(reactor, busy.last());
    busy.SetCommit(busy.last());
    busy.Release(busy.last());
  }
}

// A tail of epoch 2 yields to units of epoch 1.
TEST_F(LogCuts, UnitsOfALowerEpochFollowACut) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
      a.Append();
      a.Append();
      a.Supersede(1, /*epoch=*/2);
      a.Append({10, 10});
      co_await a.UntilDurable(reactor, 4);
      b.Append();
      a.SetCommit(1);
      a.Cut(1);
      EXPECT_EQ(a.epoch(), 1u);
      EXPECT_EQ(a.durable(), 1u);
      a.Append({10, 10, 10});
      co_await a.UntilDurable(reactor, 4);
      co_await b.UntilDurable(reactor, 1);
      a.SetCommit(4);
      *chain = a.chain();
    }
    uint64_t* chain;
  };
  uint64_t chain = 0;
  EXPECT_TRUE(Use(SmallLog(), Body{&chain}).ok());
  for (const bool power_loss : {false, true}) {
    Reboot(power_loss);
    const Recovered found = Recover();
    const Recovered::Partition& a = found.partitions.at(PartitionUuid(0));
    EXPECT_EQ(a.found, (std::map<Lsn, Lsn>{{1, 1}, {2, 4}}));
    EXPECT_EQ(a.epoch, 1u);
    EXPECT_EQ(a.chain, chain);
    EXPECT_EQ(a.commit, 4u);
    EXPECT_EQ(found.marks.at(PartitionUuid(0)).epoch, 2u) << "the highest one stays known";
    EXPECT_EQ(found.last(PartitionUuid(1)), 1u);
  }
}

// A cut is durable without a unit that follows it, and over recoveries, which end the log after its last batch with
// records.
TEST_F(LogCuts, ACutAloneIsDurable) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      auto* a = new Stream(&log, PartitionUuid(0));  // the machine stops in this body
      auto* gone = new Stream(&log, PartitionUuid(1));
      auto* other = new Stream(&log, PartitionUuid(2));
      for (Stream* each : {a, gone}) {
        for (int i = 0; i < 4; ++i) each->Append();
        co_await each->UntilDurable(reactor, 4);
      }
      a->Cut(3);
      a->Cut(2);  // takes the place of the other one, which is not submitted
      gone->Cut(0);
      log.CheckInvariants();
      co_await log.UntilAnnounced(a->handle());
      co_await log.UntilAnnounced(gone->handle());
      const uint64_t written = log.stats().device_bytes_total;
      a->Cut(2);  // is there already
      co_await Yield(reactor);
      EXPECT_EQ(log.stats().device_bytes_total, written);
      machine->CrashAtDiskOp(machine->disk_ops() + 1);
      other->Append();
      co_await Sleep(reactor, kSecond);
    }
    SimMachine* machine;
  };
  SimReactor& reactor = Boot();
  ASSERT_FALSE(kernel_.RunTask(reactor, Run(&reactor, SmallLog(), Body{machine_})));
  for (int restarts = 0; restarts < 3; ++restarts) {
    Reboot(true);
    const Recovered found = Recover();
    EXPECT_EQ(found.partitions.at(PartitionUuid(0)).found, (std::map<Lsn, Lsn>{{1, 1}, {2, 2}}));
    EXPECT_EQ(found.last(PartitionUuid(1)), 0u);
  }
}

// L1: what is cut off is not announced any more, and what is not submitted never is. If nothing of it was, the log
// has nothing to say.
TEST_F(LogCuts, UnitsOnTheirWayAreCutOff) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0));
      a.Append();
      co_await a.UntilDurable(reactor, 1);
      a.Append();
      a.Append();
      const uint64_t before = log.stats().unreleased_bytes;
      a.Cut(1);
      EXPECT_EQ(log.stats().unreleased_bytes, before - 2 * UnitBytes(0) - 2 * kItemAlignment * 4)
          << "neither the units nor a cut are staged";
      a.Append(3000);
      co_await Yield(reactor);  // submitted
      a.Append();
      a.Cut(1);
      EXPECT_EQ(a.last(), 1u);
      bool announced = false;
      a.on_durable = [&](Lsn) { announced = true; };
      co_await log.UntilAnnounced(a.handle());
      EXPECT_FALSE(announced);
      a.Append({1, 1});
      a.Append();
      co_await a.UntilDurable(reactor, 4);
    }
  };
  EXPECT_TRUE(Use(SmallLog(), Body()).ok());
  EXPECT_EQ(Found(0), (std::map<Lsn, Lsn>{{1, 1}, {2, 3}, {4, 4}}));
}

// L10, L14: what is cut off keeps no segment. As long as the segment that holds it is there for another reason, so is
// the cut.
TEST_F(LogCuts, TheTailIsNotFoundAgain) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      const Uuid cut_id = PartitionUuid(0), pin_id = PartitionUuid(1), busy_id = PartitionUuid(2);
      Stream cut(&log, cut_id, recovered.last(cut_id) + 1, 1, recovered.chain(cut_id));
      Stream pin(&log, pin_id, recovered.last(pin_id) + 1, 1, recovered.chain(pin_id));
      Stream busy(&log, busy_id, released + 1, 1, 0);
      if (released == 0) {
        for (int i = 0; i < 5; ++i) cut.Append();
        pin.Append();
        co_await Fill(reactor, busy);
        for (int i = 0; i < 5; ++i) cut.Append();
        co_await Fill(reactor, busy);
        EXPECT_EQ(log.OldestPinnedStream(), cut_id);
        cut.Cut(2);
        co_await log.UntilAnnounced(cut.handle());
        cut.SetCommit(2);
        cut.Release(2);
        EXPECT_EQ(log.OldestPinnedStream(), pin_id);
      }
      const uint64_t segments = log.stats().segments;
      co_await Fill(reactor, busy);
      EXPECT_GT(log.stats().segments, segments) << "the oldest segment is pinned";
      released = busy.released();
      if (!unpin) co_return;
      pin.SetCommit(1);
      pin.Release(1);
      EXPECT_LE(log.stats().segments, 2u);
      co_await Fill(reactor, busy);
      co_await Sleep(reactor, kSecond);  // until the files are recycled
    }
    Lsn& released;
    bool unpin;
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 8u << 20;
  Lsn released = 0;
  for (int start = 0; start < 4; ++start) {
    EXPECT_TRUE(Use(options, Body{released, /*unpin=*/start == 3}).ok());
    Reboot(true);
    Recovered found = Recover(options);
    EXPECT_EQ(found.last(PartitionUuid(0)), start == 3 ? 0u : 2u);
    EXPECT_EQ(found.marks[PartitionUuid(0)].durable_lsn, 2u);
  }
}

// WU4: the first segment of a tail that was appended again is gone, and the history is cut within the tail before the
// units are there again, or after.
TEST_F(LogCuts, ATailThatWasAppendedAgainIsCut) {
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0)), pin(&log, PartitionUuid(1)), busy(&log, PartitionUuid(2));
      for (int i = 0; i < 3; ++i) a.Append();
      co_await Fill(reactor, busy);
      pin.Append();
      for (int i = 0; i < 3; ++i) a.Append();
      co_await a.UntilDurable(reactor, 6);
      co_await Fill(reactor, busy);
      const uint64_t segments = log.stats().segments;
      if (cut_first) a.Cut(cut), a.Append();
      co_await a.UntilDurable(reactor, a.last());
      const size_t again = a.AppendAgain();
      while (a.appended_again() < again) co_await Sleep(reactor, kMillisecond);
      EXPECT_LT(log.stats().segments, segments) << "the first segment was not released";
      EXPECT_EQ(log.OldestPinnedStream(), pin.partition());
      co_await Fill(reactor, busy);
      if (!cut_first) a.Cut(cut);
      a.Append();
      co_await a.UntilDurable(reactor, a.last());
      *end = a.PointAt(a.last());
    }
    Lsn cut;
    bool cut_first;
    HistoryPoint* end;
  };
  LogOptions options = SmallLog();
  options.budget_bytes = 8u << 20;
  for (const Lsn cut : {0, 2, 3, 5}) {
    for (const bool cut_first : {false, true}) {
      SCOPED_TRACE(fmt::format("cut after {}, {}", cut, cut_first ? "first" : "last"));
      options.directory = fmt::format("/wal{}{}", cut, cut_first);
      HistoryPoint end;
      EXPECT_TRUE(Use(options, Body{cut, cut_first, &end}).ok());
      Reboot(true);
      const Recovered found = Recover(options);
      const Recovered::Partition& a = found.partitions.at(PartitionUuid(0));
      EXPECT_EQ(a.first, 1u);
      EXPECT_EQ(a.last, end.lsn);
      EXPECT_EQ(a.chain, end.chain);
    }
  }
}

// A sequence that starts anew, because what the log holds of the partition is another history, says so when it was
// cut before its first unit was written as well.
TEST_F(LogCuts, ASequenceThatStartsAnewIsCut) {
  struct Appends {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
      Stream a(&log, PartitionUuid(0), next, /*epoch=*/1, chain);
      for (int i = 0; i < 4; ++i) a.Append(static_cast<size_t>(20 + i));
      if (wait) co_await a.UntilDurable(reactor, a.last());
      if (cut != 0) a.Cut(cut);
      a.Append();
      co_await a.UntilDurable(reactor, a.last());
      *last = a.last();
    }
    Lsn next;
    uint64_t chain;
    Lsn cut;
    bool wait;
    Lsn* last;
  };
  for (const bool wait : {false, true}) {
    const LogOptions options = SmallLog(wait ? "/wal1" : "/wal0");
    Lsn last = 0;
    EXPECT_TRUE(Use(options, Appends{1, 0, 0, true, &last}).ok());
    EXPECT_TRUE(Use(options, Appends{6, 77, wait ? Lsn{7} : Lsn{5}, wait, &last}).ok());
    const Recovered found = Recover(options);
    EXPECT_EQ(found.last(PartitionUuid(0)), last);
  }
}

// Versions 3 and 4 have no cuts: there, a unit of a higher epoch supersedes what is at its LSN and above.
TEST_F(LogCuts, AnOlderLogKeepsItsMeaning) {
  const uint64_t seed = LogChecksumSeed(log_test::kNode);
  std::string image(64u << 10, '\0');
  EncodeSegmentHeader(log_test::kNode, 1, image.size(), image.data());
  StoreLE<uint16_t>(image.data() + offsetof(SegmentHeader, format_version), 4);
  StoreLE(image.data(), Hash64(std::string_view(image).substr(8, kBlockBytes - 8)));
  uint64_t chain = 0, fork = 0, offset = kFirstGroupOffset, checksum = 0, previous_end = 0;
  for (const auto& [epoch, lsn] : std::vector<std::pair<Epoch, Lsn>>{{1, 1}, {1, 2}, {1, 3}, {2, 2}, {2, 3}}) {
    std::string records;
    ByteWriter(&records).LengthPrefixed(log_test::Body(PartitionUuid(0), epoch, lsn, 9));
    WriteUnit unit{epoch, lsn, 1, epoch == 2 && lsn == 2 ? fork : chain, 0, records};
    unit.chain_after = chain = UnitChain(unit);
    if (lsn == 1) fork = chain;
    BatchHeader header{};
    header.flags = kBatchEndsGroup;
    header.record_count = 1;
    header.segment_number = 1;
    header.position = MakePosition(1, offset);
    header.previous_end = previous_end;
    header.previous_checksum = checksum;
    const size_t bytes = UnitBytes(records.size());
    char* const batch = image.data() + offset;
    EncodeUnit(PartitionUuid(0), unit, 0, batch + kBatchOverhead);
    SealBatch(header, seed, bytes, batch);
    StoreLE<uint16_t>(batch + offsetof(BatchHeader, format_version), 4);
    checksum = Hash64({batch + 8, kBatchOverhead + bytes - 8}, seed);
    StoreLE(batch, checksum);
    previous_end = MakePosition(1, offset + BatchBytes(bytes));
    offset = AlignUp(offset + BatchBytes(bytes), kBlockBytes);
  }
  machine_->disk().WriteAll("/wal/" + SegmentFileName(1), image);
  struct Body {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      const Recovered::Partition& found = recovered.partitions[PartitionUuid(0)];
      EXPECT_EQ(found.last, 3u);
      EXPECT_EQ(found.epoch, 2u);
      EXPECT_EQ(found.chain, chain);
      Stream a(&log, PartitionUuid(0), 4, 2, chain);
      a.Append();
      co_await a.UntilDurable(reactor, 4);
      a.Cut(3);
      a.Append({1, 1});
      co_await a.UntilDurable(reactor, 5);
    }
    uint64_t chain;
  };
  const Status status = Use(SmallLog(), Body{chain});
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(Found(0), (std::map<Lsn, Lsn>{{1, 1}, {2, 2}, {3, 3}, {4, 5}}));
}

// Random partitions in a small log: they append, cut, append again, commit, release, and go on after recoveries from
// what these found, also within the tails.
class LogCutsModel : public LogTest {
 protected:
  static constexpr uint64_t kPartitions = 4;
  using Streams = std::vector<std::unique_ptr<Stream>>;

  static LogOptions Options(uint64_t seed) {
    LogOptions options = SmallLog(fmt::format("/wal{}", seed));
    options.segment_bytes = 32u << 10;
    options.max_batch_bytes = 16u << 10;
    options.budget_bytes = 256u << 10;
    return options;
  }

  struct Life {
    Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
      EXPECT_TRUE(recovered.broken.empty()) << recovered.broken.begin()->second.ToString();
      for (uint64_t p = 0; p < kPartitions; ++p) Continue(&log, p, &recovered);
      log.ReleaseUnknownStreams();
      std::mt19937_64 random(seed);
      for (int step = 0; step < 150 && !testing::Test::HasFailure(); ++step) {
        co_await Step(&reactor, &log, &random);
        log.CheckInvariants();
      }
      if (crash) {
        machine->CrashAtDiskOp(machine->disk_ops() + 1 + random() % 8);
        for (;;) co_await Step(&reactor, &log, &random);
      }
      for (auto& stream : *streams) {
        co_await stream->UntilDurable(reactor, stream->last());
        co_await log.UntilAnnounced(stream->handle());
      }
    }

    void Continue(Log* log, uint64_t p, Recovered* recovered) {
      const Uuid id = PartitionUuid(p);
      if (streams->size() <= p) {
        streams->push_back(std::make_unique<Stream>(log, id));
        return;
      }
      Stream& before = *(*streams)[p];
      const bool found = recovered->partitions.contains(id);
      const Lsn last = found ? recovered->last(id) : 0;
      const std::string wrong = before.Judge(last, found ? recovered->chain(id) : 0);
      EXPECT_EQ(wrong, "") << "partition " << p << " was found up to LSN " << last;
      if (found && wrong.empty()) {
        EXPECT_LE(recovered->partitions[id].first, before.released() + 1);
      }
      if (testing::Test::HasFailure()) return;
      HistoryPoint end = before.PointAt(before.released());
      if (last >= end.lsn && found) end = {recovered->epoch(id), last, recovered->chain(id)};
      (*streams)[p] = std::make_unique<Stream>(log, before, end);
    }

    Task<void> Step(Reactor* reactor, Log* log, std::mt19937_64* random) {
      auto below = [&](uint64_t n) { return (*random)() % n; };
      Stream& stream = *(*streams)[below(kPartitions)];
      switch (below(14)) {
        case 0:
        case 1:
        case 2: {
          const std::vector<Lsn> ends = stream.EndsNotCommitted();
          if (ends.empty()) break;
          const Lsn end = ends[below(ends.size())];
          if (below(3) == 0) {
            stream.Supersede(end, stream.epoch() + 1 + below(2), below(3000));
          } else {
            stream.Cut(end, below(2) == 0 ? 0 : stream.epoch() + below(3));
          }
          break;
        }
        case 3: stream.AppendAgain(); break;
        case 4: {
          const std::vector<Lsn> ends = stream.EndsNotCommitted();
          const Lsn end = ends.empty() ? 0 : ends[below(ends.size())];
          if (end > stream.commit() && end <= stream.durable()) stream.SetCommit(end);
          break;
        }
        case 5:
        case 6:
          for (auto& each : *streams) {
            each->SetCommit(std::max(each->commit(), each->durable()));
            each->Release(each->commit());
          }
          break;
        case 7: co_await Sleep(*reactor, static_cast<Nanos>(below(1500)) * kMicrosecond); break;
        default: {
          Result<LogSpace> space = co_await log->WaitForSpace(stream.handle(), 9000, reactor->NowNs() + kMillisecond);
          if (space.ok()) stream.Append(std::vector<size_t>(1 + below(3), below(3000)));
        }
      }
    }

    uint64_t seed;
    bool crash;
    SimMachine* machine;
    Streams* streams;
  };
};

TEST_F(LogCutsModel, WhatIsFoundIsOneHistory) {
  for (const uint64_t seed : Seeds(20)) {
    SCOPED_TRACE(Replay(seed));
    Streams streams;
    for (uint64_t life = 0; life < 12 && !HasFailure(); ++life) {
      SimReactor& reactor = machine_->running() ? *machine_->reactor() : Boot();
      const Life body{seed * 100 + life, /*crash=*/life % 3 != 0, machine_, &streams};
      const auto status = kernel_.RunTask(reactor, Run(&reactor, Options(seed), body));
      if (status) {
        EXPECT_TRUE(status->ok()) << status->ToString();
      } else {
        Reboot(life % 3 == 1);
      }
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace pando
