// Page: the header that every tree page starts with, and its on-disk image (docs/FORMAT.md,
// "Page").
//
// In memory, a page has a header, slots that grow up, and a heap that grows down from the end of
// its usable bytes. On disk, the gap between them is omitted and the rest may be compressed, so a
// page takes one or more blocks of 4 KiB.
//
// Threads: pure functions of bytes; no state.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/limits.h"
#include "src/base/result.h"
#include "src/base/seal.h"
#include "src/buffer_pool/extent.h"

namespace pando {

inline constexpr uint32_t kPageMagic = 0x47504450;  // "PDPG"
inline constexpr uint8_t kPageFormat = 1;
inline constexpr uint32_t kMinPageBytes = 4096;
inline constexpr uint32_t kMaxPageBytes = 65536;
inline constexpr uint32_t kDefaultPageBytes = 8192;

// -- room for a seal. A store may leave the last bytes of every extent of a page or value free, for
// the nonce and the tag of an encryption at rest: kSealBytes, or 0 in stores of earlier versions.
// Nothing is stored there today.
// How much of a page nodes may use: what a TreeNode, EncodePageImage, and DecodePageImage are given. It
// determines both parameters, because page sizes are powers of two and a seal is much smaller.
constexpr uint32_t UsablePageBytes(uint32_t page_bytes, uint32_t seal_bytes) { return page_bytes - seal_bytes; }
constexpr uint32_t PageBytesOf(uint32_t usable_bytes) { return std::bit_ceil(usable_bytes); }
constexpr uint32_t SealBytesOf(uint32_t usable_bytes) { return PageBytesOf(usable_bytes) - usable_bytes; }
static_assert(SealBytesOf(UsablePageBytes(kMinPageBytes, kSealBytes)) == kSealBytes);
static_assert(SealBytesOf(UsablePageBytes(kMaxPageBytes, 0)) == 0);
// The extent of a value that is stored outside its page.
constexpr uint64_t BlocksForValue(uint64_t value_bytes, uint32_t seal_bytes) {
  return (value_bytes + seal_bytes + kBlockBytes - 1) / kBlockBytes;
}

enum class Compression : uint8_t { kNone = 0, kLz4 = 1, kZstd = 2 };
const char* CompressionName(Compression compression);  // "none", "lz4", "zstd"
// The compression with this name. kInvalidArgument lists the valid names.
Result<Compression> ParseCompression(std::string_view name);

struct PageHeader {
  uint32_t magic;
  uint8_t format;
  uint8_t level;            // 0 = leaf
  Compression compression;  // of the on-disk image after the header; kNone in memory
  uint8_t heat;             // in memory only: recent use, for eviction; 0 on disk
  uint32_t stored_bytes;    // on disk: image length including header, before padding; 0 in memory
  uint32_t heap_begin;      // lowest byte of the heap, an offset from the page's start
  uint32_t heap_dead;       // bytes inside the heap that no slot or fence refers to
  uint16_t slot_count;
  uint16_t prefix_bytes;  // length of the prefix shared by all keys, which slots omit
  uint16_t lower_bytes;   // lower fence (inclusive); empty = from the first key
  uint16_t upper_bytes;   // upper fence (exclusive); valid when has_upper
  uint16_t lower_offset;
  uint16_t upper_offset;
  uint8_t has_upper;  // 0 = the rightmost page of its level
  uint8_t reserved[3];
  uint64_t page_id;  // unique in the partition
  uint64_t birth;    // generation
};
static_assert(sizeof(PageHeader) == 56);
static_assert(offsetof(PageHeader, slot_count) == 20 && offsetof(PageHeader, page_id) == 40);
inline constexpr uint32_t kPageHeaderBytes = sizeof(PageHeader);
inline constexpr uint32_t kSlotBytes = 8;

inline PageHeader& HeaderOf(char* page) { return *reinterpret_cast<PageHeader*>(page); }
inline const PageHeader& HeaderOf(const char* page) { return *reinterpret_cast<const PageHeader*>(page); }

// The seed of a page's checksum. It makes an intact page at the wrong offset, or in the wrong file,
// fail its checksum.
uint64_t ChecksumSeed(const Uuid& partition, uint64_t block);

// Turns the in-memory `page` (usable_bytes long) into its on-disk image in `image` (room for a whole
// page, 4-KiB aligned), zero-padded to whole blocks of which the last bytes are the room for a seal.
// Tries `compression` and keeps the result only when it saves a block. `scratch` is usable_bytes of
// working memory. Returns the number of blocks.
uint32_t EncodePageImage(const char* page, uint32_t usable_bytes, Compression compression, char* image, char* scratch);

// The reverse, in place: `page` holds `blocks` blocks read from disk and takes its in-memory form.
// The caller must have verified the checksum. A page that is malformed all the same is kCorruption,
// or kVersion if its format is unknown. `page` has room for a whole page, `scratch` for
// usable_bytes.
Status DecodePageImage(char* page, uint32_t usable_bytes, uint32_t blocks, char* scratch);

}  // namespace pando
