// ExtentAllocator: keeps track of the blocks in use in a partition's file. One bit per 4-KiB block,
// in groups of 32768 blocks (128 MiB), so that the bitmap of a group is exactly one block on disk
// and only changed groups are written.
//
// Threads: one reactor. Memory: 1/32768 of the file, and as much again where extents are transient.
//
// Invariants
//   A1  Allocate returns blocks that were free, and marks them used before it returns.
//   A2  Freeing a block that is not in use is a bug (CHECK): the accounting of extents is exact.
//   A3  Blocks that a durable root may still reach are never free here. The caller holds such
//       extents back (DeadList).
//   A4  Space that is set aside is free but not allocated, because the file system may not hold it
//       for the file. It becomes available again (Return) once the file system holds it.
//   A5  Transient blocks are in use, but free in the stored bitmap: only this process needs them, so
//       the next one finds them free.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/buffer_pool/extent.h"

namespace pando {

class ExtentAllocator {
 public:
  static constexpr uint32_t kGroupBlocks = static_cast<uint32_t>(kBlockBytes) * 8;

  // Starts with a file of `blocks` blocks, all free.
  explicit ExtentAllocator(uint64_t blocks) { Grow(blocks); }

  // Allocates a run of `blocks` (1 to 32767), or returns none when no group has such a run.
  // Continues where it last allocated, so that extents written together lie together. Leaves a
  // group only when it has no room.
  std::optional<Extent> Allocate(uint32_t blocks);
  // Allocates up to kChunkBlocks blocks for a page that was at `last` before (empty: nowhere), near the pages at
  // `near`, the first kMaxNeighbors of which count: in the chunk with the most of them that has room. If there is none,
  // in the chunk of `last`, else in one of the same group as the neighbors with much room. None: use Allocate.
  static constexpr size_t kMaxNeighbors = 16;
  std::optional<Extent> AllocateNear(uint32_t blocks, Extent last, std::span<const Extent> near);
  // Whether another chunk has room to spare for the page at `place`, and clearly more of its neighbors.
  bool HasBetterPlace(Extent place, std::span<const Extent> near) const;
  void Free(Extent extent);  // no longer transient either
  // Marks a given extent as used: the superblocks, and extents found by recovery or the checker.
  void MarkUsed(Extent extent);
  // Sets the length of the file. It never shrinks.
  void Grow(uint64_t total_blocks);
  bool IsUsed(uint64_t block) const;

  uint64_t total_blocks() const { return total_blocks_; }
  // Blocks available for allocation, without those set aside.
  uint64_t free_blocks() const { return free_blocks_; }
  uint64_t used_blocks() const { return total_blocks_ - free_blocks_ - set_aside_blocks_; }

  // -- space set aside: chunks of free blocks that are, or may be, holes, which means that the file
  // system no longer holds them for the file.
  static constexpr uint32_t kChunkBlocks = 64;  // 256 KiB: one word of a bitmap
  static constexpr uint32_t kChunksPerGroup = kGroupBlocks / kChunkBlocks;
  uint64_t set_aside_blocks() const { return set_aside_blocks_; }
  uint64_t hole_blocks() const { return hole_blocks_; }
  // Sets aside every chunk that is entirely free. For a file that has just been opened: any of
  // these may be holes.
  void SetAsideFreeChunks();
  // Sets aside a run of up to `blocks` blocks and returns it. The run consists of chunks that are
  // set aside but not known to be holes and, with `free_too`, chunks that are entirely free.
  // Searches from the end of the file to its start, a bounded number of groups per call. Returns
  // none when these groups have no such chunk.
  std::optional<Extent> TakeToRelease(uint64_t blocks, bool free_too);
  // Records that the run is a hole. TakeToRelease returned it, or an attempt to reclaim it failed.
  void NoteHole(Extent run);
  // A run of chunks set aside, of at least `least` and at most about `most` blocks, that does not
  // overlap `except`. Runs without known holes come first.
  std::optional<Extent> FindSetAside(uint32_t least, uint32_t most, Extent except) const;
  // Makes the run free again: the file system holds it for the file once more.
  void Return(Extent run);

  // -- transient blocks (A5). The caller ensures that no root on disk reaches the extent, which is
  // in use. Both may be called again for the same extent.
  void SetTransient(Extent extent);
  void ClearTransient(Extent extent);

  // -- persistence. The stored bitmap of a group is kBlockBytes long, 1 = used.
  uint32_t group_count() const { return static_cast<uint32_t>(groups_.size()); }
  bool group_changed(uint32_t group) const { return groups_[group].changed; }
  void ClearChanged(uint32_t group) { groups_[group].changed = false; }
  void MarkChanged(uint32_t group) { groups_[group].changed = true; }
  // Blocks past the end of the file, those set aside, and transient ones are free in `bitmap`.
  void EncodeGroup(uint32_t group, char* bitmap) const;
  void LoadGroup(uint32_t group_index, const char* bitmap);

 private:
  struct Group {
    std::vector<uint64_t> words;      // up to the end of the file; blocks past the end are used
    std::vector<uint64_t> transient;  // empty: none is; else as long as `words`, or shorter
    uint32_t transient_blocks = 0;
    uint32_t free = 0;
    uint32_t cursor = 0;        // where the next search starts
    uint32_t longest_hint = 0;  // no free run is longer than this
    bool changed = false;
    std::bitset<kChunksPerGroup> aside, hole;  // every hole is also set aside
  };
  Extent ChunksOf(uint32_t group, uint32_t first, uint32_t count) const {
    return Extent::Of(uint64_t{group} * kGroupBlocks + first * kChunkBlocks, count * kChunkBlocks);
  }
  std::optional<Extent> FindSetAsideIn(uint32_t index, uint32_t least, uint32_t most, Extent except, bool holes) const;
  void SetAside(Group* group, uint32_t chunk);
  void SetRange(uint64_t block, uint32_t blocks, bool used);
  std::optional<uint32_t> FindRun(Group& group, uint32_t blocks);
  struct NearChunk {
    uint64_t chunk = 0;
    uint32_t neighbors = 0;
  };
  size_t CountNear(std::span<const Extent> near, NearChunk* chunks) const;
  std::optional<Extent> TakeIn(uint64_t chunk, uint32_t blocks);
  uint64_t RoomyChunk(uint32_t near);
  uint64_t WordOf(uint64_t chunk) const { return groups_[chunk / kChunksPerGroup].words[chunk % kChunksPerGroup]; }

  std::vector<Group> groups_;
  uint64_t total_blocks_ = 0;
  uint64_t free_blocks_ = 0;
  uint64_t set_aside_blocks_ = 0, hole_blocks_ = 0;
  uint32_t current_group_ = 0;
  uint32_t roomy_group_ = 0;    // where RoomyChunk continues
  uint32_t release_group_ = 0;  // where TakeToRelease continues; 0: at the end of the file
};

}  // namespace pando
