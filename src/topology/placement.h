// Placement proposes which nodes hold the replicas of each partition, and which of them leads.
//
// It is weighted rendezvous hashing with limits: each pair of a partition and a node has a score, a hash,
// and each partition takes the nodes with the best scores for it, except that a node takes little more
// than its share, and then only those that have the best scores for it. Shares follow from the weights.
// The master is chosen first, so that masters are spread exactly.
//
// Nothing depends on the order of the nodes, so everybody who knows them proposes the same.
//
// Threads: pure functions.
//
// Invariants
//   PP1  The replicas of a partition are on different nodes, and as many zones as there can be: no zone
//        has two more of them than another that has room.
//   PP2  Each node leads its share of the partitions, rounded up or down.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/topology/cluster_map.h"

namespace pando {

struct PlacementNode {
  NodeId id = 0;
  std::string zone;     // a node without one is in a zone of its own
  uint32_t weight = 1;  // 1 to kMaxNodeWeight; a node with twice the weight has twice the share
};

// For each partition, the nodes of its replicas; the master is the first.
using Placement = std::vector<std::vector<NodeId>>;

// Returns kInvalidArgument if there are fewer nodes than replicas, a node is there twice, or a weight is
// not possible. REQUIRES: partitions and replicas are not 0.
Result<Placement> PlacePartitions(std::vector<PlacementNode> nodes, uint32_t partitions, uint32_t replicas);

// How well a node suits a partition: the hash that decides where nothing else does.
uint64_t PlacementScore(uint32_t partition, const PlacementNode& node);

// The node that should get one more replica of a partition: of `nodes`, none of which has one, and which hold `loads`
// replicas. In the zone that has the fewest of it on the nodes `stay`; of those, one that holds little more than the
// least; of those, the one with the best score. Nothing if there are no nodes.
std::optional<NodeId> ChooseNode(const std::vector<PlacementNode>& nodes, const std::vector<size_t>& loads,
                                 const std::vector<PlacementNode>& stay, uint32_t partition);

}  // namespace pando
