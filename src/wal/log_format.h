// The on-disk format of the log, shared by its writer and its reader (docs/FORMAT.md, "Log").
//
//   segment := header block, groups...            one file of fixed size, `segment-<20 digits>.wal`
//   group   := batch..., zeros up to 4 KiB        one device write; starts on a 4-KiB boundary
//   batch   := BatchHeader, records, zeros to 8   records of one partition; the checksum excludes
//   the
//                                                 padding
//
// Threads: plain data and pure functions.
//
// Invariants
//   F1  A segment number is used once. Stale bytes in a recycled file carry a lower number, so they
//       are never taken for data.
//   F2  The batches of a group are contiguous. The last one has kBatchEndsGroup.
//   F3  A header block is durable before the first group of its segment is submitted. A valid batch
//       after a damaged header therefore means damage, not an unfinished segment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/ids.h"
#include "src/base/limits.h"
#include "src/base/result.h"

namespace pando {

// The position of a byte in the log: segment number in the upper half, offset within the segment in
// the lower half. Positions grow along the log, whatever the sizes of its segments. 0 = none.
using LogPosition = uint64_t;
inline constexpr unsigned kPositionOffsetBits = 32;
inline constexpr LogPosition MakePosition(uint64_t segment, uint64_t offset) {
  return segment << kPositionOffsetBits | offset;
}
inline constexpr uint64_t PositionSegment(LogPosition p) { return p >> kPositionOffsetBits; }
inline constexpr uint64_t PositionOffset(LogPosition p) { return p & ((1ull << kPositionOffsetBits) - 1); }

inline constexpr uint64_t kMinSegmentBytes = 4 * kBlockBytes;
inline constexpr uint64_t kMaxSegmentBytes = 1ull << 30;
inline constexpr uint64_t kMaxSegmentNumber = (1ull << 31) - 1;
inline constexpr uint64_t kFirstGroupOffset = kBlockBytes;
// The version that this build writes, and the oldest that it reads. Version 2 added touch, check
// and all-or-nothing to the records.
inline constexpr uint16_t kLogFormatVersion = 2;
inline constexpr uint16_t kOldestLogFormatVersion = 1;

inline constexpr uint64_t kSegmentMagic = 0x4745534f444e4150;  // "PANDOSEG"
inline constexpr uint64_t kBatchMagic = 0x5441424f444e4150;    // "PANDOBAT"

// The first block of a segment. The rest of the block is zero.
struct SegmentHeader {
  uint64_t checksum;  // XXH3-64 of the other 4088 bytes of the block
  uint64_t magic;
  uint16_t format_version;
  uint16_t reserved16;
  uint32_t reserved32;
  Uuid node;
  uint64_t segment_number;
  uint64_t segment_bytes;
};
static_assert(sizeof(SegmentHeader) == 56);
static_assert(offsetof(SegmentHeader, magic) == 8 && offsetof(SegmentHeader, format_version) == 16);
static_assert(offsetof(SegmentHeader, node) == 24 && offsetof(SegmentHeader, segment_number) == 40);
static_assert(offsetof(SegmentHeader, segment_bytes) == 48);

inline constexpr uint32_t kBatchEndsGroup = 1u << 0;
// The sequence of the partition starts anew here: the LSN and previous_checksum do not continue an
// earlier batch.
inline constexpr uint32_t kBatchStartsStream = 1u << 1;
// Recovery writes this as the first group of a fresh segment. The log before it ends at
// previous_end, and everything between that position and this group is dead. The batch has no
// partition and no records.
inline constexpr uint32_t kBatchCut = 1u << 2;
inline constexpr uint32_t kBatchKnownFlags = kBatchEndsGroup | kBatchStartsStream | kBatchCut;

struct BatchHeader {
  uint64_t checksum;  // XXH3-64, seeded by the node, of the rest of the header and the records
  uint64_t magic;
  uint16_t format_version;
  uint16_t reserved16;
  uint32_t flags;
  uint32_t record_bytes;  // records follow the header directly
  uint32_t record_count;
  Uuid partition;  // nil: the batch has no records and only carries positions
  uint64_t epoch;
  uint64_t first_lsn;
  uint64_t commit_lsn;         // the partition's commit watermark at submission
  uint64_t segment_number;     // of the segment that holds the batch
  uint64_t position;           // of the first byte of this header; catches misdirected writes
  uint64_t previous_end;       // end of the last batch of the previous group; 0 = none
  uint64_t durable_position;   // everything before it was durable at submission
  uint64_t previous_checksum;  // of the partition's previous batch; 0 with kBatchStartsStream
  uint64_t reserved64;
};
static_assert(sizeof(BatchHeader) == 120);
static_assert(offsetof(BatchHeader, magic) == 8 && offsetof(BatchHeader, format_version) == 16);
static_assert(offsetof(BatchHeader, flags) == 20 && offsetof(BatchHeader, record_bytes) == 24);
static_assert(offsetof(BatchHeader, record_count) == 28 && offsetof(BatchHeader, partition) == 32);
static_assert(offsetof(BatchHeader, epoch) == 48 && offsetof(BatchHeader, first_lsn) == 56);
static_assert(offsetof(BatchHeader, commit_lsn) == 64 && offsetof(BatchHeader, segment_number) == 72);
static_assert(offsetof(BatchHeader, position) == 80 && offsetof(BatchHeader, previous_end) == 88);
static_assert(offsetof(BatchHeader, durable_position) == 96 && offsetof(BatchHeader, previous_checksum) == 104);

inline constexpr size_t kBatchAlignment = 8;
inline constexpr uint64_t AlignUp(uint64_t v, uint64_t alignment) {
  return (v + alignment - 1) / alignment * alignment;
}
// The number of bytes that a batch takes in its group.
inline constexpr uint64_t BatchBytes(uint64_t record_bytes) {
  return AlignUp(sizeof(BatchHeader) + record_bytes, kBatchAlignment);
}
// The writer reserves this much at the end of a segment for the closing position.
inline constexpr uint64_t kClosingBytes = kBlockBytes;
// The most record bytes that one batch can carry in a segment of this size.
inline constexpr uint64_t LargestBatchRecordBytes(uint64_t segment_bytes) {
  return segment_bytes - kFirstGroupOffset - kClosingBytes - sizeof(BatchHeader) - kBatchAlignment;
}

std::string SegmentFileName(uint64_t number);
// The number in a segment's file name; nullopt for any other name.
std::optional<uint64_t> ParseSegmentFileName(std::string_view name);

// Writes the header block (kBlockBytes at `block`).
void EncodeSegmentHeader(const Uuid& node, uint64_t number, uint64_t segment_bytes, char* block);

enum class HeaderState : uint8_t { kValid, kDamaged, kOtherVersion };
// Verifies a header block. Only kValid and kOtherVersion fill `header`.
HeaderState DecodeSegmentHeader(std::string_view block, SegmentHeader* header);

// Completes `header` (magic, version, sizes, checksum) and writes it and the records to `out`,
// which has room for BatchBytes(). Returns the checksum.
uint64_t EncodeBatch(BatchHeader header, uint64_t seed, std::string_view records, char* out);

// The seed of batch checksums. It makes a batch of another node fail its checksum.
uint64_t LogChecksumSeed(const Uuid& node);

enum class BatchState : uint8_t {
  kValid,
  kNothing,       // no header here: zeros or other bytes
  kStale,         // a header with another segment number: left over in a recycled file
  kDamaged,       // a header of this segment, but the batch fails a check
  kOtherVersion,  // intact, but of a format version that this build does not read
};
const char* BatchStateName(BatchState state);

struct BatchView {
  BatchHeader header{};
  std::string_view records;  // points into the image
};

// Verifies the batch at `offset` of segment `number`, whose bytes are `image`. Never reads outside
// `image`.
BatchState DecodeBatch(std::string_view image, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);
// The same, given only the bytes from `offset` on.
BatchState DecodeBatchAt(std::string_view bytes, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);

}  // namespace pando
