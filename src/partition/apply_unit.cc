#include "src/partition/apply_unit.h"

namespace pando {
namespace {

// AU2: returns why `record` cannot follow `previous` (null: none) within one write, or "".
std::string_view WrongOrder(const LogRecord* previous, const LogRecord& record) {
  if (!previous) return "";
  if (record.all_or_nothing != previous->all_or_nothing) return "only a part of a write is all-or-nothing";
  if (record.op == RecordOp::kEpochStart) return "an epoch begins inside a write";
  if (IsClusterMark(record.op)) return "a mark of the cluster comes inside a write";
  if (record.op == RecordOp::kOnce) return "a write is named after it has begun";
  if (record.op == RecordOp::kFeed) return "a feed begins inside a write";
  const bool after_checks = !IsCheck(previous->op) && previous->op != RecordOp::kOnce;
  if (record.op == RecordOp::kCheck && after_checks) return "a check comes after what it guards";
  return "";
}

}  // namespace

Status ApplyUnit::Decode(ByteReader* reader, size_t max_key_bytes) {
  size_t count = 0;
  do {
    if (reader->remaining() == 0) return Error(Code::kCorruption, "the last write is cut short");
    if (count == records.size()) records.emplace_back();
    LogRecord& record = records[count].record;
    ASSIGN_OR_RETURN(record, DecodeRecord(reader));
    const LogRecord* previous = count == 0 ? nullptr : &records[count - 1].record;
    if (record.key.size() > max_key_bytes) return Error(Code::kCorruption, "a key longer than the limit");
    if (const std::string_view wrong = WrongOrder(previous, record); !wrong.empty()) {
      return Error(Code::kCorruption, "{}", wrong);
    }
    if (record.copied && records.front().record.op != RecordOp::kFeed) {
      return Error(Code::kCorruption, "a copy of a record outside of a feed");
    }
    ++count;
  } while (records[count - 1].record.continues);
  CHECK_EQ(count, records.size()) << "a write has fewer records than operations";
  return Status();
}

Status ApplyUnit::CheckFollows(uint32_t partition, const UnitEnd& last) const {
  if (first_lsn > last.lsn + 1) {
    return Error(Code::kCorruption,
                 "partition {}: the log holds LSN {}, but the one before it is {}: log segments are missing. Put them "
                 "back, or restore the partition from a replica or a backup",
                 partition, first_lsn, last.lsn);
  }
  if (first_lsn <= last.lsn) {
    return Error(Code::kCorruption, "partition {}: LSN {} of the log is inside a write that begins at LSN {}",
                 partition, last.lsn, first_lsn);
  }
  if (epoch < last.epoch) {
    return Error(Code::kCorruption, "partition {}: the log holds epoch {} at LSN {}, after epoch {}", partition, epoch,
                 first_lsn, last.epoch);
  }
  Version version = last.version;
  for (const UnitRecord& r : records) {
    if (r.record.version <= version) {
      return Error(Code::kCorruption, "partition {}: the log holds version {} after version {}", partition,
                   r.record.version, version);
    }
    version = r.record.version;
  }
  return Status();
}

std::vector<std::string> KeysOf(const ApplyUnit& unit, UnitPart part) {
  std::vector<std::string> keys;
  keys.reserve(part.size());
  for (size_t i = part.from; i < part.to; ++i) keys.emplace_back(unit.records[i].record.key);
  return keys;
}

std::vector<std::string> KeysOf(const std::vector<WriteOp>& ops) {
  std::vector<std::string> keys;
  keys.reserve(ops.size());
  for (const WriteOp& op : ops) keys.emplace_back(op.key);
  return keys;
}

}  // namespace pando
