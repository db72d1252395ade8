// Extents of a partition's file, and the reference by which a parent names a child page
// (docs/FORMAT.md, "References").
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/base/ids.h"
#include "src/base/limits.h"

namespace pando {

// A run of 4-KiB blocks, packed: 48 bits for the first block, 16 for the length. Zero = none (block
// 0 is a superblock).
struct Extent {
  uint64_t packed = 0;

  static constexpr Extent Of(uint64_t block, uint32_t blocks) { return Extent{block << 16 | blocks}; }
  constexpr uint64_t block() const { return packed >> 16; }
  constexpr uint32_t blocks() const { return static_cast<uint32_t>(packed & 0xffff); }
  constexpr uint64_t offset_bytes() const { return block() * kBlockBytes; }
  constexpr uint64_t size_bytes() const { return uint64_t{blocks()} * kBlockBytes; }
  constexpr bool empty() const { return packed == 0; }
  constexpr bool operator==(const Extent&) const = default;
};
static_assert(sizeof(Extent) == 8);
// The top bit of the 16-bit length is reserved for in-memory tags.
inline constexpr uint32_t kMaxExtentBlocks = 0x7fff;

// The reference to a child page that its parent stores. The checksum covers the whole extent and
// catches torn, lost and misdirected writes. The aggregates describe the records below the child
// and are computed when the page is written.
//
// In memory, `location` may instead be a tagged word (see child_word below). The other fields then
// have the values of the last time the child was written, or zero.
struct ChildRef {
  Extent location;
  Generation birth = 0;            // generation in which the page was created
  uint64_t checksum = 0;           // XXH3-64 of the extent, seeded by its block and partition
  uint64_t count = 0;              // records below
  uint64_t bytes = 0;              // key + value bytes of the records below
  uint64_t content_hash = 0;       // sum modulo 2^64 of the hashes of the records below
  int64_t earliest_expiry_ms = 0;  // 0 = no record below expires
};
static_assert(sizeof(ChildRef) == 56);
static_assert(offsetof(ChildRef, checksum) == 16 && offsetof(ChildRef, earliest_expiry_ms) == 48);

// In-memory states of ChildRef::location, distinguished by its low 16 bits: an extent (length 1 to
// 0x7fff), a frame of the pool (newest tree only), or the id of a page frozen while dirty (only in
// superseded inner pages that await a checkpoint).
namespace child_word {
inline constexpr uint64_t kFrameTag = 0xffff;
inline constexpr uint64_t kFrozenTag = 0xfffe;
inline constexpr bool IsFrame(Extent e) { return (e.packed & 0xffff) == kFrameTag; }
inline constexpr bool IsFrozen(Extent e) { return (e.packed & 0xffff) == kFrozenTag; }
inline constexpr bool IsExtent(Extent e) { return !IsFrame(e) && !IsFrozen(e); }
inline constexpr Extent FromFrame(uint32_t frame) { return Extent{uint64_t{frame} << 16 | kFrameTag}; }
inline constexpr Extent FromFrozen(uint64_t page_id) { return Extent{page_id << 16 | kFrozenTag}; }
inline constexpr uint32_t Frame(Extent e) { return static_cast<uint32_t>(e.packed >> 16); }
inline constexpr uint64_t FrozenId(Extent e) { return e.packed >> 16; }
}  // namespace child_word

}  // namespace pando
