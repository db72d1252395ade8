// Page: the header every tree page starts with, and its on-disk image (docs/FORMAT.md, "Page").
//
// In memory a page is `page_bytes` long: header, slots growing up, a heap growing down. On disk the hole between them
// is left out, and the rest may be compressed, so a page takes 1..n blocks of 4 KiB.
//
// Threads: functions of bytes; no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/limits.h"
#include "src/base/result.h"
#include "src/buffer_pool/extent.h"

namespace pando {

inline constexpr uint32_t kPageMagic = 0x47504450;  // "PDPG"
inline constexpr uint8_t kPageFormat = 1;
inline constexpr uint32_t kMinPageBytes = 4096;
inline constexpr uint32_t kMaxPageBytes = 65536;
inline constexpr uint32_t kDefaultPageBytes = 8192;

enum class Compression : uint8_t { kNone = 0, kLz4 = 1, kZstd = 2 };
const char* CompressionName(Compression compression);  // "none", "lz4", "zstd"
// By its name. kInvalidArgument lists the names there are.
Result<Compression> ParseCompression(std::string_view name);

struct PageHeader {
  uint32_t magic;
  uint8_t format;
  uint8_t level;            // 0 = leaf
  Compression compression;  // of the on-disk image behind the header; kNone in memory
  uint8_t heat;             // in memory only: recent use, for eviction; 0 on disk
  uint32_t stored_bytes;    // on disk: image length with header, before padding; 0 in memory
  uint32_t heap_begin;      // lowest byte of the heap, an offset from the page's start
  uint32_t heap_dead;       // bytes inside the heap that no slot or fence refers to
  uint16_t slot_count;
  uint16_t prefix_bytes;  // leading bytes shared by all keys, cut from every slot's key
  uint16_t lower_bytes;   // lower fence (inclusive); empty = from the first key
  uint16_t upper_bytes;   // upper fence (exclusive); meaningful when has_upper
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

// Seed of a page's checksum, so that an intact page found at the wrong place, or in the wrong file, does not pass.
uint64_t ChecksumSeed(const Uuid& partition, uint64_t block);

// Turns the in-memory `page` (page_bytes long) into its on-disk image in `image` (at least page_bytes, 4-KiB aligned
// memory), zero-padded to whole blocks. Tries `compression` and keeps it only when it saves a block. `scratch` is
// page_bytes of working memory. Returns the number of blocks.
uint32_t EncodePageImage(const char* page, uint32_t page_bytes, Compression compression, char* image, char* scratch);

// The reverse, in place: `page` holds `blocks` blocks read from disk and becomes the in-memory form. The checksum must
// have been verified before; what is malformed all the same is kCorruption. `scratch` is page_bytes long.
Status DecodePageImage(char* page, uint32_t page_bytes, uint32_t blocks, char* scratch);

}  // namespace pando
