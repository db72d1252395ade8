#include "src/partition/replay_queue.h"

#include "src/wal/record.h"

namespace pando {

Task<void> ReplayQueue::ReadLeaf(Replica* replica, std::string key) {
  // An error shows again when the record is applied.
  Result<PagePin> pin = co_await replica->tree().FetchLeaf(std::move(key));
  (void)pin.ok();
  read_done_.NotifyOne();
}

Task<void> ReplayQueue::StartReads(Waiting* waiting) {
  ByteReader reader(waiting->records);
  for (uint32_t i = 0; i < waiting->batch.record_count; ++i) {
    Result<LogRecord> record = DecodeRecord(&reader);
    if (!record.ok()) co_return;  // Replay says so, with file and offset
    ChildRef missing;
    uint8_t level = 0;
    if (waiting->replica->tree().FindLeaf(record->key, &missing, &level)) continue;
    while (reads_.running() >= kMaxReads) co_await read_done_.Wait();
    reads_.Spawn(ReadLeaf(waiting->replica, std::string(record->key)));
  }
}

Task<Status> ReplayQueue::Push(Replica* replica, const RecoveredBatch& batch) {
  waiting_.push_back({replica, batch, std::string(batch.records), std::string(batch.file)});
  Waiting& waiting = waiting_.back();
  waiting.batch.records = waiting.records;
  waiting.batch.file = waiting.file;
  waiting_records_ += batch.record_count;
  waiting_bytes_ += batch.records.size();
  co_await StartReads(&waiting);
  while (!waiting_.empty() && (waiting_records_ > max_records_ || waiting_bytes_ > kMaxQueuedBytes)) {
    CO_RETURN_IF_ERROR(co_await ApplyOldest());
  }
  co_return Status();
}

Task<Status> ReplayQueue::ApplyOldest() {
  Waiting& oldest = waiting_.front();
  Status status = co_await oldest.replica->Replay(oldest.batch);
  waiting_records_ -= oldest.batch.record_count;
  waiting_bytes_ -= oldest.records.size();
  waiting_.pop_front();
  co_return status;
}

Task<Status> ReplayQueue::Finish(Status status) {
  while (status.ok() && !waiting_.empty()) status = co_await ApplyOldest();
  waiting_.clear();
  co_await reads_.Drain();
  co_return status;
}

}  // namespace pando
