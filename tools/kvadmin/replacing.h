// SetReplacing: switches the replacement of nodes that stay away on or off, for a whole cluster, in its topology.
//
// Threads: one.
#pragma once

#include <string>

#include "src/topology/cluster_map.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

// `place`: where the topology is.
Result<ExitCode> SetReplacing(const Globals& globals, const std::string& place, Replacing replacing, bool dry_run);

}  // namespace pando::admin
