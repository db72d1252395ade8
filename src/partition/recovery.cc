#include "src/partition/recovery.h"

#include <algorithm>
#include <string>

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
      : max_key_bytes_(MaxKeyBytes(state.pool.page_bytes())), partition_(state.id()), found_(found) {
    Begin();
  }

  bool over() const { return index_ == found_.units.size(); }
  // The next write, unless it ends at or below `checkpoint_lsn`; then null.
  Result<std::unique_ptr<LoggedUnit>> Next(Lsn checkpoint_lsn) {
    const WriteUnit& unit = found_.units[index_];
    ApplyUnit write;
    ByteReader reader(rest_);
    if (Status status = write.Decode(&reader, max_key_bytes_); !status.ok()) return Corrupt(status.message());
    write.first_lsn = next_lsn_;
    next_lsn_ += write.records.size();
    const std::string_view bytes = rest_.substr(0, rest_.size() - reader.remaining());
    rest_.remove_prefix(bytes.size());
    if (next_lsn_ > unit.last_lsn() + 1) return Corrupt("the last write is cut short");
    if (next_lsn_ <= unit.last_lsn() && !found_.old_format) return Corrupt("a unit with several writes");
    write.epoch = unit.epoch;
    write.chain_after = next_lsn_ > unit.last_lsn() ? unit.chain_after : 0;
    if (next_lsn_ > unit.last_lsn()) {
      ++index_;
      Begin();
    }
    if (write.last_lsn() <= checkpoint_lsn) return std::unique_ptr<LoggedUnit>();
    return Own(std::move(write), bytes);
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
  // AU1: the batch that holds the bytes is gone before the unit is applied.
  std::unique_ptr<LoggedUnit> Own(ApplyUnit write, std::string_view bytes) const {
    auto owned = std::make_unique<LoggedUnit>();
    owned->encoded = bytes;
    owned->content = std::move(write);
    ByteReader reader(owned->encoded);
    CHECK(owned->content.Decode(&reader, max_key_bytes_).ok()) << "AU1: the bytes were decoded before";
    return owned;
  }

  const size_t max_key_bytes_;
  const uint32_t partition_;
  const RecoveredUnits& found_;
  size_t index_ = 0;  // of the unit that is being read
  Lsn next_lsn_ = 0;
  std::string_view rest_;  // of its records
};

Status Recovery::CheckContinues(const RecoveredUnits& found, const UnitReader& units) const {
  const WriteUnit& first = found.units.front();
  // Directly after the checkpoint, units may be missing that come later (WU4 of wal/stream_history.h).
  if (first.first_lsn > EndLsn() + 1 && !tail_.empty()) {
    return units.Corrupt(fmt::format("they start at LSN {}, but the partition ends at {}: log segments are missing",
                                     first.first_lsn, EndLsn()));
  }
  // What the checkpoint contains may have superseded something itself, and the log still says so.
  const Superblock& sb = state_.file->superblock();
  const bool known = first.first_lsn <= sb.checkpoint_lsn && first.epoch <= sb.epoch;
  if (!found.supersede || first.first_lsn > state_.applied_lsn || known) return Status();
  return units.Corrupt(fmt::format("CG1: LSN {} was committed and applied, and is superseded", first.first_lsn));
}

Task<Status> Recovery::Replay(RecoveredUnits found) {
  if (state_.failed()) co_return state_.failure();
  CHECK(state_.phase() == Phase::kRecovering) << "E1: partition " << state_.id() << " already serves requests";
  UnitReader units(state_, found);
  CO_RETURN_IF_ERROR(CheckContinues(found, units));
  const Lsn first_lsn = found.units.front().first_lsn;
  if (found.restarts) required_lsn_ = std::min(required_lsn_, first_lsn - 1);
  while (found.restarts && !tail_.empty() && EndLsn() >= first_lsn) {
    if (tail_.back()->content.first_lsn < first_lsn) co_return units.Corrupt("a part of a write is superseded");
    tail_.pop_back();
  }
  while (!units.over()) {
    CO_ASSIGN_OR_RETURN(std::unique_ptr<LoggedUnit> unit, units.Next(state_.applied_lsn));
    if (unit) AddToTail(std::move(unit));
  }
  state_.epoch = std::max(state_.epoch, found.units.back().epoch);
  // P4: what the log holds is durable.
  state_.last_lsn = state_.durable_lsn = EndLsn();
  state_.last_chain = tail_.empty() ? state_.applied_chain : tail_.back()->content.chain_after;
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
  state_.epoch = std::max(state_.epoch, mark.epoch);
  state_.clock.Follow(std::max(state_.clock.newest(), mark.hlc));
  const Lsn checkpoint_lsn = state_.file->superblock().checkpoint_lsn;
  if (mark.released_lsn <= checkpoint_lsn) co_return co_await ApplyTail(mark.commit_lsn);
  co_return Error(
      Code::kCorruption,
      "{}: holds the partition up to LSN {}, but the log says that it had been checkpointed up to LSN {}: the "
      "file is an older copy. Put back the newest one, or restore the partition from a replica or a backup",
      state_.file->options().path, checkpoint_lsn, mark.released_lsn);
}

Status Recovery::CheckEnd() const {
  Lsn last = state_.applied_lsn;
  Epoch epoch = state_.applied_epoch;
  for (const std::unique_ptr<LoggedUnit>& unit : tail_) {
    RETURN_IF_ERROR(CheckNext(unit->content, last, epoch));
    last = unit->content.last_lsn();
    epoch = unit->content.epoch;
  }
  if (EndLsn() >= required_lsn_) return Status();
  return Error(
      Code::kCorruption,
      "partition {}: the log ends at LSN {}, but it says that LSN {} was durable: log segments are missing. Put "
      "them back, or restore the partition from a replica or a backup",
      state_.id(), EndLsn(), required_lsn_);
}

// A unit of the tail may be judged only when it is applied, or at the end of the log: until then it
// may be superseded, and what is missing before it may come (WU4).
Status Recovery::CheckNext(const ApplyUnit& unit, Lsn last, Epoch epoch) const {
  if (unit.first_lsn <= last) {
    return Error(Code::kCorruption, "partition {}: LSN {} of the log is inside a write that begins at LSN {}",
                 state_.id(), last, unit.first_lsn);
  }
  if (unit.epoch < epoch) {
    return Error(Code::kCorruption, "partition {}: the log holds epoch {} at LSN {}, after epoch {}", state_.id(),
                 unit.epoch, unit.first_lsn, epoch);
  }
  if (unit.first_lsn == last + 1) return Status();
  return Error(Code::kCorruption,
               "partition {}: the log holds LSN {}, but the one before it is {}: log segments are missing. Put them "
               "back, or restore the partition from a replica or a backup",
               state_.id(), unit.first_lsn, last);
}

Task<Status> Recovery::Finish(WritePipeline* pipeline) {
  CO_RETURN_IF_ERROR(CheckEnd());
  const CommitGate::Start start = state_.gate->OnRecovered({state_.epoch, state_.committed_lsn, state_.durable_lsn});
  CHECK(start.committed_lsn >= state_.committed_lsn && start.epoch >= state_.epoch) << "CG1, CG2: the gate went back";
  CO_RETURN_IF_ERROR(co_await ApplyTail(start.committed_lsn));
  state_.epoch = start.epoch;
  for (; !tail_.empty(); tail_.pop_front()) {
    LoggedUnit* unit = tail_.front().get();
    state_.clock.Follow(std::max(state_.clock.newest(), unit->content.records.back().record.version));
    co_await MakeRoom(std::span(&tail_.front(), 1), &unit->blocks);
    CO_RETURN_IF_ERROR(co_await PlaceValues(unit));
    pipeline->Restore(std::move(tail_.front()));
  }
  co_return Status();
}

// Applies the units of the tail that end at or below `up_to`.
Task<Status> Recovery::ApplyTail(Lsn up_to) {
  TurnSlice slice(state_.pool.turn());
  while (true) {
    const std::vector<std::unique_ptr<LoggedUnit>> group = co_await NextGroup(up_to);
    if (group.empty()) co_return Status();
    AdmittedBlocks room;
    co_await MakeRoom(group, &room);
    for (const std::unique_ptr<LoggedUnit>& unit : group) {
      CO_RETURN_IF_ERROR(CheckNext(unit->content, state_.applied_lsn, state_.applied_epoch));
      CO_RETURN_IF_ERROR(applier_.CheckFollows(unit->content));
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
  LOG_IF(WARNING, !status.ok()) << "partition " << state_.id()
                                << ": little disk space is left for replaying the log: " << status.ToString();
}

Task<Status> Recovery::ApplyRecovered(LoggedUnit* logged) {
  ApplyUnit* unit = &logged->content;
  Judgement judgement;
  CO_RETURN_IF_ERROR(co_await applier_.JudgeInParts(unit, &judgement));
  if (!judgement.refused()) CO_RETURN_IF_ERROR(co_await PlaceValues(logged));
  CO_RETURN_IF_ERROR(co_await applier_.ApplyInParts(unit, &judgement));
  state_.committed_lsn = state_.applied_lsn;
  co_return Status();
}

// Allocates extents for the large values of a unit, before any of it is applied.
Task<Status> Recovery::PlaceValues(LoggedUnit* unit) {
  for (UnitRecord& r : unit->content.records) {
    const size_t value_bytes = r.record.value.size();
    if (r.record.op != RecordOp::kPut || !state_.tree->NeedsOverflow(r.record.key.size(), value_bytes)) continue;
    CO_ASSIGN_OR_RETURN(r.extent, co_await PlaceValue(value_bytes));
    unit->blocks.Take(BlockAdmission::BlocksOfValue(value_bytes));
  }
  co_return Status();
}

Task<Result<Extent>> Recovery::PlaceValue(size_t value_bytes) {
  const auto blocks = static_cast<uint32_t>(BlockAdmission::BlocksOfValue(value_bytes));
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
