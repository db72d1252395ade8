// If one operation of a write can refuse the others (WriteOptions::all_or_nothing,
// RecordOp::kCheck), the write is judged as a whole before any of it is applied. Judging changes
// nothing. What the operations would leave is kept outside the tree (Effects), where later
// operations look first. There is therefore nothing to undo.
#include "src/partition/applier.h"

#include <charconv>

#include "src/partition/resident_record.h"

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

bool NeedsCurrentValue(const WriteOp& op) {
  if (op.op == RecordOp::kIncrement || op.condition.value || op.return_previous) return true;
  return op.op != RecordOp::kExpire && !op.condition.empty() && !op.current_value_unwanted;
}

}  // namespace

// -- what a write needs in memory

size_t Applier::FramesFor(const std::vector<WriteOp>& ops) const {
  size_t frames = kFramesPerUpdate;
  for (const WriteOp& op : ops) {
    frames += state_.tree->NewPagesFor(op.key.size());
    if (op.op == RecordOp::kPut && state_.tree->NeedsOverflow(op.key.size(), op.value.size())) {
      frames += state_.pool.FramesFor(static_cast<uint32_t>(op.value.size()));
    }
  }
  return frames;
}

std::vector<std::string> Applier::KeysOf(const std::vector<WriteOp>& ops) {
  std::vector<std::string> keys;
  keys.reserve(ops.size());
  for (const WriteOp& op : ops) keys.emplace_back(op.key);
  return keys;
}

bool Applier::Ready(const ApplyUnit* unit) {
  const std::vector<WriteOp>& ops = *unit->ops;
  const size_t frames = FramesFor(ops);
  if (state_.pool.free_frames() < frames) return false;
  std::vector<Frame*> leaves(state_.tree->checkpointing() && ops.size() > 1 ? ops.size() : 0);
  ChildRef missing;
  uint8_t level = 0;
  for (size_t i = 0; i < ops.size(); ++i) {
    Frame* leaf = state_.tree->FindLeaf(ops[i].key, &missing, &level);
    if (!leaf) return false;
    if (!leaves.empty() && ops[i].op != RecordOp::kCheck) leaves[i] = leaf;
    if (!NeedsCurrentValue(ops[i])) continue;
    std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, ops[i].key);
    if (!found || !found->record.overflow || state_.tree->FindOverflow(found->record.overflow_ref)) continue;
    if (unit->found.empty() || unit->found[i].location != found->record.overflow_ref.location) return false;
  }
  return state_.pool.free_frames() >= frames + state_.tree->ClonesNeeded(leaves);
}

Task<Status> Applier::MakeReady(ApplyUnit* unit) {
  const std::vector<WriteOp>& ops = *unit->ops;
  unit->pins.clear();
  unit->found.resize(ops.size());
  std::vector<Frame*> leaves;
  for (size_t i = 0; i < ops.size(); ++i) {
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await state_.tree->FetchLeaf(ops[i].key));
    leaves.push_back(leaf.frame());
    unit->pins.push_back(std::move(leaf));
    if (!NeedsCurrentValue(ops[i])) continue;
    std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaves.back(), ops[i].key);
    if (!found || !found->record.overflow || unit->found[i].location == found->record.overflow_ref.location) continue;
    CO_RETURN_IF_ERROR(co_await ReadFound(unit, i, found->record.overflow_ref, found->record.value_bytes));
  }
  // Only in replay: admission allows less, but the log may have been written with more memory.
  if (FramesFor(ops) > state_.pool.frame_count() / 2) {
    co_return Error(Code::kInvalidArgument,
                    "partition {}: the log holds a write that needs {} pages of memory, but the buffer pool has {} and "
                    "allows half of them for one write; raise --memory_limit_mb and start again, nothing is lost",
                    state_.id(), FramesFor(ops), state_.pool.frame_count());
  }
  size_t frames = FramesFor(ops) + state_.tree->ClonesNeeded(leaves);
  // Frees frames for the new pages and the clones.
  co_return co_await state_.pool.EnsureFree(std::min(frames, size_t{state_.pool.frame_count()} / 2));
}

Task<Status> Applier::ReadFound(ApplyUnit* unit, size_t index, OverflowRef ref, uint32_t value_bytes) {
  std::string bytes;
  Status status;
  do {
    Result<PagePin> value = co_await state_.tree->FetchOverflow(ref, value_bytes);
    if (value.ok()) state_.pool.CopyOverflow(*value->frame(), &bytes);
    status = value.ok() ? Status() : value.TakeStatus();
  } while (status.code() == Code::kAborted && !state_.failed());  // the pool had no room
  CO_RETURN_IF_ERROR(status);
  const Condition& condition = (*unit->ops)[index].condition;
  FoundValue& found = unit->found[index];
  found.location = ref.location;
  found.equal = condition.value && *condition.value == bytes;
  if (unit->reply_bytes + bytes.size() <= kMaxBatchBytes) {
    unit->reply_bytes += bytes.size();
    found.bytes = std::move(bytes);
  }
  co_return Status();
}

// -- applying a write

void Applier::Apply(ApplyUnit* unit) {
  CHECK_LE(unit->last_lsn, state_.durable_lsn) << "P1: a write was applied before it was durable";
  CHECK_EQ(unit->last_lsn, state_.applied_lsn + unit->ops->size())
      << "P1: a write was left out, applied twice, or applied out of order";
  const std::vector<OpOutcome> refused = Judge(unit);
  for (size_t i = 0; i < unit->ops->size(); ++i) {
    CHECK_GT(unit->versions[i], state_.applied_version) << "P5: versions rise along the log";
    state_.applied_version = unit->versions[i];
    if (!refused.empty()) continue;
    unit->results.push_back(ApplyOp(unit, i));
    CHECK(!unit->options.all_or_nothing || unit->results.back().outcome == OpOutcome::kApplied)
        << "P10: an operation was refused that had been judged to apply";
  }
  if (!refused.empty()) RefuseAll(unit, refused);
  NoteChanges(*unit);  // CT2: before the write is acknowledged
  unit->pins.clear();
  state_.applied_lsn = unit->last_lsn;
}

// Also adds removes of records that did not exist: a record that had expired but was not swept
// leaves the tree with the remove.
void Applier::NoteChanges(const ApplyUnit& unit) {
  for (size_t i = 0; i < unit.ops->size(); ++i) {
    const WriteOp& op = (*unit.ops)[i];
    if (unit.results[i].outcome != OpOutcome::kApplied || op.op == RecordOp::kCheck) continue;
    state_.changes.Add(unit.versions[i], op.key, op.op == RecordOp::kRemove || op.op == RecordOp::kExpire);
  }
  state_.changes.Publish();
}

// -- judging a write as a whole

// If the write is refused as a whole, returns the outcome of each operation: its own reason, or
// kBatchRefused. Returns nothing otherwise. Judging goes on after a refused operation, as if it
// were not there, so that the caller learns all reasons at once. After a failed kCheck it goes on
// only through the remaining checks.
std::vector<OpOutcome> Applier::Judge(const ApplyUnit* unit) {
  const std::vector<WriteOp>& ops = *unit->ops;
  const bool all_or_nothing = unit->options.all_or_nothing;
  std::vector<OpOutcome> outcomes;
  if (!all_or_nothing && ops.front().op != RecordOp::kCheck) return outcomes;
  outcomes.resize(ops.size(), OpOutcome::kBatchRefused);
  bool refused = false, check_failed = false;
  Effects effects;
  for (size_t i = 0; i < ops.size(); ++i) {
    const bool check = ops[i].op == RecordOp::kCheck;  // checks come before all other operations
    if (!check && (check_failed || !all_or_nothing)) break;
    const OpOutcome outcome = JudgeOp(unit, i, &effects);
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
OpOutcome Applier::JudgeOp(const ApplyUnit* unit, size_t index, Effects* effects) {
  const WriteOp& op = (*unit->ops)[index];
  const CurrentRecord current = Foresee(unit, index, *effects);
  const Verdict verdict = Decide(op, current);
  if (verdict.outcome != OpOutcome::kApplied || op.op == RecordOp::kCheck) return verdict.outcome;
  auto [entry, is_first] = effects->try_emplace(op.key);
  Effect& effect = entry->second;
  if (op.op == RecordOp::kRemove) {
    effect = Effect{};
    return verdict.outcome;
  }
  effect.found = true;
  effect.version = unit->versions[index];
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
Applier::CurrentRecord Applier::Foresee(const ApplyUnit* unit, size_t index, const Effects& effects) {
  const WriteOp& op = (*unit->ops)[index];
  const auto entry = effects.find(op.key);
  CurrentRecord current;
  if (entry == effects.end() || entry->second.value_in_tree) current = ForeseeStored(unit, index, LeafOf(op));
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
  if (HasExpired(current.read.expires_at_ms, VersionMs(unit->versions[index]))) return CurrentRecord();
  return current;
}

// The same for the record in the tree, expired or not.
Applier::CurrentRecord Applier::ForeseeStored(const ApplyUnit* unit, size_t index, Frame* leaf) {
  const WriteOp& op = (*unit->ops)[index];
  CurrentRecord current;
  const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, op.key);
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
  } else if (Frame* value = state_.tree->FindOverflow(record.overflow_ref)) {
    std::string bytes;
    state_.pool.CopyOverflow(*value, &bytes);
    current.value_equal = bytes == *op.condition.value;
  } else {
    CHECK(!unit->found.empty() && unit->found[index].location == record.overflow_ref.location)
        << "a condition was judged without its value";
    current.value_equal = unit->found[index].equal;
  }
  return current;
}

// Applies nothing. The records that are handed back are those in the tree, which the write has not
// changed.
void Applier::RefuseAll(ApplyUnit* unit, const std::vector<OpOutcome>& outcomes) {
  const std::vector<WriteOp>& ops = *unit->ops;
  unit->results.resize(ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    if (outcomes[i] != OpOutcome::kBatchRefused) {
      unit->results[i] = Refuse(unit, i, outcomes[i], ReadCurrent(unit, i, LeafOf(ops[i])));
      continue;
    }
    if (!unit->extents[i].empty()) state_.file->FreeNow(unit->extents[i]);
    unit->results[i].outcome = OpOutcome::kBatchRefused;
  }
}

// -- one operation

// The outcome of an operation on the record that it finds.
Applier::Verdict Applier::Decide(const WriteOp& op, const CurrentRecord& current) {
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

Frame* Applier::LeafOf(const WriteOp& op) {
  ChildRef missing;
  uint8_t level = 0;
  Frame* leaf = state_.tree->FindLeaf(op.key, &missing, &level);
  CHECK(leaf != nullptr) << "P2: a write was applied without its page";
  return leaf;
}

// Does not use the usual conditions, because for them an expired record does not exist.
OpResult Applier::ApplyExpire(Frame* leaf, const WriteOp& op, OpResult result) {
  std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, op.key);
  result.existed = found && found->record.version == *op.condition.version &&
                   HasExpired(found->record.expires_at_ms, VersionMs(result.version));
  if (!result.existed) {
    result.outcome = OpOutcome::kConditionFailed;
    return result;
  }
  bool underfull = false;
  state_.tree->Erase(leaf, op.key, &underfull);
  if (underfull) upkeep_.MergeSoon(op.key);
  return result;
}

// The record that an operation finds. Its value is included only if the operation looks at it.
Applier::CurrentRecord Applier::ReadCurrent(ApplyUnit* unit, size_t index, Frame* leaf) {
  const WriteOp& op = (*unit->ops)[index];
  const int64_t now_ms = VersionMs(unit->versions[index]);
  CurrentRecord current;
  if (!NeedsCurrentValue(op)) {
    std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, op.key);
    if (!found) return current;
    const RecordView& record = found->record;
    if (HasExpired(record.expires_at_ms, now_ms)) return current;
    current.read.found = true;
    current.read.version = record.version;
    current.read.expires_at_ms = record.expires_at_ms;
    current.value_known = false;
    return current;
  }
  RecordView unread;
  if (ReadResident(state_.tree.get(), leaf, op.key, now_ms, &current.read, &unread)) {
    current.value_equal = op.condition.value && current.read.value == *op.condition.value;
    return current;
  }
  CHECK(!unit->found.empty() && unit->found[index].location == unread.overflow_ref.location)
      << "a condition was applied without its value";
  FoundValue& found = unit->found[index];
  current.value_equal = found.equal;
  current.value_known = found.bytes.has_value();
  if (found.bytes) {
    unit->reply_bytes -= found.bytes->size();  // counted again if it is handed back
    current.read.value = *std::move(found.bytes);
  }
  return current;
}

OpResult Applier::Refuse(ApplyUnit* unit, size_t index, OpOutcome outcome, CurrentRecord current) {
  if (!unit->extents[index].empty()) state_.file->FreeNow(unit->extents[index]);
  OpResult result;
  result.outcome = outcome;
  result.version = current.read.version;
  result.existed = current.read.found;
  HandBack(unit, std::move(current), &result);
  return result;
}

// Hands the record as found back to the caller. Its value is included only if the reply has room
// for it.
void Applier::HandBack(ApplyUnit* unit, CurrentRecord current, OpResult* result) {
  const size_t value_bytes = current.read.value.size();
  ValueRoom* room = unit->options.control ? unit->options.control->values : nullptr;
  result->value_omitted = !current.value_known || unit->reply_bytes + value_bytes > kMaxBatchBytes ||
                          (room && value_bytes > 0 && room->TryTake(value_bytes) != ValueRoom::Answer::kTaken);
  if (result->value_omitted) {
    std::string().swap(current.read.value);
  } else {
    unit->reply_bytes += value_bytes;
  }
  result->current = std::move(current.read);
}

OpResult Applier::ApplyOp(ApplyUnit* unit, size_t index) {
  const WriteOp& op = (*unit->ops)[index];
  OpResult result;
  result.version = unit->versions[index];
  if (op.op == RecordOp::kCheck) return result;  // it holds: Judge has verified that
  Frame* leaf = LeafOf(op);
  if (op.op == RecordOp::kExpire) return ApplyExpire(leaf, op, std::move(result));
  CurrentRecord current = ReadCurrent(unit, index, leaf);
  result.existed = current.read.found;
  const Verdict verdict = Decide(op, current);
  if (verdict.outcome != OpOutcome::kApplied) return Refuse(unit, index, verdict.outcome, std::move(current));
  result.number = verdict.number;
  const int64_t expires_at_ms = ExpiryOf(op, current.read);
  if (op.return_previous) HandBack(unit, std::move(current), &result);
  if (op.op == RecordOp::kRemove) {
    bool underfull = false;
    state_.tree->Erase(leaf, op.key, &underfull);
    if (underfull) upkeep_.MergeSoon(op.key);
    return result;
  }
  if (op.op == RecordOp::kTouch) {
    state_.tree->Touch(leaf, op.key, result.version, expires_at_ms);
  } else {
    const std::string number = op.op == RecordOp::kIncrement ? std::to_string(verdict.number) : "";
    const std::string_view bytes = op.op == RecordOp::kIncrement ? std::string_view(number) : op.value;
    state_.tree->Upsert(leaf, op.key, NewValue{bytes, unit->extents[index], result.version, expires_at_ms});
  }
  upkeep_.NoteExpiry(expires_at_ms);
  return result;
}

}  // namespace pando
