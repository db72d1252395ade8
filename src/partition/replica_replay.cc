// Replica: recovery from the log.
#include "src/partition/replica.h"

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
struct Replica::ReplayedOp {
  std::vector<WriteOp> ops;
  PendingWrite pending;

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
    pending.ops = &ops;
    pending.versions.push_back(record.version);
  }
  ReplayedOp(const ReplayedOp&) = delete;
};

Task<void> Replica::Prefetch(std::string key) {
  // An error shows again when the record is applied.
  Result<PagePin> pin = co_await tree_->FetchLeaf(key);
  (void)pin.ok();
}

Task<Status> Replica::Replay(RecoveredBatch batch) {
  CHECK(log_ == nullptr) << "E1: partition " << id() << " already serves requests";
  auto corrupt = [&](std::string_view what) {
    return Error(Code::kCorruption, "{}: batch of partition {} at offset {}: {}", batch.file, id(), batch.offset, what);
  };
  if (batch.first_lsn > applied_lsn_ + 1) {
    co_return corrupt(fmt::format("starts at LSN {}, but the tree ends at {}: log segments are missing",
                                  batch.first_lsn, applied_lsn_));
  }
  if (batch.epoch < epoch_) co_return corrupt(fmt::format("epoch {} after epoch {}", batch.epoch, epoch_));
  if (batch.first_lsn + batch.record_count <= applied_lsn_ + 1) co_return Status();
  epoch_ = batch.epoch;

  std::vector<LogRecord> records;
  const Lsn batch_end = batch.first_lsn + batch.record_count - 1;
  ByteReader reader(batch.records);
  Lsn lsn = batch.first_lsn;
  LogRecord last;
  for (uint32_t i = 0; i < batch.record_count; ++i, ++lsn) {
    Result<LogRecord> record = DecodeRecord(&reader);
    if (!record.ok()) co_return corrupt(record.status().message());
    if (record->key.size() > MaxKeyBytes(pool_.page_bytes())) co_return corrupt("a key longer than the limit");
    if (std::string_view wrong = WrongOrder(i > 0 ? &last : nullptr, *record); !wrong.empty()) co_return corrupt(wrong);
    last = *record;
    if (lsn == applied_lsn_ && last.continues) co_return corrupt("the checkpoint ends inside a write");
    if (lsn > applied_lsn_) records.push_back(last);
  }
  if (last.continues) co_return corrupt("the last write is cut short");
  constexpr uint32_t kRecordUnits = 16;
  TurnSlice slice(pool_.turn());
  // Random keys are in pages that are not in memory. Read these pages together, in bounded groups.
  for (size_t from = 0; from < records.size();) {
    TaskGroup prefetches;
    size_t to = from;
    ChildRef missing;
    uint8_t level = 0;
    while (to < records.size() && to - from < kRecordsAtOnce && prefetches.running() < kPrefetches) {
      const LogRecord& record = records[to++];
      if (!tree_->FindLeaf(record.key, &missing, &level)) prefetches.Spawn(Prefetch(std::string(record.key)));
    }
    co_await prefetches.Drain();
    uint64_t room = 0;
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
      if (!records[from - 1].continues) SetReplayed(batch_end - (records.size() - from));
      if (slice.Spend(kRecordUnits * static_cast<uint32_t>(together))) co_await Yield(reactor_);
    }
    TakeAdmitted(room, &room);
  }
  SetReplayed(batch_end);
  co_return Status();
}

void Replica::SetReplayed(Lsn lsn) {
  applied_lsn_ = durable_lsn_ = last_lsn_ = lsn;
  last_version_ = applied_version_;
}

// Replayed records had disk space before the crash. They have it again, though perhaps only after
// checkpoints, which free what the last generations replaced. This may not suffice if growth of the
// file was not durable yet and others have taken the space. Replay then continues: pages may still
// find room when they are written, and large values when they are replayed.
Task<void> Replica::MakeRoomToReplay(std::span<const LogRecord> records, uint64_t* admitted) {
  uint64_t blocks = 0;
  for (const LogRecord& record : records) blocks += BlocksFor(record.op, record.key.size(), record.value.size());
  Status status = co_await AdmitBlocks(blocks, /*only_removes=*/true, admitted);
  LOG_IF(WARNING, !status.ok()) << "partition " << id()
                                << ": little disk space is left for replaying the log: " << status.ToString();
}

// Replays a write that is judged as a whole, or one record of another write. `begins_write`: the
// records before it are whole writes.
Task<Status> Replica::ReplayBatch(std::span<const LogRecord> records, bool begins_write) {
  bool refused = false;
  if (IsGuarded(records.front())) {
    CO_ASSIGN_OR_RETURN(refused, co_await IsRefused(records));
  }
  const Version before = applied_version_;
  Version version = before;
  for (const LogRecord& record : records) {
    if (record.version <= version) {
      co_return Error(Code::kCorruption, "partition {}: the log holds version {} after version {}", id(),
                      record.version, version);
    }
    version = record.version;
    if (refused || record.op == RecordOp::kCheck) continue;
    Status status = co_await ReplayRecord(record);
    // A value found no free run. Checkpoints free space, but they must contain whole writes.
    if (status.code() == Code::kDiskFull && begins_write && applied_version_ == before) {
      for (int round = 0; round < 2; ++round) CO_RETURN_IF_ERROR(co_await Checkpoint());
      status = co_await ReplayRecord(record);
    }
    CO_RETURN_IF_ERROR(std::move(status));
  }
  applied_version_ = version;  // also of records that change nothing
  co_return Status();
}

// Like Judge, but with the pages of one operation in memory at a time.
Task<Result<bool>> Replica::IsRefused(std::span<const LogRecord> records) {
  std::vector<std::string> keys;
  for (const LogRecord& record : records) keys.emplace_back(record.key);
  co_await tree_->FetchAhead(std::move(keys));
  std::deque<ReplayedOp> replayed;  // `effects` refers to these
  Effects effects;
  for (const LogRecord& record : records) {
    if (!IsGuarded(record)) break;
    PendingWrite* pending = &replayed.emplace_back(record).pending;
    while (!ReadyToApply(pending)) CO_RETURN_IF_ERROR(co_await MakeReady(pending));
    if (JudgeOp(pending, 0, &effects) != OpOutcome::kApplied) co_return true;
    pending->pins.clear();
    pending->found.clear();  // `effects` does not refer to it
  }
  co_return false;
}

Task<Status> Replica::ReplayRecord(LogRecord record) {
  ReplayedOp replayed(record);
  PendingWrite* pending = &replayed.pending;
  if (Status status = co_await FetchForWrite(pending); !status.ok()) {
    if (status.code() != Code::kDiskFull) co_return status;
    co_return Error(
        Code::kDiskFull,
        "partition {}: the log holds an acknowledged value of {} bytes, but the disk has no contiguous space to "
        "store it: {}; make room on the disk and start again, nothing is lost",
        id(), record.value.size(), status.message());
  }
  while (!ReadyToApply(pending)) CO_RETURN_IF_ERROR(co_await MakeReady(pending));
  applied_version_ = record.version;
  ApplyOp(pending, 0);
  co_return Status();
}

}  // namespace pando
