// What an engine tells its watchers: every write that took effect, once it is acknowledged, and
// nothing else; and what is left of that after a restart. Also: deleteRange's reads and size
// queries leave large values on disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using testing::ElementsAre;

constexpr size_t kMany = 1'000'000;

Task<ChangePage> ChangesAfter(Partition* p, Version after) {
  Result<ChangePage> page = co_await p->Changes(after, "", kMany, kMany);
  EXPECT_OK(page.status());
  co_return *std::move(page);
}

std::vector<std::string> Told(const ChangePage& page) {
  std::vector<std::string> told;
  for (const Change& change : page.changes) told.push_back((change.removed ? "-" : "+") + change.key);
  return told;
}

Task<void> EveryKindOfWrite(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  EXPECT_OK(co_await Put(p, "before", "v"));
  const Version start = p->newest_change();
  std::vector<WriteOp> batch;
  batch.push_back(PutOp("a", "1"));
  batch.push_back(PutOp("refused", "1"));
  batch.back().condition.exists = true;
  batch.push_back(IncrementOp("a", 5));
  batch.push_back(IncrementOp("before", 1));  // not a number
  batch.push_back(PutOp("short", "lived"));
  batch.back().ttl_mode = TtlMode::kSet;
  batch.back().ttl_ms = 100;
  batch.push_back(RemoveOp("before"));
  Result<std::vector<OpResult>> results = co_await p->Write(std::move(batch), WriteOptions());
  EXPECT_OK(results.status());
  ChangePage page = co_await ChangesAfter(p, start);
  EXPECT_THAT(Told(page), ElementsAre("+a", "+a", "+short", "-before"));
  EXPECT_EQ(page.changes.at(1).version, (*results)[2].version);
  EXPECT_EQ(p->newest_change(), page.changes.back().version);
  co_await Sleep(*reactor, 2 * kSecond);
  page = co_await ChangesAfter(p, page.up_to);
  EXPECT_THAT(Told(page), ElementsAre("-short")) << "the sweep's removal must be reported too";
  EXPECT_EQ(p->stats().changes_kept, 6u);

  // A record that expired is removed before the sweep. Its removal is reported once.
  batch.assign(1, PutOp("late", "v"));
  batch.back().ttl_mode = TtlMode::kSet;
  batch.back().ttl_ms = 1;
  EXPECT_OK(co_await Write(p, batch));
  co_await Sleep(*reactor, 5 * kMillisecond);
  EXPECT_OK(co_await Remove(p, "late"));
  co_await Sleep(*reactor, 2 * kSecond);
  page = co_await ChangesAfter(p, page.up_to);
  EXPECT_THAT(Told(page), ElementsAre("+late", "-late"));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// A touch is a change of its record. A check is no change, and neither are the operations of a
// write that is refused as a whole.
Task<void> GuardedWrites(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  EXPECT_OK(co_await Put(p, "a", "1"));
  const Version start = p->newest_change();
  WriteOp touch;
  touch.op = RecordOp::kTouch;
  touch.key = "a";
  touch.ttl_mode = TtlMode::kClear;
  WriteOp check;
  check.op = RecordOp::kCheck;
  check.key = "a";
  check.condition.exists = true;
  WriteOptions all_or_nothing;
  all_or_nothing.all_or_nothing = true;
  std::vector<WriteOp> ops;
  ops.push_back(touch);
  EXPECT_OK(co_await Write(p, ops));
  ops.assign(1, PutOp("refused", "1"));
  ops.push_back(IncrementOp("refused too", 1));
  ops.push_back(PutOp("a", "2"));
  ops.back().condition.exists = false;
  Result<std::vector<OpResult>> results = co_await p->Write(ops, all_or_nothing);
  EXPECT_OK(results.status());
  ops.assign(1, check);
  ops.push_back(PutOp("guarded", "1"));
  EXPECT_OK(co_await Write(p, ops));
  ops[0].condition.exists = false;
  results = co_await p->Write(ops, WriteOptions());
  EXPECT_OK(results.status());
  ChangePage page = co_await ChangesAfter(p, start);
  EXPECT_THAT(Told(page), ElementsAre("+a", "+guarded"));
  EXPECT_EQ(p->newest_change(), page.changes.back().version);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// A position from before a restart: it is usable if nothing was missed, otherwise the reply says
// so.
struct Positions {
  int run = 0;
  Version before_last = 0, last = 0;
};
Task<void> Restart(Reactor* reactor, Setup setup, Positions* positions) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  if (positions->run > 0) {
    EXPECT_FALSE((co_await ChangesAfter(p, positions->last)).gone) << "there was no change after it";
    EXPECT_TRUE((co_await ChangesAfter(p, positions->before_last)).gone);
  }
  EXPECT_OK(co_await Put(p, "k", "v"));
  positions->before_last = p->newest_change();
  EXPECT_OK(co_await Put(p, "k", "v"));
  ChangePage page = co_await ChangesAfter(p, positions->before_last);
  EXPECT_THAT(Told(page), ElementsAre("+k"));
  positions->last = page.up_to;
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/positions->run == 1));
}

// A watch from the version of a snapshot, after a restart with the clock set back.
struct Cut {
  Version version = 0;
  bool checkpointed_again = false;
};
Task<void> OpenSnapshot(Reactor* reactor, Setup setup, Cut* cut) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  EXPECT_OK(co_await Put((*engine)->partition(0), "k", "v"));
  co_await Sleep(*reactor, 600 * kSecond);
  std::vector<Partition*> partitions{(*engine)->partition(0)};
  Result<SnapshotInfo> snapshot = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 60'000);
  EXPECT_OK(snapshot.status());
  cut->version = snapshot->version;
  co_await Sleep(*reactor, kSecond);  // its checkpoint
  if (cut->checkpointed_again) EXPECT_OK(co_await (*engine)->CheckpointAll());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}
Task<void> WatchFromSnapshot(Reactor* reactor, Setup setup, Cut* cut) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  EXPECT_OK(co_await Put(p, "later", "v"));
  EXPECT_GT(p->newest_change(), cut->version) << "later writes have higher versions than a snapshot";
  const ChangePage page = co_await ChangesAfter(p, cut->version);
  EXPECT_FALSE(page.gone);
  EXPECT_THAT(Told(page), ElementsAre("+later"));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

uint64_t ReadsOf(Engine* engine) { return engine->stats().pool_misses_total; }

// Twenty values that are no longer in memory. Neither size queries nor removals at a version read
// them.
Task<void> LargeValuesStayOnDisk(Reactor* reactor, Setup setup, int run) {
  constexpr int kValues = 20;
  constexpr size_t kBytes = 200'000;
  {
    auto engine = co_await OpenEngine(*reactor, setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    Partition* p = (*engine)->partition(0);
    for (int i = 0; run == 0 && i < kValues; ++i) {
      EXPECT_OK(co_await Put(p, fmt::format("k{:02}", i), std::string(kBytes + static_cast<size_t>(i), 'v')));
    }
    if (run == 1) {
      ScanSpec spec;
      spec.sizes_only = true;
      Result<ScanPage> page = co_await p->Scan(spec);
      EXPECT_OK(page.status());
      EXPECT_EQ(page->rows.size(), static_cast<size_t>(kValues));
      std::vector<WriteOp> ops;
      for (size_t i = 0; i < page->rows.size(); ++i) {
        EXPECT_EQ(page->rows[i].value_bytes, kBytes + i);
        EXPECT_EQ(page->rows[i].value, "");
        ops.push_back(RemoveOp(std::string(page->rows[i].key)));
        ops.back().condition.version = page->rows[i].version - (i == 7 ? 1 : 0);
        ops.back().current_value_unwanted = true;
      }
      Result<std::vector<OpResult>> removed = co_await p->Write(std::move(ops), WriteOptions());
      EXPECT_OK(removed.status());
      for (size_t i = 0; i < removed->size(); ++i) {
        EXPECT_EQ((*removed)[i].outcome, i == 7 ? OpOutcome::kConditionFailed : OpOutcome::kApplied) << i;
      }
      EXPECT_TRUE((*removed)[7].value_omitted && (*removed)[7].current.found);
      EXPECT_EQ((*removed)[7].current.version, page->rows[7].version);
      EXPECT_LT(ReadsOf(engine->get()), static_cast<uint64_t>(kValues)) << "only pages of the tree may be read";
    }
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
  }
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

class WatchTest : public testing::Test {
 protected:
  WatchTest() { setup_.store.partitions = 1; }
  // Runs `body` in a new process.
  template <typename... Args>
  void Run(Task<void> (*body)(Reactor*, engine_test::Setup, Args...), Args... args) {
    if (machine_->running()) machine_->ProcessCrash(1);
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, body(reactor, setup_, args...)));
  }
  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

// CT2: newest_change() covers a write as soon as the write is acknowledged.
TEST_F(WatchTest, EveryWriteThatTookEffectIsTold) { Run(EveryKindOfWrite); }
TEST_F(WatchTest, TouchesAreToldAndRefusedWritesAreNot) { Run(GuardedWrites); }
TEST_F(WatchTest, AfterARestartWhatWasMissedIsKnownToBeMissed) {
  Positions positions;
  for (positions.run = 0; positions.run < 3; ++positions.run) Run(Restart, &positions);
}
TEST_F(WatchTest, ASnapshotsVersionOutlivesARestart) {
  for (bool checkpointed_again : {false, true}) {
    Cut cut;
    cut.checkpointed_again = checkpointed_again;
    machine_->SetClockSkewMs(0);
    Run(OpenSnapshot, &cut);
    machine_->SetClockSkewMs(-3600 * 1000);
    Run(WatchFromSnapshot, &cut);
  }
}
TEST_F(WatchTest, SizesAndRemovalsLeaveLargeValuesOnDisk) {
  for (int run = 0; run < 2; ++run) Run(LargeValuesStayOnDisk, run);
}

}  // namespace
}  // namespace pando::engine_test
