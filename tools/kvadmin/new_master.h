// A new master leads some time after the topology has named it: it has to commit the record that begins its epoch, and
// to get a lease. Until then it answers nobody. Whoever has named it waits here until it says that it leads.
//
// Threads: one.
#pragma once

#include <functional>
#include <string>

#include "gen-cpp/cluster_types.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct NewMaster {
  uint32_t partition = 0;
  NodeId node = 0;
  std::string name;   // of the node, for messages
  int64_t epoch = 0;  // it leads in this one, or a later one
};

// How the node is asked, and how the wait is explained if it takes long.
struct MasterQuestion {
  std::function<Result<api::ReplicasReply>()> ask;
  std::function<void(const std::string&)> explain;
  int64_t timeout_ms = 0;
};
// kDeadline: it is named, and does not lead yet. kUnavailable: another node was made master since.
Status WaitUntilLeads(const NewMaster& master, const MasterQuestion& question);

// The same with the node of the cluster. Waits for --timeout-ms.
Status WaitUntilLeads(const Globals& globals, const ClusterView& view, uint32_t partition, NodeId node, int64_t epoch);

}  // namespace pando::admin
