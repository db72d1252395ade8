// Crash test of `kvadmin accept-loss --log`: stops the command at each of its disk operations, by power loss or a
// crash of the process, and again while it is repeated (AL3, LC1, LC2). The store is then as it was, or done, or every
// start is refused and names the command, which goes on where it stopped. Whatever happens, each partition keeps what
// was shown (AL4).
#include "tests/support/child_process.h"
#include "tests/support/log_loss_harness.h"

namespace pando::engine_test {
namespace {

constexpr uint64_t kCasesPerChild = 30;

class AcceptLossCrash : public AcceptLogLossTest, public testing::WithParamInterface<int> {
 public:
  void Damage() {
    const std::string path = Middle();
    if (GetParam() == 0) Flip(path, MiddleBatch(path) + 40);
    if (GetParam() == 1) Flip(path, 20);
    if (GetParam() == 2) disk().RemoveTree("/data/wal-0");
  }

  // Stops the command at its operation `op`, and then at a random one, twice.
  void StopAndRepeat(uint64_t op) {
    reactor_ = machine_->Boot();
    machine_->CrashAtDiskOp(machine_->disk_ops() + op);
    kernel_.RunTask(*reactor_, AcceptIt(reactor_));
    machine_->CrashAtDiskOp(0);
    for (int again = 0; again < 2; ++again) {
      if (op % 2 == 0) {
        machine_->PowerLoss(op);
      } else {
        machine_->ProcessCrash(op);
      }
      const Result<LogLossReport> report = Report();
      if (report.ok()) {
        EXPECT_EQ(report->cut.at, shown_.cut.at);
        EXPECT_EQ(report->damage, shown_.damage);
      }
      reactor_ = machine_->Boot();
      machine_->CrashAtDiskOp(machine_->disk_ops() + 1 + random_.Below(60));
      kernel_.RunTask(*reactor_, AcceptIt(reactor_));
      machine_->CrashAtDiskOp(0);
    }
    machine_->PowerLoss(op);
  }

  // The command is done, or a start is refused and names it; then it can be repeated.
  void ExpectDone(uint64_t op) {
    const Status start = Run(nullptr);
    if (!start.ok()) {
      EXPECT_THAT(std::string(start.message()), testing::HasSubstr(kLossCommand));
      EXPECT_OK(Accept());
    }
    ExpectKept(shown_, files_);
    if (op % 10 == 0) return GoOn(shown_);
    EXPECT_EQ(Check(), "");
    EXPECT_OK(Run(TakePrefixes));
    for (const PartitionLogLoss& p : shown_.partitions) EXPECT_EQ(kept_[p.info.id], p.keeps_lsn);
  }

  // How many operations the command has when nothing stops it.
  uint64_t Operations() {
    reactor_ = machine_->Boot();
    const uint64_t before = machine_->disk_ops();
    const Status status = *kernel_.RunTask(*reactor_, AcceptIt(reactor_));
    EXPECT_OK(status);
    const uint64_t operations = machine_->disk_ops() - before;
    machine_->PowerLoss(1);
    return operations;
  }

  LogLossReport shown_;
  DiskFiles files_;  // before
};

TEST_P(AcceptLossCrash, AtEachOperation) {
  writes_in_a_run_ = 60;
  Fill(/*runs=*/1);
  Damage();
  const SimDisk before = disk();
  files_ = Files("/data/");
  Result<LogLossReport> shown = Report();
  PANDO_ASSERT_OK(shown.status());
  shown_ = *std::move(shown);
  const std::vector<History> histories(histories_, histories_ + kLossPartitions);
  const uint64_t operations = Operations();
  EXPECT_GT(operations, 40u);
  const char* const only = std::getenv("PANDO_TEST_CRASH_OP");
  const std::string failure = InBatches(operations, kCasesPerChild, 2, [&](uint64_t first, uint64_t last) {
    for (uint64_t op = first + 1; op <= last && !HasFailure(); ++op) {
      if (only && op != std::strtoull(only, nullptr, 10)) continue;
      SCOPED_TRACE(fmt::format("replay: PANDO_TEST_CRASH_OP={} bin/crash_accept_loss_crash --gtest_filter=*/{}", op,
                               GetParam()));
      disk() = before;
      std::copy(histories.begin(), histories.end(), histories_);
      StopAndRepeat(op);
      ExpectDone(op);
    }
    return !HasFailure();
  });
  EXPECT_EQ(failure, "");
}
INSTANTIATE_TEST_SUITE_P(Damages, AcceptLossCrash, testing::Values(0, 1, 2));

}  // namespace
}  // namespace pando::engine_test
