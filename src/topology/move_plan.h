// PlanMoves: which replicas go from which node to which other one, so that each node holds its share of the bytes, or
// some nodes hold nothing.
//
// The share of a node follows from its weight, as far as zones allow: a zone holds at least and at most as many
// replicas of each partition as PP1 (placement.h) says, and a node at most one. What moves is little: a replica leaves
// a node only if that holds more than its share, or must be empty, or if the zone has too many of its partition.
//
// Threads: pure functions. The same input gives the same plan.
//
// Invariants
//   MP1  After the moves, the replicas of a partition are on different nodes, on none of weight 0, and no zone has two
//        more of them than another that has room.
//   MP2  A plan of where a plan leads to is empty.
//   MP3  With kEmpty, only replicas of nodes of weight 0 move.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "src/topology/placement.h"

namespace pando {

struct PlacedPartition {
  uint32_t id = 0;
  uint64_t bytes = 0;         // of each replica
  std::vector<NodeId> nodes;  // that hold a replica
};

enum class MoveGoal : uint8_t { kBalance, kEmpty };

struct MoveInput {
  std::vector<PlacementNode> nodes;  // a weight of 0: the node is to hold nothing
  std::vector<PlacedPartition> partitions;
  MoveGoal goal = MoveGoal::kBalance;
};

struct ReplicaMove {
  uint32_t partition = 0;
  NodeId from = 0, to = 0;
  uint64_t bytes = 0;
  bool operator==(const ReplicaMove&) const = default;
};

struct NodeLoad {
  uint64_t share = 0;  // what it should hold
  uint64_t before = 0, after = 0;
  size_t replicas_before = 0, replicas_after = 0;
};

struct MovePlan {
  std::vector<ReplicaMove> moves;  // those of a partition in the order in which they are made
  std::map<NodeId, NodeLoad> loads;
  uint64_t bytes() const;  // that move
  // The greatest part of its share by which a node that has one deviates from it.
  double SpreadBefore() const;
  double SpreadAfter() const;
};

// kInvalidArgument: a partition has more replicas than there are nodes for them, or one on a node that is not among
// `nodes`; or a node is there twice.
Result<MovePlan> PlanMoves(const MoveInput& input);

}  // namespace pando
