// Properties of the placement of partitions, over many clusters.
#include "src/topology/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using ::testing::HasSubstr;

std::vector<PlacementNode> Nodes(uint32_t count, uint32_t zones = 0) {
  std::vector<PlacementNode> nodes;
  for (uint32_t i = 0; i < count; ++i) {
    nodes.push_back({i + 1, zones == 0 ? "" : fmt::format("zone-{}", i % zones), 1});
  }
  return nodes;
}

std::map<NodeId, uint32_t> Masters(const Placement& placement) {
  std::map<NodeId, uint32_t> masters;
  for (const auto& replicas : placement) ++masters[replicas.front()];
  return masters;
}
std::map<NodeId, uint32_t> Replicas(const Placement& placement) {
  std::map<NodeId, uint32_t> count;
  for (const auto& replicas : placement) {
    for (const NodeId node : replicas) ++count[node];
  }
  return count;
}

// How many replicas `after` has where `before` has none.
size_t Moved(const Placement& before, const Placement& after) {
  size_t moved = 0;
  for (size_t p = 0; p < after.size(); ++p) {
    for (const NodeId node : after[p]) moved += std::find(before[p].begin(), before[p].end(), node) == before[p].end();
  }
  return moved;
}

// PP1, over random zones and weights.
TEST(Placement, SpreadsOverNodesAndZones) {
  for (const uint64_t seed : Seeds(300)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    std::vector<PlacementNode> nodes = Nodes(1 + static_cast<uint32_t>(random.Below(12)));
    std::map<std::string, size_t> sizes;
    std::map<NodeId, std::string> zone_of;
    for (PlacementNode& node : nodes) {
      if (random.Chance(0.8)) node.zone = fmt::format("zone-{}", random.Below(4));
      node.weight = 1 + static_cast<uint32_t>(random.Below(4));
      zone_of[node.id] = node.zone.empty() ? fmt::format("node {}", node.id) : node.zone;
      ++sizes[zone_of[node.id]];
    }
    const auto replicas = 1 + static_cast<uint32_t>(random.Below(nodes.size()));
    const uint32_t partitions = 1u << random.Below(8);
    Result<Placement> placement = PlacePartitions(nodes, partitions, replicas);
    ASSERT_TRUE(placement.ok()) << placement.status().ToString();
    EXPECT_EQ(placement->size(), partitions);
    for (const auto& chosen : *placement) {
      EXPECT_EQ(std::set<NodeId>(chosen.begin(), chosen.end()).size(), replicas);
      std::map<std::string, size_t> in_zone;
      for (const NodeId node : chosen) ++in_zone[zone_of.at(node)];
      for (const auto& [zone, size] : sizes) {
        if (in_zone[zone] == size) continue;  // it has no room
        for (const auto& [other, count] : in_zone) EXPECT_LE(count, in_zone[zone] + 1) << other << " and " << zone;
      }
    }
    std::rotate(nodes.begin(), nodes.begin() + static_cast<std::ptrdiff_t>(random.Below(nodes.size())), nodes.end());
    if (nodes.size() > 2) std::swap(nodes[0], nodes[2]);
    EXPECT_EQ(*PlacePartitions(nodes, partitions, replicas), *placement) << "the order matters";
  }
}

// PP2, and replicas are spread nearly as evenly.
TEST(Placement, SpreadsMastersAndReplicasEvenly) {
  for (uint32_t count = 1; count <= 20; ++count) {
    for (const uint32_t partitions : {1u, 16u, 64u, 256u}) {
      for (uint32_t replicas = 1; replicas <= std::min(count, 5u); ++replicas) {
        SCOPED_TRACE(fmt::format("{} nodes, {} partitions, {} replicas", count, partitions, replicas));
        const Placement placement = *PlacePartitions(Nodes(count), partitions, replicas);
        std::map<NodeId, uint32_t> masters = Masters(placement), all = Replicas(placement);
        for (NodeId node = 1; node <= count; ++node) {
          EXPECT_GE(masters[node], partitions / count);
          EXPECT_LE(masters[node], (partitions + count - 1) / count);
          const uint32_t share = (partitions * replicas + count - 1) / count;
          EXPECT_LE(all[node], share + share / 8 + 2);
        }
      }
    }
  }
}

TEST(Placement, FollowsWeights) {
  std::vector<PlacementNode> nodes = Nodes(6);
  nodes[0].weight = 2;
  nodes[1].weight = 3;
  const Placement placement = *PlacePartitions(nodes, 512, 2);
  std::map<NodeId, uint32_t> masters = Masters(placement), all = Replicas(placement);
  for (const PlacementNode& node : nodes) {
    EXPECT_NEAR(masters[node.id], 512.0 * node.weight / 9, 1) << node.id;
    EXPECT_NEAR(all[node.id], 1024.0 * node.weight / 9, 1024.0 * node.weight / 9 / 6) << node.id;
  }
}

// A new node takes its share, and little else moves.
TEST(Placement, ANewNodeMovesItsShare) {
  for (uint32_t count = 3; count <= 20; ++count) {
    for (const uint32_t partitions : {64u, 256u, 1024u}) {
      const Placement before = *PlacePartitions(Nodes(count), partitions, 3);
      const Placement after = *PlacePartitions(Nodes(count + 1), partitions, 3);
      const double share = 3.0 * partitions / (count + 1);
      const auto moved = static_cast<double>(Moved(before, after));
      EXPECT_GE(moved, 0.9 * share) << count << " nodes, " << partitions;
      // With few partitions for each node, exact numbers of masters cost more.
      EXPECT_LE(moved, (partitions >= 256 ? 1.4 : 2) * share) << count << " nodes, " << partitions;
    }
  }
}

TEST(Placement, RefusesWhatIsNotPossible) {
  EXPECT_THAT(PlacePartitions(Nodes(2), 16, 3).status().message(), HasSubstr("there are 2"));
  std::vector<PlacementNode> nodes = Nodes(3);
  nodes[2].id = 1;
  EXPECT_THAT(PlacePartitions(nodes, 16, 3).status().message(), HasSubstr("node 1 is named twice"));
  nodes = Nodes(3);
  nodes[1].weight = 0;
  EXPECT_EQ(PlacePartitions(nodes, 16, 3).code(), Code::kInvalidArgument);
  nodes[1].weight = kMaxNodeWeight + 1;
  EXPECT_EQ(PlacePartitions(nodes, 16, 3).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace pando
