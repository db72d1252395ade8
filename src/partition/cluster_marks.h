// ClusterMarks: what a partition does for snapshots of a whole cluster.
//
// Such a snapshot has a version T, which its coordinator chooses above all versions that the masters have given. It is
// the records of all partitions up to version T, and no others. The master of each partition appends a mark to its log
// (RecordOp::kClose) whose own version is T. So no write is held back: those that come before the mark have lower
// versions, and those after it have higher ones. Whoever applies the mark, master or follower, ends the generation of
// the tree there and keeps it as a snapshot. The snapshot is therefore there, under the same ID, after a change of
// master. A process that starts makes the snapshots of those marks anew that it has to replay.
//
// How long the snapshot lives is said by the mark, and later by other records of the log (kLease).
//
// The mark is appended when the time of the partition comes to T, or right before a write that is given a higher
// version because its writer has seen one (WritePipeline, CM7). If it came at once, all later writes would be given
// versions above T at once, and so would, by what their writers have seen, writes in partitions that the request has
// not reached yet; those would have to refuse it.
//
// A mark ends a generation, and so it waits, in the queue of writes, for a checkpoint that is under way. All later
// writes wait behind it. A master therefore waits for a running checkpoint before it says which version it has given,
// and holds off the next one for kHoldOffNs.
//
// Threads: one reactor.
//
// Invariants
//   CM1  The mark of a snapshot has the snapshot's version. A master appends it only if it has given no version that
//        high yet, and P5 does the rest: lower versions come before the mark, and higher ones after it. A new master's
//        clock is at or above all of its log.
//   CM2  The snapshot of a mark is the tree as it is when all up to the mark has been applied, and nothing after it.
//   CM3  A mark is confirmed once it is committed and applied, and the master has its snapshot.
//   CM4  A partition has at most kMaxSnapshots of them. A master refuses more; a replica on which they live longer, by
//        its clock, releases the oldest one.
//   CM5  The records of a write get higher versions than all that its writer has seen, in whatever partition, unless
//        those are too far ahead of the clock here. So a snapshot that has a write has all that its writer knew of.
//   CM6  Whoever has reserved the next checkpoint waits for nothing behind a mark: the cut of a snapshot of this node
//        gives way to it.
#pragma once

#include <optional>
#include <vector>

#include "src/io/sync.h"
#include "src/model/types.h"
#include "src/partition/apply_unit.h"
#include "src/partition/checkpointer.h"

namespace pando {

class SnapshotTable;
class WritePipeline;

class ClusterMarks {
 public:
  static constexpr size_t kMaxSnapshots = 64;
  static constexpr Nanos kHoldOffNs = 5 * kSecond;

  ClusterMarks(PartitionState& state, Checkpointer& checkpointer, SnapshotTable& snapshots, WritePipeline& pipeline)
      : state_(state),
        checkpointer_(checkpointer),
        snapshots_(snapshots),
        pipeline_(pipeline),
        closed_(state.reactor) {}

  // -- what a master is asked; see Partition
  Task<Result<Version>> Highest();
  Task<Result<SessionPoint>> Close(CloseMark mark);
  // Until when the snapshot lives, at least; nothing: no longer. The log says so. kSnapshotGone.
  Task<Status> SetLease(SnapshotId id, std::optional<int64_t> expires_at_ms);

  // -- what the log says
  // Whether a unit may be applied at once, as far as it depends on a mark.
  bool IsReady(const ApplyUnit& unit) const { return !unit.closes() || ready_ != Ready::kNo; }
  // Waits until the generation can be ended. If it cannot be, because a checkpoint finds no room on the disk, the mark
  // will be applied without a snapshot. REQUIRES: the mark is the next record to be applied.
  Task<void> Prepare(const ApplyUnit* unit);
  // The unit has been applied. REQUIRES: IsReady.
  void OnApplied(const ApplyUnit& unit);
  // What Prepare was called for is not applied now.
  void Forget();

 private:
  enum class Ready : uint8_t {
    kNo,
    kReserved,  // the checkpoint that ends the generation
    kSkipped,   // no snapshot will be taken
  };
  bool Wants(const LogRecord& mark) const;
  Status CheckMark(const CloseMark& mark) const;
  Result<SessionPoint> Confirm(const CloseMark& mark, std::string_view why_not) const;
  void Take(const LogRecord& mark);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  SnapshotTable& snapshots_;
  WritePipeline& pipeline_;
  Ready ready_ = Ready::kNo;
  std::vector<SnapshotId> closing_;  // marks that are being appended, and applied
  WaitQueue closed_;                 // one of them has been, or was not
};

}  // namespace pando
