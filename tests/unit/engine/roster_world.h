// The fixture for tests of partitions that come and go: a store on a simulated machine. Each body runs in a
// process of its own, which then loses power.
//
// Threads: that of the simulation.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {

inline constexpr uint32_t kRanges = 4;
inline constexpr uint32_t kVictim = 1;  // the partition that is dropped

inline std::string Key(int i) { return fmt::format("key-{:04}", i); }
inline std::string Value(uint32_t partition, int i) {
  return fmt::format("{}/{} {}", partition, i, std::string(200, 'v'));
}
inline std::string DataPath(uint32_t partition) { return fmt::format("/data/partition-{:05}/data", partition); }

// A machine with a store.
struct World {
  using Body = Task<void> (*)(World* t);
  explicit World(uint64_t kernel_seed = 1, uint32_t reactors = 1)
      : seed_(kernel_seed), kernel_(kernel_seed, SharedReactor()) {
    FLAGS_minloglevel = 3;
    setup_.store.reactors = reactors;
    setup_.store.partitions = kRanges;
    setup_.engine.log_segment_bytes = 128u << 10;
    setup_.engine.log_budget_bytes = 2u << 20;
  }

  // Runs `body` with the open store, in a process of its own, which then closes it or loses power.
  void Run(Body body, bool checkpoint = false) {
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WithStore(this, body, checkpoint)).has_value());
    machine_->PowerLoss(7);
    reactor_ = machine_->Boot();
    std::optional<std::string> problem = kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->PowerLoss(8);
    EXPECT_EQ(*problem, "");
  }
  static Task<void> WithStore(World* t, Body body, bool checkpoint) {
    OpenedStore store;
    Status opened = co_await OpenedStore::Open(t->reactor_, t->setup_, &store);
    EXPECT_OK(opened);
    t->store_ = &store;
    if (opened.ok()) co_await body(t);
    EXPECT_OK(co_await store.Close(checkpoint));
    EXPECT_EQ(t->reactor_->open_files(), 0u);
  }

  // -- steps
  Task<void> Fill(uint32_t id, int records) {
    for (int i = 0; i < records; ++i) EXPECT_OK(co_await Put(store_->partition(id), Key(i), Value(id, i)));
  }
  Task<void> ExpectHolds(uint32_t id, int records) {
    Partition* p = store_->partition(id);
    EXPECT_NE(p, nullptr) << id;
    if (p == nullptr) co_return;
    Result<RangeAggregates> sum = co_await p->Aggregate("", "", kNewest);
    EXPECT_EQ(sum.ok() ? sum->count : UINT64_MAX, static_cast<uint64_t>(records)) << id;
    for (int i = 0; i < records; i += 7) {
      Result<ReadResult> read = co_await p->Get(Key(i), kNewest, nullptr);
      EXPECT_TRUE(read.ok() && read->found && read->value == Value(id, i)) << id << " " << i;
    }
  }
  // The open files, once the log has prepared what it wants and needs no old segment.
  Task<size_t> FilesAtRest() {
    for (int round = 0; round < 2; ++round) {
      for (uint32_t r = 0; r < store_->store().reactors; ++r) EXPECT_OK(co_await store_->engine_of(r).CheckpointAll());
    }
    co_await Sleep(*reactor_, kSecond);
    co_return reactor_->open_files();
  }
  void ExpectGone(uint32_t id) {
    EXPECT_EQ(store_->partition(id), nullptr);
    EXPECT_EQ(store_->store().Find(id), nullptr);
    EXPECT_FALSE(machine_->disk().Exists(DataPath(id)));
    for (const Partition* p : store_->engine_of(id).partitions()) EXPECT_NE(p->id(), id);
  }

  const uint64_t seed_;
  Setup setup_;
  SimKernel kernel_;
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  OpenedStore* store_ = nullptr;
  Uuid uuid_;
  Version version_ = 0;
};

}  // namespace pando::engine_test
