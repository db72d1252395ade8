// BatchWriter: stores records with pipelined writeBatch requests on one connection. At most
// `window` batches are in progress.
//
// Threads: one.
//
// Invariants
//   W1  A key is never in two batches in progress. The server runs the requests of one connection
//       concurrently, so the later record of a key would race with the earlier one. The later
//       record waits.
//   W2  A batch leaves the window only when each of its records was stored or finally rejected.
//       After an error that is not about a record (a missed deadline, a busy server, a broken
//       connection) the writer repeats the puts, which is safe. It gives up when nothing was stored
//       for the whole budget.
//   W3  A record is rejected only by an answer that is about this record alone. When the server
//       refuses a whole batch, the writer halves the batch until the faulty record is alone, and
//       stores the others.
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
  // Called for each record that the server finally rejected.
  using OnRejected = std::function<void(uint64_t line, const std::string& why)>;

  BatchWriter(Client& client, BatchWriterOptions options, OnRejected on_rejected);

  // Takes the op. Sends a batch when it is full, and waits for answers when the window is full.
  Status Add(api::WriteOp op, uint64_t line);
  // Sends the last batch and waits for every answer.
  Status Finish();

  // After Add or Finish has failed: receives the answers that are still on their way, so that stored()
  // counts what they stored. Sends nothing.
  void Collect();

  uint64_t stored() const { return stored_; }
  // Records whose absolute expiry had passed, by the server's clock, when they were written. No
  // read finds them. stored() does not include them.
  uint64_t expired() const { return expired_; }
  uint64_t stored_bytes() const { return stored_bytes_; }
  // The first line whose record was added but neither stored nor rejected; 0 = none.
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
  Status SendAlone(Batch batch);
  Status SettleSent();
  void Forget(const std::string& key) { keys_.erase(key); }
  Status WaitOrGiveUp(const Status& why, int64_t advised_ms);

  Client& client_;
  const BatchWriterOptions options_;
  OnRejected on_rejected_;
  Batch open_;
  std::deque<Batch> sent_;
  std::vector<Batch> refused_;            // refused as a whole, to be isolated
  std::vector<Batch> unsettled_;          // will not be stored, because the writer has failed
  bool connected_ = true;                 // the answers of sent_ may come
  bool over_ = false;                     // nothing is sent any more
  std::unordered_set<std::string> keys_;  // of all batches in sent_ and refused_
  std::unordered_set<std::string> open_keys_;
  uint64_t stored_ = 0, stored_bytes_ = 0, expired_ = 0;
  Clock::time_point last_progress_ = Clock::now();
  int64_t pause_ms_ = 0;
};

}  // namespace pando::admin
