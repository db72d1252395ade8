// Snapshots through several partitions: a single moment for all of them, whatever is being written.
// Failures leave nothing behind.
#include "src/engine/snapshot_cut.h"

#include <gtest/gtest.h>

#include <deque>
#include <optional>

#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

// A partition whose messages about cuts take a random time to arrive, as on another reactor or
// machine.
class FarPartition final : public Partition {
 public:
  FarPartition(Partition* target, Reactor* reactor) : target_(target), reactor_(reactor) {}
  uint32_t id() const override { return target_->id(); }
  const Uuid& uuid() const override { return target_->uuid(); }
  Task<Result<ReadResult>> Get(std::string key, SnapshotId s, ValueRoom* room) override {
    return target_->Get(std::move(key), s, room);
  }
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    return target_->Write(std::move(ops), options);
  }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override { return target_->Scan(std::move(spec)); }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    return target_->Aggregate(std::move(start), std::move(end), at);
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId s) override {
    return target_->KeysAtRanks(std::move(start), std::move(end), std::move(ranks), s);
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    return target_->Changes(after, std::move(prefix), max_changes, max_bytes);
  }
  Version newest_change() const override { return target_->newest_change(); }
  Task<Status> PrepareCut() override {
    co_await Travel();
    co_return co_await target_->PrepareCut();
  }
  Task<Result<Version>> HoldWrites() override {
    co_await Travel();
    co_return co_await target_->HoldWrites();
  }
  Task<Status> Cut(SnapshotInfo snapshot) override {
    co_await Travel();
    co_return co_await target_->Cut(snapshot);
  }
  Task<Status> AbandonCut() override {
    co_await Travel();
    co_return co_await target_->AbandonCut();
  }
  Task<Status> RenewSnapshot(SnapshotId s, int64_t at_ms) override { return target_->RenewSnapshot(s, at_ms); }
  Task<Status> ReleaseSnapshot(SnapshotId s) override { return target_->ReleaseSnapshot(s); }
  Task<Result<Version>> HighestVersion() override { return target_->HighestVersion(); }
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override { return target_->CloseAt(mark); }
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId s) override { return target_->DescribeSnapshot(s); }
  Task<Result<PageBatch>> ReadPages(SnapshotId s, Generation since, PageCursor from, size_t max_bytes) override {
    return target_->ReadPages(s, since, std::move(from), max_bytes);
  }
  Task<Status> Checkpoint() override { return target_->Checkpoint(); }
  PartitionStats stats() const override { return target_->stats(); }

 private:
  Task<void> Travel() { co_await Sleep(*reactor_, static_cast<Nanos>(reactor_->Random() % (2 * kMillisecond))); }

  Partition* const target_;
  Reactor* const reactor_;
};

struct Chain {
  Engine* engine = nullptr;
  Reactor* reactor = nullptr;
  int writing = 0;
  uint64_t cuts = 0;
};

std::vector<Partition*> PartitionsOf(Engine* engine) {
  return {engine->partitions().begin(), engine->partitions().end()};
}

// Increments a number of its own in one partition after another, each time after the previous
// partition has acknowledged it. At any moment the numbers descend from the first partition to the
// last, by at most one.
Task<void> Climb(Chain* chain, int writer, int rounds) {
  for (int n = 1; n <= rounds; ++n) {
    for (Partition* p : chain->engine->partitions()) {
      EXPECT_OK(co_await Put(p, "w" + std::to_string(writer), std::to_string(n)));
    }
  }
  --chain->writing;
}

Task<void> CutAndLook(Chain* chain, int writers, SimRandom* random) {
  std::deque<FarPartition> far;
  std::vector<Partition*> partitions;
  for (Partition* p : chain->engine->partitions()) partitions.push_back(&far.emplace_back(p, chain->reactor));
  while (chain->writing > 0) {
    co_await Sleep(*chain->reactor, random->Between(1, 3000) * kMicrosecond);
    Result<SnapshotInfo> cut = co_await CutSnapshot(*chain->reactor, partitions, chain->reactor->WallMs() + 60'000);
    EXPECT_OK(cut.status());
    if (!cut.ok()) co_return;
    ++chain->cuts;
    for (int w = 0; w < writers; ++w) {
      std::vector<int64_t> seen;
      for (Partition* p : chain->engine->partitions()) {
        Result<ReadResult> got = co_await p->Get("w" + std::to_string(w), cut->id, nullptr);
        EXPECT_OK(got.status());
        if (!got.ok()) co_return;
        if (got->found) {
          EXPECT_LE(got->version, cut->version);
        }
        seen.push_back(got->found ? std::stoll(got->value) : 0);
      }
      for (size_t i = 1; i < seen.size(); ++i) {
        EXPECT_LE(seen[i], seen[i - 1]) << "writer " << w << ", partition " << i
                                        << ": the cut has an effect without its cause";
        EXPECT_GE(seen[i], seen[0] - 1) << "writer " << w << ", partition " << i;
      }
    }
    EXPECT_OK(co_await ReleaseSnapshot(partitions, cut->id));
  }
}

Task<void> OneMoment(Reactor* reactor, Setup setup, uint64_t seed) {
  SimRandom random(seed);
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  constexpr int kWriters = 5;
  Chain chain{engine->get(), reactor, kWriters, 0};
  TaskGroup tasks;
  for (int w = 0; w < kWriters; ++w) tasks.Spawn(Climb(&chain, w, 150));
  tasks.Spawn(CutAndLook(&chain, kWriters, &random));
  co_await tasks.Drain();
  EXPECT_GT(chain.cuts, 10u);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// SC2: a snapshot is one moment in all partitions.
TEST(SnapshotCut, IsOneMomentInAllPartitions) {
  for (uint64_t seed : Seeds(4)) {
    SCOPED_TRACE(Replay(seed));
    engine_test::Setup setup;
    setup.store.partitions = 4;
    SimOptions disk;
    disk.disk_max_ns = 300 * kMicrosecond;
    SimKernel kernel(seed, disk);
    SimReactor* reactor = kernel.AddMachine()->Boot();
    ASSERT_TRUE(kernel.RunTask(*reactor, OneMoment(reactor, setup, seed)));
  }
}

Task<void> LifeOfASnapshot(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  std::vector<Partition*> partitions = PartitionsOf(engine->get());
  for (Partition* p : partitions) EXPECT_OK(co_await Put(p, "k", "old"));
  Result<SnapshotInfo> cut = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 1000);
  EXPECT_OK(cut.status());
  for (Partition* p : partitions) EXPECT_OK(co_await Put(p, "k", "new"));
  for (Partition* p : partitions) {
    Result<ReadResult> then = co_await p->Get("k", cut->id, nullptr), now = co_await p->Get("k", kNewest, nullptr);
    EXPECT_EQ(then->value, "old");
    EXPECT_EQ(now->value, "new");
    EXPECT_GT(now->version, cut->version) << "versions of later writes exceed the snapshot's";
    EXPECT_EQ(p->stats().snapshots, 1u);
  }
  // Replaced pages stay on disk for the snapshot. (The first checkpoint writes the pages that
  // replace them.)
  EXPECT_OK(co_await (*engine)->CheckpointAll());
  for (Partition* p : partitions) EXPECT_GT(p->stats().snapshot_pinned_bytes, 0u);

  EXPECT_OK(co_await RenewSnapshot(partitions, cut->id, reactor->WallMs() + 10'000));
  co_await Sleep(*reactor, 5 * kSecond);
  Result<ReadResult> renewed = co_await partitions[0]->Get("k", cut->id, nullptr);
  EXPECT_OK(renewed.status());
  co_await Sleep(*reactor, 6 * kSecond);
  for (Partition* p : partitions) {
    const Result<ReadResult> gone = co_await p->Get("k", cut->id, nullptr);
    EXPECT_EQ(gone.code(), Code::kSnapshotGone) << "the snapshot has expired";
    EXPECT_NE(gone.status().message().find("has expired or was released"), std::string::npos);
    EXPECT_EQ((co_await p->Aggregate("", "", cut->id)).code(), Code::kSnapshotGone);
    std::vector<uint64_t> ranks{0};
    EXPECT_EQ((co_await p->KeysAtRanks("", "", ranks, cut->id)).code(), Code::kSnapshotGone);
    EXPECT_EQ(p->stats().snapshot_pinned_bytes, 0u);
  }
  EXPECT_EQ((co_await RenewSnapshot(partitions, cut->id, reactor->WallMs() + 1000)).code(), Code::kSnapshotGone);
  EXPECT_EQ((co_await ReleaseSnapshot(partitions, cut->id)).code(), Code::kSnapshotGone);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST(SnapshotCut, LivesUntilItExpires) {
  SimKernel kernel(1);
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, LifeOfASnapshot(reactor, engine_test::Setup())));
}

Task<void> HoldsTooMuch(Reactor* reactor, engine_test::Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  std::vector<Partition*> one{(*engine)->partitions()[0]};
  SnapshotId older = 0, newer = 0;
  for (SnapshotId* id : {&older, &newer}) {
    for (int i = 0; i < 300; ++i) EXPECT_OK(co_await Put(one[0], "k" + std::to_string(i), std::string(900, 'v')));
    Result<SnapshotInfo> cut = co_await CutSnapshot(*reactor, one, reactor->WallMs() + 3'600'000);
    EXPECT_OK(cut.status());
    *id = cut->id;
  }
  EXPECT_OK((co_await one[0]->Get("k1", older, nullptr)).status());
  // Each replaced page is held once more.
  for (int i = 0; i < 300; ++i) EXPECT_OK(co_await Put(one[0], "k" + std::to_string(i), std::string(900, 'w')));
  EXPECT_OK((*engine)->failure());
  EXPECT_OK(co_await (*engine)->CheckpointAll());
  co_await Sleep(*reactor, kSecond);
  EXPECT_EQ((co_await one[0]->Get("k1", older, nullptr)).code(), Code::kSnapshotGone);
  Result<ReadResult> then = co_await one[0]->Get("k1", newer, nullptr);
  EXPECT_EQ(then->value, std::string(900, 'v')) << "the younger snapshot must still exist";
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST(SnapshotCut, TheOldestMakesWayWhenTooMuchIsHeld) {
  engine_test::Setup setup;
  setup.store.partitions = 1;
  setup.engine.max_held_extents = 150;  // about 100 leaves
  SimKernel kernel(1);
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, HoldsTooMuch(reactor, setup)));
}

// With a stopped partition the cut fails, and the other partitions accept writes and cuts as
// before.
Task<void> FailedCut(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  std::vector<Partition*> partitions = PartitionsOf(engine->get());
  static_cast<Replica*>(partitions[1])->Stop(Error(Code::kIoError, "a test stops it"));
  Result<SnapshotInfo> cut = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 1000);
  EXPECT_EQ(cut.code(), Code::kUnavailable);
  EXPECT_OK(co_await Put(partitions[0], "k", "v"));
  EXPECT_EQ(partitions[0]->stats().snapshots, 0u);
  std::vector<Partition*> first{partitions[0]};
  Result<SnapshotInfo> alone = co_await CutSnapshot(*reactor, first, reactor->WallMs() + 1000);
  EXPECT_OK(alone.status());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// SC2: after a failure no partition has the snapshot or holds its writes back.
TEST(SnapshotCut, AFailureLeavesNothingBehind) {
  SimKernel kernel(1);
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, FailedCut(reactor, engine_test::Setup())));
}

// A cut waits for writes that wait for a log segment, which only a checkpoint releases on a full
// disk. The cut may fail, but it must not keep the writes waiting.
Task<void> RemoveSome(Partition* p, int writer, int* done) {
  std::vector<WriteOp> ops;
  ops.push_back(RemoveOp(fmt::format("none-{:04}", writer)));
  ops.back().condition.value = std::string(64'000, 'x');  // the record is large, but changes no page
  EXPECT_OK(co_await Write(p, std::move(ops)));
  ++*done;
}

Task<void> CutInto(Reactor* reactor, std::vector<Partition*> partitions, std::optional<Result<SnapshotInfo>>* cut) {
  *cut = co_await CutSnapshot(*reactor, std::move(partitions), reactor->WallMs() + 60'000);
}

Task<void> CutWithoutSegments(Reactor* reactor, Setup setup, SimMachine* machine) {
  constexpr int kWriters = 80;  // 5 MB of log
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  std::vector<Partition*> partitions = PartitionsOf(engine->get());
  // Each remove is promised three blocks. The files have as many free, so that none is refused.
  constexpr size_t kValueBytes = 3 * kWriters / 2 * kBlockBytes / 4;
  for (Partition* p : partitions) {
    for (int i = 0; i < 4; ++i) EXPECT_OK(co_await Put(p, "k", std::string(kValueBytes, 'v')));
    EXPECT_OK(co_await Put(p, "k", "v"));
  }
  for (int i = 0; i < 3; ++i) EXPECT_OK(co_await (*engine)->CheckpointAll());
  machine->disk().SetCapacity(machine->disk().used_bytes());
  int done = 0;
  std::optional<Result<SnapshotInfo>> cut;
  TaskGroup tasks;
  for (int w = 0; w < kWriters; ++w) tasks.Spawn(RemoveSome(partitions[static_cast<size_t>(w % 2)], w, &done));
  tasks.Spawn(CutInto(reactor, partitions, &cut));
  co_await Sleep(*reactor, 10 * kMillisecond);
  EXPECT_TRUE((*engine)->stats().log.waits_for_segment);
  EXPECT_FALSE(cut.has_value());
  co_await Sleep(*reactor, 30 * kSecond);
  EXPECT_EQ(done, kWriters);
  EXPECT_TRUE(cut.has_value());
  machine->disk().SetCapacity(1u << 30);  // so that a failed test ends
  co_await tasks.Drain();
  EXPECT_TRUE(cut->ok() || cut->code() == Code::kUnavailable) << cut->status().ToString();
  Result<SnapshotInfo> again = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 60'000);
  EXPECT_OK(again.status());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST(SnapshotCut, ACutDoesNotKeepAFullLogWaiting) {
  engine_test::Setup setup;
  setup.engine.memory_bytes = 20u << 20;
  setup.engine.log_segment_bytes = 256u << 10;
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, CutWithoutSegments(reactor, setup, machine)));
}

}  // namespace
}  // namespace pando::engine_test
