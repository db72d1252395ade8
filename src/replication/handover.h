// Handover: how a master ends its mastership in good order, without an error for any client. It gives it to a member of
// its ISR, or to nobody: then the partition is retired, and its halves serve in its place (docs/SPLIT.md).
//
// The shell holds writes from the beginning. Once the target has everything, durable and applied, the
// master gives up its lease and proposes the target as master of the next epoch, with a CAS. From then on
// until the outcome is known, it neither reads nor writes: the CAS may land at any moment. If the answer
// does not come, the same CAS is sent again, which lands or cannot land any more; with a target that has
// fallen silent, an entry without a change is proposed instead, which ends the doubt as well.
//
// A handover to nobody begins as a hold: writes wait, and reads go on, while the halves get what they lack. Retire then
// proposes the entry that says `retired`, in the same epoch, once this replica itself has all, committed and applied.
//
// Threads: that of the partition.
//
// Invariants
//   RC5  a handover is proposed only when the target has the whole log of its master, durable and applied,
//        and the master appends nothing until the outcome is known.
//   RC10  a partition is retired only by its master, which has given up its lease before, at a revision that says that
//   a
//        split runs, and with a log that is committed and applied to its end.
#pragma once

#include <string>

#include "src/replication/core_context.h"

namespace pando::replication {

class Handover {
 public:
  explicit Handover(CoreContext& context) : context_(context) {}

  void Begin(const ReplicaId& target, Nanos deadline_ns);
  // Holds writes until Retire, or LetGo.
  void Hold(Nanos deadline_ns);
  // REQUIRES: holds().
  void Retire(Nanos deadline_ns);
  void LetGo();
  bool active() const { return phase_ != Phase::kNone; }
  bool holds() const { return phase_ == Phase::kHolds; }
  // The partition is to be retired, and it is not settled whether it is.
  bool retires() const { return active() && !holds() && target_.IsNil(); }
  // The CAS was sent and may land.
  bool proposed() const { return phase_ == Phase::kProposed; }
  bool gives_up_lease() const {
    const Rules& rules = context_.rules();
    return proposed() && (retires() ? rules.retire_gives_up_lease : rules.handover_gives_up_lease);
  }
  bool waits_until_level() const {
    const Rules& rules = context_.rules();
    return retires() ? rules.retire_waits_until_level : rules.handover_waits_until_level;
  }
  const ReplicaId& target() const { return target_; }  // nil: nobody

  // `level`: the target has everything, and no other change of the entry is under way.
  void Tick(bool level, bool target_answers, Nanos now_ns);
  void OnDone(const OpId& op, CasOutcome outcome, Nanos now_ns);
  // A newer entry of the same mastership is known.
  void OnEntry();
  // The mastership has ended.
  void OnEnd();

 private:
  enum class Phase { kNone, kHolds, kWaits, kProposed };

  void Propose(Nanos now_ns);
  void Settle(Nanos now_ns, bool target_answers);
  void Fail(std::string why);

  CoreContext& context_;
  Phase phase_ = Phase::kNone;
  ReplicaId target_;
  PartitionEntry desired_;
  Nanos deadline_ns_ = 0;
  Nanos asked_ns_ = 0;   // the last CAS
  bool awaits_ = false;  // an answer to it
};

}  // namespace pando::replication
