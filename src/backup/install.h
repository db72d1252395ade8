// Installs a partition: builds its file from the pages of a snapshot that another replica sends
// (PartitionSnapshots: DescribeSnapshot, ReadPages).
//
// The file is of use only once it is complete. If the node crashes before, StoreRoster and RemoveLeftovers
// remove it, and the installation begins again with the first page: what has come would have to be
// verified again, and the snapshot is gone by then, most of the time.
//
// Threads: one reactor. Memory: one batch, and one bit for each block of the file.
//
// Invariants
//   IN1  No page is taken over unverified: each is compared with its checksum when it comes, and the whole
//        tree is walked from the root, as it is on the disk, before a superblock names it.
#pragma once

#include "src/model/types.h"
#include "src/partition/partition_file_options.h"

namespace pando {

// Where the pages come from.
class SnapshotPages {
 public:
  // The next batch; the last one is `exhausted`. In any order. An error ends the installation.
  virtual Task<Result<PageBatch>> Next() = 0;
  // The installation ends: a Next that waits returns an error soon, and so does every later one. May be called
  // at any time, more than once.
  virtual void Cancel() = 0;

 protected:
  ~SnapshotPages() = default;
};

// Creates the file that `options` names, or replaces it. On OK it is complete and durable: its log continues
// after root.lsn, in root.epoch and with root.chain. kCorruption: a page is damaged, missing, or not part of
// the tree. After any error the file is not a valid partition.
Task<Status> InstallPartitionFile(Reactor& reactor, SnapshotPages* pages, SnapshotRoot root,
                                  PartitionFileOptions options);

}  // namespace pando
