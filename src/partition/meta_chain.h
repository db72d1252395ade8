// MetaChain: stores an array of 16-byte entries (the dead list, the group directory) in a partition
// file without needing contiguous space. The array becomes a chain of pieces. Each piece is an
// extent of any length that names the next piece and its checksum (docs/FORMAT.md, "Metadata
// chains"). Where the file has long free runs, the pieces are long. On a full and fragmented disk
// each piece is one block.
//
// Threads: values; the coroutines belong to one reactor.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/io/file.h"
#include "src/io/task.h"
#include "src/io/turn_budget.h"
#include "src/partition/superblock.h"

namespace pando {

// The header of a piece. The entries follow, then zeros up to the end of the extent.
struct MetaPieceHeader {
  Extent next;  // 0: this is the last piece
  uint64_t next_checksum = 0;
  uint64_t entries = 0;  // in this piece, at least 1
  uint64_t reserved = 0;
};
static_assert(sizeof(MetaPieceHeader) == 32);
static_assert(offsetof(MetaPieceHeader, next_checksum) == 8 && offsetof(MetaPieceHeader, entries) == 16);

inline constexpr uint64_t kMetaEntryBytes = 16;
inline constexpr uint32_t kMaxPieceBlocks = 64;  // 256 KiB: few reads at open, and a bounded buffer

constexpr uint64_t EntriesInPiece(uint64_t blocks) {
  return (blocks * kBlockBytes - sizeof(MetaPieceHeader)) / kMetaEntryBytes;
}
static_assert(EntriesInPiece(1) == 254);
// The most blocks that `entries` entries can take. This is reached when every piece is one block.
constexpr uint64_t MetaBlocksFor(uint64_t entries) { return (entries + EntriesInPiece(1) - 1) / EntriesInPiece(1); }

uint64_t MetaChecksum(const Uuid& partition, Extent at, const char* bytes);

struct MetaWrite {
  Extent location;
  AlignedBuffer bytes;
};

// Writes all of them, many at once, and returns the first error.
Task<Status> WriteMetadata(File* file, std::vector<MetaWrite> writes);

// The work of copying or checksumming one block, in units of TurnBudget.
inline constexpr uint32_t kTurnUnitsPerMetaBlock = 16;

// Encodes `entries` into `pieces`, which must have room for them. Appends one write for each piece
// used (the first ones). Without entries there is no chain and the reference is empty. Yields, so
// the entries and pieces must not change until it returns.
Task<MetaRef> EncodeMetaChain(Reactor& reactor, TurnBudget& turn, const Uuid& partition, const void* entries,
                              uint64_t count, std::span<const Extent> pieces, std::vector<MetaWrite>* writes);

// Reads a chain of format 2, or the single extent of format 1. Errors name the file, the offset,
// and the chain as `what`. *pieces receives the extents that were read, even if the chain turns out
// to be damaged later. *damaged_at receives the offset of the damage. `max_entries` is the most
// entries that the chain may have.
class MetaChainReader {
 public:
  // Extents beyond `file_blocks` count as damage.
  MetaChainReader(File* file, const Uuid& partition, uint32_t format, uint64_t file_blocks)
      : file_(file), partition_(partition), format_(format), file_blocks_(file_blocks) {}

  Task<Result<std::vector<char>>> Read(MetaRef ref, uint64_t max_entries, std::string_view what,
                                       std::vector<Extent>* pieces, uint64_t* damaged_at);
  // Reads one extent and verifies its checksum.
  Task<Result<AlignedBuffer>> ReadExtent(Extent location, uint64_t checksum, std::string_view what);

 private:
  Task<Status> ReadWhole(MetaRef ref, std::string_view what, std::vector<char>* entries);

  File* const file_;
  const Uuid partition_;
  const uint32_t format_;
  const uint64_t file_blocks_;
};

}  // namespace pando
