// Recovery of a topology that was lost, or of which only an old copy is left: the map is made anew from what the data
// directories of the nodes say, while no node runs. docs/REPLICATION.md ("A lost topology") says why nothing is lost.
//
// PlanRecovery is a pure function from reports, one for each node, to a map, or to what is missing. WriteRecovery
// writes the map. Whoever calls both keeps the nodes from starting between the reports and the end.
//
// Threads: PlanRecovery is a pure function, WriteRecovery belongs to the reactor of the topology.
//
// Invariants
//   TR1  The epoch of a partition in the new map is above every epoch that a replica of it has promised or has a
//        record of, and above every epoch that a node or the old map knows. So nobody has ever led it.
//   TR2  The ISR are replicas whose logs end at the same point, and no sound replica of the same lineage that was
//        heard ends at a later one, by epoch and then by LSN. Every one of them is installed.
//   TR3  If a node or a replica was not heard, or is not sound, nothing is written without `accept_loss`. With it, the
//        lineage grows, one replica goes on alone, and the others are made anew.
//   TR4  While the map is incomplete, ClusterRecord::creating says so, and no node serves.
//   TR5  Halves serve only if it is certain that the partition that they are halves of was split; otherwise that one
//        does. It is certain once no node has a replica of it any more, because nodes keep those until both halves
//        serve (src/replication); or if a half was split in its turn, or the old map says it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"
#include "src/topology/placement.h"
#include "src/topology/topology.h"

namespace pando {

// ClusterRecord::creating of a map that is being recovered.
inline constexpr char kRecoveringMap[] = "topology recover";

// What the data directory of a stopped node says about one replica.
struct ReplicaReport {
  uint32_t partition = 0;
  Uuid replica;
  Epoch promised = 0;
  uint64_t lineage = 0;
  bool installed = false;
  // Where its log ends, or its last checkpoint if that is later. LSN 0: it has no records.
  Epoch last_epoch = 0;
  Lsn last_lsn = 0;
  uint64_t chain = 0;   // 0: unknown
  std::string problem;  // why nothing follows from what it has; empty: it is sound
};

struct NodeReport {
  std::string data_dir;
  Uuid cluster_id;
  NodeId node = 0;
  uint64_t start = 0;       // NodeIdentity
  Epoch epoch = 0;          // NodeIdentity
  bool renew = false;       // NodeIdentity: the directory is an older copy
  uint32_t partitions = 0;  // of the cluster, when it was created
  std::vector<ReplicaReport> replicas;
};

struct RecoveryInput {
  std::vector<NodeReport> reports;
  std::vector<PlacementNode> nodes;  // all nodes of the cluster, as an operator says
  uint32_t replicas = 0;             // R, and min_isr, of partitions of which the old map says nothing
  uint32_t min_isr = 0;
  bool accept_loss = false;
  // What an operator says of partitions of which the directories do not say whether they were split.
  std::set<uint32_t> was_split, was_not_split;
  ClusterMap old;  // what the topology holds now, if anything
};

struct RecoveryPlan {
  ClusterRecord cluster;  // complete
  std::vector<NodeRecord> nodes;
  std::vector<PartitionRecord> partitions;
  // What was not heard, a sentence each. Empty: nothing that was acknowledged is lost.
  std::vector<std::string> missing;
};

// kInvalidArgument: the reports do not belong together, or not to these nodes. kUnavailable: something is missing that
// an operator may give up, or it is not certain whether a partition was split; the message names all of it.
// kCorruption: the reports contradict each other, or no sound replica of a partition is left. `new_uuid` returns random
// UUIDs.
Result<RecoveryPlan> PlanRecovery(const RecoveryInput& input, const std::function<Uuid()>& new_uuid);

// Writes the map over `old`, from which the plan was made. kAborted: somebody has changed the topology since then.
// After any error, plan again: it goes on from what is there. `timeout_ns` is that of each record.
Task<Status> WriteRecovery(Topology& topology, RecoveryPlan plan, ClusterMap old, Nanos timeout_ns);

}  // namespace pando
