// Checkpointer: writes checkpoints of a partition's tree, one at a time.
//
// A checkpoint ends the tree's generation at a moment that its owner chooses, then writes the pages
// of that generation and a superblock, while reads and writes go on in the next one.
//
// Threads: one reactor.
//
// Invariants
//   PH2  At most one checkpoint is under way, and it changes phase only along these arrows:
//
//          kNone --> kReserved --> kFrozen --> kWriting --> kReserved --> kNone
//                                                 |  ^
//                                                 v  |
//                                               kStalled
//
//        Who has reserved it, and nobody else, moves it on. A checkpoint that ran out of space is
//        stalled: the next one to reserve completes it first.
#pragma once

#include <algorithm>

#include "src/partition/partition_state.h"

namespace pando {

class Upkeep;

enum class CheckpointPhase : uint8_t {
  kNone,
  kReserved,  // somebody will begin one or end the reservation
  kFrozen,    // the generation has ended
  kWriting,   // pages, metadata or the superblock are being written
  kStalled,   // the generation has ended, but the last attempt to write it has failed
};

class Checkpointer {
 public:
  // Blocks freed in one generation are reusable once the next one is durable.
  static constexpr int kCheckpointsToFree = 2;

  Checkpointer(PartitionState& state, Upkeep& upkeep)
      : state_(state), upkeep_(upkeep), ended_(state.reactor), last_ns_(state.reactor.NowNs()) {}

  // Whether a checkpoint would make data durable, allow the log to be released, or free space.
  bool Needed() const;
  // The superblock records the end of the log, so a lost log is detected.
  bool KnowsLog() const { return state_.file->superblock().log_end > 0; }
  Nanos last_ns() const { return last_ns_; }  // when the last one became durable
  // Until then, no checkpoint should begin that can wait: the mark of a snapshot of the cluster is expected.
  void HoldOff(Nanos until_ns) { held_off_until_ns_ = std::max(held_off_until_ns_, until_ns); }
  bool held_off() const { return state_.reactor.NowNs() < held_off_until_ns_; }
  bool running() const { return phase_ != CheckpointPhase::kNone && phase_ != CheckpointPhase::kStalled; }

  // Waits for a running checkpoint, then writes one if it is needed. On kDiskFull the generation
  // stays frozen; call again.
  Task<Status> Checkpoint();
  // If a checkpoint is running, waits until it ends; otherwise writes one. Either may free space.
  Task<Status> CheckpointOrJoin();
  // Resumes when the running checkpoint ends, or once it may have ended.
  Task<void> WaitForEnd() { co_await ended_.Wait(); }

  // -- for those who choose the moment: Reserve, Begin, Finish, End; or Reserve, End
  // Waits for a running checkpoint, completes one that had stalled, and reserves the next one.
  Task<Status> Reserve();
  // Ends the generation. The checkpoint will contain what has been applied so far.
  void Begin();
  Task<Status> Finish();
  void End();

  // Pages were freed. Their space becomes usable after kCheckpointsToFree checkpoints.
  void NoteFreedPages() {
    to_free_ = kCheckpointsToFree;
    state_.NoteBusy();
  }

 private:
  void Enter(CheckpointPhase to);
  Task<Status> WriteGeneration();

  PartitionState& state_;
  Upkeep& upkeep_;
  CheckpointPhase phase_ = CheckpointPhase::kNone;
  WaitQueue ended_;
  Superblock frozen_;  // of the generation being checkpointed
  Nanos last_ns_ = 0;
  Nanos held_off_until_ns_ = 0;
  int to_free_ = 0;  // checkpoints to go until the space that merges released is free
};

}  // namespace pando
