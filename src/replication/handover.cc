#include "src/replication/handover.h"

#include <algorithm>
#include <utility>

namespace pando::replication {

void Handover::Begin(const ReplicaId& target, Nanos deadline_ns) {
  CHECK(!active());
  phase_ = Phase::kWaits;
  target_ = target;
  deadline_ns_ = deadline_ns;
  awaits_ = false;
}

void Handover::Hold(Nanos deadline_ns) {
  Begin(ReplicaId(), deadline_ns);
  phase_ = Phase::kHolds;
}

void Handover::Retire(Nanos deadline_ns) {
  CHECK(holds());
  phase_ = Phase::kWaits;
  deadline_ns_ = deadline_ns;
}

void Handover::LetGo() {
  if (holds()) Fail("the writes were let go");
}

void Handover::Tick(bool level, bool target_answers, Nanos now_ns) {
  if (phase_ == Phase::kProposed) {
    if (!awaits_ && now_ns - asked_ns_ >= context_.timing().cas_retry_ns) Settle(now_ns, target_answers);
    return;
  }
  if (!active()) return;
  if (now_ns >= deadline_ns_) {
    Fail(holds() ? "the writes were held for too long" : "the log was not level in time");
  } else if (holds()) {
    return;
  } else if (retires() && !context_.entry.split && context_.rules().retire_needs_split) {
    Fail("no split runs any more");  // RC10
  } else if (level || !waits_until_level()) {
    Propose(now_ns);
  }
}

void Handover::Propose(Nanos now_ns) {
  desired_ = context_.entry;
  if (retires()) {
    desired_.stage = PartitionStage::kRetired;
    desired_.split.reset();
  } else {
    desired_.master = target_;
    desired_.epoch = std::max({context_.promised, context_.entry.epoch, context_.highest_seen}) + 1;
  }
  desired_.op_id = context_.NewOp();
  phase_ = Phase::kProposed;
  awaits_ = true;
  asked_ns_ = now_ns;
  context_.out.Add(CasTopology{desired_});
}

// Either of the two proposals ends the doubt about the first one once it lands, and once it cannot land.
void Handover::Settle(Nanos now_ns, bool target_answers) {
  asked_ns_ = now_ns;
  context_.out.Add(ReadTopology{});
  PartitionEntry proposal = desired_;
  if (!target_answers || now_ns >= deadline_ns_) {
    proposal = context_.entry;
    proposal.op_id = context_.NewOp();
  } else {
    awaits_ = true;
  }
  context_.out.Add(CasTopology{std::move(proposal)});
}

void Handover::OnDone(const OpId& op, CasOutcome outcome, Nanos now_ns) {
  if (phase_ != Phase::kProposed || op != desired_.op_id) return;
  awaits_ = false;
  asked_ns_ = now_ns;
  // kApplied came with the entry that ends this mastership, and kConflict with a newer one (OnEntry),
  // unless an earlier request of the same CAS is still under way: then the entry decides.
  if (outcome != CasOutcome::kUnknown) return;
  const Rules& rules = context_.rules();
  const bool waits = retires() ? rules.retire_waits_for_outcome : rules.handover_waits_for_outcome;
  if (!waits) return Fail("no answer is taken for a failure");
  context_.out.Add(ReadTopology{});
}

void Handover::OnEntry() {
  if (phase_ == Phase::kProposed && context_.entry.revision > desired_.revision) {
    Fail("the partition's entry was changed by another proposal");
  } else if (phase_ == Phase::kWaits && !target_.IsNil() && !context_.entry.isr.Contains(target_)) {
    Fail("the target is not in sync any more");
  }
}

void Handover::OnEnd() {
  if (!active()) return;
  const PartitionEntry& known = context_.entry;
  const bool changed = target_.IsNil() ? known.retired() : known.epoch == desired_.epoch && known.master == target_;
  const bool done = phase_ == Phase::kProposed && changed;
  phase_ = Phase::kNone;
  context_.out.Add(HandoverEnded{target_, done, done ? "" : "the mastership has ended"});
}

void Handover::Fail(std::string why) {
  phase_ = Phase::kNone;
  context_.out.Add(HandoverEnded{target_, false, std::move(why)});
}

}  // namespace pando::replication
