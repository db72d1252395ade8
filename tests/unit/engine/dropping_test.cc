// What a drop must end, and what must not wait for it (PH4): writers that wait for room in the log, units
// that wait for a segment on a full disk, and what the log holds of the partition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/partition/replica.h"
#include "tests/unit/engine/commit_gate_fixture.h"
#include "tests/unit/engine/roster_world.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

constexpr uint32_t kOther = 0;

// Puts that are made one after the other, each as soon as the one before it is answered.
struct Writers {
  explicit Writers(World* w) : world(w) {}
  void Spawn(uint32_t id, int count) {
    for (int i = 0; i < count; ++i) tasks.Spawn(Run(this, id, i));
  }
  static Task<void> Run(Writers* all, uint32_t id, int writer) {
    for (int i = 0; !all->over; ++i) {
      Partition* p = all->world->store_->partition(id);
      if (p == nullptr) co_return;
      ++all->waiting[id];
      Status status = co_await Put(p, Key(writer * 100 + i % 50), std::string(3000, 'w'));
      --all->waiting[id];
      if (!status.ok()) all->refused[id].push_back(status);
      if (!status.ok()) co_return;
      ++all->served[id];
    }
  }
  // Until no write is answered any more.
  Task<void> UntilStuck() {
    for (int before = -1; before != served[0] + served[1];) {
      before = served[0] + served[1];
      co_await Sleep(*world->reactor_, 100 * kMillisecond);
    }
  }

  World* world;
  bool over = false;
  std::map<uint32_t, int> served, waiting;
  std::map<uint32_t, std::vector<Status>> refused;
  TaskGroup tasks;
};

struct DropTask {
  static Task<void> Run(DropTask* drop, World* t) {
    drop->status = co_await t->store_->Drop(kVictim);
    drop->over = true;
  }
  Status status;
  bool over = false;
};

void ExpectAllRefused(const std::vector<Status>& refused, size_t at_least) {
  EXPECT_GE(refused.size(), at_least);
  for (const Status& status : refused) {
    const bool expected = status.code() == Code::kUnavailable || status.code() == Code::kAborted;
    EXPECT_TRUE(expected) << status.ToString();
    EXPECT_THAT(status.message(), HasSubstr("partition 1"));
  }
}

// A cut keeps the partitions from being checkpointed, so the log fills up. The records are those of `fills`.
Task<void> DropWhileTheLogIsFull(World* t, uint32_t fills) {
  Partition* other = t->store_->partition(kOther);
  Partition* victim = t->store_->partition(kVictim);
  EXPECT_OK(co_await other->PrepareCut());
  EXPECT_OK(co_await victim->PrepareCut());
  Writers writers(t);
  writers.Spawn(fills, 20);
  co_await writers.UntilStuck();
  EXPECT_EQ(writers.waiting[fills], 20);
  writers.Spawn(1 - fills, 20);
  co_await writers.UntilStuck();
  EXPECT_EQ(writers.waiting[1 - fills], 20);
  const int served = writers.served[kOther];
  DropTask drop;
  TaskGroup tasks;
  tasks.Spawn(DropTask::Run(&drop, t));
  co_await Sleep(*t->reactor_, 200 * kMillisecond);
  EXPECT_FALSE(drop.over) << "whoever has prepared a cut must end it";
  EXPECT_EQ(writers.waiting[kVictim], 0);
  ExpectAllRefused(writers.refused[kVictim], 20);
  if (fills == kVictim) {
    EXPECT_GT(writers.served[kOther], served) << "the log keeps the records of a partition that was dropped";
  } else {
    EXPECT_EQ(writers.served[kOther], served);
  }
  EXPECT_OK(co_await victim->AbandonCut());
  co_await Sleep(*t->reactor_, 200 * kMillisecond);
  EXPECT_TRUE(drop.over);
  EXPECT_OK(co_await other->AbandonCut());
  co_await tasks.Drain();
  EXPECT_OK(drop.status);
  t->ExpectGone(kVictim);
  writers.over = true;
  co_await writers.tasks.Drain();
  EXPECT_TRUE(writers.refused[kOther].empty());
  t->store_->engine_of(0).CheckInvariants();
}
Task<void> DropWhatHasFilledTheLog(World* t) { return DropWhileTheLogIsFull(t, kVictim); }
Task<void> DropWhileAnotherFillsTheLog(World* t) { return DropWhileTheLogIsFull(t, kOther); }

TEST(Dropping, WritersThatWaitForItsOwnRecordsEnd) {
  World world;
  world.Run(DropWhatHasFilledTheLog);
}
TEST(Dropping, WritersThatWaitForTheRecordsOfOthersEnd) {
  World world;
  world.Run(DropWhileAnotherFillsTheLog);
}

// Writes that a cut holds back end before the cut does.
Task<void> DropWhileWritesAreHeld(World* t) {
  Partition* victim = t->store_->partition(kVictim);
  EXPECT_OK(co_await victim->PrepareCut());
  EXPECT_OK((co_await victim->HoldWrites()).status());
  Writers writers(t);
  writers.Spawn(kVictim, 20);
  co_await writers.UntilStuck();
  DropTask drop;
  TaskGroup tasks;
  tasks.Spawn(DropTask::Run(&drop, t));
  co_await Sleep(*t->reactor_, 200 * kMillisecond);
  EXPECT_EQ(writers.waiting[kVictim], 0);
  ExpectAllRefused(writers.refused[kVictim], 20);
  EXPECT_OK(co_await victim->AbandonCut());
  co_await tasks.Drain();
  EXPECT_OK(drop.status);
  co_await writers.tasks.Drain();
}
TEST(Dropping, WritesThatACutHoldsBackEnd) {
  World world;
  world.Run(DropWhileWritesAreHeld);
}

Task<void> EngineDrop(World* t, bool* over) {
  EXPECT_OK(co_await t->store_->engine_of(kVictim).DropPartition(kVictim));
  *over = true;
}

// Units that become durable after the drop do not pin the log either.
Task<void> DropWhileUnitsAreWritten(World* t) {
  Engine& engine = t->store_->engine_of(0);
  Partition* victim = t->store_->partition(kVictim);
  Result<PartitionInfo> info = co_await t->store_->roster().Drop(kVictim);
  EXPECT_OK(info.status());
  EXPECT_OK(co_await victim->PrepareCut());
  co_await t->Fill(kVictim, 20);
  Writers writers(t);
  writers.Spawn(kVictim, 10);
  t->machine_->HangDisk(SimMachine::DiskHang::kSyncs);
  co_await Sleep(*t->reactor_, 10 * kMillisecond);
  EXPECT_LT(victim->stats().durable_lsn, victim->stats().last_lsn);
  bool over = false;
  TaskGroup tasks;
  tasks.Spawn(EngineDrop(t, &over));
  co_await Sleep(*t->reactor_, 10 * kMillisecond);
  EXPECT_EQ(writers.waiting[kVictim], 0) << "the writers wait for the disk";
  t->machine_->ReleaseDisk();
  co_await Sleep(*t->reactor_, 100 * kMillisecond);
  EXPECT_EQ(engine.stats().log.unreleased_records, 0u) << "the log keeps what became durable after the drop";
  ExpectAllRefused(writers.refused[kVictim], 10);
  EXPECT_FALSE(over);
  EXPECT_OK(co_await victim->AbandonCut());
  co_await tasks.Drain();
  co_await writers.tasks.Drain();
  EXPECT_OK(co_await t->store_->roster().RemoveFiles(*info));
}

TEST(Dropping, WhatBecomesDurableLaterPinsNothing) {
  World world;
  world.setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  world.Run(DropWhileUnitsAreWritten);
}

// Thousands of writes that wait for the disk are answered in more than one turn.
Task<void> PutOnce(Partition* p, int i, int* waiting, std::vector<Status>* refused) {
  ++*waiting;
  Status status = co_await Put(p, Key(i), "value");
  --*waiting;
  if (!status.ok()) refused->push_back(std::move(status));
}
Task<void> DropManyWrites(World* t) {
  constexpr int kMany = 3000;
  Partition* victim = t->store_->partition(kVictim);
  Result<PartitionInfo> info = co_await t->store_->roster().Drop(kVictim);
  EXPECT_OK(info.status());
  std::vector<Status> refused;
  int waiting = 0;
  TaskGroup writes;
  for (const bool hang : {false, true}) {  // the first round makes the file large enough
    if (hang) t->machine_->HangDisk(SimMachine::DiskHang::kSyncs);
    for (int i = 0; i < kMany; ++i) writes.Spawn(PutOnce(victim, i, &waiting, &refused));
    if (!hang) co_await writes.Drain();
  }
  co_await Sleep(*t->reactor_, 10 * kMillisecond);
  EXPECT_EQ(waiting, kMany);
  EXPECT_EQ(victim->stats().pending_writes, static_cast<uint64_t>(kMany));
  bool over = false;
  TaskGroup tasks;
  tasks.Spawn(EngineDrop(t, &over));
  int turns = 0, most = 0;
  for (int before = kMany; before > 0; before = waiting, ++turns) {
    co_await Yield(*t->reactor_);
    most = std::max(most, before - waiting);
  }
  EXPECT_GE(turns, 4);
  EXPECT_LT(most, kMany / 3) << "a long turn";
  EXPECT_EQ(refused.size(), static_cast<size_t>(kMany));
  co_await writes.Drain();
  t->machine_->ReleaseDisk();
  co_await tasks.Drain();
  EXPECT_OK(co_await t->store_->roster().RemoveFiles(*info));
}
TEST(Dropping, ManyWritesAreAnsweredInShortTurns) {
  World world;
  world.setup_.engine.memory_bytes = 16u << 20;
  world.Run(DropManyWrites);
}

// -- a full disk

// The log has no segment for the units of the partition, and none will come.
Task<void> DropOnAFullDisk(World* t) {
  Partition* other = t->store_->partition(kOther);
  EXPECT_OK(co_await other->PrepareCut());
  co_await t->Fill(kVictim, 5);
  EXPECT_OK(co_await t->store_->partition(kVictim)->Checkpoint());
  Writers writers(t);
  writers.Spawn(kOther, 20);
  co_await Sleep(*t->reactor_, 5 * kMillisecond);
  // Room for store.meta, but not for a segment or a larger file.
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (64u << 10));
  co_await writers.UntilStuck();
  writers.Spawn(kVictim, 20);
  co_await Sleep(*t->reactor_, 2 * kSecond);
  EXPECT_TRUE(t->store_->engine_of(0).stats().log.waits_for_segment);
  const PartitionStats stats = t->store_->partition(kVictim)->stats();
  EXPECT_LT(stats.durable_lsn, stats.last_lsn) << "its units wait for a segment";
  DropTask drop;
  TaskGroup tasks;
  tasks.Spawn(DropTask::Run(&drop, t));
  co_await Sleep(*t->reactor_, 5 * kSecond);
  EXPECT_TRUE(drop.over) << "the drop waits for a disk that is full";
  EXPECT_EQ(writers.waiting[kVictim], 0);
  ExpectAllRefused(writers.refused[kVictim], 20);
  t->store_->engine_of(0).CheckInvariants();
  t->machine_->EmptyDisk();
  EXPECT_OK(co_await other->AbandonCut());
  writers.over = true;
  co_await writers.tasks.Drain();
  co_await tasks.Drain();
  EXPECT_OK(drop.status);
  t->ExpectGone(kVictim);
  for (const Status& status : writers.refused[kOther]) EXPECT_EQ(status.code(), Code::kDiskFull);
}

TEST(Dropping, EndsOnAFullDisk) {
  World world;
  world.setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  world.Run(DropOnAFullDisk);
}

// SM3: as long as its file is there, store.meta says that nobody needs it, whatever the logs hold.
Task<void> DropWithoutRemovingFiles(World* t) {
  StoreRoster& roster = t->store_->roster();
  Result<PartitionInfo> info = co_await roster.Drop(kVictim);
  EXPECT_OK(info.status());
  EXPECT_OK(co_await t->store_->engine_of(kVictim).DropPartition(kVictim));
  DiskFault fault;
  fault.kind = IoOp::Kind::kUnlink;
  t->machine_->AddFault(fault);
  EXPECT_EQ((co_await roster.RemoveFiles(*info)).code(), Code::kIoError);
  roster.ForgetDropped({});
  EXPECT_EQ(roster.store().dropped.size(), 1u);
  // Written down with the next change.
  EXPECT_OK((co_await roster.Drop(2)).status());
  EXPECT_OK(co_await t->store_->engine_of(2).DropPartition(2));
  EXPECT_TRUE(t->machine_->disk().Exists(DataPath(kVictim)));
}
Task<void> ExpectFilesRemoved(World* t) {
  for (const uint32_t id : {kVictim, 2u}) t->ExpectGone(id);
  co_return;
}
TEST(Dropping, OneIsRememberedAsLongAsItsFileIsThere) {
  World world;
  world.Run(DropWithoutRemovingFiles, /*checkpoint=*/true);
  world.Run(ExpectFilesRemoved);
}

// -- the start of an epoch, which nobody waits for

ManualGate* g_gate = nullptr;

Task<void> DropAfterAnEpochBegan(World* t, bool on_its_way) {
  Result<PartitionInfo> info = co_await t->store_->roster().Drop(kVictim);
  EXPECT_OK(info.status());
  // Nothing becomes durable until the disk is released.
  t->machine_->HangDisk(SimMachine::DiskHang::kSyncs);
  GatedPartition* victim = g_gate->partition;
  victim->BeginEpoch(victim->epoch() + 1, t->store_->partition(kVictim)->stats().last_lsn);
  if (on_its_way) co_await Sleep(*t->reactor_, kMillisecond);
  bool over = false;
  TaskGroup tasks;
  tasks.Spawn(EngineDrop(t, &over));
  co_await Sleep(*t->reactor_, 100 * kMillisecond);
  EXPECT_EQ(over, !on_its_way);
  t->machine_->ReleaseDisk();
  co_await tasks.Drain();
  t->store_->engine_of(kVictim).CheckInvariants();
  EXPECT_OK(co_await t->store_->roster().RemoveFiles(*info));
  t->ExpectGone(kVictim);
}
Task<void> DropWithAnEpochOnItsWay(World* t) { return DropAfterAnEpochBegan(t, true); }
Task<void> DropWithAnEpochJustBegun(World* t) { return DropAfterAnEpochBegan(t, false); }

void RunWithGate(World::Body body) {
  World world;
  world.setup_.engine.make_gate = [](uint32_t id) -> std::unique_ptr<CommitGate> {
    if (id != kVictim) return nullptr;
    auto gate = std::make_unique<ManualGate>();
    g_gate = gate.get();
    gate->commits = true;
    return gate;
  };
  world.Run(body);
}
TEST(Dropping, AnEpochThatIsOnItsWayToTheDisk) { RunWithGate(DropWithAnEpochOnItsWay); }
TEST(Dropping, AnEpochThatHasJustBegun) { RunWithGate(DropWithAnEpochJustBegun); }

}  // namespace
}  // namespace pando::engine_test
