// Recovery: replays a partition's part of the log after a start.
//
// It cuts what the log holds into units and feeds them to the Applier. What differs from service is
// how a unit is made ready: its pages are rarely in memory, the pool may be smaller than the one
// for which the unit was admitted, its large values have no place on the disk yet, and the disk may
// be short.
//
// Threads: one reactor.
//
// Invariants: E1 of engine.h, P1, P5 and P10 of partition.h.
#pragma once

#include <vector>

#include "src/partition/applier.h"
#include "src/partition/block_admission.h"

namespace pando {

class Recovery {
 public:
  Recovery(PartitionState& state, Checkpointer& checkpointer, BlockAdmission& admission, Applier& applier)
      : state_(state), checkpointer_(checkpointer), admission_(admission), applier_(applier) {}

  // Applies the part of `found` that the checkpoint does not contain. Gaps and epochs that go
  // backwards are kCorruption.
  Task<Status> Replay(RecoveredUnits found);
  // What the log says must exist of this partition. kCorruption: its file is an older copy, whose
  // later records have been released (WU3).
  Status Require(const StreamMark& mark);
  // Called after the last unit. kCorruption: what Require was told last is not there (WU3).
  Status CheckReplayed() const;

 private:
  class UnitReader;
  Status CheckContinues(const RecoveredUnits& found, const UnitReader& units) const;
  Task<Status> NextGroup(UnitReader* units, std::vector<ApplyUnit>* group);
  Task<void> MakeRoom(const std::vector<ApplyUnit>* group, AdmittedBlocks* admitted);
  Task<Status> ReplayUnit(ApplyUnit* unit);
  Task<Status> PlaceValues(ApplyUnit* unit);
  Task<Result<Extent>> PlaceValue(size_t value_bytes);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  BlockAdmission& admission_;
  Applier& applier_;
  Lsn required_lsn_ = 0;  // that the log says was durable
};

}  // namespace pando
