// What is planned for the replicas of nodes that are gone: single plans, and whether plans that are carried out one
// after the other heal random clusters.
#include "src/topology/replacement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "src/topology/placement.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = ReplacementStep::Kind;

// A cluster whose masters do at once what they are asked.
struct World {
  ClusterMap map;
  uint64_t uuids = 0;
  ReplacementInput input;

  explicit World(uint32_t nodes, uint32_t partitions, uint32_t zones = 0) {
    input.map = &map;
    std::vector<PlacementNode> placed;
    for (uint32_t id = 1; id <= nodes; ++id) {
      NodeRecord& node = map.nodes[id].record;
      node.id = id;
      node.opened = node.starts = 1;
      node.zone = zones == 0 ? "" : fmt::format("zone-{}", id % zones);
      placed.push_back({id, node.zone, 1});
    }
    const Placement placement = *PlacePartitions(placed, partitions, 3);
    for (uint32_t p = 0; p < partitions; ++p) {
      PartitionRecord& record = map.partitions[p].record;
      record.id = p;
      record.replicas = 3;
      record.min_isr = 2;
      for (const NodeId node : placement[p]) record.isr.push_back(NewReplica(node));
      record.master = record.isr.front().replica;
    }
  }
  ReplicaRecord NewReplica(NodeId node) { return {node, Uuid{1, ++uuids}, {}}; }
  PartitionRecord& Of(uint32_t p) { return map.partitions.at(p).record; }
  ReplacementPlan Plan() const { return PlanReplacement(input); }

  // The masters of its partitions notice it; those that it led go to another one.
  void Lose(NodeId node) {
    input.away.insert(node);
    for (auto& [id, partition] : map.partitions) {
      PartitionRecord& r = partition.record;
      for (size_t i = 0; i < r.isr.size(); ++i) {
        if (r.isr[i].node != node || r.isr.size() <= r.min_isr) continue;
        if (r.isr[i].replica == r.master) r.master = r.isr[(i + 1) % r.isr.size()].replica;
        r.evicted.push_back(r.isr[i]);
        r.isr.erase(r.isr.begin() + static_cast<std::ptrdiff_t>(i--));
      }
    }
  }
  void Return(NodeId node) {
    input.away.erase(node);
    input.gone.erase(node);
    for (auto& [id, partition] : map.partitions) Join(&partition.record, &partition.record.evicted, node);
  }
  static void Join(PartitionRecord* r, std::vector<ReplicaRecord>* from, NodeId node) {
    for (size_t i = 0; i < from->size(); ++i) {
      if ((*from)[i].node != node) continue;
      r->isr.push_back((*from)[i]);
      from->erase(from->begin() + static_cast<std::ptrdiff_t>(i--));
    }
  }
  void CarryOut(const ReplacementStep& step) {
    PartitionRecord& r = Of(step.partition);
    if (step.kind == Kind::kAdd) {
      r.learners.push_back(NewReplica(step.node));
      input.begun[step.partition] = {step.node, step.gone};
      return;
    }
    for (auto* list : {&r.isr, &r.evicted, &r.learners}) {
      std::erase_if(*list, [&](const ReplicaRecord& other) { return other.replica == step.replica; });
    }
    EXPECT_GE(r.isr.size(), r.replicas);  // RL2
  }
  void InstallAll() {
    for (auto& [id, partition] : map.partitions) {
      for (const auto& [node, at] : map.nodes) {
        if (!input.away.contains(node)) Join(&partition.record, &partition.record.learners, node);
      }
    }
  }
};

TEST(Replacement, DoesNothingForNodesThatMayComeBack) {
  World world(4, 8);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
  world.Lose(2);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
  world.input.gone = {2};
  EXPECT_FALSE(world.Plan().steps.empty());
}

// RL1.
TEST(Replacement, DoesNothingWhileAThirdOfTheNodesAreAway) {
  for (const auto& [nodes, lost, allowed] :
       {std::tuple(3u, 1u, false), std::tuple(4u, 1u, true), std::tuple(6u, 2u, false), std::tuple(7u, 2u, true)}) {
    World world(nodes, 8);
    for (NodeId node = 1; node <= lost; ++node) world.Lose(node);
    world.input.gone = {1};
    const ReplacementPlan plan = world.Plan();
    EXPECT_EQ(!plan.steps.empty(), allowed) << nodes;
    if (!allowed) {
      EXPECT_THAT(plan.waits, ElementsAre(HasSubstr("a third or more")));
    }
  }
}

// RL3.
TEST(Replacement, MovesAFewAtATime) {
  World world(5, 64);
  world.Lose(3);
  world.input.gone = {3};
  const ReplacementPlan plan = world.Plan();
  EXPECT_EQ(plan.steps.size(), 4u);
  EXPECT_FALSE(plan.waits.empty());
  for (const ReplacementStep& step : plan.steps) world.CarryOut(step);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
}

TEST(Replacement, RemovesTheOldReplicaOnlyWhenTheNewOneIsInSync) {
  World world(4, 1);
  const NodeId lost = world.Of(0).isr[1].node;
  world.Lose(lost);
  world.input.gone = {lost};
  ReplacementPlan plan = world.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(plan.steps[0].kind, Kind::kAdd);
  world.CarryOut(plan.steps[0]);
  EXPECT_THAT(world.Plan().steps, IsEmpty());  // it is installed
  world.InstallAll();
  plan = world.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(plan.steps[0].kind, Kind::kRemove);
  EXPECT_EQ(plan.steps[0].node, lost);
  world.CarryOut(plan.steps[0]);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
  EXPECT_EQ(world.Of(0).isr.size(), 3u);
}

TEST(Replacement, ANodeThatComesBackStopsIt) {
  for (const bool joined : {false, true}) {
    World world(4, 1);
    const NodeId lost = world.Of(0).isr[1].node;
    world.Lose(lost);
    world.input.gone = {lost};
    const ReplacementPlan added = world.Plan();
    ASSERT_EQ(added.steps.size(), 1u);
    world.CarryOut(added.steps[0]);
    if (joined) world.InstallAll();
    world.Return(lost);
    const ReplacementPlan plan = world.Plan();
    ASSERT_EQ(plan.steps.size(), 1u);
    EXPECT_EQ(plan.steps[0].kind, Kind::kRemove);
    EXPECT_EQ(plan.steps[0].node, added.steps[0].node);
    world.CarryOut(plan.steps[0]);
    EXPECT_EQ(world.Of(0).isr.size(), 3u);
    EXPECT_THAT(world.Of(0).learners, IsEmpty());
    EXPECT_THAT(world.Plan().steps, IsEmpty());
  }
}

// An operator moves a replica while all nodes are well.
TEST(Replacement, LeavesTheOperatorsReplicasAlone) {
  World world(5, 1);
  for (NodeId node = 1; node <= 5; ++node) {
    const auto& isr = world.Of(0).isr;
    if (std::none_of(isr.begin(), isr.end(), [&](const auto& r) { return r.node == node; })) {
      world.Of(0).learners.push_back(world.NewReplica(node));
      break;
    }
  }
  EXPECT_THAT(world.Plan().steps, IsEmpty());
  world.InstallAll();
  EXPECT_EQ(world.Of(0).isr.size(), 4u);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
}

// Somebody has given up what he had begun.
TEST(Replacement, RemovesOneThatIsTooManyForLong) {
  World world(8, 1, 4);
  PartitionRecord& record = world.Of(0);
  const std::string zone = world.map.nodes.at(record.isr[1].node).record.zone;
  for (const auto& [id, node] : world.map.nodes) {
    const auto& isr = record.isr;
    const bool holds = std::any_of(isr.begin(), isr.end(), [id = id](const auto& r) { return r.node == id; });
    if (!holds && node.record.zone == zone && isr.size() == 3) record.isr.push_back(world.NewReplica(id));
  }
  ASSERT_EQ(record.isr.size(), 4u);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
  world.input.surplus = {0};
  const ReplacementPlan plan = world.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(world.map.nodes.at(plan.steps[0].node).record.zone, zone);
  EXPECT_NE(plan.steps[0].replica, record.master);
  world.CarryOut(plan.steps[0]);
  EXPECT_THAT(world.Plan().steps, IsEmpty());
}

TEST(Replacement, ALearnerWhoseNodeIsGoneToo) {
  World world(7, 1);
  const NodeId lost = world.Of(0).isr[1].node;
  world.Lose(lost);
  world.input.gone = {lost};
  const ReplacementPlan added = world.Plan();
  world.CarryOut(added.steps.at(0));
  world.input.away.insert(added.steps[0].node);
  world.input.gone.insert(added.steps[0].node);
  const ReplacementPlan plan = world.Plan();
  ASSERT_EQ(plan.steps.size(), 1u);
  EXPECT_EQ(plan.steps[0].kind, Kind::kRemove);
  EXPECT_EQ(plan.steps[0].node, added.steps[0].node);
}

TEST(Replacement, HealsRandomClusters) {
  for (const uint64_t seed : Seeds(200)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    const auto nodes = static_cast<uint32_t>(4 + random.Below(8));
    const auto zones = static_cast<uint32_t>(random.Chance(0.5) ? 0 : 4);
    World world(nodes, 1u << random.Below(7), zones);
    const auto lost = static_cast<NodeId>(1 + random.Below(nodes));
    world.Lose(lost);
    world.input.gone = {lost};
    for (int round = 0; round < 1000; ++round) {
      const ReplacementPlan plan = world.Plan();
      if (plan.steps.empty() && plan.waits.empty()) break;
      for (const ReplacementStep& step : plan.steps) world.CarryOut(step);
      size_t learning = 0;
      for (const auto& [id, partition] : world.map.partitions) learning += !partition.record.learners.empty();
      EXPECT_LE(learning, 4u);  // RL3
      if (random.Chance(0.5)) world.InstallAll();
    }
    world.InstallAll();
    for (const ReplacementStep& step : world.Plan().steps) world.CarryOut(step);
    std::map<NodeId, size_t> load;
    for (const auto& [id, partition] : world.map.partitions) {
      const PartitionRecord& r = partition.record;
      EXPECT_EQ(r.isr.size(), 3u) << id;
      EXPECT_THAT(r.evicted, IsEmpty()) << id;
      EXPECT_THAT(r.learners, IsEmpty()) << id;
      std::set<NodeId> on;
      for (const ReplicaRecord& replica : r.isr) on.insert(replica.node);
      EXPECT_EQ(on.size(), 3u) << id;
      EXPECT_FALSE(on.contains(lost)) << id;
      for (const NodeId node : on) ++load[node];
    }
    if (zones != 0) continue;
    const size_t share = 3 * world.map.partitions.size() / (nodes - 1);
    for (const auto& [node, count] : load) EXPECT_LE(count, share + share / 4 + 4) << node;
  }
}

TEST(Replacement, KeepsZonesApart) {
  World world(8, 32, 4);
  world.Lose(1);
  world.input.gone = {1};
  world.input.moves_at_once = 1000;
  for (const ReplacementStep& step : world.Plan().steps) {
    ASSERT_EQ(step.kind, Kind::kAdd);
    for (const ReplicaRecord& r : world.Of(step.partition).isr) {
      EXPECT_NE(world.map.nodes.at(r.node).record.zone, world.map.nodes.at(step.node).record.zone);
    }
  }
}

}  // namespace
}  // namespace pando
