// Many partitions in one engine: idle ones are left alone until something is due, and their number is
// limited by memory and by the log's segments.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
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
  EXPECT_GT(Engine::MinMemoryBytes(4096, 512), setup.engine.memory_bytes);
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectRefused(reactor, setup, "with 512 partitions")));
  setup.engine.memory_bytes = Engine::MinMemoryBytes(4096, 512);
  setup.engine.log_segment_bytes = 64u << 10;
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectRefused(reactor, setup, "raise --reactors")));
}

}  // namespace
}  // namespace pando::engine_test
