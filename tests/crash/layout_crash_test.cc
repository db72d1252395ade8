// Crash test of changes of the number of reactors: stops the change at each of its disk operations,
// by power loss, and changes the store again to some number. Nothing committed may be lost, and
// nothing that was durable but not committed.
#include <gtest/gtest.h>

#include "src/buffer_pool/buffer_pool.h"
#include "src/engine/log_layout.h"
#include "tests/support/engine_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kPartitions = 4;
constexpr int kCommitted = 12, kUncommitted = 5;  // records of each partition

// Commits nothing new.
class HeldGate final : public CommitGate {
 public:
  Start OnRecovered(const RecoveredLog& log) override { return {log.epoch + 1, log.committed_lsn}; }
  void OnServing(GatedPartition*) override {}
  void OnDurable(Lsn) override {}
  void OnClosed() override {}
};

Setup SetupOf(bool held) {
  Setup s;
  s.store.partitions = kPartitions;
  s.store.reactors = 2;
  s.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 4;
  s.engine.log_segment_bytes = 64u << 10;
  s.engine.log_budget_bytes = 320u << 10;
  if (held) s.engine.make_gate = [](uint32_t) { return std::make_unique<HeldGate>(); };
  return s;
}

std::string KeyOf(int i) { return fmt::format("key-{:03}", i); }
std::string ValueOf(uint32_t partition, int i) { return fmt::format("{}-{}-{}", partition, i, std::string(100, 'x')); }

// Opens the engine of one reactor of whatever layout there is, as all of them run in one process, one
// after another.
Task<Result<std::unique_ptr<Engine>>> OpenOne(Reactor* reactor, Setup setup, uint32_t index) {
  CO_ASSIGN_OR_RETURN(setup.engine.store, co_await LoadStore(*reactor, setup.store.data_dir));
  setup.engine.reactor_index = index;
  co_return co_await Engine::Open(*reactor, setup.engine);
}

Task<uint32_t> ReactorsOf(Reactor* reactor) {
  auto store = co_await LoadStore(*reactor, "/data");
  EXPECT_OK(store.status());
  co_return store.ok() ? store->reactors : 0;
}

Task<void> PutOrGiveUp(Partition* p, int i) {
  Status status = co_await Put(p, KeyOf(i), ValueOf(p->id(), i));
  EXPECT_EQ(status.code(), Code::kAborted) << status.ToString();
}

// A store of two reactors, whose partitions all have records that are not committed.
Task<void> Prepare(Reactor* reactor) {
  EXPECT_OK((co_await OpenStore(*reactor, SetupOf(false).store)).status());
  for (uint32_t r = 0; r < 2; ++r) {
    auto engine = co_await OpenOne(reactor, SetupOf(false), r);
    EXPECT_OK(engine.status());
    for (Partition* p : (*engine)->partitions()) {
      for (int i = 0; i < kCommitted; ++i) EXPECT_OK(co_await Put(p, KeyOf(i), ValueOf(p->id(), i)));
    }
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  }
  for (uint32_t r = 0; r < 2; ++r) {
    auto engine = co_await OpenOne(reactor, SetupOf(true), r);
    EXPECT_OK(engine.status());
    TaskGroup writes;
    for (Partition* p : (*engine)->partitions()) {
      for (int i = 0; i < kUncommitted; ++i) writes.Spawn(PutOrGiveUp(p, kCommitted + i));
    }
    for (Partition* p : (*engine)->partitions()) {
      while (p->stats().durable_lsn < kCommitted + kUncommitted) co_await Sleep(*reactor, kMillisecond);
    }
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
    co_await writes.Drain();
  }
}

Task<void> ChangeTo(Reactor* reactor, uint32_t reactors, bool* changed) {
  Setup setup = SetupOf(true);
  auto store = co_await LoadStore(*reactor, setup.store.data_dir);
  EXPECT_OK(store.status());
  setup.engine.store = *store;
  Status status = co_await ChangeReactors(*reactor, setup.engine, reactors, &*store);
  EXPECT_OK(status);
  EXPECT_EQ(store->reactors, reactors);
  *changed = status.ok();
}

// With the gates of one replica, everything durable is committed.
Task<void> ExpectAll(Reactor* reactor) {
  const uint32_t reactors = co_await ReactorsOf(reactor);
  uint32_t seen = 0;
  for (uint32_t r = 0; r < reactors; ++r) {
    auto engine = co_await OpenOne(reactor, SetupOf(false), r);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    for (Partition* p : (*engine)->partitions()) {
      ++seen;
      EXPECT_EQ(p->stats().applied_lsn, uint64_t{kCommitted + kUncommitted});
      for (int i = 0; i < kCommitted + kUncommitted; ++i) {
        Result<ReadResult> read = co_await p->Get(KeyOf(i), 0, nullptr);
        EXPECT_TRUE(read.ok() && read->found && read->value == ValueOf(p->id(), i)) << p->id() << " " << i;
      }
      EXPECT_OK(co_await Put(p, "new", "value"));
    }
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  }
  EXPECT_EQ(seen, kPartitions);
  EXPECT_EQ(co_await Audit(*reactor, "/data"), "");
}

// Returns false once the change needs fewer than `op` operations.
bool RunCase(uint64_t op) {
  SimKernel kernel(op);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, Prepare(reactor)));
  machine->PowerLoss(op);
  reactor = machine->Boot();
  machine->CrashAtDiskOp(machine->disk_ops() + op);
  SimRandom random(op);
  bool changed = false;
  const auto first = static_cast<uint32_t>(1 + random.Below(4));
  const bool over = kernel.RunTask(*reactor, ChangeTo(reactor, first, &changed)).has_value();
  machine->CrashAtDiskOp(0);
  machine->PowerLoss(op + 1);
  reactor = machine->Boot();
  // Half of the time, another change follows the one that was cut short.
  if (random.Chance(0.5)) {
    const auto second = static_cast<uint32_t>(1 + random.Below(4));
    EXPECT_TRUE(kernel.RunTask(*reactor, ChangeTo(reactor, second, &changed)));
    machine->PowerLoss(op + 2);
    reactor = machine->Boot();
  }
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectAll(reactor)));
  machine->PowerLoss(op + 3);
  return !over;
}

TEST(LayoutCrash, AChangeOfReactorsLosesNothing) {
  for (uint64_t op = 1; RunCase(op) && !HasFailure(); op += 1 + op % 5) {
  }
}

// The new logs know what must exist.
TEST(LayoutCrash, ALostLogOfTheNewLayoutIsFound) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, Prepare(reactor)));
  bool changed = false;
  EXPECT_TRUE(kernel.RunTask(*reactor, ChangeTo(reactor, 3, &changed)));
  ASSERT_TRUE(changed);
  EXPECT_TRUE(kernel.RunTask(*reactor, ExpectAll(reactor)));
  for (const std::string& path : machine->disk().AllFiles()) {
    EXPECT_FALSE(path.starts_with("/data/wal-0/")) << "a file of the old layout is left";
    if (path.starts_with("/data/wal-1-1/")) {
      EXPECT_EQ(machine->disk().Unlink(path), 0);
    }
  }
  struct Body {
    static Task<void> Run(Reactor* reactor) {
      auto engine = co_await OpenOne(reactor, SetupOf(false), 1);
      EXPECT_EQ(engine.code(), Code::kCorruption) << engine.status().ToString();
    }
  };
  kernel.RunTask(*reactor, Body::Run(reactor));
}

}  // namespace
}  // namespace pando::engine_test
