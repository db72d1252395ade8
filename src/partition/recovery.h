// Recovery: replays a partition's part of the log after a start.
//
// Threads: one reactor.
//
// Invariants: E1 of engine.h and P10 of partition.h.
#pragma once

#include <span>
#include <string>
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
  struct ReplayedOp;
  Task<Status> ReplayBatch(std::span<const LogRecord> records, bool begins_write);
  Task<Result<bool>> IsRefused(std::span<const LogRecord> records);
  Task<Status> Fetch(ApplyUnit* unit);
  Task<Status> ReplayRecord(LogRecord record);
  Task<void> MakeRoomToReplay(std::span<const LogRecord> records, AdmittedBlocks* admitted);
  void SetReplayed(Lsn lsn);
  Task<void> Prefetch(std::string key);
  Result<std::vector<LogRecord>> Decode(const RecoveredUnits& found) const;
  Status CheckContinues(const RecoveredUnits& found) const;

  PartitionState& state_;
  Checkpointer& checkpointer_;
  BlockAdmission& admission_;
  Applier& applier_;
  Lsn required_lsn_ = 0;  // that the log says was durable
};

}  // namespace pando
