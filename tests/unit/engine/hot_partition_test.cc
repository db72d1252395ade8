// One partition under heavy load next to others on the same reactor: requests to the others do not
// wait for it.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr int kHotWriters = 64;
constexpr size_t kHotValueBytes = 64u << 10;

struct Load {
  Engine* engine = nullptr;
  bool running = true;
  int written = 0;
};

// The load stops by itself, so that starved requests end late rather than never.
constexpr int kMostHotWrites = 4000;

Task<void> HotWriter(Load* load, int number) {
  for (int i = 0; load->running && load->written < kMostHotWrites; ++i) {
    EXPECT_OK(co_await Put(load->engine->partition(0), fmt::format("hot-{:02}-{}", number, i % 4),
                           std::string(kHotValueBytes, 'h')));
    ++load->written;
  }
}

Task<void> Body(Reactor* reactor, engine_test::Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Load load;
  load.engine = engine->get();
  TaskGroup writers;
  for (int i = 0; i < kHotWriters; ++i) writers.Spawn(HotWriter(&load, i));
  while (load.written < 3 * kHotWriters) co_await Sleep(*reactor, kMillisecond);
  for (int i = 0; i < 10; ++i) {
    const int before = load.written;
    EXPECT_OK(co_await Put((*engine)->partition(1), fmt::format("cold-{}", i), "value"));
    EXPECT_LE(load.written - before, kHotWriters) << "the hot writers had more than one turn each meanwhile";
    EXPECT_LT(load.written, kMostHotWrites) << "it waited for the load to end";
  }
  load.running = false;
  co_await writers.Drain();
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

TEST(HotPartition, DoesNotHoldUpAnother) {
  SimKernel kernel(1);
  kernel.options().disk_min_ns = kernel.options().disk_max_ns = 500 * kMicrosecond;
  SimReactor* reactor = kernel.AddMachine()->Boot();
  engine_test::Setup setup;
  setup.engine.memory_bytes = 128u << 20;
  setup.engine.log_budget_bytes = 64u << 20;
  EXPECT_TRUE(kernel.RunTask(*reactor, Body(reactor, setup)));
}

}  // namespace
}  // namespace pando::engine_test
