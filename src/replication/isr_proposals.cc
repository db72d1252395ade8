#include "src/replication/isr_proposals.h"

#include <algorithm>

namespace pando::replication {

ReplicaSet IsrProposals::WaitSet() const {
  ReplicaSet wait = context_.entry.isr;
  for (const Pending& p : pending_) {
    if (context_.rules().joiner_counts_before_cas) wait = wait.Union(p.desired.isr);
  }
  if (!context_.rules().shrink_counts_after_cas) {
    for (const Pending& p : pending_) wait = wait.Intersection(p.desired.isr);
  }
  return wait;
}

bool IsrProposals::Propose(PartitionEntry desired, Nanos now_ns) {
  if (context_.rules().shrink_keeps_min_isr) {
    CHECK_GE(desired.isr.size(), desired.min_isr) << "I10: a proposed ISR is too small";
  }
  return Send(std::move(desired), kMaxPending, now_ns);
}

// Once it has landed, none of those can land that compare the same revision. If it cannot land, something else has.
void IsrProposals::Settle(Nanos now_ns) {
  if (!pending_.empty()) Send(context_.entry, kMaxPending + 1, now_ns);
}

bool IsrProposals::Send(PartitionEntry desired, size_t limit, Nanos now_ns) {
  Pending* same = nullptr;
  for (Pending& p : pending_) {
    if (p.asked) return false;
    if (now_ns - p.sent_ns < context_.timing().cas_retry_ns) return false;
    if (p.desired.SaysTheSame(desired)) same = &p;
  }
  if (same == nullptr) {
    if (pending_.size() >= limit) return false;
    desired.op_id = context_.NewOp();
    same = &pending_.emplace_back();
    same->desired = desired;
  }
  same->asked = true;
  same->sent_ns = now_ns;
  context_.out.Add(CasTopology{same->desired});
  return true;
}

void IsrProposals::OnDone(const OpId& op, CasOutcome outcome, Nanos now_ns) {
  for (Pending& p : pending_) {
    if (p.desired.op_id != op) continue;
    p.asked = false;
    p.in_doubt = outcome == CasOutcome::kUnknown;
    p.sent_ns = now_ns;
    if (p.in_doubt) context_.out.Add(ReadTopology{});
    // A conflict came with a newer entry, which has removed the proposal (OnEntry), unless an earlier
    // request of the same proposal is still under way: then the entry decides.
    return;
  }
}

void IsrProposals::OnEntry(const PartitionEntry& entry) {
  std::erase_if(pending_, [&](const Pending& p) {
    if (p.desired.revision < entry.revision) return true;
    // The rule is off: what was not seen is taken for failed.
    return !context_.rules().absent_op_id_proves_nothing && p.in_doubt && p.desired.op_id != entry.op_id;
  });
}

}  // namespace pando::replication
