// PartitionFile: the file a partition's tree lives in: superblocks, allocation bitmaps, dead lists, growth, and what
// goes back to the file system.
//
// Threads: one reactor.
//
// Invariants
//   D1  No block that a valid superblock slot reaches is ever written: what generation N frees becomes reusable only
//       once generation N+1 is durable.
//   D2  The bitmap a checkpoint writes marks exactly what its root, its metadata and its dead list reach, and what the
//       previous checkpoint reaches; blocks taken since for later generations are free in it, so a crash leaks nothing.
//   D3  A superblock is written only after everything it refers to has been flushed.
//   D4  Blocks that are free to be given out are held for the file by the file system; what it may not hold is set
//       aside. A hole is made only of blocks that are free, and nobody is given them while it is.
//   D5  Nothing in the metadata needs contiguous space: a checkpoint needs MetadataBlocks() free blocks, wherever they
//       lie.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "src/btree/tree.h"
#include "src/buffer_pool/extent_allocator.h"
#include "src/io/directory.h"
#include "src/partition/meta_chain.h"
#include "src/partition/superblock.h"

namespace pando {

struct PartitionFileOptions {
  std::string path;
  Uuid node;
  Uuid partition;
  uint32_t page_bytes = 0;
  // The store's directory, when it is open, and the file's name in it: moving the store changes no file. Outlives the
  // file.
  const Directory* store = nullptr;
  std::string name = {};
};

// Damage to the metadata, for the checker.
struct MetaDamage {
  uint64_t offset_bytes = 0;
  std::string what;
};

// Makes an empty partition's file: generation 1, one empty leaf. Replaces what a crashed creation left.
Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options);

class PartitionFile final : public TreeStorage {
 public:
  // Opens and reads superblocks, bitmaps and the dead list. Errors name the file and the offset. With `damage`, for the
  // checker, what is wrong with anything but the superblocks is put there instead; bitmaps and dead list then do not
  // count.
  static Task<Result<std::unique_ptr<PartitionFile>>> Open(Reactor& reactor, PartitionFileOptions options,
                                                           bool read_only, std::vector<MetaDamage>* damage = nullptr);
  Task<Status> Close() { return file_.Close(); }

  // What the newest checkpoint says.
  const Superblock& superblock() const { return superblock_; }
  Lsn older_checkpoint_lsn() const { return older_lsn_; }
  const ExtentAllocator& allocator() const { return allocator_; }
  uint64_t pending_free_blocks() const { return pending_free_blocks_; }

  // -- checkpoints: EndGeneration together with Tree::EndGeneration, Commit with the root that was written.
  void EndGeneration(Generation frozen);
  // `content` carries generation, epoch, LSN, version, next page id, root and level; the rest is filled in here.
  // kDiskFull leaves everything as it was, to be tried again.
  Task<Status> Commit(Superblock content);

  // -- snapshots: while a generation is held, what it may refer to is not reused. Ephemeral: after a restart none is
  // held and everything that was becomes free. Each hold is released once.
  void HoldGeneration(Generation generation) { ++held_[generation].holds; }
  void ReleaseGeneration(Generation generation);  // in time proportional to what died since it was held
  // Holds the newest durable generation, as superblock() has it: its tree, not its metadata. Only while mid_commit() is
  // false. In time proportional to what died since it ended.
  Generation HoldNewest();
  // Between the moment that fixes what a checkpoint's metadata says and the one when it is durable: superblocks on disk
  // may be half written.
  bool mid_commit() const { return serialized_; }
  uint64_t held_blocks() const { return held_blocks_; }
  // Extents held, of which each is an entry of every dead list written meanwhile.
  uint64_t held_extents() const;

  // -- admission: makes sure that `blocks` are free, growing the file; kDiskFull when it cannot. They are not reserved.
  Task<Status> EnsureFreeBlocks(uint64_t blocks);
  // What the metadata of the next checkpoint takes at most, as things are now.
  uint64_t MetadataBlocks() const;

  // -- giving back: makes a hole of up to `blocks` blocks that are free, so that the file system can use them for other
  // files, unless fewer than `keep_free` stay free. Returns how many; 0: there was nothing. kUnsupported: this file
  // system makes no holes. One call at a time, and none when the file is closed.
  Task<Result<uint64_t>> ReleaseSpace(uint64_t blocks, uint64_t keep_free);

  // Where errors go that nobody waits for.
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
  // Of the group directory and the dead list.
  const std::vector<Extent>& metadata_pieces() const { return pieces_; }

 private:
  // Where a checkpoint's metadata goes: by group, or empty; then the pieces of both chains.
  struct MetaPlaces {
    std::vector<Extent> bitmaps, directory, dead;
  };

  PartitionFile(Reactor& reactor, PartitionFileOptions options)
      : options_(std::move(options)), allocator_(0), grown_(reactor) {}
  Task<Status> Load();
  MetaChainReader ChainReader();
  Task<Status> LoadGroups();
  Task<Status> LoadDeadList();
  Status CheckDeadList() const;
  Status Damaged(uint64_t offset_bytes, Status status);
  // partition_space.cc
  Task<Status> Grow(uint64_t blocks, uint32_t run);
  Task<Status> TakeBack(uint32_t least, uint64_t blocks, bool* returned);
  Task<Status> Extend(uint64_t blocks, uint32_t run);
  Task<Result<Extent>> Allocate(uint32_t blocks);
  // partition_commit.cc
  Task<Status> AllocatePieces(uint64_t entries, std::vector<Extent>* pieces, bool* took);
  Task<Status> AllocateMeta(MetaPlaces* places);
  void TrimPieces(uint64_t entries, std::vector<Extent>* pieces);
  void ListDead(const MetaPlaces& places, std::vector<DeadExtent>* dead, std::vector<DeadExtent>* dead_on_disk) const;
  std::vector<MetaWrite> EncodeBitmaps(const MetaPlaces& places, std::vector<GroupEntry>* groups);
  std::vector<MetaWrite> Serialize(Superblock* next, MetaPlaces* places, std::vector<GroupEntry>* groups,
                                   std::vector<DeadExtent>* dead);
  Task<Status> WriteMeta(std::vector<MetaWrite> writes);
  Task<Status> WriteSuperblock(Superblock* next);
  void ReleaseMeta(const MetaPlaces& places);

  PartitionFileOptions options_;
  File file_;
  ExtentAllocator allocator_;
  Superblock superblock_;
  Lsn older_lsn_ = 0;
  std::vector<GroupEntry> groups_;        // as the newest superblock has them
  std::vector<Extent> pieces_;            // of its directory and its dead list
  std::vector<DeadExtent> dead_current_;  // freed in the current generation
  std::vector<DeadExtent> dead_frozen_;   // freed in the generation being checkpointed
  std::vector<DeadExtent> dead_newest_;   // freed in the newest durable generation; reusable after the next is durable
  // By held generation: extents that died since, which it or an older held one may refer to, and no younger held one
  // (the dead lists of ZFS).
  struct HeldExtent {
    DeadExtent dead;
    Generation died = 0;
  };
  struct Held {
    uint32_t holds = 0;
    std::vector<HeldExtent> extents;
    size_t at_end[2] = {0, 0};  // how many there were when the last generation ended, and the one before it
  };
  std::map<Generation, Held> held_;
  uint64_t held_blocks_ = 0;
  uint64_t pending_free_blocks_ = 0;
  bool checkpointing_ = false;
  bool serialized_ = false;           // what the checkpoint's dead list holds is fixed
  Generation frozen_generation_ = 0;  // the one being checkpointed, or checkpointed last
  // Packed extents that are taken in memory, yet not part of the generation being checkpointed: those of younger
  // generations, and those that no page or record refers to (not written or applied yet, or dropped while in use).
  std::unordered_set<uint64_t> young_;
  std::unordered_set<uint64_t> unreferenced_;
  bool growing_ = false;
  WaitQueue grown_;
  Extent releasing_;  // of which a hole is being made
  std::function<void(const Status&)> on_io_error_;
  std::vector<MetaDamage>* damage_ = nullptr;  // during a checker's Open
};

}  // namespace pando
