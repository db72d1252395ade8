// Start counters tell whether a node's directory is the one that it served with last, or a copy from
// before: an image of its disk that somebody has restored, or an empty one.
//
// A node counts its starts in two places, the topology (NodeRecord) and its directory, in this order:
//
//   1. RaiseStarts: the topology's `starts` grows by one, by compare-and-swap. The new number is the
//      incarnation of this process.
//   2. The node stores that number in its directory, durably.
//   3. FinishStart: the topology's `opened` becomes that number, the addresses those on which this
//      process listens, and the versions of the protocol those that its build speaks.
//   4. Only now the node serves: joins an in-sync set, acknowledges, campaigns.
//
// So whatever a directory held when its node served with start N, it held N. If the topology says
// that N was opened and the directory holds less, the directory is a copy from before. A crash between
// any two steps leaves nothing that looks like that.
//
// Threads: one reactor.
//
// Invariants
//   NS1  `starts` and `opened` of a node never fall, and `opened` is never above `starts`.
//   NS2  JudgeDirectory says kContinued only for a directory that holds everything that its node has
//        had when it served last. (An image that was taken while the last start was running is not
//        recognised: it has the same counter.)
//   I9  a replica whose disk was emptied or put back is not in sync: it has another UUID.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"
#include "src/topology/topology.h"

namespace pando {

enum class DirectoryHistory : uint8_t {
  kContinued,         // nobody has served with a later state of this directory
  kRestored,          // an old copy, or empty: its replicas need new UUIDs
  kTopologyWentBack,  // the directory knows of a start that the topology does not know
};

// `stored` is the start counter in the directory, 0 if there is none. `record` was read before
// RaiseStarts.
DirectoryHistory JudgeDirectory(uint64_t stored, const NodeRecord& record);

// kInvalidArgument for a node that has been removed from its cluster.
Status CheckMayStart(const NodeRecord& record);

// Reads the record of node `id`, lets `change` modify it, and writes it, until that has certainly
// succeeded. `change` may be called several times; it gets what it has written before, if that was
// stored without an answer. An error that it returns ends the attempt. Returns kNotFound if the
// topology has no such node.
Task<Result<Versioned<NodeRecord>>> ChangeNode(Topology& topology, NodeId id, std::function<Status(NodeRecord&)> change,
                                               Nanos timeout_ns);

// Step 1. Returns the incarnation of this process. BeginStart (node_identity.h) does steps 1 and 2.
Task<Result<uint64_t>> RaiseStarts(Topology& topology, NodeId id, Nanos timeout_ns);
// Step 3. Returns kAborted if the node has been started again meanwhile, by another process.
Task<Status> FinishStart(Topology& topology, NodeId id, uint64_t start, std::string client_address,
                         std::vector<std::string> peer_addresses, Nanos timeout_ns);

}  // namespace pando
