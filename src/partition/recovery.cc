#include "src/partition/recovery.h"

#include <algorithm>
#include <string>

namespace pando {
namespace {

constexpr size_t kPagesAtOnce = 64;     // pages read together for a group of units
constexpr size_t kRecordsAtOnce = 256;  // records whose disk space is reserved together
constexpr uint32_t kRecordUnits = 16;   // cost of a record, in units of the turn's budget

}  // namespace

// Decodes the writes in units of the log.
class Recovery::UnitReader {
 public:
  UnitReader(const PartitionState& state, const RecoveredUnits& found)
      : max_key_bytes_(MaxKeyBytes(state.pool.page_bytes())), partition_(state.id()), found_(found) {
    Begin();
  }

  bool over() const { return index_ == found_.units.size(); }
  // `write` is empty.
  Status Next(ApplyUnit* write) {
    const WriteUnit& unit = found_.units[index_];
    write->first_lsn = next_lsn_;
    if (Status status = write->Decode(&reader_, max_key_bytes_); !status.ok()) return Corrupt(status.message());
    next_lsn_ += write->records.size();
    if (next_lsn_ > unit.last_lsn() + 1) return Corrupt("the last write is cut short");
    if (next_lsn_ <= unit.last_lsn()) return found_.old_format ? Status() : Corrupt("a unit with several writes");
    write->chain_after = unit.chain_after;
    ++index_;
    Begin();
    return Status();
  }
  Status Corrupt(std::string_view what) const {
    return Error(Code::kCorruption, "{}: units of partition {} in the batch at offset {}: {}", found_.file, partition_,
                 found_.offset, what);
  }

 private:
  void Begin() {
    if (over()) return;
    next_lsn_ = found_.units[index_].first_lsn;
    reader_ = ByteReader(found_.units[index_].records);
  }

  const size_t max_key_bytes_;
  const uint32_t partition_;
  const RecoveredUnits& found_;
  size_t index_ = 0;  // of the unit that is being read
  Lsn next_lsn_ = 0;
  ByteReader reader_{""};
};

Status Recovery::Require(const StreamMark& mark) {
  required_lsn_ = mark.durable_lsn;
  const Lsn checkpoint_lsn = state_.file->superblock().checkpoint_lsn;
  if (mark.released_lsn <= checkpoint_lsn) return Status();
  return Error(Code::kCorruption,
               "{}: holds the partition up to LSN {}, but the log says that it had been checkpointed up to LSN {}: the "
               "file is an older copy. Put back the newest one, or restore the partition from a replica or a backup",
               state_.file->options().path, checkpoint_lsn, mark.released_lsn);
}

Status Recovery::CheckReplayed() const {
  if (state_.last_lsn >= required_lsn_) return Status();
  return Error(
      Code::kCorruption,
      "partition {}: the log ends at LSN {}, but it says that LSN {} was durable: log segments are missing. Put "
      "them back, or restore the partition from a replica or a backup",
      state_.id(), state_.last_lsn, required_lsn_);
}

Status Recovery::CheckContinues(const RecoveredUnits& found, const UnitReader& units) const {
  const WriteUnit& first = found.units.front();
  if (first.first_lsn > state_.applied_lsn + 1) {
    return units.Corrupt(fmt::format("they start at LSN {}, but the tree ends at {}: log segments are missing",
                                     first.first_lsn, state_.applied_lsn));
  }
  if (found.supersede && first.first_lsn <= state_.applied_lsn) {
    return units.Corrupt(fmt::format("LSN {} was applied and is superseded", first.first_lsn));
  }
  if (first.epoch >= state_.epoch) return Status();
  return units.Corrupt(fmt::format("epoch {} after epoch {}", first.epoch, state_.epoch));
}

Task<Status> Recovery::Replay(RecoveredUnits found) {
  if (state_.failed()) co_return state_.failure();
  CHECK(state_.phase() == Phase::kRecovering) << "E1: partition " << state_.id() << " already serves requests";
  UnitReader units(state_, found);
  CO_RETURN_IF_ERROR(CheckContinues(found, units));
  if (found.restarts) required_lsn_ = std::min(required_lsn_, found.units.front().first_lsn - 1);
  if (found.units.back().last_lsn() <= state_.applied_lsn) co_return Status();
  state_.epoch = found.units.back().epoch;
  TurnSlice slice(state_.pool.turn());
  while (!units.over()) {
    std::vector<ApplyUnit> group;
    CO_RETURN_IF_ERROR(co_await NextGroup(&units, &group));
    AdmittedBlocks room;
    if (!group.empty()) co_await MakeRoom(&group, &room);
    for (ApplyUnit& unit : group) {
      if (Status follows = applier_.CheckFollows(unit); !follows.ok()) co_return units.Corrupt(follows.message());
      CO_RETURN_IF_ERROR(co_await ReplayUnit(&unit));
      if (slice.Spend(kRecordUnits * static_cast<uint32_t>(unit.records.size()))) co_await Yield(state_.reactor);
    }
  }
  co_return Status();
}

// Reads the next units that the checkpoint does not contain, a bounded number. Random keys are in
// pages that are not in memory; those of the group are read together.
Task<Status> Recovery::NextGroup(UnitReader* units, std::vector<ApplyUnit>* group) {
  std::vector<std::string> missing_keys;
  ChildRef missing;
  uint8_t level = 0;
  for (size_t records = 0; !units->over() && records < kRecordsAtOnce && missing_keys.size() < kPagesAtOnce;) {
    ApplyUnit unit;
    CO_RETURN_IF_ERROR(units->Next(&unit));
    if (unit.last_lsn() <= state_.applied_lsn) continue;
    if (unit.first_lsn <= state_.applied_lsn) co_return units->Corrupt("the checkpoint ends inside a write");
    for (const UnitRecord& r : unit.records) {
      if (missing_keys.size() == kPagesAtOnce) break;
      if (!state_.tree->FindLeaf(r.record.key, &missing, &level)) missing_keys.emplace_back(r.record.key);
    }
    records += unit.records.size();
    group->push_back(std::move(unit));
  }
  // An error shows again when the record is applied.
  if (!missing_keys.empty()) co_await state_.tree->FetchAhead(std::move(missing_keys));
  co_return Status();
}

// Replayed records had disk space before the crash. They have it again, though perhaps only after
// checkpoints, which free what the last generations replaced. This may not suffice if growth of the
// file was not durable yet and others have taken the space. Replay then continues: pages may still
// find room when they are written, and large values when they are replayed.
Task<void> Recovery::MakeRoom(const std::vector<ApplyUnit>* group, AdmittedBlocks* admitted) {
  uint64_t blocks = 0;
  for (const ApplyUnit& unit : *group) {
    for (const UnitRecord& r : unit.records) {
      blocks += admission_.BlocksFor(r.record.op, r.record.key.size(), r.record.value.size());
    }
  }
  Status status = co_await admission_.Admit(blocks, /*only_removes=*/true, admitted);
  LOG_IF(WARNING, !status.ok()) << "partition " << state_.id()
                                << ": little disk space is left for replaying the log: " << status.ToString();
}

Task<Status> Recovery::ReplayUnit(ApplyUnit* unit) {
  Judgement judgement;
  CO_RETURN_IF_ERROR(co_await applier_.JudgeInParts(unit, &judgement));
  if (!judgement.refused()) CO_RETURN_IF_ERROR(co_await PlaceValues(unit));
  CO_RETURN_IF_ERROR(co_await applier_.ApplyInParts(unit, &judgement));
  state_.last_lsn = state_.durable_lsn = state_.committed_lsn = state_.applied_lsn;  // P4
  state_.last_chain = state_.applied_chain;
  co_return Status();
}

// Allocates extents for the large values of a unit, before any of it is applied.
Task<Status> Recovery::PlaceValues(ApplyUnit* unit) {
  for (UnitRecord& r : unit->records) {
    const size_t value_bytes = r.record.value.size();
    if (r.record.op != RecordOp::kPut || !state_.tree->NeedsOverflow(r.record.key.size(), value_bytes)) continue;
    CO_ASSIGN_OR_RETURN(r.extent, co_await PlaceValue(value_bytes));
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
