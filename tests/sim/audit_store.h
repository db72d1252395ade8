// AuditStore checks a store that no node has open. (It is apart from the rest because
// src/verify/check.h and src/node/node_options.h both have a CheckOptions.)
//
// Threads: that of the reactor.
#pragma once

#include <string>

#include "src/io/reactor.h"

namespace pando {

// Returns the first problem that CheckStore finds, or "".
Task<std::string> AuditStore(Reactor& reactor, std::string data_dir);

}  // namespace pando
