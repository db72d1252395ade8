// RestorePartition: creates the file of one partition from a backup.
//
// Threads: one reactor.
#pragma once

#include "src/backup/restore.h"
#include "tools/kvadmin/backup_manifest.h"

namespace pando::admin {

// `*chain` outlives the call. kCorruption: the backup is damaged.
Task<Status> RestorePartition(Reactor* reactor, const BackupChain* chain, uint32_t id, PartitionFileOptions options,
                              BackupProgress on_progress);

}  // namespace pando::admin
