// The creation of a cluster: its first record, then those of its nodes and partitions.
//
// The cluster's record is written first. Its `creating` says with what the cluster is being created, and
// no node serves such a cluster (BeginStart). When all other records are there, `creating` becomes empty.
// So a creation that was interrupted continues when it is asked for again, with the same plan; and of two
// that run at the same time, with the same plan, both succeed or find the cluster complete.
//
// Threads: one reactor.
//
// Invariants
//   CI1  A cluster whose `creating` is empty has the records of all its nodes and partitions.
//   CI2  Nothing that was there is changed or overwritten, and a place that holds anything else is refused.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "src/topology/placement.h"
#include "src/topology/topology.h"

namespace pando {

struct ClusterPlan {
  std::vector<PlacementNode> nodes;
  uint32_t partitions = 0, replicas = 0, min_isr = 0;
};

// "1,2,3", or with zones and weights "1@rack-a,2@rack-b:2,3:4". A zone has 1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-'.
// kInvalidArgument: it is not a zone.
Status CheckZone(std::string_view zone);
Result<std::vector<PlacementNode>> ParseNodes(std::string_view text);
// The inverse, sorted by number.
std::string NodesText(std::vector<PlacementNode> nodes);

// The placement that the plan leads to. kInvalidArgument says what is wrong with the plan.
Result<Placement> CheckPlan(const ClusterPlan& plan);

struct CreatedCluster {
  Uuid cluster_id;
  bool continued = false;  // an earlier creation had begun
  size_t written = 0;      // records
};

// What CreateCluster would go on with: nullopt for an empty topology. Returns kAlreadyExists, with what is
// there, if CreateCluster would refuse.
Task<Result<std::optional<Uuid>>> FindCreation(Topology& topology, ClusterPlan plan, Nanos timeout_ns);

// `new_uuid` returns random UUIDs, for the cluster and for replicas. The timeout is that of each record.
// The first master of a partition is named in epoch 1, and wins epoch 2 when it starts; all replicas are
// in its ISR, because none of them has anything yet. Returns kAlreadyExists for a place that holds a whole
// cluster, one that is being created with another plan, or anything else. After any other error, the same
// call continues.
Task<Result<CreatedCluster>> CreateCluster(Topology& topology, ClusterPlan plan, std::function<Uuid()> new_uuid,
                                           Nanos timeout_ns);

}  // namespace pando
