// Replica: applying operations to the tree. Nothing here suspends: the pages and values needed are in memory.
#include <charconv>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr size_t kMaxNumberBytes = 20;  // a sign and 19 digits

int64_t ExpiryOf(const WriteOp& op, Version version, const ReadResult& current) {
  switch (op.ttl_mode) {
    case TtlMode::kKeep: return current.found ? current.expires_at_ms : 0;
    case TtlMode::kSet: return VersionMs(version) + op.ttl_ms;
    case TtlMode::kClear: return 0;
  }
  return 0;
}

bool Holds(const Condition& condition, const ReadResult& current, bool value_equal) {
  if (condition.exists && *condition.exists != current.found) return false;
  if (condition.version && (!current.found || current.version != *condition.version)) return false;
  if (condition.value && (!current.found || !value_equal)) return false;
  return true;
}

// The decimal 64-bit integer a record holds; a missing record counts as zero. Longer text is not a number, whatever
// its leading zeros: so no number is an overflow value.
bool ParseNumber(const ReadResult& current, int64_t* number) {
  *number = 0;
  if (!current.found) return true;
  if (current.value.size() > kMaxNumberBytes) return false;
  const char* end = current.value.data() + current.value.size();
  auto [at, error] = std::from_chars(current.value.data(), end, *number);
  return error == std::errc() && at == end;
}

}  // namespace

void Replica::Apply(PendingWrite* pending) {
  constexpr uint32_t kUnitsPerOp = 8;
  pending_.pop_front();
  apply_slice_.Spend(kUnitsPerOp * static_cast<uint32_t>(pending->ops ? pending->ops->size() : 1));
  if (!pending->ops) {
    TakeCut(pending->cut);
    return Finish(pending, Status());
  }
  for (size_t i = 0; i < pending->ops->size(); ++i) {
    CHECK_GT(pending->versions[i], applied_version_) << "P5: versions rise along the log";
    applied_version_ = pending->versions[i];
    pending->results.push_back(ApplyOp(pending, i));
  }
  NoteChanges(*pending);
  pending->pins.clear();
  applied_lsn_ = pending->last_lsn;
  log_->SetCommit(stream_, applied_lsn_);
  Finish(pending, Status());
}

// Also removes of records that were not there: one that had expired, and was not swept, is gone from the tree with it.
void Replica::NoteChanges(const PendingWrite& pending) {
  for (size_t i = 0; i < pending.ops->size(); ++i) {
    const WriteOp& op = (*pending.ops)[i];
    if (pending.results[i].outcome != OpOutcome::kApplied) continue;
    changes_.Add(pending.versions[i], op.key, op.op == RecordOp::kRemove || op.op == RecordOp::kExpire);
  }
  changes_.Publish();
}

// Not by the usual conditions: to them an expired record does not exist.
OpResult Replica::ApplyExpire(Frame* leaf, const WriteOp& op, OpResult result) {
  std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, op.key);
  result.existed = found && found->record.version == *op.condition.version && found->record.expires_at_ms != 0 &&
                   found->record.expires_at_ms <= VersionMs(result.version);
  if (!result.existed) {
    result.outcome = OpOutcome::kConditionFailed;
    return result;
  }
  bool underfull = false;
  tree_->Erase(leaf, op.key, &underfull);
  if (underfull) MergeSoon(op.key);
  return result;
}

// The record that an operation meets. Its value only when the operation looks at it.
Replica::CurrentRecord Replica::ReadCurrent(PendingWrite* pending, size_t index, Frame* leaf) {
  const WriteOp& op = (*pending->ops)[index];
  const int64_t now_ms = VersionMs(pending->versions[index]);
  CurrentRecord current;
  if (!NeedsCurrentValue(op)) {
    std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, op.key);
    if (!found) return current;
    current.read.version = found->record.version;
    current.read.expires_at_ms = found->record.expires_at_ms;
    current.value_known = false;
    current.read.found = current.read.expires_at_ms == 0 || current.read.expires_at_ms > now_ms;
    return current;
  }
  RecordView unread;
  if (ReadResident(leaf, op.key, now_ms, &current.read, &unread)) {
    current.value_equal = op.condition.value && current.read.value == *op.condition.value;
    return current;
  }
  CHECK(!pending->found.empty() && pending->found[index].location == unread.overflow_ref.location)
      << "a condition was applied without its value";
  FoundValue& found = pending->found[index];
  current.value_equal = found.equal;
  current.value_known = found.bytes.has_value();
  if (found.bytes) {
    pending->reply_bytes -= found.bytes->size();  // counted again if it is handed back
    current.read.value = *std::move(found.bytes);
  }
  return current;
}

OpResult Replica::Refuse(PendingWrite* pending, size_t index, OpOutcome outcome, CurrentRecord current) {
  if (!pending->extents[index].empty()) file_->FreeNow(pending->extents[index]);
  OpResult result;
  result.outcome = outcome;
  result.version = current.read.version;
  result.existed = current.read.found;
  const size_t value_bytes = current.read.value.size();
  ValueRoom* room = pending->control ? pending->control->values : nullptr;
  result.value_omitted = !current.value_known || pending->reply_bytes + value_bytes > kMaxBatchBytes ||
                         (room && value_bytes > 0 && room->TryTake(value_bytes) != ValueRoom::Answer::kTaken);
  if (result.value_omitted) {
    std::string().swap(current.read.value);
  } else {
    pending->reply_bytes += value_bytes;
  }
  result.current = std::move(current.read);
  return result;
}

OpResult Replica::ApplyOp(PendingWrite* pending, size_t index) {
  const WriteOp& op = (*pending->ops)[index];
  const Version version = pending->versions[index];
  const Extent extent = pending->extents[index];
  ChildRef missing;
  uint8_t level = 0;
  Frame* leaf = tree_->FindLeaf(op.key, &missing, &level);
  CHECK(leaf != nullptr) << "a write was applied without its page";
  OpResult result;
  result.version = version;
  if (op.op == RecordOp::kExpire) return ApplyExpire(leaf, op, std::move(result));
  CurrentRecord current = ReadCurrent(pending, index, leaf);
  result.existed = current.read.found;
  if (!Holds(op.condition, current.read, current.value_equal)) {
    return Refuse(pending, index, OpOutcome::kConditionFailed, std::move(current));
  }
  NewValue value{op.value, extent, version, ExpiryOf(op, version, current.read)};
  std::string number_text;
  if (op.op == RecordOp::kRemove) {
    bool underfull = false;
    tree_->Erase(leaf, op.key, &underfull);
    if (underfull) MergeSoon(op.key);
    return result;
  }
  if (op.op == RecordOp::kIncrement) {
    if (!current.value_known || !ParseNumber(current.read, &result.number)) {
      return Refuse(pending, index, OpOutcome::kNotANumber, std::move(current));
    }
    if (__builtin_add_overflow(result.number, op.delta, &result.number)) {
      return Refuse(pending, index, OpOutcome::kOverflow, std::move(current));
    }
    number_text = std::to_string(result.number);
    value.bytes = number_text;
  }
  tree_->Upsert(leaf, op.key, value);
  NoteExpiry(value.expires_at_ms);
  return result;
}

}  // namespace pando
