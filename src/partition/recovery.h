// Recovery: replays a partition's part of the log after a start.
//
// It cuts what the log holds into units, and feeds those that are committed to the Applier. What
// differs from service is how a unit is made ready: its pages are rarely in memory, the pool may be
// smaller than the one for which the unit was admitted, its large values have no place on the disk
// yet, and the disk may be short.
//
// A unit is known to be committed once a mark says so. Until then it waits in the tail, because a
// higher epoch may supersede it later in the log. At the end of the log the CommitGate decides how
// much of the tail is applied. The rest waits in the queue of the WritePipeline.
//
// Threads: one reactor.
//
// Invariants: E1 of engine.h, P1, P5 and P10 of partition.h.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/partition/write_pipeline.h"

namespace pando {

class Recovery {
 public:
  Recovery(PartitionState& state, Checkpointer& checkpointer, BlockAdmission& admission, Applier& applier)
      : state_(state), checkpointer_(checkpointer), admission_(admission), applier_(applier) {}

  // Takes the units above the checkpoint.
  Task<Status> Replay(RecoveredUnits found);
  // Drops the units after the point. kCorruption: some of them were applied.
  Status OnCut(const RecoveredCut& cut);
  // Applies what the mark says is committed. kCorruption: the partition's file is an older copy,
  // whose later records have been released (WU3).
  Task<Status> OnMark(StreamMark mark);
  // Called after the last unit. Applies what the gate commits, and hands the rest to `pipeline`.
  // kCorruption: what the marks state is not there (WU3), or something between others (WU4).
  Task<Status> Finish(WritePipeline* pipeline);
  // The partition is quarantined.
  void Forget() { tail_.clear(); }

 private:
  class UnitReader;
  Lsn EndLsn() const { return tail_.empty() ? state_.applied_lsn : tail_.back()->content.last_lsn(); }
  void NoteEnd();
  Status CheckEnd() const;
  Status CheckBegin() const;
  void AddToTail(std::unique_ptr<LoggedUnit> unit);
  Task<Status> ApplyTail(Lsn up_to);
  Task<std::vector<std::unique_ptr<LoggedUnit>>> NextGroup(Lsn up_to);
  Task<void> MakeRoom(std::span<const std::unique_ptr<LoggedUnit>> group, AdmittedBlocks* admitted);
  Task<Status> ApplyRecovered(LoggedUnit* logged);
  Task<Status> PlaceValues(LoggedUnit* unit);
  Task<Result<Extent>> PlaceValue(size_t value_bytes);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  BlockAdmission& admission_;
  Applier& applier_;
  // Units above the applied LSN, none of which a mark has called committed. While a partition is
  // served they are few (WQ2), and the marks follow closely.
  std::deque<std::unique_ptr<LoggedUnit>> tail_;
  Lsn required_lsn_ = 0;       // that the last mark says was durable
  Lsn marked_commit_lsn_ = 0;  // the highest one in a mark
  // The chain that the unit after the checkpoint continues with which the process has started.
  std::optional<uint64_t> chain_before_;
  Lsn chain_before_lsn_ = 0;  // of that checkpoint: recovery may write another one
  bool little_space_reported_ = false;
};

}  // namespace pando
