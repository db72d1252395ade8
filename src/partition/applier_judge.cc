// Applier: decides what records do to the records that they find, and judges units as a whole.
#include <charconv>

#include "src/partition/applier.h"
#include "src/partition/resident_record.h"

namespace pando {
namespace {

bool Holds(const ConditionView& condition, const ReadResult& current, bool value_equal) {
  if (condition.exists && *condition.exists != current.found) return false;
  if (condition.version && (!current.found || current.version != *condition.version)) return false;
  if (condition.value && (!current.found || !value_equal)) return false;
  return true;
}

// Parses the decimal 64-bit integer that a record holds. A missing record counts as zero.
bool ParseNumber(const ReadResult& current, int64_t* number) {
  *number = 0;
  if (!current.found) return true;
  if (current.value.size() > kMaxNumberBytes) return false;
  const char* end = current.value.data() + current.value.size();
  auto [at, error] = std::from_chars(current.value.data(), end, *number);
  return error == std::errc() && at == end;
}

}  // namespace

int64_t ExpiryOf(const LogRecord& record, const ReadResult& current) {
  switch (record.ttl_mode) {
    case TtlMode::kKeep: return current.found ? current.expires_at_ms : 0;
    case TtlMode::kSet: return record.expires_at_ms;
    case TtlMode::kClear: return 0;
  }
  return 0;
}

// The outcome of an operation on the record that it finds.
Applier::Verdict Applier::Decide(const LogRecord& record, const CurrentRecord& current) {
  Verdict verdict;
  const bool touches_nothing = record.op == RecordOp::kTouch && !current.read.found;
  if (touches_nothing || !Holds(record.condition, current.read, current.value_equal)) {
    verdict.outcome = OpOutcome::kConditionFailed;
  } else if (record.op != RecordOp::kIncrement) {
    return verdict;
  } else if (!current.value_known || !ParseNumber(current.read, &verdict.number)) {
    verdict.outcome = OpOutcome::kNotANumber;
  } else if (__builtin_add_overflow(verdict.number, record.delta, &verdict.number)) {
    verdict.outcome = OpOutcome::kOverflow;
  }
  return verdict;
}

// Judges the record after those judged so far. Returns false if the rest need not be judged.
// Judging goes on after a refused record, as if it were not there, so that the client learns all
// reasons at once. After a failed kCheck it goes on only through the remaining checks.
bool Applier::JudgeNext(const ApplyUnit& unit, size_t index, Judgement* judgement) {
  const LogRecord& record = unit.records[index].record;
  if (record.op == RecordOp::kOnce) return JudgeOnce(unit, judgement);
  const bool check = IsCheck(record.op);  // checks come before all other records (AU2)
  if (!check && (judgement->check_failed_ || !record.all_or_nothing)) return false;
  const OpOutcome outcome = JudgeRecord(unit, index, &judgement->effects_);
  if (outcome == OpOutcome::kApplied) return true;
  judgement->outcomes_.resize(unit.records.size(), OpOutcome::kBatchRefused);
  judgement->outcomes_[index] = outcome;
  judgement->refused_ = true;
  judgement->check_failed_ |= check;
  return unit.reply != nullptr || unit.once();  // the lane keeps all results
}

// Whether the write is new to its lane. If not, what came of it is in the judgement.
bool Applier::JudgeOnce(const ApplyUnit& unit, Judgement* judgement) {
  const LogRecord& once = unit.records.front().record;
  const int64_t now_ms = VersionMs(once.version);
  const std::optional<FoundRecord> found = state_.tree->FindInLeaf(LeafOf(unit, 0), once.key);
  auto repeats = [&](Status refusal) {
    judgement->refused_ = judgement->repeats_ = true;
    judgement->refusal_ = std::move(refusal);
    return false;
  };
  auto unknown = [&](std::string_view why) {
    return repeats(Error(Code::kAborted, "partition {}: whether write {} of this client was applied is unknown: {}",
                         state_.id(), once.sequence, why));
  };
  const bool too_old = now_ms - once.first_sent_ms >= kMaxWriteAgeMs;
  constexpr std::string_view kTooOld = "it was first sent longer ago than the partition remembers";
  if (!found || HasExpired(found->record.expires_at_ms, now_ms)) return !too_old || unknown(kTooOld);
  Result<Lane> lane = DecodeLane(found->record.value);
  if (!lane.ok()) return unknown(lane.status().message());
  if (lane->sequence != once.sequence && too_old) return unknown(kTooOld);
  if (lane->sequence < once.sequence) return true;
  if (lane->sequence > once.sequence) return unknown("a later write of the same client was applied already");
  if (!lane->digest || !once.digest) return unknown("it was sent to an earlier version of the server");
  if (*lane->digest != *once.digest) {
    return repeats(Error(Code::kInvalidArgument,
                         "partition {}: write {} of this client was another one: give each write a sequence of its own",
                         state_.id(), once.sequence));
  }
  judgement->lane_ = *std::move(lane);
  if (judgement->lane_.results.size() == unit.records.size() - 1) return repeats(Status());
  return unknown("it was sent before and took effect or was refused then, but its results were too many to be kept");
}

// Returns the outcome that the record would have after those that left `effects`, and adds its own
// effect.
OpOutcome Applier::JudgeRecord(const ApplyUnit& unit, size_t index, Judgement::Effects* effects) {
  const LogRecord& record = unit.records[index].record;
  const CurrentRecord current = Foresee(unit, index, *effects);
  const Verdict verdict = Decide(record, current);
  if (verdict.outcome != OpOutcome::kApplied || IsCheck(record.op)) return verdict.outcome;
  auto [entry, is_first] = effects->try_emplace(record.key);
  Judgement::Effect& effect = entry->second;
  if (record.op == RecordOp::kRemove) {
    effect = Judgement::Effect{};
    return verdict.outcome;
  }
  effect.found = true;
  effect.version = record.stored_version();
  effect.expires_at_ms = ExpiryOf(record, current.read);
  if (record.op == RecordOp::kTouch) {
    effect.value_in_tree |= is_first;
    return verdict.outcome;
  }
  effect.value_in_tree = false;
  effect.value = record.value;
  effect.number = record.op == RecordOp::kIncrement ? std::to_string(verdict.number) : "";
  return verdict.outcome;
}

// What the record would find. Of its value, only what Decide needs is filled in.
Applier::CurrentRecord Applier::Foresee(const ApplyUnit& unit, size_t index, const Judgement::Effects& effects) {
  const LogRecord& record = unit.records[index].record;
  const auto entry = effects.find(record.key);
  CurrentRecord current;
  if (entry == effects.end() || entry->second.value_in_tree) current = ForeseeStored(unit, index, LeafOf(unit, index));
  if (entry != effects.end()) {
    const Judgement::Effect& effect = entry->second;
    current.read.found = effect.found;
    current.read.version = effect.version;
    current.read.expires_at_ms = effect.expires_at_ms;
    if (!effect.value_in_tree) {
      const std::string_view value = effect.number.empty() ? effect.value : effect.number;
      current.value_equal = record.condition.value && value == *record.condition.value;
      current.value_known = value.size() <= kMaxNumberBytes;
      if (current.value_known) current.read.value = value;
    }
  }
  if (HasExpired(current.read.expires_at_ms, VersionMs(record.version))) return CurrentRecord();
  return current;
}

// The same for the record in the tree, expired or not.
Applier::CurrentRecord Applier::ForeseeStored(const ApplyUnit& unit, size_t index, Frame* leaf) {
  const LogRecord& record = unit.records[index].record;
  CurrentRecord current;
  const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, record.key);
  if (!found) return current;
  const RecordView& stored = found->record;
  current.read.found = true;
  current.read.version = stored.version;
  current.read.expires_at_ms = stored.expires_at_ms;
  current.value_known = stored.value_bytes <= kMaxNumberBytes;
  if (current.value_known) current.read.value = stored.value;
  if (!record.condition.value || record.condition.value->size() != stored.value_bytes) return current;
  if (!stored.overflow) {
    current.value_equal = stored.value == *record.condition.value;
  } else if (Frame* value = state_.tree->FindOverflow(stored.overflow_ref)) {
    std::string bytes;
    state_.pool.CopyOverflow(*value, &bytes);
    current.value_equal = bytes == *record.condition.value;
  } else {
    CHECK(!unit.found.empty() && unit.found[index].location == stored.overflow_ref.location)
        << "AP1: a condition was judged without its value";
    current.value_equal = unit.found[index].equal;
  }
  return current;
}

}  // namespace pando
