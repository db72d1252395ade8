// Applier: decides the outcomes of the records of a unit and applies them to the tree, whoever
// wrote the unit.
//
// The pages and values that a unit needs are brought into memory first (MakeReady). Applying it is
// then synchronous. Conditions, increments and expiry are evaluated at that moment with the time of
// the record's own version, so every replica that applies the same log computes the same result.
//
// If one record of a unit can refuse the others, the unit is judged as a whole before any of it is
// applied. Judging changes nothing. What the records would leave is kept outside the tree
// (Effects), where later records look first. There is therefore nothing to undo.
//
// Threads: one reactor.
//
// Invariants: P1, P2, P5 and P10 of partition.h, plus
//   AP1  One unit is applied at a time, and nothing else changes records meanwhile. What MakeReady
//        found is therefore still so when the unit is judged and applied.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/partition/apply_unit.h"
#include "src/partition/lane.h"
#include "src/partition/partition_state.h"
#include "src/partition/upkeep.h"

namespace pando {

class ClusterMarks;

// The outcomes of a unit that is judged as a whole.
class Judgement {
 public:
  // Nothing of the unit takes effect.
  bool refused() const { return refused_; }
  // The unit is a write that was sent before, so its lane stays as it is too (LN1).
  bool repeats() const { return repeats_; }

 private:
  friend class Applier;
  // What a record that is not applied yet would give a key. Later records of the same unit are
  // judged against it.
  struct Effect {
    bool found = false;
    Version version = 0;
    int64_t expires_at_ms = 0;
    bool value_in_tree = false;  // the record was only touched
    std::string_view value;      // the value of a put; points into its record
    std::string number;          // the result of an increment
  };
  using Effects = std::map<std::string_view, Effect>;

  Effects effects_;
  // Once refused, for each record its own reason, or kBatchRefused.
  std::vector<OpOutcome> outcomes_;
  bool refused_ = false, check_failed_ = false, repeats_ = false;
  Lane lane_;       // if it repeats: what it came to then,
  Status refusal_;  // or why that cannot be told, or is of another write
};

class Applier {
 public:
  // A unit that is applied whole has at most one record per this many frames of the pool.
  static constexpr size_t kFramesPerRecord = 16;

  Applier(PartitionState& state, Upkeep& upkeep, ClusterMarks& marks) : state_(state), upkeep_(upkeep), marks_(marks) {}

  // Frames that a record may need for its value and for splits, in addition to kFramesPerUpdate for
  // the unit. Tree::ClonesNeeded counts clones.
  size_t FramesFor(RecordOp op, size_t key_bytes, size_t value_bytes) const;
  // All that a unit may need in addition to clones.
  size_t FramesFor(const ApplyUnit& unit) const { return FramesFor(unit, unit.whole()); }

  // The mark of a snapshot needs more than memory. Prepare it before it is made ready, and forget it if it is not
  // applied then. Whether it may be applied.
  bool MarkReady(const ApplyUnit& unit) const;
  Task<void> PrepareMark(const ApplyUnit* unit);
  void ForgetMark();

  // -- bringing into memory what a part of a unit needs
  // Whether all of it is there, so that the part can be judged and applied without suspending.
  bool Ready(const ApplyUnit& unit, UnitPart part);
  // Loads and pins it. The part may still not be ready afterwards.
  Task<Status> MakeReady(ApplyUnit* unit, UnitPart part);

  // -- applying
  // Applies a unit at once. REQUIRES: the whole of it is ready, and it follows what was applied.
  void Apply(ApplyUnit* unit);
  // For recovery, when nobody reads and the pool may be smaller than the one for which the unit was
  // admitted: both bring one part after the other into memory. The unit must follow, and between
  // the two calls the extents of its large values must be allocated unless it is refused.
  Task<Status> JudgeInParts(ApplyUnit* unit, Judgement* judgement);
  Task<Status> ApplyInParts(ApplyUnit* unit, const Judgement* judgement);

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

  size_t FramesFor(const ApplyUnit& unit, UnitPart part) const;
  UnitPart NextPart(const ApplyUnit& unit, size_t from) const;
  Task<Status> ReadFound(ApplyUnit* unit, size_t index, OverflowRef ref, uint32_t value_bytes);
  Frame* FindLeaf(const ApplyUnit& unit, size_t index);
  Frame* LeafOf(const ApplyUnit& unit, size_t index);

  // applier_judge.cc
  bool JudgeNext(const ApplyUnit& unit, size_t index, Judgement* judgement);
  bool JudgeOnce(const ApplyUnit& unit, Judgement* judgement);
  OpOutcome JudgeRecord(const ApplyUnit& unit, size_t index, Judgement::Effects* effects);
  CurrentRecord Foresee(const ApplyUnit& unit, size_t index, const Judgement::Effects& effects);
  CurrentRecord ForeseeStored(const ApplyUnit& unit, size_t index, Frame* leaf);
  static Verdict Decide(const LogRecord& record, const CurrentRecord& current);

  // `lane`: null if the unit has no once.
  void ApplyPart(ApplyUnit* unit, UnitPart part, const Judgement& judgement, LaneEncoder* lane);
  void Repeat(ApplyUnit* unit, const Judgement& judgement);
  void UpdateLane(ApplyUnit* unit, LaneEncoder lane);
  void End(ApplyUnit* unit);
  OpResult ApplyRecord(ApplyUnit* unit, size_t index);
  OpResult ApplyExpire(Frame* leaf, const LogRecord& record, OpResult result);
  void Erase(Frame* leaf, const LogRecord& record);
  void NoteChange(const LogRecord& record, bool removed);
  CurrentRecord ReadCurrent(ApplyUnit* unit, size_t index, Frame* leaf, std::optional<LeafSlot>* at = nullptr);
  OpResult Refuse(ApplyUnit* unit, size_t index, OpOutcome outcome, CurrentRecord current);
  OpResult RefuseJudged(ApplyUnit* unit, size_t index, OpOutcome outcome);
  static void HandBack(UnitReply* reply, CurrentRecord current, OpResult* result);
  void FreeExtent(const UnitRecord& record);

  PartitionState& state_;
  Upkeep& upkeep_;
  ClusterMarks& marks_;
};

// -- what both halves of the Applier know about records
// Longer text is not a number, even if it has leading zeros, so no number is an overflow value.
inline constexpr size_t kMaxNumberBytes = 20;  // a sign and 19 digits
int64_t ExpiryOf(const LogRecord& record, const ReadResult& current);

}  // namespace pando
