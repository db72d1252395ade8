// Installs a partition: builds its file from the pages of a snapshot that another replica sends
// (PartitionSnapshots: DescribeSnapshot, ReadPages).
//
// The file is of use only once it is complete. If the node crashes before, StoreRoster and RemoveLeftovers
// remove it, and the installation begins again with the first page: what has come would have to be
// verified again, and the snapshot is gone by then, most of the time.
//
// The pages may come from a peer that is broken or hostile. What it can make this node take is bounded: each block
// of the file comes once at most for each snapshot, and the memory that depends on what it says is reserved first.
//
// A large partition is copied for so long that its sender cannot keep all of its log meanwhile. It then sends a newer
// snapshot, of which only those pages come that were written after the one before (SnapshotPages::Newer). They lie
// where the sender has them, over pages that the newer snapshot has no use for.
//
// Threads: one reactor. Memory: one batch, some bits for each block of the file, and a few pages and values.
//
// Invariants
//   IN1  No page is taken over unverified: each is compared with its checksum when it comes, and the whole
//        tree is walked from the root, as it is on the disk, before a superblock names it.
//   IN2  What is installed is what this version could have written: every key belongs into the partition, no
//        record is newer than the snapshot, and its numbers leave room to count on.
#pragma once

#include <optional>

#include "src/base/memory_budget.h"
#include "src/model/types.h"
#include "src/partition/partition_file_options.h"
#include "src/verify/tree_form.h"

namespace pando {

// Where the pages come from.
class SnapshotPages {
 public:
  // The next batch; the last one is `exhausted`. In any order. An error ends the installation.
  virtual Task<Result<PageBatch>> Next() = 0;
  // After the last batch: a newer snapshot of the partition, of the same sender, of which Next now returns the pages
  // that were written after the last one; nullopt: the last one will do. Ends after a bounded number of calls.
  virtual Task<Result<std::optional<SnapshotRoot>>> Newer() { co_return std::optional<SnapshotRoot>(); }
  // The installation ends: a Next that waits returns an error soon, and so does every later one. May be called
  // at any time, more than once.
  virtual void Cancel() = 0;

 protected:
  ~SnapshotPages() = default;
};

// Creates the file that `options` names, or replaces it. On OK it is complete and durable: its log continues
// after root.lsn, in root.epoch and with root.chain, where the root is that of the newest snapshot. `form`: of the
// store, with its keys checked (FormOf). `memory`: outlives the call; null: unlimited. kCorruption: a page is damaged,
// missing, not part of the tree, or came twice; a record does not belong there; or the root is one that no partition
// has. kOverloaded: there is no memory for a file of this size. After any error the file is not a valid partition.
Task<Status> InstallPartitionFile(Reactor& reactor, SnapshotPages* pages, SnapshotRoot root, TreeForm form,
                                  MemoryBudget* memory, PartitionFileOptions options);

}  // namespace pando
