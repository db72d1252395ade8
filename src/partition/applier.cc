#include "src/partition/applier.h"

#include <algorithm>

#include "src/partition/cluster_marks.h"
#include "src/partition/resident_record.h"
#include "src/partition/split_feed.h"

namespace pando {
namespace {

// Whether the value of the record that `record` finds is looked at.
bool NeedsCurrentValue(const UnitRecord& r) {
  const LogRecord& record = r.record;
  if (record.op == RecordOp::kIncrement || record.condition.value || r.wanted == WantedRecord::kAlways) return true;
  return record.op != RecordOp::kExpire && !record.condition.empty() && r.wanted == WantedRecord::kIfRefused;
}

// What comes of a write that has a name.
std::optional<LaneEncoder> LaneOf(const ApplyUnit& unit) {
  if (!unit.once()) return std::nullopt;
  const LogRecord& once = unit.records.front().record;
  return std::make_optional<LaneEncoder>(once.sequence, once.version, once.digest);
}

}  // namespace

// -- what a unit needs in memory

size_t Applier::FramesFor(RecordOp op, size_t key_bytes, size_t value_bytes) const {
  size_t frames = state_.tree->NewPagesFor(key_bytes);
  if (op == RecordOp::kPut && state_.tree->NeedsOverflow(key_bytes, value_bytes)) {
    frames += state_.pool.FramesFor(static_cast<uint32_t>(value_bytes));
  }
  return frames;
}

size_t Applier::FramesFor(const ApplyUnit& unit, UnitPart part) const {
  size_t frames = kFramesPerUpdate;
  for (size_t i = part.from; i < part.to; ++i) {
    const LogRecord& record = unit.records[i].record;
    frames += FramesFor(record.op, record.key.size(), record.value.size());
  }
  return frames;
}

bool Applier::MarkReady(const ApplyUnit& unit) const { return marks_.IsReady(unit); }

Task<void> Applier::PrepareMark(const ApplyUnit* unit) { return marks_.Prepare(unit); }

void Applier::ForgetMark() { marks_.Forget(); }

bool Applier::Ready(const ApplyUnit& unit, UnitPart part) {
  const size_t frames = FramesFor(unit, part);
  if (state_.pool.free_frames() < frames) return false;
  // kFramesPerUpdate covers the clones for one leaf.
  std::vector<Frame*> leaves(state_.tree->checkpointing() && part.size() > 1 ? part.size() : 0);
  for (size_t i = part.from; i < part.to; ++i) {
    const LogRecord& record = unit.records[i].record;
    Frame* leaf = FindLeaf(unit, i);
    if (!leaf) return false;
    if (!leaves.empty() && !IsCheck(record.op)) leaves[i - part.from] = leaf;
    if (!NeedsCurrentValue(unit.records[i])) continue;
    const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, record.key);
    if (!found || !found->record.overflow || state_.tree->FindOverflow(found->record.overflow_ref)) continue;
    if (unit.found.empty() || unit.found[i].location != found->record.overflow_ref.location) return false;
  }
  return state_.pool.free_frames() >= frames + state_.tree->ClonesNeeded(leaves);
}

Task<Status> Applier::MakeReady(ApplyUnit* unit, UnitPart part) {
  const size_t pool_frames = state_.pool.frame_count(), new_frames = FramesFor(*unit, part);
  // Only in recovery: admission allows less, but the log may have been written with more memory.
  if (new_frames > pool_frames / 2) {
    co_return Error(Code::kInvalidArgument,
                    "partition {}: the log holds a write that needs {} pages of memory, but the buffer pool has {} and "
                    "allows half of them for one write; raise --memory_limit_mb and start again, nothing is lost",
                    state_.id(), new_frames, pool_frames);
  }
  unit->pins.clear();
  unit->found.resize(unit->records.size());
  std::vector<Frame*> leaves;
  for (size_t i = part.from; i < part.to; ++i) {
    const std::string_view key = unit->records[i].record.key;
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await state_.tree->FetchLeaf(std::string(key)));
    leaves.push_back(leaf.frame());
    unit->pins.push_back(std::move(leaf));
    if (!NeedsCurrentValue(unit->records[i])) continue;
    const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaves.back(), key);
    if (!found || !found->record.overflow) continue;
    if (unit->found[i].location == found->record.overflow_ref.location) continue;
    CO_RETURN_IF_ERROR(co_await ReadFound(unit, i, found->record.overflow_ref, found->record.value_bytes));
  }
  // Frees frames for the new pages and the clones.
  const size_t frames = new_frames + state_.tree->ClonesNeeded(leaves);
  co_return co_await state_.pool.EnsureFree(std::min(frames, pool_frames / 2), state_.tree.get());
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
  const ConditionView& condition = unit->records[index].record.condition;
  FoundValue& found = unit->found[index];
  found.location = ref.location;
  found.equal = condition.value && *condition.value == bytes;
  if (unit->reply && unit->reply->value_bytes + bytes.size() <= kMaxBatchBytes) {
    unit->reply->value_bytes += bytes.size();
    found.bytes = std::move(bytes);
  }
  co_return Status();
}

// The leaf of a record, or null if it is not in memory. The one that was pinned when the record was
// admitted is usually still the right one.
Frame* Applier::FindLeaf(const ApplyUnit& unit, size_t index) {
  const std::string_view key = unit.records[index].record.key;
  if (unit.pins.size() == unit.records.size()) {
    Frame* pinned = unit.pins[index].frame();
    if (state_.tree->IsLeafOf(*pinned, key)) return pinned;
  }
  ChildRef missing;
  uint8_t level = 0;
  return state_.tree->FindLeaf(key, &missing, &level);
}

Frame* Applier::LeafOf(const ApplyUnit& unit, size_t index) {
  Frame* leaf = FindLeaf(unit, index);
  CHECK(leaf != nullptr) << "P2: a write was applied without its page";
  return leaf;
}

// -- a unit at once

void Applier::Apply(ApplyUnit* unit) {
  const Status follows = unit->CheckFollows(state_.id(), state_.applied_end());
  CHECK(follows.ok()) << "P1, P5: " << follows.ToString();
  Judgement judgement;
  if (unit->guarded()) {
    for (size_t i = 0; i < unit->records.size() && JudgeNext(*unit, i, &judgement);) ++i;
  }
  if (judgement.repeats()) {
    Repeat(unit, judgement);
  } else {
    std::optional<LaneEncoder> lane = LaneOf(*unit);
    ApplyPart(unit, unit->whole(), judgement, lane ? &*lane : nullptr);
    if (lane) UpdateLane(unit, *std::move(lane));
  }
  End(unit);
}

// -- a unit in parts

// The records from `from` on that are brought into memory together: as many as the pool would admit
// as one write.
UnitPart Applier::NextPart(const ApplyUnit& unit, size_t from) const {
  const size_t pool_frames = state_.pool.frame_count();
  const size_t end = std::min(unit.records.size(), from + pool_frames / kFramesPerRecord);
  UnitPart part{from, from + 1};
  size_t frames = FramesFor(unit, part);
  for (; part.to < end; ++part.to) {
    const LogRecord& record = unit.records[part.to].record;
    frames += FramesFor(record.op, record.key.size(), record.value.size());
    if (frames > pool_frames / 4) break;
  }
  return part;
}

Task<Status> Applier::JudgeInParts(ApplyUnit* unit, Judgement* judgement) {
  if (!unit->guarded()) co_return Status();
  co_await state_.tree->FetchAhead(KeysOf(*unit, unit->whole()));
  for (size_t i = 0; i < unit->records.size(); ++i) {
    const UnitPart part{i, i + 1};
    while (!Ready(*unit, part)) CO_RETURN_IF_ERROR(co_await MakeReady(unit, part));
    if (!JudgeNext(*unit, i, judgement)) break;
  }
  unit->pins.clear();
  co_return Status();
}

Task<Status> Applier::ApplyInParts(ApplyUnit* unit, const Judgement* judgement) {
  std::optional<LaneEncoder> lane = LaneOf(*unit);
  // A lane keeps the results of a refused write too.
  const bool nothing = judgement->repeats() || (judgement->refused() && !unit->once());
  for (UnitPart part; part.to < unit->records.size() && !nothing;) {
    part = NextPart(*unit, part.to);
    while (!Ready(*unit, part)) {
      if (part.size() > 1) co_await state_.tree->FetchAhead(KeysOf(*unit, part));
      CO_RETURN_IF_ERROR(co_await MakeReady(unit, part));
      if (Ready(*unit, part)) break;
      // It would clone many pages that a checkpoint has not written yet.
      unit->pins.clear();
      part.to = part.from + (part.size() + 1) / 2;
    }
    ApplyPart(unit, part, *judgement, lane ? &*lane : nullptr);
    unit->pins.clear();
  }
  if (lane && !nothing) {
    constexpr UnitPart kFirst{0, 1};
    while (!Ready(*unit, kFirst)) CO_RETURN_IF_ERROR(co_await MakeReady(unit, kFirst));
    UpdateLane(unit, *std::move(lane));
  }
  End(unit);
  co_return Status();
}

// -- records

void Applier::ApplyPart(ApplyUnit* unit, UnitPart part, const Judgement& judgement, LaneEncoder* lane) {
  if (unit->reply) unit->reply->results.reserve(unit->records.size());
  for (size_t i = part.from; i < part.to; ++i) {
    const LogRecord& record = unit->records[i].record;
    const bool refused = judgement.refused() && record.op != RecordOp::kOnce;
    OpResult result = refused ? RefuseJudged(unit, i, judgement.outcomes_[i]) : ApplyRecord(unit, i);
    CHECK(refused || !record.all_or_nothing || result.outcome == OpOutcome::kApplied)
        << "P10: an operation was refused that had been judged to apply";
    if (lane && record.op != RecordOp::kOnce) lane->Add(result);
    if (unit->reply) unit->reply->results.push_back(std::move(result));
  }
}

// A write that was sent before and is not applied again.
void Applier::Repeat(ApplyUnit* unit, const Judgement& judgement) {
  for (const UnitRecord& r : unit->records) FreeExtent(r);
  if (!unit->reply) return;
  unit->reply->status = judgement.refusal_;
  OpResult once;
  once.version = judgement.lane_.version;
  unit->reply->results.push_back(std::move(once));
  for (const OpResult& result : judgement.lane_.results) unit->reply->results.push_back(result);
}

// Stores what the write came to, in the same step as its effects (LN1).
void Applier::UpdateLane(ApplyUnit* unit, LaneEncoder lane) {
  const LogRecord& once = unit->records.front().record;
  const std::string value = std::move(lane).Finish(MaxInlineBytes(state_.pool.page_bytes()) - once.key.size());
  // The time of the partition may be behind that of the client (StoreClock).
  const int64_t expires_at_ms = std::max(VersionMs(once.version), once.first_sent_ms) + kLaneRetentionMs;
  state_.tree->Upsert(LeafOf(*unit, 0), once.key, NewValue{value, Extent(), once.version, expires_at_ms});
  upkeep_.NoteExpiry(expires_at_ms);
}

void Applier::End(ApplyUnit* unit) {
  unit->pins.clear();
  state_.applied_lsn = unit->last_lsn();
  state_.applied_chain = unit->chain_after;
  state_.applied_epoch = unit->epoch;
  state_.applied_version = unit->records.back().record.version;
  marks_.OnApplied(*unit);
  state_.changes.Publish();  // CT2: before the write is acknowledged
}

OpResult Applier::ApplyRecord(ApplyUnit* unit, size_t index) {
  const UnitRecord& r = unit->records[index];
  const LogRecord& record = r.record;
  OpResult result;
  result.version = record.version;
  if (IsCheck(record.op)) return result;  // it holds: JudgeNext has verified that
  if (record.op == RecordOp::kEpochStart || IsClusterMark(record.op)) return result;
  if (record.op == RecordOp::kOnce) return result;  // UpdateLane follows the other records
  Frame* leaf = LeafOf(*unit, index);
  if (record.op == RecordOp::kExpire) return ApplyExpire(leaf, record, std::move(result));
  std::optional<LeafSlot> at;
  CurrentRecord current = ReadCurrent(unit, index, leaf, &at);
  result.existed = current.read.found;
  const Verdict verdict = Decide(record, current);
  if (verdict.outcome != OpOutcome::kApplied) return Refuse(unit, index, verdict.outcome, std::move(current));
  result.number = verdict.number;
  const int64_t expires_at_ms = ExpiryOf(record, current.read);
  if (r.wanted == WantedRecord::kAlways) HandBack(unit->reply, std::move(current), &result);
  if (record.op == RecordOp::kRemove) {
    Erase(leaf, record);
    return result;
  }
  if (record.op == RecordOp::kTouch) {
    state_.tree->Touch(leaf, record.key, record.version, expires_at_ms);
  } else {
    const std::string number = record.op == RecordOp::kIncrement ? std::to_string(verdict.number) : "";
    const std::string_view bytes = record.op == RecordOp::kIncrement ? std::string_view(number) : record.value;
    state_.tree->Upsert(leaf, record.key, NewValue{bytes, r.extent, record.stored_version(), expires_at_ms}, at);
  }
  upkeep_.NoteExpiry(expires_at_ms);
  NoteChange(record, /*removed=*/false);
  return result;
}

// Does not use the usual conditions, because for them an expired record does not exist.
OpResult Applier::ApplyExpire(Frame* leaf, const LogRecord& record, OpResult result) {
  const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, record.key);
  result.existed = found && found->record.version == *record.condition.version &&
                   HasExpired(found->record.expires_at_ms, VersionMs(record.version));
  if (!result.existed) {
    result.outcome = OpOutcome::kConditionFailed;
    return result;
  }
  Erase(leaf, record);
  return result;
}

// Also notes removes of records that did not exist: a record that had expired but was not swept
// leaves the tree with the remove.
void Applier::Erase(Frame* leaf, const LogRecord& record) {
  bool underfull = false;
  state_.tree->Erase(leaf, record.key, &underfull);
  if (underfull) upkeep_.MergeSoon(record.key);
  NoteChange(record, /*removed=*/true);
}

// For watchers. There are none during recovery.
void Applier::NoteChange(const LogRecord& record, bool removed) {
  if (state_.phase() == Phase::kRecovering) return;
  if (!state_.IsReserved(record.key)) return state_.changes.Add(record.version, record.key, removed);
  if (!removed && record.key == SplitFeed::ClaimKey()) state_.changes.RaiseFloor(SplitFeed::ToldBefore(record.value));
}

// The record that an operation finds. Its value is included only if the operation looks at it.
// *at is set if the place of the key in the leaf became known.
Applier::CurrentRecord Applier::ReadCurrent(ApplyUnit* unit, size_t index, Frame* leaf, std::optional<LeafSlot>* at) {
  const LogRecord& record = unit->records[index].record;
  const int64_t now_ms = VersionMs(record.version);
  CurrentRecord current;
  if (!NeedsCurrentValue(unit->records[index])) {
    const LeafSlot slot = state_.tree->FindSlot(leaf, record.key);
    if (at) *at = slot;
    if (!slot.exact) return current;
    const RecordView found = state_.tree->NodeOf(leaf).Record(slot.slot);
    if (HasExpired(found.expires_at_ms, now_ms)) return current;
    current.read.found = true;
    current.read.version = found.version;
    current.read.expires_at_ms = found.expires_at_ms;
    current.value_known = false;
    return current;
  }
  RecordView unread;
  if (ReadResident(state_.tree.get(), leaf, record.key, now_ms, &current.read, &unread)) {
    current.value_equal = record.condition.value && current.read.value == *record.condition.value;
    return current;
  }
  CHECK(!unit->found.empty() && unit->found[index].location == unread.overflow_ref.location)
      << "AP1: a condition was applied without its value";
  FoundValue& found = unit->found[index];
  current.value_equal = found.equal;
  current.value_known = found.bytes.has_value();
  if (found.bytes) {
    unit->reply->value_bytes -= found.bytes->size();  // counted again if it is handed back
    current.read.value = *std::move(found.bytes);
  }
  return current;
}

OpResult Applier::Refuse(ApplyUnit* unit, size_t index, OpOutcome outcome, CurrentRecord current) {
  FreeExtent(unit->records[index]);
  OpResult result;
  result.outcome = outcome;
  result.version = current.read.version;
  result.existed = current.read.found;
  HandBack(unit->reply, std::move(current), &result);
  return result;
}

// A record of a unit that was refused as a whole. What is handed back is what is in the tree, which
// the unit has not changed.
OpResult Applier::RefuseJudged(ApplyUnit* unit, size_t index, OpOutcome outcome) {
  const UnitRecord& r = unit->records[index];
  if (outcome != OpOutcome::kBatchRefused) {
    return Refuse(unit, index, outcome, ReadCurrent(unit, index, LeafOf(*unit, index)));
  }
  FreeExtent(r);
  OpResult result;
  result.outcome = outcome;
  return result;
}

void Applier::FreeExtent(const UnitRecord& r) {
  if (!r.extent.empty()) state_.file->FreeNow(r.extent);
}

// Hands the record as found back to the client. Its value is included only if the reply has room
// for it.
void Applier::HandBack(UnitReply* reply, CurrentRecord current, OpResult* result) {
  if (!reply) return;
  const size_t value_bytes = current.read.value.size();
  ValueRoom* room = reply->room;
  result->value_omitted = !current.value_known || reply->value_bytes + value_bytes > kMaxBatchBytes ||
                          (room && value_bytes > 0 && room->TryTake(value_bytes) != ValueRoom::Answer::kTaken);
  if (result->value_omitted) {
    std::string().swap(current.read.value);
  } else {
    reply->value_bytes += value_bytes;
  }
  result->current = std::move(current.read);
}

}  // namespace pando
