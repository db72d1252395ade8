#include "src/partition/recovery.h"

#include <algorithm>
#include <string>
#include <utility>

namespace pando {
namespace {

constexpr size_t kPagesAtOnce = 64;     // pages read together for a group of units
constexpr size_t kRecordsAtOnce = 256;  // records whose disk space is reserved together
constexpr uint32_t kRecordUnits = 16;   // cost of a record, in units of the turn's budget

}  // namespace

// Copies the writes in units of the log.
class Recovery::UnitReader {
 public:
  UnitReader(const PartitionState& state, const RecoveredUnits& found)
      : max_key_bytes_(MaxKeyBytes(state.pool.usable_bytes())), partition_(state.id()), found_(found) {
    Begin();
  }

  bool over() const { return index_ == found_.units.size(); }
  // The next write, unless it ends at or below `checkpoint_lsn`; then null.
  Result<std::unique_ptr<LoggedUnit>> Next(Lsn checkpoint_lsn) {
    const WriteUnit& unit = found_.units[index_];
    if (unit.last_lsn() <= checkpoint_lsn) {
      ++index_;
      Begin();
      return std::unique_ptr<LoggedUnit>();
    }
    size_t bytes = rest_.size();
    if (found_.old_format) {
      ASSIGN_OR_RETURN(bytes, BytesOfNext());
    }
    // AU1: the batch that holds the bytes is gone before the unit is applied.
    auto write = std::make_unique<LoggedUnit>();
    write->encoded = rest_.substr(0, bytes);
    ApplyUnit& content = write->content;
    ByteReader reader(write->encoded);
    if (Status status = content.Decode(&reader, max_key_bytes_); !status.ok()) return Corrupt(status.message());
    if (reader.remaining() > 0) return Corrupt("a unit with several writes");
    content.first_lsn = next_lsn_;
    content.epoch = unit.epoch;
    next_lsn_ = content.last_lsn() + 1;
    rest_.remove_prefix(bytes);
    if (rest_.empty() != (next_lsn_ == unit.last_lsn() + 1))
      return Corrupt("it has more or fewer records than it says");
    if (rest_.empty()) {
      content.chain_after = unit.chain_after;
      ++index_;
      Begin();
    }
    if (content.last_lsn() <= checkpoint_lsn) return std::unique_ptr<LoggedUnit>();
    return write;
  }
  Status Corrupt(std::string_view what) const {
    return Error(Code::kCorruption, "{}: units of partition {} in the batch at offset {}: {}", found_.file, partition_,
                 found_.offset, what);
  }

 private:
  void Begin() {
    if (over()) return;
    next_lsn_ = found_.units[index_].first_lsn;
    rest_ = found_.units[index_].records;
  }
  // A unit of an old format holds several writes. Only decoding shows where they end.
  Result<size_t> BytesOfNext() const {
    ApplyUnit write;
    ByteReader reader(rest_);
    if (Status status = write.Decode(&reader, max_key_bytes_); !status.ok()) return Corrupt(status.message());
    return rest_.size() - reader.remaining();
  }

  const size_t max_key_bytes_;
  const uint32_t partition_;
  const RecoveredUnits& found_;
  size_t index_ = 0;  // of the unit that is being read
  Lsn next_lsn_ = 0;
  std::string_view rest_;  // of its records
};

// What the log holds is durable (P4).
void Recovery::NoteEnd() {
  state_.last_lsn = state_.durable_lsn = EndLsn();
  state_.last_chain = tail_.empty() ? state_.applied_chain : tail_.back()->content.chain_after;
}

Status Recovery::OnCut(const RecoveredCut& cut) {
  if (state_.failed()) return state_.failure();
  const Lsn after = cut.after.lsn;
  auto corrupt = [&](std::string_view what) {
    return Error(Code::kCorruption, "{}: the batch at offset {} ends the history of partition {} after LSN {}: {}",
                 cut.file, cut.offset, state_.id(), after, what);
  };
  // What the checkpoint contains may have come after a cut itself, and the log still says so.
  const bool known = state_.applied_lsn == state_.file->superblock().checkpoint_lsn;
  if (after < state_.applied_lsn && !known) return corrupt("CG1: what follows was committed and applied");
  required_lsn_ = std::min(required_lsn_, after);
  marked_commit_lsn_ = std::min(marked_commit_lsn_, after);
  for (; !tail_.empty() && EndLsn() > after; tail_.pop_back()) {
    if (tail_.back()->content.first_lsn <= after) return corrupt("a part of a write would be cut off");
  }
  NoteEnd();
  return Status();
}

Task<Status> Recovery::Replay(RecoveredUnits found) {
  if (state_.failed()) co_return state_.failure();
  CHECK(state_.phase() == Phase::kRecovering) << "E1: partition " << state_.id() << " already serves requests";
  UnitReader units(state_, found);
  const Lsn first_lsn = found.units.front().first_lsn;
  for (const WriteUnit& unit : found.units) {
    if (unit.first_lsn == state_.file->superblock().checkpoint_lsn + 1 && !found.old_format) {
      chain_before_ = unit.chain_before;
      chain_before_lsn_ = state_.file->superblock().checkpoint_lsn;
    }
  }
  if (found.starts_anew) {
    required_lsn_ = std::min(required_lsn_, first_lsn - 1);
    marked_commit_lsn_ = std::min(marked_commit_lsn_, first_lsn - 1);
  }
  while (found.starts_anew && !tail_.empty() && EndLsn() >= first_lsn) {
    if (tail_.back()->content.first_lsn < first_lsn) co_return units.Corrupt("it begins inside another write");
    tail_.pop_back();
  }
  while (!units.over()) {
    CO_ASSIGN_OR_RETURN(std::unique_ptr<LoggedUnit> unit, units.Next(state_.applied_lsn));
    if (unit) AddToTail(std::move(unit));
  }
  state_.epoch = std::max(state_.epoch, found.units.back().epoch);
  NoteEnd();
  // Versions that write no marks commit what is durable.
  if (found.old_format) co_return co_await ApplyTail(EndLsn());
  co_return Status();
}

void Recovery::AddToTail(std::unique_ptr<LoggedUnit> unit) {
  const Lsn lsn = unit->content.first_lsn;
  const auto next = std::upper_bound(tail_.begin(), tail_.end(), lsn, [](Lsn l, const std::unique_ptr<LoggedUnit>& u) {
    return l < u->content.first_lsn;
  });
  tail_.insert(next, std::move(unit));
}

Task<Status> Recovery::OnMark(StreamMark mark) {
  required_lsn_ = mark.durable_lsn;
  marked_commit_lsn_ = std::max(marked_commit_lsn_, mark.commit_lsn);
  state_.epoch = std::max(state_.epoch, mark.epoch);
  state_.clock.Follow(std::max(state_.clock.newest(), mark.hlc));
  const Lsn checkpoint_lsn = state_.file->superblock().checkpoint_lsn;
  if (mark.released_lsn <= checkpoint_lsn) co_return co_await ApplyTail(marked_commit_lsn_);
  co_return Error(
      Code::kCorruption,
      "{}: holds the partition up to LSN {}, but the log says that it had been checkpointed up to LSN {}, or was "
      "quarantined until the log needed the room: the file is an older copy. Put back the newest one, or restore the "
      "partition from a replica or a backup",
      state_.file->options().path, checkpoint_lsn, mark.released_lsn);
}

// The unit that comes after the checkpoint must continue the same history: the file may be that of another one, which
// has as many records.
Status Recovery::CheckBegin() const {
  const Superblock& sb = state_.file->superblock();
  const bool first = !tail_.empty() && tail_.front()->content.first_lsn == sb.checkpoint_lsn + 1;
  if (!first || state_.applied_lsn != sb.checkpoint_lsn || sb.chain == 0) return Status();
  if (!chain_before_ || chain_before_lsn_ != sb.checkpoint_lsn) return Status();
  if (*chain_before_ == sb.chain) return Status();
  return Error(
      Code::kCorruption,
      "{}: its checkpoint ends at LSN {} with chain {:016x}, but the log goes on from chain {:016x} there: the "
      "file is that of another history. Put back the right one, or restore the partition from a replica or a "
      "backup",
      state_.file->options().path, sb.checkpoint_lsn, sb.chain, *chain_before_);
}

// The tail is judged only when it is applied, or at the end of the log: until then a unit may be
// superseded, and what is missing before it may come (WU4 of wal/stream_history.h).
Status Recovery::CheckEnd() const {
  RETURN_IF_ERROR(CheckBegin());
  UnitEnd last = state_.applied_end();
  for (const std::unique_ptr<LoggedUnit>& unit : tail_) {
    RETURN_IF_ERROR(unit->content.CheckFollows(state_.id(), last));
    last = unit->content.end();
  }
  const Lsn required = std::max(required_lsn_, marked_commit_lsn_);
  if (EndLsn() >= required) return Status();
  return Error(
      Code::kCorruption,
      "partition {}: the log ends at LSN {}, but it says that LSN {} was durable: log segments are missing. Put "
      "them back, or restore the partition from a replica or a backup",
      state_.id(), EndLsn(), required);
}

Task<Status> Recovery::Finish(WritePipeline* pipeline) {
  CO_RETURN_IF_ERROR(CheckEnd());
  const Lsn known_lsn = std::max(state_.committed_lsn, marked_commit_lsn_);
  const CommitGate::Start start = state_.gate->OnRecovered({state_.epoch, known_lsn, state_.durable_lsn});
  CHECK(start.committed_lsn >= known_lsn && start.epoch >= state_.epoch) << "CG1, CG2: the gate went back";
  CO_RETURN_IF_ERROR(co_await ApplyTail(start.committed_lsn));
  state_.epoch = start.epoch;
  TurnSlice slice(state_.pool.turn());
  for (; !tail_.empty(); tail_.pop_front()) {
    CO_RETURN_IF_ERROR(pipeline->Restore(std::move(tail_.front())));
    if (slice.Spend(kRecordUnits)) co_await Yield(state_.reactor);
  }
  co_return Status();
}

// Applies the units of the tail that end at or below `up_to`.
Task<Status> Recovery::ApplyTail(Lsn up_to) {
  // Others in the tail may still be superseded.
  const bool any = !tail_.empty() && tail_.front()->content.last_lsn() <= up_to;
  if (any) CO_RETURN_IF_ERROR(CheckBegin());
  TurnSlice slice(state_.pool.turn());
  while (true) {
    const std::vector<std::unique_ptr<LoggedUnit>> group = co_await NextGroup(up_to);
    if (group.empty()) co_return Status();
    AdmittedBlocks room;
    co_await MakeRoom(group, &room);
    for (const std::unique_ptr<LoggedUnit>& unit : group) {
      CO_RETURN_IF_ERROR(unit->content.CheckFollows(state_.id(), state_.applied_end()));
      CO_RETURN_IF_ERROR(co_await ApplyRecovered(unit.get()));
      if (slice.Spend(kRecordUnits * static_cast<uint32_t>(unit->content.records.size()))) {
        co_await Yield(state_.reactor);
      }
    }
  }
}

// Takes the next units from the tail, a bounded number. Random keys are in pages that are not in
// memory; those of the group are read together.
Task<std::vector<std::unique_ptr<LoggedUnit>>> Recovery::NextGroup(Lsn up_to) {
  std::vector<std::unique_ptr<LoggedUnit>> group;
  std::vector<std::string> missing_keys;
  ChildRef missing;
  uint8_t level = 0;
  size_t records = 0;
  while (!tail_.empty() && tail_.front()->content.last_lsn() <= up_to && records < kRecordsAtOnce &&
         missing_keys.size() < kPagesAtOnce) {
    const ApplyUnit& unit = tail_.front()->content;
    for (const UnitRecord& r : unit.records) {
      if (missing_keys.size() == kPagesAtOnce) break;
      if (!state_.tree->FindLeaf(r.record.key, &missing, &level)) missing_keys.emplace_back(r.record.key);
    }
    records += unit.records.size();
    group.push_back(std::move(tail_.front()));
    tail_.pop_front();
  }
  // An error shows again when the record is applied.
  if (!missing_keys.empty()) co_await state_.tree->FetchAhead(std::move(missing_keys));
  co_return group;
}

// Replayed records had disk space before the crash. They have it again, though perhaps only after
// checkpoints, which free what the last generations replaced. This may not suffice if growth of the
// file was not durable yet and others have taken the space. Replay then continues: pages may still
// find room when they are written, and large values when they are replayed.
Task<void> Recovery::MakeRoom(std::span<const std::unique_ptr<LoggedUnit>> group, AdmittedBlocks* admitted) {
  uint64_t blocks = 0;
  for (const std::unique_ptr<LoggedUnit>& unit : group) {
    for (const UnitRecord& r : unit->content.records) {
      blocks += admission_.BlocksFor(r.record.op, r.record.key.size(), r.record.value.size());
    }
  }
  Status status = co_await admission_.Admit(blocks, /*only_removes=*/true, admitted);
  if (status.ok() || std::exchange(little_space_reported_, true)) co_return;
  LOG(WARNING) << "partition " << state_.id()
               << ": little disk space is left for replaying the log: " << status.ToString();
}

Task<Status> Recovery::ApplyRecovered(LoggedUnit* logged) {
  ApplyUnit* unit = &logged->content;
  Judgement judgement;
  CO_RETURN_IF_ERROR(co_await applier_.JudgeInParts(unit, &judgement));
  if (!judgement.refused()) CO_RETURN_IF_ERROR(co_await PlaceValues(logged));
  co_await applier_.PrepareMark(unit);
  Status applied = co_await applier_.ApplyInParts(unit, &judgement);
  if (!applied.ok()) {
    applier_.ForgetMark();
    co_return applied;
  }
  state_.committed_lsn = state_.applied_lsn;
  state_.history.Add({unit->epoch, unit->last_lsn(), unit->chain_after});
  state_.history.Trim(state_.committed_lsn);
  // The snapshot of a mark is written before anything else is replayed.
  while (unit->closes() && checkpointer_.running()) co_await checkpointer_.WaitForEnd();
  co_return Status();
}

// Allocates extents for the large values of a unit, before any of it is applied.
Task<Status> Recovery::PlaceValues(LoggedUnit* unit) {
  for (UnitRecord& r : unit->content.records) {
    const size_t value_bytes = r.record.value.size();
    if (r.record.op != RecordOp::kPut || !state_.tree->NeedsOverflow(r.record.key.size(), value_bytes)) continue;
    CO_ASSIGN_OR_RETURN(r.extent, co_await PlaceValue(value_bytes));
    unit->blocks.Take(state_.pool.BlocksFor(value_bytes));
  }
  co_return Status();
}

Task<Result<Extent>> Recovery::PlaceValue(size_t value_bytes) {
  const auto blocks = static_cast<uint32_t>(state_.pool.BlocksFor(value_bytes));
  Result<Extent> extent = co_await state_.file->AllocateForWrite(blocks);
  if (extent.code() != Code::kDiskFull) co_return extent;
  // The value found no free run. Checkpoints free space.
  for (int round = 0; round < Checkpointer::kCheckpointsToFree; ++round) {
    CO_RETURN_IF_ERROR(co_await checkpointer_.Checkpoint());
  }
  extent = co_await state_.file->AllocateForWrite(blocks);
  if (extent.code() != Code::kDiskFull) co_return extent;
  co_return Error(
      Code::kDiskFull,
      "partition {}: the log holds an acknowledged value of {} bytes, but the disk has no contiguous space to "
      "store it: {}; make room on the disk and start again, nothing is lost",
      state_.id(), value_bytes, extent.status().message());
}

}  // namespace pando
