#include "tools/kvadmin/batch_writer.h"

#include <algorithm>
#include <optional>

#include "gen-cpp/pando_constants.h"
#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

constexpr int64_t kFirstPauseMs = 20;
constexpr int64_t kMaxPauseMs = 500;

bool ConnectionLost(const Status& status) {
  return status.code() == Code::kUnavailable || status.code() == Code::kDeadline;
}

// Whether the error means that this record or batch can never be stored. Any other error is either
// temporary or concerns every record.
bool AboutTheRecord(const api::KvError& error) {
  const auto& c = api::g_pando_constants;
  return error.code == c.BAD_REQUEST || error.code == c.TOO_LARGE || error.code == c.CORRUPT;
}

// Whether a repetition may succeed. Repeating a put is safe even if it is unknown whether the first
// attempt took effect.
bool Passes(const api::KvError& error) {
  const auto& c = api::g_pando_constants;
  return error.retryable || error.code == c.DEADLINE || error.code == c.OVERLOADED || error.code == c.UNAVAILABLE;
}

bool WasExpired(const api::WriteOp& op, const api::WriteResult& result) {
  const auto written_ms = static_cast<int64_t>(static_cast<uint64_t>(result.version) >> 16);
  return op.ttl_mode == api::g_pando_constants.TTL_SET_ABSOLUTE && op.expires_at_ms <= written_ms;
}

size_t BytesOf(const api::WriteOp& op) { return op.key.size() + op.value.size(); }

}  // namespace

BatchWriter::BatchWriter(Client& client, BatchWriterOptions options, OnRejected on_rejected)
    : client_(client), options_(options), on_rejected_(std::move(on_rejected)) {}

Status BatchWriter::Add(api::WriteOp op, uint64_t line) {
  const size_t bytes = BytesOf(op);
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

void BatchWriter::Collect() {
  over_ = true;
  while (connected_ && !sent_.empty()) {
    const size_t expected = sent_.size();
    // Why the writer failed is known; a further failure leaves the batch unsettled.
    const Status status = ReceiveOne();
    connected_ &= status.ok() || sent_.size() < expected;
  }
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
  Status status =
      client_.Once([&](api::KvClient& kv, const api::Context& context) { kv.send_writeBatch(context, batch.request); });
  connected_ &= status.ok();
  return status;
}

// The connection is lost, and with it every outstanding answer. A put may be applied twice, so this
// sends all batches of the window again.
Status BatchWriter::ResendAll(Status why) {
  connected_ = false;
  if (over_) return why;
  // The node may be down: another one knows who is master then.
  if (why.code() != Code::kNotMaster) client_.Redirect("");
  for (;;) {
    RETURN_IF_ERROR(WaitOrGiveUp(why, 0));
    Status status;
    for (const Batch& batch : sent_) {
      status = Send(batch);
      if (!status.ok()) break;
    }
    connected_ = status.ok();
    if (!ConnectionLost(status)) return status;
    client_.Redirect("");
    why = std::move(status);
  }
}

Status BatchWriter::WaitOrGiveUp(const Status& why, int64_t advised_ms) {
  auto idle = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - last_progress_).count();
  if (idle >= client_.target().timeout_ms) {
    return Error(why.code(), "nothing was stored for {} ms: {}", idle, why.message());
  }
  // After a signal the writer still collects outstanding answers, but no longer retries.
  if (tools::Interrupts::Received() != 0) return why;
  pause_ms_ = std::clamp(pause_ms_ * 2, kFirstPauseMs, kMaxPauseMs);
  tools::Interrupts::Sleep(std::max(pause_ms_, advised_ms));
  return Status();
}

Status BatchWriter::ReceiveOldest() {
  RETURN_IF_ERROR(ReceiveOne());
  if (refused_.empty()) return Status();
  // Isolate sends a request and reads its answer. The answers of one connection arrive in request
  // order, so all outstanding answers must be read first.
  while (!sent_.empty()) RETURN_IF_ERROR(ReceiveOne());
  while (!refused_.empty()) {
    Batch batch = std::move(refused_.back());
    refused_.pop_back();
    RETURN_IF_ERROR(Isolate(std::move(batch)));
  }
  return Status();
}

Status BatchWriter::ReceiveOne() {
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
  Batch batch = std::move(sent_.front());
  sent_.pop_front();
  if (!refused) return Settle(std::move(batch), reply);
  if (!AboutTheRecord(*refused) && (over_ || !Passes(*refused))) {
    unsettled_.push_back(std::move(batch));
    return FromKvError(*refused);
  }
  if (!AboutTheRecord(*refused)) return SendAgain(std::move(batch), FromKvError(*refused), refused->retry_after_ms);
  refused_.push_back(std::move(batch));
  return Status();
}

// Receives every outstanding answer, and isolates what is refused meanwhile.
Status BatchWriter::SettleSent() {
  const size_t others = refused_.size();
  while (!sent_.empty()) RETURN_IF_ERROR(ReceiveOne());
  while (refused_.size() > others) {
    Batch again = std::move(refused_.back());
    refused_.pop_back();
    RETURN_IF_ERROR(Isolate(std::move(again)));
  }
  return Status();
}

Status BatchWriter::SendAlone(Batch batch) {
  sent_.push_back(std::move(batch));
  Status status = Send(sent_.back());
  if (ConnectionLost(status)) status = ResendAll(std::move(status));
  return status.ok() ? SettleSent() : status;
}

// Settles each record of the batch. No request may be in flight, and none is in flight afterwards.
Status BatchWriter::Isolate(Batch batch) {
  CHECK(sent_.empty());
  if (batch.lines.size() > 1) {
    Batch second;
    const size_t half = batch.lines.size() / 2;
    for (size_t i = half; i < batch.lines.size(); ++i) {
      second.lines.push_back(batch.lines[i]);
      second.bytes += BytesOf(batch.request.ops[i]);
      second.request.ops.push_back(std::move(batch.request.ops[i]));
    }
    batch.lines.resize(half);
    batch.request.ops.resize(half);
    batch.bytes -= second.bytes;
    // One half after the other, because both may hold the same key.
    Status status = SendAlone(std::move(batch));
    if (status.ok()) return SendAlone(std::move(second));
    unsettled_.push_back(std::move(second));
    return status;
  }
  api::WriteBatchReply reply;
  std::string why;
  Status status = client_.Kv(Client::Repeat::kSafeWrite, [&](api::KvIf& kv, const api::Context& context) {
    try {
      kv.writeBatch(reply, context, batch.request);
    } catch (const api::KvError& error) {
      if (!AboutTheRecord(error)) throw;
      why = error.message;
    }
  });
  if (!status.ok()) {
    refused_.push_back(std::move(batch));  // unsettled
    return status;
  }
  if (why.empty()) {
    RETURN_IF_ERROR(Settle(std::move(batch), reply));
    return SettleSent();  // a record with a temporary error was sent again
  }
  Forget(batch.request.ops[0].key);
  on_rejected_(batch.lines[0], why);
  return Status();
}

Status BatchWriter::SendAgain(Batch batch, Status why, int64_t advised_ms) {
  if (Status waited = WaitOrGiveUp(why, advised_ms); !waited.ok()) {
    unsettled_.push_back(std::move(batch));
    return waited;
  }
  if (why.code() == Code::kNotMaster) {
    // The others that were sent there will be refused too, so all go to the master.
    sent_.push_back(std::move(batch));
    client_.Redirect(why.master());
    return ResendAll(std::move(why));
  }
  // It goes to the end of the window: answers arrive in request order, and those of the batches
  // sent after it are still outstanding.
  sent_.push_back(std::move(batch));
  Status status = Send(sent_.back());
  return ConnectionLost(status) ? ResendAll(std::move(status)) : status;
}

Status BatchWriter::Settle(Batch batch, const api::WriteBatchReply& reply) {
  if (reply.results.size() != batch.lines.size()) {
    return Error(Code::kCorruption, "the server answered a batch of {} with {} results", batch.lines.size(),
                 reply.results.size());
  }
  Batch again;
  int64_t advised_ms = 0;
  Status why, fatal;
  for (size_t i = 0; i < batch.lines.size(); ++i) {
    const api::WriteResult& result = reply.results[i];
    api::WriteOp& op = batch.request.ops[i];
    if (result.__isset.error && !AboutTheRecord(result.error)) {
      if (!Passes(result.error) && fatal.ok()) fatal = FromKvError(result.error);
      why = FromKvError(result.error);
      advised_ms = std::max<int64_t>(advised_ms, result.error.retry_after_ms);
      again.lines.push_back(batch.lines[i]);
      again.bytes += BytesOf(op);
      again.request.ops.push_back(std::move(op));
      continue;
    }
    Forget(op.key);
    if (result.__isset.error) {
      on_rejected_(batch.lines[i], result.error.message);
      continue;
    }
    if (WasExpired(op, result)) {
      ++expired_;
    } else {
      ++stored_;
      stored_bytes_ += BytesOf(op);
    }
    last_progress_ = Clock::now();
    pause_ms_ = 0;
  }
  if (again.lines.empty()) return Status();
  // A key may be in a batch twice. If one of its ops was settled and the other is repeated, the key
  // must stay in keys_ (W1).
  for (const api::WriteOp& op : again.request.ops) keys_.insert(op.key);
  if (!fatal.ok() || over_) {
    unsettled_.push_back(std::move(again));
    return fatal;
  }
  return SendAgain(std::move(again), std::move(why), advised_ms);
}

uint64_t BatchWriter::first_unsettled_line() const {
  uint64_t first = 0;
  auto look = [&first](const Batch& batch) {
    for (uint64_t line : batch.lines) first = first == 0 ? line : std::min(first, line);
  };
  look(open_);
  for (const Batch& batch : sent_) look(batch);
  for (const Batch& batch : refused_) look(batch);
  for (const Batch& batch : unsettled_) look(batch);
  return first;
}

}  // namespace pando::admin
