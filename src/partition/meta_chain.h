// MetaChain: how a partition file stores an array of 16-byte entries (the dead list, the group directory) without
// needing contiguous space: as a chain of pieces, each an extent of any length, each naming the next one with its
// checksum (docs/FORMAT.md, "Metadata chains"). Where the file has long free runs, the pieces are long; on a full and
// scattered disk each piece is one block.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/io/file.h"
#include "src/partition/superblock.h"

namespace pando {

// What a piece starts with; its entries follow, then zeros up to the end of its extent.
struct MetaPieceHeader {
  Extent next;  // 0: this is the last piece
  uint64_t next_checksum = 0;
  uint64_t entries = 0;  // in this piece, at least 1
  uint64_t reserved = 0;
};
static_assert(sizeof(MetaPieceHeader) == 32);
static_assert(offsetof(MetaPieceHeader, next_checksum) == 8 && offsetof(MetaPieceHeader, entries) == 16);

inline constexpr uint64_t kMetaEntryBytes = 16;
inline constexpr uint32_t kMaxPieceBlocks = 64;  // 256 KiB: few reads at open, and a buffer of bounded size

constexpr uint64_t EntriesInPiece(uint64_t blocks) {
  return (blocks * kBlockBytes - sizeof(MetaPieceHeader)) / kMetaEntryBytes;
}
static_assert(EntriesInPiece(1) == 254);
// Blocks that so many entries take at most, which is when every piece is one block.
constexpr uint64_t MetaBlocksFor(uint64_t entries) { return (entries + EntriesInPiece(1) - 1) / EntriesInPiece(1); }

uint64_t MetaChecksum(const Uuid& partition, Extent at, const char* bytes);

struct MetaWrite {
  Extent location;
  AlignedBuffer bytes;
};

// The bytes of `entries` in `pieces`, which have room for them; appends one write for each piece it uses and sets *used
// to how many those are (the first ones). Without entries there is no chain: the reference is empty.
MetaRef EncodeMetaChain(const Uuid& partition, const void* entries, uint64_t count, std::span<const Extent> pieces,
                        size_t* used, std::vector<MetaWrite>* writes);

// Reads a chain of format 2, or the one extent of format 1. `what` names it in errors, which name the file and the
// offset; *pieces receives the extents read, also of a chain whose end turns out damaged, and *damaged_at the offset of
// what is. Entries are at most `max_entries`.
class MetaChainReader {
 public:
  // Extents beyond `file_blocks` are damage.
  MetaChainReader(File* file, const Uuid& partition, uint32_t format, uint64_t file_blocks)
      : file_(file), partition_(partition), format_(format), file_blocks_(file_blocks) {}

  Task<Result<std::vector<char>>> Read(MetaRef ref, uint64_t max_entries, std::string_view what,
                                       std::vector<Extent>* pieces, uint64_t* damaged_at);
  // One extent with its checksum.
  Task<Result<AlignedBuffer>> ReadExtent(Extent location, uint64_t checksum, std::string_view what);

 private:
  Task<Status> ReadWhole(MetaRef ref, std::string_view what, std::vector<char>* entries);

  File* const file_;
  const Uuid partition_;
  const uint32_t format_;
  const uint64_t file_blocks_;
};

}  // namespace pando
