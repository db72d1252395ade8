#include "src/buffer_pool/extent_allocator.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/check.h"
#include "src/base/codec.h"

namespace pando {
namespace {
constexpr uint32_t kGroupsPerStep = 64;   // searched by one TakeToRelease: 256 KiB of bitmaps
constexpr uint32_t kWholeShare = 4;       // a part of the free space, for which chunks stay entirely free
constexpr uint32_t kMuchRoomBlocks = 16;  // free in a chunk to which pages that have left others may go
constexpr uint32_t kGroupsPerSearch = 4;  // for a chunk with much room
constexpr uint32_t kWorthAMove = 2;       // neighbors that a page must gain to be written anew for this
// Free in a chunk for which pages are written anew: they are told so one by one, and get their places only later.
constexpr uint32_t kSpareBlocks = 8;
constexpr uint64_t kNoChunk = ~uint64_t{0};

// The first bit of a run of `blocks` free blocks of a word.
std::optional<uint32_t> FindInWord(uint64_t word, uint32_t blocks) {
  uint64_t starts = ~word;
  for (uint32_t i = 1; i < blocks; ++i) starts &= ~word >> i;  // shifts in zeros: a run ends within the word
  if (starts == 0) return std::nullopt;
  return static_cast<uint32_t>(std::countr_zero(starts));
}
}  // namespace
static_assert(ExtentAllocator::kChunkBlocks == 64, "a chunk is a word of the bitmap");

// First fit from the group's cursor, wrapping once. Skips words that are full.
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
  const uint32_t end = static_cast<uint32_t>(group.words.size()) * 64;
  if (auto found = search(group.cursor, end)) return found;
  if (auto found = search(0, std::min(end, group.cursor + blocks - 1))) return found;
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

// Where a page lies within its chunk hardly matters, because a scan reads most of the chunk.
std::optional<Extent> ExtentAllocator::AllocateNear(uint32_t blocks, Extent last, std::span<const Extent> near) {
  CHECK_GT(blocks, 0u);
  if (blocks > kChunkBlocks) return std::nullopt;
  NearChunk chunks[kMaxNeighbors];
  const size_t count = CountNear(near, chunks);
  const auto fewer = [](const auto& a, const auto& b) { return a.neighbors < b.neighbors; };
  for (size_t tried = 0; tried < count; ++tried) {
    // Of two with as many neighbors, the one with the closer neighbor.
    auto* best = std::max_element(chunks, chunks + count, fewer);
    if (auto taken = TakeIn(best->chunk, blocks)) return taken;
    best->neighbors = 0;
  }
  if (!last.empty() && last.block() < total_blocks_) {
    if (auto taken = TakeIn(last.block() / kChunkBlocks, blocks)) return taken;
  }
  if (count == 0) return std::nullopt;
  const uint64_t roomy = RoomyChunk(static_cast<uint32_t>(chunks[0].chunk / kChunksPerGroup));
  return roomy == kNoChunk ? std::nullopt : TakeIn(roomy, blocks);
}

bool ExtentAllocator::HasBetterPlace(Extent place, std::span<const Extent> near) const {
  if (place.blocks() > kChunkBlocks) return false;
  NearChunk chunks[kMaxNeighbors];
  const size_t count = CountNear(near, chunks);
  uint32_t here = 0;
  for (size_t i = 0; i < count; ++i) {
    if (chunks[i].chunk == place.block() / kChunkBlocks) here = chunks[i].neighbors;
  }
  return std::any_of(chunks, chunks + count, [&](const NearChunk& c) {
    const uint64_t word = WordOf(c.chunk);
    const auto free = static_cast<uint32_t>(std::popcount(~word));
    return c.neighbors >= here + kWorthAMove && free >= place.blocks() + kSpareBlocks &&
           FindInWord(word, place.blocks());
  });
}

// Fills in the chunks of the neighbors, that of the closest one first, and returns their number.
size_t ExtentAllocator::CountNear(std::span<const Extent> near, NearChunk* chunks) const {
  size_t count = 0;
  for (const Extent place : near.first(std::min(near.size(), kMaxNeighbors))) {
    if (place.empty() || place.block() >= total_blocks_) continue;
    const uint64_t chunk = place.block() / kChunkBlocks;
    size_t at = 0;
    while (at < count && chunks[at].chunk != chunk) ++at;
    if (at == count) chunks[count++] = {chunk, 0};
    ++chunks[at].neighbors;
  }
  return count;
}

std::optional<Extent> ExtentAllocator::TakeIn(uint64_t chunk, uint32_t blocks) {
  const std::optional<uint32_t> bit = FindInWord(WordOf(chunk), blocks);
  if (!bit) return std::nullopt;
  const uint64_t block = chunk * kChunkBlocks + *bit;
  SetRange(block, blocks, true);
  return Extent::Of(block, blocks);
}

// A chunk with much room in group `near`, or in one of the few groups that are looked at in turns if all chunks of that
// one are rather full. The siblings of a page follow it there, so one that is entirely free is best: it fills with
// pages of one parent. But a quarter of the free space stays in such chunks, because long runs need them and only they
// go back to the file system, and one that continues no such run goes first. kNoChunk: all are full.
uint64_t ExtentAllocator::RoomyChunk(uint32_t near) {
  for (uint32_t tried = 0; tried <= kGroupsPerSearch; ++tried) {
    roomy_group_ %= group_count();
    const uint32_t index = tried == 0 ? near : roomy_group_;
    const Group& group = groups_[index];
    const auto chunk_of = [&](size_t word) { return uint64_t{index} * kChunksPerGroup + word; };
    const std::vector<uint64_t>& words = group.words;
    const auto is_whole = [&](size_t word) { return word < words.size() && words[word] == 0; };
    size_t roomiest = 0, whole = 0;
    uint32_t most = 0, whole_blocks = 0;
    bool whole_is_alone = false;
    for (size_t i = 0; group.free >= kMuchRoomBlocks && i < words.size(); ++i) {
      const auto free = static_cast<uint32_t>(std::popcount(~words[i]));
      if (free == kChunkBlocks) {
        whole_blocks += kChunkBlocks;
        if (!whole_is_alone) whole = i;
        whole_is_alone |= !is_whole(i - 1) && !is_whole(i + 1);  // i - 1 may be past all words
      } else if (free > most) {
        roomiest = i, most = free;
      }
    }
    if (whole_blocks > 0 && (most < kMuchRoomBlocks || whole_blocks * kWholeShare > group.free)) return chunk_of(whole);
    if (most >= kMuchRoomBlocks) return chunk_of(roomiest);
    if (tried > 0) ++roomy_group_;
  }
  return kNoChunk;
}

void ExtentAllocator::Free(Extent extent) {
  ClearTransient(extent);
  SetRange(extent.block(), extent.blocks(), false);
  Group& group = groups_[extent.block() / kGroupBlocks];
  group.longest_hint = kGroupBlocks;
}

void ExtentAllocator::MarkUsed(Extent extent) { SetRange(extent.block(), extent.blocks(), true); }

void ExtentAllocator::SetRange(uint64_t block, uint32_t blocks, bool used) {
  CHECK_LE(block + blocks, total_blocks_) << "the extent extends past the end of the file";
  CHECK_EQ(block / kGroupBlocks, (block + blocks - 1) / kGroupBlocks) << "the extent spans two groups";
  Group& group = groups_[block / kGroupBlocks];
  uint32_t first = static_cast<uint32_t>(block % kGroupBlocks);
  CHECK(!group.aside[first / kChunkBlocks] && !group.aside[(first + blocks - 1) / kChunkBlocks])
      << "blocks " << block << " to " << block + blocks << " are set aside";
  for (uint32_t b = first; b < first + blocks; ++b) {
    uint64_t bit = 1ull << (b % 64);
    uint64_t& word = group.words[b / 64];
    CHECK_NE((word & bit) != 0, used) << (used ? "A1: block " : "A2: block ") << block - first + b
                                      << (used ? " is already in use" : " is already free");
    word ^= bit;
  }
  group.changed = true;
  group.free += used ? -blocks : blocks;
  free_blocks_ += used ? -static_cast<uint64_t>(blocks) : blocks;
}

void ExtentAllocator::Grow(uint64_t total_blocks) {
  CHECK_GE(total_blocks, total_blocks_);
  groups_.resize((total_blocks + kGroupBlocks - 1) / kGroupBlocks);
  for (uint64_t b = total_blocks_; b < total_blocks; ++b) {
    Group& group = groups_[b / kGroupBlocks];
    const uint64_t word = b % kGroupBlocks / 64;
    if (word >= group.words.size()) {
      const uint64_t blocks = std::min<uint64_t>(total_blocks - b + b % kGroupBlocks, kGroupBlocks);
      group.words.resize((blocks + 63) / 64, ~0ull);
    }
    group.words[word] &= ~(1ull << (b % 64));
    ++group.free;
    group.longest_hint = kGroupBlocks;
    group.changed = true;
  }
  free_blocks_ += total_blocks - total_blocks_;
  total_blocks_ = total_blocks;
}

bool ExtentAllocator::IsUsed(uint64_t block) const {
  if (block >= total_blocks_) return true;
  if (groups_[block / kGroupBlocks].aside[block % kGroupBlocks / kChunkBlocks]) return false;
  return groups_[block / kGroupBlocks].words[block % kGroupBlocks / 64] >> (block % 64) & 1;
}

// -- transient blocks

void ExtentAllocator::SetTransient(Extent extent) {
  Group& group = groups_[extent.block() / kGroupBlocks];
  group.transient.resize(group.words.size());
  const auto first = static_cast<uint32_t>(extent.block() % kGroupBlocks);
  for (uint32_t b = first; b < first + extent.blocks(); ++b) {
    const uint64_t bit = 1ull << (b % 64);
    CHECK((group.words[b / 64] & bit) != 0) << "A5: block " << extent.block() - first + b << " is not in use";
    if ((group.transient[b / 64] & bit) == 0) ++group.transient_blocks;
    group.transient[b / 64] |= bit;
  }
  group.changed = true;
}

void ExtentAllocator::ClearTransient(Extent extent) {
  Group& group = groups_[extent.block() / kGroupBlocks];
  if (group.transient.empty()) return;
  const auto first = static_cast<uint32_t>(extent.block() % kGroupBlocks);
  for (uint32_t b = first; b < first + extent.blocks() && b / 64 < group.transient.size(); ++b) {
    const uint64_t bit = 1ull << (b % 64);
    if ((group.transient[b / 64] & bit) != 0) --group.transient_blocks;
    group.transient[b / 64] &= ~bit;
  }
  if (group.transient_blocks == 0) group.transient = {};
  group.changed = true;
}

// -- persistence

void ExtentAllocator::EncodeGroup(uint32_t index, char* bitmap) const {
  const Group& group = groups_[index];
  std::memset(bitmap, 0, kBlockBytes);
  const uint64_t blocks = std::min<uint64_t>(total_blocks_ - uint64_t{index} * kGroupBlocks, kGroupBlocks);
  for (size_t w = 0; w < group.words.size(); ++w) {
    uint64_t word = group.aside[w] ? 0 : group.words[w];
    if (w < group.transient.size()) word &= ~group.transient[w];
    if (blocks - w * 64 < 64) word &= (1ull << (blocks % 64)) - 1;  // blocks past the end of the file
    StoreLE(bitmap + w * 8, word);
  }
}

void ExtentAllocator::LoadGroup(uint32_t group_index, const char* bitmap) {
  Group& group = groups_[group_index];
  CHECK(group.aside.none() && group.transient.empty()) << "a bitmap must be loaded before the group is used";
  free_blocks_ -= group.free;
  for (size_t w = 0; w < group.words.size(); ++w) group.words[w] = LoadLE<uint64_t>(bitmap + w * 8);
  // Blocks past the end of the file stay used, whatever the bitmap says.
  const uint64_t blocks = std::min<uint64_t>(total_blocks_ - uint64_t{group_index} * kGroupBlocks, kGroupBlocks);
  if (blocks % 64 != 0) group.words.back() |= ~0ull << (blocks % 64);
  group.free = 0;
  for (uint64_t word : group.words) group.free += 64 - static_cast<uint32_t>(std::popcount(word));
  free_blocks_ += group.free;
  group.longest_hint = kGroupBlocks;
  group.changed = false;
}

// -- space set aside

void ExtentAllocator::SetAside(Group* group, uint32_t chunk) {
  group->words[chunk] = ~0ull;
  group->aside.set(chunk);
  group->free -= kChunkBlocks;
  free_blocks_ -= kChunkBlocks;
  set_aside_blocks_ += kChunkBlocks;
}

void ExtentAllocator::SetAsideFreeChunks() {
  for (Group& group : groups_) {
    for (uint32_t chunk = 0; group.free >= kChunkBlocks && chunk < group.words.size(); ++chunk) {
      if (group.words[chunk] == 0) SetAside(&group, chunk);
    }
  }
  release_group_ = 0;
}

std::optional<Extent> ExtentAllocator::TakeToRelease(uint64_t blocks, bool free_too) {
  const auto most = static_cast<uint32_t>(std::min<uint64_t>(blocks / kChunkBlocks, kChunksPerGroup / 2));
  if (most == 0) return std::nullopt;
  for (uint32_t looked = 0; looked < std::min(kGroupsPerStep, group_count()); ++looked) {
    if (release_group_ == 0 || release_group_ > group_count()) release_group_ = group_count();
    Group& group = groups_[release_group_ - 1];
    auto wanted = [&](uint32_t chunk) {
      return group.aside[chunk] ? !group.hole[chunk] : free_too && group.words[chunk] == 0;
    };
    for (auto end = static_cast<uint32_t>(group.words.size()); end > 0; --end) {
      if (!wanted(end - 1)) continue;
      uint32_t first = end;
      while (first > 0 && end - first < most && wanted(first - 1)) {
        --first;
        if (!group.aside[first]) SetAside(&group, first);
      }
      return ChunksOf(release_group_ - 1, first, end - first);
    }
    --release_group_;
  }
  return std::nullopt;
}

void ExtentAllocator::NoteHole(Extent run) {
  Group& group = groups_[run.block() / kGroupBlocks];
  const uint32_t first = static_cast<uint32_t>(run.block() % kGroupBlocks) / kChunkBlocks;
  for (uint32_t chunk = first; chunk < first + run.blocks() / kChunkBlocks; ++chunk) {
    CHECK(group.aside[chunk]) << "D4: a chunk with a hole is not set aside";
    if (!group.hole[chunk]) hole_blocks_ += kChunkBlocks;
    group.hole.set(chunk);
  }
}

std::optional<Extent> ExtentAllocator::FindSetAsideIn(uint32_t index, uint32_t least, uint32_t most, Extent except,
                                                      bool holes) const {
  const Group& group = groups_[index];
  if (group.aside.none() || (!holes && group.aside == group.hole)) return std::nullopt;
  const uint64_t base = uint64_t{index} * kGroupBlocks;
  auto wanted = [&](uint32_t chunk) {
    const uint64_t block = base + chunk * kChunkBlocks;
    const bool excepted = block >= except.block() && block < except.block() + except.blocks();
    return group.aside[chunk] && !excepted && (holes || !group.hole[chunk]);
  };
  for (uint32_t first = 0; first < kChunksPerGroup; ++first) {
    uint32_t end = first;
    while (end < kChunksPerGroup && (end - first) * kChunkBlocks < most && wanted(end)) ++end;
    if (end > first && (end - first) * kChunkBlocks >= least) return ChunksOf(index, first, end - first);
    first = end;  // this chunk is not wanted, or the run is too short
  }
  return std::nullopt;
}

std::optional<Extent> ExtentAllocator::FindSetAside(uint32_t least, uint32_t most, Extent except) const {
  if (set_aside_blocks_ < least) return std::nullopt;
  most = std::min(std::max(most, least), kMaxExtentBlocks - kChunkBlocks);
  for (bool holes : {false, true}) {
    if (!holes && set_aside_blocks_ == hole_blocks_) continue;
    for (uint32_t tried = 0; tried < group_count(); ++tried) {
      const uint32_t index = (current_group_ + tried) % group_count();
      if (auto found = FindSetAsideIn(index, least, most, except, holes)) return found;
    }
  }
  return std::nullopt;
}

void ExtentAllocator::Return(Extent run) {
  Group& group = groups_[run.block() / kGroupBlocks];
  const uint32_t first = static_cast<uint32_t>(run.block() % kGroupBlocks) / kChunkBlocks;
  for (uint32_t chunk = first; chunk < first + run.blocks() / kChunkBlocks; ++chunk) {
    CHECK(group.aside[chunk]) << "returning a chunk that is not set aside";
    if (group.hole[chunk]) hole_blocks_ -= kChunkBlocks;
    group.aside.reset(chunk);
    group.hole.reset(chunk);
    group.words[chunk] = 0;
  }
  group.free += run.blocks();
  group.longest_hint = kGroupBlocks;
  free_blocks_ += run.blocks();
  set_aside_blocks_ -= run.blocks();
}

}  // namespace pando
