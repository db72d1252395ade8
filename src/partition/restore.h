// A partition's backup walked and verified, and restored: its pages put where they were, with new metadata around them.
//
// Threads: one reactor.
#pragma once

#include <functional>

#include "src/partition/backup_reader.h"
#include "src/partition/check.h"
#include "src/partition/partition_file.h"
#include "src/partition/types.h"

namespace pando {

using BackupProblem = std::function<void(CheckProblem)>;
using BackupProgress = std::function<void(uint64_t blocks)>;  // read so far

// Everything below the root: there, intact, and in order (TreeCheck). Damage goes to `on_problem`; an offset is that of
// the page in the partition it was copied from.
Task<TreeCheckCounts> CheckBackup(Reactor& reactor, BackupReader* backup, SnapshotRoot root, std::string name,
                                  BackupProblem on_problem, BackupProgress on_progress);

// The same while it writes the partition's file, which must not exist: then a partition of generation root.generation +
// 1, whose log begins after root.lsn. kCorruption with the first problem; what was written is then no partition.
Task<Status> RestorePartitionFile(Reactor& reactor, BackupReader* backup, SnapshotRoot root,
                                  PartitionFileOptions options, BackupProgress on_progress);

}  // namespace pando
