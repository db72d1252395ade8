// JudgeCluster: whether a cluster is well, why not, and what to do next.
//
// Threads: plain values.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

// kDegraded: every partition serves, but something is missing, or is not as it should stay. kUnavailable: a partition
// does not serve.
enum class Health { kOk, kDegraded, kUnavailable };
std::string_view HealthName(Health health);

struct NodeHealth {
  NodeId node = 0;
  std::string zone, address;
  std::string problem;   // why it does not answer; empty: it does
  std::string trouble;   // what is wrong although it answers, in short; empty: nothing
  size_t disk_full = 0;  // partitions for whose writes its disk has no room
  // Replicas that it has tried to install in vain, and why, as it says of the first.
  size_t not_installed = 0;
  uint32_t first_not_installed = 0;  // its partition
  std::string install_problem;
  size_t masters = 0, followers = 0, installing = 0;
  bool draining = false;
  size_t held = 0;  // partitions that name it, as far as the map says
};

struct PartitionHealth {
  uint32_t partition = 0;
  SplitStage stage = SplitStage::kServing;
  Health health = Health::kOk;
  Epoch epoch = 0;
  NodeId master = 0;  // 0: none
  std::vector<NodeId> in_sync, missing;
  uint32_t replicas = 0, min_isr = 0;
  // Of the follower that is the furthest behind, as the master knows it. Less than 0: of some it does not know it, and
  // those of which it does lack nothing.
  int64_t behind_records = 0, behind_ms = 0;
  std::vector<std::string> problems;
  bool quarantined = false, few = false, lagging = false;
  bool knows_more = false;           // its master has told at least as much as the map
  std::vector<NodeId> on_full_disk;  // those that say that their disk is full
  std::vector<NodeId> adding;        // those that are being given a replica
  bool extra = false;                // it has more replicas than it should have, and none is being added
  bool reduced = false;              // it has fewer replicas than new partitions of the cluster get
  NodeId unheard = 0;  // a node that answers, but whose replica the master has not heard for long; 0: none
  // Too few of its replicas are left to elect a master. Then this one could take it over by force; 0: none could.
  bool stuck = false, force_loses = false;
  NodeId force_on = 0;
  // Its master is there, and with this min_isr it could go on with what is left, without a loss; 0: it could not.
  uint32_t lower_min_isr = 0;
  std::string stale;  // why the topology is not to be trusted in this; empty: it is, as far as is known
};

// A split that runs, as the node of the partition's master says.
struct SplitHealth {
  uint32_t partition = 0;
  std::array<uint32_t, 2> halves = {};
  NodeId node = 0;    // of the master; 0: there is none
  std::string phase;  // empty: no node says
  uint64_t copied_bytes = 0, total_bytes = 0;
  uint32_t rate_mb_s = 0;
  std::string waits_for;  // a sentence; empty: nothing
};

// What the nodes say of the topology.
struct TopologyHealth {
  std::vector<NodeId> without;  // those that answer, and cannot follow it
  std::string problem;          // why, as the first of them says; empty: all is well
  int64_t silent_ms = 0;        // for so long one of them has not read it
  bool went_back = false;       // an older copy of it, or another one, is in its place
};

// Who replaces nodes that stay away and balances traffic, and what it is about to replace.
struct ControllerHealth {
  NodeId holder = 0;            // 0: nobody
  int64_t replace_after_s = 0;  // 0: never
  int64_t wanted_nodes = 0;     // by the traffic; 0: unknown, or nobody measures it
  std::vector<std::string> plans;
};

struct ClusterHealth {
  Health health = Health::kOk;
  std::string cause, next;  // empty if all is well
  TopologyHealth topology;
  ControllerHealth controller;
  std::vector<NodeHealth> nodes;
  std::vector<PartitionHealth> partitions;  // those in use
  std::vector<SplitHealth> splits;

  bool PartitionsAreWell() const {
    return std::all_of(partitions.begin(), partitions.end(), [](const auto& p) { return p.health == Health::kOk; });
  }
};

ClusterHealth JudgeCluster(const ClusterView& view);
// Of a partition that is being split, or whose halves are being opened or given up.
SplitHealth JudgeSplit(const ClusterView& view, uint32_t partition);

}  // namespace pando::admin
