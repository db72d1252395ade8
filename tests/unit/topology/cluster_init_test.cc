// The creation of a cluster: what it writes, that it continues, and what it refuses.
#include "src/topology/cluster_init.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "src/topology/node_identity.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"
#include "tests/support/sim_topology.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Nanos kTimeout = 5 * kSecond;

ClusterPlan Plan() {
  ClusterPlan plan;
  plan.nodes = *ParseNodes("3@c,1@a,2@b,4@a");
  plan.partitions = 8;
  plan.replicas = 3;
  plan.min_isr = 2;
  return plan;
}

// A machine, and clients of one topology that is empty.
class Place {
 public:
  explicit Place(uint64_t seed) : kernel_(seed), machine_(kernel_.AddMachine()), seed_(seed) { machine_->Boot(); }
  Reactor& reactor() { return *machine_->reactor(); }
  std::unique_ptr<Topology> Client(SimTopologyFaults faults = {}) {
    return std::make_unique<Topology>(reactor(), std::make_unique<SimTopology>(reactor(), &server, faults));
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  std::function<Uuid()> Uuids() {
    return [this] { return Uuid{seed_, ++uuids_}; };
  }
  ClusterMap Map() {
    ClusterMap map;
    for (const auto& [key, entry] : server.entries()) EXPECT_OK(map.Apply(entry));
    return map;
  }
  SimTopologyServer server;

 private:
  SimKernel kernel_;
  SimMachine* machine_;
  const uint64_t seed_;
  uint64_t uuids_ = 0;
};

// CI1: all of what the plan says, and nothing twice.
void ExpectWhole(Place& place, const ClusterPlan& plan) {
  const ClusterMap map = place.Map();
  EXPECT_THAT(map.Problems(), ElementsAre());
  EXPECT_EQ(map.nodes.size(), plan.nodes.size());
  EXPECT_EQ(map.partitions.size(), plan.partitions);
  EXPECT_EQ(place.server.entries().size(), 1 + plan.nodes.size() + plan.partitions);
  std::set<Uuid> replicas;
  std::map<NodeId, int> masters;
  for (const PlacementNode& node : plan.nodes) {
    const NodeRecord& record = map.nodes.at(node.id).record;
    EXPECT_EQ(record.zone, node.zone);
    EXPECT_EQ(record.starts, 0u);
    EXPECT_THAT(record.peer_addresses, ElementsAre());
  }
  for (const auto& [id, partition] : map.partitions) {
    const PartitionRecord& r = partition.record;
    EXPECT_EQ(r.isr.size(), plan.replicas);
    EXPECT_EQ(r.replicas, plan.replicas);
    EXPECT_EQ(r.min_isr, plan.min_isr);
    EXPECT_EQ(r.epoch, 1u);
    EXPECT_EQ(r.lineage, 1u);
    EXPECT_EQ(r.master, r.isr.front().replica);
    ++masters[r.isr.front().node];
    std::set<std::string> zones;
    for (const ReplicaRecord& replica : r.isr) {
      EXPECT_TRUE(replicas.insert(replica.replica).second);
      zones.insert(map.nodes.at(replica.node).record.zone);
    }
    EXPECT_EQ(zones.size(), 3u);
  }
  for (const auto& [node, count] : masters) EXPECT_EQ(count, 2) << node;
}

TEST(ClusterInit, WritesAll) {
  Place place(1);
  auto topology = place.Client();
  Result<CreatedCluster> created = place.Run(CreateCluster(*topology, Plan(), place.Uuids(), kTimeout));
  ASSERT_TRUE(created.ok()) << created.status().ToString();
  EXPECT_FALSE(created->continued);
  EXPECT_EQ(created->written, 1u + 4 + 8 + 1);
  EXPECT_EQ(place.Map().cluster->record.cluster_id, created->cluster_id);
  ExpectWhole(place, Plan());
  // The record of the cluster is the first, and its last change comes last.
  EXPECT_EQ(place.server.history().front().key, "cluster");
  EXPECT_EQ(place.server.history().back().key, "cluster");
  EXPECT_EQ(DecodeCluster(place.server.history().front())->creating, "1@a,2@b,3@c,4@a");
  const auto before = place.server.entries();
  Result<CreatedCluster> again = place.Run(CreateCluster(*topology, Plan(), place.Uuids(), kTimeout));
  EXPECT_EQ(again.code(), Code::kAlreadyExists);
  EXPECT_THAT(again.status().message(), HasSubstr("exists already, with 4 nodes and 8 partitions"));
  EXPECT_EQ(place.server.entries(), before);
  EXPECT_OK(place.Run(topology->Close()));
}

// Stops the first `n` writes from being followed by more: the store is gone.
TEST(ClusterInit, ContinuesAfterEachWrite) {
  for (size_t n = 1; n <= 13; ++n) {
    SCOPED_TRACE(n);
    Place whole(1);
    auto first = whole.Client();
    ASSERT_TRUE(whole.Run(CreateCluster(*first, Plan(), whole.Uuids(), kTimeout)).ok());
    EXPECT_OK(whole.Run(first->Close()));
    // What the first n writes leave.
    Place place(2);
    auto topology = place.Client();
    for (size_t i = 0; i < n; ++i) {
      const TopologyEntry& entry = whole.server.history()[i];
      EXPECT_EQ(place.Run(topology->CompareAndSwap(entry.key, 0, entry.value, kTimeout))->kind,
                CasOutcome::Kind::kStored);
    }
    const auto before = place.server.entries();
    // No node starts.
    Result<JoinedStart> joined = place.Run(BeginStart(*topology, place.reactor(), "/data", 1, kSecond));
    EXPECT_EQ(joined.code(), Code::kUnavailable) << joined.status().ToString();
    // Another plan is refused, and changes nothing.
    for (const int change : {0, 1, 2, 3}) {
      ClusterPlan other = Plan();
      if (change == 0) other.nodes.pop_back();
      if (change == 1) other.nodes[0].zone = "d";
      if (change == 2) other.partitions = 16;
      if (change == 3) other.min_isr = 3;
      Result<CreatedCluster> refused = place.Run(CreateCluster(*topology, other, place.Uuids(), kTimeout));
      EXPECT_EQ(refused.code(), Code::kAlreadyExists);
      EXPECT_THAT(refused.status().message(),
                  HasSubstr("is being created with --nodes=1@a,2@b,3@c,4@a --partitions=8 --replicas=3 --min-isr=2"));
      EXPECT_EQ(place.server.entries(), before);
    }
    Result<std::optional<Uuid>> found = place.Run(FindCreation(*topology, Plan(), kTimeout));
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(*found, whole.Map().cluster->record.cluster_id);
    Result<CreatedCluster> created = place.Run(CreateCluster(*topology, Plan(), place.Uuids(), kTimeout));
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    EXPECT_TRUE(created->continued);
    EXPECT_EQ(created->cluster_id, whole.Map().cluster->record.cluster_id);
    EXPECT_EQ(created->written, 14 - n);
    ExpectWhole(place, Plan());
    for (const auto& [key, entry] : before) {  // CI2
      if (key == "cluster") continue;
      EXPECT_EQ(place.server.entries().at(key), entry);
    }
    EXPECT_OK(place.Run(topology->Close()));
  }
}

TEST(ClusterInit, RefusesWhatIsInTheWay) {
  Place place(3);
  auto topology = place.Client();
  ASSERT_TRUE(place.Run(topology->CompareAndSwap("future/1", 0, "x", kTimeout)).ok());
  Result<CreatedCluster> created = place.Run(CreateCluster(*topology, Plan(), place.Uuids(), kTimeout));
  EXPECT_EQ(created.code(), Code::kAlreadyExists);
  EXPECT_THAT(created.status().message(), HasSubstr("it holds future/1, but no cluster"));
  EXPECT_EQ(place.server.entries().size(), 1u);
  EXPECT_OK(place.Run(topology->Close()));
}

Task<void> CreateInto(Topology* topology, std::function<Uuid()> uuids, Result<CreatedCluster>* created) {
  *created = co_await CreateCluster(*topology, Plan(), std::move(uuids), 60 * kSecond);
}
Task<void> CreateTwice(Topology* a, Topology* b, Place* place, Result<CreatedCluster>* first,
                       Result<CreatedCluster>* second) {
  Together together;
  together.Add(CreateInto(a, place->Uuids(), first));
  together.Add(CreateInto(b, place->Uuids(), second));
  co_await together.Wait();
}

// Two operators at the same time, and a topology with every fault.
TEST(ClusterInit, TwoAtOnce) {
  int both = 0;
  for (const uint64_t seed : Seeds(60)) {
    SCOPED_TRACE(Replay(seed));
    Place place(seed);
    SimTopologyFaults faults;
    faults.unknown_probability = seed % 3 == 0 ? 0 : 0.2;
    auto a = place.Client(faults), b = place.Client(faults);
    Result<CreatedCluster> first = Error(Code::kAborted, ""), second = Error(Code::kAborted, "");
    place.Run(CreateTwice(a.get(), b.get(), &place, &first, &second));
    EXPECT_TRUE(first.ok() || second.ok()) << first.status().ToString() << second.status().ToString();
    for (const auto* created : {&first, &second}) {
      EXPECT_TRUE(created->ok() || created->code() == Code::kAlreadyExists) << created->status().ToString();
    }
    if (first.ok() && second.ok()) {
      EXPECT_EQ(first->cluster_id, second->cluster_id);
      ++both;
    }
    ExpectWhole(place, Plan());
    EXPECT_OK(place.Run(a->Close()));
    EXPECT_OK(place.Run(b->Close()));
  }
  EXPECT_GT(both, 10);
}

TEST(ClusterInit, ReadsNodes) {
  EXPECT_EQ(NodesText(*ParseNodes("10,2@b,1@Rack-7_x.y")), "1@Rack-7_x.y,2@b,10");
  EXPECT_EQ(NodesText(*ParseNodes("2:3,1@a:64,3@b:1")), "1@a:64,2:3,3@b");
  for (const char* bad : {"1:", "1@a:", "1:0", "1:x", "1:2@a", "1@a:2:3", ":2"}) {
    EXPECT_EQ(ParseNodes(bad).code(), Code::kInvalidArgument) << bad;
  }
  for (const char* bad : {"", ",", "1,", "0", "-1", "1@", "1@a b", "1@a@b", "x", "1 ,2", "4294967296", "1@\xc3\xa9"}) {
    EXPECT_EQ(ParseNodes(bad).code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_EQ(ParseNodes("1@" + std::string(65, 'z')).code(), Code::kInvalidArgument);
}

TEST(ClusterInit, ChecksPlans) {
  EXPECT_TRUE(CheckPlan(Plan()).ok());
  ClusterPlan plan = Plan();
  plan.partitions = 9;
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("must be a power of two"));
  plan = Plan();
  plan.min_isr = 4;
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("min_isr is 4"));
  plan = Plan();
  plan.nodes.resize(2);
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("need as many nodes"));
  plan = Plan();
  plan.nodes[0].id = 1;
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("node 1 is named twice"));
  plan.nodes.resize(2);  // and so there are too few
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("node 1 is named twice"));
  plan = Plan();
  plan.partitions = 32768;
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("more than the 20480 records"));
  plan = Plan();
  PlacementNode node;
  node.zone = std::string(60, 'z');
  for (node.id = 5; node.id < 1000; ++node.id) plan.nodes.push_back(node);
  EXPECT_THAT(CheckPlan(plan).status().message(), HasSubstr("the topology takes at most"));
}

}  // namespace
}  // namespace pando::topology_test
