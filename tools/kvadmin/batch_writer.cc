#include "tools/kvadmin/batch_writer.h"

#include <algorithm>
#include <optional>
#include <thread>

namespace pando::admin {

namespace {

constexpr int64_t kFirstPauseMs = 20;
constexpr int64_t kMaxPauseMs = 500;

bool ConnectionLost(const Status& status) {
  return status.code() == Code::kUnavailable || status.code() == Code::kDeadline;
}

}  // namespace

BatchWriter::BatchWriter(Client& client, BatchWriterOptions options, OnRejected on_rejected)
    : client_(client), options_(options), on_rejected_(std::move(on_rejected)) {}

Status BatchWriter::Add(api::WriteOp op, uint64_t line) {
  size_t bytes = op.key.size() + op.value.size();
  if (!open_.lines.empty() &&
      (open_.lines.size() >= options_.batch_ops || open_.bytes + bytes > options_.batch_bytes)) {
    RETURN_IF_ERROR(SendOpen());
  }
  while (keys_.contains(op.key)) RETURN_IF_ERROR(ReceiveOldest());  // W1
  open_keys_.insert(op.key);
  open_.bytes += bytes;
  open_.lines.push_back(line);
  open_.request.ops.push_back(std::move(op));
  return Status();
}

Status BatchWriter::Finish() {
  if (!open_.lines.empty()) RETURN_IF_ERROR(SendOpen());
  while (!sent_.empty()) RETURN_IF_ERROR(ReceiveOldest());
  return Status();
}

Status BatchWriter::SendOpen() {
  while (sent_.size() >= options_.window) RETURN_IF_ERROR(ReceiveOldest());
  if (sent_.empty()) last_progress_ = Clock::now();
  sent_.push_back(std::move(open_));
  open_ = Batch{};
  keys_.merge(open_keys_);
  open_keys_.clear();
  Status status = Send(sent_.back());
  return ConnectionLost(status) ? ResendAll(std::move(status)) : status;
}

Status BatchWriter::Send(const Batch& batch) {
  return client_.Once(
      [&](api::KvClient& kv, const api::Context& context) { kv.send_writeBatch(context, batch.request); });
}

// The connection is gone and with it every answer under way. A put may be done twice, so all are sent again.
Status BatchWriter::ResendAll(Status why) {
  for (;;) {
    RETURN_IF_ERROR(WaitOrGiveUp(why, 0));
    Status status;
    for (const Batch& batch : sent_) {
      status = Send(batch);
      if (!status.ok()) break;
    }
    if (status.ok()) return status;
    if (!ConnectionLost(status)) return status;
    why = std::move(status);
  }
}

Status BatchWriter::WaitOrGiveUp(const Status& why, int64_t advised_ms) {
  auto idle = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - last_progress_).count();
  if (idle >= client_.target().timeout_ms) {
    return Error(why.code(), "no progress for {} ms: {}", idle, why.message());
  }
  pause_ms_ = std::clamp(pause_ms_ * 2, kFirstPauseMs, kMaxPauseMs);
  std::this_thread::sleep_for(std::chrono::milliseconds(std::max(pause_ms_, advised_ms)));
  return Status();
}

Status BatchWriter::ReceiveOldest() {
  api::WriteBatchReply reply;
  std::optional<api::KvError> refused;
  Status status = client_.Once([&](api::KvClient& kv, const api::Context&) {
    try {
      kv.recv_writeBatch(reply);
    } catch (const api::KvError& error) {
      refused = error;
    }
  });
  if (ConnectionLost(status)) return ResendAll(std::move(status));
  RETURN_IF_ERROR(status);
  if (!refused) return Settle(reply);
  if (!refused->retryable) return RejectAll(refused->message);
  // The answers behind it are still to come, in order, so it goes to the end of the window.
  RETURN_IF_ERROR(WaitOrGiveUp(FromKvError(*refused), refused->retry_after_ms));
  sent_.push_back(std::move(sent_.front()));
  sent_.pop_front();
  status = Send(sent_.back());
  return ConnectionLost(status) ? ResendAll(std::move(status)) : status;
}

Status BatchWriter::RejectAll(const std::string& why) {
  Batch batch = std::move(sent_.front());
  sent_.pop_front();
  for (size_t i = 0; i < batch.lines.size(); ++i) {
    Forget(batch.request.ops[i].key);
    RETURN_IF_ERROR(on_rejected_(batch.lines[i], why));
  }
  return Status();
}

Status BatchWriter::Settle(const api::WriteBatchReply& reply) {
  Batch batch = std::move(sent_.front());
  sent_.pop_front();
  if (reply.results.size() != batch.lines.size()) {
    return Error(Code::kCorruption, "the server answered a batch of {} with {} results", batch.lines.size(),
                 reply.results.size());
  }
  Batch again;
  int64_t advised_ms = 0;
  Status why;
  for (size_t i = 0; i < batch.lines.size(); ++i) {
    const api::WriteResult& result = reply.results[i];
    api::WriteOp& op = batch.request.ops[i];
    if (result.__isset.error && result.error.retryable) {
      why = FromKvError(result.error);
      advised_ms = std::max<int64_t>(advised_ms, result.error.retry_after_ms);
      again.lines.push_back(batch.lines[i]);
      again.bytes += op.key.size() + op.value.size();
      again.request.ops.push_back(std::move(op));
      continue;
    }
    Forget(op.key);
    if (result.__isset.error) {
      RETURN_IF_ERROR(on_rejected_(batch.lines[i], result.error.message));
      continue;
    }
    ++stored_;
    stored_bytes_ += op.key.size() + op.value.size();
    last_progress_ = Clock::now();
    pause_ms_ = 0;
  }
  if (again.lines.empty()) return Status();
  // A key twice in one batch: its forgotten half must stay claimed while the other half is under way.
  for (const api::WriteOp& op : again.request.ops) keys_.insert(op.key);
  RETURN_IF_ERROR(WaitOrGiveUp(why, advised_ms));
  sent_.push_back(std::move(again));
  Status status = Send(sent_.back());
  return ConnectionLost(status) ? ResendAll(std::move(status)) : status;
}

}  // namespace pando::admin
