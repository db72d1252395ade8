// CommitGate: decides when the durable units of a partition are committed, and may be applied.
//
// A partition asks its gate twice: once after recovery, how far the log that it found is committed
// and in which epoch it goes on, and then each time that more of its log has become durable. The
// gate answers with GatedPartition::Commit, at once or later. With one replica, what is durable is
// committed (CommitAtOnce). With several, the slaves must hold it too.
//
// Threads: that of the partition.
//
// Invariants
//   CG1  What a gate has committed stays committed: after a restart OnRecovered answers at least as
//        much, and no epoch begins below it.
//   CG2  Epochs rise. Only units that are not committed can be superseded.
#pragma once

#include "src/base/ids.h"

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
