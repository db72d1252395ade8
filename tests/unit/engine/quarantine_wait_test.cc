// E4: whatever runs when a write to the file of a partition fails comes to its end: a scrub pass,
// checkpoints of all partitions, snapshots, writers and readers.
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "tests/unit/engine/quarantine_fixture.h"

namespace pando::engine_test {
namespace {

constexpr Nanos kPatience = 30 * kSecond;

class QuarantineWaitTest : public QuarantineTest {
 public:
  // The scrub must end its pass.
  static Task<void> EndOfPass(QuarantineTest* t) {
    Scrubber& scrubber = t->engine_->scrubber();
    const Nanos give_up_ns = t->reactor_->NowNs() + kPatience;
    while (scrubber.report().running && t->reactor_->NowNs() < give_up_ns) {
      co_await Sleep(*t->reactor_, 10 * kMillisecond);
    }
    EXPECT_FALSE(scrubber.report().running) << "the scrub waits for a partition that is quarantined";
    EXPECT_EQ(scrubber.report().findings.size(), 0u);
  }
  static Task<void> Writer(QuarantineTest* t, uint32_t partition, int id) {
    for (int i = 0; i < 40; ++i) {
      const Status status = co_await Put(t->engine_->partition(partition), fmt::format("w{}-{}", id, i), Value(i));
      EXPECT_TRUE(partition == 0 || status.ok()) << status.ToString();
    }
  }
  static Task<void> Reader(QuarantineTest* t, uint32_t partition) {
    for (int i = 0; i < kRecords; ++i) {
      Result<ReadResult> got = co_await t->engine_->partition(partition)->Get(Key(i), kNewest, nullptr);
      EXPECT_TRUE(partition == 0 || got.ok());
    }
  }
  static Task<void> Checkpoints(QuarantineTest* t) {
    for (int i = 0; i < 4; ++i) {
      const Status status = co_await t->engine_->CheckpointAll();
      EXPECT_TRUE(status.ok() || t->quarantined_ > 0) << status.ToString();
    }
  }
  static Task<void> Snapshots(QuarantineTest* t) {
    std::vector<Partition*> all(t->engine_->partitions().begin(), t->engine_->partitions().end());
    for (int i = 0; i < 4; ++i) {
      Result<SnapshotInfo> snapshot = co_await CutSnapshot(*t->reactor_, all, t->reactor_->WallMs() + 60'000);
      EXPECT_TRUE(snapshot.ok() || t->quarantined_ > 0) << snapshot.status().ToString();
      co_await Sleep(*t->reactor_, kMillisecond);
      if (!snapshot.ok()) continue;
      for (Partition* p : all) {
        const Status released = co_await p->ReleaseSnapshot(snapshot->id);
        EXPECT_TRUE(released.ok() || t->quarantined_ > 0);
      }
    }
  }
  static Task<void> Everything(QuarantineTest* t) {
    TaskGroup tasks;
    for (uint32_t partition : {0u, 1u}) {
      for (int id = 0; id < 4; ++id) tasks.Spawn(Writer(t, partition, id));
      tasks.Spawn(Reader(t, partition));
    }
    tasks.Spawn(Checkpoints(t));
    tasks.Spawn(Snapshots(t));
    for (int pass = 0; pass < 3; ++pass) {
      t->engine_->scrubber().StartPass(uint64_t{1} << 30);
      co_await Sleep(*t->reactor_, 2 * kMillisecond);
    }
    co_await tasks.Drain();
    co_await EndOfPass(t);
  }
};

// The pass begins while the metadata of a checkpoint is half written, and the checkpoint fails.
TEST_F(QuarantineWaitTest, AScrubThatWaitsForACheckpoint) {
  Run(Fill);
  Run([](QuarantineTest* t) -> Task<void> {
    for (int i = 0; i < kRecords; i += 2) EXPECT_OK(co_await Put(t->engine_->partition(0), Key(i), Value(i)));
    DiskFault fault;
    fault.kind = IoOp::Kind::kSync;
    fault.path_contains = DataPath(0);
    fault.count = UINT64_MAX;
    t->machine_->AddFault(fault);
    // Longer than the scrub takes to notice that it is to begin.
    t->kernel_.options().disk_min_ns = 40 * kMillisecond;
    t->kernel_.options().disk_max_ns = 60 * kMillisecond;
    auto* replica = static_cast<Replica*>(t->engine_->partition(0));
    TaskGroup tasks;
    struct Checkpoint {
      static Task<void> Run(Partition* p) { EXPECT_FALSE((co_await p->Checkpoint()).ok()); }
    };
    tasks.Spawn(Checkpoint::Run(replica));
    while (!replica->partition_file().mid_commit()) co_await Sleep(*t->reactor_, 10 * kMicrosecond);
    t->engine_->scrubber().StartPass(uint64_t{1} << 30);
    co_await tasks.Drain();
    EXPECT_TRUE(replica->quarantined());
    co_await EndOfPass(t);
    EXPECT_EQ(t->engine_->scrubber().report().passes_finished, 1u);
    t->kernel_.options() = SimOptions();
  });
  machine_->ClearFaults();
  Run(FindAll);
}

// The write, or the sync, that fails is each one in turn.
TEST_F(QuarantineWaitTest, Everything) {
  int cases = 0;
  for (const IoOp::Kind kind : {IoOp::Kind::kWrite, IoOp::Kind::kSync}) {
    for (uint64_t skip = 0;; skip += kind == IoOp::Kind::kWrite ? 3 : 1) {
      machine_->disk() = SimDisk();
      Run(Fill);
      DiskFault fault;
      fault.kind = kind;
      fault.path_contains = DataPath(0);
      fault.skip = skip;
      fault.count = UINT64_MAX;
      machine_->AddFault(fault);
      checkpoint_ = skip % 2 == 0;
      Run(Everything);
      machine_->ClearFaults();
      ++cases;
      ASSERT_FALSE(HasFailure()) << "operation " << skip << " of kind " << static_cast<int>(kind);
      if (quarantined_ == 0) break;
      Run([](QuarantineTest* t) -> Task<void> {
        EXPECT_EQ(t->quarantined_, 0);
        for (int i = 0; i < kRecords; ++i) co_await Find(t, i);
      });
    }
  }
  EXPECT_GT(cases, 20);
}

}  // namespace
}  // namespace pando::engine_test
