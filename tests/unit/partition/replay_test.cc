// Recovery: units that an earlier process has appended, replayed with less memory than it had.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/partition/replica.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

constexpr uint64_t kManyPages = 16u << 20;  // bytes of memory for a pool
constexpr uint32_t kPageBytes = 4096;
constexpr uint32_t kKeys = 300;

std::string Key(uint32_t i) { return fmt::format("key-{:05}", i); }

// Composes a batch, record by record.
class Batch {
 public:
  LogRecord& Add(RecordOp op, std::string key, std::string value = "") {
    LogRecord& record = records_.emplace_back();
    record.op = op;
    record.version = ++version_;
    record.all_or_nothing = all_or_nothing_;
    record.continues = true;
    record.key = *texts_.emplace_back(std::make_unique<std::string>(std::move(key)));
    record.value = *texts_.emplace_back(std::make_unique<std::string>(std::move(value)));
    return record;
  }
  std::string_view Text(std::string text) {
    return *texts_.emplace_back(std::make_unique<std::string>(std::move(text)));
  }
  void EndUnit() { records_.back().continues = false; }
  void all_or_nothing(bool on) { all_or_nothing_ = on; }
  void SkipVersions(int64_t versions) { version_ += static_cast<Version>(versions); }

  // The units, in the log of a new partition.
  RecoveredUnits Encode(Lsn first_lsn) {
    bytes_.clear();
    RecoveredUnits found;
    found.file = "segment";
    Lsn lsn = first_lsn;
    uint64_t chain = 0;
    std::vector<std::pair<size_t, uint32_t>> units;  // bytes and records
    size_t begin = 0;
    uint32_t count = 0;
    for (const LogRecord& record : records_) {
      EncodeRecord(record, &bytes_);
      ++count;
      if (record.continues) continue;
      units.emplace_back(bytes_.size() - begin, std::exchange(count, 0));
      begin = bytes_.size();
    }
    std::string_view rest = bytes_;
    for (auto [bytes, record_count] : units) {
      WriteUnit& unit = found.units.emplace_back();
      unit = {1, lsn, record_count, chain, 0, rest.substr(0, bytes)};
      chain = unit.chain_after = UnitChain(unit);
      lsn += record_count;
      rest.remove_prefix(bytes);
    }
    return found;
  }

 private:
  std::vector<LogRecord> records_;
  std::vector<std::unique_ptr<std::string>> texts_;
  std::string bytes_;
  Version version_ = 0;
  bool all_or_nothing_ = false;
};

struct Replayed {
  Status status;
  RangeAggregates contents;
  PartitionStats stats;
};

class ReplayTest : public testing::Test {
 protected:
  // Replays the batch in a new store with a pool of this size.
  Replayed Replay(Batch* batch, uint64_t memory_bytes, Lsn first_lsn = 1) {
    SimKernel kernel(1);
    SimReactor* reactor = kernel.AddMachine()->Boot();
    Replayed replayed;
    EXPECT_TRUE(kernel.RunTask(*reactor, Run(reactor, batch->Encode(first_lsn), memory_bytes, &replayed)));
    return replayed;
  }
  static uint64_t FewPages() { return BufferPool::MinMemoryBytes(kPageBytes, BufferPoolOptions().write_buffers); }

 private:
  static Task<void> Run(Reactor* reactor, RecoveredUnits found, uint64_t memory_bytes, Replayed* replayed) {
    StoreOptions store_options{"/data", 1, 1, kPageBytes};
    Result<StoreInfo> store = co_await OpenStore(*reactor, store_options);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    BufferPoolOptions pool_options;
    pool_options.page_bytes = kPageBytes;
    pool_options.seal_bytes = kSealBytes;  // as the store has it
    pool_options.memory_bytes = memory_bytes;
    BufferPool pool(*reactor, pool_options);
    pool.Start();
    Replica::Options options;
    options.info = store->partitions[0];
    Result<std::unique_ptr<Replica>> opened = co_await Replica::Open(*reactor, pool, *store, std::move(options));
    EXPECT_TRUE(opened.ok()) << opened.status().ToString();
    Replica* replica = opened->get();
    replayed->status = co_await replica->Replay(std::move(found));
    if (replayed->status.ok()) replayed->status = co_await replica->FinishReplay();
    if (replayed->status.ok()) replayed->status = replica->failure();  // it is quarantined
    replayed->stats = replica->stats();
    if (replayed->status.ok()) {
      // The pages must also be able to reach the disk.
      Status written = co_await replica->Checkpoint();
      EXPECT_TRUE(written.ok()) << written.ToString();
      Result<RangeAggregates> sum = co_await replica->Aggregate("", "", kNewest);
      EXPECT_TRUE(sum.ok()) << sum.status().ToString();
      if (sum.ok()) replayed->contents = *sum;
    }
    co_await replica->Drain();
    Status closed = co_await replica->Close();
    EXPECT_TRUE(closed.ok()) << closed.ToString();
    co_await pool.Stop();
  }
};

// Units that need more pages than the small pool has.
void AddLargeUnits(Batch* batch) {
  // Guarded by a check that holds.
  batch->Add(RecordOp::kCheck, "guard").condition.exists = false;
  for (uint32_t i = 0; i < kKeys; ++i) batch->Add(RecordOp::kPut, Key(i), std::string(900, 'a'));
  batch->EndUnit();
  // Large values, and increments of one key, whose later ones find what the earlier ones left.
  for (uint32_t i = 0; i < 100; ++i) {
    batch->Add(RecordOp::kPut, Key(3 * i), std::string(9000, 'b'));
    batch->Add(RecordOp::kIncrement, "number").delta = 2;
  }
  batch->EndUnit();
}

TEST_F(ReplayTest, AUnitThatDoesNotFitIntoThePoolIsAppliedInParts) {
  Batch batch;
  AddLargeUnits(&batch);
  // Conditions on large values. The second one of each key finds what the first one left.
  for (uint32_t i = 0; i < 100; ++i) {
    batch.Add(RecordOp::kPut, Key(3 * i), "short").condition.value = batch.Text(std::string(9000, 'b'));
    batch.Add(RecordOp::kRemove, Key(3 * i)).condition.value = batch.Text(std::string(9000, 'b'));
  }
  batch.EndUnit();
  const Replayed large = Replay(&batch, kManyPages), small = Replay(&batch, FewPages());
  ASSERT_TRUE(large.status.ok()) << large.status.ToString();
  ASSERT_TRUE(small.status.ok()) << small.status.ToString();
  EXPECT_EQ(large.contents.count, kKeys + 1u);
  EXPECT_EQ(large.contents.bytes, 200 * (9 + 900) + 100 * (9 + 5) + 6 + 3u);
  EXPECT_EQ(small.contents, large.contents);
  EXPECT_EQ(small.stats.applied_lsn, kKeys + 1 + 200 + 200u);
  EXPECT_EQ(small.stats.last_lsn, small.stats.applied_lsn);
}

// P10: the verdict on a unit that is judged in parts is the same.
TEST_F(ReplayTest, AUnitThatIsRefusedChangesNothing) {
  for (const bool whole : {false, true}) {
    Batch batch;
    AddLargeUnits(&batch);
    batch.all_or_nothing(whole);
    if (!whole) batch.Add(RecordOp::kCheck, Key(kKeys - 1)).condition.exists = false;
    for (uint32_t i = 0; i < kKeys; ++i) {
      batch.Add(RecordOp::kPut, Key(i), std::string(i % 3 == 0 ? 9000 : 20, 'c')).condition.exists = true;
    }
    batch.Add(RecordOp::kPut, Key(0), "d").condition.value = batch.Text(std::string(whole ? 9001 : 9000, 'c'));
    batch.EndUnit();
    const Replayed large = Replay(&batch, kManyPages), small = Replay(&batch, FewPages());
    ASSERT_TRUE(large.status.ok()) << large.status.ToString();
    ASSERT_TRUE(small.status.ok()) << small.status.ToString();
    EXPECT_EQ(large.contents.bytes, 200 * (9 + 900) + 100 * (9 + 9000) + 6 + 3u);
    EXPECT_EQ(small.contents, large.contents);
    // The refused records count all the same.
    EXPECT_EQ(small.stats.applied_lsn, kKeys + 1 + 200 + kKeys + (whole ? 1 : 2));
  }
}

// Two writes that have names, of which the second is refused, so often.
void AddNamedUnits(Batch* batch, int times) {
  batch->SkipVersions(static_cast<int64_t>(VersionAtMs(2'000'000'000'000)));  // else the lanes have expired
  auto name = [batch](std::string_view lane) {
    auto& once = batch->Add(RecordOp::kOnce, std::string(lane));
    once.sequence = 1;
    once.first_sent_ms = 2'000'000'000'000;
    if (lane == "lane 1") once.digest = 7;  // records of an earlier version have none
  };
  for (int i = 0; i < times; ++i) {
    name("lane 1");
    for (uint32_t k = 0; k < kKeys; ++k) batch->Add(RecordOp::kPut, Key(k), std::string(800, 'c'));
    batch->EndUnit();
    batch->all_or_nothing(true);
    name("lane 2");
    for (uint32_t k = 0; k < kKeys; ++k) batch->Add(RecordOp::kPut, Key(k), "no").condition.exists = k % 7 != 0;
    batch->EndUnit();
    batch->all_or_nothing(false);
  }
}

// LN1: lanes are the same, whether their units are applied whole or in parts. A unit that comes twice
// changes neither them nor anything else.
TEST_F(ReplayTest, LanesAreTheSameWhenAppliedInParts) {
  Batch once, twice;
  for (Batch* batch : {&once, &twice}) {
    AddLargeUnits(batch);
    AddNamedUnits(batch, batch == &once ? 1 : 2);
  }
  const Replayed expected = Replay(&once, kManyPages);
  ASSERT_TRUE(expected.status.ok()) << expected.status.ToString();
  EXPECT_EQ(expected.contents.count, kKeys + 1u + 2u);
  for (const uint64_t memory_bytes : {kManyPages, FewPages()}) {
    for (Batch* batch : {&once, &twice}) {
      const Replayed replayed = Replay(batch, memory_bytes);
      ASSERT_TRUE(replayed.status.ok()) << replayed.status.ToString();
      EXPECT_EQ(replayed.contents, expected.contents) << memory_bytes << (batch == &twice ? " twice" : "");
      EXPECT_EQ(replayed.stats.applied_lsn, kKeys + 1 + 200 + (batch == &twice ? 4 : 2) * (kKeys + 1u));
    }
  }
}

// AU2 and P5: what no process has written is corruption.
TEST_F(ReplayTest, VersionsThatDoNotRiseAreCorruption) {
  Batch batch;
  batch.Add(RecordOp::kPut, "a", "1");
  batch.EndUnit();
  batch.SkipVersions(-1);
  batch.Add(RecordOp::kPut, "b", "2");
  batch.EndUnit();
  const Replayed replayed = Replay(&batch, FewPages());
  EXPECT_EQ(replayed.status.code(), Code::kCorruption);
  EXPECT_NE(replayed.status.message().find("holds version 1 after version 1"), std::string::npos)
      << replayed.status.ToString();
}

TEST_F(ReplayTest, MissingRecordsAreCorruption) {
  Batch batch;
  batch.Add(RecordOp::kPut, "a", "1");
  batch.EndUnit();
  EXPECT_EQ(Replay(&batch, FewPages(), /*first_lsn=*/2).status.code(), Code::kCorruption);
}

class PartitionPhase : public testing::Test {
 protected:
  static BufferPoolOptions Options() {
    BufferPoolOptions options;
    options.page_bytes = kPageBytes;
    options.memory_bytes = kManyPages;
    return options;
  }
  SimKernel kernel_{1};
  SimReactor* reactor_ = kernel_.AddMachine()->Boot();
  BufferPool pool_{*reactor_, Options()};
  PartitionState state_{*reactor_, pool_, PartitionInfo(), std::make_shared<StoreClock>()};
};

// PH1: the phase changes only as the header of PartitionState says.
TEST_F(PartitionPhase, ChangesOnlyAlongTheArrows) {
  EXPECT_DEATH(state_.Enter(Phase::kClosed), "PH1");
  state_.Enter(Phase::kServing);
  EXPECT_TRUE(state_.works());
  EXPECT_DEATH(state_.Enter(Phase::kServing), "PH1");
  state_.Enter(Phase::kDraining);
  EXPECT_EQ(state_.Refusal().code(), Code::kUnavailable);
  EXPECT_DEATH(state_.Enter(Phase::kServing), "PH1");
  state_.Fail(Error(Code::kIoError, "the first reason"));
  state_.Fail(Error(Code::kIoError, "another one"));
  EXPECT_EQ(state_.failure().message(), "the first reason");
  EXPECT_DEATH(state_.Enter(Phase::kDraining), "PH1");
  state_.Enter(Phase::kClosed);
  EXPECT_DEATH(state_.Enter(Phase::kFailed), "PH1");
}

TEST_F(PartitionPhase, AQuarantineIsFinal) {
  state_.Enter(Phase::kServing);
  state_.Quarantine(Error(Code::kCorruption, "block 9 is damaged"));
  EXPECT_TRUE(state_.quarantined() && state_.failed() && !state_.works());
  state_.Fail(Error(Code::kIoError, "the engine fails too"));
  EXPECT_EQ(state_.Refusal().code(), Code::kUnavailable);
  EXPECT_NE(state_.Refusal().message().find("block 9 is damaged"), std::string::npos);
  EXPECT_DEATH(state_.Enter(Phase::kServing), "PH1");
  EXPECT_DEATH(state_.Enter(Phase::kDraining), "PH1");
  state_.Enter(Phase::kClosed);
}

}  // namespace
}  // namespace pando
