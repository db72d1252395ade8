// TrafficMeter turns the counters that nodes report (Cluster.replicas) into rates, and into what PlanLoad needs.
//
// Two reports of the same process of a node make a rate. Rates are smoothed: half of each new one counts. A partition
// whose master has changed has its last traffic until the new master has been measured, and is not settled.
//
// Threads: plain values.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "gen-cpp/cluster_types.h"
#include "src/topology/cluster_map.h"
#include "src/topology/load_plan.h"

namespace pando {

// Whether a partition may move: it serves and is not being split, all of its replicas are in sync, and there are as
// many as there should be.
bool IsSettled(const PartitionRecord& record);
// Whether the move is still possible, by what the topology says now.
bool IsPossible(const PartitionRecord& record, const LoadMove& move);
// Whether somebody else moves replicas: partitions that are not in `own` have a replica that is being installed or is
// one too many, or a node that drains still holds some.
bool OthersMoveReplicas(const ClusterMap& map, const std::set<uint32_t>& own);

class TrafficMeter {
 public:
  // A report that came at `now_ms`, of a clock that does not go back. What partitions the map does not have is left
  // out. After a report without traffic nothing is known of the node.
  void Take(NodeId node, const api::ReplicasReply& reply, const ClusterMap& map, int64_t now_ms);
  // Forgets nodes and partitions that the map does not have.
  void Keep(const ClusterMap& map);
  // Nodes that serve and have been measured lately, and their partitions. Nothing if one of the active nodes that
  // `reached` names was not: what is not known moves nothing.
  std::optional<LoadInput> Input(const ClusterMap& map, const std::set<NodeId>& reached, int64_t now_ms) const;
  void Clear() { *this = TrafficMeter(); }

  static constexpr int64_t kLatelyMs = 20'000;

 private:
  struct Counts {
    int64_t reads = 0, writes = 0, scans = 0;
  };
  struct Partition {
    Counts counts;
    std::optional<Traffic> rates;  // since when it has led
    bool leads = false;
    uint64_t bytes = 0;
  };
  struct Node {
    int64_t taken_ms = 0, incarnation = 0;
    api::NodeTraffic traffic;
    bool measured = false;   // the rates are known
    bool disk_full = false;  // a replica of it had no room lately
    double busy = 0, requests = 0, request_bytes = 0, latency_ms = 0;
    std::map<uint32_t, Partition> partitions;
  };

  std::map<NodeId, Node> nodes_;
  std::map<uint32_t, Traffic> last_;  // of each partition, at whoever led it
};

}  // namespace pando
