// CopiedTree: verifies a tree that was copied page by page, and makes a partition's file of it: the pages
// are where they were in the partition that they come from, and new metadata is written around them.
//
// Threads: one reactor.
#pragma once

#include <functional>
#include <string>

#include "src/buffer_pool/extent_allocator.h"
#include "src/model/types.h"
#include "src/partition/partition_file_options.h"
#include "src/verify/check_problem.h"
#include "src/verify/tree_check.h"

namespace pando {

class CopiedTree final : private TreeCheckHost {
 public:
  static constexpr size_t kReadsInFlight = 32;
  // The memory that WriteMetadata and the bitmap take for a file of so many blocks.
  static uint64_t MemoryBytes(uint64_t blocks);

  // Called for damage; offsets are those in the partition.
  using Problem = std::function<void(CheckProblem)>;
  // Called before each read with the blocks read so far. An error ends the walk.
  using Progress = std::function<Status(uint64_t blocks)>;

  // `form`: of the store that the pages come from. `name`: of the copy, for messages; `advice`: what to do about
  // damage. Reads `reads` leaves or their values at the same time.
  CopiedTree(Reactor& reactor, TreeForm form, const SnapshotRoot& root, std::string name, std::string advice,
             Problem on_problem, Progress on_progress, size_t reads = kReadsInFlight);

  // Checks everything that is reachable from the root (TreeCheck).
  Task<void> Walk(PageSource* pages);
  // Ends the walk before its end. Later problems are not reported.
  void Stop(Status why) {
    if (stopped_.ok()) stopped_ = std::move(why);
  }
  // OK if the walk reached its end.
  const Status& stopped() const { return stopped_; }
  const TreeCheckCounts& counts() const { return counts_; }

  // After a walk without problems, over pages that are in `file` now: writes the bitmaps, the group
  // directory, and the superblocks, and makes all of it durable. The result is a partition of generation
  // root.generation + 1 whose log begins after root.lsn.
  Task<Status> WriteMetadata(File* file, PartitionFileOptions options);

 private:
  Task<bool> MayRead(uint64_t bytes) override;
  bool OnExtent(Extent extent, std::string_view owner) override;
  void OnProblem(uint64_t offset_bytes, std::string what, std::string_view advice) override;

  Reactor& reactor_;
  const TreeForm form_;
  const SnapshotRoot root_;
  const std::string name_, advice_;
  const Problem on_problem_;
  const Progress on_progress_;
  const size_t reads_;
  ExtentAllocator blocks_;
  uint64_t read_blocks_ = 0;
  TreeCheckCounts counts_;
  Status stopped_;
};

}  // namespace pando
