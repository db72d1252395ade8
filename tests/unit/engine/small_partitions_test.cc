// A node may have thousands of partitions, most of them small and idle. What one of them takes: disk
// space with a hundred records, and memory while it is only open.
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

#if defined(__SANITIZE_ADDRESS__)
// Of AddressSanitizer. Not every installation of g++ has the header that declares it.
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // NOLINT(bugprone-reserved-identifier)
#endif

namespace pando::engine_test {
namespace {

constexpr uint32_t kMany = 32;
constexpr uint64_t kMostFileBytes = 3u << 19;
constexpr int64_t kMostOpenBytes = 16u << 10;  // of heap, besides the pool's frames

Setup SetupOf(uint32_t partitions) {
  Setup setup;
  setup.store.partitions = partitions;
  setup.store.page_bytes = 8192;
  setup.engine.memory_bytes = 16u << 20;
  return setup;
}

Task<void> Fill(Reactor* reactor, Setup setup) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  for (uint32_t p = 0; p < setup.store.partitions; ++p) {
    for (int i = 0; i < 100; ++i) {
      EXPECT_OK(co_await Put((*engine)->partition(p), fmt::format("key-{:04}", i), std::string(100, 'v')));
    }
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

int64_t AllocatedBytes() {
#if defined(__SANITIZE_ADDRESS__)
  return static_cast<int64_t>(__sanitizer_get_current_allocated_bytes());
#else
  return 0;
#endif
}

// *allocated_bytes: what an open engine has allocated.
Task<void> OpenOnly(Reactor* reactor, Setup setup, int64_t* allocated_bytes) {
  const int64_t before = AllocatedBytes();
  auto engine = co_await OpenEngine(*reactor, setup);
  *allocated_bytes = AllocatedBytes() - before;
  EXPECT_OK(engine.status());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

int64_t BytesOfOpenEngine(uint32_t partitions) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  const Setup setup = SetupOf(partitions);
  EXPECT_TRUE(kernel.RunTask(*reactor, Fill(reactor, setup)));
  for (uint32_t p = 0; p < partitions; ++p) {
    EXPECT_LE(machine->disk().ReadAll(fmt::format("/data/partition-{:05}/data", p)).size(), kMostFileBytes);
  }
  int64_t bytes = 0;
  machine->ProcessCrash(1);
  reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, OpenOnly(reactor, setup, &bytes)));
  return bytes;
}

TEST(SmallPartitions, TakeLittleSpaceAndMemory) {
  const int64_t bytes = (BytesOfOpenEngine(kMany) - BytesOfOpenEngine(1)) / (kMany - 1);
  RecordProperty("open_bytes", static_cast<int>(bytes));
  EXPECT_LE(bytes, kMostOpenBytes);
}

}  // namespace
}  // namespace pando::engine_test
