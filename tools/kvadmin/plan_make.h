// Makes a plan of moves from a look at a cluster, and shows plans.
//
// Threads: one.
#pragma once

#include <map>
#include <string>

#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/plan_file.h"

namespace pando::admin {

struct PlanOptions {
  std::string place;
  uint64_t mb_per_s = 100;  // at which a node is expected to take pages
};

// A plan after which each node holds its share, or, with a node to be `emptied` (0: none), that holds nothing. A
// partition is counted with at least 1 MiB. kUnavailable: too little is known, because a node or a master does not
// answer.
Result<PlanFile> MakePlan(const Globals& globals, const PlanOptions& options, NodeId emptied);

// What the partitions take on the disks of their masters, in bytes: at least 1 MiB each. Those without a master are
// left out. An error is that of a node that does not answer the question.
Result<std::map<uint32_t, uint64_t>> SizesOf(const Globals& globals, const ClusterView& view);

// Prints the nodes, the moves and the sums, as text or as one JSON object.
void ShowPlan(const Globals& globals, const PlanFile& plan);

}  // namespace pando::admin
