// Follower: what a replica does under a master: it compares histories, appends, acknowledges, and grants
// leases.
//
// A follower cuts nothing until a unit of its master differs from its own, as in Raft: then its own tail
// from there on is superseded. So a late or repeated message of the same epoch never removes what was
// acknowledged in that epoch.
//
// Threads: that of the partition.
//
// Invariants
//   I4  the same epoch, LSN and chain mean the same bytes and the same past. A unit is appended only
//       after the point that it continues.
//   I8  nothing is acknowledged before it is durable, and compared with the log of that epoch's master.
//   RC6  FreshAsOf(t): what was committed at time t is applied. A time counts only if the master echoed it
//        under a lease, and had received it before it looked at that lease.
//   RC3  the follower's commit LSN is at most the master's, and at most what I8 allows to acknowledge.
#pragma once

#include <optional>
#include <string>

#include "src/replication/core_context.h"
#include "src/replication/messages.h"

namespace pando::replication {

class Follower {
 public:
  Follower(CoreContext& context, Nanos started_ns)
      : context_(context), grant_(context.timing().lease, context.rules(), started_ns) {}

  // This replica leads now: it follows nobody.
  void Reset();
  // Says the master anew what it should know of this replica, if it follows one.
  void Remind() { Acknowledge(true); }
  void OnHeartbeat(const ReplicaId& from, const Heartbeat& heartbeat, Nanos now_ns);
  void OnAlignRequest(const ReplicaId& from, const AlignRequest& request);
  // Returns why the replica must be quarantined; nothing if it need not be.
  std::string OnAppend(const ReplicaId& from, const Append& append);
  // More of the log, or the promise, is durable.
  void OnDurable() { Acknowledge(false); }

  // Everything that was committed anywhere at this own time is applied here.
  std::optional<Nanos> FreshAsOf() const;

  Grant& grant() { return grant_; }
  const Grant& grant() const { return grant_; }
  Epoch matched_epoch() const { return matched_epoch_; }
  // What it has acknowledged in that epoch.
  Lsn AcknowledgedIn(Epoch epoch) const { return matched_epoch_ == epoch ? acknowledged_.lsn : 0; }
  std::string CheckInvariants() const;

 private:
  bool Refuses(const ReplicaId& from, Epoch epoch);
  // Ends of epochs at or below `limit`.
  AlignReply Ends(Epoch epoch, Lsn limit) const;
  std::string Take(const Append& append, const HistoryPoint& after);
  std::optional<HistoryPoint> Acknowledgeable() const;
  AppendAck Ack(Epoch epoch, const HistoryPoint& durable) const;
  void Acknowledge(bool repeat);
  void AdvanceCommit();

  CoreContext& context_;
  Grant grant_;
  ReplicaId master_;         // the sender of the last Append that was taken
  Epoch matched_epoch_ = 0;  // 0: aligned with nobody
  HistoryPoint matched_;     // up to here this log is that of the master of matched_epoch_
  HistoryPoint acknowledged_;
  Lsn master_commit_ = 0;
  // -- freshness. Both are facts for ever, whoever leads: an applied unit stays applied.
  struct Fresh {
    Nanos as_of_ns = 0;  // 0: none
    Lsn lsn = 0;         // all that was committed then
  };
  Fresh proven_;
  Fresh next_;  // proven once it is applied
};

}  // namespace pando::replication
