// Engine: everything that one reactor owns of a store: the buffer pool, the log, and the partitions
// assigned to it. A node runs one engine per reactor. An embedded user runs one and calls it
// directly.
//
// Threads: one reactor. Use Reactor::CallRemote to send a request to a partition of another
// reactor.
//
// Invariants
//   E1  A partition serves requests only after recovery has replayed its log to the end.
//   E2  Everything the engine allocates counts towards EngineOptions::memory_bytes. The pool is
//       sized accordingly.
//   E3  After Close every task has ended and every acknowledged write is durable.
//   E4  When the engine fails, or a partition is quarantined, every wait for room in the log or in
//       the pool ends with an error, or goes on. Drain and Close therefore return.
//   E5  Damage of one partition's file, or of what the log holds of it, quarantines that partition and
//       stops nothing else. Only a failure of the shared log stops the engine.
//   E6  A partition is destroyed only after it has left everything that walks the partitions, and after
//       everybody who held it has let it go (PL1). So whoever suspends looks it up again, or holds it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/buffer_pool/page.h"
#include "src/engine/space_releaser.h"
#include "src/model/commit_gate.h"
#include "src/model/partition.h"
#include "src/model/point_write.h"
#include "src/model/types.h"
#include "src/partition/lane.h"
#include "src/partition/partition_clock.h"
#include "src/partition/quarantine.h"
#include "src/partition/store.h"
#include "src/verify/scrub.h"
#include "src/wal/log.h"

namespace pando {

class BufferPool;

inline constexpr uint64_t kSparePartitions = 256;

struct EngineOptions {
  StoreInfo store;
  uint32_t reactor_index = 0;  // index of this reactor in the store
  // Of all engines of the store. Null: this is the only one.
  std::shared_ptr<StoreClock> clock;
  // Pool frames, their descriptors, write buffers, and log buffers.
  uint64_t memory_bytes = 256u << 20;
  // For so many partitions more than the store has now, memory is kept, so that they can be opened: as far as
  // there can be as many, and as they take a small part of the memory only. Those that the store has come
  // first, so a store that was served once with this much memory is always served again.
  uint64_t spare_partitions = kSparePartitions;
  // Of pages written from now on; stored pages are readable either way.
  Compression compression = Compression::kLz4;
  uint64_t log_budget_bytes = 512u << 20;
  uint64_t log_budget_records = 4'000'000;
  uint64_t log_retained_bytes = 0;  // LogOptions::retained_bytes
  // So much of the released log is kept for each follower that is fed from it (Log::OpenReader).
  uint64_t reader_retained_bytes = 64u << 20;
  uint64_t log_segment_bytes = 8u << 20;
  // So much is written anew, at most, to put leaves together that scans found scattered. 0: nothing.
  uint64_t gather_bytes_per_s = 8u << 20;
  // The most replaced pages and values that snapshots may retain in this engine's partitions.
  // Beyond that, the oldest snapshot is released early. Memory limits it too, because each of them
  // is in a list in memory and in the dead list of every checkpoint.
  uint64_t max_held_extents = 4'000'000;
  uint64_t max_lanes = kMaxLanes;  // of each partition (partition/lane.h)
  // Identity of the lock file that LockStore took. The engine stops if the store's directory has
  // another lock file or none, because another process may have opened the store. Not set: no
  // check.
  std::optional<FileIdentity> lock;
  // A dirty partition is checkpointed at least this often.
  Nanos checkpoint_interval_ns = 60 * kSecond;
  ScrubOptions scrub;           // of background passes; by default only requested passes run
  SpaceReleaseOptions release;  // of free space to the file system; by default none
  // Makes the gate that decides when the writes of a partition are committed. Not set: each has one
  // replica, and what is durable is committed.
  std::function<std::unique_ptr<CommitGate>(uint32_t partition)> make_gate;
  // Called once when the engine fails (a write or sync error of the log). The engine then
  // acknowledges no more writes.
  std::function<void(const Status&)> on_failure;
  // Called for each partition that is quarantined, also while the engine opens, and again when the log
  // has dropped its units.
  std::function<void(const QuarantinedPartition&)> on_quarantine;
  // Called once when such a partition is dropped.
  std::function<void(uint32_t partition)> on_quarantine_end;
};

struct EngineStats {
  uint64_t pool_pages = 0, pool_free_pages = 0, pool_dirty_pages = 0, pool_pinned_pages = 0;
  uint64_t pool_hits_total = 0, pool_misses_total = 0, pool_evictions_total = 0, pool_writes_total = 0;
  uint64_t ahead_pages_total = 0, ahead_reads_total = 0;  // pages read ahead of scans, and the reads that fetched them

  uint64_t pool_bytes = 0;
  LogStats log;
  uint64_t checkpoints_total = 0, quarantined_partitions = 0;
  uint64_t partitions = 0, max_partitions = 0;  // open, and for how many there is memory
  uint64_t busy_partitions = 0;                 // of which background work may be due (work_list.h)
  uint64_t write_waits_total = 0, disk_full_total = 0;
  uint64_t damaged_reads_total = 0;
  SpaceReleaseStats release;
};

class Engine {
 public:
  // Opens the log and the partitions and recovers them. On return every partition serves requests,
  // except those that are quarantined, which answer each with the reason.
  static Task<Result<std::unique_ptr<Engine>>> Open(Reactor& reactor, EngineOptions options);
  ~Engine();

  // The EngineOptions::memory_bytes that always suffices for so many partitions on one reactor, of a store that
  // is divided into so many ranges. `replicated`: EngineOptions::make_gate is set.
  static uint64_t MinMemoryBytes(uint32_t page_bytes, uint64_t partitions, uint64_t ranges, bool replicated = false);

  Reactor& reactor();
  const std::shared_ptr<StoreClock>& clock() const;
  // The partition with this ID, or null: it belongs to another reactor, or the store does not hold it.
  // Both are valid until the caller suspends (E6).
  Partition* partition(uint32_t id);
  std::span<Partition* const> partitions();

  // -- partitions that come and go while the engine serves (src/partition/store_roster.h). The caller
  // makes one call at a time for a partition, and none while it calls Close.
  // Whether OpenPartition can open a partition with this ID, as far as that is known before there is one.
  // kOverloaded: the engine keeps no memory for another one. kAlreadyExists: it is open.
  Status CheckMayOpen(uint32_t id) const;
  // Opens a partition that store.meta has begun to name. On return it serves requests. Errors are those of
  // CheckMayOpen, and what is wrong with its file.
  Task<Result<Partition*>> OpenPartition(PartitionInfo info);
  // Ends the service of a partition that store.meta does not name any more: every request that comes, or
  // that waits, gets kUnavailable. Who has prepared a cut must still end it. Returns when nothing of the
  // partition is left in memory or open. `on_gone` is called before the partition is closed: until then it
  // answers who still finds it. An error means that the engine has failed; the partition then stays open until
  // the engine is closed.
  Task<Status> DropPartition(uint32_t id, std::function<void()> on_gone = nullptr);
  // Ends the service of a partition until the next start, because it is not certain that store.meta names it.
  void Quarantine(uint32_t id, const Status& why);
  // Whatever the log holds now lies before this position.
  LogPosition log_end() const;
  // The dropped partitions of which the log may still hold something.
  std::vector<Uuid> dropped_in_log() const;
  // The counters of the partitions that were dropped, in all.
  const PartitionStats& dropped_counters() const;

  // Answers the reads that memory can answer. Descends for all reads together and prefetches, so
  // that their cache misses overlap. Sets every outcome. For kMiss, co_await
  // read.partition->Get(key). A partition that is null is a miss too.
  void BatchGet(std::span<PointRead> reads);

  // Begins the writes that nothing but the log keeps waiting. Descends for all of them together. Sets
  // PointWrite::begun of every one. A write without a partition is not begun.
  void BatchWrite(std::span<PointWrite* const> writes);

  // Checkpoints all partitions. Returns when their superblocks are durable. An error if one of them is
  // quarantined; the others have been checkpointed.
  Task<Status> CheckpointAll();
  EngineStats stats() const;
  std::vector<QuarantinedPartition> quarantined(size_t most = SIZE_MAX) const;
  std::optional<QuarantinedPartition> quarantine(uint32_t id) const;
  // Changes after each change that Partition::newest_change of one of the partitions shows. Any
  // thread may read it.
  const std::atomic<uint64_t>& change_count() const;
  // Partition::newest_change of the partition with this ID, whether it is there or not; UINT64_MAX while
  // it is not. Any thread may read it, as long as the engine lives.
  const std::atomic<Version>& newest_change(uint32_t id) const;
  // Partitions with IDs below `ids` may come from now on. At first: those below StoreInfo::IdLimit.
  void AddPlaces(uint32_t ids);
  // For tests: CHECKs what must hold of every part between two turns.
  void CheckInvariants() const;
  // Verifies the data on disk while the engine serves requests.
  Scrubber& scrubber();
  // Why the engine stopped, or OK.
  const Status& failure() const;
  // The server is shutting down. Writes that wait for a commit are answered: whether they take effect
  // is unknown. So no request waits any more for what other nodes do. Close does this first.
  void GiveUpUncommitted();
  // Waits for running requests and writes, then closes the log with its closing position. With
  // `checkpoint`, checkpoints first so that the next open replays nothing.
  Task<Status> Close(bool checkpoint);

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pando
