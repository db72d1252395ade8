// The on-disk format of the log, shared by its writer and its reader (docs/FORMAT.md, "Log").
//
//   segment := header block, groups...            one file, `segment-<20 digits>.wal`, of a fixed size
//   group   := batch..., zeros up to 4 KiB        one device write; starts on a 4-KiB boundary
//   batch   := BatchHeader, records, zeros to 8   one partition's records; what is padded is not checksummed
//
// Invariants
//   F1  A segment number is used once: bytes that a recycled file still holds carry a lower number, so they are never
//       taken for data.
//   F2  The batches of a group are contiguous; the last one has kBatchEndsGroup.
//   F3  A header block is durable before the first group of its segment is submitted: a valid batch under a damaged
//       header is damage, not an unfinished segment.
//
// Threads: plain data and pure functions.
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

// Where a byte of the log is: segment number in the upper half, offset in the segment in the lower. Grows along the
// log, whatever sizes its segments have. 0 = none.
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
// What this build writes, and the oldest that it reads. Version 2 added to records: touch, check, all-or-nothing.
inline constexpr uint16_t kLogFormatVersion = 2;
inline constexpr uint16_t kOldestLogFormatVersion = 1;

inline constexpr uint64_t kSegmentMagic = 0x4745534f444e4150;  // "PANDOSEG"
inline constexpr uint64_t kBatchMagic = 0x5441424f444e4150;    // "PANDOBAT"

// First block of a segment. The rest of the block is zero.
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
// The partition's sequence starts anew here: its LSN and previous_checksum do not continue an earlier batch.
inline constexpr uint32_t kBatchStartsStream = 1u << 1;
// Written by recovery as the first group of a fresh segment: the log before it ends at previous_end, and whatever lies
// between there and here is dead. Has no partition and no records.
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
  Uuid partition;  // nil: no records, it only carries positions
  uint64_t epoch;
  uint64_t first_lsn;
  uint64_t commit_lsn;         // the partition's commit watermark when this was submitted
  uint64_t segment_number;     // of the segment this was written to
  uint64_t position;           // of this header's first byte: catches misdirected writes
  uint64_t previous_end;       // end of the last batch of the group before; 0 = none
  uint64_t durable_position;   // everything before this position was durable when this was submitted
  uint64_t previous_checksum;  // of the partition's batch before; 0 with kBatchStartsStream
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
// Bytes a batch takes in its group.
inline constexpr uint64_t BatchBytes(uint64_t record_bytes) {
  return AlignUp(sizeof(BatchHeader) + record_bytes, kBatchAlignment);
}
// The writer leaves this at the end of a segment to the closing position.
inline constexpr uint64_t kClosingBytes = kBlockBytes;
// Most record bytes that one batch of a segment of this size can carry.
inline constexpr uint64_t LargestBatchRecordBytes(uint64_t segment_bytes) {
  return segment_bytes - kFirstGroupOffset - kClosingBytes - sizeof(BatchHeader) - kBatchAlignment;
}

std::string SegmentFileName(uint64_t number);
// The number in a segment's file name; nullopt for any other name.
std::optional<uint64_t> ParseSegmentFileName(std::string_view name);

// Writes the header block (kBlockBytes at `block`).
void EncodeSegmentHeader(const Uuid& node, uint64_t number, uint64_t segment_bytes, char* block);

enum class HeaderState : uint8_t { kValid, kDamaged, kOtherVersion };
// Judges a header block. Only kValid and kOtherVersion fill `header`.
HeaderState DecodeSegmentHeader(std::string_view block, SegmentHeader* header);

// Completes `header` (magic, version, checksum) and writes it and the records at `out`, which has BatchBytes() room.
// Returns the checksum.
uint64_t EncodeBatch(BatchHeader header, uint64_t seed, std::string_view records, char* out);

// The seed of batch checksums: a batch of another node is not valid here.
uint64_t LogChecksumSeed(const Uuid& node);

enum class BatchState : uint8_t {
  kValid,
  kNothing,       // no header here: zeros, or bytes that are none
  kStale,         // a header of another segment number: what a recycled file held before
  kDamaged,       // a header of this segment whose bytes fail a check
  kOtherVersion,  // intact, but of a format version this build does not read
};
const char* BatchStateName(BatchState state);

struct BatchView {
  BatchHeader header{};
  std::string_view records;  // into the image
};

// Judges what is at `offset` of the segment `number` whose bytes are `image`. Never reads outside `image`.
BatchState DecodeBatch(std::string_view image, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);
// The same with only the bytes from `offset` on.
BatchState DecodeBatchAt(std::string_view bytes, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);

}  // namespace pando
