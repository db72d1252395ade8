// Expiring records: they are invisible at once, and the sweep removes them through the log unless
// they were renewed.
#include <gtest/gtest.h>

#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr int kRecords = 500;
constexpr int kExpiring = (kRecords + 1) / 3;
constexpr int64_t kTtlMs = 10'000;
constexpr Nanos kSweepTime = 5 * kSecond;  // enough for a sweep of a few hundred records

std::string Key(int i) { return fmt::format("key-{:04}", i); }
// One third never expires, one third does, and one third would but is renewed.
bool Expires(int i) { return i % 3 == 1; }

WriteOp PutWithTtl(int i, TtlMode mode, int64_t ttl_ms) {
  WriteOp op = PutOp(Key(i), std::string(i % 50 == 1 ? 6000 : 80, 'v'));
  op.ttl_mode = mode;
  op.ttl_ms = ttl_ms;
  return op;
}

// The number of records in the tree, expired or not.
Task<uint64_t> Stored(Partition* p) {
  Result<Aggregates> sum = co_await static_cast<Replica*>(p)->tree().Aggregate(0, "", "", /*now_ms=*/0);
  EXPECT_OK(sum.status());
  co_return sum->count;
}

Task<void> ExpectVisible(Partition* p, bool expired) {
  uint64_t visible = 0;
  for (int i = 0; i < kRecords; ++i) {
    Result<ReadResult> got = co_await p->Get(Key(i), kNewest, nullptr);
    EXPECT_OK(got.status());
    EXPECT_EQ(got->found, !(expired && Expires(i))) << Key(i);
    visible += got->found;
  }
  Result<RangeAggregates> count = co_await p->Aggregate("", "", kNewest);
  EXPECT_EQ(count->count, visible);
  ScanSpec spec;
  Result<ScanPage> page = co_await p->Scan(spec);
  EXPECT_OK(page.status());
  EXPECT_EQ(page->rows.size(), visible);
}

Task<void> PutAll(Partition* p) {
  for (int i = 0; i < kRecords; ++i) {
    std::vector<WriteOp> ops(1, PutWithTtl(i, i % 3 == 0 ? TtlMode::kClear : TtlMode::kSet, i % 3 == 0 ? 0 : kTtlMs));
    EXPECT_OK(co_await Write(p, ops));
  }
}

Task<void> ExpireAndSweep(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  co_await PutAll(p);
  co_await ExpectVisible(p, false);
  const int64_t put_ms = reactor->WallMs();
  for (int i = 2; i < kRecords; i += 3) {  // replace the old ones with longer or no expiry
    std::vector<WriteOp> ops(1, PutWithTtl(i, i % 2 ? TtlMode::kClear : TtlMode::kSet, i % 2 ? 0 : 1000 * kTtlMs));
    EXPECT_OK(co_await Write(p, ops));
  }
  EXPECT_OK(co_await p->Checkpoint());  // due records are then found through references
  EXPECT_EQ(p->stats().expired_total, 0u);
  // Readers stop seeing them the moment they expire. The sweep follows later.
  co_await Sleep(*reactor, (put_ms + kTtlMs - reactor->WallMs()) * kMillisecond);
  co_await ExpectVisible(p, true);
  co_await Sleep(*reactor, kSweepTime);
  const uint64_t expired = kExpiring;
  EXPECT_EQ(p->stats().expired_total, expired);
  EXPECT_EQ(co_await Stored(p), kRecords - expired);
  co_await ExpectVisible(p, true);
  const Lsn last = p->stats().last_lsn;
  co_await Sleep(*reactor, kSweepTime);
  EXPECT_EQ(p->stats().last_lsn, last) << "nothing was due, but something was written";
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// Recovery replays the removals of the sweep from the log.
Task<void> FindSwept(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  EXPECT_EQ(co_await Stored(p), kRecords - kExpiring);
  co_await ExpectVisible(p, true);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

// The next process sweeps what expired while no process was running. It learns of it from the
// root's reference or from the log.
Task<void> PutOnly(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await PutAll((*engine)->partition(0));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/setup.store.page_bytes == 8192));
}
Task<void> SweepLate(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Sleep(*reactor, kSweepTime);
  EXPECT_EQ(co_await Stored((*engine)->partition(0)), (kRecords + 2) / 3);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

class ExpiryTest : public testing::Test {
 protected:
  ExpiryTest() { setup_.store.partitions = 1; }
  void RunInNewProcess(Task<void> (*body)(Reactor*, engine_test::Setup)) {
    if (machine_->running()) machine_->ProcessCrash(1);
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, body(reactor, setup_)));
  }
  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

// The clock is set forwards and backwards.
constexpr int64_t kHourMs = 3'600'000;

struct Found {
  bool by_get = false, by_batch = false;
  uint64_t counted = 0;
};

Task<Found> Look(Engine* engine, const std::string* key) {
  Partition* p = engine->partition(0);
  Found found;
  Result<ReadResult> got = co_await p->Get(*key, kNewest, nullptr);
  EXPECT_OK(got.status());
  found.by_get = got->found;
  PointRead read;
  std::string value;
  read.partition = p;
  read.key = *key;
  read.value = &value;
  engine->BatchGet({&read, 1});
  found.by_batch = read.outcome == PointRead::Outcome::kFound;
  Result<RangeAggregates> sum = co_await p->Aggregate(*key, *key + '\0', kNewest);
  EXPECT_OK(sum.status());
  found.counted = sum->count;
  co_return found;
}

Task<void> ExpectFound(Engine* engine, std::string key, bool there, std::string_view when) {
  Found found = co_await Look(engine, &key);
  EXPECT_EQ(found.by_get, there) << when;
  EXPECT_EQ(found.by_batch, there) << when;
  EXPECT_EQ(found.counted, there ? 1u : 0u) << when;
}

Task<Version> PutOne(Partition* p, int i, int64_t ttl_ms) {
  std::vector<WriteOp> ops(1, PutWithTtl(i, ttl_ms == 0 ? TtlMode::kClear : TtlMode::kSet, ttl_ms));
  Result<std::vector<OpResult>> put = co_await p->Write(ops, WriteOptions());
  EXPECT_OK(put.status());
  co_return (*put)[0].version;
}

Task<void> JumpingClock(Reactor* reactor, engine_test::Setup setup, SimMachine* machine) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Engine* engine = opened->get();
  Partition* p = engine->partition(0);
  const Version first = co_await PutOne(p, 1, kTtlMs);
  machine->SetClockSkewMs(kHourMs);
  co_await ExpectFound(engine, Key(1), false, "the clock was set forwards");
  const Version second = co_await PutOne(p, 2, kTtlMs);
  EXPECT_GT(second, first);
  // The clock is set back before the sweep. Records that were seen as expired stay expired for
  // readers and for conditions.
  machine->SetClockSkewMs(0);
  co_await ExpectFound(engine, Key(1), false, "the clock was set back");
  co_await ExpectFound(engine, Key(2), true, "written before the clock was set back");
  WriteOp if_there = PutOp(Key(1), "x");
  if_there.condition.exists = true;
  std::vector<WriteOp> ops(1, if_there);
  Result<std::vector<OpResult>> refused = co_await p->Write(ops, WriteOptions());
  EXPECT_OK(refused.status());
  EXPECT_EQ((*refused)[0].outcome, OpOutcome::kConditionFailed);
  // Versions keep rising, and nothing expires early.
  const Version third = co_await PutOne(p, 3, kTtlMs);
  EXPECT_GT(third, second);
  machine->SetClockSkewMs(-24 * kHourMs);
  EXPECT_GT(co_await PutOne(p, 4, 0), third);
  co_await Sleep(*reactor, kTtlMs / 2 * kMillisecond);
  co_await ExpectFound(engine, Key(3), true, "half of its time has passed");
  EXPECT_EQ(co_await Stored(p), 3u) << "the sweep has removed what had expired";
  // The clock needs a day to get back to the time it showed before. Expiry does not wait for that.
  co_await Sleep(*reactor, kTtlMs * 6 / 10 * kMillisecond);
  co_await ExpectFound(engine, Key(3), false, "its time has passed, though the clock is set back");
  WriteOp if_not_there = PutOp(Key(3), "x");
  if_not_there.condition.exists = false;
  ops.assign(1, if_not_there);
  Result<std::vector<OpResult>> applied = co_await p->Write(ops, WriteOptions());
  EXPECT_OK(applied.status());
  EXPECT_EQ((*applied)[0].outcome, OpOutcome::kApplied) << "a write sees what readers see";
  ops.assign(1, PutWithTtl(3, TtlMode::kSet, kTtlMs));
  EXPECT_OK(co_await Write(p, ops));
  machine->SetClockSkewMs(2 * kHourMs);
  co_await Sleep(*reactor, kSweepTime);
  EXPECT_EQ(co_await Stored(p), 1u);
  machine->SetClockSkewMs(0);
  EXPECT_OK(co_await engine->Close(/*checkpoint=*/false));
}

// Starts a process whose clock is behind the last one's writes.
Task<void> StartBehind(Reactor* reactor, engine_test::Setup setup) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  EXPECT_EQ(co_await Stored(p), 1u);
  Result<ReadResult> last = co_await p->Get(Key(4), kNewest, nullptr);
  EXPECT_GT(co_await PutOne(p, 4, 0), last->version);
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

// P6: what has expired stays expired when the clock is set back, and records keep expiring.
TEST_F(ExpiryTest, ClocksMayJump) {
  SimReactor* reactor = machine_->Boot();
  ASSERT_TRUE(kernel_.RunTask(*reactor, JumpingClock(reactor, setup_, machine_)));
  machine_->ProcessCrash(1);
  machine_->SetClockSkewMs(-kHourMs);
  RunInNewProcess(StartBehind);
}

// One page cannot be read temporarily. The sweep removes the other records and returns for those of
// that page.
Task<void> SweepWithFault(Reactor* reactor, engine_test::Setup setup, SimMachine* machine) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  const uint64_t before = machine->faults_struck();
  machine->AddFault({.kind = IoOp::Kind::kRead, .path_contains = "data"});
  co_await Sleep(*reactor, kTtlMs * kMillisecond + kSweepTime);
  EXPECT_EQ(machine->faults_struck(), before + 1) << "the sweep has read no page";
  const uint64_t swept = p->stats().expired_total;
  EXPECT_GT(swept, 0u) << "one page stopped the whole sweep";
  EXPECT_LT(swept, uint64_t{kRecords - (kRecords + 2) / 3});
  co_await Sleep(*reactor, 4 * kSweepTime);
  EXPECT_EQ(p->stats().expired_total, uint64_t{kRecords - (kRecords + 2) / 3});
  EXPECT_EQ(co_await Stored(p), (kRecords + 2) / 3);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

Task<void> PutAndWrite(Reactor* reactor, engine_test::Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await PutAll((*engine)->partition(0));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST_F(ExpiryTest, AFailedSweepIsTriedAgain) {
  RunInNewProcess(PutAndWrite);
  machine_->ProcessCrash(1);
  SimReactor* reactor = machine_->Boot();
  EXPECT_TRUE(kernel_.RunTask(*reactor, SweepWithFault(reactor, setup_, machine_)));
}

TEST_F(ExpiryTest, ExpiredRecordsVanishAtOnceAndAreSwept) {
  RunInNewProcess(ExpireAndSweep);
  RunInNewProcess(FindSwept);
}

TEST_F(ExpiryTest, WhatExpiredWhileNothingRanIsSweptLater) {
  // Found through the log, and through the root's reference.
  for (uint32_t page_bytes : {4096u, 8192u}) {
    machine_->PowerLoss(1);
    machine_->disk() = SimDisk();
    setup_.store.page_bytes = page_bytes;
    RunInNewProcess(PutOnly);
    machine_->ProcessCrash(1);
    kernel_.RunFor(20 * kSecond);
    RunInNewProcess(SweepLate);
  }
}

}  // namespace
}  // namespace pando::engine_test
