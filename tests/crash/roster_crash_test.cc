// Crash test of partitions that come and go: stops a node at each disk operation of drops, creations and
// installations, by power loss, and starts it again. Each partition is wholly there, with all that was acknowledged, or
// wholly gone (RO1).
#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "src/buffer_pool/buffer_pool.h"
#include "src/replication/replica_file.h"
#include "tests/support/roster_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

constexpr uint32_t kPartitions = 4;
// This one is not created empty but installed, always from the same snapshot, whose records look as if they
// were written in this life.
constexpr uint32_t kInstalled = 2;
constexpr int kSentLife = 1000, kSent = 40;

// What is known about the partition with one ID, over all processes.
struct Known {
  enum class State : uint8_t { kHere, kGone, kDropping, kCreating };
  State state = State::kHere;
  int life = 0;   // how often it was created
  int acked = 0;  // records
  bool MayBeGone() const { return state != State::kHere; }
  bool MayBeHere() const { return state != State::kGone; }
};
using World = std::array<Known, kPartitions>;

std::string KeyOf(int i) { return KeyIn(kPartitions, kInstalled, fmt::format("key-{:03}", i)); }
std::string ValueOf(uint32_t id, int life, int i) {
  return fmt::format("{}-{}-{}-{}", id, life, i, std::string(i % 5 == 0 ? 3000 : 100, 'x'));
}
std::string DataPath(uint32_t id) { return fmt::format("/data/partition-{:05}/data", id); }
std::string ReplicaPath(uint32_t id) { return fmt::format("/data/partition-{:05}/{}", id, kReplicaFileName); }

// What the replica file of the installed partition says, each time.
const replication::ReplicaState kReplica{Uuid{7, 8}, 9, 1, true};

replication::ReplicaFile::Place ReplicaPlace(const Directory* directory, const Uuid& partition) {
  return {directory, StoreInfo::PartitionName(kInstalled) + "/" + kReplicaFileName, partition};
}

Task<Status> MakeReplicaFile(replication::ReplicaFile::Place place) {
  CO_ASSIGN_OR_RETURN(auto file, co_await replication::ReplicaFile::Create(std::move(place), kReplica));
  co_return co_await file->Close();
}

// IS2: a partition that is there has the replica file that it was installed with.
Task<Status> CompareReplica(Reactor* reactor, Uuid partition) {
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(*reactor, "/data"));
  auto file = co_await replication::ReplicaFile::Open(ReplicaPlace(&directory, partition));
  EXPECT_OK(file.status());
  Status closed;
  if (file.ok()) {
    EXPECT_EQ((*file)->state(), kReplica);
    closed = co_await (*file)->Close();
  }
  Status directory_closed = co_await directory.Close();
  co_return closed.ok() ? std::move(directory_closed) : std::move(closed);
}

Setup SetupOf(uint32_t reactors) {
  Setup s;
  s.store.partitions = kPartitions;
  s.store.reactors = reactors;
  s.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 4;
  s.engine.log_segment_bytes = 64u << 10;
  s.engine.log_budget_bytes = 320u << 10;
  return s;
}

Task<void> Append(OpenedStore* store, Known* known, uint32_t id, int records) {
  for (int i = 0; i < records; ++i) {
    Partition* p = store->partition(id);
    Status status = co_await Put(p, KeyOf(known->acked), ValueOf(id, known->life, known->acked));
    EXPECT_OK(status);
    if (status.ok()) ++known->acked;
  }
}

Task<void> Drop(OpenedStore* store, Known* known, uint32_t id) {
  known->state = Known::State::kDropping;
  EXPECT_OK(co_await store->Drop(id));
  known->state = Known::State::kGone;
}

Task<void> Create(OpenedStore* store, Known* known, uint32_t id) {
  known->state = Known::State::kCreating;
  ++known->life;
  known->acked = 0;
  Result<Partition*> created = co_await store->Create(id);
  EXPECT_OK(created.status());
  known->state = Known::State::kHere;
}

Task<void> Install(OpenedStore* store, Known* known, const ReadSnapshot* snapshot) {
  known->state = Known::State::kCreating;
  known->life = kSentLife;
  known->acked = kSent;
  SentPages pages(snapshot);
  store->beside = [](const PartitionFileOptions& options) {
    return MakeReplicaFile(ReplicaPlace(options.store, options.partition));
  };
  Result<Partition*> installed = co_await store->Install(kInstalled, snapshot->root, &pages);
  EXPECT_OK(installed.status());
  known->state = Known::State::kHere;
}

// The partition that is sent, on a machine of its own.
Task<void> MakeSnapshot(SimReactor* reactor, ReadSnapshot* snapshot) {
  OpenedStore store;
  EXPECT_OK(co_await OpenedStore::Open(reactor, SetupOf(1), &store));
  Partition* p = store.partition(kInstalled);
  for (int i = 0; i < kSent; ++i) EXPECT_OK(co_await Put(p, KeyOf(i), ValueOf(kInstalled, kSentLife, i)));
  auto read = co_await ReadSnapshotOf(reactor, p, 16'000);
  EXPECT_OK(read.status());
  *snapshot = *std::move(read);
  EXPECT_OK(co_await store.Close(false));
}

// Compares the store with what is known, and settles what was open.
Task<void> Compare(SimMachine* machine, OpenedStore* store, World* world) {
  for (uint32_t id = 0; id < kPartitions; ++id) {
    Known& known = (*world)[id];
    Partition* p = store->partition(id);
    EXPECT_EQ(p != nullptr, store->store().Find(id) != nullptr) << id;
    if (p == nullptr) {
      EXPECT_TRUE(known.MayBeGone()) << "partition " << id << " is lost";
      EXPECT_FALSE(machine->disk().Exists(DataPath(id))) << "a leftover of partition " << id;
      EXPECT_FALSE(machine->disk().Exists(ReplicaPath(id))) << "a leftover of partition " << id;
      known.state = Known::State::kGone;
      continue;
    }
    EXPECT_TRUE(known.MayBeHere()) << "partition " << id << " has come back";
    known.state = Known::State::kHere;
    if (id == kInstalled && known.life == kSentLife) {
      EXPECT_OK(co_await CompareReplica(&store->engine_of(id).reactor(), p->uuid()));
    }
    Result<RangeAggregates> all = co_await p->Aggregate("", "", kNewest);
    EXPECT_OK(all.status());
    // One more may have been written, and not acknowledged.
    EXPECT_TRUE(all.ok() && all->count >= static_cast<uint64_t>(known.acked) &&
                all->count <= static_cast<uint64_t>(known.acked + 1))
        << "partition " << id << " has " << all->count << " records of " << known.acked;
    for (int i = 0; i < known.acked; ++i) {
      Result<ReadResult> read = co_await p->Get(KeyOf(i), kNewest, nullptr);
      EXPECT_TRUE(read.ok() && read->found && read->value == ValueOf(id, known.life, i)) << id << " " << i;
    }
  }
}

Task<void> Prepare(SimReactor* reactor, uint32_t reactors, World* world) {
  OpenedStore store;
  EXPECT_OK(co_await OpenedStore::Open(reactor, SetupOf(reactors), &store));
  for (uint32_t id = 0; id < kPartitions; ++id) co_await Append(&store, &(*world)[id], id, 12);
  EXPECT_OK(co_await store.engine_of(0).CheckpointAll());
  for (uint32_t id = 0; id < kPartitions; ++id) co_await Append(&store, &(*world)[id], id, 6);
  EXPECT_OK(co_await store.Close(/*checkpoint=*/false));
}

// Turns each partition but the first into what it is not, twice.
Task<void> ComeAndGo(SimMachine* machine, SimReactor* reactor, uint32_t reactors, World* world,
                     const ReadSnapshot* snapshot) {
  OpenedStore store;
  EXPECT_OK(co_await OpenedStore::Open(reactor, SetupOf(reactors), &store));
  co_await Compare(machine, &store, world);
  for (int round = 0; round < 2; ++round) {
    for (uint32_t id = 1; id < kPartitions; ++id) {
      Known* known = &(*world)[id];
      if (known->state == Known::State::kHere) {
        co_await Drop(&store, known, id);
      } else {
        if (id == kInstalled) {
          co_await Install(&store, known, snapshot);
        } else {
          co_await Create(&store, known, id);
        }
        co_await Append(&store, known, id, 3);
      }
      co_await Append(&store, &(*world)[0], 0, 1);
    }
    EXPECT_OK(co_await store.engine_of(1).CheckpointAll());
  }
  EXPECT_OK(co_await store.Close(/*checkpoint=*/false));
}

// Returns false once the run needs fewer than `op` operations.
bool RunCase(uint64_t op, uint32_t reactors) {
  SimKernel kernel(op, SharedReactor());
  SimMachine* machine = kernel.AddMachine();
  World world;
  SimMachine* sender = kernel.AddMachine("10.0.0.2");
  SimReactor* reactor = sender->Boot();
  ReadSnapshot snapshot;
  EXPECT_TRUE(kernel.RunTask(*reactor, MakeSnapshot(reactor, &snapshot)));
  sender->PowerLoss(op);
  reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, Prepare(reactor, reactors, &world)));
  machine->PowerLoss(op);
  // Twice, so that what a crash has left meets another crash.
  bool over = false;
  SimRandom random(op);
  for (uint64_t crash_at : {op, 1 + random.Below(op + 40)}) {
    reactor = machine->Boot();
    machine->CrashAtDiskOp(machine->disk_ops() + crash_at);
    const bool ended = kernel.RunTask(*reactor, ComeAndGo(machine, reactor, reactors, &world, &snapshot)).has_value();
    machine->CrashAtDiskOp(0);
    machine->PowerLoss(op + crash_at);
    if (crash_at == op) over = ended;
  }
  for (int start = 0; start < 2; ++start) {
    reactor = machine->Boot();
    EXPECT_TRUE(kernel.RunTask(*reactor, ComeAndGo(machine, reactor, reactors, &world, &snapshot)));
    machine->PowerLoss(op + 3);
    reactor = machine->Boot();
    std::optional<std::string> problem = kernel.RunTask(*reactor, Audit(*reactor, "/data"));
    EXPECT_EQ(*problem, "");
    machine->PowerLoss(op + 4);
  }
  return !over;
}

void RunAll(uint32_t reactors) {
  FLAGS_minloglevel = 2;
  uint64_t first = 1, last = UINT64_MAX;
  if (const char* only = std::getenv("PANDO_TEST_CRASH_OP")) first = last = std::strtoull(only, nullptr, 10);
  for (uint64_t op = first; op <= last; ++op) {
    SCOPED_TRACE(fmt::format("replay: PANDO_TEST_CRASH_OP={} bin/crash_roster_crash", op));
    if (!RunCase(op, reactors) || testing::Test::HasFailure()) return;
  }
}

TEST(RosterCrash, PartitionsAreThereOrGone) { RunAll(1); }
TEST(RosterCrash, PartitionsOfTwoReactorsAreThereOrGone) { RunAll(2); }

}  // namespace
}  // namespace pando::engine_test
