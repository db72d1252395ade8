// Verifies a partition's backup, and restores it: the pages are written to their original
// locations, with new metadata around them.
//
// Threads: one reactor.
#pragma once

#include <functional>

#include "src/backup/backup_reader.h"
#include "src/model/types.h"
#include "src/partition/partition_file.h"
#include "src/verify/check.h"

namespace pando {

using BackupProblem = std::function<void(CheckProblem)>;
// Called before each read with the blocks read so far. An error ends the walk, which returns it.
using BackupProgress = std::function<Status(uint64_t blocks)>;

// Checks that everything reachable from the root is present, intact, and in order (TreeCheck).
// Damage is passed to `on_problem`. Its offset is that of the page in the partition that was backed
// up.
Task<Result<TreeCheckCounts>> CheckBackup(Reactor& reactor, BackupReader* backup, SnapshotRoot root, std::string name,
                                          BackupProblem on_problem, BackupProgress on_progress);

// Does the same while it writes the partition's file, which must not exist yet. The result is a
// partition of generation root.generation + 1 whose log begins after root.lsn. Returns kCorruption
// with the first problem in the backup, or the error of the first write that failed. The file is
// then not a valid partition.
Task<Status> RestorePartitionFile(Reactor& reactor, BackupReader* backup, SnapshotRoot root,
                                  PartitionFileOptions options, BackupProgress on_progress);

}  // namespace pando
