// Scans of data that does not fit in memory: neighboring leaves come to lie together on disk, and few reads fetch them.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

constexpr int kRecords = 12'000;
std::string Key(uint64_t i) { return fmt::format("{:08}", i); }

// Writes records in random order, and each of them about twice.
Task<void> Overwrite(Partition* p, SimRandom* random) {
  for (int i = 0; i < 2 * kRecords / 10; ++i) {
    std::vector<WriteOp> ops;
    for (int n = 0; n < 10; ++n) ops.push_back(PutOp(Key(random->Below(kRecords)), std::string(800, 'v')));
    EXPECT_OK(co_await Write(p, std::move(ops)));
  }
}

Task<void> ScanAll(Engine* engine, bool reverse) {
  Partition* p = engine->partition(0);
  const EngineStats before = engine->stats();
  ScanSpec spec;
  spec.reverse = reverse;
  uint64_t rows = 0;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await p->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok() || page->rows.empty()) break;
    rows += page->rows.size();
    over = page->exhausted;
    const std::string last(page->rows.back().key);
    (reverse ? spec.end : spec.start) = reverse ? last : last + '\0';
  }
  Result<RangeAggregates> sum = co_await p->Aggregate("", "", kNewest);
  EXPECT_OK(sum.status());
  EXPECT_EQ(rows, sum->count);
  const EngineStats after = engine->stats();
  const uint64_t pages = after.ahead_pages_total - before.ahead_pages_total;
  const uint64_t reads = after.ahead_reads_total - before.ahead_reads_total;
  EXPECT_GT(pages, (after.pool_misses_total - before.pool_misses_total) * 9 / 10) << "leaves were read one by one";
  EXPECT_GT(pages, 2 * reads) << pages << " pages in " << reads << " reads";
}

Task<void> Body(Reactor& reactor) {
  Setup setup;
  setup.store.partitions = 1;
  SimRandom random(7);
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Overwrite((*engine)->partition(0), &random);
  EXPECT_OK(co_await (*engine)->CheckpointAll());
  for (const bool reverse : {false, true}) co_await ScanAll(engine->get(), reverse);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST(ReadAhead, FewReadsFetchTheLeavesOfAScan) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, Body(*reactor)));
}

}  // namespace
}  // namespace pando::engine_test
