// AL1, AL2, L13: a quarantined partition serves again once an operator has accepted the loss, and what
// is written to it from then on is not lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/engine/log_layout.h"
#include "src/verify/accept_loss.h"
#include "tests/support/log_damage.h"
#include "tests/unit/engine/quarantine_fixture.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

MakePartitionFile Empty(Reactor* reactor) {
  return [reactor](uint32_t, PartitionFileOptions made) { return CreateEmptySuccessor(*reactor, std::move(made)); };
}

class AcceptLossTest : public QuarantineTest {
 public:
  static Task<Result<LossReport>> Examine(Reactor* reactor) {
    CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, "/data"));
    co_return co_await ExamineLoss(*reactor, std::move(store), 0);
  }
  static Task<Status> AcceptIt(Reactor* reactor, bool empty) {
    CO_ASSIGN_OR_RETURN(const LossReport report, co_await Examine(reactor));
    co_return co_await AcceptLoss(*reactor, &report, empty ? Empty(reactor) : nullptr);
  }
  LossReport Report() {
    reactor_ = machine_->Boot();
    Result<LossReport> report = *kernel_.RunTask(*reactor_, Examine(reactor_));
    machine_->PowerLoss(1);
    EXPECT_OK(report.status());
    checkpoint_lsn_ = report->file.checkpoint_lsn;
    return *std::move(report);
  }
  Status Accept(bool empty) {
    reactor_ = machine_->Boot();
    const Status status = *kernel_.RunTask(*reactor_, AcceptIt(reactor_, empty));
    machine_->PowerLoss(1);
    return status;
  }
  static Task<void> FindOdd(QuarantineTest* t) {
    for (int i = 1; i < kRecords; i += 2) co_await Find(t, i);
  }
  // Partition 1 has everything; partition 0 what the last checkpoint of Fill holds, and what was written
  // since its loss was accepted.
  static Task<void> ExpectCheckpoint(QuarantineTest* t) {
    auto* self = static_cast<AcceptLossTest*>(t);
    EXPECT_EQ(t->quarantined_, 0);
    co_await FindOdd(t);
    // Fill writes one of them after the other.
    for (int i = 0; i < kRecords; i += 2) {
      Result<ReadResult> got = co_await t->engine_->partition(0)->Get(Key(i), kNewest, nullptr);
      EXPECT_OK(got.status());
      EXPECT_EQ(got.ok() && got->found, static_cast<Lsn>(i / 2) < self->checkpoint_lsn_) << i;
    }
    co_await ExpectNew(t);
  }
  static Task<void> ExpectEmpty(QuarantineTest* t) {
    EXPECT_EQ(t->quarantined_, 0);
    co_await FindOdd(t);
    for (int i = 0; i < kRecords; i += 2) {
      Result<ReadResult> got = co_await t->engine_->partition(0)->Get(Key(i), kNewest, nullptr);
      EXPECT_OK(got.status());
      EXPECT_FALSE(got.ok() && got->found) << i;
    }
    co_await ExpectNew(t);
  }
  // What the starts before have written is there. Writes more.
  static Task<void> ExpectNew(QuarantineTest* t) {
    auto* self = static_cast<AcceptLossTest*>(t);
    Partition* p = t->engine_->partition(0);
    for (int i = 0; i < self->new_records_; ++i) {
      Result<ReadResult> got = co_await p->Get(fmt::format("new-{}", i), kNewest, nullptr);
      EXPECT_TRUE(got.ok() && got->found) << "new record " << i << " of " << self->new_records_ << " is lost";
    }
    for (int i = 0; i < 5; ++i) EXPECT_OK(co_await Put(p, fmt::format("new-{}", self->new_records_++), "v"));
    Result<ReadResult> got = co_await p->Get("new-0", kNewest, nullptr);
    EXPECT_GT(got->version, self->version_before_) << "a version was given before";
  }
  static Task<void> NoteVersion(QuarantineTest* t) {
    co_await Fill(t);
    Result<ReadResult> got = co_await t->engine_->partition(0)->Get(Key(kRecords - 2), kNewest, nullptr);
    static_cast<AcceptLossTest*>(t)->version_before_ = got->version;
  }
  // Drops the units of partition 0 from the log, and puts its file back.
  void DropUnits() {
    Run(NoteVersion);
    const std::string sound = DamageSuperblocks();
    Run(FillTheLog);
    machine_->disk().WriteAll(DataPath(0), sound);
    says_ = "quarantined until the log needed the room";
    Run(ExpectQuarantine);
  }

  // `expect`: once the loss is accepted. The call has more than `least` operations.
  void StopAtEachOperation(bool empty, Task<void> (*expect)(QuarantineTest*), uint64_t least) {
    const SimDisk before = machine_->disk();
    for (uint64_t op = 1;; ++op) {
      machine_->disk() = before;
      new_records_ = 0;
      reactor_ = machine_->Boot();
      machine_->CrashAtDiskOp(machine_->disk_ops() + op);
      const bool over = kernel_.RunTask(*reactor_, AcceptIt(reactor_, empty)).has_value();
      machine_->CrashAtDiskOp(0);
      machine_->PowerLoss(op);
      Run(FindOdd);
      if (quarantined_ > 0) {
        EXPECT_OK(Accept(empty));
      }
      Run(expect);
      Run(expect);
      if (over) {
        EXPECT_GT(op, least);
        return;
      }
      ASSERT_FALSE(HasFailure()) << "after operation " << op;
    }
  }

  int new_records_ = 0;
  Lsn checkpoint_lsn_ = 0;  // in the last report
  Version version_before_ = 0;
};

TEST_F(AcceptLossTest, AfterTheLogDroppedItsUnits) {
  DropUnits();
  const LossReport report = Report();
  EXPECT_TRUE(report.file_opens);
  EXPECT_EQ(report.problems.size(), 1u);
  EXPECT_EQ(report.file.tree_problems, 0u);
  EXPECT_EQ(report.logged_lsn, Lsn{kRecords / 2});
  EXPECT_GE(report.logged_version, version_before_);
  EXPECT_LT(report.file.checkpoint_lsn, report.logged_lsn);
  Run(ExpectQuarantine);  // to look changes nothing
  EXPECT_OK(Accept(/*empty=*/false));
  EXPECT_EQ(Problems(), "");
  for (int start = 0; start < 3; ++start) {
    checkpoint_ = start == 1;
    Run(ExpectCheckpoint);
    EXPECT_EQ(Problems(), "");
  }
  EXPECT_TRUE(Report().problems.empty());
}

// The log still holds what means nothing any more, and keeps it from no segment.
TEST_F(AcceptLossTest, AfterItsUnitsBroke) {
  Run(NoteVersion);
  const StoreInfo store = Info();
  ASSERT_TRUE(BreakUnit(&machine_->disk(), "/data/wal-0", store.node, store.partitions[0].uuid, kRecords / 2 - 20));
  says_ = "the chain of the unit";
  Run(ExpectQuarantine);
  EXPECT_LT(Report().file.checkpoint_lsn, Lsn{kRecords / 2});
  EXPECT_GT(Report().logged_lsn, Report().file.checkpoint_lsn);
  EXPECT_OK(Accept(/*empty=*/false));
  EXPECT_EQ(Report().logged_lsn, 0u) << "what was accepted to be lost would be lost again";
  for (int start = 0; start < 3; ++start) {
    EXPECT_EQ(Problems(), "");
    Run(ExpectCheckpoint);
  }
  Run([](QuarantineTest* t) -> Task<void> {
    for (int i = 0; i < 600; ++i) {
      EXPECT_OK(co_await Put(t->engine_->partition(1), fmt::format("much-{}", i % 20), std::string(9000, 'm')));
    }
    EXPECT_LT(t->engine_->stats().log.unreleased_bytes, 2u << 20);
  });
  Run(ExpectCheckpoint);
}

TEST_F(AcceptLossTest, AFileThatCannotBeOpenedIsReplaced) {
  Run(NoteVersion);
  DamageSuperblocks();
  const std::string damaged = machine_->disk().ReadAll(DataPath(0));
  EXPECT_FALSE(Report().file_opens);
  const Status refused = Accept(/*empty=*/false);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument) << refused.ToString();
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(DataPath(0)), HasSubstr("backup")));
  Run(ExpectQuarantine);
  EXPECT_OK(Accept(/*empty=*/true));
  EXPECT_EQ(machine_->disk().ReadAll("/data/partition-00000/data.damaged-1"), damaged) << "AL2";
  for (int start = 0; start < 3; ++start) {
    EXPECT_EQ(Problems(), "");
    Run(ExpectEmpty);
  }
}

TEST_F(AcceptLossTest, AMissingDirectoryIsReplaced) {
  Run(NoteVersion);
  machine_->disk().RemoveTree("/data/partition-00000");
  EXPECT_OK(Accept(/*empty=*/true));
  Run(ExpectEmpty);
  EXPECT_EQ(Problems(), "");
}

TEST_F(AcceptLossTest, ADamagedRootIsReplaced) {
  Run(NoteVersion);
  DamageRoot();
  const LossReport report = Report();
  EXPECT_FALSE(report.file_opens);
  EXPECT_EQ(report.file.tree_problems, 1u);
  EXPECT_FALSE(Accept(/*empty=*/false).ok());
  EXPECT_OK(Accept(/*empty=*/true));
  Run(ExpectEmpty);
}

// L13: the positions in the log go on, even if the log itself is lost.
TEST_F(AcceptLossTest, AndTheLogIsLostLater) {
  DropUnits();
  EXPECT_OK(Accept(/*empty=*/false));
  machine_->disk().RemoveTree("/data/wal-0");
  reactor_ = machine_->Boot();
  const Status accepted = *kernel_.RunTask(*reactor_, AcceptLossOfLog(reactor_, "/data"));
  EXPECT_OK(accepted);
  machine_->PowerLoss(1);
  Run([](QuarantineTest* t) -> Task<void> { co_await ExpectNew(t); });
  for (int start = 0; start < 2; ++start) Run([](QuarantineTest* t) -> Task<void> { co_await ExpectNew(t); });
  EXPECT_EQ(Problems(), "");
}

// The store can be given to another number of reactors, whose logs hold nothing of the old history.
TEST_F(AcceptLossTest, AndTheNumberOfReactorsChanges) {
  Run(NoteVersion);
  const StoreInfo store = Info();
  ASSERT_TRUE(BreakUnit(&machine_->disk(), "/data/wal-0", store.node, store.partitions[0].uuid, kRecords / 2 - 20));
  Report();
  EXPECT_OK(Accept(/*empty=*/false));
  Run(ExpectCheckpoint);
  struct Change {
    static Task<Status> Run(Reactor* reactor, EngineOptions options) {
      CO_ASSIGN_OR_RETURN(options.store, co_await LoadStore(*reactor, "/data"));
      StoreInfo now = options.store;
      CO_RETURN_IF_ERROR(co_await ChangeReactors(*reactor, options, 2, &now));
      EXPECT_TRUE(now.dropped.empty());
      options.store = now;
      co_return co_await ChangeReactors(*reactor, options, 1, &now);
    }
  };
  reactor_ = machine_->Boot();
  const Status changed = *kernel_.RunTask(*reactor_, Change::Run(reactor_, setup_.engine));
  EXPECT_OK(changed);
  machine_->PowerLoss(1);
  Run(ExpectCheckpoint);
}

// A copy of the partition's directory in the store is not taken for what a dropped partition left.
TEST_F(AcceptLossTest, CopiesOfItsFileStay) {
  DropUnits();
  EXPECT_OK(Accept(/*empty=*/false));
  const std::string copy = machine_->disk().ReadAll(DataPath(0));
  machine_->disk().WriteAll("/data/partition-00000.copy/data", copy);
  const StoreInfo store = Info();
  reactor_ = machine_->Boot();
  const Status removed = *kernel_.RunTask(*reactor_, RemoveLeftovers(*reactor_, &store));
  EXPECT_OK(removed);
  EXPECT_EQ(machine_->disk().ReadAll("/data/partition-00000.copy/data"), copy);
}

// AL1: stops the call at each of its disk operations, by power loss. A start serves partition 1 whole,
// and the call succeeds when it is repeated. (A backup differs from an empty partition only in who makes
// the new file.)
TEST_F(AcceptLossTest, APowerFailureAtEachOperation) {
  Run(NoteVersion);
  DamageSuperblocks();
  StopAtEachOperation(/*empty=*/true, ExpectEmpty, 15);
}

TEST_F(AcceptLossTest, APowerFailureAtEachOperationOfContinuing) {
  DropUnits();
  Report();
  StopAtEachOperation(/*empty=*/false, ExpectCheckpoint, 5);
}

}  // namespace
}  // namespace pando::engine_test
