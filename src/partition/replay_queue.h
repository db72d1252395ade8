// ReplayQueue: a delay line between the log's reader and the replicas during recovery, so that the pages of many
// batches are read at once before the first of them is applied. One log batch holds only a few records of one
// partition; read batch by batch, recovery would wait for the disk's latency over and over.
//
// Threads: one reactor, in recovery only.
//
// Invariants
//   Y1  Batches are applied in the order of Push, each whole.
//   Y2  No more than max_records records (or one batch) and kMaxQueuedBytes wait here; no more than kMaxReads reads
//   run.
#pragma once

#include <deque>
#include <string>

#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/partition/replica.h"
#include "src/wal/log.h"

namespace pando {

class ReplayQueue {
 public:
  ReplayQueue(Reactor& reactor, size_t max_records) : max_records_(max_records), read_done_(reactor) {}

  // Copies the batch; applies the oldest ones when too many wait.
  Task<Status> Push(Replica* replica, const RecoveredBatch& batch);
  // Applies all that waits when `status` is OK, else forgets it; returns the first error. Must be awaited before the
  // queue is destroyed.
  Task<Status> Finish(Status status);

 private:
  struct Waiting {
    Replica* replica = nullptr;
    RecoveredBatch batch;
    std::string records, file;  // what `batch` views
  };
  Task<void> ReadLeaf(Replica* replica, std::string key);
  Task<void> StartReads(Waiting* waiting);
  Task<Status> ApplyOldest();

  static constexpr size_t kMaxReads = 128;
  static constexpr size_t kMaxQueuedBytes = 4u << 20;

  const size_t max_records_;
  std::deque<Waiting> waiting_;
  size_t waiting_records_ = 0, waiting_bytes_ = 0;
  TaskGroup reads_;
  WaitQueue read_done_;
};

}  // namespace pando
