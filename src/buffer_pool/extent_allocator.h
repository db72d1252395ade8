// ExtentAllocator: which blocks of a partition's file are in use: one bit per 4-KiB block, in groups of 32768 blocks
// (128 MiB), so that one group's bitmap is exactly one block on disk and only changed groups are written.
//
// Threads: one reactor. Memory: 1/32768 of the file.
//
// Invariants
//   A1  Allocate returns blocks that were free, and marks them used before it returns.
//   A2  Free of a block that is not in use is a bug (CHECK): the accounting of extents is exact.
//   A3  What a durable root may still reach is never free here: the caller holds such extents back (DeadList).
#pragma once

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
  uint64_t free_blocks() const { return free_blocks_; }
  uint64_t used_blocks() const { return total_blocks_ - free_blocks_; }

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
  };
  void SetRange(uint64_t block, uint32_t blocks, bool used);
  std::optional<uint32_t> FindRun(Group& group, uint32_t blocks);

  std::vector<Group> groups_;
  uint64_t total_blocks_ = 0;
  uint64_t free_blocks_ = 0;
  uint32_t current_group_ = 0;
};

}  // namespace pando
