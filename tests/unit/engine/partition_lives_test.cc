// Partitions with the same ID, or even the same UUID, that live one after the other in a process: the second
// one sees nothing of the first, and what describes the first one goes with it.
#include <gtest/gtest.h>

#include <optional>

#include "src/partition/replica.h"
#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kRanges = 2, kVictim = 1;

SimOptions WithoutHoles() {
  SimOptions options = SharedReactor();
  options.refuse_holes = true;
  return options;
}

struct World {
  using Body = Task<void> (*)(World* t);
  World() : kernel_(1, WithoutHoles()) {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = kRanges;
    setup_.engine.log_segment_bytes = 1u << 20;
  }
  void Run(Body body) {
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WithStore(this, body)).has_value());
    machine_->PowerLoss(7);
  }
  static Task<void> WithStore(World* t, Body body) {
    OpenedStore store;
    Status opened = co_await OpenedStore::Open(t->reactor_, t->setup_, &store);
    EXPECT_OK(opened);
    t->store_ = &store;
    if (opened.ok()) co_await body(t);
    EXPECT_OK(co_await store.Close(/*checkpoint=*/false));
  }
  Engine& engine() { return store_->engine_of(kVictim); }
  Partition* victim() { return store_->partition(kVictim); }

  Setup setup_;
  SimKernel kernel_;
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  OpenedStore* store_ = nullptr;
};

// -- what describes a partition that was dropped

Task<Code> WriteOnce(World* t, std::string client) {
  WriteOp once;
  once.op = RecordOp::kOnce;
  once.key = "\xff\xff\xff\xff" + client;
  once.sequence = 1;
  once.first_sent_ms = t->reactor_->WallMs();
  std::vector<WriteOp> ops;
  ops.push_back(std::move(once));
  ops.push_back(PutOp("key", "value"));
  co_return (co_await Write(t->victim(), std::move(ops))).code();
}

Task<void> DropOneThatRefusedClients(World* t) {
  EXPECT_EQ(co_await WriteOnce(t, "first"), Code::kOk);
  EXPECT_EQ(co_await WriteOnce(t, "second"), Code::kOverloaded);
  EXPECT_EQ(t->victim()->stats().lanes_refused_total, 1u);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_EQ(t->engine().dropped_counters().lanes_refused_total, 1u);
  EXPECT_EQ(t->engine().dropped_counters().writes_total, 2u) << "both of the operations";
}
TEST(PartitionLives, TheCountersOfADroppedOneAreKept) {
  World world;
  world.setup_.store.namespaced = true;
  world.setup_.engine.max_lanes = 1;
  world.Run(DropOneThatRefusedClients);
}

Task<void> ScrubOnce(World* t) {
  Scrubber& scrubber = t->engine().scrubber();
  scrubber.StartPass(1u << 30);
  while (scrubber.report().running) co_await Sleep(*t->reactor_, kMillisecond);
}
Task<void> DropADamagedOne(World* t) {
  EXPECT_OK(co_await Put(t->victim(), "key", "value"));
  for (int i = 0; i < 2; ++i) EXPECT_OK(co_await t->victim()->Checkpoint());
  for (const uint32_t id : {0u, kVictim}) {
    const std::string path = t->store_->store().PartitionFilePath(id);
    std::string file = t->machine_->disk().ReadAll(path);
    file[3000] ^= 1;  // one of the copies of a superblock
    t->machine_->disk().WriteAll(path, file);
  }
  co_await ScrubOnce(t);
  const std::vector<ScrubFinding>& findings = t->engine().scrubber().report().findings;
  EXPECT_EQ(findings.size(), 2u);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings.front().problem.file, t->store_->store().PartitionFilePath(0));
}
TEST(PartitionLives, WhatAScrubFoundInADroppedOneIsForgotten) { World().Run(DropADamagedOne); }

Task<void> DropOneThatKeepsItsSpace(World* t) {
  for (int i = 0; i < 40; ++i) {
    EXPECT_OK(co_await Put(t->victim(), fmt::format("key-{}", i), std::string(200'000, 'v')));
  }
  EXPECT_OK(co_await t->victim()->Checkpoint());
  for (int i = 0; i < 40; ++i) EXPECT_OK(co_await Remove(t->victim(), fmt::format("key-{}", i)));
  for (int i = 0; i < 3; ++i) EXPECT_OK(co_await t->victim()->Checkpoint());
  for (int i = 0; i < 10 && t->engine().stats().release.refused_files == 0; ++i) co_await Sleep(*t->reactor_, kSecond);
  EXPECT_EQ(t->engine().stats().release.refused_files, 1u);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_EQ(t->engine().stats().release.refused_files, 0u);
}
TEST(PartitionLives, ADroppedFileDoesNotCountAsRefused) {
  World world;
  world.setup_.engine.release.bytes_per_s = 64u << 20;
  world.setup_.engine.release.after_ns = kSecond;
  world.setup_.engine.release.min_keep_blocks = 64;
  world.Run(DropOneThatKeepsItsSpace);
}

}  // namespace
}  // namespace pando::engine_test
