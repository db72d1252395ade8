// Writes of one operation that run without a coroutine (PointWrite): their results are those of
// Partition::Write, whatever happens to the tree between their admission and their application.
#include <gtest/gtest.h>

#include <algorithm>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

WriteOp If(WriteOp op, Condition condition) {
  op.condition = std::move(condition);
  return op;
}
WriteOp TouchOp(std::string key) {
  WriteOp op;
  op.op = RecordOp::kTouch;
  op.key = std::move(key);
  op.ttl_mode = TtlMode::kSet;
  op.ttl_ms = 60'000;
  return op;
}
WriteOp WithPrevious(WriteOp op) {
  op.return_previous = true;
  return op;
}
std::string Key(int i) { return fmt::format("key {:05}", i); }

struct PointWriteTest : public testing::Test {
  PointWriteTest() { setup_.store.partitions = 1; }
  // Opens the engine, runs `body`, and closes the engine and audits the store.
  void Run(Task<void> (*body)(PointWriteTest*)) {
    EXPECT_TRUE(kernel_.RunTask(*reactor_, Session(this, body)));
    EXPECT_EQ(audit_, "");
  }
  static Task<void> Session(PointWriteTest* t, Task<void> (*body)(PointWriteTest*)) {
    Result<std::unique_ptr<Engine>> opened = co_await OpenEngine(*t->reactor_, t->setup_);
    EXPECT_OK(opened.status());
    t->engine_ = std::move(*opened);
    t->partition_ = t->engine_->partition(0);
    // The file of a new partition is small. It grows when many writes are admitted at once.
    TaskGroup writes;
    for (int i = 0; i < 300; ++i) writes.Spawn(PutOne(t->partition_, fmt::format("first {}", i)));
    co_await writes.Drain();
    co_await body(t);
    Status closed = co_await t->engine_->Close(t->closes_cleanly_);
    EXPECT_TRUE(closed.ok() || !t->closes_cleanly_) << closed.ToString();
    t->engine_.reset();
    t->machine_->ClearFaults();
    t->audit_ = co_await Audit(*t->reactor_, "/data");
  }
  static Task<void> PutOne(Partition* partition, std::string key) {
    EXPECT_OK(co_await Put(partition, std::move(key), "v"));
  }
  // Begins all of them in one turn.
  void Begin(std::vector<std::unique_ptr<AwaitedWrite>>* writes, std::vector<WriteOp> ops) {
    std::vector<PointWrite*> batch;
    for (WriteOp& op : ops) {
      writes->push_back(std::make_unique<AwaitedWrite>(*reactor_));
      writes->back()->partition = partition_;
      writes->back()->op = std::move(op);
      batch.push_back(writes->back().get());
    }
    engine_->BatchWrite(batch);
  }
  static Task<void> AwaitAll(std::vector<std::unique_ptr<AwaitedWrite>>* writes) {
    for (auto& write : *writes) {
      while (write->begun && !write->over) co_await write->done.Wait();
    }
  }
  uint64_t pinned() const { return engine_->stats().pool_pinned_pages; }
  static Task<std::string> Read(PointWriteTest* t, std::string key) {
    Result<ReadResult> read = co_await t->partition_->Get(std::move(key), kNewest, nullptr);
    EXPECT_OK(read.status());
    co_return read.ok() && read->found ? read->value : "nothing";
  }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = machine_->Boot();
  engine_test::Setup setup_;
  std::unique_ptr<Engine> engine_;
  Partition* partition_ = nullptr;
  bool closes_cleanly_ = true;
  std::string audit_ = "not run";
};

void ExpectSame(const OpResult& a, const OpResult& b, const std::string& what) {
  EXPECT_EQ(a.outcome, b.outcome) << what;
  EXPECT_EQ(a.existed, b.existed) << what;
  EXPECT_EQ(a.number, b.number) << what;
  EXPECT_EQ(a.current.found, b.current.found) << what;
  EXPECT_EQ(a.current.value, b.current.value) << what;
}

Task<void> EveryKind(PointWriteTest* t) {
  const Condition exists{.version = {}, .value = {}, .exists = true},
      absent{.version = {}, .value = {}, .exists = false};
  const Condition is_one{.version = {}, .value = "1", .exists = {}}, is_two{.version = {}, .value = "2", .exists = {}};
  const std::vector<WriteOp> ops = {
      PutOp("k", "1"),
      If(PutOp("k", "2"), absent),
      If(PutOp("k", "2"), is_one),
      WithPrevious(PutOp("k", "3")),
      If(PutOp("k", "4"), is_two),
      IncrementOp("k", 5),
      TouchOp("k"),
      WithPrevious(RemoveOp("k")),
      RemoveOp("k"),
      TouchOp("k"),
      If(RemoveOp("k"), exists),
      IncrementOp("k", -7),
      PutOp("k", "no number"),
      IncrementOp("k", 1),
      PutOp("k", std::string(900, 'v')),
  };
  for (size_t i = 0; i < ops.size(); ++i) {
    WriteOp twin = ops[i];
    twin.key = "twin";
    std::vector<WriteOp> batch{std::move(twin)};
    Result<std::vector<OpResult>> want = co_await t->partition_->Write(std::move(batch), WriteOptions());
    Result<std::vector<OpResult>> got = co_await WritePoint(t->engine_.get(), t->partition_, ops[i]);
    EXPECT_OK(want.status());
    EXPECT_OK(got.status());
    if (want.ok() && got.ok()) ExpectSame((*want)[0], (*got)[0], fmt::format("operation {}", i));
  }
}

TEST_F(PointWriteTest, HaveTheResultsOfWrite) { Run(&EveryKind); }

// What has to be waited for, or is refused, is left to Write. It has done nothing.
Task<void> Unusual(PointWriteTest* t) {
  std::vector<std::unique_ptr<AwaitedWrite>> writes;
  t->Begin(&writes,
           {PutOp("large", std::string(100'000, 'v')), PutOp("small", "v"), PutOp(std::string(1029, 'k'), "v")});
  EXPECT_FALSE(writes[0]->begun);
  EXPECT_EQ(writes[0]->op.value.size(), 100'000u);
  EXPECT_TRUE(writes[1]->begun);
  EXPECT_FALSE(writes[2]->begun) << "the key is too long for a page";
  EXPECT_FALSE(writes[1]->over) << "it was done before it was durable";
  co_await PointWriteTest::AwaitAll(&writes);
  EXPECT_OK(co_await t->partition_->PrepareCut());
  Result<Version> held = co_await t->partition_->HoldWrites();
  EXPECT_OK(held.status());
  writes.clear();
  t->Begin(&writes, {PutOp("held", "v")});
  EXPECT_FALSE(writes[0]->begun) << "writes are held for a cut";
  EXPECT_OK(co_await t->partition_->AbandonCut());
  EXPECT_EQ(co_await PointWriteTest::Read(t, "held"), "nothing");
  EXPECT_EQ(co_await PointWriteTest::Read(t, "large"), "nothing");
  EXPECT_EQ(co_await PointWriteTest::Read(t, "small"), "v");
}

TEST_F(PointWriteTest, LeaveToWriteWhatHasToWait) { Run(&Unusual); }

// The leaf with which a write was admitted splits before the write is applied, because of the writes
// before it; or a checkpoint freezes it, and it is cloned.
Task<void> ChangingLeaves(PointWriteTest* t) {
  constexpr int kWrites = 200;
  for (int round = 0; round < 6; ++round) {
    std::vector<std::unique_ptr<AwaitedWrite>> writes;
    std::vector<WriteOp> ops;
    for (int i = 0; i < kWrites; ++i)
      ops.push_back(PutOp(Key(i * 7 % kWrites), std::string(round * 90 + 20, 'a' + round)));
    t->Begin(&writes, std::move(ops));
    const auto begun = std::count_if(writes.begin(), writes.end(), [](const auto& w) { return w->begun; });
    EXPECT_GT(begun, 20);

    if (round % 2 == 1) EXPECT_OK(co_await t->partition_->Checkpoint());
    co_await PointWriteTest::AwaitAll(&writes);
    for (auto& write : writes) {
      if (!write->begun) EXPECT_OK(co_await Put(t->partition_, write->op.key, write->op.value));
      EXPECT_OK(write->status);
    }
    for (int i = 0; i < kWrites; i += 11) {
      EXPECT_EQ(co_await PointWriteTest::Read(t, Key(i)), std::string(round * 90 + 20, 'a' + round)) << round;
    }
  }
  EXPECT_EQ(t->engine_->stats().pool_pinned_pages, 0u);
}

TEST_F(PointWriteTest, AreAppliedWhereTheirKeyIsNow) { Run(&ChangingLeaves); }

// More writes are admitted at once than may pin their leaves; all of them are in the same order in
// the log as they were given.
Task<void> SameKey(PointWriteTest* t) {
  std::vector<std::unique_ptr<AwaitedWrite>> writes;
  std::vector<WriteOp> ops;
  for (int i = 0; i < 100; ++i) ops.push_back(IncrementOp("number", 1));
  t->Begin(&writes, std::move(ops));
  co_await PointWriteTest::AwaitAll(&writes);
  Version last = 0;
  for (size_t i = 0; i < writes.size(); ++i) {
    EXPECT_TRUE(writes[i]->begun);
    EXPECT_EQ(writes[i]->result.number, static_cast<int64_t>(i + 1));
    EXPECT_GT(writes[i]->result.version, last);
    last = writes[i]->result.version;
  }
}

TEST_F(PointWriteTest, ApplyInTheOrderOfTheBatch) { Run(&SameKey); }

// The log fails while writes are on their way: each is done, with an error that says that its effect
// is unknown.
Task<void> Failing(PointWriteTest* t) {
  std::vector<std::unique_ptr<AwaitedWrite>> writes;
  std::vector<WriteOp> ops;
  for (int i = 0; i < 10; ++i) ops.push_back(PutOp(Key(i), "v"));
  t->Begin(&writes, std::move(ops));
  t->closes_cleanly_ = false;
  DiskFault fault;
  fault.path_contains = "/wal-0";
  fault.count = UINT64_MAX;
  t->machine_->AddFault(fault);
  co_await PointWriteTest::AwaitAll(&writes);
  for (auto& write : writes) {
    EXPECT_TRUE(write->begun && write->over);
    EXPECT_EQ(write->status.code(), Code::kAborted);
  }
  std::vector<std::unique_ptr<AwaitedWrite>> later;
  t->Begin(&later, {PutOp("later", "v")});
  EXPECT_FALSE(later[0]->begun);
  co_return;
}

TEST_F(PointWriteTest, AreDoneWhenThePartitionFails) { Run(&Failing); }

}  // namespace
}  // namespace pando::engine_test
