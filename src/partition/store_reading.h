// Declarations for code that reads or builds a store without serving it, in addition to store.h.
//
// Threads: one reactor.
#pragma once

#include "src/partition/store.h"

namespace pando {

// The name of a file that marks a directory as unfinished. kvadmin restore creates it and then
// calls CreateStoreOf in that directory. OpenStore refuses a directory with this mark: half a store
// must not be mistaken for a new one, and a complete one still belongs to the restore.
inline constexpr char kUnfinishedName[] = "UNFINISHED";

// Like LockStore, but for readers: they exclude a node but not each other. They change nothing, so
// the media may be read-only. If the lock file is missing (the store was copied without it) and
// cannot be created, the returned file is closed.
Task<Result<File>> LockStoreForReading(Reactor& reactor, std::string data_dir);

}  // namespace pando
