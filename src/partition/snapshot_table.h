// SnapshotTable: the open snapshots of a partition: cutting them, finding them, releasing them.
//
// A snapshot is a checkpoint whose generation stays readable. A cut goes through the queue of
// writes like a write, so it contains those appended before it and none after it. A copy for another replica is cut
// at once, of what is applied.
//
// Threads: one reactor.
//
// Invariants
//   ST1  Each open snapshot holds its generation, in the tree and in the file, exactly once. Both
//        are released with it.
#pragma once

#include <deque>
#include <map>

#include "src/partition/checkpointer.h"

namespace pando {

class WritePipeline;

// What a read sees: the generation (0 = the newest tree) and the time that decides expiry.
struct ReadView {
  Generation generation = 0;
  int64_t now_ms = 0;
};

class SnapshotTable {
 public:
  SnapshotTable(PartitionState& state, Checkpointer& checkpointer, WritePipeline& pipeline)
      : state_(state), checkpointer_(checkpointer), pipeline_(pipeline) {}

  // -- cutting: see Partition
  Task<Status> PrepareCut();
  Task<Result<Version>> HoldWrites();
  Task<Status> Cut(SnapshotInfo snapshot);
  Task<Status> AbandonCut();

  // -- reading
  Result<ReadView> ViewOf(SnapshotId id) const;           // kSnapshotGone
  Result<const SnapshotInfo*> Find(SnapshotId id) const;  // kSnapshotGone; valid until it is released
  // Why there is no such snapshot.
  Status Gone(SnapshotId id) const;
  size_t size() const { return snapshots_.size(); }
  size_t of_cluster() const { return of_cluster_; }
  // When the last of those expires; 0: there is none.
  int64_t ClusterEndMs() const;
  // Null: none is open. Valid until the next suspension.
  const SnapshotInfo* Oldest() const;

  // -- releasing
  Status Renew(SnapshotId id, int64_t expires_at_ms);
  Status Release(SnapshotId id);
  void ReleaseIfOpen(SnapshotId id);
  void ReleaseExpired();
  // REQUIRES: there is one that a mark has cut.
  void ReleaseOldestOfCluster();
  // The tree and the file are about to be given up, with all that they hold.
  void Forget() {
    snapshots_.clear();
    of_cluster_ = 0;
  }

  // -- for ClusterMarks
  // Whether this replica may give a version to a snapshot, as only a master may.
  Status MayCut() const;
  // A mark waits for the checkpoint that a cut of this node may have reserved. The cut fails (CM6), and so do others
  // until EndMark.
  void BeginMark();
  void EndMark() { mark_waits_ = false; }
  // Ends the generation, of which the snapshot is, and writes it. REQUIRES: a checkpoint is reserved.
  void TakeReserved(const SnapshotInfo& snapshot);

 private:
  class Waiting;
  Status CutCopy(const SnapshotInfo& copy);
  Status GaveWay() const;
  void Take(SnapshotInfo snapshot);
  Task<void> WriteSnapshot();

  PartitionState& state_;
  Checkpointer& checkpointer_;
  WritePipeline& pipeline_;
  std::map<SnapshotId, SnapshotInfo> snapshots_;
  size_t of_cluster_ = 0;  // of them
  // Those that have ended here lately, the newest last: what is asked of one that was never here has another reason.
  static constexpr size_t kMaxEnded = 256;
  std::deque<SnapshotId> ended_;
  Waiting* waiting_ = nullptr;  // the cut that is in the queue; null: none is
  bool mark_waits_ = false;     // BeginMark
};

}  // namespace pando
