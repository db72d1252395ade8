// PlanReplacement: which replicas the other nodes should get in the place of those of nodes that are gone for good, and
// which of the old ones may be removed.
//
// A plan is made again and again from what the topology says, and nothing needs to be remembered between two of them,
// except who began what: so whoever makes the next one goes on.
//
// Threads: pure functions.
//
// Invariants
//   RL1  While a third or more of the nodes are away, nothing is planned: rather than so many nodes, the network has
//        failed, or the one who plans is cut off.
//   RL2  A replica is removed only while at least R others are in sync, and never from the ISR, except one that is
//        one too many.
//   RL3  At most `moves_at_once` partitions have a learner because of a plan.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"

namespace pando {

struct ReplacementStep {
  enum class Kind : uint8_t { kAdd, kRemove };
  Kind kind = Kind::kAdd;
  uint32_t partition = 0;
  NodeId node = 0;  // that gets a replica, or whose replica is removed
  Uuid replica;     // kRemove
  NodeId gone = 0;  // because of this node
  std::string why;  // a sentence
};

// A replica that was added in the place of one of a node that was gone.
struct BegunReplacement {
  NodeId node = 0, gone = 0;
};

struct ReplacementInput {
  const ClusterMap* map = nullptr;
  std::set<NodeId> away;                       // that are not reached
  std::set<NodeId> gone;                       // of these, those that have been away for so long that they are replaced
  std::map<uint32_t, BegunReplacement> begun;  // by partition
  // Partitions that have had more replicas in sync than they should have, for so long that nobody is about to
  // remove one.
  std::set<uint32_t> surplus;
  size_t moves_at_once = 4;
};

struct ReplacementPlan {
  std::vector<ReplacementStep> steps;
  std::vector<std::string> waits;  // why nothing is done, a sentence each
};

ReplacementPlan PlanReplacement(const ReplacementInput& input);

}  // namespace pando
