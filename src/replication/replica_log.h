// ReplicaLog: what the replication core needs of its partition's log. Changes take effect in memory at
// once and become durable later; ReplicaCore::OnDurable then tells the core.
//
// How it maps onto a partition: most calls are those of GatedPartition with the same name
// (src/model/commit_gate.h). The others:
//   applied        GatedPartition::applied_lsn
//   PointAt        what the partition remembers (src/partition/unit_history.h). That is enough: no two
//                  histories of one partition part below a commit LSN
//   Append         GatedPartition::AppendUnit; the Applier takes the unit once it is committed
//   BeginEpoch     GatedPartition::BeginEpoch(epoch, end().lsn)
//   Commit         GatedPartition::Commit, which states it in the log too (Log::SetCommit)
// A supersession is stated in the log at once (Log::Cut), so a tail of a higher epoch may yield to units
// of a lower one that the master of a still higher one kept.
//
// Threads: that of the partition.
#pragma once

#include <optional>

#include "src/wal/write_unit.h"

namespace pando::replication {

class ReplicaLog {
 public:
  // The end of the last unit; all zeros if there is none, which is the point before the first unit.
  virtual HistoryPoint end() const = 0;
  // The end of the last unit that is durable, with all units before it.
  virtual HistoryPoint durable() const = 0;
  // Everything up to this LSN is applied and can be read. It ends a unit, and is not above the commit LSN.
  virtual Lsn applied() const = 0;
  // Of the unit that ends there; 0 if nothing is applied.
  virtual Epoch applied_epoch() const {
    const std::optional<HistoryPoint> at = PointAt(applied());
    return at ? at->epoch : 0;
  }
  // The end of the unit that ends at this LSN. Nothing if none ends there, or none is known any more.
  virtual std::optional<HistoryPoint> PointAt(Lsn lsn) const = 0;
  // The end of the last unit whose epoch is at most `epoch`; all zeros if there is none.
  virtual HistoryPoint EpochEnd(Epoch epoch) const = 0;

  // Appends a unit that continues end(). The records are valid only during the call. False: it could not be
  // taken, and nothing was changed; the master will offer it again.
  virtual bool Append(const WriteUnit& unit) = 0;
  // Removes the units after `after`, which is a point of this log and not below the commit LSN. They
  // must not be found again by a recovery that finds something appended later.
  virtual void Supersede(const HistoryPoint& after) = 0;
  // Appends the record that begins a mastership.
  virtual void BeginEpoch(Epoch epoch) = 0;
  // Everything up to this unit end is committed. It is durable.
  virtual void Commit(Lsn up_to) = 0;

 protected:
  ~ReplicaLog() = default;
};

}  // namespace pando::replication
