// ExtentAllocator: which blocks of a partition's file are in use: one bit per 4-KiB block, in groups of 32768 blocks
// (128 MiB), so that one group's bitmap is exactly one block on disk and only changed groups are written.
//
// Threads: one reactor. Memory: 1/32768 of the file.
//
// Invariants
//   A1  Allocate returns blocks that were free, and marks them used before it returns.
//   A2  Free of a block that is not in use is a bug (CHECK): the accounting of extents is exact.
//   A3  What a durable root may still reach is never free here: the caller holds such extents back (DeadList).
//   A4  What is set aside is free and is not given out: the file system may not hold it for the file. It comes back
//       (Return) once it does.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "src/buffer_pool/extent.h"

namespace pando {

class ExtentAllocator {
 public:
  static constexpr uint32_t kGroupBlocks = static_cast<uint32_t>(kBlockBytes) * 8;
  static constexpr uint32_t kWordsPerGroup = kGroupBlocks / 64;

  // A file of `blocks` blocks, all free.
  explicit ExtentAllocator(uint64_t blocks) { Grow(blocks); }

  // A run of `blocks` (1..32767), or none when no group has such a run. Goes on where it last allocated, so that what
  // is written together lies together; leaves a group only when it has no room.
  std::optional<Extent> Allocate(uint32_t blocks);
  void Free(Extent extent);
  // Marks a given extent as used: the superblocks, and what recovery or the checker walk.
  void MarkUsed(Extent extent);
  // The file is now this long; it never shrinks.
  void Grow(uint64_t total_blocks);
  bool IsUsed(uint64_t block) const;

  uint64_t total_blocks() const { return total_blocks_; }
  // To be given out: without those set aside.
  uint64_t free_blocks() const { return free_blocks_; }
  uint64_t used_blocks() const { return total_blocks_ - free_blocks_ - set_aside_blocks_; }

  // -- space set aside: chunks of free blocks that the file system holds no longer (holes), or perhaps not.
  static constexpr uint32_t kChunkBlocks = 64;  // 256 KiB: one word of a bitmap
  static constexpr uint32_t kChunksPerGroup = kGroupBlocks / kChunkBlocks;
  uint64_t set_aside_blocks() const { return set_aside_blocks_; }
  uint64_t hole_blocks() const { return hole_blocks_; }
  // Sets aside every chunk that is free as a whole: what a file that is opened may have holes in.
  void SetAsideFreeChunks();
  // Sets aside a run of up to `blocks` of chunks that are free as a whole (with `free_too`), or were set aside but are
  // not known to be holes, and returns it. Goes through the file from its end to its start, a bounded number of groups
  // at a time; none: none was found there.
  std::optional<Extent> TakeToRelease(uint64_t blocks, bool free_too);
  // The run, which TakeToRelease returned or which could not be had back, is known to be a hole.
  void NoteHole(Extent run);
  // A run of chunks set aside, of at least `least` and at most about `most` blocks, that does not touch `except`. Those
  // that may not be holes come first.
  std::optional<Extent> FindSetAside(uint32_t least, uint32_t most, Extent except) const;
  // The file system holds the run for the file again: it is free.
  void Return(Extent run);

  // -- persistence: a group's bitmap is kBlockBytes long, 1 = used; blocks past the file's end read as used.
  uint32_t group_count() const { return static_cast<uint32_t>(groups_.size()); }
  bool group_changed(uint32_t group) const { return groups_[group].changed; }
  void ClearChanged(uint32_t group) { groups_[group].changed = false; }
  void MarkChanged(uint32_t group) { groups_[group].changed = true; }
  std::string_view GroupBitmap(uint32_t group) const;
  // The same as it is stored: blocks past the file's end as free ones.
  void EncodeGroup(uint32_t group, char* bitmap) const;
  void LoadGroup(uint32_t group_index, const char* bitmap);

 private:
  struct Group {
    std::vector<uint64_t> words;
    uint32_t free = 0;
    uint32_t cursor = 0;        // where the next search starts
    uint32_t longest_hint = 0;  // no free run is longer than this; reset by Free
    bool changed = false;
    std::bitset<kChunksPerGroup> aside, hole;  // a hole is set aside
  };
  Extent ChunksOf(uint32_t group, uint32_t first, uint32_t count) const {
    return Extent::Of(uint64_t{group} * kGroupBlocks + first * kChunkBlocks, count * kChunkBlocks);
  }
  std::optional<Extent> FindSetAsideIn(uint32_t group, uint32_t least, uint32_t most, Extent except, bool holes) const;
  void SetAside(Group* group, uint32_t chunk);
  void SetRange(uint64_t block, uint32_t blocks, bool used);
  std::optional<uint32_t> FindRun(Group& group, uint32_t blocks);

  std::vector<Group> groups_;
  uint64_t total_blocks_ = 0;
  uint64_t free_blocks_ = 0;
  uint64_t set_aside_blocks_ = 0, hole_blocks_ = 0;
  uint32_t current_group_ = 0;
  uint32_t release_group_ = 0;  // where TakeToRelease goes on
};

}  // namespace pando
