// Replica: recovery from the log.
#include "src/partition/replica.h"

namespace pando {
namespace {
constexpr size_t kPrefetches = 64;      // page reads in flight while a batch is replayed
constexpr size_t kRecordsAtOnce = 256;  // for which room is looked for together
}  // namespace

Task<void> Replica::Prefetch(std::string key) {
  // An error shows again when the record is applied.
  Result<PagePin> pin = co_await tree_->FetchLeaf(key);
  (void)pin.ok();
}

Task<Status> Replica::Replay(RecoveredBatch batch) {
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
  for (uint32_t i = 0; i < batch.record_count; ++i, ++lsn) {
    Result<LogRecord> record = DecodeRecord(&reader);
    if (!record.ok()) co_return corrupt(record.status().message());
    if (record->key.size() > MaxKeyBytes(pool_.page_bytes())) co_return corrupt("a key longer than the limit");
    if (lsn > applied_lsn_) records.push_back(*record);
  }
  constexpr uint32_t kRecordUnits = 16;
  TurnSlice slice(pool_.turn());
  // Random keys live in pages that are not in memory: read them together, in bounded groups.
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
    for (; from < to; ++from) {
      Status status = co_await ReplayRecord(records[from]);
      // A value found no room in one piece. (A checkpoint holds whole writes.)
      if (status.code() == Code::kDiskFull && (from == 0 || !records[from - 1].continues)) {
        for (int round = 0; round < 2; ++round) CO_RETURN_IF_ERROR(co_await Checkpoint());
        status = co_await ReplayRecord(records[from]);
      }
      CO_RETURN_IF_ERROR(std::move(status));
      if (!records[from].continues) SetReplayed(batch_end - (records.size() - 1 - from));
      if (slice.Spend(kRecordUnits)) co_await Yield(reactor_);
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

// What is replayed had room before the crash. It has it again, though perhaps only after checkpoints, which give back
// what the last generations replaced. Where that does not suffice (others have taken what the file had grown by, and
// that was not durable yet) the pages may still find room when they are written, and large values now.
Task<void> Replica::MakeRoomToReplay(std::span<const LogRecord> records, uint64_t* admitted) {
  uint64_t blocks = 0;
  for (const LogRecord& record : records) blocks += BlocksFor(record.op, record.key.size(), record.value.size());
  Status status = co_await AdmitBlocks(blocks, /*only_removes=*/true, admitted);
  LOG_IF(WARNING, !status.ok()) << "partition " << id()
                                << ": replaying the log with little room: " << status.ToString();
}

Task<Status> Replica::ReplayRecord(LogRecord record) {
  if (record.version <= applied_version_) {
    co_return Error(Code::kCorruption, "partition {}: the log holds version {} behind version {}", id(), record.version,
                    applied_version_);
  }
  WriteOp op;
  op.op = record.op;
  op.key = record.key;
  op.value = record.value;
  op.delta = record.delta;
  op.ttl_mode = record.ttl_mode;
  op.ttl_ms = record.expires_at_ms - VersionMs(record.version);
  op.condition.version = record.condition.version;
  op.condition.exists = record.condition.exists;
  if (record.condition.value) op.condition.value = std::string(*record.condition.value);
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  PendingWrite pending;
  pending.ops = &ops;
  pending.versions.push_back(record.version);
  if (Status status = co_await FetchForWrite(&pending); !status.ok()) {
    if (status.code() != Code::kDiskFull) co_return status;
    co_return Error(
        Code::kDiskFull,
        "partition {}: the log holds a value of {} bytes that was acknowledged, and there is no room in one "
        "piece to store it: {}; make room on the disk and start again, nothing is lost",
        id(), record.value.size(), status.message());
  }
  while (!ReadyToApply(&pending)) CO_RETURN_IF_ERROR(co_await MakeReady(&pending));
  applied_version_ = record.version;
  ApplyOp(&pending, 0);
  co_return Status();
}

}  // namespace pando
