#include "src/buffer_pool/extent_allocator.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/check.h"

namespace pando {

// First fit from the group's cursor, wrapping once; skips whole words that are full.
std::optional<uint32_t> ExtentAllocator::FindRun(Group& group, uint32_t blocks) {
  if (group.free < blocks || group.longest_hint < blocks) return std::nullopt;
  auto search = [&](uint32_t from, uint32_t to) -> std::optional<uint32_t> {
    uint32_t run = 0;
    for (uint32_t b = from; b < to;) {
      uint64_t word = group.words[b / 64];
      if (b % 64 == 0 && word == ~0ull) {
        run = 0;
        b += 64;
      } else if (b % 64 == 0 && word == 0 && b + 64 <= to && run + 64 < blocks) {
        run += 64;
        b += 64;
      } else {
        run = (word >> (b % 64) & 1) ? 0 : run + 1;
        ++b;
        if (run == blocks) return b - blocks;
      }
    }
    return std::nullopt;
  };
  if (auto found = search(group.cursor, kGroupBlocks)) return found;
  if (auto found = search(0, std::min(kGroupBlocks, group.cursor + blocks - 1))) return found;
  group.longest_hint = blocks - 1;
  return std::nullopt;
}

std::optional<Extent> ExtentAllocator::Allocate(uint32_t blocks) {
  CHECK(blocks > 0 && blocks <= kMaxExtentBlocks) << blocks;
  if (free_blocks_ < blocks) return std::nullopt;
  for (uint32_t tried = 0; tried < groups_.size(); ++tried) {
    uint32_t index = (current_group_ + tried) % group_count();
    Group& group = groups_[index];
    std::optional<uint32_t> start = FindRun(group, blocks);
    if (!start) continue;
    current_group_ = index;
    group.cursor = (*start + blocks) % kGroupBlocks;
    uint64_t block = uint64_t{index} * kGroupBlocks + *start;
    SetRange(block, blocks, true);
    return Extent::Of(block, blocks);
  }
  return std::nullopt;
}

void ExtentAllocator::Free(Extent extent) {
  SetRange(extent.block(), extent.blocks(), false);
  Group& group = groups_[extent.block() / kGroupBlocks];
  group.longest_hint = kGroupBlocks;
}

void ExtentAllocator::MarkUsed(Extent extent) { SetRange(extent.block(), extent.blocks(), true); }

void ExtentAllocator::SetRange(uint64_t block, uint32_t blocks, bool used) {
  CHECK_LE(block + blocks, total_blocks_) << "extent past the end of the file";
  CHECK_EQ(block / kGroupBlocks, (block + blocks - 1) / kGroupBlocks) << "extent across two groups";
  Group& group = groups_[block / kGroupBlocks];
  uint32_t first = static_cast<uint32_t>(block % kGroupBlocks);
  for (uint32_t b = first; b < first + blocks; ++b) {
    uint64_t bit = 1ull << (b % 64);
    uint64_t& word = group.words[b / 64];
    CHECK_NE((word & bit) != 0, used) << "block " << block - first + b
                                      << (used ? " is in use already" : " is free already");
    word ^= bit;
  }
  group.changed = true;
  group.free += used ? -blocks : blocks;
  free_blocks_ += used ? -static_cast<uint64_t>(blocks) : blocks;
}

void ExtentAllocator::Grow(uint64_t total_blocks) {
  CHECK_GE(total_blocks, total_blocks_);
  uint64_t groups = (total_blocks + kGroupBlocks - 1) / kGroupBlocks;
  while (groups_.size() < groups) {
    Group group;
    group.words.assign(kWordsPerGroup, ~0ull);
    groups_.push_back(std::move(group));
  }
  for (uint64_t b = total_blocks_; b < total_blocks; ++b) {
    Group& group = groups_[b / kGroupBlocks];
    group.words[b % kGroupBlocks / 64] &= ~(1ull << (b % 64));
    ++group.free;
    group.longest_hint = kGroupBlocks;
    group.changed = true;
  }
  free_blocks_ += total_blocks - total_blocks_;
  total_blocks_ = total_blocks;
}

bool ExtentAllocator::IsUsed(uint64_t block) const {
  if (block >= total_blocks_) return true;
  return groups_[block / kGroupBlocks].words[block % kGroupBlocks / 64] >> (block % 64) & 1;
}

std::string_view ExtentAllocator::GroupBitmap(uint32_t group) const {
  return {reinterpret_cast<const char*>(groups_[group].words.data()), kBlockBytes};
}

void ExtentAllocator::EncodeGroup(uint32_t group, char* bitmap) const {
  std::memcpy(bitmap, GroupBitmap(group).data(), kBlockBytes);
  const uint64_t base = uint64_t{group} * kGroupBlocks;
  for (uint64_t b = std::max(base, total_blocks_); b < base + kGroupBlocks; ++b) {
    bitmap[(b - base) / 8] &= static_cast<char>(~(1 << ((b - base) % 8)));
  }
}

void ExtentAllocator::LoadGroup(uint32_t group_index, const char* bitmap) {
  Group& group = groups_[group_index];
  free_blocks_ -= group.free;
  std::memcpy(group.words.data(), bitmap, kBlockBytes);
  // Blocks past the file's end stay used whatever the bitmap says.
  uint64_t base = uint64_t{group_index} * kGroupBlocks;
  for (uint64_t b = std::max(total_blocks_, base); b < base + kGroupBlocks; ++b) {
    group.words[(b - base) / 64] |= 1ull << (b % 64);
  }
  group.free = 0;
  for (uint64_t word : group.words) group.free += 64 - static_cast<uint32_t>(std::popcount(word));
  free_blocks_ += group.free;
  group.longest_hint = kGroupBlocks;
  group.changed = false;
}

}  // namespace pando
