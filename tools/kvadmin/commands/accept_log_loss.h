// kvadmin accept-loss --log: shows what is lost of a log that is damaged as a whole, and accepts it.
//
// Threads: one.
#pragma once

#include <string>

#include "src/partition/store.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

// `confirm` is empty: shows the loss only. The caller holds the store's lock.
Task<Result<ExitCode>> ShowOrAcceptLogLoss(Reactor* reactor, const Globals* globals, StoreInfo store, uint32_t log,
                                           std::string confirm);

}  // namespace pando::admin
