// Partitions with the same ID, or even the same UUID, that live one after the other in a process: the second
// one sees nothing of the first, and what describes the first one goes with it.
#include <gtest/gtest.h>

#include <optional>

#include "src/partition/replica.h"
#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kRanges = 2, kVictim = 1;

// As a store with namespaces stores it.
std::string Key(int i) { return std::string(4, '\0') + KeyIn(kRanges, kVictim, fmt::format("key-{}", i)); }

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
  ReadSnapshot snapshot_;
  ManualGate* gate_ = nullptr;  // of the last partition that was opened
};

// -- what describes a partition that was dropped

Task<Code> WriteOnce(World* t, std::string client, uint64_t sequence = 1) {
  WriteOp once;
  once.op = RecordOp::kOnce;
  once.key = "\xff\xff\xff\xff" + client;
  once.sequence = sequence;
  once.first_sent_ms = t->reactor_->WallMs();
  std::vector<WriteOp> ops;
  ops.push_back(std::move(once));
  ops.push_back(PutOp(Key(0), "value"));
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

// -- the same partition, installed again from an older snapshot in the process that has dropped it

Task<void> LiveOnce(World* t) {
  for (int i = 0; i < 20; ++i) EXPECT_OK(co_await Put(t->victim(), Key(i), "first"));
  EXPECT_EQ(co_await WriteOnce(t, "client", 1), Code::kOk);
  Result<ReadSnapshot> read = co_await ReadSnapshotOf(t->reactor_, t->victim(), 40'000);
  EXPECT_OK(read.status());
  t->snapshot_ = *std::move(read);
}

Task<void> LiveAgain(World* t) {
  const Epoch before = t->victim()->stats().epoch;
  EXPECT_GT(before, t->snapshot_.root.epoch);
  for (int i = 10; i < 40; ++i) EXPECT_OK(co_await Put(t->victim(), Key(i), "later"));
  EXPECT_EQ(co_await WriteOnce(t, "client", 9), Code::kOk);
  std::vector<Partition*> one(1, t->victim());
  Result<SnapshotInfo> cut = co_await CutSnapshot(*t->reactor_, one, INT64_MAX);
  EXPECT_OK(cut.status());
  const Version seen = std::max(t->victim()->newest_change(), cut->version);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_EQ(t->engine().newest_change(kVictim).load(), UINT64_MAX);

  SentPages pages(&t->snapshot_);
  Result<Partition*> installed = co_await t->store_->Install(kVictim, t->snapshot_.root, &pages);
  EXPECT_OK(installed.status());
  if (!installed.ok()) co_return;
  Partition* p = *installed;
  EXPECT_EQ(p->stats().applied_lsn, t->snapshot_.root.lsn);
  EXPECT_EQ(p->stats().last_lsn, t->snapshot_.root.lsn);
  EXPECT_EQ(t->gate_->recovered.epoch, t->snapshot_.root.epoch);
  EXPECT_EQ(t->gate_->recovered.durable_lsn, t->snapshot_.root.lsn);
  EXPECT_EQ(p->stats().snapshots, 0u);
  const Result<ReadResult> gone = co_await p->Get(Key(1), cut->id, nullptr);
  EXPECT_EQ(gone.code(), Code::kSnapshotGone);
  EXPECT_NE(gone.status().message().find("It is younger than the snapshot"), std::string::npos) << "it has not expired";
  EXPECT_EQ((co_await p->Aggregate("", "", kNewest))->content_hash, t->snapshot_.content_hash);
  // Whoever has watched the first one has missed that what came after the snapshot is gone.
  EXPECT_GE(p->newest_change(), seen);
  Result<ChangePage> page = co_await p->Changes(seen, "", 10, 1000);
  EXPECT_TRUE(page.ok() && page->gone);
  const Version now = p->newest_change();
  EXPECT_EQ(co_await WriteOnce(t, "client", 2), Code::kOk) << "a lane of the first life";
  page = co_await p->Changes(now, Key(0), 10, 1000);
  EXPECT_TRUE(page.ok() && !page->gone && page->changes.size() == 1);
  Result<ReadResult> read = co_await p->Get(Key(0), kNewest, nullptr);
  EXPECT_TRUE(read.ok() && read->version > seen);
}
Task<void> ExpectSecondLife(World* t) {
  Result<ReadResult> read = co_await t->victim()->Get(Key(15), kNewest, nullptr);
  EXPECT_TRUE(read.ok() && read->found && read->value == "first");
  EXPECT_EQ(co_await WriteOnce(t, "client", 3), Code::kOk);
}

TEST(PartitionLives, TheSecondOneSeesNothingOfTheFirst) {
  World world;
  world.setup_.store.namespaced = true;
  world.setup_.engine.make_gate = [&world](uint32_t id) {
    auto gate = std::make_unique<ManualGate>();
    gate->commits = true;
    if (id == kVictim) world.gate_ = gate.get();
    return gate;
  };
  world.Run(LiveOnce);
  world.Run(LiveAgain);
  world.Run(ExpectSecondLife);
}

}  // namespace
}  // namespace pando::engine_test
