// Levels of writes in one replica of several, and writes that a handover holds.
#include <gtest/gtest.h>

#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

struct Outcome {
  Status status;
  std::vector<OpResult> results;
  WriteControl control;
  bool done = false;
};

Task<void> WriteLater(Partition* partition, WriteOp op, WriteLevel level, Outcome* outcome, Epoch seen = 0) {
  std::vector<WriteOp> ops{std::move(op)};
  WriteOptions options;
  options.level = level;
  options.seen_epoch = seen;
  options.control = &outcome->control;
  Result<std::vector<OpResult>> done = co_await partition->Write(std::move(ops), options);
  outcome->status = done.status();
  if (done.ok()) outcome->results = *std::move(done);
  outcome->done = true;
}

// ONE is acknowledged once it is durable, and seen once it is committed.
TEST_F(CommitGateTest, OneDoesNotWaitForTheCommit) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->followers = true;
        Outcome one, quorum, large;
        t->tasks_->Spawn(WriteLater(t->p_, PutOp("a", "1"), WriteLevel::kOne, &one));
        t->tasks_->Spawn(WriteLater(t->p_, PutOp("b", "2"), WriteLevel::kQuorum, &quorum));
        t->tasks_->Spawn(WriteLater(t->p_, PutOp("c", std::string(50'000, 'c')), WriteLevel::kOne, &large));
        EXPECT_FALSE(one.done) << "it is not durable yet";
        co_await UntilDurable(t->reactor_, t->p_);
        co_await Sleep(*t->reactor_, kMillisecond);
        EXPECT_TRUE(one.done && large.done);
        EXPECT_OK(one.status);
        EXPECT_OK(large.status);
        EXPECT_FALSE(quorum.done);
        EXPECT_EQ(one.results.size(), 1u);
        EXPECT_GT(one.results.front().version, 0u);
        EXPECT_EQ(one.control.end, (SessionPoint{t->gate_->partition->epoch(), 1}));
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "none");
        t->gate_->partition->Commit(t->p_->stats().last_lsn);
        co_await t->tasks_->Drain();
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
        EXPECT_EQ((co_await ValueOf(t->p_, "c")).size(), 50'000u);
        EXPECT_EQ(quorum.control.end, (SessionPoint{t->gate_->partition->epoch(), 2}));
        EXPECT_EQ(t->gate_->partition->applied(), (SessionPoint{t->gate_->partition->epoch(), 3}));
      },
      /*close=*/true);
}

// What is superseded before it is durable is not acknowledged.
TEST_F(CommitGateTest, OneThatIsSupersededIsUnknown) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->followers = true;
    Outcome one;
    t->tasks_->Spawn(WriteLater(t->p_, PutOp("a", "1"), WriteLevel::kOne, &one));
    while (t->p_->stats().last_lsn == 0) co_await Yield(*t->reactor_);  // until it has room, and is appended
    EXPECT_EQ(t->p_->stats().durable_lsn, 0u);
    EXPECT_FALSE(one.done);
    t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, 0);
    co_await t->tasks_->Drain();
    EXPECT_EQ(one.status.code(), Code::kAborted);
    co_await UntilDurable(t->reactor_, t->p_);
    t->gate_->partition->Commit(t->gate_->durable_lsn);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "none");
  });
}

// What came of these is known only when they are applied.
TEST_F(CommitGateTest, OneRefusesWhatDependsOnTheRecord) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->followers = true;
    WriteOp increment;
    increment.op = RecordOp::kIncrement;
    increment.key = "n";
    increment.delta = 1;
    WriteOp conditional = PutOp("a", "1");
    conditional.condition.exists = false;
    WriteOp previous = PutOp("a", "1");
    previous.return_previous = true;
    for (const WriteOp& op : {increment, conditional, previous}) {
      Outcome outcome;
      co_await WriteLater(t->p_, op, WriteLevel::kOne, &outcome);
      EXPECT_EQ(outcome.status.code(), Code::kInvalidArgument);
    }
    EXPECT_EQ(t->p_->stats().last_lsn, 0u) << "nothing was appended";
    // With one replica, all levels are the same.
    t->gate_->followers = false;
    t->gate_->commits = true;
    Outcome alone;
    co_await WriteLater(t->p_, increment, WriteLevel::kOne, &alone);
    EXPECT_OK(alone.status);
    EXPECT_EQ(alone.results.front().number, 1);
  });
}

// While nothing is committed, ONE leaves half of the log to the others.
TEST_F(CommitGateTest, OneIsRefusedWhenHalfOfTheLogIsUsedAndNothingIsCommitted) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->followers = t->gate_->is_frozen = true;
    Outcome first, refused, thawed;
    co_await WriteLater(t->p_, PutOp("a", "1"), WriteLevel::kOne, &first);
    EXPECT_OK(first.status);
    // Other partitions fill the log. What is not committed keeps it from being released.
    int puts = 0;
    while (!t->gate_->partition->log_half_used() && ++puts < 2000) {
      EXPECT_OK(co_await Put(t->engine_->partition(1), "x", std::string(60'000, 'x')));
    }
    EXPECT_LT(puts, 2000);
    co_await WriteLater(t->p_, PutOp("a", "2"), WriteLevel::kOne, &refused);
    EXPECT_EQ(refused.status.code(), Code::kOverloaded) << refused.status.ToString();
    EXPECT_EQ(t->p_->stats().last_lsn, 1u) << "nothing was appended";
    t->gate_->is_frozen = false;
    co_await WriteLater(t->p_, PutOp("a", "3"), WriteLevel::kOne, &thawed);
    EXPECT_OK(thawed.status);
  });
}

// ALL is a QUORUM write that asks the gate once more.
TEST_F(CommitGateTest, AllWaitsForTheGate) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->followers = t->gate_->commits = true;
    Outcome all;
    co_await WriteLater(t->p_, PutOp("a", "1"), WriteLevel::kAll, &all);
    EXPECT_OK(all.status);
    EXPECT_EQ(t->gate_->asked_on_all, 1u);
    t->gate_->on_all = Error(Code::kAborted, "one has died");
    Outcome unknown;
    co_await WriteLater(t->p_, PutOp("a", "2"), WriteLevel::kAll, &unknown);
    EXPECT_EQ(unknown.status.code(), Code::kAborted);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "2");
    Outcome quorum;
    co_await WriteLater(t->p_, PutOp("a", "3"), WriteLevel::kQuorum, &quorum);
    EXPECT_OK(quorum.status);
    EXPECT_EQ(t->gate_->asked_on_all, 2u);
  });
}

// LV5: also right before the append, when the write has waited.
TEST_F(CommitGateTest, ASessionIsNotWrittenForByAnOlderMaster) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    const Epoch epoch = t->gate_->partition->epoch();
    for (const WriteLevel level : {WriteLevel::kOne, WriteLevel::kQuorum, WriteLevel::kAll}) {
      const Lsn before = t->p_->stats().last_lsn;
      Outcome refused, taken;
      co_await WriteLater(t->p_, PutOp("a", "1"), level, &refused, epoch + 1);
      EXPECT_EQ(refused.status.code(), Code::kNotMaster);
      EXPECT_EQ(t->p_->stats().last_lsn, before) << "nothing was appended";
      co_await WriteLater(t->p_, PutOp("a", "2"), level, &taken, epoch);
      EXPECT_OK(taken.status);
    }
  });
}

// The same without a coroutine.
TEST_F(CommitGateTest, APointWriteOfASessionDoesNotBeginAtAnOlderMaster) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    // The file of a new partition is small. It grows when many writes are admitted at once.
    Outcome outcomes[300];
    for (Outcome& outcome : outcomes)
      t->tasks_->Spawn(WriteLater(t->p_, PutOp("a", "0"), WriteLevel::kQuorum, &outcome));
    co_await t->tasks_->Drain();
    const Epoch epoch = t->gate_->partition->epoch();
    for (const Epoch seen : {epoch, epoch + 1}) {
      AwaitedWrite write(*t->reactor_);
      write.partition = t->p_;
      write.op = PutOp("a", "1");
      write.seen_epoch = seen;
      PointWrite* const batch[] = {&write};
      t->engine_->BatchWrite(batch);
      EXPECT_EQ(write.begun, seen == epoch);
      while (write.begun && !write.over) co_await write.done.Wait();
    }
  });
}

class HeldWriteTest : public CommitGateTest {
 public:
  // Writes during a handover. Returns when both wait.
  static Task<void> Begin(CommitGateTest* t, Outcome* patient, Outcome* hasty, WaitQueue* held) {
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "a", "0"));
    t->gate_->reactor = t->reactor_;
    t->gate_->held = held;
    t->gate_->leads = false;
    patient->control.deadline_ns = t->reactor_->NowNs() + 10 * kSecond;
    t->tasks_->Spawn(WriteLater(t->p_, PutOp("a", "1"), WriteLevel::kQuorum, patient));
    co_await WriteLater(t->p_, PutOp("a", "2"), WriteLevel::kQuorum, hasty);  // it has no deadline
    co_await Sleep(*t->reactor_, 50 * kMillisecond);
    EXPECT_FALSE(patient->done);
  }
  static void End(CommitGateTest* t, bool leads) {
    t->gate_->leads = leads;
    WaitQueue* held = std::exchange(t->gate_->held, nullptr);
    held->NotifyAll();
  }
};

TEST_F(HeldWriteTest, IsWrittenWhenTheHandoverIsGivenUp) {
  Run([](CommitGateTest* t) -> Task<void> {
    WaitQueue held(*t->reactor_);
    Outcome patient, hasty;
    co_await HeldWriteTest::Begin(t, &patient, &hasty, &held);
    EXPECT_EQ(hasty.status.code(), Code::kNotMaster) << "a write without a deadline is not held";
    HeldWriteTest::End(t, true);
    co_await t->tasks_->Drain();
    EXPECT_OK(patient.status);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
  });
}

TEST_F(HeldWriteTest, IsRefusedWhenTheHandoverIsDone) {
  Run([](CommitGateTest* t) -> Task<void> {
    WaitQueue held(*t->reactor_);
    Outcome patient, hasty;
    co_await HeldWriteTest::Begin(t, &patient, &hasty, &held);
    HeldWriteTest::End(t, false);
    co_await t->tasks_->Drain();
    EXPECT_EQ(patient.status.code(), Code::kNotMaster);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "0");
  });
}

// It can be withdrawn while it waits, and then never takes effect.
TEST_F(HeldWriteTest, CanBeWithdrawn) {
  Run([](CommitGateTest* t) -> Task<void> {
    WaitQueue held(*t->reactor_);
    Outcome patient, hasty;
    co_await HeldWriteTest::Begin(t, &patient, &hasty, &held);
    EXPECT_TRUE(patient.control.Withdraw());
    HeldWriteTest::End(t, true);
    co_await t->tasks_->Drain();
    EXPECT_EQ(patient.status.code(), Code::kDeadline);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "0");
  });
}

// The handover begins while the write waits for a page or for room.
TEST_F(HeldWriteTest, IsHeldAlsoAfterItWasPrepared) {
  Run([](CommitGateTest* t) -> Task<void> {
    WaitQueue held(*t->reactor_);
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "a", "0"));
    EXPECT_OK(co_await t->p_->PrepareCut());
    EXPECT_OK((co_await t->p_->HoldWrites()).status());
    Outcome patient;
    patient.control.deadline_ns = t->reactor_->NowNs() + 10 * kSecond;
    t->tasks_->Spawn(WriteLater(t->p_, PutOp("a", std::string(50'000, '1')), WriteLevel::kQuorum, &patient));
    co_await Sleep(*t->reactor_, kMillisecond);
    t->gate_->reactor = t->reactor_;
    t->gate_->held = &held;
    t->gate_->leads = false;
    EXPECT_OK(co_await t->p_->AbandonCut());
    co_await Sleep(*t->reactor_, 50 * kMillisecond);
    EXPECT_FALSE(patient.done) << patient.status.ToString();
    HeldWriteTest::End(t, true);
    co_await t->tasks_->Drain();
    EXPECT_OK(patient.status);
    EXPECT_EQ((co_await ValueOf(t->p_, "a")).size(), 50'000u);
  });
}

}  // namespace
}  // namespace pando::engine_test
