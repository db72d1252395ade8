// What a lost topology is rebuilt from: single cases, the histories of random partitions, and what is written.
#include "src/topology/recovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"
#include "tests/support/sim_topology.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr Uuid kCluster{7, 7};

Uuid ReplicaOf(NodeId node, uint32_t partition) { return {node, 100 + partition}; }

// Three stopped nodes with all partitions, and all equal.
struct World {
  RecoveryInput input;
  uint64_t uuids = 0;

  explicit World(uint32_t partitions = 2) {
    input.replicas = 3;
    input.min_isr = 2;
    for (NodeId node = 1; node <= 3; ++node) {
      input.nodes.push_back({node, fmt::format("zone-{}", node), 1});
      NodeReport report;
      report.data_dir = fmt::format("/node-{}", node);
      report.cluster_id = kCluster;
      report.node = node;
      report.start = 10 + node;
      report.epoch = 5;
      report.partitions = partitions;
      for (uint32_t p = 0; p < partitions; ++p) {
        report.replicas.push_back({p, ReplicaOf(node, p), 4, 1, true, 4, 100, 99, ""});
      }
      input.reports.push_back(std::move(report));
    }
  }
  ReplicaReport& Of(NodeId node, uint32_t partition = 0) { return input.reports[node - 1].replicas[partition]; }
  Result<RecoveryPlan> Plan() {
    return PlanRecovery(input, [this] { return Uuid{9, ++uuids}; });
  }
  // The plan for partition 0. Nothing is missing.
  PartitionRecord Planned() {
    Result<RecoveryPlan> plan = Plan();
    EXPECT_TRUE(plan.ok()) << plan.status().ToString();
    if (!plan.ok()) return {};
    EXPECT_THAT(plan->missing, IsEmpty());
    return plan->partitions[0];
  }
  std::string Refused(Code code) {
    Result<RecoveryPlan> plan = Plan();
    EXPECT_EQ(plan.code(), code);
    EXPECT_THAT(plan.status().message(), HasSubstr("Nothing was written"));
    return plan.status().message();
  }
};

std::vector<NodeId> NodesOf(const std::vector<ReplicaRecord>& replicas) {
  std::vector<NodeId> nodes;
  for (const ReplicaRecord& replica : replicas) nodes.push_back(replica.node);
  return nodes;
}

TEST(Recovery, AllThatAreEqualAreInSync) {
  World world;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(plan->cluster.cluster_id, kCluster);
  EXPECT_EQ(plan->cluster.partitions, 2u);
  EXPECT_EQ(plan->cluster.creating, "");
  ASSERT_EQ(plan->nodes.size(), 3u);
  EXPECT_EQ(plan->nodes[1].starts, 12u);
  EXPECT_EQ(plan->nodes[1].zone, "zone-2");
  ASSERT_EQ(plan->partitions.size(), 2u);
  for (uint32_t p = 0; p < 2; ++p) {
    const PartitionRecord& r = plan->partitions[p];
    EXPECT_THAT(NodesOf(r.isr), ElementsAre(1, 2, 3));
    EXPECT_EQ(r.master, ReplicaOf(1 + p, p));
    EXPECT_EQ(r.min_isr, 2u);
    EXPECT_EQ(r.lineage, 1u);
    EXPECT_EQ(r.epoch, 6u) << "above the epoch that the nodes have seen";
  }
  EXPECT_EQ(plan->partitions[1].first_hash, uint64_t{1} << 63);
}

TEST(Recovery, OnlyTheLongestLogIsInSync) {
  World world;
  world.Of(2).last_lsn = 101;
  const PartitionRecord r = world.Planned();
  EXPECT_THAT(NodesOf(r.isr), ElementsAre(2));
  EXPECT_THAT(NodesOf(r.evicted), ElementsAre(1, 3));
  EXPECT_EQ(r.min_isr, 1u);
  EXPECT_EQ(r.master, ReplicaOf(2, 0));
}

TEST(Recovery, AHigherEpochIsLongerThanAnyLsn) {
  World world;
  world.Of(1).last_lsn = 500;  // a master that was deposed
  world.Of(3).last_epoch = 5;
  EXPECT_THAT(NodesOf(world.Planned().isr), ElementsAre(3));
}

TEST(Recovery, TheEpochIsAboveEveryPromise) {
  World world;
  world.Of(2).promised = 40;
  EXPECT_EQ(world.Planned().epoch, 41u);
  world.input.old.partitions[0].record = world.Planned();
  world.input.old.partitions[0].record.epoch = 70;
  EXPECT_EQ(world.Planned().epoch, 71u);
  world.input.reports[0].epoch = 90;
  EXPECT_EQ(world.Planned().epoch, 91u);
}

TEST(Recovery, AReplicaThatIsBeingInstalledIsALearner) {
  World world;
  world.Of(1).installed = false;
  world.Of(1).last_lsn = 900;
  const PartitionRecord r = world.Planned();
  EXPECT_THAT(NodesOf(r.isr), ElementsAre(2, 3));
  EXPECT_THAT(NodesOf(r.learners), ElementsAre(1));
}

TEST(Recovery, AnOlderLineageDoesNotGoOn) {
  World world;
  world.Of(1).last_epoch = 9;
  world.Of(2).lineage = world.Of(3).lineage = 2;
  const PartitionRecord r = world.Planned();
  EXPECT_THAT(NodesOf(r.isr), ElementsAre(2, 3));
  EXPECT_EQ(r.lineage, 2u);
  EXPECT_EQ(r.epoch, 10u);
}

TEST(Recovery, NoMoreReplicasThanThereShouldBe) {
  World world;
  world.input.replicas = 2;
  world.Of(1).last_lsn = 50;  // it was moved away while its node was down
  const PartitionRecord r = world.Planned();
  EXPECT_THAT(NodesOf(r.isr), ElementsAre(2, 3));
  EXPECT_THAT(r.evicted, IsEmpty());
}

TEST(Recovery, AMissingNodeIsRefusedOrGivenUp) {
  World world;
  world.input.reports.pop_back();
  const std::string refused = world.Refused(Code::kUnavailable);
  EXPECT_THAT(refused, HasSubstr("node 3"));
  EXPECT_THAT(refused, HasSubstr("--accept-loss"));
  world.Of(1).last_lsn = 101;
  world.input.accept_loss = true;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->missing, ElementsAre(HasSubstr("node 3")));
  const PartitionRecord& r = plan->partitions[0];
  EXPECT_EQ(r.lineage, 2u);
  EXPECT_THAT(NodesOf(r.isr), ElementsAre(1));
  EXPECT_EQ(r.min_isr, 1u);
  ASSERT_THAT(NodesOf(r.learners), ElementsAre(2));
  EXPECT_NE(r.learners[0].replica, ReplicaOf(2, 0)) << "the old one takes part in nothing any more";
}

TEST(Recovery, AnOlderCopyOfADirectoryIsMissing) {
  World world;
  world.input.reports[1].renew = true;
  EXPECT_THAT(world.Refused(Code::kUnavailable), HasSubstr("/node-2 is an older copy"));
  world.input.reports[1].renew = false;
  NodeRecord& old = world.input.old.nodes[2].record;
  old.id = 2;
  old.client_address = "127.0.0.1:1";
  old.peer_addresses = {"127.0.0.1:2"};
  old.starts = old.opened = 12;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(plan->nodes[1].opened, 12u);
  EXPECT_EQ(plan->nodes[1].client_address, "127.0.0.1:1");
  old.starts = old.opened = 13;
  EXPECT_THAT(world.Refused(Code::kUnavailable), HasSubstr("/node-2 is an older copy"));
}

TEST(Recovery, ADamagedReplicaConcernsItsPartition) {
  World world;
  world.Of(2, 1).problem = "its log is damaged";
  const std::string refused = world.Refused(Code::kUnavailable);
  EXPECT_THAT(refused, HasSubstr("partition 1 on node 2: its log is damaged"));
  EXPECT_THAT(refused, Not(HasSubstr("partition 0")));
  world.input.accept_loss = true;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->partitions[0].lineage, 1u);
  EXPECT_EQ(plan->partitions[0].isr.size(), 3u);
  EXPECT_EQ(plan->partitions[1].lineage, 2u);
  EXPECT_EQ(plan->partitions[1].isr.size(), 1u);
}

TEST(Recovery, APartitionWithoutASoundReplicaIsRefused) {
  World world;
  world.input.accept_loss = true;
  for (NodeId node = 1; node <= 3; ++node) world.Of(node, 1).problem = "its file is damaged";
  EXPECT_THAT(world.Refused(Code::kCorruption), HasSubstr("partition 1"));
}

TEST(Recovery, ALineageThatNobodyHasIsMissing) {
  World world;
  PartitionRecord old = world.Planned();
  old.lineage = 3;
  world.input.old.partitions[0].record = old;
  EXPECT_THAT(world.Refused(Code::kUnavailable), HasSubstr("lineage 3"));
  world.input.accept_loss = true;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->partitions[0].lineage, 4u);
}

TEST(Recovery, ContradictionsAreRefused) {
  {
    World world;
    world.Of(2).chain = 98;
    EXPECT_THAT(world.Refused(Code::kCorruption), HasSubstr("nodes 1 and 2 both end at LSN 100"));
    world.Of(2).chain = 0;  // unknown
    EXPECT_EQ(world.Planned().isr.size(), 3u);
  }
  {
    World world;
    world.Of(2).replica = world.Of(1).replica;
    EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("copy of the other"));
  }
  {
    World world;
    world.input.reports[1].node = 1;
    EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("/node-1 and /node-2"));
  }
  {
    World world;
    world.input.reports[1].cluster_id = {8, 8};
    EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("/node-2"));
  }
  {
    World world;
    world.input.nodes.pop_back();
    EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("node 3"));
  }
}

TEST(Recovery, TheOldMapMustFit) {
  World world;
  ClusterRecord& old = world.input.old.cluster.emplace().record;
  old.cluster_id = kCluster;
  old.partitions = 2;
  old.replicas = 3;
  old.min_isr = 3;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(plan->partitions[0].min_isr, 3u);
  old.creating = "1,2,3";
  EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("not been created completely"));
  old.creating = kRecoveringMap;
  EXPECT_TRUE(world.Plan().ok());
  world.input.old.nodes[4].record.id = 4;
  EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("node 4"));
  world.input.old.nodes[4].record.state = NodeState::kRemoved;
  EXPECT_TRUE(world.Plan().ok());
  old.cluster_id = {8, 8};
  EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("another cluster"));
}

// -- partitions that were split. With two at the beginning, the halves of 0 are 2 and 3, and those of 3 are 8 and 9.

void Drop(World* world, uint32_t partition, NodeId node) {
  std::erase_if(world->input.reports[node - 1].replicas, [=](const auto& r) { return r.partition == partition; });
}
void DropFromAll(World* world, uint32_t partition) {
  for (NodeId node = 1; node <= 3; ++node) Drop(world, partition, node);
}
void Hold(World* world, uint32_t partition) {
  for (NodeId node = 1; node <= 3; ++node) {
    world->input.reports[node - 1].replicas.push_back(
        {partition, ReplicaOf(node, partition), 4, 1, true, 4, 70, 99, ""});
  }
}

// What the map would say, by partition. Checks that each hash has one partition that serves.
std::map<uint32_t, PartitionStage> StatesOf(const RecoveryPlan& plan) {
  ClusterMap map;
  map.cluster = {plan.cluster, 1};
  for (const NodeRecord& node : plan.nodes) map.nodes[node.id] = {node, 1};
  std::map<uint32_t, PartitionStage> states;
  for (const PartitionRecord& r : plan.partitions) {
    map.partitions[r.id] = {r, 1};
    states[r.id] = r.state;
    EXPECT_FALSE(r.split);
  }
  EXPECT_THAT(map.Problems(), IsEmpty());
  return states;
}

constexpr PartitionStage kServing = PartitionStage::kServing, kBuilding = PartitionStage::kBuilding,
                         kRetired = PartitionStage::kRetired;
using States = std::map<uint32_t, PartitionStage>;

TEST(Recovery, HalvesServeOnceTheirWholeIsGone) {
  World world;
  DropFromAll(&world, 0);
  Hold(&world, 2);
  Hold(&world, 3);
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{1, kServing}, {2, kServing}, {3, kServing}}));
  EXPECT_THAT(NodesOf(plan->partitions[1].isr), ElementsAre(1, 2, 3));
  EXPECT_EQ(plan->partitions[1].last_hash, (uint64_t{1} << 62) - 1);
  EXPECT_EQ(plan->partitions[1].epoch, 6u);
  EXPECT_EQ(plan->partitions[1].opened_lsn, 70u);
  EXPECT_EQ(plan->partitions[0].opened_lsn, 0u) << "it is no half";
  DropFromAll(&world, 3);
  EXPECT_THAT(world.Refused(Code::kCorruption), HasSubstr("no sound replica of partition 3"));
}

// The beginning of an installation is nothing.
TEST(Recovery, AWholeThatWasNeverInstalledIsGone) {
  World world;
  Drop(&world, 0, 1);
  Drop(&world, 0, 2);
  world.Of(3, 0).installed = false;
  Hold(&world, 2);
  Hold(&world, 3);
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kRetired}, {1, kServing}, {2, kBuilding}, {3, kBuilding}}));
}

TEST(Recovery, AWholeAndItsHalvesNeedAnOperator) {
  World world;
  Hold(&world, 2);
  Hold(&world, 3);
  Drop(&world, 0, 2);
  const std::string refused = world.Refused(Code::kUnavailable);
  EXPECT_THAT(refused, HasSubstr("partition 0 is on node 1,3, and its halves 2 and 3 are on node 1,2,3"));
  EXPECT_THAT(refused, HasSubstr("--was-split 0"));
  EXPECT_THAT(refused, HasSubstr("--was-not-split 0"));
  world.input.was_split = {0};
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kRetired}, {1, kServing}, {2, kBuilding}, {3, kBuilding}}));
  EXPECT_THAT(NodesOf(plan->partitions[0].isr), ElementsAre(1, 3)) << "so that they drop it";
  world.input.was_split.clear();
  world.input.was_not_split = {0};
  plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kServing}, {1, kServing}, {2, kRetired}, {3, kRetired}}));
  world.input.was_not_split = {1};
  EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("no directory has a half of partition 1"));
}

// Only what serves is split.
TEST(Recovery, HalvesOfAHalfSayThatItServed) {
  World world;
  for (const uint32_t id : {2, 8, 9}) Hold(&world, id);
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kRetired}, {1, kServing}, {2, kBuilding}, {8, kServing}, {9, kServing}}));
}

TEST(Recovery, TheOldMapMaySayThatAPartitionWasSplit) {
  World world;
  PartitionRecord old = world.Planned();
  Hold(&world, 2);
  Hold(&world, 3);
  old.state = kRetired;
  world.input.old.partitions[0].record = old;
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kRetired}, {1, kServing}, {2, kBuilding}, {3, kBuilding}}));
  world.input.was_not_split = {0};
  EXPECT_THAT(world.Refused(Code::kInvalidArgument), HasSubstr("says that partition 0 was split"));
  world.input.was_not_split.clear();
  // That a half is retired, and its whole is not, says nothing: it may have been made anew.
  PartitionRecord half = plan->partitions[2];
  half.state = kRetired;
  old.state = kServing;
  world.input.old.partitions[0].record = old;
  world.input.old.partitions[2].record = half;
  world.Refused(Code::kUnavailable);
  // Nobody has it any more, so it stays as it is.
  DropFromAll(&world, 2);
  DropFromAll(&world, 3);
  plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{0, kServing}, {1, kServing}, {2, kRetired}}));
}

TEST(Recovery, AMissingNodeMayHaveTheWhole) {
  World world;
  DropFromAll(&world, 0);
  Hold(&world, 2);
  Hold(&world, 3);
  world.input.reports.pop_back();
  world.input.accept_loss = true;
  EXPECT_THAT(world.Refused(Code::kUnavailable), HasSubstr("partition 0 was not found"));
  world.input.was_split = {0};
  Result<RecoveryPlan> plan = world.Plan();
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  EXPECT_EQ(StatesOf(*plan), (States{{1, kServing}, {2, kServing}, {3, kServing}}));
  EXPECT_EQ(plan->partitions[1].lineage, 2u);
}

// TR5, against splits of all kinds that were under way when the topology was lost.
TEST(Recovery, NeverTakesAHalfOfWhatWasNotSplit) {
  uint64_t certain = 0, unclear = 0;
  for (const uint64_t seed : Seeds(2000)) {
    SimRandom random(seed);
    World world;
    std::set<uint32_t> truth = {0, 1};
    for (uint64_t i = 0; i < 4; ++i) {
      auto at = truth.begin();
      std::advance(at, random.Below(truth.size()));
      const uint32_t id = *at;
      const auto halves = *HalvesOf(id, 2);
      const auto& held = world.input.reports[0].replicas;
      if (std::any_of(held.begin(), held.end(), [&](const auto& r) { return r.partition == halves[0]; })) continue;
      for (const uint32_t half : halves) Hold(&world, half);
      if (random.Below(3) == 0) continue;  // it is still being built
      truth.erase(id);
      truth.insert(halves.begin(), halves.end());
      const uint64_t drop = random.Below(3);
      for (NodeId node = 1; node <= 3; ++node) {
        if (drop == 0 || (drop == 1 && random.Below(2) == 0)) Drop(&world, id, node);
      }
    }
    Result<RecoveryPlan> plan = world.Plan();
    if (plan.code() == Code::kUnavailable) {
      ++unclear;
      continue;
    }
    ASSERT_TRUE(plan.ok()) << plan.status().ToString() << ", seed " << seed;
    ++certain;
    std::set<uint32_t> serving;
    for (const PartitionRecord& r : plan->partitions) {
      if (r.state != kRetired) serving.insert(r.id);
    }
    EXPECT_EQ(serving, truth) << "seed " << seed;
    StatesOf(*plan);
  }
  EXPECT_GT(certain, 20u);
  EXPECT_GT(unclear, 100u);
}

// A partition as the protocol lets it be: logs of epochs, a master, who is in sync, and what is committed.
class History {
 public:
  explicit History(uint64_t seed) : random_(seed) { logs_.fill({1}); }

  void Step() {
    switch (random_.Below(8)) {
      case 0: return Elect();
      case 1: return Leave();
      case 2: return Join();
      case 3:
      case 4: logs_[master_].push_back(epoch_); return Commit();
      default: return Ship();
    }
  }
  World Stopped() const {
    World world(1);
    for (NodeId node = 1; node <= 3; ++node) {
      ReplicaReport& r = world.Of(node);
      const std::vector<Epoch>& log = logs_[node - 1];
      r.promised = epoch_;
      r.last_epoch = log.back();
      r.last_lsn = log.size();
      r.chain = 0;
    }
    return world;
  }
  const std::vector<Epoch>& committed() const { return committed_; }
  const std::vector<Epoch>& log(NodeId node) const { return logs_[node - 1]; }

 private:
  size_t Other() { return (master_ + 1 + random_.Below(2)) % 3; }
  size_t Common(size_t replica) const {
    const auto& a = logs_[master_];
    const auto& b = logs_[replica];
    size_t n = 0;
    while (n < std::min(a.size(), b.size()) && a[n] == b[n]) ++n;
    return n;
  }
  void Commit() {
    size_t common = logs_[master_].size();
    for (const size_t member : isr_) common = std::min(common, Common(member));
    // Not before the record that began the epoch.
    if (common > committed_.size() && logs_[master_][common - 1] == epoch_) {
      committed_.assign(logs_[master_].begin(), logs_[master_].begin() + static_cast<ptrdiff_t>(common));
    }
  }
  void Ship() {
    const size_t to = Other(), common = Common(to);
    logs_[to].resize(common);
    const size_t more = random_.Below(3);
    for (size_t i = common; i < std::min(common + more, logs_[master_].size()); ++i) {
      logs_[to].push_back(logs_[master_][i]);
    }
    if (common < logs_[master_].size() && more == 0) logs_[to].push_back(logs_[master_][common]);
    Commit();
  }
  void Elect() {
    std::vector<size_t> members(isr_.begin(), isr_.end());
    master_ = members[random_.Below(members.size())];
    logs_[master_].push_back(++epoch_);
  }
  void Leave() {
    const size_t other = Other();
    if (isr_.size() > 1 && isr_.erase(other) > 0) Commit();
  }
  void Join() {
    const size_t other = Other();
    if (Common(other) >= committed_.size() && logs_[other].size() >= committed_.size() &&
        logs_[other].back() == epoch_ && Common(other) == logs_[other].size()) {
      isr_.insert(other);
    }
  }

  SimRandom random_;
  std::array<std::vector<Epoch>, 3> logs_;
  std::set<size_t> isr_ = {0, 1, 2};
  size_t master_ = 0;
  Epoch epoch_ = 1;
  std::vector<Epoch> committed_ = {1};
};

// TR2, against histories in which even the smallest ISR may commit.
TEST(Recovery, WhoeverIsInSyncHasAllThatWasCommitted) {
  uint64_t compared = 0, partial = 0;
  for (const uint64_t seed : Seeds(3000)) {
    History history(seed);
    for (uint64_t i = 0; i < 10 + seed % 60; ++i) history.Step();
    World world = history.Stopped();
    const PartitionRecord r = world.Planned();
    partial += r.isr.size() < 3;
    for (const ReplicaRecord& replica : r.isr) {
      const std::vector<Epoch>& log = history.log(replica.node);
      ASSERT_GE(log.size(), history.committed().size()) << "seed " << seed;
      ASSERT_TRUE(std::equal(history.committed().begin(), history.committed().end(), log.begin())) << "seed " << seed;
      compared += history.committed().size() > 1;
    }
  }
  EXPECT_GT(compared, 100u);
  EXPECT_GT(partial, 100u);
}

// -- what is written

class Place {
 public:
  Place() : machine_(kernel_.AddMachine()) { machine_->Boot(); }
  std::unique_ptr<Topology> Client() {
    return std::make_unique<Topology>(reactor(),
                                      std::make_unique<SimTopology>(reactor(), &server, SimTopologyFaults()));
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  Reactor& reactor() { return *machine_->reactor(); }
  ClusterMap Map() {
    ClusterMap map;
    for (const auto& [key, entry] : server.entries()) EXPECT_OK(map.Apply(entry));
    return map;
  }
  SimTopologyServer server;

 private:
  SimKernel kernel_{5};
  SimMachine* machine_;
};

TEST(Recovery, WritesACompleteMapAndNothingOverOthers) {
  Place place;
  World world(4);
  auto topology = place.Client();
  EXPECT_OK(place.Run(WriteRecovery(*topology, *world.Plan(), ClusterMap(), 5 * kSecond)));
  ClusterMap map = place.Map();
  EXPECT_THAT(map.Problems(), IsEmpty());
  EXPECT_EQ(map.partitions.size(), 4u);
  EXPECT_EQ(map.nodes.at(3).record.starts, 13u);
  // TR4
  EXPECT_EQ(DecodeCluster(place.server.history().front())->creating, kRecoveringMap);
  EXPECT_EQ(place.server.history().back().key, kClusterKey);
  // Another recovery goes on from what is there, and one that saw something else writes nothing over it.
  world.input.old = map;
  const RecoveryPlan again = *world.Plan();
  EXPECT_GT(again.partitions[0].epoch, map.partitions.at(0).record.epoch);
  EXPECT_OK(place.Run(WriteRecovery(*topology, again, map, 5 * kSecond)));
  const auto before = place.server.entries();
  const Status late = place.Run(WriteRecovery(*topology, again, map, 5 * kSecond));
  EXPECT_EQ(late.code(), Code::kAborted);
  EXPECT_THAT(late.message(), HasSubstr("somebody else has changed cluster"));
  EXPECT_EQ(place.server.entries(), before);
  EXPECT_OK(place.Run(topology->Close()));
}

}  // namespace
}  // namespace pando::topology_test
