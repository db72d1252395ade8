// Durable is not committed: gates that commit late, in part or never, and epochs that supersede.
#include <gtest/gtest.h>

#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

// P1, P3: what is durable is neither seen nor acknowledged before it is committed.
TEST_F(CommitGateTest, UnitsAreAppliedWhenTheyAreCommitted) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        t->tasks_->Spawn(PutLater(t->p_, "b", "2", &t->b_));
        co_await UntilDurable(t->reactor_, t->p_);
        EXPECT_EQ(t->gate_->durable_lsn, 2u);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "none");
        EXPECT_FALSE(t->a_.done);
        t->gate_->partition->Commit(1);
        co_await Sleep(*t->reactor_, kMillisecond);
        EXPECT_TRUE(t->a_.done && t->a_.code == Code::kOk);
        EXPECT_FALSE(t->b_.done);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
        EXPECT_EQ(t->p_->stats().applied_lsn, 1u);
        t->gate_->partition->Commit(2);
        co_await t->tasks_->Drain();
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "2");
      },
      /*close=*/true);
}

// CG2: a higher epoch supersedes what is not committed. After a restart it is still gone.
TEST_F(CommitGateTest, AHigherEpochSupersedes) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
    t->tasks_->Spawn(PutLater(t->p_, "b", std::string(20'000, 'b'), &t->b_));
    co_await UntilDurable(t->reactor_, t->p_);
    t->tasks_->Spawn(PutLater(t->p_, "c", "3", &t->c_));  // appended, and perhaps not durable
    const Epoch epoch = t->gate_->partition->epoch();
    t->gate_->partition->BeginEpoch(epoch + 1, 1);
    co_await Sleep(*t->reactor_, kMillisecond);
    EXPECT_TRUE(t->b_.done && t->b_.code == Code::kAborted);
    EXPECT_FALSE(t->a_.done);
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ(t->p_->stats().epoch, epoch + 1);
    t->gate_->partition->Commit(t->gate_->durable_lsn);
    co_await t->tasks_->Drain();
    EXPECT_EQ(t->a_.code, Code::kOk);
    EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
    EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
    // A later batch carries the commit mark.
    EXPECT_OK(co_await Put(t->engine_->partition(1), "x", "y"));
  });
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_GE(t->gate_->recovered.epoch, 2u);
        t->gate_->partition->Commit(t->p_->stats().last_lsn);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
        EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
      },
      /*close=*/true);
}

// The tail is only log: a restart finds it, a checkpoint does not contain it, and it can still be
// committed or superseded.
TEST_F(CommitGateTest, TheTailOutlivesARestart) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
    co_await UntilDurable(t->reactor_, t->p_);
    t->gate_->partition->Commit(1);
    t->tasks_->Spawn(PutLater(t->p_, "b", std::string(20'000, 'b'), &t->b_));
    t->tasks_->Spawn(PutLater(t->p_, "c", "3", &t->c_));
    co_await UntilDurable(t->reactor_, t->p_);
  });
  for (int restart = 0; restart < 3; ++restart) {
    Run([](CommitGateTest* t) -> Task<void> {
      EXPECT_EQ(t->gate_->recovered.committed_lsn, 1u);
      EXPECT_EQ(t->gate_->recovered.durable_lsn, 3u);
      EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
      EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
      EXPECT_OK(co_await t->p_->Checkpoint());
      EXPECT_OK(co_await t->p_->Checkpoint());
      EXPECT_EQ(t->p_->stats().checkpoint_lsn, 1u);
    });
  }
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->partition->Commit(2);
        co_await Sleep(*t->reactor_, kMillisecond);
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), std::string(20'000, 'b'));
        EXPECT_EQ(co_await ValueOf(t->p_, "c"), "none");
        t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, 2);
        co_await UntilDurable(t->reactor_, t->p_);
        t->gate_->partition->Commit(3);
        EXPECT_OK(co_await Put(t->engine_->partition(1), "x", "y"));
      },
      /*close=*/true);
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), std::string(20'000, 'b'));
        EXPECT_EQ(co_await ValueOf(t->p_, "c"), "none");
        EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
      },
      /*close=*/true);
}

// WQ2: a gate that never opens refuses writes at 8 MiB, and the other partition goes on. Closing
// does not wait for it.
TEST_F(CommitGateTest, AGateThatNeverOpens) {
  setup_.engine.log_budget_bytes = 64u << 20;
  setup_.engine.memory_bytes = 16u << 20;
  static std::vector<Pending> pending;
  pending.assign(120, Pending());
  Run(
      [](CommitGateTest* t) -> Task<void> {
        for (size_t i = 0; i < pending.size(); ++i) {
          t->tasks_->Spawn(PutLater(t->p_, fmt::format("k{:03}", i), std::string(100'000, 'v'), &pending[i]));
          co_await UntilDurable(t->reactor_, t->p_);
        }
        const PartitionStats stats = t->p_->stats();
        EXPECT_LE(stats.uncommitted_bytes, UncommittedLimits().bytes);
        EXPECT_GT(stats.uncommitted_bytes, UncommittedLimits().bytes - 200'000);
        EXPECT_EQ(pending.back().code, Code::kOverloaded);
        EXPECT_GT(stats.uncommitted_refused_total, 0u);
        for (int i = 0; i < 50; ++i) EXPECT_OK(co_await Put(t->engine_->partition(1), fmt::format("{}", i), "v"));
      },
      /*close=*/true);
  EXPECT_TRUE(gate_ != nullptr);
  for (const Pending& p : pending) {
    EXPECT_TRUE(p.done && (p.code == Code::kAborted || p.code == Code::kOverloaded)) << static_cast<int>(p.code);
  }
}

// L10: a tail that cannot be committed does not fill the log of the others. It is appended again, so
// that what it pinned is released, and every restart finds it.
TEST_F(CommitGateTest, TheLogOfTheOthersGoesOn) {
  setup_.engine.log_budget_bytes = 24u << 20;
  setup_.engine.log_segment_bytes = 1u << 20;
  setup_.engine.memory_bytes = 16u << 20;
  for (int restart = 0; restart < 2; ++restart) {
    Run([](CommitGateTest* t) -> Task<void> {
      const Lsn first = t->p_->stats().last_lsn;
      EXPECT_EQ(first, t->gate_->recovered.durable_lsn);
      for (int i = 0; i < 20; ++i) {
        const std::string key = fmt::format("t{:03}", first + static_cast<Lsn>(i));
        t->tasks_->Spawn(PutLater(t->p_, key, std::string(50'000, 'v'), &t->a_));
        // In many segments, with records of others between them.
        for (int n = 0; n < 10; ++n) EXPECT_OK(co_await Put(t->engine_->partition(1), key, std::string(30'000, 'o')));
      }
      for (int i = 0; i < 1500; ++i) {
        EXPECT_OK(co_await Put(t->engine_->partition(1), fmt::format("{}", i % 50), std::string(40'000, 'o')));
      }
      EXPECT_EQ(t->p_->stats().committed_lsn, 0u);
      EXPECT_LT(t->engine_->stats().log.unreleased_bytes, 24u << 20);
    });
  }
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_EQ(t->gate_->recovered.durable_lsn, 40u);
        t->gate_->partition->Commit(40);
        while (t->p_->stats().applied_lsn < 40) co_await Sleep(*t->reactor_, kMillisecond);
        for (int i = 0; i < 40; ++i) {
          EXPECT_EQ(co_await ValueOf(t->p_, fmt::format("t{:03}", i)), std::string(50'000, 'v'));
        }
      },
      /*close=*/true);
}

// With one replica each start is an epoch of its own.
TEST_F(CommitGateTest, EachStartBeginsAnEpoch) {
  static std::vector<Epoch> epochs;
  epochs.clear();
  for (int start = 0; start < 3; ++start) {
    Run(
        [](CommitGateTest* t) -> Task<void> {
          Partition* other = t->engine_->partition(1);
          EXPECT_OK(co_await Put(other, "a", "1"));
          epochs.push_back(other->stats().epoch);
        },
        /*close=*/start == 1);
  }
  EXPECT_LT(epochs[0], epochs[1]);
  EXPECT_LT(epochs[1], epochs[2]);
}

}  // namespace
}  // namespace pando::engine_test
