// Handing masterships over, one after the other, without an error for any client.
//
// What is handed over, and to whom, is decided from one look at the cluster. Each request names the epoch that
// was seen then, so that nothing that has changed meanwhile is undone.
//
// Threads: one.
#pragma once

#include <vector>

#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/master_plan.h"

namespace pando::admin {

Json MoveJson(const MasterMove& move);
// The first epoch in which the new master leads.
int64_t FirstEpochAfter(const MasterMove& move);
Result<api::HandoverReply> HandOver(const Globals& globals, const ClusterView& view, const MasterMove& move);
// One after the other; ends at the first that fails, or when all new masters lead. Prints what it does.
Result<ExitCode> HandOverAll(const Globals& globals, const ClusterView& view, const std::vector<MasterMove>& moves,
                             bool dry_run);
// Lets each active node that answers lead its share of the partitions (PlanRebalance).
Result<ExitCode> BalanceMasters(const Globals& globals, const ClusterView& view, bool dry_run);
// Lets the node lead none (PlanDrain).
Result<ExitCode> DrainMasters(const Globals& globals, const ClusterView& view, NodeId node, bool dry_run);

}  // namespace pando::admin
