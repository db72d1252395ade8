// LN1: a write that is sent again is applied once, whatever happens between its sendings.
#include <gtest/gtest.h>

#include "src/partition/lane.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using Results = std::vector<OpResult>;

// How a test sends a write.
struct Name {
  uint32_t partition = 0;
  std::string client =
      "\xff\xff\xff\xff"
      "client";  // the stored key of its lane
  uint64_t sequence = 1;
  int64_t age_ms = 0;  // since it was first sent
  bool all_or_nothing = false;
  bool point = false;  // as a PointWrite
};

WriteOp Once(Engine* engine, const Name& name) {
  WriteOp op;
  op.op = RecordOp::kOnce;
  op.key = name.client;
  op.sequence = name.sequence;
  op.first_sent_ms = engine->clock()->NowMs(engine->reactor()) - name.age_ms;
  return op;
}
WriteOp If(WriteOp op, bool exists) {
  op.condition.exists = exists;
  return op;
}
std::vector<WriteOp> Ops(WriteOp op) {
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  return ops;
}

// The results, without that of the kOnce.
Task<Result<Results>> Send(Engine* engine, Name name, std::vector<WriteOp> ops) {
  Partition* partition = engine->partition(name.partition);
  if (name.point) {
    AwaitedWrite write(engine->reactor());
    const WriteOp once = Once(engine, name);
    write.partition = partition;
    write.once = &once;
    write.op = ops.front();
    PointWrite* const batch[] = {&write};
    engine->BatchWrite(batch);
    EXPECT_TRUE(write.begun);
    while (write.begun && !write.over) co_await write.done.Wait();
    CO_RETURN_IF_ERROR(write.status);
    Results results;
    results.push_back(std::move(write.result));
    co_return results;
  }
  WriteOptions options;
  options.all_or_nothing = name.all_or_nothing;
  ops.insert(ops.begin(), Once(engine, name));
  CO_ASSIGN_OR_RETURN(Results results, co_await partition->Write(std::move(ops), options));
  EXPECT_EQ(results.front().outcome, OpOutcome::kApplied);
  results.erase(results.begin());
  co_return results;
}
Task<OpResult> SendOne(Engine* engine, Name name, WriteOp op) {
  Result<Results> results = co_await Send(engine, std::move(name), Ops(std::move(op)));
  EXPECT_OK(results.status());
  if (!results.ok()) co_return OpResult();
  EXPECT_EQ(results->size(), 1u);
  co_return std::move(results->front());
}
Task<Code> SendRefused(Engine* engine, Name name, WriteOp op) {
  Result<Results> results = co_await Send(engine, std::move(name), Ops(std::move(op)));
  EXPECT_FALSE(results.ok());
  co_return results.code();
}
Task<std::string> Read(Engine* engine, std::string key, uint32_t partition = 0) {
  Result<ReadResult> read = co_await engine->partition(partition)->Get(std::move(key), kNewest, nullptr);
  EXPECT_OK(read.status());
  co_return read.ok() && read->found ? read->value : "nothing";
}
void ExpectSame(const OpResult& a, const OpResult& b) {
  EXPECT_EQ(a.outcome, b.outcome);
  EXPECT_EQ(a.version, b.version);
  EXPECT_EQ(a.existed, b.existed);
  EXPECT_EQ(a.number, b.number);
}

class AppliedOnceTest : public testing::Test {
 protected:
  AppliedOnceTest() {
    setup_.store.partitions = 1;
    setup_.store.namespaced = true;  // lanes have a namespace of their own
  }
  // Runs `body` on an engine of a new process. With `kill`, its last checkpoint does not contain what
  // it has written, and the power fails.
  template <typename Body>
  void Run(Body body, bool kill = false) {
    if (!machine_->running()) machine_->Boot();
    SimReactor& reactor = *machine_->reactor();
    EXPECT_TRUE(kernel_.RunTask(reactor, Session<Body>(&reactor, setup_, body, kill)).has_value());
    if (kill) machine_->PowerLoss(3);
  }
  static Task<void> PutOne(Partition* partition, std::string key) {
    EXPECT_OK(co_await Put(partition, std::move(key), "v"));
  }
  template <typename Body>
  static Task<void> Session(Reactor* reactor, engine_test::Setup setup, Body body, bool kill) {
    Result<std::unique_ptr<Engine>> opened = co_await OpenEngine(*reactor, setup);
    EXPECT_OK(opened.status());
    if (!opened.ok()) co_return;
    Engine* engine = opened->get();
    // The file of a new partition is small. It grows when many writes are admitted at once.
    TaskGroup writes;
    for (int i = 0; i < 300; ++i) writes.Spawn(PutOne(engine->partition(0), fmt::format("first {}", i)));
    co_await writes.Drain();
    co_await body(reactor, engine);
    EXPECT_OK(co_await engine->Close(/*checkpoint=*/!kill));
    opened->reset();
    const std::string audit = co_await Audit(*reactor, "/data");
    EXPECT_EQ(audit, "");
  }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  engine_test::Setup setup_;
};

TEST_F(AppliedOnceTest, ARepeatedWriteGetsTheFirstResult) {
  struct Body {
    Task<void> operator()(Reactor*, Engine* engine) const {
      EXPECT_OK(co_await Put(engine->partition(0), "n", "100"));
      int64_t number = 100;
      for (const bool point : {false, true}) {
        Name name;
        name.point = point;
        name.client += point ? "p" : "b";
        const OpResult first = co_await SendOne(engine, name, IncrementOp("n", 5));
        EXPECT_EQ(first.number, number += 5);
        EXPECT_TRUE(first.existed);
        ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 5)), first);
        name.point = !name.point;
        ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 5)), first);
        name.sequence = 4;  // sequences rise, and may skip
        const OpResult next = co_await SendOne(engine, name, IncrementOp("n", 5));
        EXPECT_EQ(next.number, number += 5);
        name.sequence = 3;
        EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 5)), Code::kAborted);
        name.client += " other";
        EXPECT_EQ((co_await SendOne(engine, name, IncrementOp("n", 5))).number, number += 5);
      }
      EXPECT_EQ(co_await Read(engine, "n"), std::to_string(number));
    }
  };
  Run(Body());
}

// A write that was refused stays refused, although it would apply now: its client may know already.
TEST_F(AppliedOnceTest, ARefusedWriteStaysRefused) {
  struct Body {
    Task<void> operator()(Reactor*, Engine* engine) const {
      for (const bool point : {false, true}) {
        Name name;
        name.point = point;
        name.client += point ? "p" : "b";
        EXPECT_OK(co_await Put(engine->partition(0), "k", "there"));
        const OpResult first = co_await SendOne(engine, name, If(PutOp("k", "new"), false));
        EXPECT_EQ(first.outcome, OpOutcome::kConditionFailed);
        EXPECT_EQ(first.current.value, "there");
        EXPECT_OK(co_await Remove(engine->partition(0), "k"));
        const OpResult again = co_await SendOne(engine, name, If(PutOp("k", "new"), false));
        ExpectSame(again, first);
        EXPECT_TRUE(again.current.found && again.value_omitted);
        EXPECT_EQ(again.current.version, first.current.version);
        EXPECT_EQ(co_await Read(engine, "k"), "nothing");
      }
    }
  };
  Run(Body());
}

// LN2: a partition remembers a limited number of clients. Those that it knows go on, and others are
// refused before anything has happened, until some have been silent for long enough.
TEST_F(AppliedOnceTest, APartitionRemembersALimitedNumberOfClients) {
  static constexpr int kLanes = 20;
  setup_.engine.max_lanes = kLanes;
  struct Body {
    static Name Client(int i) {
      Name name;
      name.client += fmt::format(" {}", i);
      return name;
    }
    Task<void> operator()(Reactor* reactor, Engine* engine) const {
      for (int i = 0; i < kLanes; ++i) {
        Name name = Client(i);
        name.sequence = round;
        name.point = i % 2 == 1;  // the first write of the others has counted the lanes
        EXPECT_EQ((co_await SendOne(engine, name, IncrementOp("n", 1))).outcome, OpOutcome::kApplied);
      }
      const std::string number = co_await Read(engine, "n");
      const uint64_t lsn = engine->partition(0)->stats().last_lsn;
      for (int i = kLanes; i < kLanes + 3; ++i) {
        EXPECT_EQ(co_await SendRefused(engine, Client(i), IncrementOp("n", 1)), Code::kOverloaded);
      }
      EXPECT_EQ(engine->partition(0)->stats().last_lsn, lsn) << "a refused write is in the log";
      EXPECT_EQ(engine->partition(0)->stats().lanes_refused_total, 3u);
      EXPECT_EQ(co_await Read(engine, "n"), number);
      Name known = Client(3);
      known.sequence = round + 1;
      known.point = true;
      EXPECT_EQ((co_await SendOne(engine, known, IncrementOp("n", 1))).outcome, OpOutcome::kApplied);
      if (round < 3) co_return;
      co_await Sleep(*reactor, (kLaneRetentionMs + 60'000) * kMillisecond);
      for (int i = kLanes; i < 2 * kLanes; ++i) {
        EXPECT_EQ((co_await SendOne(engine, Client(i), IncrementOp("n", 1))).outcome, OpOutcome::kApplied);
      }
      EXPECT_EQ(co_await SendRefused(engine, Client(3 * kLanes), IncrementOp("n", 1)), Code::kOverloaded);
    }
    uint64_t round;
  };
  for (const uint64_t round : {1, 3}) Run(Body{round}, /*kill=*/round == 1);
}

// Batches of every form, of which some operations or all are refused.
TEST_F(AppliedOnceTest, BatchesRepeatTheirResults) {
  struct Body {
    static std::vector<WriteOp> Batch(int form) {
      std::vector<WriteOp> ops;
      if (form >= 2) {
        WriteOp check = If(PutOp("guard", ""), form == 3);
        check.op = RecordOp::kCheck;
        ops.push_back(std::move(check));
      }
      ops.push_back(PutOp("a", std::string(9000, 'a')));
      ops.push_back(If(PutOp("b", "b"), true));
      ops.push_back(IncrementOp("n", -7));
      return ops;
    }
    Task<void> operator()(Reactor*, Engine* engine) const {
      for (int form = 0; form < 4; ++form) {
        SCOPED_TRACE(form);
        Name name;
        name.sequence = static_cast<uint64_t>(form) + 1;
        name.all_or_nothing = form == 1;
        const Result<Results> first = co_await Send(engine, name, Batch(form));
        EXPECT_OK(first.status());
        const std::string number = co_await Read(engine, "n");
        const Result<Results> again = co_await Send(engine, name, Batch(form));
        EXPECT_OK(again.status());
        if (!first.ok() || !again.ok()) co_return;
        EXPECT_EQ(first->size(), again->size());
        for (size_t i = 0; i < first->size(); ++i) ExpectSame((*again)[i], (*first)[i]);
        EXPECT_EQ(co_await Read(engine, "n"), number);
        // The same name for another write.
        const Result<Results> other = co_await Send(engine, name, Ops(PutOp("x", "x")));
        EXPECT_EQ(other.code(), Code::kInvalidArgument);
      }
      // The results of many operations are not kept, but the write is applied once all the same.
      std::vector<WriteOp> many;
      for (int i = 0; i < 250; ++i) many.push_back(IncrementOp("m", 1'000'000'000));
      Name name;
      name.sequence = 10;
      const Result<Results> first = co_await Send(engine, name, many);
      EXPECT_OK(first.status());
      const Result<Results> again = co_await Send(engine, name, many);
      EXPECT_EQ(again.code(), Code::kAborted) << again.status().ToString();
      EXPECT_EQ(co_await Read(engine, "m"), "250000000000");
    }
  };
  setup_.engine.memory_bytes = 32u << 20;
  Run(Body());
}

// Both sendings wait in the queue at the same time.
TEST_F(AppliedOnceTest, WritesInFlightTogether) {
  struct Body {
    Task<void> operator()(Reactor* reactor, Engine* engine) const {
      EXPECT_OK(co_await Put(engine->partition(0), "n", "0"));
      Name name, first;
      first.client += " first";  // its write counts the lanes (LN2)
      EXPECT_EQ((co_await SendOne(engine, first, PutOp("k", "v"))).outcome, OpOutcome::kApplied);
      name.point = true;
      const WriteOp once = Once(engine, name);
      std::vector<std::unique_ptr<AwaitedWrite>> writes;
      std::vector<PointWrite*> batch;
      for (int i = 0; i < 5; ++i) {
        writes.push_back(std::make_unique<AwaitedWrite>(*reactor));
        writes.back()->partition = engine->partition(0);
        writes.back()->once = &once;
        writes.back()->op = IncrementOp("n", 3);
        batch.push_back(writes.back().get());
      }
      engine->BatchWrite(batch);
      for (auto& write : writes) {
        EXPECT_TRUE(write->begun);
        while (write->begun && !write->over) co_await write->done.Wait();
        EXPECT_OK(write->status);
        ExpectSame(write->result, writes.front()->result);
        EXPECT_EQ(write->result.number, 3);
      }
      EXPECT_EQ(co_await Read(engine, "n"), "3");
    }
  };
  Run(Body());
}

TEST_F(AppliedOnceTest, OverRestarts) {
  struct First {
    OpResult* result;
    bool checkpoint;
    uint64_t sequence;
    Task<void> operator()(Reactor*, Engine* engine) const {
      Name name;
      name.sequence = sequence;
      *result = co_await SendOne(engine, name, IncrementOp("n", 5));
      if (checkpoint) EXPECT_OK(co_await engine->partition(0)->Checkpoint());
    }
  };
  struct Again {
    OpResult result;
    uint64_t sequence;
    Task<void> operator()(Reactor*, Engine* engine) const {
      Name name;
      name.sequence = sequence;
      ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 5)), result);
      EXPECT_EQ(co_await Read(engine, "n"), std::to_string(5 * sequence));
      if (sequence == 1) co_return;
      name.sequence = sequence - 1;
      EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 5)), Code::kAborted);
    }
  };
  uint64_t sequence = 0;
  for (const bool checkpoint : {false, true}) {
    for (const bool kill : {false, true}) {
      OpResult result;
      Run(First{&result, checkpoint, ++sequence}, kill);
      Run(Again{result, sequence}, !kill);
      Run(Again{result, sequence});
    }
  }
}

// A lane is remembered for a time. A write that was first sent before that is not applied: the
// partition cannot know whether it was before.
TEST_F(AppliedOnceTest, ALaneIsForgottenAfterAWhile) {
  struct Body {
    Task<void> operator()(Reactor* reactor, Engine* engine) const {
      Name name;
      const OpResult first = co_await SendOne(engine, name, IncrementOp("n", 1));
      co_await Sleep(*reactor, (kLaneRetentionMs - 60'000) * kMillisecond);
      name.age_ms = kLaneRetentionMs - 60'000;
      ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 1)), first);
      // A late one before it, and another that is too old, although the lane is known.
      name.sequence = 2;
      EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 1)), Code::kAborted);
      const uint64_t expired = engine->partition(0)->stats().expired_total;
      co_await Sleep(*reactor, 120'000 * kMillisecond);
      name.sequence = 1;
      EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 1)), Code::kAborted);
      EXPECT_EQ(engine->partition(0)->stats().expired_total, expired + 1) << "the lane's record must be gone";
      EXPECT_EQ(co_await Read(engine, "n"), "1");
      name.sequence = 2;
      name.age_ms = kMaxWriteAgeMs;
      EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 1)), Code::kAborted);
      name.age_ms = kMaxWriteAgeMs - 1;
      EXPECT_EQ((co_await SendOne(engine, name, IncrementOp("n", 1))).number, 2);
    }
  };
  Run(Body());
}

// However long a write is on its way: it is too old before its lane is forgotten (LN1).
TEST_F(AppliedOnceTest, AWriteThatWasOnItsWayForLongIsNotApplied) {
  struct Body {
    Task<void> operator()(Reactor* reactor, Engine* engine) const {
      Name name;
      EXPECT_EQ((co_await SendOne(engine, name, IncrementOp("n", 1))).number, 1);
      std::vector<WriteOp> again;
      again.push_back(Once(engine, name));  // as it leaves the client
      again.push_back(IncrementOp("n", 1));
      co_await Sleep(*reactor, (kLaneRetentionMs + 60'000) * kMillisecond);
      const auto outcome = co_await engine->partition(0)->Write(std::move(again), WriteOptions());
      EXPECT_EQ(outcome.code(), Code::kAborted) << outcome.status().ToString();
      EXPECT_EQ(co_await Read(engine, "n"), "1");
      // A client whose clock is ahead is believed for a while only.
      name.sequence = 2;
      name.age_ms = -kMaxAheadMs - 1000;
      EXPECT_EQ(co_await SendRefused(engine, name, IncrementOp("n", 1)), Code::kInvalidArgument);
      name.age_ms = -kMaxAheadMs + 1000;
      EXPECT_EQ((co_await SendOne(engine, name, IncrementOp("n", 1))).number, 2);
    }
  };
  Run(Body());
}

// The time of a partition that was written goes on when the clock is set back, and that of another one
// does not. A client has one time for both.
TEST_F(AppliedOnceTest, AClockThatIsSetBackRefusesNothing) {
  static constexpr int64_t kBackMs = 2 * kLaneRetentionMs;
  setup_.store.partitions = 2;
  struct Body {
    SimMachine* machine;
    Task<void> operator()(Reactor* reactor, Engine* engine) const {
      machine->JumpWallClock(-kBackMs);
      // Whether or not there are new versions meanwhile.
      co_await Sleep(*reactor, kMaxWriteAgeMs * kMillisecond);
      Name name;
      name.client += " of both";
      const OpResult ahead = co_await SendOne(engine, name, IncrementOp("n", 1));
      EXPECT_EQ(ahead.number, 1);
      ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 1)), ahead);
      name.partition = 1;
      std::vector<WriteOp> late;
      late.push_back(Once(engine, name));
      late.push_back(IncrementOp("n", 1));
      const OpResult behind = co_await SendOne(engine, name, IncrementOp("n", 1));
      EXPECT_EQ(behind.number, 1);
      EXPECT_GT(VersionMs(ahead.version) - VersionMs(behind.version), kBackMs / 2) << "no time is behind";
      // By the time of this partition the write is not too old yet, so the lane must be there.
      co_await Sleep(*reactor, (kLaneRetentionMs + 60'000) * kMillisecond);
      EXPECT_OK((co_await engine->partition(1)->Write(late, WriteOptions())).status());
      EXPECT_EQ(co_await Read(engine, "n", 1), "1");
      co_await Sleep(*reactor, kBackMs * kMillisecond);
      EXPECT_EQ((co_await engine->partition(1)->Write(late, WriteOptions())).code(), Code::kAborted);
      EXPECT_EQ(co_await Read(engine, "n", 1), "1");
    }
  };
  Run(Body{machine_});
}

// A name that was used before does not make another write of it.
TEST_F(AppliedOnceTest, AnotherWriteWithTheSameNameIsRefused) {
  struct Body {
    Task<void> operator()(Reactor*, Engine* engine) const {
      Name name;
      const OpResult first = co_await SendOne(engine, name, IncrementOp("n", 7));
      WriteOp with_ttl = IncrementOp("n", 7);
      with_ttl.ttl_mode = TtlMode::kSet;
      with_ttl.ttl_ms = 1000;
      for (const bool point : {false, true}) {
        name.point = point;
        for (const WriteOp& op : {IncrementOp("n", 8), IncrementOp("m", 7), PutOp("n", "7"), RemoveOp("n"),
                                  If(IncrementOp("n", 7), true), with_ttl}) {
          EXPECT_EQ(co_await SendRefused(engine, name, op), Code::kInvalidArgument);
        }
      }
      ExpectSame(co_await SendOne(engine, name, IncrementOp("n", 7)), first);
      EXPECT_EQ(co_await Read(engine, "n"), "7");
      // A TTL counts from the first sending, so the same one is the same write.
      name.sequence = 2;
      const OpResult second = co_await SendOne(engine, name, with_ttl);
      co_await Sleep(engine->reactor(), kSecond / 10);
      ExpectSame(co_await SendOne(engine, name, with_ttl), second);
      WriteOp longer = with_ttl, until = with_ttl;
      longer.ttl_ms = 3'600'000;
      until.ttl_ms = 0;
      until.expires_at_ms = engine->reactor().WallMs() + 1000;
      for (const bool point : {false, true}) {
        name.point = point;
        for (const WriteOp& op : {longer, until}) {
          EXPECT_EQ(co_await SendRefused(engine, name, op), Code::kInvalidArgument);
        }
      }
    }
  };
  Run(Body());
}

// Watchers are told of the write, not of its lane.
TEST_F(AppliedOnceTest, WatchersDoNotSeeLanes) {
  struct Body {
    Task<void> operator()(Reactor*, Engine* engine) const {
      const Version before = engine->partition(0)->newest_change();
      co_await SendOne(engine, Name(), PutOp("k", "v"));
      co_await SendOne(engine, Name(), PutOp("k", "v"));
      const uint64_t expired = engine->partition(0)->stats().expired_total;
      co_await Sleep(engine->reactor(), (kLaneRetentionMs + 60'000) * kMillisecond);
      EXPECT_EQ(engine->partition(0)->stats().expired_total, expired + 1) << "the lane must be gone";
      const Result<ChangePage> page = co_await engine->partition(0)->Changes(before, "", 100, 100'000);
      EXPECT_OK(page.status());
      if (!page.ok()) co_return;
      EXPECT_EQ(page->changes.size(), 1u);
      EXPECT_EQ(page->changes.front().key, "k");
    }
  };
  Run(Body());
}

}  // namespace
}  // namespace pando::engine_test
