// A log with many partitions: their marks, with which it continues after a start, take many blocks.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kMany = 128;

Task<void> WriteAndClose(Reactor* reactor, int round, bool checkpoint) {
  Setup setup;
  setup.store.partitions = kMany;
  setup.engine.memory_bytes = 16u << 20;
  setup.engine.checkpoint_interval_ns = kSecond;
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  for (uint32_t p = 0; p < kMany; p += 7) {
    for (int i = 0; i < round; ++i) {
      Result<ReadResult> read = co_await (*opened)->partition(p)->Get(fmt::format("key-{}", i), 0, nullptr);
      EXPECT_TRUE(read.ok() && read->found) << p << " " << i;
    }
    EXPECT_OK(co_await Put((*opened)->partition(p), fmt::format("key-{}", round), "value"));
  }
  EXPECT_OK(co_await (*opened)->Close(checkpoint));
}

TEST(LongCuts, AreReadWhole) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  for (int round = 0; round < 6; ++round) {
    EXPECT_TRUE(kernel.RunTask(*reactor, WriteAndClose(reactor, round, /*checkpoint=*/round % 3 == 1)));
    machine->PowerLoss(static_cast<uint64_t>(round));
    reactor = machine->Boot();
  }
}

}  // namespace
}  // namespace pando::engine_test
