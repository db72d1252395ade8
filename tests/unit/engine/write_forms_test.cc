// Writes other than single puts: all or nothing, checks on other keys, exact expiry, touch, and the
// previous record. Recovery must produce the same result. The model and crash tests use these at
// random.
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr WriteOptions kEachAlone{.all_or_nothing = false};
constexpr WriteOptions kAllOrNothing{.all_or_nothing = true};
constexpr int64_t kTtlMs = 10'000;
constexpr Nanos kSweepTime = 5 * kSecond;
constexpr size_t kBigBytes = 200'000;  // an overflow value

using Ops = std::vector<WriteOp>;
using Results = std::vector<OpResult>;

WriteOp If(WriteOp op, Condition condition) {
  op.condition = std::move(condition);
  return op;
}
Condition Exists(bool exists) { return {.version = {}, .value = {}, .exists = exists}; }
Condition HasValue(std::string value) { return {.version = {}, .value = std::move(value), .exists = {}}; }
Condition HasVersion(Version version) { return {.version = version, .value = {}, .exists = {}}; }
WriteOp CheckOp(std::string key, Condition condition) {
  WriteOp op;
  op.op = RecordOp::kCheck;
  op.key = std::move(key);
  op.condition = std::move(condition);
  return op;
}
WriteOp TouchOp(std::string key, int64_t expires_at_ms) {  // 0 = never
  WriteOp op;
  op.op = RecordOp::kTouch;
  op.key = std::move(key);
  op.ttl_mode = expires_at_ms == 0 ? TtlMode::kClear : TtlMode::kSet;
  op.expires_at_ms = expires_at_ms;
  return op;
}
WriteOp ExpiringAt(WriteOp op, int64_t expires_at_ms) {
  op.ttl_mode = TtlMode::kSet;
  op.expires_at_ms = expires_at_ms;
  return op;
}
WriteOp WithPrevious(WriteOp op) {
  op.return_previous = true;
  return op;
}

Task<Results> Do(Partition* p, Ops ops, WriteOptions options) {
  const size_t n = ops.size();
  Result<Results> results = co_await p->Write(std::move(ops), options);
  EXPECT_OK(results.status());
  if (!results.ok()) co_return Results(n);
  EXPECT_EQ(results->size(), n);
  co_return *std::move(results);
}
Task<OpResult> DoOne(Partition* p, WriteOp op) {
  Ops ops;
  ops.push_back(std::move(op));
  Results results = co_await Do(p, std::move(ops), kEachAlone);
  co_return std::move(results.front());
}
Task<ReadResult> Read(Partition* p, std::string key) {
  Result<ReadResult> got = co_await p->Get(std::move(key), kNewest, nullptr);
  EXPECT_OK(got.status());
  co_return got.ok() ? *std::move(got) : ReadResult();
}

// Everything in the partition, as text.
Task<std::string> Contents(Partition* p) {
  std::string all;
  ScanSpec spec;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await p->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok()) co_return "failed";
    for (const ScanRow& row : page->rows) {
      all += fmt::format("{}={} v{} e{}\n", row.key, row.value, row.version, row.expires_at_ms);
    }
    over = page->exhausted;
    if (!over) spec.start = std::string(page->rows.back().key) + '\0';
  }
  co_return all;
}

// Writes large values that nobody reads, until the pool's earlier contents have been evicted.
Task<void> FloodPool(Engine* engine, Partition* p) {
  const uint64_t bytes = engine->stats().pool_pages * 4096;
  EXPECT_OK(co_await p->Checkpoint());
  for (uint64_t written = 0; written < 3 * bytes; written += kBigBytes) {
    EXPECT_OK(co_await Put(p, fmt::format("flood-{:04}", written / kBigBytes % 20), std::string(kBigBytes, 'f')));
  }
  EXPECT_OK(co_await p->Checkpoint());
}

// Runs bodies on the same files, each in a process of its own.
class WriteFormsTest : public testing::Test {
 protected:
  WriteFormsTest() { setup_.store.partitions = 1; }
  void RunInNewProcess(Task<void> (*body)(Reactor*, Engine*)) {
    if (machine_->running()) machine_->ProcessCrash(1);
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, WithEngine(reactor, setup_, body)));
  }
  // Recovery must find what `body` left.
  void RunAndRecover(Task<void> (*body)(Reactor*, Engine*)) {
    RunInNewProcess(body);
    RunInNewProcess(Compare);
    EXPECT_FALSE(contents_.empty());
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  static std::string contents_;  // of the store as the last body left it

 private:
  static Task<void> WithEngine(Reactor* reactor, engine_test::Setup setup, Task<void> (*body)(Reactor*, Engine*)) {
    auto engine = co_await OpenEngine(*reactor, setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    co_await body(reactor, engine->get());
    contents_ = co_await Contents((*engine)->partition(0));
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
    EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
  }
  static Task<void> Compare(Reactor*, Engine* engine) {
    const std::string found = co_await Contents(engine->partition(0));
    EXPECT_EQ(found, contents_);
  }
};
std::string WriteFormsTest::contents_;

// -- all or nothing

// Writes `ops`, of which operation `at` is refused. With all_or_nothing nothing may change.
Task<OpResult> ExpectRefused(Partition* p, Ops ops, size_t at, OpOutcome outcome) {
  const std::string before = co_await Contents(p);
  const Lsn lsn = p->stats().last_lsn;
  const size_t n = ops.size();
  Results results = co_await Do(p, std::move(ops), kAllOrNothing);
  for (size_t i = 0; i < n; ++i) {
    EXPECT_EQ(results[i].outcome, i == at ? outcome : OpOutcome::kBatchRefused) << "operation " << i;
    if (i == at) continue;
    EXPECT_EQ(results[i].version, 0u);
    EXPECT_FALSE(results[i].current.found);
  }
  EXPECT_EQ(co_await Contents(p), before);
  EXPECT_EQ(p->stats().last_lsn, lsn + n)
      << "the outcome is decided when the write is applied, so the write is in the log";
  co_return std::move(results[at]);
}

Task<void> RefuseWholeBatches(Reactor*, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string most = std::to_string(INT64_MAX);
  Ops setup{PutOp("a", "1"), PutOp("n", "5"), PutOp("text", "no number"), PutOp("most", most)};
  const Results put = co_await Do(p, setup, kEachAlone);

  // A condition fails. The operations before and after it would apply; one of them has a value that
  // needs space.
  Ops ops{PutOp("b", std::string(kBigBytes, 'b')), If(PutOp("a", "2"), HasVersion(put[0].version + 1)), RemoveOp("n")};
  OpResult refused = co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);
  EXPECT_TRUE(refused.existed);
  EXPECT_EQ(refused.version, put[0].version);
  EXPECT_EQ(refused.current.value, "1");

  ops = {PutOp("b", "x"), IncrementOp("text", 1)};
  refused = co_await ExpectRefused(p, ops, 1, OpOutcome::kNotANumber);
  EXPECT_EQ(refused.current.value, "no number");
  ops = {IncrementOp("most", 1), PutOp("b", "x")};
  refused = co_await ExpectRefused(p, ops, 0, OpOutcome::kOverflow);
  EXPECT_EQ(refused.current.value, most);

  // Refused because of what an earlier operation would leave. The record handed back is the one in
  // the store.
  ops = {IncrementOp("n", INT64_MAX - 5), IncrementOp("n", 1)};
  refused = co_await ExpectRefused(p, ops, 1, OpOutcome::kOverflow);
  EXPECT_EQ(refused.current.value, "5");
  ops = {PutOp("new", "x"), If(PutOp("new", "y"), Exists(false))};
  refused = co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);
  EXPECT_FALSE(refused.current.found);
  ops = {PutOp("n", "six"), IncrementOp("n", 1)};
  co_await ExpectRefused(p, ops, 1, OpOutcome::kNotANumber);
  ops = {PutOp("n", std::string(kBigBytes, '1')), IncrementOp("n", 1)};
  co_await ExpectRefused(p, ops, 1, OpOutcome::kNotANumber);
  ops = {RemoveOp("a"), If(RemoveOp("a"), Exists(true))};
  co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);
  // 1 ms after 1970: it has expired by then.
  ops = {TouchOp("a", 1), If(RemoveOp("a"), HasVersion(put[0].version))};
  co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);

  ops = {RemoveOp("a"), TouchOp("a", 0)};  // the value was not requested
  refused = co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);
  EXPECT_EQ(refused.current.version, put[0].version);
  EXPECT_TRUE(refused.value_omitted);
  ops = {PutOp("b", "x"), TouchOp("nobody", 0)};
  co_await ExpectRefused(p, ops, 1, OpOutcome::kConditionFailed);

  // All reasons are reported at once.
  ops = {If(PutOp("a", "2"), Exists(false)), PutOp("b", "x"), IncrementOp("text", 1), IncrementOp("n", 1)};
  const Results reasons = co_await Do(p, ops, kAllOrNothing);
  EXPECT_EQ(reasons[0].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(reasons[0].current.value, "1");
  EXPECT_EQ(reasons[1].outcome, OpOutcome::kBatchRefused);
  EXPECT_EQ(reasons[2].outcome, OpOutcome::kNotANumber);
  EXPECT_EQ(reasons[2].current.value, "no number");
  EXPECT_EQ(reasons[3].outcome, OpOutcome::kBatchRefused);

  // Without all_or_nothing the same batch applies what it can.
  ops = {PutOp("b", "x"), If(PutOp("a", "2"), Exists(false)), IncrementOp("n", 1)};
  const Results each = co_await Do(p, ops, kEachAlone);
  EXPECT_EQ(each[0].outcome, OpOutcome::kApplied);
  EXPECT_EQ(each[1].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(each[2].number, 6);
}

TEST_F(WriteFormsTest, OneRefusedOperationRefusesAll) { RunAndRecover(RefuseWholeBatches); }

Task<void> ApplyWholeBatches(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string big(kBigBytes, 'b');
  EXPECT_OK(co_await Put(p, "a", "1"));
  EXPECT_OK(co_await Put(p, "n", "5"));
  EXPECT_OK(co_await Put(p, "big", big));
  const int64_t expires_at_ms = reactor->WallMs() + kTtlMs;
  // Each operation sees what those before it leave: values, numbers, removes, and expiries.
  Ops ops{RemoveOp("a"),
          If(PutOp("a", "2"), Exists(false)),
          If(PutOp("a", "3"), HasValue("2")),
          IncrementOp("n", 1),
          If(IncrementOp("n", 1), HasValue("6")),
          TouchOp("big", expires_at_ms),
          If(TouchOp("big", expires_at_ms + 1), HasValue(big)),
          If(PutOp("big", "small"), HasValue(big)),
          PutOp("large", big),
          If(RemoveOp("large"), HasValue(big)),
          If(IncrementOp("large", 7), Exists(false))};
  const Results results = co_await Do(p, ops, kAllOrNothing);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].outcome, OpOutcome::kApplied) << "operation " << i;
    EXPECT_GT(results[i].version, i == 0 ? 0 : results[i - 1].version);
  }
  EXPECT_EQ(results[4].number, 7);
  EXPECT_EQ((co_await Read(p, "a")).value, "3");
  EXPECT_EQ((co_await Read(p, "big")).value, "small");
  EXPECT_EQ((co_await Read(p, "big")).expires_at_ms, expires_at_ms + 1) << "a put keeps the expiry";
  EXPECT_EQ((co_await Read(p, "large")).value, "7");
}

TEST_F(WriteFormsTest, LaterOperationsMeetWhatEarlierOnesLeave) { RunAndRecover(ApplyWholeBatches); }

// -- checks

Task<void> CheckOtherKeys(Reactor*, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string big(kBigBytes, 'b');
  EXPECT_OK(co_await Put(p, "guard", big));
  co_await FloodPool(engine, p);
  for (const WriteOptions options : {kEachAlone, kAllOrNothing}) {
    // The guard's value is not in memory. It is read before the write is applied.
    Ops ops{CheckOp("guard", HasValue(big)), CheckOp("nobody", Exists(false)), PutOp("a", "1")};
    Results results = co_await Do(p, ops, options);
    for (const OpResult& result : results) EXPECT_EQ(result.outcome, OpOutcome::kApplied);

    ops = {CheckOp("guard", HasValue(big)), CheckOp("nobody", Exists(true)), PutOp("a", "2"), RemoveOp("guard")};
    const std::string before = co_await Contents(p);
    results = co_await Do(p, ops, options);
    EXPECT_EQ(results[0].outcome, OpOutcome::kBatchRefused);
    EXPECT_EQ(results[1].outcome, OpOutcome::kConditionFailed);
    EXPECT_FALSE(results[1].current.found);
    EXPECT_EQ(results[2].outcome, OpOutcome::kBatchRefused);
    EXPECT_EQ(results[3].outcome, OpOutcome::kBatchRefused);
    EXPECT_EQ(co_await Contents(p), before) << "a refused write changed something";
    co_await FloodPool(engine, p);
    ops = {CheckOp("guard", HasValue(big + "x")), PutOp("a", "2")};
    results = co_await Do(p, ops, options);
    EXPECT_EQ(results[0].outcome, OpOutcome::kConditionFailed);
    EXPECT_EQ(results[0].current.value, big);
    EXPECT_EQ((co_await Read(p, "a")).value, "1");
  }
  // All failed checks are reported. The other operations are not judged.
  Ops failing{CheckOp("guard", Exists(false)), CheckOp("nobody", Exists(false)), CheckOp("a", HasValue("2")),
              If(PutOp("b", "x"), Exists(true))};
  const Results told = co_await Do(p, failing, kAllOrNothing);
  EXPECT_EQ(told[0].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(told[0].current.value, big);
  EXPECT_EQ(told[1].outcome, OpOutcome::kBatchRefused);
  EXPECT_EQ(told[2].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(told[2].current.value, "1");
  EXPECT_EQ(told[3].outcome, OpOutcome::kBatchRefused);
  // Checks that hold do not affect the conditions of other operations.
  Ops ops{CheckOp("guard", Exists(true)), If(PutOp("a", "3"), Exists(false)), PutOp("b", "3")};
  Results results = co_await Do(p, ops, kEachAlone);
  EXPECT_EQ(results[1].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(results[2].outcome, OpOutcome::kApplied);
}

TEST_F(WriteFormsTest, ChecksGuardTheWholeWrite) {
  setup_.engine.memory_bytes = 2u << 20;
  RunAndRecover(CheckOtherKeys);
}

// Several writers transfer money between accounts, each time with a compare-and-swap of two keys.
// No money is created or lost, and no retry is applied twice.
constexpr int kAccounts = 6;
std::string Account(int i) { return fmt::format("account-{}", i); }

Task<void> Transfer(Partition* p, uint64_t seed, int* done) {
  SimRandom random(seed);
  for (int n = 0; n < 50;) {
    const int from = static_cast<int>(random.Below(kAccounts));
    const int to = (from + 1 + static_cast<int>(random.Below(kAccounts - 1))) % kAccounts;
    const ReadResult source = co_await Read(p, Account(from));
    const ReadResult target = co_await Read(p, Account(to));
    const int amount = 1 + static_cast<int>(random.Below(10));
    Ops ops{If(PutOp(Account(from), std::to_string(std::stoi(source.value) - amount)), HasVersion(source.version)),
            If(PutOp(Account(to), std::to_string(std::stoi(target.value) + amount)), HasVersion(target.version))};
    const Results results = co_await Do(p, ops, kAllOrNothing);
    const bool applied = results[0].outcome == OpOutcome::kApplied;
    EXPECT_EQ(results[1].outcome == OpOutcome::kApplied, applied);
    n += applied;
  }
  ++*done;
}

Task<void> MoveMoney(Reactor*, Engine* engine) {
  Partition* p = engine->partition(0);
  for (int i = 0; i < kAccounts; ++i) EXPECT_OK(co_await Put(p, Account(i), "100"));
  TaskGroup writers;
  int done = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) writers.Spawn(Transfer(p, seed, &done));
  co_await writers.Drain();
  EXPECT_EQ(done, 4);
  int sum = 0;
  for (int i = 0; i < kAccounts; ++i) sum += std::stoi((co_await Read(p, Account(i))).value);
  EXPECT_EQ(sum, kAccounts * 100);
}

TEST_F(WriteFormsTest, CompareAndSwapOfSeveralKeys) { RunAndRecover(MoveMoney); }

// -- expiry and touch

Task<void> SetExactExpiries(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  const int64_t at_ms = reactor->WallMs() + 12'345;
  co_await DoOne(p, ExpiringAt(PutOp("a", "1"), at_ms));
  co_await DoOne(p, ExpiringAt(IncrementOp("n", 3), at_ms + 1));
  EXPECT_EQ((co_await Read(p, "a")).expires_at_ms, at_ms);
  EXPECT_EQ((co_await Read(p, "n")).expires_at_ms, at_ms + 1);
  // An expiry in the past: the record is stored and has expired at once. The next put creates a new
  // record.
  co_await DoOne(p, PutOp("gone", "1"));
  const OpResult past = co_await DoOne(p, ExpiringAt(PutOp("gone", "2"), 1));
  EXPECT_EQ(past.outcome, OpOutcome::kApplied);
  EXPECT_TRUE(past.existed);
  EXPECT_FALSE((co_await Read(p, "gone")).found);
  const OpResult anew = co_await DoOne(p, If(PutOp("gone", "3"), Exists(false)));
  EXPECT_EQ(anew.outcome, OpOutcome::kApplied);
  EXPECT_EQ((co_await Read(p, "gone")).expires_at_ms, 0);
  co_await Sleep(*reactor, (at_ms - 1 - reactor->WallMs()) * kMillisecond);
  EXPECT_TRUE((co_await Read(p, "a")).found);
  co_await Sleep(*reactor, kMillisecond);
  EXPECT_FALSE((co_await Read(p, "a")).found);
  co_await Sleep(*reactor, kSweepTime);
  EXPECT_EQ(p->stats().expired_total, 2u);
}

TEST_F(WriteFormsTest, ExpiryIsExact) { RunAndRecover(SetExactExpiries); }

Task<void> TouchRecords(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string big(kBigBytes, 'b');
  const OpResult put = co_await DoOne(p, PutOp("big", big));
  co_await DoOne(p, PutOp("small", "s"));
  EXPECT_OK(co_await p->Checkpoint());
  std::vector<Partition*> partitions{p};
  Result<SnapshotInfo> cut = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 1'000'000);
  EXPECT_OK(cut.status());

  const uint64_t log_bytes = engine->stats().log.appended_bytes_total, used = p->stats().used_bytes;
  const int64_t at_ms = reactor->WallMs() + kTtlMs;
  const OpResult touched = co_await DoOne(p, TouchOp("big", at_ms));
  EXPECT_EQ(touched.outcome, OpOutcome::kApplied);
  EXPECT_TRUE(touched.existed);
  EXPECT_GT(touched.version, put.version);
  co_await DoOne(p, TouchOp("small", at_ms));
  EXPECT_OK(co_await p->Checkpoint());
  EXPECT_LT(engine->stats().log.appended_bytes_total - log_bytes, 20'000u) << "the value went through the log";
  EXPECT_LT(p->stats().used_bytes, used + kBigBytes) << "the value was written again";
  const ReadResult now = co_await Read(p, "big");
  EXPECT_EQ(now.value, big);
  EXPECT_EQ(now.version, touched.version);
  EXPECT_EQ(now.expires_at_ms, at_ms);
  EXPECT_EQ((co_await Read(p, "small")).value, "s");
  Result<ReadResult> then = co_await p->Get("big", cut->id, nullptr);
  EXPECT_OK(then.status());
  EXPECT_EQ(then->value, big);
  EXPECT_EQ(then->version, put.version);
  EXPECT_EQ(then->expires_at_ms, 0);
  // The touched record is among the changes since the snapshot.
  ScanSpec changes;
  changes.since = cut->id;
  Result<ScanPage> page = co_await p->Scan(changes);
  EXPECT_OK(page.status());
  EXPECT_EQ(page->rows.size(), 2u);

  const OpResult nobody = co_await DoOne(p, TouchOp("nobody", at_ms));
  EXPECT_EQ(nobody.outcome, OpOutcome::kConditionFailed);
  EXPECT_FALSE(nobody.existed);
  EXPECT_FALSE(nobody.current.found);
  EXPECT_FALSE((co_await Read(p, "nobody")).found);
  const OpResult refused = co_await DoOne(p, If(TouchOp("big", 0), HasVersion(put.version)));
  EXPECT_EQ(refused.outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(refused.current.value, big);

  // One record lives on, and the other is swept. A touch cannot bring back an expired record.
  co_await DoOne(p, TouchOp("small", 0));
  co_await Sleep(*reactor, (at_ms - reactor->WallMs()) * kMillisecond);
  EXPECT_FALSE((co_await DoOne(p, TouchOp("big", 0))).existed);
  co_await Sleep(*reactor, kSweepTime);
  EXPECT_EQ(p->stats().expired_total, 1u);
  EXPECT_TRUE((co_await Read(p, "small")).found);
  std::vector<Partition*> again{p};
  EXPECT_OK(co_await ReleaseSnapshot(again, cut->id));
}

TEST_F(WriteFormsTest, TouchLeavesTheValueWhereItIs) { RunAndRecover(TouchRecords); }

// A touch that sets an expiry makes its record longer, so full pages split.
Task<void> TouchFullPages(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  constexpr int kRecords = 500;
  const int64_t at_ms = reactor->WallMs() + 1000 * kTtlMs;
  auto key = [](int i) { return fmt::format("key-{:05}", i); };
  for (int i = 0; i < kRecords; ++i) EXPECT_OK(co_await Put(p, key(i), std::string(30 + i % 900, 'v')));
  EXPECT_OK(co_await p->Checkpoint());
  for (int i = 0; i < kRecords; ++i) EXPECT_TRUE((co_await DoOne(p, TouchOp(key(i * 7 % kRecords), at_ms))).existed);
  for (int i = 0; i < kRecords; ++i) {
    const ReadResult got = co_await Read(p, key(i));
    EXPECT_EQ(got.value, std::string(30 + i % 900, 'v'));
    EXPECT_EQ(got.expires_at_ms, at_ms);
  }
}

TEST_F(WriteFormsTest, TouchSplitsFullPages) { RunAndRecover(TouchFullPages); }

// -- the previous record

Task<void> AskForPrevious(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string big(kBigBytes, 'b');
  const int64_t at_ms = reactor->WallMs() + 1000 * kTtlMs;
  OpResult result = co_await DoOne(p, WithPrevious(PutOp("k", "1")));
  EXPECT_FALSE(result.existed);
  EXPECT_FALSE(result.current.found);
  const Version first = result.version;
  result = co_await DoOne(p, WithPrevious(ExpiringAt(PutOp("k", big), at_ms)));
  EXPECT_TRUE(result.existed);
  EXPECT_EQ(result.current.value, "1");
  EXPECT_EQ(result.current.version, first);
  EXPECT_GT(result.version, first);
  const Version second = result.version;
  co_await FloodPool(engine, p);
  result = co_await DoOne(p, WithPrevious(RemoveOp("k")));  // its value is read from disk first
  EXPECT_TRUE(result.existed);
  EXPECT_EQ(result.current.value, big);
  EXPECT_EQ(result.current.version, second);
  EXPECT_EQ(result.current.expires_at_ms, at_ms);
  result = co_await DoOne(p, WithPrevious(RemoveOp("k")));
  EXPECT_EQ(result.outcome, OpOutcome::kApplied);
  EXPECT_FALSE(result.current.found);
  // The previous record was not requested, so none is returned.
  co_await DoOne(p, PutOp("k", "2"));
  result = co_await DoOne(p, PutOp("k", "3"));
  EXPECT_TRUE(result.existed);
  EXPECT_FALSE(result.current.found);
}

TEST_F(WriteFormsTest, PreviousRecordComesWhenAskedFor) { RunAndRecover(AskForPrevious); }

Task<void> AskForMuch(Reactor*, Engine* engine) {
  Partition* p = engine->partition(0);
  const std::string big(kMaxBatchBytes / 4, 'b');
  Ops puts, removes;
  for (int i = 0; i < 5; ++i) {
    EXPECT_OK(co_await Put(p, fmt::format("k{}", i), big));
    removes.push_back(WithPrevious(RemoveOp(fmt::format("k{}", i))));
  }
  const Results results = co_await Do(p, removes, kEachAlone);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(results[i].outcome, OpOutcome::kApplied);
    EXPECT_TRUE(results[i].current.found);
    EXPECT_EQ(results[i].value_omitted, i == 4) << "operation " << i;
    EXPECT_EQ(results[i].current.value.size(), i == 4 ? 0 : big.size());
  }
}

TEST_F(WriteFormsTest, PreviousRecordsOfABatchAreBounded) {
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.log_budget_bytes = 64u << 20;
  RunInNewProcess(AskForMuch);
}

// -- recovery

// One write with more leaves than a small pool can hold.
Task<void> WriteWide(Reactor*, Engine* engine) {
  Partition* p = engine->partition(0);
  constexpr int kOps = 500;
  auto key = [](int i) { return fmt::format("key-{:05}", i * 37 % 5000); };
  for (int i = 0; i < 5000; ++i) EXPECT_OK(co_await Put(p, fmt::format("key-{:05}", i), std::string(300, 'v')));
  EXPECT_OK(co_await p->Checkpoint());
  EXPECT_OK(co_await p->Checkpoint());
  Ops ops;
  for (int i = 0; i < kOps; ++i) ops.push_back(If(PutOp(key(i), std::string(300, 'w')), Exists(true)));
  Results results = co_await Do(p, ops, kAllOrNothing);
  EXPECT_EQ(results.back().outcome, OpOutcome::kApplied);
  for (int i = 0; i < kOps; ++i) ops[i] = PutOp(key(i), std::string(300, 'x'));
  ops.back().condition.exists = false;
  results = co_await Do(p, ops, kAllOrNothing);
  EXPECT_EQ(results.back().outcome, OpOutcome::kConditionFailed);
}
Task<void> DoNothing(Reactor*, Engine*) { co_return; }

TEST_F(WriteFormsTest, RecoveryNeedsNoMoreMemoryThanOneOperation) {
  setup_.engine.memory_bytes = 48u << 20;
  setup_.engine.log_budget_bytes = 64u << 20;
  setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  RunInNewProcess(WriteWide);
  const std::string want = contents_;
  setup_.engine.memory_bytes = 2u << 20;
  RunInNewProcess(DoNothing);
  EXPECT_TRUE(contents_ == want) << "recovery produced other contents";
}

// Records that no write produces, in a batch with valid checksums.
LogRecord Record(RecordOp op, Version version, bool continues, bool all_or_nothing) {
  LogRecord record;
  record.op = op;
  record.version = version;
  record.continues = continues;
  record.all_or_nothing = all_or_nothing;
  record.key = "key";
  record.value = "value";
  if (op == RecordOp::kCheck) record.condition.exists = false;
  return record;
}

struct ReplayCase {
  std::string_view name;
  std::vector<LogRecord> records;
  Code code = Code::kOk;
  bool old_format = false;
};

Task<void> ReplayCases(Reactor* reactor, engine_test::Setup setup, const std::vector<ReplayCase>* cases) {
  Result<StoreInfo> store = co_await OpenStore(*reactor, setup.store);
  EXPECT_OK(store.status());
  BufferPoolOptions pool_options;
  pool_options.page_bytes = setup.store.page_bytes;
  pool_options.seal_bytes = setup.store.seal_bytes;
  pool_options.memory_bytes = setup.engine.memory_bytes;
  BufferPool pool(*reactor, pool_options);
  pool.Start();
  for (const ReplayCase& c : *cases) {
    Replica::Options options;
    options.info = store->partitions[0];
    Result<std::unique_ptr<Replica>> replica = co_await Replica::Open(*reactor, pool, *store, std::move(options));
    EXPECT_OK(replica.status());
    std::string bytes;
    for (const LogRecord& record : c.records) EncodeRecord(record, &bytes);
    RecoveredUnits found;
    found.units.push_back({1, 1, static_cast<uint32_t>(c.records.size()), 0, 0, bytes});
    found.file = "segment";
    found.old_format = c.old_format;
    Status status = co_await (*replica)->Replay(found);
    if (status.ok()) status = co_await (*replica)->FinishReplay();
    if (status.ok()) status = (*replica)->failure();  // it is quarantined
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status.ToString();
    co_await (*replica)->Drain();
    EXPECT_OK(co_await (*replica)->Close());
  }
  co_await pool.Stop();
}

TEST_F(WriteFormsTest, WritesThatNobodyMakesAreCorruption) {
  const RecordOp put = RecordOp::kPut, check = RecordOp::kCheck;
  const std::vector<ReplayCase> cases{
      {"sound", {Record(check, 1, true, false), Record(put, 2, false, false)}},
      {"two writes in an old unit", {Record(put, 1, false, false), Record(put, 2, false, true)}, Code::kOk, true},
      {"two writes in one unit", {Record(put, 1, false, false), Record(put, 2, false, true)}, Code::kCorruption},
      {"check after put", {Record(put, 1, true, false), Record(check, 2, false, false)}, Code::kCorruption},
      {"check after put, all or nothing",
       {Record(put, 1, true, true), Record(check, 2, false, true)},
       Code::kCorruption},
      {"half is all-or-nothing", {Record(put, 1, true, true), Record(put, 2, false, false)}, Code::kCorruption},
      {"cut short", {Record(put, 1, true, false)}, Code::kCorruption},
  };
  SimReactor* reactor = machine_->Boot();
  EXPECT_TRUE(kernel_.RunTask(*reactor, ReplayCases(reactor, setup_, &cases)));
}

}  // namespace
}  // namespace pando::engine_test
