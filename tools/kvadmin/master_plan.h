// Which masterships to hand over, so that each node leads its share, or one of them leads nothing.
//
// Threads: plain values.
#pragma once

#include <map>
#include <vector>

#include "tools/kvadmin/cluster_view.h"

namespace pando::admin {

// A partition that has a master.
struct Led {
  uint32_t partition = 0;
  Epoch epoch = 0;
  NodeId master = 0;
  std::vector<NodeId> in_sync;  // the nodes that could lead it, without those that take none
};

struct MasterMove {
  uint32_t partition = 0;
  Epoch epoch = 0;  // when it was planned
  NodeId from = 0, to = 0;
  bool operator==(const MasterMove&) const = default;
};

// The partitions of a view that serve and have a master. Those of `in_sync` answer and are meant to stay in the
// cluster. Halves that are being built are led where their whole is, so they are none of these.
std::vector<Led> LedPartitions(const ClusterView& view);

// Afterwards no node of `nodes`, which have weights, leads so much for its weight that another one, which could take a
// partition from it, be it over a third one, would then lead less for its own. With equal weights: none leads two more
// than another. Each partition moves at most once.
std::vector<MasterMove> PlanRebalance(const std::vector<Led>& led, const std::map<NodeId, uint32_t>& nodes);

// kUnavailable: `node` leads a partition that it cannot hand over, because it has no lease.
Status CheckDrain(const ClusterView& view, NodeId node);
// Gives all that `node` leads to those that lead the fewest. kUnavailable: nobody could take a partition.
Result<std::vector<MasterMove>> PlanDrain(const std::vector<Led>& led, NodeId node);

}  // namespace pando::admin
