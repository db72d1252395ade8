// IsrProposals: the ISR changes of a master that are on their way to the topology, and the set of
// replicas that a commit therefore waits for.
//
// A CAS may land at any time after it was sent, also long after its sender gave up waiting. Only the
// topology itself ends the doubt: a value of a higher revision than the one that the CAS compares means
// that it has landed already or never will.
//
// Threads: that of the partition.
//
// Invariants
//   I2  the topology's ISR is a subset of the set that the master waits for: the ISR that it knows, and
//       every proposed one that may still land.
//   I10  no proposed ISR is smaller than min_isr.
#pragma once

#include <vector>

#include "src/replication/core_context.h"

namespace pando::replication {

class IsrProposals {
 public:
  explicit IsrProposals(CoreContext& context) : context_(context) { pending_.reserve(kMaxPending + 1); }

  void Clear() { pending_.clear(); }
  // Everything up to this commit waits for.
  ReplicaSet WaitSet() const;
  // Sends a CAS, or sends it again if the same was proposed before. `desired` is the known entry with
  // changes to its sets. Does nothing while an answer is awaited, or when too many are in doubt.
  bool Propose(PartitionEntry desired, Nanos now_ns);
  // Ends the doubt about proposals that nobody wants any more, or that leave no room for others: writes the entry as it
  // is. Does nothing if there are none, or while an answer is awaited.
  void Settle(Nanos now_ns);
  // The outcome of a CAS of this process. The entry that came with it is learned separately, first.
  void OnDone(const OpId& op, CasOutcome outcome, Nanos now_ns);
  // The topology was read. `entry` is the newest known, or has the same revision.
  void OnEntry(const PartitionEntry& entry);
  bool empty() const { return pending_.empty(); }

 private:
  static constexpr size_t kMaxPending = 4;  // and the entry as it is
  struct Pending {
    PartitionEntry desired;
    bool asked = false;  // an answer is awaited
    bool in_doubt = false;
    Nanos sent_ns = 0;
  };

  bool Send(PartitionEntry desired, size_t limit, Nanos now_ns);

  CoreContext& context_;
  std::vector<Pending> pending_;  // at most kMaxPending + 1
};

}  // namespace pando::replication
