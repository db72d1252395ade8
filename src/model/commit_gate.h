// CommitGate: decides when the durable units of a partition are committed, and may be applied, and who
// may append to it.
//
// A partition asks its gate twice: once after recovery, how far the log that it found is committed
// and in which epoch it goes on, and then each time that more of its log has become durable. The
// gate answers with GatedPartition::Commit, at once or later. With one replica, what is durable is
// committed (CommitAtOnce). With several, the slaves must hold it too.
//
// A partition that has several replicas takes writes of its own while its gate leads. Otherwise it
// follows: the gate appends the units of the master to it, which continue the same history.
//
// Threads: that of the partition.
//
// Invariants
//   CG1  What a gate has committed stays committed: after a restart OnRecovered answers at least as
//        much, and no epoch begins below it.
//   CG2  Epochs rise. Only units that are not committed can be superseded.
//   CG3  A partition appends writes of its own only while its gate allows it (MayWrite, Leads). The
//        units that it appends and those that it is given form one history.
#pragma once

#include <memory>
#include <optional>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/model/types.h"
#include "src/wal/live_reader.h"
#include "src/wal/log.h"
#include "src/wal/write_unit.h"

namespace pando {

// What a gate may do with its partition.
class GatedPartition {
 public:
  // Commits every unit that ends at or below `up_to`, which is durable (CHECKed). A part of a unit is
  // not committed. The units may be applied within the call. An acknowledgement of an older epoch
  // may name an LSN that has been superseded since and is not durable again: the gate drops those.
  virtual void Commit(Lsn up_to) = 0;
  // Begins a higher epoch after `after`, which ends a unit and is not below the commit LSN. Units
  // after it are superseded: they are no longer part of the partition's history, whoever wrote them
  // is told that the outcome is unknown, and their LSNs are given again. The record that begins the
  // epoch is appended at once, so that the log says so too. Does nothing once the partition drains.
  virtual void BeginEpoch(Epoch epoch, Lsn after) = 0;
  // The end of the last unit at or below `lsn` among those that are not applied; the applied LSN if
  // there is none.
  virtual Lsn UnitEndBefore(Lsn lsn) const = 0;
  virtual Epoch epoch() const = 0;

  // -- the history of the log
  // The end of the last unit that is part of the history; all zeros if there never was one.
  virtual HistoryPoint end() const = 0;
  // The end of the last unit that is durable, with all units before it.
  virtual HistoryPoint durable() const = 0;
  virtual Lsn committed_lsn() const = 0;
  virtual Lsn applied_lsn() const = 0;
  // The same, with the epoch of the unit that ends there.
  virtual SessionPoint applied() const = 0;
  // Half of what the log may hold is used, by this partition or by others.
  virtual bool log_half_used() const = 0;
  // The end of the unit that ends at this LSN. Nothing if none ends there, or if it is not known any
  // more. Known are the units above the commit LSN, the last one at or below it, the checkpoint's own
  // point, and as many older ones as fit into a fixed memory. The point of LSN 0 is all zeros.
  virtual std::optional<HistoryPoint> PointAt(Lsn lsn) const = 0;
  // The end of the last unit whose epoch is at most `epoch`, as far as it is known; all zeros if there
  // is none.
  virtual HistoryPoint EpochEnd(Epoch epoch) const = 0;

  // -- what comes from a master
  // Waits for room in the log for units whose records have so many bytes in all. The caller keeps it
  // until they are appended. Errors are those of Log::WaitForSpace, and why the partition refuses.
  virtual Task<Result<LogSpace>> WaitForRoom(size_t unit_bytes, Nanos deadline_ns) = 0;
  // Whether there is room at this moment, so that they can be appended in this turn without a wait.
  virtual bool HasRoom(size_t unit_bytes) const = 0;
  // Appends a unit of another replica. It continues end() (CHECKed), and is applied once it is
  // committed. The records are copied. Never suspends. After an error nothing has changed.
  // kCorruption: no write produces such records, or its versions do not rise. kOverloaded: too many
  // units wait to be applied; go on once some of them have been. kInvalidArgument: the memory of this
  // node is too small for a write of this size. Otherwise, why the partition refuses.
  virtual Status AppendUnit(const WriteUnit& unit) = 0;
  // The units after `after`, which is a point of this history and not below the commit LSN, leave the
  // history: whoever wrote them is told that the outcome is unknown. No recovery finds them again.
  virtual void Supersede(const HistoryPoint& after) = 0;
  // So many bytes of its disk the partition can use for units beyond those that it has; UINT64_MAX as long as its
  // file can grow. What is held back for removes is not counted, so units that are on their way already still fit.
  virtual uint64_t Room() const = 0;
  // A reader for a follower that is at `after` (Log::OpenReader).
  virtual Result<std::unique_ptr<LiveReader>> OpenReader(const HistoryPoint& after) = 0;

 protected:
  ~GatedPartition() = default;
};

// What recovery has found.
struct RecoveredLog {
  Epoch epoch = 0;        // the highest one
  Lsn committed_lsn = 0;  // that the log knows of; more may have been committed
  Lsn durable_lsn = 0;    // the last one
};

class CommitGate {
 public:
  struct Start {
    Epoch epoch = 0;        // of the units that this process appends; not below the recovered one
    Lsn committed_lsn = 0;  // what may be applied before the partition serves
  };
  virtual ~CommitGate() = default;
  virtual Start OnRecovered(const RecoveredLog& log) = 0;
  // The partition serves now. It outlives the gate's calls to it; OnClosed is the last call of the gate.
  virtual void OnServing(GatedPartition* partition) = 0;
  // Everything up to this LSN is durable here. Not called for what is durable already when the
  // partition begins to serve. It may be lower than before once units were superseded.
  virtual void OnDurable(Lsn up_to) = 0;
  // The partition has drained, or has failed. What is not committed now is not committed by this
  // process.
  virtual void OnClosed() = 0;

  // Whether a client's write may be appended now, whose session has seen that epoch; asked right before. The refusal
  // is definite: nothing was changed (kNotMaster, kUnavailable).
  virtual Status MayWrite(WriteLevel, Epoch /*seen*/) { return {}; }
  // The same for a write of a split (WriteOptions::of_split).
  virtual Status MayFeed(WriteLevel level, Epoch seen) { return MayWrite(level, seen); }
  // MayWrite refuses writes for a moment, because the mastership changes in good order: they may be held.
  virtual bool HoldsWrites() const { return false; }
  // Waits while HoldsWrites, for a bounded time and at most until `deadline_ns`; then what MayWrite says.
  virtual Task<Status> UntilMayWrite(WriteLevel level, Epoch seen, Nanos) { co_return MayWrite(level, seen); }
  // Nothing is committed until something outside of the partition changes.
  virtual bool frozen() const { return false; }
  // Whether others have to acknowledge what is durable here. If not, all levels of writes are the same.
  virtual bool HasFollowers() const { return false; }
  // The write that ends there is applied: waits until all replicas have it. kAborted: not in time. The partition
  // may be gone when it returns. `deadline_ns` 0: a bounded time.
  virtual Task<Status> UntilOnAll(Lsn, Nanos) { co_return Status(); }
  // Whether the disks of the other replicas that a commit would wait for have room for a write that may use so many
  // bytes of each. Not asked about writes that only remove. kDiskFull is definite, as MayWrite's refusal is.
  virtual Status CheckDisks(uint64_t /*bytes*/) { return {}; }
  // Whether this replica may append writes of its own accord, as the removal of expired records: only a
  // master does.
  virtual bool Leads() const { return true; }
  // Whether it is to remove expired records: a half that is being built does not.
  virtual bool MaySweep() const { return Leads(); }
  // Whether a snapshot that was just taken may be shown to a client: it has everything that was acknowledged
  // before. The refusal is that of a read.
  virtual Status MayShowSnapshot() { return {}; }
  // Whether every replica that may have to read it understands the mark of a snapshot of the cluster.
  virtual Status MayMark() const { return {}; }
  // The partition has appended a write of its own. Called for each, so it must be cheap: whoever ships
  // units has a LiveReader, or does so once in the turn.
  virtual void OnAppended() {}
};

// The gate of a partition that has one replica.
class CommitAtOnce final : public CommitGate {
 public:
  Start OnRecovered(const RecoveredLog& log) override { return {log.epoch + 1, log.durable_lsn}; }
  void OnServing(GatedPartition* partition) override { partition_ = partition; }
  void OnDurable(Lsn up_to) override { partition_->Commit(up_to); }
  void OnClosed() override {}

 private:
  GatedPartition* partition_ = nullptr;
};

}  // namespace pando
