#include "src/partition/write_record.h"

#include "src/base/hash.h"

namespace pando {
namespace {

// Whether its expiry counts from its version.
bool IsRelative(const WriteOp& op) { return op.ttl_mode == TtlMode::kSet && op.ttl_ms > 0; }

}  // namespace

LogRecord RecordOf(const WriteOp& op, Version version) {
  LogRecord record;
  record.op = op.op;
  record.version = version;
  record.ttl_mode = op.ttl_mode;
  record.expires_at_ms = IsRelative(op) ? VersionMs(version) + op.ttl_ms : op.expires_at_ms;
  record.delta = op.delta;
  record.sequence = op.sequence;
  record.first_sent_ms = op.first_sent_ms;
  record.snapshot = op.snapshot;
  if (op.copied != 0) record.copied = op.copied;
  record.key = op.key;
  record.value = op.value;
  record.condition.version = op.condition.version;
  record.condition.exists = op.condition.exists;
  if (op.condition.value) record.condition.value = *op.condition.value;
  return record;
}

uint64_t DigestOf(std::span<const WriteOp> ops, bool all_or_nothing, std::string* scratch) {
  uint64_t digest = 0;
  for (size_t i = 0; i < ops.size(); ++i) {
    LogRecord asked = RecordOf(ops[i], /*version=*/0);
    if (IsRelative(ops[i])) asked.expires_at_ms = -ops[i].ttl_ms;
    asked.continues = i + 1 < ops.size();
    asked.all_or_nothing = all_or_nothing;
    EncodeRecord(asked, scratch);
    digest = Hash64(*scratch, digest);
    scratch->clear();
  }
  return digest;
}

}  // namespace pando
