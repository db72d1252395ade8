// Crash test of the start of a node in its cluster (src/topology/node_identity.h). The machine, with the
// topology in a directory of it, stops at each disk operation, by power loss or by the death of the
// process. In between, somebody puts back an old copy of the data directory, or empties it.
//
//   - A crash alone never looks like an old copy, and never like a topology that has gone back.
//   - Whatever a replica has served is in its directory whenever it serves again under the same UUID (I9).
//   - No incarnation is given to two starts, and the counters never fall (NI3, NS1).
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "src/topology/file_topology.h"
#include "src/topology/node_identity.h"
#include "tests/support/child_process.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

constexpr Nanos kTimeout = 60 * kSecond;
constexpr char kReplicaPath[] = "/data/replica";
constexpr uint64_t kLives = 6;

// What the world has learned of the node, over all its lives.
struct Known {
  std::map<uint64_t, uint64_t> served;  // by the UUID of a replica: the last of its writes that was acknowledged
  std::set<uint64_t> incarnations;
  uint64_t uuids = 0;     // given so far
  bool put_back = false;  // since the replicas had new UUIDs
  uint64_t restored = 0, finished = 0;
};

// A replica's state: its UUID, and its last write.
struct Replica {
  uint64_t uuid = 0, write = 0;
};

Task<void> ExpectStopped(Reactor* reactor, Status status) {
  co_await Sleep(*reactor, 3600 * kSecond);
  LOG(FATAL) << "an error without a crash: " << status.ToString();
}

Task<Status> WriteReplica(Reactor* reactor, Replica replica) {
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(*reactor, "/data"));
  const std::string text = fmt::format("{} {}", replica.uuid, replica.write);
  Result<File> file = co_await directory.OpenFile("replica.tmp", File::Mode::kCreate, false);
  Status status;
  if (file.ok()) {
    status = co_await file->Truncate(0);
    if (status.ok()) status = co_await file->Write(text.data(), text.size(), 0);
    if (status.ok()) status = co_await file->Sync(false);
    Status closed = co_await file->Close();
    if (status.ok()) status = std::move(closed);
    if (status.ok()) status = co_await directory.Rename("replica.tmp", "replica");
    if (status.ok()) status = co_await directory.Sync();
  } else {
    status = file.TakeStatus();
  }
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

Replica ReadReplica(const SimDisk& disk) {
  Replica replica;
  const std::string text = disk.ReadAll(kReplicaPath);
  if (!text.empty()) CHECK_EQ(sscanf(text.c_str(), "%lu %lu", &replica.uuid, &replica.write), 2) << text;
  return replica;
}

// Starts the node, and serves a few writes.
Task<Status> Live(Reactor* reactor, SimDisk* disk, Known* known, Topology* topology) {
  Result<JoinedStart> joined = co_await BeginStart(*topology, *reactor, "/data", 1, kTimeout);
  if (!joined.ok()) co_return joined.TakeStatus();
  EXPECT_TRUE(known->incarnations.insert(joined->incarnation).second) << joined->incarnation << " was given twice";
  Replica replica = ReadReplica(*disk);
  const bool restored = joined->history == DirectoryHistory::kRestored;
  if (restored) {
    EXPECT_TRUE(known->put_back) << "a crash looks like an old copy";
    ++known->restored;
  }
  if (restored || replica.uuid == 0) {
    replica = {++known->uuids, 0};
    CO_RETURN_IF_ERROR(co_await WriteReplica(reactor, replica));
  }
  if (restored) {
    NodeIdentity renewed = joined->identity;
    renewed.renew = false;
    CO_RETURN_IF_ERROR(co_await StoreIdentity(*reactor, "/data", renewed));
    known->put_back = false;
  }
  std::vector<std::string> peers = {"10.0.0.1:7430"};
  CO_RETURN_IF_ERROR(
      co_await FinishStart(*topology, 1, joined->incarnation, "10.0.0.1:7420", std::move(peers), kTimeout));
  ++known->finished;
  EXPECT_GE(replica.write, known->served[replica.uuid]) << "replica " << replica.uuid << " has lost what it served";
  for (int i = 0; i < 3; ++i) {
    ++replica.write;
    CO_RETURN_IF_ERROR(co_await WriteReplica(reactor, replica));
    known->served[replica.uuid] = replica.write;
  }
  co_return Status();
}

Task<int> LiveOnce(Reactor* reactor, SimDisk* disk, Known* known) {
  Result<std::unique_ptr<TopologyStore>> opened = co_await FileTopology::Open(*reactor, "/topology");
  if (!opened.ok()) co_await ExpectStopped(reactor, opened.status());
  Topology topology(*reactor, *std::move(opened));
  Status lived = co_await Live(reactor, disk, known, &topology);
  if (!lived.ok()) co_await ExpectStopped(reactor, std::move(lived));
  if (Status closed = co_await topology.Close(); !closed.ok()) co_await ExpectStopped(reactor, std::move(closed));
  co_return 0;
}

Task<int> CreateCluster(Reactor* reactor) {
  Result<std::unique_ptr<TopologyStore>> store = co_await FileTopology::Open(*reactor, "/topology");
  CHECK(store.ok()) << store.status().ToString();
  ClusterRecord cluster;
  cluster.cluster_id = {1, 2};
  cluster.partitions = cluster.replicas = cluster.min_isr = 1;
  NodeRecord node;
  node.id = 1;
  const std::pair<std::string, std::string> values[] = {{"cluster", *Encode(cluster)}, {"node/1", *Encode(node)}};
  for (const auto& [key, value] : values) {
    Result<CasOutcome> outcome = co_await (*store)->CompareAndSwap(key, 0, value, reactor->NowNs() + kTimeout);
    CHECK(outcome.ok() && outcome->kind == CasOutcome::Kind::kStored);
  }
  CHECK((co_await (*store)->Close()).ok());
  co_return 0;
}

using Image = std::map<std::string, std::string>;
Image ImageOf(const SimDisk& disk) {
  Image image;
  for (const std::string& path : disk.AllFiles()) {
    if (path.starts_with("/data/")) image[path] = disk.ReadAll(path);
  }
  return image;
}

// `op`: that of the second life at which it crashes.
Known CrashAt(uint64_t op, uint64_t seed) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  machine->disk().WriteAll("/topology/.keep", "");
  SimRandom random(seed);
  Known known;
  SimReactor* first = machine->Boot();
  CHECK(kernel.RunTask(*first, CreateCluster(first)));
  machine->ProcessCrash(seed);
  std::vector<Image> kept = {{}};
  for (uint64_t life = 0; life < kLives; ++life) {
    const bool last = life + 1 == kLives;
    machine->CrashAtDiskOp(last ? 0 : machine->disk_ops() + (life == 1 ? op : 1 + random.Below(200)));
    SimReactor* reactor = machine->Boot();
    (void)kernel.RunTask(*reactor, LiveOnce(reactor, &machine->disk(), &known));
    if (random.Chance(0.7)) {
      machine->PowerLoss(seed + life);
    } else {
      machine->ProcessCrash(seed + life);
    }
    if (random.Chance(0.5)) kept.push_back(ImageOf(machine->disk()));
    if (!random.Chance(0.4)) continue;
    machine->disk().RemoveTree("/data");
    for (const auto& [path, contents] : kept[random.Below(kept.size())]) machine->disk().WriteAll(path, contents);
    known.put_back = true;
  }
  EXPECT_GT(known.finished, 0u) << "the last life has no crash";
  return known;
}

TEST(NodeStartCrash, AtEachDiskOperation) {
  constexpr uint64_t kCases = 1500;
  const std::string failure = InBatches(kCases, 100, 2, [](uint64_t first, uint64_t last) {
    bool ok = true;
    uint64_t restored = 0;
    for (uint64_t i = first; i < last && ok; ++i) {
      restored += CrashAt(1 + i % 150, i + 1).restored;
      ok = !testing::Test::HasFailure();
      if (!ok) fprintf(stderr, "case %lu\n", i);
    }
    return ok && restored > 50;
  });
  EXPECT_EQ(failure, "");
}

}  // namespace
}  // namespace pando
