// MasterCalls asks the master of a partition, on whichever node it is, for the changes that an operator asks for
// (kvadmin replica, kvadmin failover). The master changes them by compare-and-swap; an error says that it did not, or
// that it is unknown. Asking again is safe.
//
// It also reads what the nodes say about their replicas.
//
// Threads: reactor 0.
#pragma once

#include <string>
#include <utility>

#include "gen-cpp/cluster_types.h"
#include "src/node/kv_backend.h"
#include "src/node/node_cluster.h"
#include "src/replication/peer_links.h"

namespace pando {

class MasterCalls {
 public:
  // All pointers outlive this object. `links`: of reactor 0.
  MasterCalls(Reactor& reactor, NodeCluster* cluster, replication::PeerLinks* links, NodeControl* self)
      : reactor_(reactor), cluster_(*cluster), links_(*links), self_(*self) {}

  // In the place of another replica, which is to leave once the new one is in sync.
  Task<Status> AddReplica(uint32_t partition, NodeId node);
  // One that another has come for: refused if too few would be left.
  Task<Status> RemoveReplica(uint32_t partition, Uuid replica);
  // Only in this epoch.
  Task<Status> HandOver(uint32_t partition, NodeId to, Epoch epoch);
  Task<Result<api::ReplicasReply>> ReplicasOf(NodeId node);

 private:
  static constexpr Nanos kCallNs = 3 * kSecond, kHandOverNs = 2 * kSecond;

  // The node of the master, if it is reached.
  Result<NodeId> MasterOf(uint32_t partition) const;
  // Calls `method` of another node. kInvalidArgument and the like of the node are kUnavailable. `args` and `result` are
  // structs of Thrift, which cannot be moved.
  template <typename Args, typename CallResult>
  Task<Status> Over(NodeId node, const char* method, Args* args, CallResult* result);

  Reactor& reactor_;
  NodeCluster& cluster_;
  replication::PeerLinks& links_;
  NodeControl& self_;
};

}  // namespace pando
