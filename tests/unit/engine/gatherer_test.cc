// Leaves that scans find scattered are written anew, to lie together, at a limited rate (GA1, GA2).
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

constexpr int kRecords = 12'000;
std::string Key(uint64_t i) { return fmt::format("{:08}", i); }

struct ScanSums {
  uint64_t rows = 0, pages = 0, reads = 0;
  double PagesPerRead() const { return static_cast<double>(pages) / static_cast<double>(std::max<uint64_t>(reads, 1)); }
};

Task<ScanSums> ScanAll(Engine* engine) {
  ScanSums sums;
  const EngineStats before = engine->stats();
  ScanSpec spec;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await engine->partition(0)->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok() || page->rows.empty()) break;
    sums.rows += page->rows.size();
    over = page->exhausted;
    spec.start = std::string(page->rows.back().key) + '\0';
  }
  const EngineStats after = engine->stats();
  sums.pages = after.ahead_pages_total - before.ahead_pages_total;
  sums.reads = after.ahead_reads_total - before.ahead_reads_total;
  co_return sums;
}

// Fills a partition in random order, in batches that leave pages of the same part of the tree in many places.
Task<void> Fill(Engine* engine) {
  SimRandom random(7);
  for (int i = 0; i < kRecords / 10; ++i) {
    std::vector<WriteOp> ops;
    for (int n = 0; n < 10; ++n) ops.push_back(PutOp(Key(random.Below(kRecords)), std::string(800, 'v')));
    EXPECT_OK(co_await Write(engine->partition(0), std::move(ops)));
  }
  EXPECT_OK(co_await engine->CheckpointAll());
}

uint64_t Gathered(Engine* engine) { return engine->partition(0)->stats().gathered_leaves_total; }

using Body = Task<void> (*)(Reactor* reactor, Engine* engine);

// Opens a store, fills it, runs the body, and closes the store.
Task<void> RunBody(Reactor* reactor, Setup setup, Body body) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  co_await body(reactor, engine->get());
  const Nanos closing = reactor->NowNs();
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
  EXPECT_LT(reactor->NowNs() - closing, kSecond) << "GA1: it must not wait for the pace";
}

class GathererTest : public testing::Test {
 protected:
  GathererTest() {
    setup_.store.partitions = 1;
    setup_.engine.compression = Compression::kNone;
  }
  void Run(Body body) {
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, RunBody(reactor, setup_, body)));
    if (HasFailure()) return;
    Task<std::string> audit = Audit(*reactor, setup_.store.data_dir);
    std::string problem;
    EXPECT_TRUE(kernel_.RunTask(*reactor, Store(std::move(audit), &problem)));
    EXPECT_EQ(problem, "");
  }
  static Task<void> Store(Task<std::string> task, std::string* to) { *to = co_await std::move(task); }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  engine_test::Setup setup_;
};

Task<void> GatherAll(Reactor* reactor, Engine* engine) {
  const ScanSums before = co_await ScanAll(engine);
  ScanSums after = before;
  for (int i = 0; i < 10; ++i) {
    co_await Sleep(*reactor, 5 * kSecond);
    EXPECT_OK(co_await engine->CheckpointAll());
    after = co_await ScanAll(engine);
  }
  // A scan may read 60 pages ahead here, and a part of what it needs is in memory. Siblings lay together in part
  // before.
  EXPECT_GT(before.PagesPerRead(), 2.7);
  EXPECT_GT(after.PagesPerRead(), 3.6);
  EXPECT_GT(after.PagesPerRead(), 1.2 * before.PagesPerRead());
  EXPECT_EQ(after.rows, before.rows);
  // Once they lie together, nothing is left to be done.
  const uint64_t gathered = Gathered(engine);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ((co_await ScanAll(engine)).rows, before.rows);
    co_await Sleep(*reactor, 5 * kSecond);
    EXPECT_OK(co_await engine->CheckpointAll());
  }
  EXPECT_LE(Gathered(engine), gathered + 20) << "of about 2,600 leaves";
}

TEST_F(GathererTest, ScatteredLeavesComeToLieTogether) { Run(GatherAll); }

// Each write frees a place somewhere, which is no reason to write many leaves anew.
Task<void> GatherBesideWrites(Reactor* reactor, Engine* engine) {
  SimRandom random(11);
  uint64_t gathered = 0;
  constexpr int kRounds = 40, kLast = 10, kWrites = 20;
  for (int round = 0; round < kRounds; ++round) {
    if (round == kRounds - kLast) gathered = Gathered(engine);
    for (int i = 0; i < kWrites; ++i) {
      EXPECT_OK(co_await Put(engine->partition(0), Key(random.Below(kRecords)), std::string(800, 'w')));
    }
    co_await ScanAll(engine);
    co_await Sleep(*reactor, 5 * kSecond);
    EXPECT_OK(co_await engine->CheckpointAll());
  }
  EXPECT_GT(gathered, 500u);
  EXPECT_LE(Gathered(engine) - gathered, kLast * kWrites);
}

TEST_F(GathererTest, WritesDoNotKeepItGoing) { Run(GatherBesideWrites); }

Task<void> GatherBesideSnapshot(Reactor* reactor, Engine* engine) {
  Partition* p = engine->partition(0);
  std::vector<Partition*> partitions{p};
  Result<SnapshotInfo> snapshot = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 3'600'000);
  EXPECT_OK(snapshot.status());
  for (int i = 0; i < 3; ++i) {
    co_await ScanAll(engine);
    co_await Sleep(*reactor, 5 * kSecond);
    EXPECT_OK(co_await engine->CheckpointAll());
  }
  EXPECT_EQ(p->stats().snapshot_pinned_bytes, 0u);
  EXPECT_EQ(Gathered(engine), 0u);
}

TEST_F(GathererTest, WhatASnapshotHasStaysWhereItIs) { Run(GatherBesideSnapshot); }

// GA2: a put that had room before a scan has room after it.
Task<void> GatherOnFullDisk(Reactor* reactor, Engine* engine) {
  for (int i = 0; i < 3; ++i) EXPECT_OK(co_await engine->CheckpointAll());
  // Fills the file up to what is kept for removes.
  bool full = false;
  for (int i = 0; i < 3 * kRecords && !full; ++i) {
    full = !(co_await Put(engine->partition(0), "new" + Key(i), std::string(800, 'n'))).ok();
  }
  EXPECT_TRUE(full);
  EXPECT_OK(co_await engine->CheckpointAll());
  const uint64_t gathered = Gathered(engine);
  co_await ScanAll(engine);
  co_await Sleep(*reactor, kSecond);
  EXPECT_EQ(Gathered(engine), gathered);
}

TEST_F(GathererTest, NothingIsGatheredOnAFullDisk) {
  machine_->disk().SetCapacity(36u << 20);
  Run(GatherOnFullDisk);
}

Task<void> GatherSlowly(Reactor* reactor, Engine* engine) {
  co_await ScanAll(engine);
  const uint64_t at_once = Gathered(engine);
  co_await Sleep(*reactor, 20 * kSecond);
  const uint64_t gathered = Gathered(engine) - at_once;
  // 40 KiB per second are 10 pages of 4 KiB.
  EXPECT_LE(gathered, 20 * 10 + 10);
  EXPECT_GE(gathered, 20 * 10 - 10);
  engine->CheckInvariants();
}

TEST_F(GathererTest, ItKeepsToItsPaceAndStopsAtOnce) {
  setup_.engine.gather_bytes_per_s = 40u << 10;
  Run(GatherSlowly);
}

Task<void> GatherNothing(Reactor* reactor, Engine* engine) {
  const uint64_t dirty = engine->partition(0)->stats().dirty_pages;
  co_await ScanAll(engine);
  co_await Sleep(*reactor, 2 * kSecond);
  EXPECT_EQ(Gathered(engine), 0u);
  EXPECT_EQ(engine->partition(0)->stats().dirty_pages, dirty);
}

TEST_F(GathererTest, NothingIsGatheredWithoutAPace) {
  setup_.engine.gather_bytes_per_s = 0;
  Run(GatherNothing);
}

}  // namespace
}  // namespace pando::engine_test
