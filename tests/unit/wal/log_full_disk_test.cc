// The Log on a full disk: a recovery needs no space, wherever the process before it was killed.
#include <gtest/gtest.h>

#include "src/wal/log_impl.h"
#include "tests/support/child_process.h"
#include "tests/unit/wal/log_fixture.h"

namespace pando {
namespace {

using log_test::LogTest;
using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

class LogFullDiskTest : public LogTest {
 protected:
  // The disk has no room from now on.
  void FillDisk() { machine_->disk().SetCapacity(machine_->disk().used_bytes()); }
  // Runs a process that appends more than the disk holds. It releases what is durable if `releases`.
  // Returns false if it was killed, at its `crash_at`-th disk operation (0 = never).
  bool Live(uint64_t crash_at, bool releases);

  Lsn announced_ = 0, released_ = 0;
  Status opened_;
};

Task<void> AppendMuch(Reactor* reactor, Status* opened, Lsn* announced, Lsn* released, bool releases) {
  Recovered recovered;
  std::unique_ptr<Log> log = co_await OpenLog(*reactor, SmallLog(), &recovered, opened);
  if (!log) co_return;
  EXPECT_EQ(recovered.bad, "");
  const Lsn last = recovered.last(PartitionUuid(0));
  EXPECT_GE(last, *announced) << "an acknowledged record is lost";
  Stream a(log.get(), PartitionUuid(0), std::max(last, *released) + 1);
  if (*released > 0) a.Release(*released);
  for (int i = 0; i < 150; ++i) a.Append(5000);
  for (int i = 0; i < 40 && a.durable() < a.last(); ++i) {
    co_await Sleep(*reactor, 200 * kMillisecond);
    *announced = a.durable();
    if (releases) a.Release(a.durable());
    *released = a.released();
  }
  EXPECT_TRUE(a.failure().ok()) << a.failure().ToString();
  EXPECT_EQ(a.durable() == a.last(), releases) << "records must wait for a segment, and go on with one";
  EXPECT_EQ(log->stats().waits_for_segment, !releases);
  Status closed = co_await log->Close();
  EXPECT_EQ(closed.code(), releases ? Code::kOk : Code::kDiskFull) << closed.ToString();
}

bool LogFullDiskTest::Live(uint64_t crash_at, bool releases) {
  SimReactor& reactor = Boot();
  opened_ = Status();
  if (crash_at > 0) machine_->CrashAtDiskOp(machine_->disk_ops() + crash_at);
  const bool ended =
      kernel_.RunTask(reactor, AppendMuch(&reactor, &opened_, &announced_, &released_, releases)).has_value();
  if (ended && crash_at > 0) machine_->CrashAtDiskOp(0);
  EXPECT_TRUE(opened_.ok()) << opened_.ToString();
  return ended;
}

Task<void> OpenAndClose(Reactor* reactor, Status* opened) {
  Recovered recovered;
  std::unique_ptr<Log> log = co_await OpenLog(*reactor, SmallLog(), &recovered, opened);
  if (!log) co_return;
  EXPECT_TRUE((co_await log->Close()).ok());
}

// L8: the log has no more than what it took before the disk became full. It is killed at a disk
// operation, and twice more while the next processes work.
TEST_F(LogFullDiskTest, AKilledLogOpensWithoutSpace) {
  constexpr uint64_t kOperations = 60;
  auto run_case = [&](bool power_loss, uint64_t crash_at) {
    SCOPED_TRACE(fmt::format("{} at operation {}", power_loss ? "power loss" : "kill", crash_at));
    if (machine_->running()) machine_->ProcessCrash(1);
    machine_->disk() = SimDisk();
    announced_ = released_ = 0;
    SimReactor& reactor = Boot();
    EXPECT_TRUE(kernel_.RunTask(reactor, OpenAndClose(&reactor, &opened_)));
    machine_->ProcessCrash(crash_at);
    FillDisk();
    Live(crash_at, /*releases=*/crash_at % 3 == 0);
    for (uint64_t life = 1; life <= 3 && !HasFailure(); ++life) {
      if (power_loss) {
        machine_->PowerLoss(crash_at + life);
      } else {
        machine_->ProcessCrash(crash_at + life);
      }
      FillDisk();
      // Others may have taken the space of a segment that a killed process was creating. The last
      // process has room for one, so that there are two segments: one to write, and one kept.
      if (life == 3) machine_->disk().SetCapacity(machine_->disk().used_bytes() + SmallLog().segment_bytes);
      Live(life < 3 ? 1 + crash_at * 7 * life % kOperations : 0, /*releases=*/life == 3);
    }
  };
  const std::string failure = InBatches(2 * kOperations, 10, 2, [&](uint64_t first, uint64_t last) {
    for (uint64_t c = first; c < last && !HasFailure(); ++c) run_case(c % 2 == 1, c / 2 + 1);
    return !HasFailure();
  });
  EXPECT_EQ(failure, "");
}

// A single segment that is full and released, but holds the end of the log.
TEST_F(LogFullDiskTest, TheEndMovesOnFromTheOnlySegment) {
  SimReactor& reactor = Boot();
  ASSERT_TRUE(kernel_.RunTask(reactor, OpenAndClose(&reactor, &opened_)));
  machine_->ProcessCrash(1);
  FillDisk();
  EXPECT_TRUE(Live(0, /*releases=*/true));
  EXPECT_TRUE(opened_.ok());
}

}  // namespace
}  // namespace pando
