#include "src/partition/recovery.h"

#include <deque>

namespace pando {
namespace {
constexpr size_t kPrefetches = 64;      // page reads in flight while a batch is replayed
constexpr size_t kRecordsAtOnce = 256;  // records whose disk space is reserved together

// A record that can refuse other records of its write, or be refused with them. These are judged
// together.
bool IsGuarded(const LogRecord& record) { return record.all_or_nothing || record.op == RecordOp::kCheck; }

// The number of records in the write that begins with the first of `records`.
size_t RecordsOfWrite(std::span<const LogRecord> records) {
  size_t n = 1;
  while (n < records.size() && records[n - 1].continues) ++n;
  return n;
}

// Returns why `record` cannot follow `previous` within one write, or "".
std::string_view WrongOrder(const LogRecord* previous, const LogRecord& record) {
  if (!previous || !previous->continues) return "";
  if (record.all_or_nothing != previous->all_or_nothing) return "only a part of a write is all-or-nothing";
  if (record.op == RecordOp::kCheck && previous->op != RecordOp::kCheck) return "a check comes after what it guards";
  return "";
}

}  // namespace

// One operation as a write of its own. Replay applies operations one at a time, so it works with
// any pool size, whatever the pool was when the log was written. Nobody reads meanwhile, so nobody
// sees half a batch.
struct Recovery::ReplayedOp {
  std::vector<WriteOp> ops;
  ApplyUnit unit;

  explicit ReplayedOp(const LogRecord& record) : ops(1) {
    WriteOp& op = ops.front();
    op.op = record.op;
    op.key = record.key;
    op.value = record.value;
    op.delta = record.delta;
    op.ttl_mode = record.ttl_mode;
    op.expires_at_ms = record.expires_at_ms;
    op.condition.version = record.condition.version;
    op.condition.exists = record.condition.exists;
    if (record.condition.value) op.condition.value = std::string(*record.condition.value);
    unit.ops = &ops;
    unit.versions.push_back(record.version);
  }
  ReplayedOp(const ReplayedOp&) = delete;
};

Task<void> Recovery::Prefetch(std::string key) {
  // An error shows again when the record is applied.
  Result<PagePin> pin = co_await state_.tree->FetchLeaf(key);
  (void)pin.ok();
}

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

namespace {

Status Corrupt(const RecoveredUnits& found, uint32_t partition, std::string_view what) {
  return Error(Code::kCorruption, "{}: units of partition {} in the batch at offset {}: {}", found.file, partition,
               found.offset, what);
}

}  // namespace

Status Recovery::CheckContinues(const RecoveredUnits& found) const {
  const WriteUnit& first = found.units.front();
  if (first.first_lsn > state_.applied_lsn + 1) {
    return Corrupt(found, state_.id(),
                   fmt::format("they start at LSN {}, but the tree ends at {}: log segments are missing",
                               first.first_lsn, state_.applied_lsn));
  }
  if (found.supersede && first.first_lsn <= state_.applied_lsn) {
    return Corrupt(found, state_.id(), fmt::format("LSN {} was applied and is superseded", first.first_lsn));
  }
  if (first.epoch >= state_.epoch) return Status();
  return Corrupt(found, state_.id(), fmt::format("epoch {} after epoch {}", first.epoch, state_.epoch));
}

// The records above the checkpoint. They are views into the units.
Result<std::vector<LogRecord>> Recovery::Decode(const RecoveredUnits& found) const {
  std::vector<LogRecord> records;
  auto corrupt = [&](std::string_view what) { return Corrupt(found, state_.id(), what); };
  for (const WriteUnit& unit : found.units) {
    ByteReader reader(unit.records);
    LogRecord last;
    for (Lsn lsn = unit.first_lsn; lsn <= unit.last_lsn(); ++lsn) {
      Result<LogRecord> record = DecodeRecord(&reader);
      if (!record.ok()) return corrupt(record.status().message());
      if (record->key.size() > MaxKeyBytes(state_.pool.page_bytes())) return corrupt("a key longer than the limit");
      const LogRecord* previous = lsn > unit.first_lsn ? &last : nullptr;
      if (std::string_view wrong = WrongOrder(previous, *record); !wrong.empty()) return corrupt(wrong);
      last = *record;
      if (lsn == state_.applied_lsn && last.continues) return corrupt("the checkpoint ends inside a write");
      if (lsn > state_.applied_lsn) records.push_back(last);
    }
    if (last.continues) return corrupt("the last write is cut short");
  }
  return records;
}

Task<Status> Recovery::Replay(RecoveredUnits found) {
  if (state_.failed()) co_return state_.failure();
  CHECK(state_.phase() == Phase::kRecovering) << "E1: partition " << state_.id() << " already serves requests";
  CO_RETURN_IF_ERROR(CheckContinues(found));
  if (found.restarts) required_lsn_ = std::min(required_lsn_, found.units.front().first_lsn - 1);
  const Lsn end_lsn = found.units.back().last_lsn();
  if (end_lsn <= state_.applied_lsn) co_return Status();
  state_.epoch = found.units.back().epoch;
  CO_ASSIGN_OR_RETURN(const std::vector<LogRecord> records, Decode(found));
  constexpr uint32_t kRecordUnits = 16;
  TurnSlice slice(state_.pool.turn());
  // Random keys are in pages that are not in memory. Read these pages together, in bounded groups.
  for (size_t from = 0; from < records.size();) {
    TaskGroup prefetches;
    size_t to = from;
    ChildRef missing;
    uint8_t level = 0;
    while (to < records.size() && to - from < kRecordsAtOnce && prefetches.running() < kPrefetches) {
      const LogRecord& record = records[to++];
      if (!state_.tree->FindLeaf(record.key, &missing, &level)) prefetches.Spawn(Prefetch(std::string(record.key)));
    }
    co_await prefetches.Drain();
    AdmittedBlocks room;
    if (from == 0 || !records[from - 1].continues)
      co_await MakeRoomToReplay(std::span(records).subspan(from, to - from), &room);
    while (from < to) {
      const std::span<const LogRecord> rest = std::span(records).subspan(from);
      const size_t together = IsGuarded(rest.front()) ? RecordsOfWrite(rest) : 1;
      const bool begins_write = from == 0 || !records[from - 1].continues;
      if (from + together > to) {
        co_await MakeRoomToReplay(rest.subspan(to - from, from + together - to), &room);
        to = from + together;
      }
      CO_RETURN_IF_ERROR(co_await ReplayBatch(rest.first(together), begins_write));
      from += together;
      if (!records[from - 1].continues) SetReplayed(end_lsn - (records.size() - from));
      if (slice.Spend(kRecordUnits * static_cast<uint32_t>(together))) co_await Yield(state_.reactor);
    }
  }
  SetReplayed(end_lsn);
  state_.last_chain = state_.applied_chain = found.units.back().chain_after;
  co_return Status();
}

void Recovery::SetReplayed(Lsn lsn) { state_.applied_lsn = state_.durable_lsn = state_.last_lsn = lsn; }

// Replayed records had disk space before the crash. They have it again, though perhaps only after
// checkpoints, which free what the last generations replaced. This may not suffice if growth of the
// file was not durable yet and others have taken the space. Replay then continues: pages may still
// find room when they are written, and large values when they are replayed.
Task<void> Recovery::MakeRoomToReplay(std::span<const LogRecord> records, AdmittedBlocks* admitted) {
  uint64_t blocks = 0;
  for (const LogRecord& record : records)
    blocks += admission_.BlocksFor(record.op, record.key.size(), record.value.size());
  Status status = co_await admission_.Admit(blocks, /*only_removes=*/true, admitted);
  LOG_IF(WARNING, !status.ok()) << "partition " << state_.id()
                                << ": little disk space is left for replaying the log: " << status.ToString();
}

// Replays a write that is judged as a whole, or one record of another write. `begins_write`: the
// records before it are whole writes.
Task<Status> Recovery::ReplayBatch(std::span<const LogRecord> records, bool begins_write) {
  bool refused = false;
  if (IsGuarded(records.front())) {
    CO_ASSIGN_OR_RETURN(refused, co_await IsRefused(records));
  }
  const Version before = state_.applied_version;
  Version version = before;
  for (const LogRecord& record : records) {
    if (record.version <= version) {
      co_return Error(Code::kCorruption, "partition {}: the log holds version {} after version {}", state_.id(),
                      record.version, version);
    }
    version = record.version;
    if (refused || record.op == RecordOp::kCheck) continue;
    Status status = co_await ReplayRecord(record);
    // A value found no free run. Checkpoints free space, but they must contain whole writes.
    if (status.code() == Code::kDiskFull && begins_write && state_.applied_version == before) {
      for (int round = 0; round < 2; ++round) CO_RETURN_IF_ERROR(co_await checkpointer_.Checkpoint());
      status = co_await ReplayRecord(record);
    }
    CO_RETURN_IF_ERROR(std::move(status));
  }
  state_.applied_version = version;  // also of records that change nothing
  co_return Status();
}

// Like Judge, but with the pages of one operation in memory at a time.
Task<Result<bool>> Recovery::IsRefused(std::span<const LogRecord> records) {
  std::vector<std::string> keys;
  for (const LogRecord& record : records) keys.emplace_back(record.key);
  co_await state_.tree->FetchAhead(std::move(keys));
  std::deque<ReplayedOp> replayed;  // `effects` refers to these
  Applier::Effects effects;
  for (const LogRecord& record : records) {
    if (!IsGuarded(record)) break;
    ApplyUnit* unit = &replayed.emplace_back(record).unit;
    while (!applier_.Ready(unit)) CO_RETURN_IF_ERROR(co_await applier_.MakeReady(unit));
    if (applier_.JudgeOp(unit, 0, &effects) != OpOutcome::kApplied) co_return true;
    unit->pins.clear();
    unit->found.clear();  // `effects` does not refer to it
  }
  co_return false;
}

// Allocates an extent for a large value.
Task<Status> Recovery::Fetch(ApplyUnit* unit) {
  const WriteOp& op = unit->ops->front();
  unit->extents.resize(1);
  if (op.op != RecordOp::kPut || !state_.tree->NeedsOverflow(op.key.size(), op.value.size())) co_return Status();
  const auto blocks = static_cast<uint32_t>(BlockAdmission::BlocksOfValue(op.value.size()));
  CO_ASSIGN_OR_RETURN(unit->extents[0], co_await state_.file->AllocateForWrite(blocks));
  co_return Status();
}

Task<Status> Recovery::ReplayRecord(LogRecord record) {
  ReplayedOp replayed(record);
  ApplyUnit* unit = &replayed.unit;
  if (Status status = co_await Fetch(unit); !status.ok()) {
    if (status.code() != Code::kDiskFull) co_return status;
    co_return Error(
        Code::kDiskFull,
        "partition {}: the log holds an acknowledged value of {} bytes, but the disk has no contiguous space to "
        "store it: {}; make room on the disk and start again, nothing is lost",
        state_.id(), record.value.size(), status.message());
  }
  while (!applier_.Ready(unit)) CO_RETURN_IF_ERROR(co_await applier_.MakeReady(unit));
  state_.applied_version = record.version;
  applier_.ApplyOp(unit, 0);
  co_return Status();
}

}  // namespace pando
