// kvadmin topology recover: makes the map of a cluster anew from the data directories of its stopped nodes.
#pragma once

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

void AddTopologyRecoverCommand(tools::Command topology, Globals* globals);

}  // namespace pando::admin
