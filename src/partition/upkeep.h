// Upkeep: what a partition does in the background to stay small: it removes expired records and
// merges leaves that deletes have emptied.
//
// Threads: one reactor.
//
// Invariants
//   PU1  At most one task merges queued leaves and one those of ended generations. Neither begins
//        anything once the partition drains or has failed.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/remove_batch.h"
#include "src/partition/block_admission.h"

namespace pando {

class WritePipeline;

class Upkeep {
 public:
  Upkeep(PartitionState& state, Checkpointer& checkpointer, BlockAdmission& admission, WritePipeline& pipeline)
      : state_(state),
        checkpointer_(checkpointer),
        admission_(admission),
        pipeline_(pipeline),
        sweep_stopped_(state.reactor) {}
  // Takes over what the opened checkpoint says.
  void Begin(const Superblock& opened);

  // -- expiry
  // A record was stored that expires at this time; 0 = never.
  void NoteExpiry(int64_t expires_at_ms);
  // Whether expired records may still be stored, and this replica has to remove them (CG3). After a
  // failed sweep, the next one becomes due only after a delay.
  bool ExpiryDue() const {
    return next_expiry_ms_ != 0 && next_expiry_ms_ <= state_.clock.NowMs() &&
           state_.reactor.NowNs() >= next_sweep_ns_ && state_.gate->MaySweep();
  }
  // No stored record expires before this time; 0 = none expires.
  int64_t next_expiry_ms() const { return next_expiry_ms_; }
  // Removes expired records through the log, in bounded batches, in a task of its own.
  void SweepSoon();
  bool sweeping() const { return sweeping_; }
  // Resumes once no sweep runs, or the running one probably waits for a commit.
  Task<void> SweepEndsOrStalls() {
    if (sweeping_) co_await sweep_stopped_.Wait();
  }
  // Durable writes wait to be committed.
  void NoteStall() { sweep_stopped_.NotifyAll(); }

  // -- merging
  // A delete has left the leaf of `key` almost empty.
  void MergeSoon(std::string_view key);
  // Call when a generation has ended, and when a checkpoint has freed space.
  void MergeOldSoon();

 private:
  bool MaySweep() const { return state_.works() && state_.gate->MaySweep(); }
  Task<void> SweepOnce();
  Task<Status> Sweep();
  Task<Status> Remove(std::vector<DueRecords::Due> due, RemoveBatch* batch);
  Task<void> MergeQueued();
  Task<Status> MergeOne(std::string key);
  Task<void> MergeOld();
  Task<Status> MergeBornAfter(Generation since);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  BlockAdmission& admission_;
  WritePipeline& pipeline_;

  int64_t next_expiry_ms_ = 0;  // no stored record expires before this time; 0 = no record expires
  int64_t new_expiry_ms_ = 0;   // the same for the records stored since the running sweep began
  Nanos next_sweep_ns_ = 0;
  bool sweeping_ = false;  // SweepOnce runs
  WaitQueue sweep_stopped_;

  std::set<std::string, std::less<>> merge_keys_;
  bool merging_ = false;      // MergeQueued runs
  bool merging_old_ = false;  // MergeOld runs
  // No leaf last changed in this generation or earlier is worth merging.
  Generation merged_through_ = 0;
};

}  // namespace pando
