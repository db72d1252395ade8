// Limits the length of a reactor's turns while the engine does long work: counts, scans, sweeps,
// merges, checkpoints, releases. Length is measured in work, not in time, so that every run
// measures the same. In builds with AddressSanitizer the engine's libraries are compiled so that
// each basic block calls the function below. A loop that forgets to yield is therefore found
// whether or not it counts its own work.
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace {
uint64_t blocks_run = 0;
}
// NOLINTNEXTLINE(bugprone-reserved-identifier): the compiler inserts calls of this name
extern "C" void __sanitizer_cov_trace_pc() { ++blocks_run; }

namespace pando::engine_test {
namespace {

constexpr int kRecords = 60'000, kBatch = 64, kWriters = 64;
constexpr int64_t kTtlMs = 3'600'000;
// Less than a millisecond in a release build. What the engine does below took up to a hundred times
// as much in one turn.
constexpr uint64_t kMostBlocks = 800'000;

std::string Key(int i) { return fmt::format("key-{:08}", i); }

// Watches the turns from Start to Stop.
class TurnWatch final : private TurnHook {
 public:
  explicit TurnWatch(Reactor* reactor) : reactor_(*reactor) {}
  void Start() {
    running_ = true;
    longest_ = 0;
    at_last_end_ = blocks_run;
    if (!armed) reactor_.ArmTurnHook(this);
  }
  uint64_t Stop() {
    running_ = false;
    return std::max(longest_, blocks_run - at_last_end_);
  }

 private:
  void OnTurnEnd() override {
    longest_ = std::max(longest_, blocks_run - at_last_end_);
    at_last_end_ = blocks_run;
    if (running_) reactor_.ArmTurnHook(this);
  }
  Reactor& reactor_;
  bool running_ = false;
  uint64_t longest_ = 0, at_last_end_ = 0;
};

void ExpectShort(TurnWatch* watch, const char* what) {
  const uint64_t longest = watch->Stop();
  printf("%-40s %9llu blocks in the longest turn\n", what, static_cast<unsigned long long>(longest));
  EXPECT_LE(longest, kMostBlocks) << what;
  EXPECT_GT(longest, 100u) << what << ": nothing was counted";
}

Task<void> WriteInto(Partition* p, std::vector<WriteOp> ops) { EXPECT_OK(co_await Write(p, std::move(ops))); }

// The requests of different clients, and the pages that one client asks for, arrive in turns of
// their own. The functions below therefore yield between them.
Task<void> PutAll(Reactor* reactor, Partition* p, char fill) {
  for (int i = 0; i < kRecords;) {
    TaskGroup writers;
    for (int n = 0; n < kWriters && i < kRecords; ++n) {
      std::vector<WriteOp> ops;
      for (int k = 0; k < kBatch && i < kRecords; ++k, ++i) {
        WriteOp op = PutOp(Key(i), std::string(100, fill));
        op.ttl_mode = TtlMode::kSet;
        op.ttl_ms = kTtlMs;
        ops.push_back(std::move(op));
      }
      writers.Spawn(WriteInto(p, std::move(ops)));
      co_await Yield(*reactor);
    }
    co_await writers.Drain();
  }
}

Task<uint64_t> ScanAll(Reactor* reactor, Partition* p, SnapshotId since) {
  uint64_t rows = 0;
  ScanSpec spec;
  spec.since = since;
  for (bool exhausted = false; !exhausted;) {
    Result<ScanPage> page = co_await p->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok()) break;
    rows += page->rows.size();
    exhausted = page->exhausted;
    if (exhausted) break;
    spec.start = page->rows.back().key;
    spec.start_exclusive = true;
    co_await Yield(*reactor);
  }
  co_return rows;
}

Task<void> Body(SimReactor* reactor, engine_test::Setup setup, SimMachine* machine) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* p = (*opened)->partition(0);
  TurnWatch watch(reactor);

  watch.Start();
  co_await PutAll(reactor, p, 'a');
  ExpectShort(&watch, "puts of many writers");

  watch.Start();
  Result<RangeAggregates> count = co_await p->Aggregate("", "", kNewest);
  EXPECT_OK(count.status());
  EXPECT_EQ(count->count, uint64_t{kRecords});
  ExpectShort(&watch, "a count over dirty leaves");

  watch.Start();
  std::vector<uint64_t> ranks(1, kRecords - 1);
  auto keys = co_await p->KeysAtRanks("", "", ranks, kNewest);
  EXPECT_EQ(keys->size(), 1u);
  ExpectShort(&watch, "a key by rank over dirty leaves");

  watch.Start();
  EXPECT_EQ(co_await ScanAll(reactor, p, 0), uint64_t{kRecords});
  ExpectShort(&watch, "a scan");

  watch.Start();
  EXPECT_OK(co_await p->Checkpoint());
  ExpectShort(&watch, "a checkpoint of everything");

  std::vector<Partition*> all(1, p);
  Result<SnapshotInfo> snapshot = co_await CutSnapshot(*reactor, all, reactor->WallMs() + 10 * kTtlMs);
  EXPECT_OK(snapshot.status());
  co_await PutAll(reactor, p, 'b');
  watch.Start();
  EXPECT_EQ(co_await ScanAll(reactor, p, snapshot->id), uint64_t{kRecords});
  ExpectShort(&watch, "a scan of what changed since a snapshot");

  watch.Start();
  EXPECT_OK(co_await p->Checkpoint());
  EXPECT_OK(co_await ReleaseSnapshot(all, snapshot->id));
  EXPECT_OK(co_await p->Checkpoint());
  ExpectShort(&watch, "checkpoints with a snapshot held");

  // Everything expires at once.
  machine->SetClockSkewMs(2 * kTtlMs);
  watch.Start();
  EXPECT_EQ(co_await ScanAll(reactor, p, 0), 0u);
  ExpectShort(&watch, "a scan over expired records");

  watch.Start();
  for (int i = 0; i < 600 && p->stats().expired_total < kRecords; ++i) co_await Sleep(*reactor, 100 * kMillisecond);
  EXPECT_EQ(p->stats().expired_total, uint64_t{kRecords});
  ExpectShort(&watch, "a sweep of everything");

  watch.Start();
  EXPECT_OK(co_await p->Checkpoint());
  co_await Sleep(*reactor, kSecond);
  EXPECT_OK(co_await p->Checkpoint());
  ExpectShort(&watch, "merging what the sweep emptied");
  co_await Sleep(*reactor, kMillisecond);  // the watch's last turn
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/false));
}

TEST(Turns, AreShortWhateverTheEngineDoes) {
#if !defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the libraries count their work only in builds with AddressSanitizer";
#endif
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  engine_test::Setup setup;
  setup.store.partitions = 1;
  setup.engine.memory_bytes = 96u << 20;
  setup.engine.log_budget_bytes = 64u << 20;
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, Body(reactor, setup, machine)));
}

}  // namespace
}  // namespace pando::engine_test
