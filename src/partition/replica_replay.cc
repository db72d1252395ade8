// Replica: recovery from the log.
#include "src/partition/replica.h"

namespace pando {
namespace {
constexpr size_t kPrefetches = 64;  // page reads in flight while a batch is replayed
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
    while (to < records.size() && prefetches.running() < kPrefetches) {
      const LogRecord& record = records[to++];
      if (!tree_->FindLeaf(record.key, &missing, &level)) prefetches.Spawn(Prefetch(std::string(record.key)));
    }
    co_await prefetches.Drain();
    for (; from < to; ++from) {
      CO_RETURN_IF_ERROR(co_await ReplayRecord(records[from]));
      if (slice.Spend(kRecordUnits)) co_await Yield(reactor_);
    }
  }
  applied_lsn_ = durable_lsn_ = last_lsn_ = batch.first_lsn + batch.record_count - 1;
  last_version_ = applied_version_;
  co_return Status();
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
  CO_RETURN_IF_ERROR(co_await FetchForWrite(&pending));
  while (!ReadyToApply(&pending)) CO_RETURN_IF_ERROR(co_await MakeReady(&pending));
  applied_version_ = record.version;
  ApplyOp(&pending, 0);
  co_return Status();
}

}  // namespace pando
