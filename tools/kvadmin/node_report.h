// ReadNodeReport: what the data directory of a stopped node says about its replicas, for the recovery of a topology
// (src/topology/recovery.h).
//
// Threads: one reactor. The caller holds the lock of the store.
#pragma once

#include <string>

#include "src/io/reactor.h"
#include "src/topology/recovery.h"

namespace pando::admin {

// Changes nothing. Damage is not an error but a problem in the report. kInvalidArgument: the directory is not that of a
// node of a cluster. Other errors: its identity or its store file cannot be used.
Task<Result<NodeReport>> ReadNodeReport(Reactor& reactor, std::string data_dir);

}  // namespace pando::admin
