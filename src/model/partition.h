// Partition: one replica of one hash partition: a copy-on-write tree, its file, and its sequence of
// records in the log.
//
// Threads: one reactor. Call every method on it, except newest_change().
//
// Invariants
//   P1  A write is applied to the tree only after its record is committed, in LSN order, at most
//       once.
//   P2  A batch is applied without suspending, so no reader sees half of it between two
//       suspensions. A long scan or count of the newest state may see one part of its range before
//       a batch and the next part after it. A scan or count of a snapshot does not.
//   P3  Write returns OK only after its record is durable, committed (CommitGate) and applied.
//   P4  checkpoint LSN <= applied LSN <= committed LSN <= durable LSN <= last LSN.
//   P5  Versions strictly increase along the log.
//   P6  The partition's time never goes backwards, so an expired record does not reappear. If the
//       clock is set back, this time continues from the newest version's time, so that records keep
//       expiring.
//   P7  A write is withdrawn or appended, never both. WriteControl decides once.
//   P8  A leaf that deletes have emptied is merged before the checkpoint after next, unless it fits
//       with no neighbor.
//   P10  A write that a single operation can refuse (all_or_nothing, kCheck) is judged as a whole
//        before any of it is applied. Recovery reaches the same verdict.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/model/types.h"

namespace pando {

// What an aggregate shows: a snapshot, or the newest state (kNewest).
struct ReadPoint {
  ReadPoint(SnapshotId id) : snapshot(id) {}  // NOLINT(google-explicit-constructor): most reads name a snapshot only
  ReadPoint(SnapshotId id, int64_t time_ms) : snapshot(id), now_ms(time_ms) {}
  SnapshotId snapshot;
  int64_t now_ms = 0;  // kNewest only: which records have expired, as Unix time in ms; 0: the time of the partition
};

// The reads of ranges: of one partition, or of several together.
class RangeReads {
 public:
  virtual Task<Result<ScanPage>> Scan(ScanSpec spec) = 0;
  // Aggregates of [start, end); "" = unbounded. Takes O(log n) time plus the dirty pages.
  virtual Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) = 0;

 protected:
  ~RangeReads() = default;
};

// What clients need: to read, write, scan and watch records.
class PartitionRecords : public RangeReads {
 public:
  // kCorruption names the file and the offset of a damaged page. kUnavailable: the engine has
  // failed. kSnapshotGone: the snapshot no longer exists. Reads in a snapshot (kNewest = the newest
  // state) decide expiry by its time. With `room`, the value's size is reserved in it before the
  // value is copied, and kOverloaded is returned if it has no room. `room` outlives the call.
  virtual Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) = 0;

  // Applies `ops` atomically and in order: each one sees the ones before it. Sizes must already be
  // within the limits (limits.h), and kCheck operations must come before all others (both CHECKed).
  // A kCheck that does not hold refuses the whole write; with all_or_nothing any refused operation
  // does. Returns one result per operation.
  //
  // A kOnce comes first of all. If this partition has applied a write of its client with the same
  // sequence, nothing happens, and the results are those of that write, without the records that it
  // found. kAborted, if they were too many to be kept, if a later sequence has been applied, or if the
  // write was first sent too long ago (kMaxWriteAgeMs) for the partition to know. kInvalidArgument, if
  // the write with this sequence was another one.
  //
  // kDiskFull, kOverloaded, kUnavailable, kInvalidArgument (more operations than this pool can ever
  // apply at once, or a key too long for the store's pages), kCorruption and kIoError (a page that it needs cannot be
  // read), and kDeadline (withdrawn or late, see WriteControl) mean that nothing happened. kAborted means that the
  // outcome is unknown.
  virtual Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) = 0;

  // For each rank, the key of [start, end) that has that many records of the range before it,
  // expired ones included. Returns fewer keys if the range has fewer. `ranks` ascend.
  virtual Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end,
                                                             std::vector<uint64_t> ranks, SnapshotId snapshot) = 0;

  // The latest changes after version `after` to keys that begin with `prefix`, as far as they are
  // still in memory (ChangeTail). Does not wait: newest_change() tells when to ask again.
  virtual Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) = 0;
  // At or above the version of every change that was acknowledged before the call; UINT64_MAX once
  // the partition is quarantined or closed. Callable from any thread.
  virtual Version newest_change() const = 0;

 protected:
  ~PartitionRecords() = default;
};

// What holders of snapshots need, and those who copy one page by page.
class PartitionSnapshots {
 public:
  // -- CutSnapshot (snapshot_cut.h) calls these four on any number of partitions, at one moment.
  // Waits for a running checkpoint. No other one begins until Cut or AbandonCut.
  virtual Task<Status> PrepareCut() = 0;
  // No write is appended until Cut or AbandonCut. Returns the highest version assigned so far, or
  // the current time as a version if that is higher.
  virtual Task<Result<Version>> HoldWrites() = 0;
  // Cuts after every write appended so far, and lets writes continue at once. Returns when the
  // snapshot is readable; its pages go to disk afterwards. Ends the preparation even if it fails.
  virtual Task<Status> Cut(SnapshotInfo snapshot) = 0;
  virtual Task<Status> AbandonCut() = 0;
  // Both return kSnapshotGone if the snapshot no longer exists. Those of a whole cluster are renewed and released at
  // the master, for all replicas: others return kNotMaster.
  virtual Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) = 0;
  virtual Task<Status> ReleaseSnapshot(SnapshotId id) = 0;

  // -- snapshots of a whole cluster (src/partition/cluster_marks.h). Only a master takes part in them (kNotMaster).
  // The highest version given so far, or the current time as a version if that is higher. Waits for the end of a
  // running checkpoint first, and holds off the next one for a while, for the mark that is to come.
  virtual Task<Result<Version>> HighestVersion() = 0;
  // Before the partition gives a version above that of the mark, it ends the snapshot, which has all records up to it.
  // No write is held. Returns, once the mark is committed and the snapshot readable, where the snapshot ends; also if
  // it is asked again. kSnapshotGone: a version as high was given already, a checkpoint is under way, or the snapshot
  // could not be kept: take another ID and a higher version. kOverloaded: too many are open. kAborted: whether the mark
  // will be committed is unknown. kInvalidArgument: the version is too far ahead of the time here, or the ID was given
  // before.
  virtual Task<Result<SessionPoint>> CloseAt(CloseMark mark) = 0;

  // -- copies of a snapshot, page by page (kSnapshotGone). Both first wait until the whole snapshot
  // is on disk.
  virtual Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) = 0;
  // The pages and overflow values created after generation `since` (0 = all), parents before
  // children, starting at `from`. They are read from disk, bypassing the pool, and verified. The
  // batch ends after the image that reaches max_bytes.
  virtual Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) = 0;

 protected:
  ~PartitionSnapshots() = default;
};

// What operators need.
class PartitionOperations {
 public:
  // Returns when everything applied so far is in a durable checkpoint.
  virtual Task<Status> Checkpoint() = 0;
  virtual PartitionStats stats() const = 0;

 protected:
  ~PartitionOperations() = default;
};

class Partition : public PartitionRecords, public PartitionSnapshots, public PartitionOperations {
 public:
  virtual ~Partition() = default;
  virtual uint32_t id() const = 0;
  virtual const Uuid& uuid() const = 0;
};

}  // namespace pando
