// Partitions that are created and dropped while the engine serves, and after restarts (E6, RO1, SM3, PH4).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/partition/replica.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"
#include "tests/unit/engine/commit_gate_fixture.h"
#include "tests/unit/engine/roster_world.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

class DynamicReactors : public testing::TestWithParam<uint32_t> {};

Task<void> FillAndDropTwo(World* t) {
  for (uint32_t id = 0; id < kRanges; ++id) co_await t->Fill(id, 50);
  t->uuid_ = t->store_->store().Find(1)->uuid;
  const size_t files = co_await t->FilesAtRest();
  EXPECT_OK(co_await t->store_->Drop(1));
  const size_t left = co_await t->FilesAtRest();
  EXPECT_EQ(left, files - 1) << "its file is open";
  EXPECT_OK(co_await t->store_->Drop(2));
  for (const uint32_t id : {1u, 2u}) {
    t->ExpectGone(id);
    EXPECT_EQ((co_await t->store_->Drop(id)).code(), Code::kUnavailable);
    EXPECT_EQ((co_await t->store_->engine_of(id).DropPartition(id)).code(), Code::kUnavailable);
  }
  for (const uint32_t id : {0u, 3u}) co_await t->ExpectHolds(id, 50);
}

// The logs hold records of the partitions that were dropped.
Task<void> CreateOneAgain(World* t) {
  for (const uint32_t id : {1u, 2u}) t->ExpectGone(id);
  for (const uint32_t id : {0u, 3u}) co_await t->ExpectHolds(id, 50);
  Result<Partition*> created = co_await t->store_->Create(1);
  EXPECT_OK(created.status());
  EXPECT_EQ(*created, t->store_->partition(1));
  EXPECT_NE((*created)->uuid(), t->uuid_);
  co_await t->ExpectHolds(1, 0);
  EXPECT_EQ((co_await t->store_->Create(1)).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await t->store_->Create(kRanges)).code(), Code::kInvalidArgument);
  co_await t->Fill(1, 20);
  EXPECT_OK(co_await t->store_->engine_of(1).CheckpointAll());
}

Task<void> DropAllAndCreateThree(World* t) {
  co_await t->ExpectHolds(1, 20);
  t->ExpectGone(2);
  for (const uint32_t id : {0u, 1u, 3u}) EXPECT_OK(co_await t->store_->Drop(id));
  for (uint32_t id = 0; id < kRanges; ++id) t->ExpectGone(id);
  EXPECT_TRUE(t->store_->store().partitions.empty());
  for (const uint32_t id : {3u, 2u, 0u}) {
    EXPECT_OK((co_await t->store_->Create(id)).status());
    co_await t->Fill(id, 30);
  }
}

Task<void> ExpectThree(World* t) {
  for (const uint32_t id : {0u, 2u, 3u}) co_await t->ExpectHolds(id, 30);
  t->ExpectGone(1);
  for (const uint32_t id : {0u, 2u, 3u}) EXPECT_OK(co_await Put(t->store_->partition(id), "new", "value"));
}

TEST_P(DynamicReactors, ComeAndGoOverRestarts) {
  World world(1, GetParam());
  world.Run(FillAndDropTwo);
  world.Run(CreateOneAgain);
  world.Run(DropAllAndCreateThree);
  world.Run(ExpectThree);
}

TEST_P(DynamicReactors, ComeAndGoOverRestartsWithCheckpoints) {
  World world(2, GetParam());
  world.Run(FillAndDropTwo, /*checkpoint=*/true);
  world.Run(CreateOneAgain, /*checkpoint=*/true);
  world.Run(DropAllAndCreateThree, /*checkpoint=*/true);
  world.Run(ExpectThree, /*checkpoint=*/true);
}

INSTANTIATE_TEST_SUITE_P(Reactors, DynamicReactors, testing::Values(1, 2, 3));

// -- everything that may run in a partition when it is dropped

struct Load {
  OpenedStore* store;
  SimReactor* reactor;
  SimRandom random;
  int served = 0, refused = 0;
  bool over = false;

  Partition* victim() { return store->partition(kVictim); }
  void Note(const Status& status) {
    if (status.ok()) {
      ++served;
      return;
    }
    const Code code = status.code();
    const bool expected = code == Code::kUnavailable || code == Code::kAborted || code == Code::kSnapshotGone;
    EXPECT_TRUE(expected) << status.ToString();
    if (code == Code::kUnavailable) {
      EXPECT_THAT(status.message(), HasSubstr("partition 1 is not on this node"));
    }
    ++refused;
  }
  Nanos Pause() { return static_cast<Nanos>(random.Below(300)) * kMicrosecond; }
};

// Each looks the partition up again after it has suspended, as everybody must.
Task<void> WriteOn(Load* load, int writer) {
  for (int i = 0; load->victim() != nullptr; ++i) {
    std::string value(load->random.Below(20) == 0 ? 20'000 : 300, 'w');
    load->Note(co_await Put(load->victim(), fmt::format("w{}-{}", writer, i % 300), std::move(value)));
    if (load->random.Below(4) == 0) co_await Sleep(*load->reactor, load->Pause());
  }
}
Task<void> WritePoints(Load* load) {
  for (int i = 0; load->victim() != nullptr; ++i) {
    WriteOp op = PutOp(fmt::format("w{}-{}", i % 3, i % 300), "point");
    load->Note((co_await WritePoint(&load->store->engine_of(kVictim), load->victim(), std::move(op))).status());
  }
}
Task<void> ReadOn(Load* load) {
  while (load->victim() != nullptr) {
    load->Note(
        (co_await load->victim()->Get(Key(static_cast<int>(load->random.Below(2000))), kNewest, nullptr)).status());
    co_await Sleep(*load->reactor, load->Pause());
  }
}
Task<void> ScanOn(Load* load) {
  while (load->victim() != nullptr) {
    ScanSpec spec;
    spec.reverse = load->random.Chance(0.3);
    load->Note((co_await load->victim()->Scan(spec)).status());
    if (load->victim() == nullptr) co_return;
    load->Note((co_await load->victim()->Aggregate("a", "x", kNewest)).status());
    co_await Sleep(*load->reactor, load->Pause());
  }
}
Task<void> CutOn(Load* load) {
  for (SnapshotId id = 1; load->victim() != nullptr; ++id) {
    // Until Cut or AbandonCut, the partition stays.
    Partition* p = load->victim();
    Status prepared = co_await p->PrepareCut();
    load->Note(prepared);
    if (!prepared.ok()) continue;
    co_await Sleep(*load->reactor, load->Pause());
    Result<Version> held = co_await p->HoldWrites();
    load->Note(held.status());
    co_await Sleep(*load->reactor, load->Pause());
    if (!held.ok() || load->random.Chance(0.3)) {
      EXPECT_OK(co_await p->AbandonCut());
      continue;
    }
    SnapshotInfo snapshot;
    snapshot.id = id;
    snapshot.version = std::max(*held + 1, VersionAtMs(load->reactor->WallMs()));
    snapshot.expires_at_ms = load->reactor->WallMs() + 20;
    load->Note(co_await p->Cut(snapshot));
    if (load->victim() == nullptr) co_return;
    load->Note((co_await load->victim()->Get(Key(1), id, nullptr)).status());
    PageCursor from;
    for (bool over = false; !over && load->victim() != nullptr;) {
      Result<PageBatch> batch = co_await load->victim()->ReadPages(id, 0, from, 64u << 10);
      load->Note(batch.status());
      over = !batch.ok() || batch->exhausted;
      if (batch.ok()) from = batch->next;
    }
  }
}
Task<void> CheckpointOn(Load* load) {
  while (load->victim() != nullptr) {
    if (load->random.Chance(0.5)) {
      EXPECT_OK(co_await load->store->engine_of(kVictim).CheckpointAll());
    } else {
      load->Note(co_await load->victim()->Checkpoint());
    }
    co_await Sleep(*load->reactor, 5 * load->Pause());
  }
}
Task<void> ScrubOn(Load* load) {
  while (!load->over) {
    load->store->engine_of(kVictim).scrubber().StartPass(64u << 20);
    co_await Sleep(*load->reactor, 100 * kMillisecond);
    EXPECT_TRUE(load->store->engine_of(kVictim).scrubber().report().findings.empty());
  }
}
// Records that expire at once, so that sweeps run.
Task<void> ExpireOn(Load* load) {
  for (int i = 0; load->victim() != nullptr; ++i) {
    std::vector<WriteOp> ops;
    ops.push_back(PutOp(fmt::format("e-{}", i % 100), "short"));
    ops.back().ttl_mode = TtlMode::kSet;
    ops.back().ttl_ms = 1;
    load->Note(co_await Write(load->victim(), std::move(ops)));
    co_await Sleep(*load->reactor, 3 * load->Pause());
  }
}
Task<void> RemoveOn(Load* load) {  // so that leaves are merged
  for (int i = 0; i < 2000 && load->victim() != nullptr; ++i) load->Note(co_await Remove(load->victim(), Key(i)));
}

Task<void> DropWhileAllRuns(World* t) {
  Load load{t->store_, t->reactor_, SimRandom(t->seed_)};
  co_await t->Fill(kVictim, 2000);
  co_await t->Fill(0, 100);
  const EngineStats before = t->store_->engine_of(0).stats();
  const size_t files = co_await t->FilesAtRest();
  TaskGroup tasks;
  for (int i = 0; i < 3; ++i) tasks.Spawn(WriteOn(&load, i));
  for (int i = 0; i < 3; ++i) tasks.Spawn(ReadOn(&load));
  tasks.Spawn(WritePoints(&load));
  tasks.Spawn(ScanOn(&load));
  tasks.Spawn(CutOn(&load));
  tasks.Spawn(CheckpointOn(&load));
  tasks.Spawn(ScrubOn(&load));
  tasks.Spawn(ExpireOn(&load));
  tasks.Spawn(RemoveOn(&load));
  co_await Sleep(*t->reactor_, 20 * kMillisecond + static_cast<Nanos>(load.random.Below(2000)) * 100 * kMicrosecond);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  t->ExpectGone(kVictim);
  load.over = true;
  co_await tasks.Drain();
  EXPECT_GT(load.served, 0);
  const size_t left = co_await t->FilesAtRest();
  EXPECT_EQ(left, files - 1);
  const EngineStats after = t->store_->engine_of(0).stats();
  EXPECT_LE(after.pool_pages - after.pool_free_pages, before.pool_pages - before.pool_free_pages);
  EXPECT_EQ(after.pool_pinned_pages, 0u);
  co_await t->ExpectHolds(0, 100);
  EXPECT_OK((co_await t->store_->Create(kVictim)).status());
  co_await t->Fill(kVictim, 10);
  t->store_->engine_of(0).CheckInvariants();
}

Task<void> ExpectCreated(World* t) {
  co_await t->ExpectHolds(kVictim, 10);
  co_await t->ExpectHolds(0, 100);
}

TEST(DynamicPartitions, EverythingEndsThatRunsInADroppedOne) {
  for (const uint64_t seed : Seeds(12)) {
    SCOPED_TRACE(Replay(seed));
    World world(seed);
    world.setup_.store.partitions = 2;
    world.Run(DropWhileAllRuns);
    world.Run(ExpectCreated);
    if (testing::Test::HasFailure()) return;
  }
}

// The gate commits nothing, so writes wait for ever.
Task<void> PutUncommitted(Load* load, int i) { load->Note(co_await Put(load->victim(), Key(i), "never committed")); }
Task<void> DropUncommitted(World* t) {
  Load load{t->store_, t->reactor_, SimRandom(1)};
  TaskGroup writes;
  for (int i = 0; i < 20; ++i) writes.Spawn(PutUncommitted(&load, i));
  while (load.victim()->stats().durable_lsn < 20) co_await Sleep(*t->reactor_, kMillisecond);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_EQ(writes.running(), 0u);
  EXPECT_EQ(load.refused, 20);
  EXPECT_EQ(t->store_->engine_of(0).stats().log.unreleased_records, 0u) << "the log keeps the records";
}
Task<void> CreateVictim(World* t) {
  EXPECT_OK((co_await t->store_->Create(kVictim)).status());
  co_await t->Fill(kVictim, 10);
  co_await t->ExpectHolds(kVictim, 10);
}

TEST(DynamicPartitions, WhatIsNotCommittedDoesNotHoldUpADrop) {
  World world;
  world.setup_.engine.make_gate = [](uint32_t) { return std::make_unique<ManualGate>(); };
  world.Run(DropUncommitted);
  world.setup_.engine.make_gate = nullptr;
  world.Run(CreateVictim);
}

// -- damage

int g_quarantined = 0;

Task<void> FillTwo(World* t) {
  co_await t->Fill(0, 50);
  co_await t->Fill(kVictim, 50);
}
Task<void> DropQuarantined(World* t) {
  EXPECT_EQ(g_quarantined, 1);
  EXPECT_EQ(t->store_->engine_of(0).stats().quarantined_partitions, 1u);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  t->ExpectGone(kVictim);
  EXPECT_EQ(g_quarantined, 0);
  EXPECT_EQ(t->store_->engine_of(0).stats().quarantined_partitions, 0u);
  EXPECT_OK(co_await t->store_->engine_of(0).CheckpointAll());
  co_await CreateVictim(t);
  co_await t->ExpectHolds(0, 50);
}
void CountQuarantines(World* world) {
  g_quarantined = 0;
  world->setup_.engine.on_quarantine = [](const QuarantinedPartition&) { ++g_quarantined; };
  world->setup_.engine.on_quarantine_end = [](uint32_t) { --g_quarantined; };
}

TEST(DynamicPartitions, OneThatCannotBeReadIsDropped) {
  World world;
  world.Run(FillTwo);
  std::string damaged = world.machine_->disk().ReadAll(DataPath(kVictim));
  for (size_t copy = 0; copy < 4; ++copy) damaged[copy * 4096 + 1000] ^= 1;
  world.machine_->disk().WriteAll(DataPath(kVictim), damaged);
  CountQuarantines(&world);
  world.Run(DropQuarantined);
}

Task<void> DamageAndDrop(World* t) {
  co_await FillTwo(t);
  DiskFault fault;
  fault.path_contains = DataPath(kVictim);
  fault.error_number = EIO;
  fault.count = UINT64_MAX;
  for (const IoOp::Kind kind : {IoOp::Kind::kWrite, IoOp::Kind::kWritev}) {
    fault.kind = kind;
    t->machine_->AddFault(fault);
  }
  EXPECT_EQ((co_await t->store_->partition(kVictim)->Checkpoint()).code(), Code::kIoError);
  t->machine_->ClearFaults();
  co_await DropQuarantined(t);
}

TEST(DynamicPartitions, OneThatCannotBeWrittenIsDropped) {
  World world;
  CountQuarantines(&world);
  world.Run(DamageAndDrop);
}

// -- the log

// A partition whose records fill the log gives back their room.
Task<void> DropWhatFillsTheLog(World* t) {
  Engine& engine = t->store_->engine_of(0);
  co_await t->Fill(kVictim, 500);
  EXPECT_GT(engine.stats().log.unreleased_records, 50u);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  co_await Sleep(*t->reactor_, kSecond);
  EXPECT_EQ(engine.stats().log.unreleased_records, 0u);
  EXPECT_EQ(t->store_->store().dropped.size(), 1u);
  // SM3: it is forgotten once the log has been recycled, and not before.
  t->store_->Forget();
  EXPECT_EQ(t->store_->store().dropped.size(), 1u);
  for (int i = 0; t->store_->store().dropped.size() > 0 && i < 3000; ++i) {
    EXPECT_OK(co_await Put(t->store_->partition(0), Key(i % 50), std::string(3000, 'x')));
    if (i % 200 == 199) EXPECT_OK(co_await engine.CheckpointAll());
    t->store_->Forget();
  }
  EXPECT_EQ(t->store_->store().dropped.size(), 0u);
  EXPECT_OK(co_await t->store_->Drop(2));  // writes it down
}
Task<void> ExpectOneDropped(World* t) {
  EXPECT_EQ(t->store_->store().dropped.size(), 1u);
  // Opened again, the log says of which dropped partitions it holds something.
  t->store_->Forget();
  EXPECT_LE(t->store_->store().dropped.size(), 1u);
  EXPECT_EQ(t->store_->store().partitions.size(), 2u);
  co_return;
}

TEST(DynamicPartitions, DroppedOnesAreForgottenOnceTheLogIs) {
  World world;
  world.setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  world.Run(DropWhatFillsTheLog);
  world.Run(ExpectOneDropped);
}

// SM3: the log begins with records of a dropped partition, and other partitions need what follows them.
Task<void> DropWhatTheLogHolds(World* t) {
  co_await t->Fill(kVictim, 50);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  for (const uint32_t id : {0u, 2u, 3u}) co_await t->Fill(id, 50);
  EXPECT_EQ(t->store_->engine_of(kVictim).dropped_in_log().size(), 1u);
}
Task<void> ExpectOneIgnored(World* t) {
  t->ExpectGone(kVictim);
  for (const uint32_t id : {0u, 2u, 3u}) co_await t->ExpectHolds(id, 50);
}

TEST_P(DynamicReactors, RecordsOfADroppedOneAreSkipped) {
  World world(3, GetParam());
  world.setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  world.Run(DropWhatTheLogHolds);
  world.Run(ExpectOneIgnored);
}

// A partition that is created and dropped again and again does not fill the store file.
Task<void> ComeAndGoOften(World* t) {
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  size_t most = 0;
  for (int round = 0; round < 60; ++round) {
    EXPECT_OK((co_await t->store_->Create(kVictim)).status());
    co_await t->Fill(kVictim, 30);
    if (round % 10 == 9) EXPECT_OK(co_await t->store_->engine_of(0).CheckpointAll());
    EXPECT_OK(co_await t->store_->Drop(kVictim));
    for (int i = 0; i < 20; ++i) EXPECT_OK(co_await Put(t->store_->partition(0), Key(i), std::string(3000, 'x')));
    most = std::max(most, t->store_->store().dropped.size());
  }
  EXPECT_LT(most, 40u);
}

TEST(DynamicPartitions, TheListOfDroppedOnesIsBounded) {
  World world;
  world.Run(ComeAndGoOften);
}

// -- limits and errors

Task<void> FillTheRoom(World* t) {
  for (const uint32_t id : {1u, 2u, 3u}) EXPECT_OK(co_await t->store_->Drop(id));
  EXPECT_OK((co_await t->store_->Create(1)).status());
}
Task<void> ExpectOneMore(World* t) {
  EXPECT_OK((co_await t->store_->Create(2)).status());
  Result<Partition*> refused = co_await t->store_->Create(3);
  EXPECT_EQ(refused.code(), Code::kOverloaded) << refused.status().ToString();
  EXPECT_THAT(refused.status().message(), HasSubstr("keeps no memory for another one"));
  t->ExpectGone(3);
  EXPECT_OK(co_await t->store_->Drop(1));
  EXPECT_OK((co_await t->store_->Create(3)).status());
}

TEST(DynamicPartitions, TheirNumberIsLimited) {
  World world;
  world.Run(FillTheRoom);
  world.setup_.engine.spare_partitions = 1;
  world.Run(ExpectOneMore);
}

Task<void> CreateFails(World* t) {
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  // A file that somebody has put there.
  t->machine_->disk().WriteAll(DataPath(kVictim), t->machine_->disk().ReadAll(DataPath(0)));
  co_await t->Fill(0, 10);
  EXPECT_OK(co_await t->store_->engine_of(0).CheckpointAll());
  t->machine_->disk().WriteAll(DataPath(kVictim), t->machine_->disk().ReadAll(DataPath(0)));
  EXPECT_EQ((co_await t->store_->Create(kVictim)).code(), Code::kAlreadyExists);
  t->machine_->disk().RemoveTree(DataPath(kVictim));
  // A full disk.
  t->machine_->FillDisk();
  EXPECT_EQ((co_await t->store_->Create(kVictim)).code(), Code::kDiskFull);
  t->machine_->EmptyDisk();
  t->ExpectGone(kVictim);
  co_await CreateVictim(t);
  EXPECT_OK(co_await t->store_->Drop(kVictim));
}
TEST(DynamicPartitions, ACreationThatFailsLeavesNothing) {
  World world;
  world.Run(CreateFails);
}

// RO2: nobody knows which store.meta a restart will find.
Task<void> LoseTheStoreFile(World* t) {
  co_await FillTwo(t);
  DiskFault fault;
  fault.kind = IoOp::Kind::kRename;
  fault.path_contains = "store.meta";
  fault.error_number = EIO;
  t->machine_->AddFault(fault);
  Result<PartitionInfo> dropped = co_await t->store_->roster().Drop(kVictim);
  EXPECT_EQ(dropped.code(), Code::kUnavailable);
  EXPECT_THAT(dropped.status().message(), HasSubstr("cannot be changed until the next start"));
  EXPECT_EQ((co_await t->store_->roster().Drop(2)).code(), Code::kUnavailable);
  EXPECT_EQ((co_await t->store_->Create(2)).code(), Code::kUnavailable);
  co_await t->ExpectHolds(kVictim, 50);
}
Task<void> ExpectAllOrNothing(World* t) {
  if (t->store_->partition(kVictim) != nullptr) {
    co_await t->ExpectHolds(kVictim, 50);
  } else {
    t->ExpectGone(kVictim);
  }
}
TEST(DynamicPartitions, AStoreFileThatCannotBeReplacedStopsChanges) {
  World world;
  world.Run(LoseTheStoreFile);
  world.Run(ExpectAllOrNothing);
}

// -- watchers

Task<void> WatchOverADrop(World* t) {
  co_await FillTwo(t);
  t->version_ = t->store_->partition(kVictim)->newest_change();
  const uint64_t count = t->store_->engine_of(0).change_count().load();
  EXPECT_OK(co_await t->store_->Drop(kVictim));
  EXPECT_GT(t->store_->engine_of(0).change_count().load(), count) << "watchers must look";
  EXPECT_OK((co_await t->store_->Create(kVictim)).status());
}
// Who watched the partition that had this ID before has missed that everything is gone.
Task<void> ExpectFeedGone(World* t) {
  Partition* p = t->store_->partition(kVictim);
  EXPECT_GT(p->newest_change(), t->version_);
  Result<ChangePage> page = co_await p->Changes(t->version_, "", 10, 1000);
  EXPECT_TRUE(page.ok() && page->gone);
  const Version now = p->newest_change();
  co_await t->Fill(kVictim, 3);
  page = co_await p->Changes(now, "", 10, 10'000);
  EXPECT_TRUE(page.ok() && !page->gone && page->changes.size() == 3);
}
Task<void> WatchAll(World* t) {
  co_await WatchOverADrop(t);
  co_await ExpectFeedGone(t);
}
TEST(DynamicPartitions, WatchersLearnThatOneIsNew) {
  World world;
  world.Run(WatchAll);
  World restarted;
  restarted.Run(WatchOverADrop);
  restarted.Run(ExpectFeedGone);
}

// A node of a cluster begins with nothing, and holds replicas that share the UUID of their partition.
constexpr Uuid kShared{7, 8};

TEST(DynamicPartitions, OfSeveralReplicasInAStoreThatBeginsEmpty) {
  World world;
  world.setup_.store.empty = true;
  static const std::string replica_file = "/data/partition-00001/replica";
  world.Run([](World* t) -> Task<void> {
    EXPECT_EQ(t->store_->store().ranges, kRanges);
    EXPECT_TRUE(t->store_->store().partitions.empty());
    EXPECT_TRUE(t->store_->engine_of(1).partitions().empty());
    EXPECT_EQ((co_await t->store_->CreateReplica(1, Uuid())).code(), Code::kInvalidArgument);
    Result<Partition*> created = co_await t->store_->CreateReplica(1, kShared);
    EXPECT_OK(created.status());
    EXPECT_EQ((*created)->uuid(), kShared);
    EXPECT_EQ((co_await t->store_->CreateReplica(1, kShared)).code(), Code::kAlreadyExists);
    EXPECT_EQ((co_await t->store_->CreateReplica(2, kShared)).code(), Code::kAlreadyExists);
    co_await t->Fill(1, 20);
  });
  for (const bool again : {false, true}) {
    // The file of the replica is a part of the partition, and goes with it.
    world.machine_->disk().WriteAll(replica_file, "promised");
    world.machine_->disk().WriteAll(replica_file + ".new", "half of one");
    world.Run([](World* t) -> Task<void> {
      co_await t->ExpectHolds(1, 20);
      EXPECT_OK(co_await t->store_->Drop(1));
      // What the log holds of the one before is not of this one.
      EXPECT_OK((co_await t->store_->CreateReplica(1, kShared)).status());
      co_await t->ExpectHolds(1, 0);
      co_await t->Fill(1, 20);
    });
    EXPECT_FALSE(world.machine_->disk().Exists(replica_file)) << again;
    EXPECT_FALSE(world.machine_->disk().Exists(replica_file + ".new")) << again;
  }
}

}  // namespace
}  // namespace pando::engine_test
