// Many partitions in one engine: idle ones are left alone until something is due, and their number is
// limited by memory and by the log's segments.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kMany = 128;

Setup SetupOf(uint32_t partitions) {
  Setup setup;
  setup.store.partitions = partitions;
  setup.engine.memory_bytes = 16u << 20;
  setup.engine.checkpoint_interval_ns = kSecond;
  return setup;
}

Task<bool> BecomesIdle(Reactor* reactor, Engine* engine, Nanos within) {
  for (const Nanos end = reactor->NowNs() + within; reactor->NowNs() < end;) {
    if (engine->stats().busy_partitions == 0) co_return true;
    co_await Sleep(*reactor, 10 * kMillisecond);
  }
  co_return false;
}

Task<void> WorkAndRest(Reactor* reactor) {
  auto opened = co_await OpenEngine(*reactor, SetupOf(kMany));
  EXPECT_OK(opened.status());
  Engine* engine = opened->get();
  EXPECT_TRUE(co_await BecomesIdle(reactor, engine, 5 * kSecond)) << "BG1: a new partition has nothing to do";
  std::vector<WriteOp> ops;
  ops.push_back(PutOp("key", "value"));
  ops.back().ttl_mode = TtlMode::kSet;
  ops.back().expires_at_ms = reactor->WallMs() + 20'000;
  EXPECT_OK(co_await Write(engine->partition(7), std::move(ops)));
  EXPECT_OK(co_await Put(engine->partition(9), "key", "value"));
  EXPECT_EQ(engine->stats().busy_partitions, 2u);
  // Two checkpoints, one second apart.
  EXPECT_TRUE(co_await BecomesIdle(reactor, engine, 5 * kSecond));
  EXPECT_EQ(engine->partition(9)->stats().checkpoint_lsn, 1u);
  EXPECT_EQ(engine->partition(7)->stats().expired_total, 0u);
  // BG2: nothing looks at the idle partition before its record expires; then it is removed.
  co_await Sleep(*reactor, 30 * kSecond);
  EXPECT_EQ(engine->partition(7)->stats().expired_total, 1u);
  EXPECT_TRUE(co_await BecomesIdle(reactor, engine, 5 * kSecond));
  EXPECT_EQ(engine->partition(7)->stats().checkpoint_lsn, 2u);
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
}

TEST(ManyPartitions, IdleOnesAreLeftAloneUntilSomethingIsDue) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, WorkAndRest(reactor)));
}

Task<void> ExpectRefused(Reactor* reactor, Setup setup, std::string why) {
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_EQ(opened.code(), Code::kInvalidArgument) << opened.status().ToString();
  EXPECT_NE(opened.status().message().find(why), std::string::npos) << opened.status().ToString();
  if (opened.ok()) EXPECT_OK(co_await (*opened)->Close(false));
}

TEST(ManyPartitions, TheirNumberIsLimited) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  auto setup = SetupOf(512);
  EXPECT_GT(Engine::MinMemoryBytes(4096, 512, 512), setup.engine.memory_bytes);
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectRefused(reactor, setup, "with 512 partitions")));
  setup.engine.memory_bytes = Engine::MinMemoryBytes(4096, 512, 512);
  setup.engine.log_segment_bytes = 64u << 10;
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectRefused(reactor, setup, "raise --reactors")));
}

// Places for partitions that are not there take memory too.
Task<void> OpenWithoutPartitions(Reactor* reactor) {
  Setup setup;
  setup.engine.store.data_dir = "/data";
  setup.engine.store.node = {1, 2};
  setup.engine.store.reactors = 1;
  setup.engine.store.page_bytes = 4096;
  setup.engine.store.ranges = kMaxPartitions;
  setup.engine.memory_bytes = Engine::MinMemoryBytes(4096, 0, kMaxPartitions);
  EXPECT_OK(co_await MakeDirectory(*reactor, "/data"));
  auto opened = co_await Engine::Open(*reactor, setup.engine);
  EXPECT_OK(opened.status());
  if (opened.ok()) EXPECT_OK(co_await (*opened)->Close(false));
}
TEST(ManyPartitions, TheLeastMemoryCountsTheRanges) {
  SimKernel kernel(1);
  SimReactor* reactor = kernel.AddMachine()->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, OpenWithoutPartitions(reactor)));
}

// A node that has created as many partitions as it could starts again with the same memory, and makes room for
// more, until there is no memory for another one.
constexpr uint32_t kSparseRanges = 256, kFirst = 8;

Task<void> DropMost(Reactor* reactor, Setup setup) {
  OpenedStore store;
  EXPECT_OK(co_await OpenedStore::Open(reactor, std::move(setup), &store));
  for (uint32_t id = kFirst; id < kSparseRanges; ++id) EXPECT_OK(co_await store.Drop(id));
  EXPECT_OK(co_await store.Close(/*checkpoint=*/true));
}
Task<void> CreateAllThatFit(Reactor* reactor, Setup setup, uint64_t* held, uint64_t* spare) {
  OpenedStore store;
  Status opened = co_await OpenedStore::Open(reactor, std::move(setup), &store);
  EXPECT_OK(opened);
  if (opened.ok()) {
    const EngineStats stats = store.engine_of(0).stats();
    *held = stats.partitions;
    *spare = stats.max_partitions - stats.partitions;
    for (uint64_t i = 0; i <= *spare; ++i) {
      const Result<Partition*> created = co_await store.Create(static_cast<uint32_t>(*held + i));
      EXPECT_EQ(created.code(), i < *spare ? Code::kOk : Code::kOverloaded) << created.status().ToString();
    }
  }
  EXPECT_OK(co_await store.Close(/*checkpoint=*/true));
}

TEST(ManyPartitions, AStoreThatHasGrownStartsAgain) {
  SimKernel kernel(1, SharedReactor());
  SimMachine* machine = kernel.AddMachine();
  auto setup = SetupOf(kSparseRanges);
  setup.engine.memory_bytes = 64u << 20;
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, DropMost(reactor, setup)));
  setup.engine.memory_bytes = Engine::MinMemoryBytes(4096, 180, kSparseRanges);
  uint64_t held = 0, spare = 1, starts = 0, expected = kFirst;
  for (; spare > 0 && !testing::Test::HasFailure(); ++starts) {
    machine->PowerLoss(1);
    reactor = machine->Boot();
    EXPECT_TRUE(kernel.RunTask(*reactor, CreateAllThatFit(reactor, setup, &held, &spare)));
    EXPECT_EQ(held, expected);
    EXPECT_LT(held + spare, kSparseRanges);
    expected = held + spare;
  }
  EXPECT_GT(starts, 3u);
  EXPECT_GT(held, 100u);
}

}  // namespace
}  // namespace pando::engine_test
