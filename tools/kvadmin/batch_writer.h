// BatchWriter: puts records through a window of pipelined writeBatch frames on one connection.
//
// Invariants
//   W1  A key is never in two batches in progress: requests of one connection run concurrently, so the later record
//       of a key would race with the earlier one. The later one waits.
//   W2  A batch leaves the window only when every record of it was stored or rejected for good. What says nothing about
//       the record (a passed deadline, a busy server, a broken connection) is repeated, as a put may be, until nothing
//       was stored for the whole budget.
//   W3  A record is rejected only by an answer that is about it alone: a batch that is refused as a whole is cut in
//       halves until the record that is at fault stands alone, and the others are stored.
//
// Threads: one.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/base/result.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

struct BatchWriterOptions {
  size_t batch_ops = 256;
  size_t batch_bytes = 256u << 10;
  size_t window = 8;  // batches in progress
};

class BatchWriter {
 public:
  // Told about each record that the server refused for good.
  using OnRejected = std::function<void(uint64_t line, const std::string& why)>;

  BatchWriter(Client& client, BatchWriterOptions options, OnRejected on_rejected);

  // Takes the op; sends and waits when batch and window are full.
  Status Add(api::WriteOp op, uint64_t line);
  // Sends what is gathered and waits for every answer.
  Status Finish();

  uint64_t stored() const { return stored_; }
  // Those whose absolute expiry had passed, by the server's clock, when they were written: no read finds them.
  uint64_t expired() const { return expired_; }
  uint64_t stored_bytes() const { return stored_bytes_; }
  // The first line whose record was taken and neither stored nor rejected; 0 = none.
  uint64_t first_unsettled_line() const;

 private:
  struct Batch {
    api::WriteBatchRequest request;
    std::vector<uint64_t> lines;
    size_t bytes = 0;
  };
  using Clock = std::chrono::steady_clock;

  Status SendOpen();
  Status Send(const Batch& batch);
  Status ResendAll(Status why);
  Status ReceiveOldest();
  Status ReceiveOne();
  Status Settle(Batch batch, const api::WriteBatchReply& reply);
  Status SendAgain(Batch batch, Status why, int64_t advised_ms);
  Status Isolate(Batch batch);
  void Forget(const std::string& key) { keys_.erase(key); }
  Status WaitOrGiveUp(const Status& why, int64_t advised_ms);

  Client& client_;
  const BatchWriterOptions options_;
  OnRejected on_rejected_;
  Batch open_;
  std::deque<Batch> sent_;
  std::vector<Batch> refused_;            // as a whole; each is isolated when no other is under way
  std::unordered_set<std::string> keys_;  // of all batches in sent_
  std::unordered_set<std::string> open_keys_;
  uint64_t stored_ = 0, stored_bytes_ = 0, expired_ = 0;
  Clock::time_point last_progress_ = Clock::now();
  int64_t pause_ms_ = 0;
};

}  // namespace pando::admin
