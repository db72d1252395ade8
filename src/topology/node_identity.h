// What a node's data directory knows about the cluster that it belongs to, and the start of a node in
// its cluster.
//
// The file DIR/cluster names the cluster and the node, and keeps the newest that the node has seen of
// the topology: its start counter (start_counter.h), the topology's revision, and the highest epoch. So
// a node refuses another cluster's topology, and one that has gone back.
//
// A node starts in this order:
//
//   1. BeginStart: judges the directory, asks whether the node may start at all (StartCheck), raises the start
//      counter in the topology, and stores it in the directory.
//   2. If the directory is an old copy, all its replicas get new UUIDs, durably. Then the node stores
//      its identity with `renew` cleared.
//   3. FinishStart (start_counter.h), once the process listens.
//   4. It serves. From time to time it stores a newer `seen` and `epoch`.
//
// It may end between any two of these, and between any two operations of the disk or the topology.
//
// Threads: one reactor. One call at a time for a directory, by the process that holds its lock.
//
// Invariants
//   NI1  DIR/cluster is replaced as a whole: it holds what was stored last, or, if that was cut short,
//        what was stored before.
//   NI2  A directory that was once judged to be an old copy stays one (`renew`) until somebody says that
//        its replicas have new UUIDs, however often the node starts meanwhile.
//   NI3  No incarnation is given to two starts, and nothing is raised or stored for a topology of
//        another cluster, or one that has gone back.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "src/io/directory.h"
#include "src/topology/cluster_map.h"
#include "src/topology/start_counter.h"
#include "src/topology/topology.h"

namespace pando {

inline constexpr char kIdentityName[] = "cluster", kTemporaryIdentityName[] = "cluster.tmp";

struct NodeIdentity {
  Uuid cluster_id;
  NodeId node = 0;
  uint64_t start = 0;  // the last one; from 1
  Revision seen = 0;   // the newest revision of the topology
  Epoch epoch = 0;     // the highest of any partition
  bool renew = false;  // the replicas here need new UUIDs
  bool operator==(const NodeIdentity&) const = default;
};

// Returns nullopt if the directory, or the file, does not exist. Returns kCorruption or kVersion, with
// what to do, for a file that cannot be used.
Task<Result<std::optional<NodeIdentity>>> LoadIdentity(Reactor& reactor, std::string data_dir);
// Creates the directory if necessary, but not its parents. On an error, either identity may be stored.
Task<Status> StoreIdentity(Reactor& reactor, std::string data_dir, NodeIdentity identity);
// The same in a directory that is open, wherever it has been moved since. `directory` outlives the call.
Task<Status> StoreIdentityIn(const Directory* directory, NodeIdentity identity);
// Of any partition; 0: there is none.
Epoch HighestEpoch(const ClusterMap& map);

// A start between BeginStart and FinishStart.
struct JoinedStart {
  NodeIdentity identity;  // as it is stored; identity.start is the incarnation of this process
  DirectoryHistory history = DirectoryHistory::kContinued;  // or kRestored
  ClusterMap map;
  uint64_t incarnation = 0;
};

// Whether the node may start: its record is as it was before the start. An error ends the start, and leaves everything
// as it was.
using StartCheck = std::function<Task<Status>(const Uuid& cluster_id, const NodeRecord& record)>;

// Returns
//   kNotFound         the topology has no cluster, or no such node
//   kInvalidArgument  the directory belongs to another cluster or node, or the node was removed
//   kCorruption       the topology has gone back, or something is damaged
//   kUnavailable      the cluster is being created, or the topology cannot be reached in time
//   that of `check`   if there is one
// and in all these cases the start counter in the directory is as it was.
Task<Result<JoinedStart>> BeginStart(Topology& topology, Reactor& reactor, std::string data_dir, NodeId node,
                                     Nanos timeout_ns, StartCheck check = nullptr);

// The contents of DIR/cluster. Decode returns kCorruption or kVersion; `path` is for its messages.
std::string EncodeIdentity(const NodeIdentity& identity);
Result<NodeIdentity> DecodeIdentity(std::string_view bytes, const std::string& path);

}  // namespace pando
