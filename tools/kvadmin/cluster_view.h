// ClusterView: what the topology says about a cluster, and what its nodes say about their replicas.
//
// The topology comes from where it is kept, or from a node that knows it. Each node is asked once, with a short
// time limit, so that a few nodes that hang do not hold up the others for long.
//
// Threads: one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gen-cpp/cluster_types.h"
#include "src/topology/cluster_map.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

struct ClusterView {
  struct Node {
    Status status;  // why there is no answer
    api::ReplicasReply reply;
    // How far reply.clock_ms was ahead of the clock here, and by how much that may be wrong.
    int64_t clock_ahead_ms = 0, clock_error_ms = 0;
  };
  ClusterMap map;
  Revision revision = 0;  // of the topology, as far as this map or a node has seen it
  std::string stale;      // how the map that was read proves to be older than what a node has seen; empty: it does not
  std::map<NodeId, Node> nodes;  // all but those that have left the cluster

  // The replica that leads the partition and may answer reads, and its node; null and 0 if no node says so.
  struct Master {
    NodeId node = 0;
    const api::ReplicaStatus* status = nullptr;
  };
  Master MasterOf(uint32_t partition) const;
  // What a node says of its replica; null if it does not answer, or holds none.
  const api::ReplicaStatus* ReplicaOn(NodeId node, uint32_t partition) const;
  bool IsReachable(NodeId node) const;
  // Why the map is not to be trusted: it is older than what a node has seen. Empty: as far as is known, it is not.
  std::string WhyStale() const;
  // For messages: "2 (127.0.0.1:7421)".
  std::string NameOf(NodeId node) const;
};

// What a node of a cluster knows of it. kInvalidArgument, kUnsupported: `client` is connected to none. kNotFound: there
// is no cluster.
Result<ClusterMap> MapOf(Client& client);

// With an empty `place`, the topology is that which a node at `target` knows. kNotFound: there is no cluster.
Result<ClusterView> LookAtCluster(const Target& target, const std::string& place);

// kInvalidArgument: the cluster has no such node, or it was removed.
Status CheckNode(const ClusterView& view, NodeId node);

// "1,2,3", or "-" for none.
std::string NodesText(const std::vector<NodeId>& nodes);
// In a sentence: "node 2", "the nodes 1,2,3", or "no node".
std::string NamedNodes(const std::vector<NodeId>& nodes);

}  // namespace pando::admin
