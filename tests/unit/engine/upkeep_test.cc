// A partition's upkeep in the background: leaves that deletes emptied are merged, so that space
// follows the data.
#include <gtest/gtest.h>

#include <algorithm>

#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr int kBatch = 32;

std::string Key(int i) { return fmt::format("key-{:08}", i); }

struct LeafCount final : RangeVisitor {
  bool OnSubtree(const ChildRef&) override { return false; }
  bool OnLeaf(const TreeNode& leaf, uint32_t, uint32_t) override {
    ++leaves;
    empty += leaf.count() == 0;
    underfull += leaf.UsedBytes() < 4096 / kUnderfullDivisor;
    return false;
  }
  uint64_t leaves = 0, empty = 0, underfull = 0;
};

Task<LeafCount> CountLeaves(Partition* p) {
  LeafCount count;
  EXPECT_OK(co_await static_cast<Replica*>(p)->tree().Walk(0, "", "", &count));
  co_return count;
}

// Writes the operations in batches, many of them concurrently, so that they are applied together.
Task<void> WriteInto(Partition* p, std::vector<WriteOp> ops) { EXPECT_OK(co_await Write(p, std::move(ops))); }
Task<void> WriteAll(Partition* p, std::vector<WriteOp> ops) {
  for (size_t from = 0; from < ops.size();) {
    TaskGroup group;
    for (int n = 0; n < 64 && from < ops.size(); ++n) {
      const size_t to = std::min(ops.size(), from + kBatch);
      std::vector<WriteOp> batch(std::make_move_iterator(ops.begin() + static_cast<ptrdiff_t>(from)),
                                 std::make_move_iterator(ops.begin() + static_cast<ptrdiff_t>(to)));
      group.Spawn(WriteInto(p, std::move(batch)));
      from = to;
    }
    co_await group.Drain();
  }
}

class UpkeepTest : public testing::Test {
 protected:
  UpkeepTest() {
    setup_.store.partitions = 1;
    setup_.engine.compression = Compression::kNone;
  }
  void RunInNewProcess(Task<void> (*body)(Reactor*, engine_test::Setup)) {
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, body(reactor, setup_)));
  }
  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

// Deletes all but a few of 40,000 records, in random order, and checks the tree two checkpoints
// later.
Task<void> DeleteMost(Reactor* reactor, engine_test::Setup setup) {
  constexpr int kRecords = 40'000, kKept = 400;
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  std::vector<WriteOp> puts, removes;
  for (int i = 0; i < kRecords; ++i) {
    puts.push_back(PutOp(Key(i), std::string(80, 'v')));
    if (i % (kRecords / kKept) != 0) removes.push_back(RemoveOp(Key(i)));
  }
  co_await WriteAll(p, std::move(puts));
  EXPECT_OK(co_await p->Checkpoint());
  const uint64_t full_bytes = p->stats().used_bytes;
  for (size_t i = removes.size() - 1; i > 0; --i) std::swap(removes[i], removes[reactor->Random() % (i + 1)]);
  co_await WriteAll(p, std::move(removes));
  EXPECT_OK(co_await p->Checkpoint());
  co_await Sleep(*reactor, kSecond);
  EXPECT_OK(co_await p->Checkpoint());
  const LeafCount count = co_await CountLeaves(p);
  EXPECT_EQ(count.empty, 0u) << "of " << count.leaves << " leaves";
  // The remaining records take about 400 * 110 / 4096 full pages, or four times as many that are a
  // quarter full.
  EXPECT_LE(count.leaves, 60u);
  EXPECT_LE(count.underfull, 20u);
  // The checkpoints that free the space happen without a write that triggers them.
  co_await Sleep(*reactor, 4 * setup.engine.checkpoint_interval_ns);
  EXPECT_LE(p->stats().used_bytes, full_bytes / 10);
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

// P8: no emptied leaf is left after the next two checkpoints.
TEST_F(UpkeepTest, LeavesEmptiedInRandomOrderAreMerged) { RunInNewProcess(DeleteMost); }

// A queue: records are put at the end and deleted at the start, many times as many as it holds.
Task<void> RunQueue(Reactor* reactor, engine_test::Setup setup) {
  constexpr int kRounds = 60, kPerRound = 2000, kHeld = 3000;
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  uint64_t early_leaves = 0, early_bytes = 0, early_file = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<WriteOp> puts, removes;
    for (int i = round * kPerRound; i < (round + 1) * kPerRound; ++i) {
      puts.push_back(PutOp(Key(i), std::string(80, 'v')));
      if (i >= kHeld) removes.push_back(RemoveOp(Key(i - kHeld)));
    }
    co_await WriteAll(p, std::move(puts));
    co_await WriteAll(p, std::move(removes));
    if (round % 2 == 1) EXPECT_OK(co_await p->Checkpoint());
    co_await Sleep(*reactor, 100 * kMillisecond);
    const LeafCount count = co_await CountLeaves(p);
    if (round == 9) {
      early_leaves = count.leaves;
      early_bytes = p->stats().used_bytes;
      early_file = p->stats().file_bytes;
    }
    if (round <= 9) continue;
    EXPECT_LE(count.leaves, early_leaves + 8) << "round " << round;
    EXPECT_LE(count.empty, 2u) << "round " << round;
    EXPECT_LE(p->stats().used_bytes, early_bytes + early_bytes / 2) << "round " << round;
    EXPECT_EQ(p->stats().file_bytes, early_file) << "round " << round;
  }
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

// -- a damaged leaf

// The places on disk of the leaves that are empty.
struct EmptyLeaves final : RangeVisitor {
  bool OnSubtree(const ChildRef& ref) override {
    last = ref.location;
    return false;
  }
  bool OnLeaf(const TreeNode& leaf, uint32_t, uint32_t) override {
    if (leaf.count() == 0) places.push_back(last);
    return false;
  }
  bool OnDamage(const Status&) override {
    ++damaged;
    return true;
  }
  Extent last;
  std::vector<Extent> places;
  uint64_t damaged = 0;
};

Task<void> EmptyEverySecondLeaf(Reactor* reactor, engine_test::Setup setup) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  std::vector<WriteOp> puts;
  for (int i = 0; i < 4000; ++i) puts.push_back(PutOp(Key(i), std::string(80, 'v')));
  co_await WriteAll(p, std::move(puts));
  // These writes are applied while the engine closes, so that no leaf is merged.
  TaskGroup group;
  for (int i = 0; i < 4000; i += 25) {
    if (i % 100 >= 50) continue;
    std::vector<WriteOp> removes;
    for (int n = i; n < i + 25; ++n) removes.push_back(RemoveOp(Key(n)));
    group.Spawn(WriteInto(p, std::move(removes)));
  }
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
  co_await group.Drain();
}

Task<void> FindEmptyLeaves(Reactor* reactor, engine_test::Setup setup, std::vector<Extent>* places) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  EmptyLeaves found;
  EXPECT_OK(co_await static_cast<Replica*>((*opened)->partition(0))->tree().Walk(0, "", "", &found));
  *places = found.places;
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/false));
}

Task<void> MergeAroundDamage(Reactor* reactor, engine_test::Setup setup) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  for (int i = 0; i < 2; ++i) {
    EXPECT_OK(co_await Put(p, "zzz", "v"));
    EXPECT_OK(co_await p->Checkpoint());
    co_await Sleep(*reactor, kSecond);
  }
  EmptyLeaves found;
  EXPECT_OK(co_await static_cast<Replica*>(p)->tree().Walk(0, "", "", &found));
  EXPECT_EQ(found.damaged, 1u);
  EXPECT_LE(found.places.size(), 1u) << "leaves after the damaged one were not merged";
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/false));
}

TEST_F(UpkeepTest, ADamagedLeafKeepsNoOthersFromBeingMerged) {
  RunInNewProcess(EmptyEverySecondLeaf);
  machine_->ProcessCrash(1);
  std::vector<Extent> empty;
  SimReactor* reactor = machine_->Boot();
  EXPECT_TRUE(kernel_.RunTask(*reactor, FindEmptyLeaves(reactor, setup_, &empty)));
  ASSERT_GT(empty.size(), 20u);
  machine_->ProcessCrash(2);
  machine_->disk().FlipBit("/data/partition-00000/data", empty[empty.size() / 4].offset_bytes() + 70);
  RunInNewProcess(MergeAroundDamage);
}

TEST_F(UpkeepTest, AQueueRunsFlat) { RunInNewProcess(RunQueue); }

}  // namespace
}  // namespace pando::engine_test
