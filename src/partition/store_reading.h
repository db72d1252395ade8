// What those who read or build a store without serving it need to know of it, beside store.h.
//
// Threads: one reactor.
#pragma once

#include "src/partition/store.h"

namespace pando {

// A file that marks a directory as not finished by its maker (kvadmin restore, who calls CreateStoreOf in it all the
// same). OpenStore never creates a store in such a directory: half a store must not be taken for a new one.
inline constexpr char kUnfinishedName[] = "UNFINISHED";

// LockStore for readers, who exclude a node but not each other, and change nothing: the media may be read-only. Where
// there is no lock file (the store was copied without it) and none can be created, the file that is returned is closed.
Task<Result<File>> LockStoreForReading(Reactor& reactor, std::string data_dir);

}  // namespace pando
