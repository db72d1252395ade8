// Handover: how a master gives its mastership to a member of its ISR, without an error for any client.
//
// The shell holds writes from the beginning. Once the target has everything, durable and applied, the
// master gives up its lease and proposes the target as master of the next epoch, with a CAS. From then on
// until the outcome is known, it neither reads nor writes: the CAS may land at any moment. If the answer
// does not come, the same CAS is sent again, which lands or cannot land any more; with a target that has
// fallen silent, an entry without a change is proposed instead, which ends the doubt as well.
//
// Threads: that of the partition.
//
// Invariants
//   RC5  a handover is proposed only when the target has the whole log of its master, durable and applied,
//        and the master appends nothing until the outcome is known.
#pragma once

#include <string>

#include "src/replication/core_context.h"

namespace pando::replication {

class Handover {
 public:
  explicit Handover(CoreContext& context) : context_(context) {}

  void Begin(const ReplicaId& target, Nanos deadline_ns);
  bool active() const { return phase_ != Phase::kNone; }
  // The CAS was sent and may land.
  bool proposed() const { return phase_ == Phase::kProposed; }
  const ReplicaId& target() const { return desired_.master; }

  // `level`: the target has everything, and no other change of the entry is under way.
  void Tick(bool level, bool target_answers, Nanos now_ns);
  void OnDone(const OpId& op, CasOutcome outcome, Nanos now_ns);
  // A newer entry of the same mastership is known.
  void OnEntry();
  // The mastership has ended.
  void OnEnd();

 private:
  enum class Phase { kNone, kWaits, kProposed };

  void Propose(Nanos now_ns);
  void Settle(Nanos now_ns, bool target_answers);
  void Fail(std::string why);

  CoreContext& context_;
  Phase phase_ = Phase::kNone;
  PartitionEntry desired_;
  Nanos deadline_ns_ = 0;
  Nanos asked_ns_ = 0;   // the last CAS
  bool awaits_ = false;  // an answer to it
};

}  // namespace pando::replication
