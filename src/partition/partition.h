// Partition: one replica of one hash partition: a copy-on-write tree, its file, and its sequence of the log.
//
// Threads: one reactor. Every method is called on it.
//
// Invariants
//   P1  A write is applied to the tree only after its record is durable, in LSN order, at most once.
//   P2  A batch is applied without suspending: no reader sees half of it between two suspensions. A long scan or count
//   of
//       the newest state may see one part of its range before a batch and the next part after it; a snapshot's does
//       not.
//   P3  Write returns OK only after P1's durability and application (QUORUM with one replica).
//   P4  checkpoint LSN <= applied LSN <= durable LSN <= last LSN.
//   P5  Versions rise strictly along the log.
//   P6  'Now' never goes back: an expired record does not come back. When the clock is set back, 'now' runs on from the
//       newest version's time, so that records go on expiring.
//   P7  A write is withdrawn or appended, never both: WriteControl decides once.
//   P8  A leaf that deletes have emptied is merged before the checkpoint after next, unless it fits with no neighbour.
//   P10  A write that one operation can refuse (all_or_nothing, kCheck) is judged as a whole before any of it is
//        applied; recovery comes to the same verdict.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/partition/types.h"

namespace pando {

class Partition {
 public:
  virtual ~Partition() = default;

  virtual uint32_t id() const = 0;
  virtual const Uuid& uuid() const = 0;

  // kCorruption names file and offset of a damaged page; kUnavailable once the engine failed or is closing. Reads in a
  // snapshot (0 = the newest state) take its time as 'now'; kSnapshotGone. With `room`, the value's bytes are taken
  // from it before they are copied; kOverloaded when it has none for them. It outlives the call.
  virtual Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot = 0, ValueRoom* room = nullptr) = 0;

  // Applies `ops` atomically and in order (each sees the ones before it). Keys and sizes must already be within the
  // limits, and kCheck operations come before all others (CHECKed). A kCheck that does not hold refuses the whole
  // write; with all_or_nothing any refused operation does. One result for each operation. kDiskFull, kOverloaded,
  // kUnavailable, kInvalidArgument (more operations than this pool can ever apply at once) and kDeadline (withdrawn, or
  // late: see WriteControl) mean that nothing happened; kAborted means that the outcome is unknown.
  virtual Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options = {}) = 0;

  virtual Task<Result<ScanPage>> Scan(ScanSpec spec) = 0;
  // Of [start, end), "" = open. In O(log n) and the dirty pages.
  virtual Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, SnapshotId snapshot = 0) = 0;
  // The keys of [start, end) that have so many records of it before them, expired ones counted; fewer when the range
  // has fewer. `ranks` ascend.
  virtual Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end,
                                                             std::vector<uint64_t> ranks, SnapshotId snapshot = 0) = 0;

  // The latest changes after version `after` of keys that begin with `prefix`: those that are still in memory
  // (ChangeTail). Without waiting: newest_change() tells when to ask again.
  virtual Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) = 0;
  // At or above the version of every change that was acknowledged before the call. From any thread.
  virtual Version newest_change() const = 0;

  // -- snapshots; CutSnapshot (snapshot_cut.h) does the first four to any number of partitions, at one moment
  // Waits for a running checkpoint; no other begins until Cut or AbandonCut.
  virtual Task<Status> PrepareCut() = 0;
  // No write is appended until Cut or AbandonCut. Returns the highest version given so far.
  virtual Task<Result<Version>> HoldWrites() = 0;
  // Cuts behind every write appended so far, and lets writes go on at once. Returns when the snapshot is readable; its
  // pages go to disk behind it. Ends the preparation also when it fails.
  virtual Task<Status> Cut(SnapshotInfo snapshot) = 0;
  virtual Task<Status> AbandonCut() = 0;
  // kSnapshotGone.
  virtual Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) = 0;
  virtual Task<Status> ReleaseSnapshot(SnapshotId id) = 0;

  // -- copies of a snapshot, page by page (kSnapshotGone). Both first wait until all of it is on disk.
  virtual Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) = 0;
  // The pages and overflow values that were made after generation `since` (0 = all), parents before children, from
  // `from` on. Read from the disk past the pool, and verified. Ends behind the one that reaches max_bytes.
  virtual Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) = 0;

  virtual Task<Status> Checkpoint() = 0;
  virtual PartitionStats stats() const = 0;
};

}  // namespace pando
