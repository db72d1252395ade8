// PartitionFile: the file that stores a partition's tree. It manages the superblocks, the
// allocation bitmaps, the dead lists, file growth, and the return of free space to the file system.
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

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "src/btree/tree.h"
#include "src/buffer_pool/extent_allocator.h"
#include "src/io/directory.h"
#include "src/io/sync.h"
#include "src/io/turn_budget.h"
#include "src/partition/meta_chain.h"
#include "src/partition/superblock.h"

namespace pando {

struct PartitionFileOptions {
  std::string path;
  Uuid node;
  Uuid partition;
  uint32_t page_bytes = 0;
  // The open store directory, and the file's name relative to it. Opening the file this way keeps
  // working when the store is moved. Null: the file is opened by `path`. The directory outlives the
  // file.
  const Directory* store = nullptr;
  std::string name = {};
  // The budget that the long loops of this reactor share. It outlives the file. Null: the file uses
  // a budget of its own.
  TurnBudget* turn = nullptr;
};

// Damage to the metadata, for the checker.
struct MetaDamage {
  uint64_t offset_bytes = 0;
  std::string what;
};

// Creates the file of an empty partition: generation 1 with one empty leaf. Replaces whatever a
// crashed creation left.
Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options);

class PartitionFile final : public TreeStorage {
 public:
  // Opens the file and reads its superblocks, bitmaps, and dead list. Errors name the file and the
  // offset. The checker passes `damage`: damage to anything but the superblocks is then recorded
  // there instead of failing the call, and the caller must not rely on the bitmaps and the dead
  // list.
  static Task<Result<std::unique_ptr<PartitionFile>>> Open(Reactor& reactor, PartitionFileOptions options,
                                                           bool read_only, std::vector<MetaDamage>* damage = nullptr);
  Task<Status> Close();

  // State of the newest checkpoint.
  const Superblock& superblock() const { return superblock_; }
  Lsn older_checkpoint_lsn() const { return older_lsn_; }
  const ExtentAllocator& allocator() const { return allocator_; }
  uint64_t pending_free_blocks() const { return pending_free_blocks_; }

  // -- checkpoints: call EndGeneration together with Tree::EndGeneration, and Commit with the root
  // that was written.
  void EndGeneration(Generation frozen);
  // `content` carries the generation, epoch, LSN, version, next page ID, root, and root level.
  // Commit fills in the rest. On kDiskFull nothing has changed, and the caller can retry.
  Task<Status> Commit(Superblock content);

  // -- snapshots: while a generation is held, the blocks it may refer to are not reused. Holds are
  // not persistent: a restart drops all of them and frees the blocks they retained. Release each
  // hold once.
  void HoldGeneration(Generation generation) { ++held_[generation].holds; }
  // Extents that only this generation needed become free in the background, in slices.
  void ReleaseGeneration(Generation generation);
  // Released generations still retain extents, because their lists are being walked.
  bool releasing_generations() const { return releasing_generations_; }
  // Holds the tree (not the metadata) of the newest durable generation and returns the superblock
  // of that generation. Waits for a running commit. Takes time proportional to the number of
  // extents that died since that generation ended.
  Task<Superblock> HoldNewest();
  // True from the moment that fixes the contents of a checkpoint's metadata until that metadata is
  // durable. Superblocks on disk may be half written during this time.
  bool mid_commit() const { return serialized_; }
  uint64_t held_blocks() const { return held_blocks_; }
  // Number of extents retained by holds. Each one is an entry in every dead list written meanwhile.
  uint64_t held_extents() const;

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

  // Receives the I/O errors that no caller waits for.
  void set_on_io_error(std::function<void(const Status&)> handler) { on_io_error_ = std::move(handler); }

  // -- TreeStorage
  File& file() override { return file_; }
  const Uuid& uuid() const override { return options_.partition; }
  Task<Result<Extent>> AllocateForWrite(uint32_t blocks) override;
  void FreeNow(Extent extent) override;
  void AdoptExtent(Extent extent, Generation birth) override;
  void OrphanExtent(Extent extent) override;
  void FreeLater(DeadExtent dead) override;
  void OnIoError(const Status& status) override;

  // For the checker.
  const PartitionFileOptions& options() const { return options_; }
  const std::vector<GroupEntry>& group_entries() const { return groups_; }
  const std::vector<DeadExtent>& dead_of_newest() const { return dead_newest_; }
  // Extents of the group directory and the dead list.
  const std::vector<Extent>& metadata_pieces() const { return pieces_; }

 private:
  // Where a checkpoint's metadata goes: one bitmap block per group (empty if the group is
  // unchanged), then the pieces of both chains.
  struct MetaPlaces {
    std::vector<Extent> bitmaps, directory, dead;
  };

  // An extent that died, with the generation in which it died.
  struct DiedExtent {
    DeadExtent dead;
    Generation died = 0;
  };

  PartitionFile(Reactor& reactor, PartitionFileOptions options)
      : reactor_(reactor),
        options_(std::move(options)),
        own_turn_(reactor),
        turn_(options_.turn ? *options_.turn : own_turn_),
        allocator_(0),
        lists_(reactor, 1),
        grown_(reactor) {}
  Task<Status> Load();
  MetaChainReader ChainReader();
  Task<Status> LoadGroups();
  Task<Status> LoadDeadList();
  Task<Status> CheckDeadList();
  Status Damaged(uint64_t offset_bytes, Status status);
  // partition_space.cc
  Task<Status> Grow(uint64_t blocks, uint32_t run);
  Task<Status> TakeBack(uint32_t least, uint64_t blocks, bool* returned);
  Task<Status> Extend(uint64_t blocks, uint32_t run);
  Task<Result<Extent>> Allocate(uint32_t blocks);
  // partition_commit.cc
  Task<Status> AllocatePieces(uint64_t entries, std::vector<Extent>* pieces, bool* took);
  Task<Status> AllocateMeta(uint64_t dead_entries, MetaPlaces* places);
  void TrimPieces(uint64_t entries, std::vector<Extent>* pieces);
  std::vector<DeadExtent> MetadataThatDies(const MetaPlaces& places) const;
  Task<void> ListDead(std::vector<DeadExtent>* dead, std::vector<DeadExtent>* dead_on_disk);
  std::vector<MetaWrite> CopyBitmaps(const MetaPlaces& places);
  Task<void> ClearUnreached(std::vector<Extent> unreached, std::span<const Extent> bitmaps,
                            std::vector<MetaWrite>* writes);
  Task<std::vector<MetaWrite>> Serialize(Superblock* next, MetaPlaces* places, std::vector<GroupEntry>* groups,
                                         std::vector<DeadExtent>* dead, std::vector<DeadExtent>* dead_on_disk);
  Task<Status> WriteMeta(std::vector<MetaWrite> writes);
  Task<Status> WriteSuperblock(Superblock* next);
  Task<Status> CommitLists(Superblock next, std::vector<DeadExtent>* freed);
  void ReleaseMeta(const MetaPlaces& places);
  // partition_lists.cc
  void Place(const DiedExtent& extent);
  Task<void> PlaceHeld(std::deque<DiedExtent> extents);
  Task<void> PlaceDead(std::vector<DeadExtent> extents, Generation died);
  Task<void> PlaceReleased();

  Reactor& reactor_;
  const PartitionFileOptions options_;
  TurnBudget own_turn_;
  TurnBudget& turn_;
  File file_;
  ExtentAllocator allocator_;
  Superblock superblock_;
  Lsn older_lsn_ = 0;
  std::vector<GroupEntry> groups_;        // as the newest superblock has them
  std::vector<Extent> pieces_;            // of its directory and its dead list
  std::vector<DeadExtent> dead_current_;  // freed in the current generation
  std::vector<DeadExtent> dead_frozen_;   // freed in the generation being checkpointed
  // Freed in the newest durable generation; reusable once the next one is durable.
  std::vector<DeadExtent> dead_newest_;
  // For each held generation: the extents that died since then and that it or an older held
  // generation may refer to, but no younger one. This is the scheme of the dead lists in ZFS.
  struct Held {
    uint32_t holds = 0;
    std::deque<DiedExtent> extents;  // grows without copies
  };
  std::map<Generation, Held> held_;
  // One credit, held by whoever walks the lists above in slices: a commit, a release, or
  // HoldNewest. Everyone else only appends.
  Semaphore lists_;
  uint64_t in_hand_ = 0;  // extents that are moving from one list to another
  bool releasing_generations_ = false;
  TaskGroup tasks_;
  uint64_t held_blocks_ = 0;
  uint64_t pending_free_blocks_ = 0;
  bool checkpointing_ = false;
  bool serialized_ = false;           // the contents of the checkpoint's dead list are fixed
  Generation frozen_generation_ = 0;  // the generation being checkpointed, or the last one that was
  // Packed extents that are allocated in memory but do not belong to the generation being
  // checkpointed. `young_` has those of younger generations. `unreferenced_` has those that no page
  // or record refers to: not written or applied yet, or dropped while in use.
  std::unordered_set<uint64_t> young_;
  std::unordered_set<uint64_t> unreferenced_;
  bool growing_ = false;
  WaitQueue grown_;
  Extent releasing_;  // the hole being punched
  std::function<void(const Status&)> on_io_error_;
  std::vector<MetaDamage>* damage_ = nullptr;  // set during a checker's Open
};

}  // namespace pando
