#include "src/wal/log_format.h"

#include <charconv>
#include <cstring>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {
namespace {

constexpr std::string_view kNamePrefix = "segment-";
constexpr std::string_view kNameSuffix = ".wal";
constexpr size_t kNameDigits = 20;
// The checksum is the first field of both headers and covers everything after it.
constexpr size_t kChecksumBytes = sizeof(uint64_t);

// Whether the items fill the payload exactly and are as many records and cuts as the header says.
bool ItemsAreSane(const BatchHeader& h, std::string_view payload) {
  PayloadReader reader(payload);
  uint64_t records = 0;
  for (;;) {
    const PayloadReader::Item item = reader.Next();
    if (item == PayloadReader::Item::kDamaged) return false;
    if (item == PayloadReader::Item::kEnd) return records == h.record_count;
    if (item == PayloadReader::Item::kUnit) records += reader.unit.record_count;
    if (item == PayloadReader::Item::kCut) ++records;
    if (item == PayloadReader::Item::kCut && h.format_version < kFirstVersionWithCuts) return false;
  }
}

bool IsSane(const BatchHeader& h, std::string_view payload) {
  if ((h.flags & ~kBatchKnownFlags) != 0 || h.reserved16 != 0 || h.reserved64 != 0) return false;
  if (h.previous_end > h.position || h.durable_position > h.position) return false;
  if ((h.flags & kBatchCut) != 0 && h.record_count != 0) return false;  // only marks
  if (!HasUnits(h)) {
    if (h.partition.IsNil() != (h.record_count == 0) || (h.record_count == 0) != (h.payload_bytes == 0)) return false;
    return h.first_lsn + h.record_count >= h.first_lsn;
  }
  if ((h.flags & kBatchEndsGroup) == 0 || (h.flags & kBatchStartsStream) != 0) return false;
  if (!h.partition.IsNil() || h.epoch != 0 || h.first_lsn != 0 || h.commit_lsn != 0) return false;
  return ItemsAreSane(h, payload);
}

bool IsReadable(uint16_t version) { return version >= kOldestLogFormatVersion && version <= kLogFormatVersion; }

}  // namespace

std::string SegmentFileName(uint64_t number) { return fmt::format("{}{:020}{}", kNamePrefix, number, kNameSuffix); }

std::optional<uint64_t> ParseSegmentFileName(std::string_view name) {
  if (name.size() != kNamePrefix.size() + kNameDigits + kNameSuffix.size()) return std::nullopt;
  if (!name.starts_with(kNamePrefix) || !name.ends_with(kNameSuffix)) return std::nullopt;
  const std::string_view digits = name.substr(kNamePrefix.size(), kNameDigits);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  if (number == 0 || number > kMaxSegmentNumber) return std::nullopt;
  return number;
}

void EncodeSegmentHeader(const Uuid& node, uint64_t number, uint64_t segment_bytes, char* block) {
  std::memset(block, 0, kBlockBytes);
  SegmentHeader header{};
  header.magic = kSegmentMagic;
  header.format_version = kLogFormatVersion;
  header.node = node;
  header.segment_number = number;
  header.segment_bytes = segment_bytes;
  StoreLE(block, header);
  header.checksum = Hash64({block + kChecksumBytes, kBlockBytes - kChecksumBytes});
  StoreLE(block, header.checksum);
}

HeaderState DecodeSegmentHeader(std::string_view block, SegmentHeader* header) {
  if (block.size() < kBlockBytes) return HeaderState::kDamaged;
  const auto found = LoadLE<SegmentHeader>(block.data());
  if (found.magic != kSegmentMagic) return HeaderState::kDamaged;
  if (found.checksum != Hash64(block.substr(kChecksumBytes, kBlockBytes - kChecksumBytes)))
    return HeaderState::kDamaged;
  *header = found;
  if (!IsReadable(found.format_version)) return HeaderState::kOtherVersion;
  const bool size_ok = found.segment_bytes >= kMinSegmentBytes && found.segment_bytes <= kMaxSegmentBytes &&
                       found.segment_bytes % kBlockBytes == 0;
  return size_ok ? HeaderState::kValid : HeaderState::kDamaged;
}

uint64_t LogChecksumSeed(const Uuid& node) { return Hash64({reinterpret_cast<const char*>(&node), sizeof(node)}); }

uint64_t SealBatch(BatchHeader header, uint64_t seed, size_t payload_bytes, char* out) {
  header.magic = kBatchMagic;
  header.format_version = kLogFormatVersion;
  header.payload_bytes = static_cast<uint32_t>(payload_bytes);
  StoreLE(out, header);
  std::memset(out + sizeof(header), 0, kSealBytes);
  const size_t bytes = kBatchOverhead + payload_bytes;
  std::memset(out + bytes, 0, BatchBytes(payload_bytes) - bytes);
  header.checksum = Hash64({out + kChecksumBytes, bytes - kChecksumBytes}, seed);
  StoreLE(out, header.checksum);
  return header.checksum;
}

const char* BatchStateName(BatchState state) {
  switch (state) {
    case BatchState::kValid: return "the batch is valid";
    case BatchState::kNothing: return "there is no batch header";
    case BatchState::kStale: return "the batch is left over from an earlier use of the file";
    case BatchState::kDamaged: return "the batch fails its checksum or violates the format";
    case BatchState::kOtherVersion: return "the batch has another format version";
  }
  return "the state of the batch is unknown";
}

BatchState DecodeBatch(std::string_view image, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch) {
  if (offset > image.size()) return BatchState::kNothing;
  return DecodeBatchAt(image.substr(offset), number, offset, seed, batch);
}

BatchState DecodeBatchAt(std::string_view bytes, uint64_t number, uint64_t offset, uint64_t seed, BatchView* batch) {
  if (bytes.size() < sizeof(BatchHeader)) return BatchState::kNothing;
  const auto header = LoadLE<BatchHeader>(bytes.data());
  if (header.magic != kBatchMagic) return BatchState::kNothing;
  if (header.segment_number != number) return BatchState::kStale;
  const uint64_t room = bytes.size() - sizeof(BatchHeader);
  const uint64_t needed = BatchOverhead(header) - sizeof(BatchHeader) + uint64_t{header.payload_bytes};
  if (header.position != MakePosition(number, offset) || needed > room) return BatchState::kDamaged;
  const size_t batch_bytes = sizeof(BatchHeader) + needed;
  if (header.checksum != Hash64(bytes.substr(kChecksumBytes, batch_bytes - kChecksumBytes), seed)) {
    return BatchState::kDamaged;
  }
  if (!IsReadable(header.format_version)) return BatchState::kOtherVersion;
  const std::string_view payload = bytes.substr(BatchOverhead(header), header.payload_bytes);
  if (!IsSane(header, payload)) return BatchState::kDamaged;
  batch->header = header;
  batch->payload = payload;
  return BatchState::kValid;
}

}  // namespace pando
