// PartitionFile: the file that stores a partition's tree. It manages the superblocks, the
// allocation bitmaps, file growth, and the return of free space to the file system. Where extents
// wait until they may be reused is the matter of DeadLists (dead_lists.h). partition_loader.h reads
// the file when it is opened.
//
// Threads: one reactor.
//
// Invariants
//   D1  No block reachable from a valid superblock slot is ever overwritten. Blocks freed in
//       generation N become reusable only once generation N+1 is durable.
//   D2  The bitmaps that a checkpoint writes mark exactly the blocks reachable from its root, its
//       metadata, and its dead list, plus those reachable from the previous checkpoint. Blocks
//       allocated since then for later generations are free in these bitmaps, so a crash leaks
//       nothing.
//   D3  A superblock is written only after everything that it refers to has been flushed.
//   D4  The file system holds space for every free block that can be allocated. Free blocks that
//       may be holes are set aside. A hole is punched only in free blocks, and they cannot be
//       allocated meanwhile.
//   D5  Metadata never needs contiguous space. A checkpoint needs MetadataBlocks() free blocks,
//       located anywhere.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "src/buffer_pool/extent_allocator.h"
#include "src/buffer_pool/page_store.h"
#include "src/io/sync.h"
#include "src/io/turn_budget.h"
#include "src/partition/dead_lists.h"
#include "src/partition/meta_chain.h"
#include "src/partition/partition_file_options.h"
#include "src/partition/partition_loader.h"
#include "src/partition/superblock.h"

namespace pando {

// Creates the file of an empty partition: one generation with one empty leaf, durable. Replaces
// whatever a crashed creation left. Versions up to `last_version` count as given.
Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options, Version last_version = 0,
                                 Generation generation = 1);
// Creates the file that `options` names, or opens it to be replaced.
Task<Result<File>> OpenNewPartitionFile(Reactor& reactor, const PartitionFileOptions& options);

class PartitionFile final : public PageStore {
 public:
  // Opens the file and loads it (LoadPartition, which says what `damage` is for).
  static Task<Result<std::unique_ptr<PartitionFile>>> Open(Reactor& reactor, PartitionFileOptions options,
                                                           bool read_only, std::vector<MetaDamage>* damage = nullptr);
  Task<Status> Close();

  // State of the newest checkpoint.
  const Superblock& superblock() const { return superblock_; }
  Lsn older_checkpoint_lsn() const { return older_lsn_; }
  const ExtentAllocator& allocator() const { return allocator_; }
  uint64_t pending_free_blocks() const { return dead_.pending_blocks(); }

  // -- checkpoints: call EndGeneration together with Tree::EndGeneration, and Commit with the root
  // that was written.
  void EndGeneration(Generation frozen);
  // `content` carries the generation, epoch, LSN, version, next page ID, root, and root level.
  // Commit fills in the rest. On kDiskFull nothing has changed, and the caller can retry.
  Task<Status> Commit(Superblock content);

  // -- snapshots: while a generation is held, the blocks it may refer to are not reused. A restart
  // drops all holds. Release each hold once.
  void HoldGeneration(Generation generation) { dead_.Hold(generation); }
  void ReleaseGeneration(Generation generation) { dead_.Release(generation); }
  bool releasing_generations() const { return dead_.releasing(); }
  // Holds the tree (not the metadata) of the newest durable generation and returns the superblock
  // of that generation. Waits for a running commit.
  Task<Superblock> HoldNewest();
  uint64_t held_blocks() const { return dead_.held_blocks(); }
  uint64_t held_extents() const { return dead_.held_extents(); }
  // True from the moment that fixes the contents of a checkpoint's metadata until that metadata is
  // durable. Superblocks on disk may be half written during this time.
  bool mid_commit() const { return dead_.fixed(); }

  // -- admission: makes sure that `blocks` blocks are free, growing the file if needed. Returns
  // kDiskFull if that is impossible. The blocks are not reserved.
  Task<Status> EnsureFreeBlocks(uint64_t blocks);
  // The most blocks that the next checkpoint's metadata can need in the current state.
  uint64_t MetadataBlocks() const;

  // -- returning space: punches a hole of up to `blocks` free blocks so that the file system can
  // use them for other files, but leaves at least `keep_free` blocks free. Returns the number of
  // blocks; 0 means that there was nothing to release. kUnsupported: the file system cannot punch
  // holes. Make one call at a time, and none once the file is closed.
  Task<Result<uint64_t>> ReleaseSpace(uint64_t blocks, uint64_t keep_free);

  // From now on nothing is written to the file: every call that would returns this error. What is in
  // flight ends. Reads go on.
  void Condemn(const Status& why) {
    if (condemned_.ok()) condemned_ = why;
  }

  // Receives the I/O errors that no caller waits for.
  void set_on_io_error(std::function<void(const Status&)> handler) { on_io_error_ = std::move(handler); }
  // Called when the disk has no room for the file to grow. Returns true if others have given up some.
  void set_make_room(std::function<Task<bool>()> make_room) { make_room_ = std::move(make_room); }

  // -- PageStore
  File& file() override { return file_; }
  const Uuid& uuid() const override { return options_.partition; }
  Task<Result<Extent>> AllocateForWrite(uint32_t blocks) override;
  Task<Result<Extent>> AllocateNear(uint32_t blocks, Extent last, std::span<const Extent> near) override;
  bool HasBetterPlace(Extent place, std::span<const Extent> near) const override {
    return allocator_.HasBetterPlace(place, near);
  }
  void FreeNow(Extent extent) override;
  void AdoptExtent(Extent extent, Generation birth) override;
  void OrphanExtent(Extent extent) override;
  void FreeLater(DeadExtent dead) override { dead_.Add(dead); }
  void OnIoError(const Status& status) override;
  const Status& condemned() const override { return condemned_; }

  // For the checker.
  const PartitionFileOptions& options() const { return options_; }
  const std::vector<GroupEntry>& group_entries() const { return groups_; }
  const std::vector<DeadExtent>& dead_of_newest() const { return dead_.newest(); }
  // Extents of the group directory and the dead list.
  const std::vector<Extent>& metadata_pieces() const { return pieces_; }

 private:
  // Where a checkpoint's metadata goes: one bitmap block per group (empty if the group is
  // unchanged), then the pieces of both chains.
  struct MetaPlaces {
    std::vector<Extent> bitmaps, directory, dead;
  };

  PartitionFile(Reactor& reactor, PartitionFileOptions options)
      : reactor_(reactor),
        options_(std::move(options)),
        own_turn_(reactor),
        turn_(options_.turn ? *options_.turn : own_turn_),
        allocator_(0),
        dead_(reactor, turn_, allocator_),
        grown_(reactor) {}
  // partition_space.cc
  Task<Status> Grow(uint64_t blocks, uint32_t run);
  Task<Status> TakeBack(uint32_t least, uint64_t blocks, bool* returned);
  Task<Status> Extend(uint64_t blocks, uint32_t run);
  Task<Status> TryToExtend(uint64_t blocks, uint32_t run);
  Task<Result<Extent>> Allocate(uint32_t blocks);
  // partition_commit.cc
  Task<Status> AllocatePieces(uint64_t entries, std::vector<Extent>* pieces, bool* took);
  Task<Status> AllocateMeta(uint64_t dead_entries, MetaPlaces* places);
  void TrimPieces(uint64_t entries, std::vector<Extent>* pieces);
  std::vector<DeadExtent> MetadataThatDies(const MetaPlaces& places) const;
  std::vector<MetaWrite> CopyBitmaps(const MetaPlaces& places);
  Task<void> ClearUnreached(std::vector<Extent> unreached, std::span<const Extent> bitmaps,
                            std::vector<MetaWrite>* writes);
  Task<std::vector<MetaWrite>> Serialize(Superblock* next, MetaPlaces* places, std::vector<GroupEntry>* groups,
                                         std::vector<DeadExtent> dead, const std::vector<DeadExtent>* old_metadata);
  Task<Status> WriteSuperblock(const Superblock* next);
  Task<Status> CommitLists(Superblock next, std::vector<DeadExtent>* freed);
  void ReleaseMeta(const MetaPlaces& places);

  Reactor& reactor_;
  const PartitionFileOptions options_;
  TurnBudget own_turn_;
  TurnBudget& turn_;
  File file_;
  ExtentAllocator allocator_;
  Superblock superblock_;
  Lsn older_lsn_ = 0;
  std::vector<GroupEntry> groups_;  // as the newest superblock has them
  std::vector<Extent> pieces_;      // of its directory and its dead list
  DeadLists dead_;
  // Packed extents that are allocated in memory but do not belong to the generation being
  // checkpointed. `young_` has those of younger generations. `unreferenced_` has those that no page
  // or record refers to: not written or applied yet, or dropped while in use.
  std::unordered_set<uint64_t> young_;
  std::unordered_set<uint64_t> unreferenced_;
  bool growing_ = false;
  WaitQueue grown_;
  Extent releasing_;  // the hole being punched
  std::function<void(const Status&)> on_io_error_;
  std::function<Task<bool>()> make_room_;
  Status condemned_;
};

}  // namespace pando
