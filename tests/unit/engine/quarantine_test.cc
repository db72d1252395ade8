// PH3, E5: damage of one partition, at the start or while it serves, while the others go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/engine/log_layout.h"
#include "src/engine/snapshot_cut.h"
#include "tests/support/log_damage.h"
#include "tests/unit/engine/quarantine_fixture.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Neither superblock can be read. What the log holds of the partition is kept until it is healed.
TEST_F(QuarantineTest, AnUnreadableFile) {
  Run(Fill);
  const std::string sound = DamageSuperblocks();
  const std::string damaged = machine_->disk().ReadAll(DataPath(0));
  EXPECT_THAT(Check(), HasSubstr(DataPath(0)));
  for (int start = 0; start < 3; ++start) {
    checkpoint_ = start == 1;
    Run(ExpectQuarantine);
  }
  EXPECT_EQ(machine_->disk().ReadAll(DataPath(0)), damaged) << "its file was written";
  machine_->disk().WriteAll(DataPath(0), sound);
  Run(FindAll);
  EXPECT_EQ(Check(), "");
}

TEST_F(QuarantineTest, AMissingFile) {
  Run(Fill);
  const std::string sound = machine_->disk().ReadAll(DataPath(0));
  machine_->disk().RemoveTree(DataPath(0));
  says_ = DataPath(0);
  Run(ExpectQuarantine);
  machine_->disk().WriteAll(DataPath(0), sound);
  Run(FindAll);
}

// What the log keeps for the partition does not stop the others. Once it is gone, the partition cannot
// come back as if nothing were missing.
TEST_F(QuarantineTest, TheLogKeepsItsUnitsAsLongAsThereIsRoom) {
  Run(Fill);
  const std::string sound = DamageSuperblocks();
  Run(FillTheLog);
  ASSERT_EQ(told_.size(), 2u);
  const auto what =
      AllOf(HasSubstr("partition 0 (hash 0000000000000000 to 7fffffffffffffff) has been quarantined since 20"),
            HasSubstr("no valid superblock"), HasSubstr("kvadmin accept-loss"));
  EXPECT_THAT(told_[0], AllOf(what, HasSubstr("put a sound copy")));
  EXPECT_THAT(told_[1], AllOf(what, HasSubstr("has dropped what the file lacks")));
  machine_->disk().WriteAll(DataPath(0), sound);
  says_ = "quarantined until the log needed the room";
  EXPECT_THAT(Check(), HasSubstr("partition 0"));
  for (int start = 0; start < 2; ++start) Run(ExpectQuarantine);
}

// Another number of reactors needs other logs, and the old one may be all that is left to repair the
// partition with.
TEST_F(QuarantineTest, TheStoreKeepsItsReactors) {
  struct Change {
    static Task<Status> Run(Reactor* reactor, EngineOptions options) {
      CO_ASSIGN_OR_RETURN(options.store, co_await LoadStore(*reactor, "/data"));
      StoreInfo store = options.store;
      co_return co_await ChangeReactors(*reactor, options, 2, &store);
    }
  };
  Run(Fill);
  const std::string sound = DamageSuperblocks();
  reactor_ = machine_->Boot();
  const Status refused = *kernel_.RunTask(*reactor_, Change::Run(reactor_, setup_.engine));
  machine_->PowerLoss(1);
  EXPECT_EQ(refused.code(), Code::kUnavailable) << refused.ToString();
  EXPECT_THAT(refused.message(),
              AllOf(HasSubstr("--reactors=1 opens it"), HasSubstr("partition 0 is quarantined"), HasSubstr(says_)));
  Run(ExpectQuarantine);
  machine_->disk().WriteAll(DataPath(0), sound);
  Run(FindAll);
}

// The root of its tree is damaged.
TEST_F(QuarantineTest, ItsRootIsDamaged) {
  setup_.engine.memory_bytes = 3u << 20;
  Run(Fill);
  const std::string sound = DamageRoot();
  for (int start = 0; start < 2; ++start) Run(ExpectQuarantine);
  machine_->disk().WriteAll(DataPath(0), sound);
  Run(FindAll);
}

// The units of the partition do not form one history any more.
TEST_F(QuarantineTest, ItsUnitsBreak) {
  Run(Fill);
  const StoreInfo store = Info();
  ASSERT_TRUE(BreakUnit(&machine_->disk(), "/data/wal-0", store.node, store.partitions[0].uuid, kRecords / 2 - 20));
  says_ = "the chain of the unit";
  for (int start = 0; start < 3; ++start) Run(ExpectQuarantine);
  EXPECT_THAT(Check(), HasSubstr("the chain of the unit"));
}

// Writes to the file fail while the partition serves. Those that wait are answered, nothing that was
// acknowledged is lost, and the next start heals it.
TEST_F(QuarantineTest, ItsFileFailsWhileItServes) {
  Run(Fill);
  says_ = DataPath(0);
  Run([](QuarantineTest* t) -> Task<void> {
    std::vector<Partition*> all(t->engine_->partitions().begin(), t->engine_->partitions().end());
    Result<SnapshotInfo> snapshot = co_await CutSnapshot(*t->reactor_, all, t->reactor_->WallMs() + 60'000);
    EXPECT_OK(snapshot.status());
    for (int i = 0; i < kRecords; i += 2) EXPECT_OK(co_await Put(t->engine_->partition(0), Key(i), Value(i)));
    t->FailWrites();
    struct Writer {
      static Task<void> Run(Partition* p, int id, int* refused) {
        for (int i = 0; i < 50; ++i) {
          const Status status = co_await Put(p, fmt::format("w{}-{}", id, i), "v");
          if (status.ok()) continue;
          EXPECT_TRUE(status.code() == Code::kAborted || status.code() == Code::kUnavailable) << status.ToString();
          ++*refused;
        }
      }
      static Task<void> Read(Partition* p) {
        for (int i = 0; i < kRecords; ++i) {
          Result<ReadResult> got = co_await p->Get(Key(i), kNewest, nullptr);
          (void)got.ok();
        }
      }
    };
    TaskGroup tasks;
    int refused = 0, other = 0;
    for (int id = 0; id < 8; ++id) {
      tasks.Spawn(Writer::Run(t->engine_->partition(0), id, &refused));
      tasks.Spawn(Writer::Run(t->engine_->partition(1), id, &other));
      tasks.Spawn(Writer::Read(t->engine_->partition(0)));
    }
    co_await Sleep(*t->reactor_, kMillisecond);
    EXPECT_FALSE((co_await t->engine_->partition(0)->Checkpoint()).ok());
    co_await tasks.Drain();
    EXPECT_GT(refused, 0);
    EXPECT_EQ(other, 0);
    co_await ExpectQuarantine(t);
    EXPECT_EQ(t->engine_->partition(0)->stats().dirty_pages, 0u) << "its pages still take memory";
    EXPECT_EQ((co_await t->engine_->partition(0)->ReleaseSnapshot(snapshot->id)).code(), Code::kSnapshotGone);
  });
  machine_->ClearFaults();
  Run(FindAll);
  EXPECT_EQ(Check(), "");
}

// Replay has more to write than memory for it, and cannot write. Whoever waits for a frame is refused,
// and the start goes on with the other partition.
TEST_F(QuarantineTest, ItsFileFailsDuringRecovery) {
  const uint64_t little = setup_.engine.memory_bytes;
  setup_.engine.memory_bytes = 64u << 20;
  setup_.engine.log_budget_bytes = 32u << 20;
  Run([](QuarantineTest* t) -> Task<void> {
    co_await Fill(t);
    for (int i = 0; i < 12'000; ++i) {
      EXPECT_OK(co_await Put(t->engine_->partition(0), fmt::format("much-{:05}", i * 7919 % 12'000), Value(i)));
    }
  });
  setup_.engine.memory_bytes = little;
  says_ = DataPath(0);
  FailWrites();
  Run(ExpectQuarantine);
  machine_->ClearFaults();
  Run(FindAll);
  EXPECT_EQ(Check(), "");
}

// The checkpoint of the closing engine fails in one partition. The other one is closed properly.
TEST_F(QuarantineTest, ItsFileFailsWhileTheEngineCloses) {
  Run(Fill);
  checkpoint_ = true;
  Run([](QuarantineTest* t) -> Task<void> {
    for (int i = 0; i < kRecords; ++i) {
      EXPECT_OK(co_await Put(t->engine_->partition(static_cast<uint32_t>(i) % 2), Key(i), Value(i)));
    }
    DiskFault fault;
    fault.kind = IoOp::Kind::kSync;
    fault.path_contains = DataPath(0);
    fault.count = UINT64_MAX;
    fault.error_number = EIO;
    t->machine_->AddFault(fault);
  });
  EXPECT_EQ(quarantined_, 1);
  machine_->ClearFaults();
  Run(FindAll);
  EXPECT_EQ(Check(), "");
}

}  // namespace
}  // namespace pando::engine_test
