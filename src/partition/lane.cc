#include "src/partition/lane.h"

#include <utility>

#include "src/base/codec.h"

namespace pando {
namespace {

constexpr uint8_t kFormat = 2;
constexpr uint8_t kNoDigest = 1;  // the format of an earlier version, which digested less
// Bits of the first byte of a result.
constexpr uint8_t kOutcomeMask = 0x07;
constexpr uint8_t kExisted = 0x08;
constexpr uint8_t kNumber = 0x10;
constexpr uint8_t kExpected = 0x20;  // the version follows that of the result before
constexpr uint8_t kKnownBits = kOutcomeMask | kExisted | kNumber | kExpected;

OpResult DecodeResult(ByteReader* reader, Version base, Version* expected, bool* sane) {
  OpResult result;
  const auto head = reader->Fixed<uint8_t>();
  const uint8_t outcome = head & kOutcomeMask;
  *sane &= (head & ~kKnownBits) == 0 && outcome <= static_cast<uint8_t>(OpOutcome::kBatchRefused);
  result.outcome = static_cast<OpOutcome>(outcome);
  if (result.outcome == OpOutcome::kBatchRefused) {
    *sane &= head == outcome;
    return result;
  }
  result.existed = (head & kExisted) != 0;
  result.version = (head & kExpected) != 0 ? *expected : base + static_cast<uint64_t>(reader->Signed());
  *expected = result.version + 1;
  if ((head & kNumber) != 0) result.number = reader->Signed();
  result.value_omitted = result.current_forgotten = result.existed;
  result.current.found = result.existed;
  if (result.outcome != OpOutcome::kApplied) result.current.version = result.version;
  return result;
}

}  // namespace

LaneEncoder::LaneEncoder(uint64_t sequence, Version version, std::optional<uint64_t> digest)
    : sequence_(sequence), version_(version), digest_(digest), expected_(version + 1) {}

void LaneEncoder::Add(const OpResult& result) {
  ++count_;
  uint8_t head = static_cast<uint8_t>(result.outcome);
  if (result.existed) head |= kExisted;
  if (result.number != 0) head |= kNumber;
  ByteWriter writer(&results_);
  if (result.outcome == OpOutcome::kBatchRefused) return writer.Fixed(static_cast<uint8_t>(result.outcome));
  const bool expected = result.version == expected_;
  if (expected) head |= kExpected;
  expected_ = result.version + 1;
  writer.Fixed(head);
  if (!expected) writer.Signed(static_cast<int64_t>(result.version - version_));
  if (result.number != 0) writer.Signed(result.number);
}

std::string LaneEncoder::Finish(size_t max_bytes) && {
  std::string value;
  ByteWriter writer(&value);
  writer.Fixed(digest_ ? kFormat : kNoDigest);
  writer.Varint(sequence_);
  writer.Fixed(version_);
  writer.Fixed(digest_.value_or(0));
  const size_t head_bytes = value.size();
  writer.Varint(count_);
  value += results_;
  if (value.size() <= max_bytes) return value;
  value.resize(head_bytes);
  writer.Varint(0);
  return value;
}

Result<Lane> DecodeLane(std::string_view value) {
  ByteReader reader(value);
  Lane lane;
  const auto format = reader.Fixed<uint8_t>();
  bool sane = format == kFormat || format == kNoDigest;
  lane.sequence = reader.Varint();
  lane.version = reader.Fixed<Version>();
  const auto digest = reader.Fixed<uint64_t>();
  if (format == kFormat) lane.digest = digest;
  const uint64_t count = reader.Varint();
  Version expected = lane.version + 1;
  sane &= reader.ok() && count <= reader.remaining();
  for (uint64_t i = 0; sane && i < count; ++i)
    lane.results.push_back(DecodeResult(&reader, lane.version, &expected, &sane));
  if (!sane || !reader.ok() || reader.remaining() != 0) {
    return Error(Code::kCorruption, "the record of a lane has invalid bytes");
  }
  return lane;
}

}  // namespace pando
