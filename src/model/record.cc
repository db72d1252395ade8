#include "src/model/record.h"

#include "src/wal/write_unit.h"

namespace pando {
namespace {

static_assert(kOpsOfFormat3[0] == static_cast<uint8_t>(RecordOp::kClose));
static_assert(kOpsOfFormat3[1] == static_cast<uint8_t>(RecordOp::kLease));
static_assert(kOpOfFormat4 == static_cast<uint8_t>(RecordOp::kFeed));

// Bits of the flags byte.
constexpr uint8_t kContinues = 0x01;
constexpr unsigned kTtlShift = 1;
constexpr uint8_t kTtlMask = 0x06;
constexpr uint8_t kIfVersion = 0x08;
constexpr uint8_t kIfValue = 0x10;
constexpr uint8_t kIfExistence = 0x20;  // the condition is about existence; see kIfExists
constexpr uint8_t kIfExists = 0x40;     // with kIfExistence: the record must exist
constexpr uint8_t kMoreFlags = 0x80;    // a second, nonzero byte of flags follows

// Bits of the second byte of flags.
constexpr uint8_t kAllOrNothing = 0x01;
constexpr uint8_t kDigest = 0x02;  // kOnce: a digest follows
constexpr uint8_t kCopied = 0x04;  // kPut: the version of the copied record follows
constexpr uint8_t kKnownMoreFlags = kAllOrNothing | kDigest | kCopied;

uint8_t MoreFlagsOf(const LogRecord& record) {
  uint8_t flags = record.all_or_nothing ? kAllOrNothing : 0;
  if (record.digest) flags |= kDigest;
  if (record.copied) flags |= kCopied;
  return flags;
}

uint8_t FlagsOf(const LogRecord& record) {
  uint8_t flags = static_cast<uint8_t>(static_cast<uint8_t>(record.ttl_mode) << kTtlShift);
  if (record.continues) flags |= kContinues;
  if (record.condition.version) flags |= kIfVersion;
  if (record.condition.value) flags |= kIfValue;
  if (record.condition.exists) flags |= kIfExistence;
  if (record.condition.exists.value_or(false)) flags |= kIfExists;
  if (MoreFlagsOf(record) != 0) flags |= kMoreFlags;
  return flags;
}

// Checks that an operation has what it requires and nothing that it must not have.
bool IsComplete(const LogRecord& record) {
  switch (record.op) {
    case RecordOp::kExpire: return record.condition.version.has_value();
    case RecordOp::kTouch: return record.ttl_mode != TtlMode::kKeep;
    case RecordOp::kCheck:
    case RecordOp::kFeed: return record.ttl_mode == TtlMode::kKeep && !record.condition.empty();
    case RecordOp::kPut:
      // Nothing of a copy depends on what it replaces.
      return !record.copied || (*record.copied > 0 && *record.copied <= record.version &&
                                record.ttl_mode != TtlMode::kKeep && record.condition.empty());
    case RecordOp::kEpochStart:
      return record.key.empty() && record.ttl_mode == TtlMode::kKeep && record.condition.empty() && !record.continues &&
             !record.all_or_nothing;
    case RecordOp::kOnce:
      return !record.key.empty() && record.sequence > 0 && record.first_sent_ms > 0 && record.continues &&
             record.ttl_mode == TtlMode::kKeep && record.condition.empty();
    case RecordOp::kClose:
    case RecordOp::kLease: {
      const bool set = record.ttl_mode == TtlMode::kSet && record.expires_at_ms > 0;
      const bool clear = record.ttl_mode == TtlMode::kClear && record.op == RecordOp::kLease;
      return (set || clear) && record.key.empty() && record.snapshot != 0 && record.condition.empty() &&
             !record.continues && !record.all_or_nothing;
    }
    default: return true;
  }
}

}  // namespace

void EncodeRecord(const LogRecord& record, std::string* out) {
  ByteWriter writer(out);
  writer.Fixed(record.op);
  writer.Fixed(FlagsOf(record));
  if (const uint8_t more = MoreFlagsOf(record); more != 0) writer.Fixed(more);
  writer.Fixed(record.version);
  if (record.ttl_mode == TtlMode::kSet) writer.Signed(record.expires_at_ms);
  writer.LengthPrefixed(record.key);
  if (record.op == RecordOp::kPut) writer.LengthPrefixed(record.value);
  if (record.copied) writer.Fixed(*record.copied);
  if (record.op == RecordOp::kIncrement) writer.Signed(record.delta);
  if (record.op == RecordOp::kOnce) {
    writer.Varint(record.sequence);
    writer.Varint(static_cast<uint64_t>(record.first_sent_ms));
    if (record.digest) writer.Fixed(*record.digest);
  }
  if (IsClusterMark(record.op)) writer.Fixed(record.snapshot);
  if (record.condition.version) writer.Fixed(*record.condition.version);
  if (record.condition.value) writer.LengthPrefixed(*record.condition.value);
}

Result<LogRecord> DecodeRecord(ByteReader* reader) {
  LogRecord record;
  const auto op = reader->Fixed<uint8_t>();
  const auto flags = reader->Fixed<uint8_t>();
  const uint8_t more_flags = (flags & kMoreFlags) != 0 ? reader->Fixed<uint8_t>() : 0;
  record.version = reader->Fixed<Version>();
  if (!reader->ok()) return Error(Code::kCorruption, "log record: the record ends before its version");
  if (op < static_cast<uint8_t>(RecordOp::kPut) || op > static_cast<uint8_t>(RecordOp::kFeed)) {
    return Error(Code::kCorruption, "log record: unknown operation {}", op);
  }
  const auto ttl = static_cast<uint8_t>((flags & kTtlMask) >> kTtlShift);
  const bool stray_exists = (flags & kIfExists) != 0 && (flags & kIfExistence) == 0;
  const bool stray_digest = (more_flags & kDigest) != 0 && op != static_cast<uint8_t>(RecordOp::kOnce);
  const bool stray_copied = (more_flags & kCopied) != 0 && op != static_cast<uint8_t>(RecordOp::kPut);
  const bool stray_more = (flags & kMoreFlags) != 0 && more_flags == 0;
  if (stray_exists || stray_more || (more_flags & ~kKnownMoreFlags) != 0 ||
      ttl > static_cast<uint8_t>(TtlMode::kClear) || stray_digest || stray_copied) {
    return Error(Code::kCorruption, "log record: invalid flags {:#04x} {:#04x}", flags, more_flags);
  }
  record.op = static_cast<RecordOp>(op);
  record.continues = (flags & kContinues) != 0;
  record.all_or_nothing = (more_flags & kAllOrNothing) != 0;
  record.ttl_mode = static_cast<TtlMode>(ttl);
  if (record.ttl_mode == TtlMode::kSet) record.expires_at_ms = reader->Signed();
  record.key = reader->LengthPrefixed();
  if (record.op == RecordOp::kPut) record.value = reader->LengthPrefixed();
  if ((more_flags & kCopied) != 0) record.copied = reader->Fixed<Version>();
  if (record.op == RecordOp::kIncrement) record.delta = reader->Signed();
  if (record.op == RecordOp::kOnce) {
    record.sequence = reader->Varint();
    record.first_sent_ms = static_cast<int64_t>(reader->Varint());
    if ((more_flags & kDigest) != 0) record.digest = reader->Fixed<uint64_t>();
  }
  if (IsClusterMark(record.op)) record.snapshot = reader->Fixed<uint64_t>();
  if (flags & kIfVersion) record.condition.version = reader->Fixed<Version>();
  if (flags & kIfValue) record.condition.value = reader->LengthPrefixed();
  if (flags & kIfExistence) record.condition.exists = (flags & kIfExists) != 0;
  if (!reader->ok()) return Error(Code::kCorruption, "log record: the record of operation {} is truncated", op);
  if (!IsComplete(record)) {
    return Error(Code::kCorruption, "log record: operation {} has an invalid condition or TTL mode", op);
  }
  return record;
}

}  // namespace pando
