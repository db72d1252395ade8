// ChangeReactors: gives a store to another number of reactors.
//
// A partition's records are in the log of its reactor, so another number of reactors needs other
// logs. The old ones are recovered by engines of the old number, one after another, and everything
// committed is checkpointed. What is not committed yet is copied to new logs. Then store.meta names
// the new logs instead of the old ones.
//
// Threads: one reactor, which has the store's lock. No engine of the store is open.
//
// Invariants
//   LL1  At every moment, the logs that store.meta names hold all that recovery needs. A crash leaves
//        the old layout or the new one; files of the other one belong to nothing.
//   LL2  A new log begins after the end that any superblock states of an old one, so that a lost log
//        can still be told from an empty one (L6).
#pragma once

#include "src/engine/engine.h"

namespace pando {

// On success, *store describes the store as it is now. `options` are those of the only engine that
// is open at a time; its memory and budgets are those of the whole node. kDiskFull, kUnavailable (a
// partition is quarantined, and needs its old log) and other errors leave the old layout.
Task<Status> ChangeReactors(Reactor& reactor, EngineOptions options, uint32_t reactors, StoreInfo* store);

}  // namespace pando
