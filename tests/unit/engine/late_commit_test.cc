// Gates that commit late, while something else is under way: a tail is appended again, a snapshot is
// being opened, the engine closes, the memory or the disk has become smaller.
#include <gtest/gtest.h>

#include <deque>

#include "src/engine/snapshot_cut.h"
#include "tests/support/sim_random.h"
#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

constexpr Lsn kTail = 80;              // records, of which each is a unit
constexpr size_t kTailValue = 50'000;  // bytes

std::string TailKey(Lsn lsn) { return fmt::format("t{:03}", lsn); }

std::vector<Partition*> PartitionsOf(Engine* engine) {
  return {engine->partitions().begin(), engine->partitions().end()};
}

struct PendingCut {
  Status status;
  Nanos took_ns = 0;
  bool done = false;
};

Task<void> CutLater(Reactor* reactor, Engine* engine, PendingCut* pending) {
  const Nanos began_ns = reactor->NowNs();
  pending->status = (co_await CutSnapshot(*reactor, PartitionsOf(engine), reactor->WallMs() + 60'000)).status();
  pending->took_ns = reactor->NowNs() - began_ns;
  pending->done = true;
}

class LateCommitTest : public CommitGateTest {
 public:
  // Fills the log with a tail of 4 MiB that lies in many segments, and crashes some time after it
  // has begun to be appended again. Meanwhile half of it is committed.
  static Task<void> CommitWhileItIsAppendedAgain(CommitGateTest* t) {
    auto* self = static_cast<LateCommitTest*>(t);
    Partition* other = t->engine_->partition(1);
    static std::vector<Pending> pending;
    pending.assign(kTail + 1, Pending());
    for (Lsn lsn = 1; lsn <= kTail; ++lsn) {
      t->tasks_->Spawn(PutLater(t->p_, TailKey(lsn), std::string(kTailValue, 'v'), &pending[lsn]));
      co_await UntilDurable(t->reactor_, t->p_);
      EXPECT_OK(co_await Put(other, "other", std::string(20'000, 'o')));
    }
    EXPECT_OK(co_await other->Checkpoint());
    EXPECT_OK(co_await other->Checkpoint());
    t->r_->AppendTailAgain();
    co_await Sleep(*t->reactor_, self->commit_after_ns_);
    t->gate_->partition->Commit(self->commit_lsn_);
    if (self->crash_at_op_ != 0) t->machine_->CrashAtDiskOp(t->machine_->disk_ops() + self->crash_at_op_);
    if (self->checkpoints_) {
      t->tasks_->Spawn(CheckpointTwice(t->p_));
    }
    co_await Sleep(*t->reactor_, self->crash_after_ns_);
    self->committed_ = t->p_->stats().committed_lsn;
  }
  static Task<void> CheckpointTwice(Partition* p) {
    EXPECT_OK(co_await p->Checkpoint());
    EXPECT_OK(co_await p->Checkpoint());
  }
  static Task<void> FindTheTail(CommitGateTest* t) {
    EXPECT_EQ(t->gate_->recovered.durable_lsn, kTail);
    EXPECT_LE(t->gate_->recovered.committed_lsn, static_cast<LateCommitTest*>(t)->commit_lsn_);
    t->gate_->partition->Commit(kTail);
    while (t->p_->stats().applied_lsn < kTail) co_await Sleep(*t->reactor_, kMillisecond);
    for (Lsn lsn = 1; lsn <= kTail; ++lsn) {
      EXPECT_EQ(co_await ValueOf(t->p_, TailKey(lsn)), std::string(kTailValue, 'v')) << lsn;
    }
  }
  static Task<void> StartOnly(CommitGateTest* t) {
    EXPECT_EQ(t->gate_->recovered.durable_lsn, kTail);
    co_return;
  }
  std::string AuditClosed() {
    reactor_ = machine_->Boot();
    std::optional<std::string> problem = kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->ProcessCrash(1);
    return *problem;
  }

  static Task<void> OnlyOpens(CommitGateTest* t) {
    EXPECT_OK(t->engine_->failure());
    co_return;
  }

  SimMachine* NewMachine() { return kernel_.AddMachine(fmt::format("10.0.1.{}", ++machines_)); }

  int machines_ = 0;
  Nanos commit_after_ns_ = 0, crash_after_ns_ = 0;
  uint64_t crash_at_op_ = 0;  // of the disk, after the commit; 0: at a time
  bool checkpoints_ = false;
  Lsn commit_lsn_ = kTail / 2, committed_ = 0;
  bool commits_ = false;
};

// L11, WU4: the commit LSN moves while a tail is being appended again, and the process or the machine
// stops at some moment of it. The next start finds all of the tail.
TEST_F(LateCommitTest, CommitMovesWhileTheTailIsAppendedAgain) {
  setup_.engine.log_budget_bytes = 32u << 20;
  setup_.engine.log_segment_bytes = 1u << 20;
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  for (int at = 0; at < 24 && !HasFailure(); ++at) {
    SCOPED_TRACE(at);
    machine_ = NewMachine();
    power_loss_ = at % 2 == 0;
    checkpoints_ = at % 4 >= 2;
    commit_after_ns_ = at % 3 * 150 * kMicrosecond;
    crash_after_ns_ = (checkpoints_ ? 4 : 1) * at * 60 * kMicrosecond;
    Run(CommitWhileItIsAppendedAgain);
    EXPECT_EQ(AuditClosed(), "");
    Run(StartOnly);
    EXPECT_EQ(AuditClosed(), "");
    Run(FindTheTail, /*close=*/true);
    EXPECT_EQ(AuditClosed(), "");
  }
}

// WU3: all of the tail is committed before all of it was appended again. So the log may end with its older units, and
// the segments that held the newer ones are removed once checkpoints contain them. The machine stops at any operation
// of its disk, also between that and the mark which says so.
TEST_F(LateCommitTest, CheckpointsFreeWhatWasNotAppendedAgain) {
  setup_.engine.log_budget_bytes = 32u << 20;
  setup_.engine.log_segment_bytes = 1u << 20;
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  checkpoints_ = true;
  commit_lsn_ = kTail;
  crash_after_ns_ = 2 * kSecond;
  for (int at = 0; at < 48 && !HasFailure(); ++at) {
    SCOPED_TRACE(at);
    machine_ = NewMachine();
    commit_after_ns_ = (1 + at % 3) * 300 * kMicrosecond;
    crash_at_op_ = static_cast<uint64_t>(2 + at * 6);
    reactor_ = machine_->Boot();
    kernel_.RunTask(*reactor_, WithEngine(this, CommitWhileItIsAppendedAgain, /*close=*/false));
    machine_->PowerLoss(static_cast<uint64_t>(at));
    machine_->CrashAtDiskOp(UINT64_MAX);
    EXPECT_EQ(AuditClosed(), "");
    Run(FindTheTail, /*close=*/true);
    EXPECT_EQ(AuditClosed(), "");
  }
}

// A cut that waits for a commit gives up, and checkpoints go on.
TEST_F(LateCommitTest, ASnapshotDoesNotWaitForALostQuorum) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        Partition* other = t->engine_->partition(1);
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        EXPECT_OK(co_await Put(other, "x", "y"));
        co_await UntilDurable(t->reactor_, t->p_);
        PendingCut cut;
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &cut));
        // More writes become durable meanwhile. They are no progress for the cut.
        for (int i = 0; i < 20 && !cut.done; ++i) {
          t->tasks_->Spawn(PutLater(t->p_, "b", "2", &t->b_));
          co_await Sleep(*t->reactor_, kSecond);
        }
        EXPECT_TRUE(cut.done);
        EXPECT_EQ(cut.status.code(), Code::kUnavailable) << cut.status.ToString();
        EXPECT_NE(cut.status.message().find("too few replicas"), std::string::npos) << cut.status.ToString();
        EXPECT_LT(cut.took_ns, 12 * kSecond);
        EXPECT_OK(co_await t->p_->Checkpoint());
        EXPECT_OK(co_await other->Checkpoint());
        t->gate_->partition->Commit(t->gate_->durable_lsn);
        t->gate_->commits = true;
        EXPECT_OK((co_await CutSnapshot(*t->reactor_, PartitionsOf(t->engine_), INT64_MAX)).status());
      },
      /*close=*/true);
}

// A gate that is slow, but commits, does not make a cut fail.
TEST_F(LateCommitTest, ASnapshotWaitsWhileSomethingIsCommitted) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        for (const char* key : {"a", "b", "c"}) t->tasks_->Spawn(PutLater(t->p_, key, "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        PendingCut cut;
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &cut));
        for (Lsn lsn = 1; lsn <= 3; ++lsn) {
          EXPECT_FALSE(cut.done);
          co_await Sleep(*t->reactor_, 4 * kSecond);
          t->gate_->partition->Commit(lsn);
        }
        co_await t->tasks_->Drain();
        EXPECT_OK(cut.status);
      },
      /*close=*/true);
}

// Nothing that waits for a commit keeps requests or the engine from ending: neither writes nor cuts
// through several partitions, one of which waits for another.
TEST_F(LateCommitTest, ClosingDoesNotWaitForALostQuorum) {
  gated_ = {1};
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        PendingCut first, second;
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &first));  // waits for the commit
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &second));  // has prepared partition 0
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        t->tasks_->Spawn(PutLater(t->p_, "b", "2", &t->b_));  // not durable yet
        const Nanos began_ns = t->reactor_->NowNs();
        t->engine_->GiveUpUncommitted();
        co_await t->tasks_->Drain();
        EXPECT_EQ(t->a_.code, Code::kAborted);
        EXPECT_TRUE(t->b_.code == Code::kAborted || t->b_.code == Code::kUnavailable);
        EXPECT_FALSE(first.status.ok() || second.status.ok());
        EXPECT_LT(t->reactor_->NowNs() - began_ns, kSecond);
        EXPECT_FALSE(t->gate_->closed) << "requests may still run";
      },
      /*close=*/true);
}

TEST_F(LateCommitTest, CloseGivesUpInAllPartitionsFirst) {
  gated_ = {1};
  Run(
      [](CommitGateTest* t) -> Task<void> {
        static PendingCut first, second;
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &first));
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        t->tasks_->Spawn(CutLater(t->reactor_, t->engine_, &second));
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        const Nanos began_ns = t->reactor_->NowNs();
        EXPECT_OK(co_await t->engine_->Close(/*checkpoint=*/true));
        EXPECT_LT(t->reactor_->NowNs() - began_ns, kSecond);
        co_await t->tasks_->Drain();
      },
      /*close=*/false);
}

// WQ3: a cut that comes after the tail was given up must not wait for it.
TEST_F(LateCommitTest, ACutThatComesAfterTheTailWasGivenUp) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        EXPECT_OK(co_await t->p_->PrepareCut());
        Result<Version> version = co_await t->p_->HoldWrites();
        EXPECT_OK(version.status());
        t->engine_->GiveUpUncommitted();
        const Status cut = co_await t->p_->Cut({1, *version + 1, INT64_MAX});
        EXPECT_EQ(cut.code(), Code::kAborted) << cut.ToString();
      },
      /*close=*/true);
}

// The start of an epoch is not held back by a cut. The cut fails then, because it has an older version.
TEST_F(LateCommitTest, AnEpochThatBeginsDuringACut) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_OK(co_await t->p_->PrepareCut());
        Result<Version> version = co_await t->p_->HoldWrites();
        EXPECT_OK(version.status());
        co_await Sleep(*t->reactor_, 5 * kMillisecond);
        t->gate_->commits = true;
        t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, 0);
        const Status cut = co_await t->p_->Cut({1, *version + 1, INT64_MAX});
        EXPECT_EQ(cut.code(), Code::kUnavailable) << cut.ToString();
        EXPECT_OK(co_await Put(t->p_, "a", "1"));
        EXPECT_OK((co_await CutSnapshot(*t->reactor_, PartitionsOf(t->engine_), INT64_MAX)).status());
      },
      /*close=*/true);
}

// The last calls of a gate: an epoch start on its way to the disk while the engine closes, and one
// that would begin afterwards.
TEST_F(LateCommitTest, AnEpochBeginsWhileTheEngineCloses) {
  for (const bool commits : {false, true}) {
    commits_ = commits;
    Run(
        [](CommitGateTest* t) -> Task<void> {
          t->gate_->commits = static_cast<LateCommitTest*>(t)->commits_;
          GatedPartition* partition = t->gate_->partition;
          partition->BeginEpoch(partition->epoch() + 1, t->p_->stats().last_lsn);
          const Lsn last = t->p_->stats().last_lsn;
          t->engine_->GiveUpUncommitted();
          partition->BeginEpoch(partition->epoch() + 1, last);
          EXPECT_EQ(t->p_->stats().last_lsn, last) << "none begins once the partition drains";
          co_return;
        },
        /*close=*/true);
  }
  Run(OnlyOpens, /*close=*/true);
}

// WQ2: records are bounded too, and each partition has its share of the log's budget.
TEST_F(LateCommitTest, TheTailIsBoundedInRecordsAndByTheLog) {
  setup_.engine.memory_bytes = 16u << 20;
  static std::vector<Pending> pending;
  for (const bool small_log : {false, true}) {
    machine_ = NewMachine();
    setup_.engine.log_segment_bytes = small_log ? 64u << 10 : 4u << 20;
    setup_.engine.log_budget_bytes = small_log ? 1u << 20 : 64u << 20;
    pending.assign(6000, Pending());
    Run(
        [](CommitGateTest* t) -> Task<void> {
          for (size_t i = 0; i < pending.size(); ++i) {
            t->tasks_->Spawn(PutLater(t->p_, fmt::format("k{:05}", i), "v", &pending[i]));
            if (i % 100 == 99) co_await UntilDurable(t->reactor_, t->p_);
          }
          EXPECT_EQ(pending.back().code, Code::kOverloaded);
          const PartitionStats stats = t->p_->stats();
          EXPECT_LE(stats.last_lsn, 4096u + 100u) << "no more than what was under way";
          EXPECT_LE(stats.uncommitted_bytes, t->setup_.engine.log_budget_bytes / 8 + 100 * 128);
          EXPECT_GE(stats.last_lsn, t->setup_.engine.log_budget_bytes > (1u << 20) ? 4000u : 1000u);
          t->gate_->commits = true;
          t->gate_->partition->Commit(t->gate_->durable_lsn);
          co_await t->tasks_->Drain();
          EXPECT_OK(co_await Put(t->p_, "again", "v"));
        },
        /*close=*/true);
  }
}

// What is not durable yet does not count: a gate that commits a moment late refuses nothing.
TEST_F(LateCommitTest, ALittleLatenessRefusesNothing) {
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.log_budget_bytes = 16u << 20;  // 2 MiB may be uncommitted
  static std::vector<Pending> pending;
  pending.assign(100, Pending());
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->tasks_->Spawn(PutLater(t->p_, "first", "v", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);  // and not committed
        for (size_t i = 0; i < pending.size(); ++i) {
          t->tasks_->Spawn(PutLater(t->p_, fmt::format("{}", i), std::string(60'000, 'v'), &pending[i]));
        }
        t->gate_->commits = true;
        t->gate_->partition->Commit(1);
        co_await t->tasks_->Drain();
        for (const Pending& p : pending) EXPECT_EQ(p.code, Code::kOk);
      },
      /*close=*/true);
}

// No partition can commit. Their tails are copied when the log needs room, not again and again.
TEST_F(LateCommitTest, StalledPartitionsDoNotKeepTheLogBusy) {
  setup_.store.partitions = 8;
  for (uint32_t p = 0; p < 8; ++p) gated_.insert(p);
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.log_segment_bytes = 1u << 20;
  setup_.engine.log_budget_bytes = 16u << 20;
  static std::deque<Pending> pending;
  Run(
      [](CommitGateTest* t) -> Task<void> {
        for (int i = 0; i < 40; ++i) {
          for (Partition* p : t->engine_->partitions()) {
            t->tasks_->Spawn(PutLater(p, fmt::format("{}", i), std::string(60'000, 'v'), &pending.emplace_back()));
          }
          co_await UntilDurable(t->reactor_, t->p_);
        }
        uint64_t tails = 0;
        for (Partition* p : t->engine_->partitions()) tails += p->stats().uncommitted_bytes;
        EXPECT_LE(tails, t->setup_.engine.log_budget_bytes / 4);
        co_await Sleep(*t->reactor_, 2 * kSecond);
        const uint64_t before = t->engine_->stats().log.device_bytes_total;
        co_await Sleep(*t->reactor_, 10 * kSecond);
        EXPECT_LT(t->engine_->stats().log.device_bytes_total - before, 1u << 20);
      },
      /*close=*/true);
}

// A write that is not committed is applied whole later. If the pool has become too small for that, the
// start says so.
TEST_F(LateCommitTest, ATailThatDoesNotFitIntoASmallerPool) {
  setup_.engine.memory_bytes = 32u << 20;
  Run([](CommitGateTest* t) -> Task<void> {
    static std::vector<WriteOp> ops;
    for (int i = 0; i < 200; ++i) ops.push_back(PutOp(fmt::format("key-{}", i), std::string(900, 'v')));
    struct WriteLater {
      static Task<void> Run(Partition* p) { Status ignored = co_await Write(p, ops); }
    };
    t->tasks_->Spawn(WriteLater::Run(t->p_));
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ(t->gate_->durable_lsn, 200u);
  });
  setup_.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 2;
  const Status refused = RunRefused();
  EXPECT_EQ(refused.code(), Code::kInvalidArgument) << refused.ToString();
  EXPECT_NE(refused.message().find("raise --memory_limit_mb and start again, nothing is lost"), std::string::npos)
      << refused.ToString();
  setup_.engine.memory_bytes = 32u << 20;
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->partition->Commit(200);
        while (t->p_->stats().applied_lsn < 200) co_await Sleep(*t->reactor_, kMillisecond);
      },
      /*close=*/true);
}

// A sweep that waits for a commit does not hold up the sweeps of the other partitions.
TEST_F(LateCommitTest, ExpiryGoesOnInOtherPartitions) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->commits = true;
        for (Partition* p : t->engine_->partitions()) {
          std::vector<WriteOp> ops{PutOp("a", "1"), PutOp("b", "2")};
          for (WriteOp& op : ops) {
            op.ttl_mode = TtlMode::kSet;
            op.ttl_ms = 1000;
          }
          ops[1].ttl_ms = 5000;
          EXPECT_OK(co_await Write(p, std::move(ops)));
        }
        t->gate_->commits = false;  // the first sweep of partition 0 is stuck in the log
        co_await Sleep(*t->reactor_, 10 * kSecond);
        EXPECT_EQ(t->p_->stats().expired_total, 0u);
        EXPECT_EQ(t->engine_->partition(1)->stats().expired_total, 2u);
        t->gate_->commits = true;
        t->gate_->partition->Commit(t->gate_->durable_lsn);
        co_await Sleep(*t->reactor_, 2 * kSecond);
        EXPECT_EQ(t->p_->stats().expired_total, 2u);
      },
      /*close=*/true);
}

// A large value that is not committed needs no place on the disk to start. Once it is committed, it
// waits for one, and then it is there.
TEST_F(LateCommitTest, AnUncommittedValueOnAFullDisk) {
  setup_.store.partitions = 1;
  setup_.engine.memory_bytes = 20u << 20;
  setup_.engine.log_budget_bytes = 64u << 20;
  power_loss_ = true;
  static const std::string value = [] {
    SimRandom random(1);
    std::string bytes(1u << 20, '\0');
    for (char& c : bytes) c = static_cast<char>(random.Next());
    return bytes;
  }();
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "small", "1"));
    EXPECT_OK(co_await t->p_->Checkpoint());
    t->gate_->commits = false;
    for (int i = 0; i < 6; ++i) {
      t->tasks_->Spawn(PutLater(t->p_, fmt::format("large{}", i), value, &t->a_));
    }
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ(t->gate_->durable_lsn, 7u);
  });
  // The file grew for the values, but not durably, and others have taken the space.
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_EQ(t->gate_->recovered.committed_lsn, 1u);
        EXPECT_EQ(co_await ValueOf(t->p_, "small"), "1");
        t->gate_->partition->Commit(7);
        co_await Sleep(*t->reactor_, 3 * kSecond);
        EXPECT_OK(t->engine_->failure());
        t->machine_->disk().SetCapacity(UINT64_MAX);
        while (t->p_->stats().applied_lsn < 7) co_await Sleep(*t->reactor_, kMillisecond);
        EXPECT_EQ(co_await ValueOf(t->p_, "large5"), value);
        t->gate_->commits = true;
        EXPECT_OK(co_await Put(t->p_, "after", "1"));
      },
      /*close=*/true);
}

}  // namespace
}  // namespace pando::engine_test
