// Applier: decides the outcomes of the operations of a write and applies them to the tree.
//
// The pages and values that a write needs are brought into memory first (MakeReady). Applying it is
// then synchronous. Conditions, increments and expiry are evaluated at that moment with the time of
// the record's own version, so every replica that applies the same log computes the same result.
//
// Threads: one reactor.
//
// Invariants: P1, P2, P5 and P10 of partition.h.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/partition/apply_unit.h"
#include "src/partition/partition_state.h"
#include "src/partition/upkeep.h"

namespace pando {

class Applier {
 public:
  // The state that a write that is not applied yet would give a key. Later operations of the same
  // write are judged against it.
  struct Effect {
    bool found = false;
    Version version = 0;
    int64_t expires_at_ms = 0;
    bool value_in_tree = false;  // the record was only touched
    std::string_view value;      // the value of a put; points into its operation
    std::string number;          // the result of an increment
  };
  using Effects = std::map<std::string_view, Effect>;

  Applier(PartitionState& state, Upkeep& upkeep) : state_(state), upkeep_(upkeep) {}

  // Frames for new values, for splits, and for the clones of one leaf. Tree::ClonesNeeded counts
  // further clones.
  size_t FramesFor(const std::vector<WriteOp>& ops) const;
  static std::vector<std::string> KeysOf(const std::vector<WriteOp>& ops);

  // Whether everything that the write needs is in memory, so that it can be applied without
  // suspending.
  bool Ready(const ApplyUnit* unit);
  // Loads and pins what the write needs. Only one write of the partition is in here at a time, and
  // nothing is applied meanwhile, so its records stay as they are found. The write may still not be
  // ready afterwards.
  Task<Status> MakeReady(ApplyUnit* unit);
  // REQUIRES: Ready.
  void Apply(ApplyUnit* unit);

  // -- for recovery
  OpResult ApplyOp(ApplyUnit* unit, size_t index);
  // Returns the outcome that the operation would have after those that left `effects`, and adds its
  // own effect.
  OpOutcome JudgeOp(const ApplyUnit* unit, size_t index, Effects* effects);

 private:
  struct CurrentRecord {
    ReadResult read;
    bool value_equal = false;  // to the condition's value
    bool value_known = true;   // false: read.value was left out
  };
  struct Verdict {
    OpOutcome outcome = OpOutcome::kApplied;
    int64_t number = 0;  // kIncrement
  };

  Task<Status> ReadFound(ApplyUnit* unit, size_t index, OverflowRef ref, uint32_t value_bytes);
  std::vector<OpOutcome> Judge(const ApplyUnit* unit);
  CurrentRecord Foresee(const ApplyUnit* unit, size_t index, const Effects& effects);
  CurrentRecord ForeseeStored(const ApplyUnit* unit, size_t index, Frame* leaf);
  void RefuseAll(ApplyUnit* unit, const std::vector<OpOutcome>& outcomes);
  static Verdict Decide(const WriteOp& op, const CurrentRecord& current);
  Frame* LeafOf(const WriteOp& op);
  void NoteChanges(const ApplyUnit& unit);
  OpResult ApplyExpire(Frame* leaf, const WriteOp& op, OpResult result);
  OpResult Refuse(ApplyUnit* unit, size_t index, OpOutcome outcome, CurrentRecord current);
  static void HandBack(ApplyUnit* unit, CurrentRecord current, OpResult* result);
  CurrentRecord ReadCurrent(ApplyUnit* unit, size_t index, Frame* leaf);

  PartitionState& state_;
  Upkeep& upkeep_;
};

}  // namespace pando
