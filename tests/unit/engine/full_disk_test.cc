// A disk that fills up. Acknowledged writes stay. Deletes in any order free space again, even
// across restarts and power failures. No checkpoint ever fails for lack of space, because admission
// reserves it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "src/base/codec.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr uint64_t kRoomBytes = 14u << 20;

std::string Key(uint64_t i) { return fmt::format("key-{:06}", i * 7919 % 1'000'000); }

// Returns a value that does not compress.
std::string Value(uint64_t i, size_t bytes) {
  SimRandom random(i);
  std::string value(bytes, '\0');
  for (size_t at = 0; at + 8 <= bytes; at += 8) StoreLE(&value[at], random.Next());
  return value;
}

class FullDiskTest : public testing::Test {
 public:
  FullDiskTest() {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = 1;
    // Enough memory and log to replace many pages between two checkpoints. This makes long dead
    // lists.
    setup_.engine.memory_bytes = 20u << 20;
    setup_.engine.log_segment_bytes = 1u << 20;
    setup_.engine.log_budget_bytes = 12u << 20;
  }
  void Boot() {
    if (machine_->running()) machine_->ProcessCrash(1);
    reactor_ = machine_->Boot();
  }
  // Opens an engine, runs `task` on it, and closes it.
  void Live(Task<void> (*task)(FullDiskTest*, Engine*), bool close = true) {
    EXPECT_TRUE(kernel_.RunTask(*reactor_, LiveTask(this, task, close)));
  }
  static Task<void> LiveTask(FullDiskTest* t, Task<void> (*task)(FullDiskTest*, Engine*), bool close) {
    auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    co_await task(t, engine->get());
    EXPECT_OK((*engine)->failure());
    if (!close) {  // the test stops the machine, including the engine's coroutines
      // Stays reachable, so that it is not reported as a leak.
      static auto* const abandoned = new std::vector<Engine*>;
      abandoned->push_back(engine->release());
      co_return;
    }
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
    EXPECT_EQ(co_await Audit(*t->reactor_, t->setup_.store.data_dir), "");
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  std::map<std::string, std::string> held_;
};

Task<void> Compare(FullDiskTest* t, Engine* engine) {
  size_t found = 0;
  ScanSpec spec;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await engine->partition(0)->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok()) co_return;
    for (const ScanRow& row : page->rows) {
      auto held = t->held_.find(std::string(row.key));
      EXPECT_TRUE(held != t->held_.end() && held->second == row.value) << row.key;
      ++found;
    }
    over = page->exhausted;
    if (!over) spec.start = std::string(page->rows.back().key) + '\0';
  }
  EXPECT_EQ(found, t->held_.size());
}

Task<void> Fill(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  // Let the log take what it needs before the disk becomes small.
  for (uint64_t i = 0; i < 300; ++i) EXPECT_OK(co_await Put(p, "warm", Value(i % 7, 60'000)));
  t->held_["warm"] = Value(299 % 7, 60'000);
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + kRoomBytes);
  Status full;
  for (uint64_t i = 0; full.ok(); ++i) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 0; n < 4; ++n) ops.push_back(PutOp(Key(i * 4 + n), Value(i * 4 + n, 700)));
    full = co_await Write(p, ops);
    if (!full.ok()) break;
    for (const WriteOp& op : ops) t->held_[op.key] = op.value;
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_GT(t->held_.size(), 8000u);
}

// Deletes half of the records, in random order, one at a time.
Task<void> DeleteHalf(FullDiskTest* t, Engine* engine) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : t->held_) keys.push_back(key);
  std::mt19937_64 random(keys.size());
  std::shuffle(keys.begin(), keys.end(), random);
  keys.resize(keys.size() / 2);
  for (const std::string& key : keys) {
    Status status = co_await Remove(engine->partition(0), key);
    EXPECT_OK(status);
    if (!status.ok()) co_return;
    t->held_.erase(key);
  }
}

Task<void> CheckpointTwice(FullDiskTest*, Engine* engine) {
  for (int i = 0; i < 2; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(engine->partition(0), "nothing"));
  }
}

Task<void> PutSome(FullDiskTest* t, Engine* engine) {
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string key = fmt::format("more-{:05}", i);
    EXPECT_OK(co_await Put(engine->partition(0), key, Value(i, 700)));
    t->held_[key] = Value(i, 700);
    if (testing::Test::HasFailure()) co_return;
  }
}

// What is held back for removes is not for the names of writes. Anybody could use it up with them.
Task<void> NamedRemoves(FullDiskTest*, Engine* engine) {
  Partition* p = engine->partition(0);
  size_t refused = 0;
  for (uint64_t i = 0; i < 20'000; ++i) {
    WriteOp once;
    once.op = RecordOp::kOnce;
    once.key = fmt::format("\xff\xff\xff\xff{:060}", i);
    once.sequence = 1;
    once.first_sent_ms = engine->reactor().WallMs();
    std::vector<WriteOp> ops;
    ops.push_back(std::move(once));
    ops.push_back(RemoveOp("nothing"));
    const Status status = co_await Write(p, std::move(ops));
    EXPECT_TRUE(status.ok() || status.code() == Code::kDiskFull) << status.ToString();
    refused += !status.ok();
  }
  EXPECT_GT(refused, 10'000u);
}

TEST_F(FullDiskTest, NamesOfWritesDoNotUseUpTheRoomForRemoves) {
  Boot();
  Live(&Fill);
  Live(&NamedRemoves);
  Live(&DeleteHalf);
}

// rocksdb#919, #6316: nothing could be deleted from a full disk, or the database could not be
// opened again.
TEST_F(FullDiskTest, DeletesInRandomOrderGiveRoomAgain) {
  Boot();
  Live(Fill);
  ASSERT_FALSE(HasFailure());
  Boot();
  Live(DeleteHalf);
  ASSERT_FALSE(HasFailure());
  Boot();
  Live(CheckpointTwice);
  Boot();
  Live(PutSome);
  Boot();
  Live(Compare);
}

TEST_F(FullDiskTest, ItComesBackAfterPowerFailures) {
  Boot();
  Live(Fill, /*close=*/false);
  for (uint64_t life = 1; life <= 3 && !HasFailure(); ++life) {
    machine_->PowerLoss(life);
    Boot();
    Live(Compare, /*close=*/false);
    machine_->PowerLoss(life + 10);
    Boot();
    Live(DeleteHalf, /*close=*/false);
  }
  ASSERT_FALSE(HasFailure());
  machine_->PowerLoss(99);
  Boot();
  Live(PutSome);
  Boot();
  Live(Compare);
}

// -- admitted writes have their space reserved

constexpr uint64_t kWriters = 300, kOpsEach = 8;

Task<void> ReplaceSome(Engine* engine, uint64_t writer, uint64_t* stored, uint64_t* refused) {
  std::vector<WriteOp> ops;
  // Each record is in a different leaf.
  for (uint64_t n = 0; n < kOpsEach; ++n) {
    ops.push_back(PutOp(fmt::format("r-{:05}", (writer * kOpsEach + n) * 5), Value(writer, 700)));
  }
  Status status = co_await Write(engine->partition(0), std::move(ops));
  EXPECT_TRUE(status.ok() || status.code() == Code::kDiskFull) << status.ToString();
  ++(status.ok() ? *stored : *refused);
}

// All write at the same moment, on a disk that has room for only a few of them.
Task<void> ReplaceFromManyWriters(FullDiskTest* t, Engine* engine) {
  for (uint64_t i = 0; i < kWriters * kOpsEach * 5; i += 20) {
    std::vector<WriteOp> ops;
    for (uint64_t n = i; n < i + 20; ++n) ops.push_back(PutOp(fmt::format("r-{:05}", n), Value(n, 700)));
    EXPECT_OK(co_await Write(engine->partition(0), std::move(ops)));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(engine->partition(0), "nothing"));
  }
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (1u << 20));
  uint64_t stored = 0, refused = 0;
  TaskGroup writers;
  for (uint64_t w = 0; w < kWriters; ++w) writers.Spawn(ReplaceSome(engine, w, &stored, &refused));
  co_await writers.Drain();
  EXPECT_GT(stored, 10u);
  EXPECT_GT(refused, 10u);
  // There is space for every page and all metadata.
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(engine->partition(0), "nothing"));
  }
}

// P9: after concurrent writes to an almost full disk, all checkpoints still find space.
TEST_F(FullDiskTest, ConcurrentWritersAreNotPromisedTheSameBlocks) {
  Boot();
  Live(ReplaceFromManyWriters);
}

// -- merges have their space reserved too

struct Leaves final : RangeVisitor {
  bool OnSubtree(const ChildRef&) override { return false; }
  bool OnLeaf(const TreeNode& leaf, uint32_t, uint32_t) override {
    std::vector<std::string>& into = keys.emplace_back();
    for (uint32_t i = 0; i < leaf.count(); ++i) into.push_back(leaf.Key(i));
    empty += leaf.count() == 0;
    return false;
  }
  std::vector<std::vector<std::string>> keys;  // of each leaf
  uint64_t empty = 0;
};

Task<Leaves> WalkLeaves(Engine* engine) {
  Leaves leaves;
  EXPECT_OK(co_await static_cast<Replica*>(engine->partition(0))->tree().Walk(0, "", "", &leaves));
  co_return leaves;
}

Task<void> WriteInto(Partition* p, std::vector<WriteOp> ops) { EXPECT_OK(co_await Write(p, std::move(ops))); }

// Empties every second leaf while the engine closes, so that no leaf is merged.
Task<void> EmptyEverySecondLeaf(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  for (uint64_t i = 0; i < 14'000; i += 20) {
    std::vector<WriteOp> ops;
    for (uint64_t n = i; n < i + 20; ++n) {
      ops.push_back(PutOp(Key(n), Value(n, 700)));
      t->held_[ops.back().key] = ops.back().value;
    }
    EXPECT_OK(co_await Write(p, std::move(ops)));
  }
  EXPECT_OK(co_await engine->CheckpointAll());
  const Leaves leaves = co_await WalkLeaves(engine);
  static auto* const writes = new TaskGroup;  // they end while the engine closes
  std::vector<WriteOp> ops;
  for (size_t i = 1; i < leaves.keys.size(); i += 2) {
    for (const std::string& key : leaves.keys[i]) {
      ops.push_back(RemoveOp(key));
      t->held_.erase(key);
      if (ops.size() == 32) writes->Spawn(WriteInto(p, std::exchange(ops, {})));
    }
  }
  writes->Spawn(WriteInto(p, std::move(ops)));
}

// Nothing is written, so no generation ends, and no leaf is merged.
Task<void> GiveSpaceBack(FullDiskTest* t, Engine* engine) {
  co_await Sleep(*t->reactor_, 60 * kSecond);
  EXPECT_GT(engine->stats().release.bytes_total, 10u << 20);
}

// Many more leaves wait to be merged than the disk has room for at once.
Task<void> MergeOnAFullDisk(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  EXPECT_GT((co_await WalkLeaves(engine)).empty, 1000u);
  Status full;
  for (uint64_t i = 0; full.ok(); ++i) {
    const std::string key = fmt::format("large-{:05}", i);
    full = co_await Put(p, key, Value(i, 3000));
    if (full.ok()) t->held_[key] = Value(i, 3000);
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  for (int i = 0; i < 4; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    co_await Sleep(*t->reactor_, kSecond);
    EXPECT_OK(co_await Remove(p, "nothing"));
  }
  // What the first merges freed is enough for the others. Nothing else is written meanwhile.
  co_await Sleep(*t->reactor_, 20 * t->setup_.engine.checkpoint_interval_ns);
  EXPECT_EQ((co_await WalkLeaves(engine)).empty, 0u);
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string key = fmt::format("after-{:05}", i);
    EXPECT_OK(co_await Put(p, key, Value(i, 700)));
    t->held_[key] = Value(i, 700);
    if (testing::Test::HasFailure()) co_return;
  }
}

TEST_F(FullDiskTest, MergesTakeNoMoreThanTheDiskHas) {
  setup_.engine.log_budget_bytes = 64u << 20;
  setup_.engine.log_segment_bytes = 8u << 20;
  Boot();
  Live(EmptyEverySecondLeaf);
  ASSERT_FALSE(HasFailure());
  setup_.engine.release.bytes_per_s = 64u << 20;
  setup_.engine.release.after_ns = kSecond;
  setup_.engine.release.min_keep_blocks = 256;
  Boot();
  Live(GiveSpaceBack);
  setup_.engine.release.bytes_per_s = 0;
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  Boot();
  Live(MergeOnAFullDisk);
  Boot();
  Live(Compare);
}

// Small writes still find room where a large one did not, and do not hide that.
Task<void> RefuseALargeBatch(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  for (uint64_t i = 0; i < 300; ++i) EXPECT_OK(co_await Put(p, "warm", Value(i % 7, 60'000)));
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (8u << 20));
  std::vector<WriteOp> batch;
  Status full;
  for (uint64_t i = 0; full.ok(); ++i) {
    batch.clear();
    for (uint64_t n = 0; n < 100; ++n) batch.push_back(PutOp(Key(i * 100 + n), Value(n, 700)));
    EXPECT_FALSE(p->stats().disk_full);
    full = co_await Write(p, batch);
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_TRUE(p->stats().disk_full);
  EXPECT_OK(co_await Put(p, "small", "v"));
  EXPECT_OK((co_await WritePoint(engine, p, PutOp("small", "w"))).status());
  EXPECT_TRUE(p->stats().disk_full);
  t->machine_->disk().SetCapacity(1u << 30);
  EXPECT_OK(co_await Write(p, batch));
  EXPECT_FALSE(p->stats().disk_full);
}

// While the status does not say that the disk is full, a write like the one that was refused is taken. Nobody writes in
// between.
Task<void> RefuseAndWait(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (8u << 20));
  Status full;
  for (uint64_t i = 0; full.ok(); ++i) full = co_await Put(p, Key(i), Value(i, 700));
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_THAT(full.message(),
              testing::HasSubstr("partition 0: the disk of its master is full. Delete records, or make room"));
  for (int i = 0; i < 20; ++i) {
    co_await Sleep(*t->reactor_, 30 * kSecond);
    const bool says_full = p->stats().disk_full;
    const Status again = co_await Put(p, Key(100'000 + i), Value(i, 700));
    EXPECT_TRUE(says_full || again.ok()) << i << ": " << again.ToString();
  }
  t->machine_->disk().SetCapacity(1u << 30);
  co_await Sleep(*t->reactor_, 70 * kSecond);
  EXPECT_FALSE(p->stats().disk_full);
}

TEST_F(FullDiskTest, IsSaidAsLongAsTheDiskIsFull) {
  Boot();
  Live(RefuseAndWait);
}

TEST_F(FullDiskTest, ASmallWriteDoesNotHideThatTheDiskIsFull) {
  Boot();
  Live(RefuseALargeBatch);
}

// -- records that expire

Task<void> FillWithRecordsThatExpire(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  for (uint64_t i = 0; i < 300; ++i) EXPECT_OK(co_await Put(p, "warm", Value(i % 7, 60'000)));
  t->held_["warm"] = Value(299 % 7, 60'000);
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + kRoomBytes);
  Status full;
  uint64_t stored = 0;
  for (; full.ok(); ++stored) {
    std::vector<WriteOp> ops;
    ops.push_back(PutOp(Key(stored), Value(stored, 700)));
    ops.back().ttl_mode = TtlMode::kSet;
    ops.back().ttl_ms = 600'000;
    full = co_await Write(p, std::move(ops));
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_GT(stored, 8000u);
  co_await Sleep(*t->reactor_, 900 * kSecond);
  EXPECT_EQ(p->stats().expired_total, stored - 1) << "the last one was refused";
}

// A store whose records all expire becomes empty, though the disk was full.
TEST_F(FullDiskTest, ExpiredRecordsAreRemoved) {
  Boot();
  Live(FillWithRecordsThatExpire);
  ASSERT_FALSE(HasFailure());
  Boot();
  Live(PutSome);
  Boot();
  Live(Compare);
}

// -- the log replayed on a full disk

Task<void> ReplaceAll(FullDiskTest* t, Engine* engine) {
  // Until the disk is full: every page of the tree is replaced, and the old pages wait on dead
  // lists.
  uint64_t i = 0;
  for (auto& [key, value] : t->held_) {
    if (key == "warm") continue;
    const std::string replaced = Value(++i, 650);
    Status status = co_await Put(engine->partition(0), key, replaced);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), Code::kDiskFull) << status.ToString();
      break;
    }
    value = replaced;
  }
}

TEST_F(FullDiskTest, TheLogIsReplayedWhereTheDiskIsFull) {
  Boot();
  Live(Fill, /*close=*/false);
  for (uint64_t life = 1; life <= 2 && !HasFailure(); ++life) {
    machine_->ProcessCrash(life);
    // Others take the remaining space.
    machine_->disk().SetCapacity(machine_->disk().used_bytes());
    Boot();
    Live(ReplaceAll, /*close=*/false);
  }
  machine_->PowerLoss(7);
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  Boot();
  Live(Compare);
}

// -- the log runs out of segments

// A remove whose record is large, while its key does not exist. It changes no page.
WriteOp LargeRemove(uint64_t writer) {
  WriteOp op = RemoveOp(fmt::format("none-{:04}", writer));
  op.condition.value = std::string(64'000, 'x');
  return op;
}

Task<void> RemoveOne(Partition* p, uint64_t writer, uint64_t* done) {
  std::vector<WriteOp> ops;
  ops.push_back(LargeRemove(writer));
  EXPECT_OK(co_await Write(p, std::move(ops)));
  ++*done;
}

// A small partition keeps little free, and that little suffices.
Task<void> FillAndEmptySmall(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  for (uint64_t i = 0; i < 300; ++i) {  // The log takes what it needs.
    std::vector<WriteOp> ops;
    ops.push_back(LargeRemove(i));
    EXPECT_OK(co_await Write(p, std::move(ops)));
  }
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (768u << 10));
  Status full;
  uint64_t stored = 0;
  for (;; ++stored) {
    full = co_await Put(p, Key(stored), Value(stored, 700));
    if (!full.ok()) break;
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_GT(stored, 50u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(p, "nothing"));
  }
  for (uint64_t i = 0; i < stored; ++i) EXPECT_OK(co_await Remove(p, Key(i)));
  EXPECT_OK(co_await engine->CheckpointAll());
  EXPECT_OK(co_await Put(p, "again", Value(1, 700)));
  t->held_["again"] = Value(1, 700);
}

TEST_F(FullDiskTest, ASmallPartitionFillsUpAndIsEmptied) {
  Boot();
  Live(FillAndEmptySmall);
  ASSERT_FALSE(HasFailure());
  Boot();
  Live(Compare);
}

constexpr uint64_t kRemovers = 80;  // 5 MB of log

// Each of them is promised three blocks. Leaves as many free in the file, so that none is refused.
Task<void> MakeRoomForRemovers(Engine* engine) {
  constexpr uint64_t kValues = 5;  // each fits into a segment of the log
  for (uint64_t i = 0; i < kValues; ++i) {
    EXPECT_OK(co_await Put(engine->partition(0), fmt::format("large-{}", i),
                           Value(i, 3 * kRemovers / kValues * kBlockBytes)));
  }
  for (uint64_t i = 0; i < kValues; ++i) {
    EXPECT_OK(co_await Remove(engine->partition(0), fmt::format("large-{}", i)));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(engine->partition(0), "nothing"));
  }
}

Task<void> RemoveMoreThanTheLogHolds(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i, 700)));
  co_await MakeRoomForRemovers(engine);
  EXPECT_OK(co_await engine->CheckpointAll());
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes());
  uint64_t done = 0;
  TaskGroup removers;
  for (uint64_t w = 0; w < kRemovers; ++w) removers.Spawn(RemoveOne(p, w, &done));
  co_await Sleep(*t->reactor_, 10 * kSecond);
  EXPECT_EQ(done, kRemovers) << "nothing asked for the checkpoints that release the log";
  t->machine_->disk().SetCapacity(1u << 30);  // so that a failed test ends
  co_await removers.Drain();
}

TEST_F(FullDiskTest, ALogWithoutSegmentsAsksForCheckpoints) {
  setup_.engine.log_segment_bytes = 256u << 10;
  setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  Boot();
  Live(RemoveMoreThanTheLogHolds);
}

Task<void> RemoveOneOrFail(Partition* p, uint64_t writer, uint64_t* failed) {
  std::vector<WriteOp> ops;
  ops.push_back(LargeRemove(writer));
  *failed += !(co_await Write(p, std::move(ops))).ok();
}

// Checkpoints fail as well, so nothing releases a segment while the engine closes.
Task<void> CloseWithoutSegments(FullDiskTest* t) {
  auto opened = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  EXPECT_OK(co_await Put((*opened)->partition(0), "k", "v"));
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes());
  uint64_t failed = 0;
  TaskGroup removers;
  for (uint64_t w = 0; w < kRemovers; ++w) removers.Spawn(RemoveOneOrFail((*opened)->partition(0), w, &failed));
  t->machine_->AddFault(
      {.kind = IoOp::Kind::kWrite, .path_contains = "partition-00000/data", .count = UINT64_MAX, .error_number = 28});
  const Status closed = co_await (*opened)->Close(/*checkpoint=*/true);
  EXPECT_FALSE(closed.ok());
  co_await removers.Drain();
  EXPECT_GT(failed, 0u);
}

TEST_F(FullDiskTest, ClosingDoesNotWaitForSpaceForEver) {
  setup_.engine.log_segment_bytes = 256u << 10;
  Boot();
  EXPECT_TRUE(kernel_.RunTask(*reactor_, CloseWithoutSegments(this)));
}

Task<void> StallTheLog(FullDiskTest* t, Engine* engine) {
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes());
  static auto* const removers = new TaskGroup;
  static uint64_t done = 0;
  done = 0;
  for (uint64_t w = 0; w < kRemovers; ++w) removers->Spawn(RemoveOne(engine->partition(0), w, &done));
  for (int i = 0; i < 1000 && !engine->stats().log.waits_for_segment; ++i) {
    co_await Sleep(*t->reactor_, kMillisecond);
  }
  EXPECT_TRUE(engine->stats().log.waits_for_segment);
}

TEST_F(FullDiskTest, ANodeKilledWithoutLogSegmentsStarts) {
  setup_.engine.log_segment_bytes = 256u << 10;
  Boot();
  Live([](FullDiskTest* t, Engine* engine) -> Task<void> {
    for (uint64_t i = 0; i < 100; ++i) EXPECT_OK(co_await Put(engine->partition(0), Key(i), Value(i, 700)));
    for (uint64_t i = 0; i < 100; ++i) t->held_[Key(i)] = Value(i, 700);
    co_await MakeRoomForRemovers(engine);
  });
  for (uint64_t life = 1; life <= 4 && !HasFailure(); ++life) {
    Boot();
    Live(StallTheLog, /*close=*/false);
    if (life % 2 == 0) {
      machine_->PowerLoss(life);
    } else {
      machine_->ProcessCrash(life);
    }
  }
  ASSERT_FALSE(HasFailure());
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  Boot();
  Live(Compare);
}

// -- space is returned to the file system

Task<void> DeleteMost(FullDiskTest* t, Engine* engine) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : t->held_) keys.push_back(key);
  std::mt19937_64 random(5);
  std::shuffle(keys.begin(), keys.end(), random);
  keys.resize(keys.size() - keys.size() / 20);
  std::vector<WriteOp> ops;
  for (const std::string& key : keys) {
    ops.push_back(RemoveOp(key));
    t->held_.erase(key);
    if (ops.size() < 20) continue;
    EXPECT_OK(co_await Write(engine->partition(0), std::exchange(ops, {})));
  }
  EXPECT_OK(co_await Write(engine->partition(0), std::exchange(ops, {})));
  for (int i = 0; i < 2; ++i) {
    EXPECT_OK(co_await engine->CheckpointAll());
    EXPECT_OK(co_await Remove(engine->partition(0), "nothing"));
  }
}

Task<void> WaitForSpace(FullDiskTest* t, Engine* engine) {
  Partition* p = engine->partition(0);
  const uint64_t before = t->machine_->disk().used_bytes();
  co_await Sleep(*t->reactor_, 900 * kMillisecond);
  EXPECT_EQ(t->machine_->disk().used_bytes(), before) << "space must have been free for a while before it is released";
  const Nanos start_ns = t->reactor_->NowNs();
  uint64_t released = 0;
  for (int i = 0; i < 100; ++i) {
    co_await Sleep(*t->reactor_, 100 * kMillisecond);
    released = engine->stats().release.bytes_total;
    const double seconds = static_cast<double>(t->reactor_->NowNs() - start_ns) / kSecond;
    EXPECT_LE(static_cast<double>(released), (seconds + 1.2) * (8 << 20) + (4 << 20)) << "faster than the rate";
  }
  const PartitionStats stats = p->stats();
  EXPECT_GT(released, 4u << 20);
  EXPECT_EQ(before - t->machine_->disk().used_bytes(), released);
  EXPECT_EQ(stats.hole_bytes, released);
  // The rest is in use, or kept for the next checkpoints.
  EXPECT_LT(stats.file_bytes - stats.hole_bytes, stats.used_bytes * 9 / 8 + (6u << 20));
}

// SR1: freed space goes back, and no faster than at the rate. bbolt#288 and lmdb-js#335: files that
// never shrink.
TEST_F(FullDiskTest, DeletedSpaceGoesBackToTheFileSystem) {
  setup_.engine.release.bytes_per_s = 8u << 20;
  setup_.engine.release.after_ns = kSecond;
  setup_.engine.release.min_keep_blocks = 256;
  Boot();
  Live(Fill);
  Boot();
  Live(DeleteMost);
  ASSERT_FALSE(HasFailure());
  Boot();
  Live(WaitForSpace);
  machine_->PowerLoss(3);
  Boot();
  Live(Compare);
  Boot();
  Live(PutSome);
  Boot();
  Live(Compare);
}

}  // namespace
}  // namespace pando::engine_test
