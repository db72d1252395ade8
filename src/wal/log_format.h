// The on-disk format of the log, shared by its writer and its reader (docs/FORMAT.md, "Log").
//
//   segment := header block, batch...             one file of fixed size, `segment-<20 digits>.wal`
//   batch   := BatchHeader, seal, payload, zeros  one device write; starts on a 4-KiB boundary
//   payload := units, marks and cuts              of many partitions (wal/write_unit.h)
//
// Formats 1 and 2 are still read. There, a device write is a group of several batches, each with
// records of one partition and without a seal.
//
// Threads: plain data and pure functions.
//
// Invariants
//   F1  A segment number is used once. Stale bytes in a recycled file carry a lower number, so they
//       are never taken for data.
//   F2  The batches of a group are contiguous. The last one has kBatchEndsGroup; since format 3 it
//       is the only one.
//   F3  A header block is durable before the first batch of its segment is submitted. A valid batch
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
#include "src/base/seal.h"
#include "src/wal/write_unit.h"

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
// and all-or-nothing to the records, version 3 write units, marks, and the seal, version 4 once, version 5
// cuts of a partition's history, version 6 the marks of snapshots of the cluster.
inline constexpr uint16_t kLogFormatVersion = 6;
inline constexpr uint16_t kOldestLogFormatVersion = 1;
// The first version whose batches carry units and marks of many partitions.
inline constexpr uint16_t kFirstVersionWithUnits = 3;
inline constexpr uint16_t kFirstVersionWithCuts = 5;

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
// Formats 1 and 2: the sequence of the partition starts anew here.
inline constexpr uint32_t kBatchStartsStream = 1u << 1;
// Recovery writes this as the first batch of a fresh segment. The log before it ends at
// previous_end, and everything between that position and this batch is dead. The batch has only
// marks.
inline constexpr uint32_t kBatchCut = 1u << 2;
inline constexpr uint32_t kBatchKnownFlags = kBatchEndsGroup | kBatchStartsStream | kBatchCut;

struct BatchHeader {
  uint64_t checksum;  // XXH3-64, seeded by the node, of everything after it up to the payload's end
  uint64_t magic;
  uint16_t format_version;
  uint16_t reserved16;
  uint32_t flags;
  uint32_t payload_bytes;  // the payload follows the seal; in formats 1 and 2, the header
  uint32_t record_count;   // of all units, and one for each cut
  // The next four have a meaning in formats 1 and 2 only, whose payload is records of one partition.
  // Zero since format 3.
  Uuid partition;
  uint64_t epoch;
  uint64_t first_lsn;
  uint64_t commit_lsn;
  uint64_t segment_number;    // of the segment that holds the batch
  uint64_t position;          // of the first byte of this header; catches misdirected writes
  uint64_t previous_end;      // end of the last batch of the previous group; 0 = none
  uint64_t durable_position;  // everything before it was durable at submission
  // Of the batch before this one; 0: none, or not known. In formats 1 and 2: of the partition's
  // previous batch; 0 with kBatchStartsStream.
  uint64_t previous_checksum;
  uint64_t reserved64;
};
static_assert(sizeof(BatchHeader) == 120);
static_assert(offsetof(BatchHeader, magic) == 8 && offsetof(BatchHeader, format_version) == 16);
static_assert(offsetof(BatchHeader, flags) == 20 && offsetof(BatchHeader, payload_bytes) == 24);
static_assert(offsetof(BatchHeader, record_count) == 28 && offsetof(BatchHeader, partition) == 32);
static_assert(offsetof(BatchHeader, epoch) == 48 && offsetof(BatchHeader, first_lsn) == 56);
static_assert(offsetof(BatchHeader, commit_lsn) == 64 && offsetof(BatchHeader, segment_number) == 72);
static_assert(offsetof(BatchHeader, position) == 80 && offsetof(BatchHeader, previous_end) == 88);
static_assert(offsetof(BatchHeader, durable_position) == 96 && offsetof(BatchHeader, previous_checksum) == 104);

// After the header come kSealBytes of zeros.
inline bool HasUnits(const BatchHeader& header) { return header.format_version >= kFirstVersionWithUnits; }
// The number of bytes before the payload.
inline size_t BatchOverhead(const BatchHeader& header) {
  return sizeof(BatchHeader) + (HasUnits(header) ? kSealBytes : 0);
}

inline constexpr size_t kBatchAlignment = 8;
inline constexpr uint64_t AlignUp(uint64_t v, uint64_t alignment) {
  return (v + alignment - 1) / alignment * alignment;
}
inline constexpr size_t kBatchOverhead = sizeof(BatchHeader) + kSealBytes;
// The number of bytes that a batch of this build takes, without its padding to a block.
inline constexpr uint64_t BatchBytes(uint64_t payload_bytes) {
  return AlignUp(kBatchOverhead + payload_bytes, kBatchAlignment);
}
// The same of a batch of any format.
inline uint64_t BatchBytes(const BatchHeader& header) {
  return AlignUp(BatchOverhead(header) + header.payload_bytes, kBatchAlignment);
}
// The writer reserves this much at the end of a segment for the closing position.
inline constexpr uint64_t kClosingBytes = kBlockBytes;
// The most record bytes that one unit can carry in a segment of this size.
inline constexpr uint64_t LargestUnitRecordBytes(uint64_t segment_bytes) {
  return segment_bytes - kFirstGroupOffset - kClosingBytes - kBatchOverhead - UnitBytes(0) - kItemAlignment;
}

// A file whose name begins so is the segment that ends a damaged log, before it has its number
// (wal/log_cut.h). The log is not read while it is there.
inline constexpr std::string_view kAcceptedCutPrefix = "accepted-";

std::string SegmentFileName(uint64_t number);
// The number in a segment's file name; nullopt for any other name.
std::optional<uint64_t> ParseSegmentFileName(std::string_view name);

// Writes the header block (kBlockBytes at `block`).
void EncodeSegmentHeader(const Uuid& node, uint64_t number, uint64_t segment_bytes, char* block);

enum class HeaderState : uint8_t { kValid, kDamaged, kOtherVersion };
// Verifies a header block. Only kValid and kOtherVersion fill `header`.
HeaderState DecodeSegmentHeader(std::string_view block, SegmentHeader* header);

// Completes `header` (magic, version, sizes, checksum) and writes it to `out`, where the payload
// already is, kBatchOverhead bytes further. Returns the checksum.
uint64_t SealBatch(BatchHeader header, uint64_t seed, size_t payload_bytes, char* out);

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
  std::string_view payload;  // points into the image
};

// Calls on_unit(partition, unit, flags), on_mark(mark) and on_cut(cut) for each item of an intact batch, in
// order, until one of them returns false. The records of an old batch come as one unit that may hold
// several writes; its chains are the checksums of the batches.
template <typename OnUnit, typename OnMark, typename OnCut>
void ForEachItem(const BatchHeader& header, std::string_view payload, OnUnit on_unit, OnMark on_mark, OnCut on_cut) {
  if (!HasUnits(header)) {
    if (header.record_count == 0) return;
    const WriteUnit unit{header.epoch,    header.first_lsn, header.record_count, header.previous_checksum,
                         header.checksum, payload};
    on_unit(header.partition, unit, (header.flags & kBatchStartsStream) != 0 ? kUnitStartsAnew : uint16_t{0});
    return;
  }
  PayloadReader reader(payload);
  for (bool more = true; more;) {
    switch (reader.Next()) {
      case PayloadReader::Item::kUnit: more = on_unit(reader.partition, reader.unit, reader.flags); break;
      case PayloadReader::Item::kMark: more = on_mark(reader.mark); break;
      case PayloadReader::Item::kCut: more = on_cut(reader.cut); break;
      case PayloadReader::Item::kEnd:
      case PayloadReader::Item::kDamaged: return;
    }
  }
}

// Verifies the batch at `offset` of segment `number`, whose bytes are `image`. Never reads outside
// `image`.
BatchState DecodeBatch(std::string_view image, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);
// The same, given only the bytes from `offset` on.
BatchState DecodeBatchAt(std::string_view bytes, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch);

}  // namespace pando
