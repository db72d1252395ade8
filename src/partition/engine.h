// Engine: everything one reactor owns of a store: the buffer pool, the log, and the partitions assigned to it.
// A node runs one per reactor; an embedded user runs one and calls it directly.
//
// Threads: one reactor. A request for a partition of another reactor is carried there with Reactor::CallRemote.
//
// Invariants
//   E1  A partition serves requests only after Recover replayed its log to the end.
//   E2  Everything the engine allocates counts towards EngineOptions::memory_bytes; the pool is sized so that it does.
//   E3  After Close every task has ended and every acknowledged write is durable.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/buffer_pool/page.h"
#include "src/partition/partition.h"
#include "src/partition/scrub.h"
#include "src/partition/space_releaser.h"
#include "src/partition/store.h"
#include "src/partition/types.h"
#include "src/wal/log.h"

namespace pando {

class BufferPool;

struct EngineOptions {
  StoreInfo store;
  uint32_t reactor_index = 0;                   // which of the store's reactors this is
  uint64_t memory_bytes = 256u << 20;           // pool frames + their descriptors + write buffers + log buffers
  Compression compression = Compression::kLz4;  // of pages written from now on; what is stored is read either way
  uint64_t log_budget_bytes = 512u << 20;
  uint64_t log_budget_records = 4'000'000;
  uint64_t log_segment_bytes = 8u << 20;
  // Replaced pages and values that snapshots may hold in one partition: they are listed at every checkpoint. When there
  // are more, the oldest snapshot is released before its time.
  static constexpr uint64_t kMaxHeldExtents = 4'000'000;
  uint64_t max_held_extents = kMaxHeldExtents;
  // Of the lock file that LockStore took. The engine stops when the store's directory has another one, or none: the
  // store may be another process's then. None: not looked at.
  std::optional<FileIdentity> lock;
  // Opens also when the log, or its end, is missing: the writes in it are lost. For an operator who decided so.
  bool accept_lost_log = false;
  Nanos checkpoint_interval_ns = 60 * kSecond;  // a dirty partition is checkpointed at least this often
  ScrubOptions scrub;                           // of the background; by default only what is asked for
  SpaceReleaseOptions release;                  // of space that is not needed any more; by default none
  // Called once when the disk failed (a write or sync error, or damage found); the engine stops acknowledging.
  std::function<void(const Status&)> on_failure;
};

struct EngineStats {
  uint64_t pool_pages = 0, pool_free_pages = 0, pool_dirty_pages = 0, pool_pinned_pages = 0;
  uint64_t pool_hits_total = 0, pool_misses_total = 0, pool_evictions_total = 0, pool_writes_total = 0;
  uint64_t pool_bytes = 0;
  LogStats log;
  uint64_t checkpoints_total = 0;
  uint64_t write_waits_total = 0;
  SpaceReleaseStats release;
};

class Engine {
 public:
  // Opens log and partitions and recovers them. On return every partition serves.
  static Task<Result<std::unique_ptr<Engine>>> Open(Reactor& reactor, EngineOptions options);
  ~Engine();

  Reactor& reactor();
  // The partition with this id, or null when it belongs to another reactor.
  Partition* partition(uint32_t id);
  std::span<Partition* const> partitions();

  // Answers what memory can answer: descends for all reads together, prefetching, so that their cache misses overlap.
  // Sets every outcome; kMiss ones need co_await read.partition->Get(key).
  void BatchGet(std::span<PointRead> reads);

  // Checkpoints all partitions; returns when their superblocks are durable.
  Task<Status> CheckpointAll();
  EngineStats stats() const;
  // Verifies what is on disk while the engine serves.
  Scrubber& scrubber();
  // Why the engine stopped, or OK.
  const Status& failure() const;
  // Waits for running requests and writes, closes the log with its closing position; with `checkpoint`, checkpoints
  // first so that the next open replays nothing.
  Task<Status> Close(bool checkpoint);

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pando
