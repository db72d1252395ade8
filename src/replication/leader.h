// Leader: what a replica does as master of an epoch. It ships its log to the followers, counts what
// they acknowledge, commits, keeps its lease, and proposes who is in sync.
//
// Threads: that of the partition.
//
// Invariants
//   I3  what is committed is durable on every member of the ISR: an LSN is committed once all of the wait
//       set (I2) have acknowledged it in this epoch.
//   RC1  nothing is committed in an epoch below the record that begins it. Earlier epochs are committed
//        together with that record.
//   RC8  a copy of the pages is offered only to a replica that no commit waits for, and that has not
//        acknowledged enough to join. It takes the offer only if it has acknowledged nothing more, and
//        from then on acknowledges nothing. So it is never in sync while its data is replaced. The copy is of
//        what is applied, and has all that it ever acknowledged.
//   RC2  an acknowledgement counts only if it is of this epoch, and names a point of this log.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "src/replication/answers.h"
#include "src/replication/core_context.h"
#include "src/replication/handover.h"
#include "src/replication/isr_proposals.h"
#include "src/replication/lag_watch.h"
#include "src/replication/messages.h"

namespace pando::replication {

class Leader {
 public:
  explicit Leader(CoreContext& context) : context_(context), proposals_(context), handover_(context) {
    peers_.reserve(kMaxReplicas);
  }

  // The topology names this process as master of entry.epoch. `resume` only if a rule is off.
  void Begin(const PartitionEntry& entry, bool resume, Nanos now_ns);
  // `successor`: who is master now, if that is known.
  void End(std::string why, const ReplicaId& successor = {});
  bool active() const { return epoch_ != 0; }
  bool is_open() const { return open_; }
  Epoch epoch() const { return epoch_; }
  Lsn start_lsn() const { return start_lsn_; }

  void OnHeartbeatAck(const ReplicaId& from, const HeartbeatAck& ack, Nanos now_ns);
  void OnAlignReply(const ReplicaId& from, const AlignReply& reply, Nanos now_ns);
  // That process of a replica has ended.
  void OnDeath(const ReplicaId& replica, uint64_t incarnation, Nanos now_ns);
  void OnAppendAck(const ReplicaId& from, const AppendAck& ack, Nanos now_ns);
  void OnShipped(const ReplicaId& to, Epoch epoch, const HistoryPoint& end, Nanos now_ns);
  void OnShipFailed(const ReplicaId& to, Epoch epoch);
  // The own log has grown, or more of it is durable.
  void OnLogMoved(Nanos now_ns);
  void OnApplied() { OpenIfApplied(); }
  void OnEntry(Nanos now_ns);
  void OnCasDone(const OpId& op, CasOutcome outcome, Nanos now_ns) {
    proposals_.OnDone(op, outcome, now_ns);
    handover_.OnDone(op, outcome, now_ns);
  }
  void OnEntryAgain(const PartitionEntry& entry) { proposals_.OnEntry(entry); }
  void Tick(Nanos now_ns);

  // -- what an operator asks for (replica_core.h)
  bool BeginHandover(const ReplicaId& target, Nanos now_ns, Nanos deadline_ns);
  const Handover& handover() const { return handover_; }
  bool BeginHold(Nanos deadline_ns);
  bool Retire(Nanos now_ns, Nanos deadline_ns);
  void LetGo() { handover_.LetGo(); }
  // All that was appended is committed and applied here.
  bool IsQuiet() const;
  ChangeResult SetSplit(const std::optional<SplitOrder>& split, Nanos now_ns);
  ChangeResult SetServing(Lsn opened_lsn, Nanos now_ns);
  ChangeResult Assign(const ReplicaId& learner, const std::optional<ReplicaId>& leaves, Nanos now_ns);
  ChangeResult Add(const ReplicaId& learner, Nanos now_ns);
  ChangeResult Remove(const ReplicaId& replica, Removal why, Nanos now_ns);
  ChangeResult SetMinIsr(uint32_t min_isr, Nanos now_ns);
  ChangeResult SetReplicas(uint32_t replicas, Nanos now_ns);

  // When the lease ends, by the own clock, as far as acknowledged heartbeats say. Without followers in
  // the wait set there is nobody who could promise to another one. A master that is handing over has none.
  Nanos LeaseEnd() const;
  ReplicaSet WaitSet() const { return proposals_.WaitSet(); }
  // What counts of a replica in this epoch. Of this one: what is durable.
  Lsn AckedBy(const ReplicaId& id) const;
  // What the fullest disk that a commit waits for can take (AppendAck::room).
  uint64_t Room() const;
  bool frozen() const { return stalled_since_ns_ != 0; }
  Lsn all_lsn() const { return all_lsn_; }
  bool FrozenForLong(Nanos now_ns) const {
    return frozen() && now_ns - stalled_since_ns_ >= context_.timing().refuse_writes_after_ns;
  }

  // How a follower is doing, for status.
  struct Following {
    ReplicaId replica;
    Lsn acked_lsn = 0;
    Nanos caught_up_ns = 0;                                // then it had all that the master had
    Nanos heard_ns = 0;                                    // its last heartbeat
    uint64_t room = std::numeric_limits<uint64_t>::max();  // what its disk can take (AppendAck::room)
  };
  std::vector<Following> Followers() const;

  // Nothing is committed, because this node does not hear the topology and so cannot take out of the ISR whom a commit
  // waits for. A member that hears it could.
  bool ShouldGiveWay(Nanos now_ns) const;

  struct Counted {  // for the assertions of the simulation
    ReplicaId replica;
    HistoryPoint point;
  };
  std::vector<Counted> CountedAcks() const;
  std::string CheckInvariants() const;

 private:
  struct Peer {
    ReplicaId id;
    bool located = false;    // `next` is a point of both logs, unless the follower has objected
    bool reading = false;    // a ShipUnits is under way
    bool probe = false;      // ship even if there is nothing new: the follower has to acknowledge
    bool lost_disk = false;  // it has lost what it had acknowledged or committed (I9)
    HistoryPoint next;       // the end of what was shipped
    HistoryPoint acked;      // the highest point acknowledged in this epoch
    Epoch acked_epoch = 0;
    uint64_t incarnation = 0;
    bool installed = false;
    Lsn applied_lsn = 0;
    uint64_t room = std::numeric_limits<uint64_t>::max();
    bool apply_stalled = false;
    Nanos asked_ns = 0;         // the last AlignRequest
    uint64_t asked_number = 0;  // its number
    Lsn acked_when_asked = 0;
    Nanos hears_topology_since_ns = 0;  // 0: it does not
    Nanos echo_ns = 0, echo_at_ns = 0;  // the newest HeartbeatAck::own_ns, and when it came
    uint64_t process = 0;               // HeartbeatAck::process
    uint64_t dead_process = 0;          // the newest that is known to have ended
    Nanos dead_ns = 0;                  // when that was heard
    bool is_dead() const { return dead_process != 0 && dead_process >= process; }
    Lsn lost_lsn = 0;  // what it has lost
    Nanos located_ns = 0;
    Lsn start_lsn = 0;      // where shipping began then
    Nanos progress_ns = 0;  // when `acked` or `next` came to be what it is
    Nanos heard_ns = 0;     // the last heartbeat acknowledged
    Nanos lease_until_ns = 0;
    Lsn goal_lsn = 0;  // once it has this, it had caught up at goal_ns
    Nanos goal_ns = 0, caught_up_ns = 0;
    LagWatch lag;
    Nanos joined_ns = 0, rejoin_at_ns = 0, rejoin_wait_ns = 0;
  };

  static constexpr Lsn kWindowRecords = 8192;

  Peer* Find(const ReplicaId& id);
  const Peer* Find(const ReplicaId& id) const { return const_cast<Leader*>(this)->Find(id); }
  void UpdatePeers(Nanos now_ns);
  void AskToAlign(Peer* peer, Nanos now_ns);
  std::optional<HistoryPoint> CommonPoint(const AlignReply& reply) const;
  void Ship(Peer* peer);
  void NoteProgress(Peer* peer, Nanos now_ns);
  void CompareLags(Nanos now_ns);
  // What an AlignReply proves about the follower's past. Returns whether it can go on.
  bool CheckPast(Peer* peer, const AlignReply& reply, Nanos now_ns);
  void GiveUpOn(Peer* peer, Lsn lsn, std::string why);
  void OfferInstall(const Peer& peer);
  void SendHeartbeats(Nanos now_ns);
  bool IsLevel(const Peer& peer) const;
  void AskWhetherApplied(Peer* target);
  void TickHandover(Nanos now_ns);
  void AdvanceCommit();
  void OpenIfApplied();
  bool MustLeave(const Peer& peer, Nanos now_ns) const;
  bool MayJoin(const Peer& peer, Nanos now_ns) const;
  void ChangeIsr(Nanos now_ns);
  bool AddLearner(const ReplicaId& learner, PartitionEntry* desired) const;
  ChangeResult Propose(const PartitionEntry& desired, Nanos now_ns);

  CoreContext& context_;
  Epoch epoch_ = 0;  // 0: not a master
  Lsn start_lsn_ = 0;
  bool open_ = false;
  Nanos next_heartbeat_ns_ = 0;
  Nanos stalled_since_ns_ = 0;
  Lsn all_lsn_ = 0;
  Lsn committed_here_ = 0;  // the last LSN that this mastership has committed
  std::vector<Peer> peers_;
  IsrProposals proposals_;
  Handover handover_;
  static constexpr uint32_t kHandoverAsks = 3;
  Lsn handover_asked_lsn_ = 0;  // up to which the target was asked whether it has applied
  uint32_t handover_asks_ = 0;  // how often
};

}  // namespace pando::replication
