// Replica: decides the outcomes of operations and applies them to the tree. Nothing here suspends:
// the pages and values needed are in memory.
//
// If one operation of a write can refuse the others (WriteOptions::all_or_nothing,
// RecordOp::kCheck), the write is judged as a whole before any of it is applied. Judging changes
// nothing. What the operations would leave is kept outside the tree (Effects), where later
// operations look first. There is therefore nothing to undo.
#include <charconv>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr size_t kMaxNumberBytes = 20;  // a sign and 19 digits

int64_t ExpiryOf(const WriteOp& op, const ReadResult& current) {
  switch (op.ttl_mode) {
    case TtlMode::kKeep: return current.found ? current.expires_at_ms : 0;
    case TtlMode::kSet: return op.expires_at_ms;
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

// Parses the decimal 64-bit integer that a record holds. A missing record counts as zero. Longer
// text is not a number, even if it has leading zeros, so no number is an overflow value.
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
  constexpr uint32_t kUnitsPerOp = 12;
  CHECK_LE(pending->last_lsn, durable_lsn_) << "P1: a write was applied before it was durable";
  pending_.pop_front();
  apply_slice_.Spend(kUnitsPerOp * static_cast<uint32_t>(pending->ops ? pending->ops->size() : 1));
  if (!pending->ops) {
    TakeCut(pending->cut);
    return Finish(pending, Status());
  }
  CHECK_EQ(pending->last_lsn, applied_lsn_ + pending->ops->size())
      << "P1: a write was left out, applied twice, or applied out of order";
  const std::vector<OpOutcome> refused = Judge(pending);
  for (size_t i = 0; i < pending->ops->size(); ++i) {
    CHECK_GT(pending->versions[i], applied_version_) << "P5: versions rise along the log";
    applied_version_ = pending->versions[i];
    if (!refused.empty()) continue;
    pending->results.push_back(ApplyOp(pending, i));
    CHECK(!pending->options.all_or_nothing || pending->results.back().outcome == OpOutcome::kApplied)
        << "P10: an operation was refused that had been judged to apply";
  }
  if (!refused.empty()) RefuseAll(pending, refused);
  NoteChanges(*pending);  // CT2: before Finish, which acknowledges the write
  pending->pins.clear();
  applied_lsn_ = pending->last_lsn;
  log_->SetCommit(stream_, applied_lsn_);
  Finish(pending, Status());
}

// Also adds removes of records that did not exist: a record that had expired but was not swept
// leaves the tree with the remove.
void Replica::NoteChanges(const PendingWrite& pending) {
  for (size_t i = 0; i < pending.ops->size(); ++i) {
    const WriteOp& op = (*pending.ops)[i];
    if (pending.results[i].outcome != OpOutcome::kApplied || op.op == RecordOp::kCheck) continue;
    changes_.Add(pending.versions[i], op.key, op.op == RecordOp::kRemove || op.op == RecordOp::kExpire);
  }
  changes_.Publish();
}

// -- judging a write as a whole

// If the write is refused as a whole, returns the outcome of each operation: its own reason, or
// kBatchRefused. Returns nothing otherwise. Judging goes on after a refused operation, as if it
// were not there, so that the caller learns all reasons at once. After a failed kCheck it goes on
// only through the remaining checks.
std::vector<OpOutcome> Replica::Judge(const PendingWrite* pending) {
  const std::vector<WriteOp>& ops = *pending->ops;
  const bool all_or_nothing = pending->options.all_or_nothing;
  std::vector<OpOutcome> outcomes;
  if (!all_or_nothing && ops.front().op != RecordOp::kCheck) return outcomes;
  outcomes.resize(ops.size(), OpOutcome::kBatchRefused);
  bool refused = false, check_failed = false;
  Effects effects;
  for (size_t i = 0; i < ops.size(); ++i) {
    const bool check = ops[i].op == RecordOp::kCheck;  // checks come before all other operations
    if (!check && (check_failed || !all_or_nothing)) break;
    const OpOutcome outcome = JudgeOp(pending, i, &effects);
    if (outcome == OpOutcome::kApplied) continue;
    outcomes[i] = outcome;
    refused = true;
    check_failed |= check;
  }
  if (!refused) outcomes.clear();
  return outcomes;
}

// Returns the outcome that the operation would have after those that left `effects`, and adds its
// own effect.
OpOutcome Replica::JudgeOp(const PendingWrite* pending, size_t index, Effects* effects) {
  const WriteOp& op = (*pending->ops)[index];
  const CurrentRecord current = Foresee(pending, index, *effects);
  const Verdict verdict = Decide(op, current);
  if (verdict.outcome != OpOutcome::kApplied || op.op == RecordOp::kCheck) return verdict.outcome;
  auto [entry, is_first] = effects->try_emplace(op.key);
  Effect& effect = entry->second;
  if (op.op == RecordOp::kRemove) {
    effect = Effect{};
    return verdict.outcome;
  }
  effect.found = true;
  effect.version = pending->versions[index];
  effect.expires_at_ms = ExpiryOf(op, current.read);
  if (op.op == RecordOp::kTouch) {
    effect.value_in_tree |= is_first;
    return verdict.outcome;
  }
  effect.value_in_tree = false;
  effect.value = op.value;
  effect.number = op.op == RecordOp::kIncrement ? std::to_string(verdict.number) : "";
  return verdict.outcome;
}

// The record that the operation would find. Of its value, only what Decide needs is filled in.
Replica::CurrentRecord Replica::Foresee(const PendingWrite* pending, size_t index, const Effects& effects) {
  const WriteOp& op = (*pending->ops)[index];
  const auto entry = effects.find(op.key);
  CurrentRecord current;
  if (entry == effects.end() || entry->second.value_in_tree) current = ForeseeStored(pending, index, LeafOf(op));
  if (entry != effects.end()) {
    const Effect& effect = entry->second;
    current.read.found = effect.found;
    current.read.version = effect.version;
    current.read.expires_at_ms = effect.expires_at_ms;
    if (!effect.value_in_tree) {
      const std::string_view value = effect.number.empty() ? effect.value : effect.number;
      current.value_equal = op.condition.value && value == *op.condition.value;
      current.value_known = value.size() <= kMaxNumberBytes;
      if (current.value_known) current.read.value = value;
    }
  }
  const int64_t expires_at_ms = current.read.expires_at_ms;
  if (expires_at_ms != 0 && expires_at_ms <= VersionMs(pending->versions[index])) return CurrentRecord();
  return current;
}

// The same for the record in the tree, expired or not.
Replica::CurrentRecord Replica::ForeseeStored(const PendingWrite* pending, size_t index, Frame* leaf) {
  const WriteOp& op = (*pending->ops)[index];
  CurrentRecord current;
  const std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, op.key);
  if (!found) return current;
  const RecordView& record = found->record;
  current.read.found = true;
  current.read.version = record.version;
  current.read.expires_at_ms = record.expires_at_ms;
  current.value_known = record.value_bytes <= kMaxNumberBytes;
  if (current.value_known) current.read.value = record.value;
  if (!op.condition.value || op.condition.value->size() != record.value_bytes) return current;
  if (!record.overflow) {
    current.value_equal = record.value == *op.condition.value;
  } else if (Frame* value = tree_->FindOverflow(record.overflow_ref)) {
    std::string bytes;
    pool_.CopyOverflow(*value, &bytes);
    current.value_equal = bytes == *op.condition.value;
  } else {
    CHECK(!pending->found.empty() && pending->found[index].location == record.overflow_ref.location)
        << "a condition was judged without its value";
    current.value_equal = pending->found[index].equal;
  }
  return current;
}

// Applies nothing. The records that are handed back are those in the tree, which the write has not
// changed.
void Replica::RefuseAll(PendingWrite* pending, const std::vector<OpOutcome>& outcomes) {
  const std::vector<WriteOp>& ops = *pending->ops;
  pending->results.resize(ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    if (outcomes[i] != OpOutcome::kBatchRefused) {
      pending->results[i] = Refuse(pending, i, outcomes[i], ReadCurrent(pending, i, LeafOf(ops[i])));
      continue;
    }
    if (!pending->extents[i].empty()) file_->FreeNow(pending->extents[i]);
    pending->results[i].outcome = OpOutcome::kBatchRefused;
  }
}

// -- one operation

// The outcome of an operation on the record that it finds.
Replica::Verdict Replica::Decide(const WriteOp& op, const CurrentRecord& current) {
  Verdict verdict;
  const bool touches_nothing = op.op == RecordOp::kTouch && !current.read.found;
  if (touches_nothing || !Holds(op.condition, current.read, current.value_equal)) {
    verdict.outcome = OpOutcome::kConditionFailed;
  } else if (op.op != RecordOp::kIncrement) {
    return verdict;
  } else if (!current.value_known || !ParseNumber(current.read, &verdict.number)) {
    verdict.outcome = OpOutcome::kNotANumber;
  } else if (__builtin_add_overflow(verdict.number, op.delta, &verdict.number)) {
    verdict.outcome = OpOutcome::kOverflow;
  }
  return verdict;
}

Frame* Replica::LeafOf(const WriteOp& op) {
  ChildRef missing;
  uint8_t level = 0;
  Frame* leaf = tree_->FindLeaf(op.key, &missing, &level);
  CHECK(leaf != nullptr) << "P2: a write was applied without its page";
  return leaf;
}

// Does not use the usual conditions, because for them an expired record does not exist.
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

// The record that an operation finds. Its value is included only if the operation looks at it.
Replica::CurrentRecord Replica::ReadCurrent(PendingWrite* pending, size_t index, Frame* leaf) {
  const WriteOp& op = (*pending->ops)[index];
  const int64_t now_ms = VersionMs(pending->versions[index]);
  CurrentRecord current;
  if (!NeedsCurrentValue(op)) {
    std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, op.key);
    if (!found) return current;
    const RecordView& record = found->record;
    if (record.expires_at_ms != 0 && record.expires_at_ms <= now_ms) return current;
    current.read.found = true;
    current.read.version = record.version;
    current.read.expires_at_ms = record.expires_at_ms;
    current.value_known = false;
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
  HandBack(pending, std::move(current), &result);
  return result;
}

// Hands the record as found back to the caller. Its value is included only if the reply has room
// for it.
void Replica::HandBack(PendingWrite* pending, CurrentRecord current, OpResult* result) {
  const size_t value_bytes = current.read.value.size();
  ValueRoom* room = pending->options.control ? pending->options.control->values : nullptr;
  result->value_omitted = !current.value_known || pending->reply_bytes + value_bytes > kMaxBatchBytes ||
                          (room && value_bytes > 0 && room->TryTake(value_bytes) != ValueRoom::Answer::kTaken);
  if (result->value_omitted) {
    std::string().swap(current.read.value);
  } else {
    pending->reply_bytes += value_bytes;
  }
  result->current = std::move(current.read);
}

OpResult Replica::ApplyOp(PendingWrite* pending, size_t index) {
  const WriteOp& op = (*pending->ops)[index];
  OpResult result;
  result.version = pending->versions[index];
  if (op.op == RecordOp::kCheck) return result;  // it holds: Judge has verified that
  Frame* leaf = LeafOf(op);
  if (op.op == RecordOp::kExpire) return ApplyExpire(leaf, op, std::move(result));
  CurrentRecord current = ReadCurrent(pending, index, leaf);
  result.existed = current.read.found;
  const Verdict verdict = Decide(op, current);
  if (verdict.outcome != OpOutcome::kApplied) return Refuse(pending, index, verdict.outcome, std::move(current));
  result.number = verdict.number;
  const int64_t expires_at_ms = ExpiryOf(op, current.read);
  if (op.return_previous) HandBack(pending, std::move(current), &result);
  if (op.op == RecordOp::kRemove) {
    bool underfull = false;
    tree_->Erase(leaf, op.key, &underfull);
    if (underfull) MergeSoon(op.key);
    return result;
  }
  if (op.op == RecordOp::kTouch) {
    tree_->Touch(leaf, op.key, result.version, expires_at_ms);
  } else {
    const std::string number = op.op == RecordOp::kIncrement ? std::to_string(verdict.number) : "";
    const std::string_view bytes = op.op == RecordOp::kIncrement ? std::string_view(number) : op.value;
    tree_->Upsert(leaf, op.key, NewValue{bytes, pending->extents[index], result.version, expires_at_ms});
  }
  NoteExpiry(expires_at_ms);
  return result;
}

}  // namespace pando
