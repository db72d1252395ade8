// Leases: their arithmetic. A master may answer linearizable reads while no other master can exist.
// It needs no agreement about the time of day, only clocks (CLOCK_BOOTTIME) whose rates differ by
// at most 3 %, and that miss at most 50 ms of a lease in all.
//
// A follower that hears a heartbeat grants: it promises no higher epoch until a time of its own
// clock. The master counts from the moment when it *sent* that heartbeat, so its lease ends first.
//
// Threads: plain values.
//
// Invariants
//   I7  leases of two masters never overlap. MasterLease ends D after the send time; a Grant ends at
//       least 1.03 D + 50 ms after the receive time; and every new epoch needs a promise of a member of the
//       old ISR, which its grant forbids until then.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "src/io/reactor.h"
#include "src/replication/partition_entry.h"
#include "src/replication/replica_set.h"
#include "src/replication/rules.h"

namespace pando::replication {

struct LeaseTimes {
  Nanos lease_ns = kSecond;  // D
  // How long a grant binds: D by the slowest clock, and a little for clocks that miss time.
  Nanos grant_ns() const { return lease_ns + lease_ns * 3 / 100 + 50 * kMillisecond; }
};

// What a follower has granted, by its own clock. The candidacy of a replica is a promise too, so it
// asks its own grant as well.
class Grant {
 public:
  // Whom an earlier process of this replica granted to is not known, so a start binds as a grant to
  // somebody unknown does.
  Grant(const LeaseTimes& times, const Rules& rules, Nanos started_ns)
      : times_(times), rules_(rules), until_ns_(rules.wait_after_start ? started_ns + times.grant_ns() : started_ns) {}

  // A heartbeat of this process has been accepted.
  void Give(const ReplicaId& master, uint64_t incarnation, Epoch epoch, Nanos now_ns);
  // Heartbeats of an earlier process of the same replica say nothing, nor do those that were overtaken by
  // the notice of a death or by a resignation: to grant once more would only delay the next master.
  bool IsStale(const ReplicaId& master, uint64_t incarnation, Epoch epoch) const {
    if (to_ == master && incarnation < incarnation_) return true;
    return gone_.master == master && gone_.incarnation == incarnation && epoch <= gone_.epoch;
  }
  // A guard has seen this process exit. It can use no lease any more. Returns whether that ended the
  // grant; a notice of any other process says nothing.
  // `highest_seen` is the highest epoch heard of: a process that leads a later one lives, whatever the notice said.
  bool OnDeath(const ReplicaId& master, uint64_t incarnation, Epoch highest_seen, Nanos now_ns);
  // The process says itself that it uses no lease of this epoch any more. Its leases of later epochs hold.
  bool OnResign(const ReplicaId& master, uint64_t incarnation, Epoch epoch, Nanos now_ns);
  // The master that this was granted to has written this entry, in which it is not the master any more. It
  // gave up its lease before (handover.h).
  void OnHandover(const PartitionEntry& entry, Nanos now_ns) {
    if (entry.op_id.replica != to_ || entry.op_id.incarnation != incarnation_) return;
    if (entry.master != to_ && entry.epoch > epoch_) until_ns_ = std::min(until_ns_, now_ns);
  }
  // Whether a promise to `candidate` is free of this grant: it has run out, or binds nobody else.
  bool Allows(const ReplicaId& candidate, const ReplicaId& self, Nanos now_ns) const {
    return !rules_.grant_runs_out_first || now_ns >= until_ns_ || (candidate != self && to_ == candidate);
  }
  bool HasRunOut(Nanos now_ns) const { return now_ns >= until_ns_; }
  Nanos until_ns() const { return until_ns_; }

 private:
  const LeaseTimes times_;
  const Rules& rules_;
  ReplicaId to_;  // nil: unknown
  uint64_t incarnation_ = 0;
  Epoch epoch_ = 0;  // the highest that it was granted for
  struct Gone {
    ReplicaId master;
    uint64_t incarnation = 0;
    Epoch epoch = 0;  // the highest that is over
  };
  Gone gone_;  // the last one heard of
  Nanos until_ns_;
};

}  // namespace pando::replication
