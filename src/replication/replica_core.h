// ReplicaCore: the replication protocol of one replica of one partition, as a pure state machine.
// Messages, times and completions go in; effects come out (effects.h). It has no sockets, clocks,
// coroutines or threads, and the same inputs give the same outputs, so a simulation can show every
// order of events (tests/sim/replication_core_test.cc).
//
//   Leader      what it does as master: ships, counts, commits, changes the ISR, keeps its lease
//   Follower    what it does under a master: compares, appends, acknowledges, grants
//   Election    how it becomes master, and what it promises
//
// The protocol is that of PacificA: the topology (an external register with compare-and-swap) says who
// is master of which epoch and who is in sync, and a write is committed once all who are in sync have it.
//
// How it maps onto a partition: ReplicaLog (replica_log.h) says what it asks of the log. It decides what a
// CommitGate decides: OnRecovered answers with the recovered commit LSN only, OnDurable of the gate is
// OnDurable here, and ReplicaLog::Commit and BeginEpoch are GatedPartition's. Client writes go through
// WritePipeline as before, while AcceptsWrites; the shell then calls OnAppended.
//
// `now_ns` is CLOCK_BOOTTIME of the own machine, as read in the turn. Safety of writes depends on no
// clock; only leased reads do.
//
// Threads: that of the partition. Every call that takes `now_ns` may leave effects; carry them out, in
// order, before the next call.
//
// Invariants. Those of one replica are checked by CheckInvariants; those of a cluster by the simulation.
//   I6  a checkpoint holds only what is committed: it is taken of what ReplicaLog::Commit has released.
//   I11  a client's write is applied once: lanes decide at apply (src/partition/lane.h), in log order, so
//        every replica decides the same.
//   I12  replicas with the same LSN and chain have the same contents: only committed units are applied.
//   RC9  a replica of an older lineage, other than the one that a forced failover named, is never in sync
//        again: its UUID is in no entry from then on, so nobody sends it units and nobody counts it, and it is
//        discarded once it learns of the entry.
//   RC7  a session is covered exactly if its write is applied here, and no acknowledged one is called lost.
//   I13  once faults have ended, all replicas are back in sync within a bounded time.
//   RC11  once the topology says that a partition is retired, nothing is appended to it in its last epoch, and nobody
//        acknowledges a write of it or has a lease for reads. A replica that has learned it leads and serves nothing.
//   SP4  a replica of a half serves nothing before it has applied the record that opens it, which follows everything
//        that the parent ever acknowledged.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/read_gate.h"
#include "src/replication/answers.h"
#include "src/replication/core_context.h"
#include "src/replication/election.h"
#include "src/replication/follower.h"
#include "src/replication/leader.h"
#include "src/replication/messages.h"

namespace pando::replication {

class ReplicaCore {
 public:
  // A process has started. It is a follower of nobody, whatever it was before. `log` outlives it.
  ReplicaCore(const CoreConfig& config, const RecoveredReplica& found, ReplicaLog& log, Nanos now_ns);

  // -- inputs
  void Step(const Message& message, Nanos now_ns);
  // To be called every 10 to 20 ms.
  void Tick(Nanos now_ns);
  void OnAppended(Nanos now_ns);  // the partition has appended a unit of this mastership
  void OnDurable(Nanos now_ns);   // ReplicaLog::durable has moved
  void OnApplied(Nanos now_ns);   // ReplicaLog::applied has moved; needed of masters that are not open
  void OnPromiseStored(Epoch epoch, Nanos now_ns);
  void OnShipped(const ReplicaId& to, Epoch epoch, const HistoryPoint& end, Nanos now_ns);
  // What was said to that replica before, or by it, may have been lost.
  void OnConnected(const ReplicaId& other, Nanos now_ns);
  // The log does not hold the units any more (LiveReader: kNotFound, kAborted).
  void OnShipFailed(const ReplicaId& to, Epoch epoch, Nanos now_ns);
  // A value of the topology was read, by a watch or by ReadTopology. Older ones are ignored.
  void OnTopology(const PartitionEntry& entry, Nanos now_ns);
  // The answer to a CasTopology. With kApplied and kConflict comes the entry as it is.
  void OnCasDone(const OpId& op, CasOutcome outcome, const PartitionEntry& entry, Nanos now_ns);
  // The pages of this replica are complete: it fetches none.
  void OnInstalled(Nanos now_ns);
  // When its node has last heard the topology. Never called: it always hears it.
  void OnTopologyHeard(Nanos heard_ns) { topology_heard_ns_ = heard_ns; }
  // What this replica's disk can take (AppendAck::room), and whether it lacks the room to apply what is
  // committed. To be called when it has changed, as often as one likes.
  void OnRoom(uint64_t room, bool apply_stalled, Nanos now_ns);

  // The node leaves its cluster in good order: a mastership ends, and the others are told that it uses no lease.
  void Leave() { StepDown("the node leaves its cluster"); }

  // -- what an operator asks of a master
  // Makes `target`, a member of the ISR, master of the next epoch. Until HandoverEnded or CloseMastership,
  // JudgeWrite answers kHandingOver, and the shell may hold writes. Once the target has all and has
  // applied it, this replica gives up its lease and proposes the target; if that takes longer than
  // `deadline_ns`, or fails, it goes on as master. While the answer of the topology is unknown it neither
  // reads nor writes. Returns false if it cannot begin: it is not an open master, or something is under way.
  bool Handover(const ReplicaId& target, Nanos now_ns, Nanos deadline_ns);
  // Makes a replica a learner, and lets one that is not in sync leave for it.
  ChangeResult Assign(const ReplicaId& learner, const std::optional<ReplicaId>& leaves, Nanos now_ns);
  // The same for one that comes in addition: how many there should be is raised to how many there are then.
  ChangeResult Add(const ReplicaId& learner, Nanos now_ns);
  // Takes a replica out of the partition, whatever it is, except for the master.
  ChangeResult Remove(const ReplicaId& replica, Removal why, Nanos now_ns);
  ChangeResult SetMinIsr(uint32_t min_isr, Nanos now_ns);     // at most the size of the ISR
  ChangeResult SetReplicas(uint32_t replicas, Nanos now_ns);  // R; at least min_isr

  // -- what a split asks of a master (docs/SPLIT.md)
  // Holds writes as a handover does, while reads go on: until LetGo, a settled Retire, or `deadline_ns`. False: it
  // cannot begin, as Handover.
  bool HoldForSplit(Nanos now_ns, Nanos deadline_ns);
  void LetGo(Nanos now_ns);
  // Ends the mastership, and that of everybody else: once all that was appended is committed and applied here, it gives
  // up its lease and proposes the entry that says `retired`. If that is not possible in time or fails, it goes on as
  // master. While the answer of the topology is unknown it neither reads nor writes. False: nothing is held.
  bool Retire(Nanos now_ns, Nanos deadline_ns);
  ChangeResult SetSplit(const std::optional<SplitOrder>& split, Nanos now_ns);  // of a partition that serves
  // Of a half that is being built. `opened_lsn` is applied here, so that an open master always serves.
  ChangeResult SetServing(Lsn opened_lsn, Nanos now_ns);

  // -- what an operator asks of a replica when too few are left to promote one
  // Proposes {next lineage, next epoch, this replica as master and alone in sync, min_isr 1}, with one CAS. The
  // other replicas leave; `learners`, which nobody has had yet, are to take their places (RC9). A member of
  // the ISR has all that was committed, so nothing is lost; with `accept_loss`, one that was evicted from
  // it takes over too. If the CAS has landed, the entry says so.
  ForceVerdict Force(const ReplicaSet& learners, bool accept_loss, Nanos now_ns);

  std::vector<Effect> TakeEffects() { return context_.out.Take(); }
  // The same for a vector that is used again and again.
  void TakeEffects(std::vector<Effect>* effects) { context_.out.TakeInto(effects); }

  // -- reads and writes
  // The mastership that serves now.
  std::optional<Mastership> Serving() const;
  // A linearizable read: take the mastership, then the snapshot, then ask this, with a clock that was
  // read after the snapshot was taken. Only then may the answer leave.
  bool LeaseHolds(const Mastership& mastership, Nanos fresh_now_ns) const;
  // Ask before the append; a refusal is definite. `bytes` are those of its records, `seen` is the newest epoch that the
  // writer's session has seen.
  WriteVerdict JudgeWrite(WriteLevel level, uint64_t bytes, Nanos now_ns, Epoch seen = 0) const;
  // The same of a write of a split, which a half takes before it serves. The shell refuses it afterwards.
  WriteVerdict JudgeFeed(WriteLevel level, uint64_t bytes, Nanos now_ns, Epoch seen = 0) const;
  // Whether the replica may answer clients at all, as far as splits are concerned: it is not retired, not being built,
  // and if it is of a half, it has applied the record that opens it (SP4). Once it may, it may until it is retired.
  bool Serves() const;
  bool AcceptsWrites(Nanos now_ns) const {
    return JudgeWrite(WriteLevel::kQuorum, 0, now_ns) == WriteVerdict::kAccepted;
  }
  // Whether nothing is committed because a member that should leave the ISR cannot. Level ONE is then
  // still accepted; the shell refuses it once half of the log's budget is used.
  bool frozen() const { return leader_.frozen(); }
  // Up to here all R replicas have what is committed. It does not move while fewer are in sync.
  Lsn all_lsn() const { return leader_.all_lsn(); }
  // As follower: this replica has applied everything that was committed anywhere at this time of its own
  // clock. Nothing if it has no proof yet. A read that may be Delta old is answered from a snapshot that was
  // taken after this call, if the call said at least now - Delta.
  std::optional<Nanos> FreshAsOf() const;
  // Whether a snapshot taken now has the write that ended at this LSN of this epoch, and all before it.
  SessionState SessionCovers(Epoch epoch, Lsn lsn) const;

  // -- for metrics, and for the assertions of the simulation
  Epoch promised() const { return context_.promised; }
  Epoch stored_promise() const { return context_.stored_promise; }  // what may be told to others
  Lsn commit_lsn() const { return context_.commit_lsn; }
  const PartitionEntry& entry() const { return context_.entry; }
  const Leader& leader() const { return leader_; }
  const Follower& follower() const { return follower_; }
  bool campaigning() const { return election_.campaigning(); }
  bool quarantined() const { return quarantined_; }
  bool discarded() const { return discarded_; }
  bool out_of_service() const { return quarantined_ || discarded_; }
  bool disk_stalled() const { return context_.disk.stalled(); }
  uint64_t lineage() const { return context_.lineage; }
  std::string_view role() const;
  // Names the first invariant of this replica that does not hold; empty if all do. The shell CHECKs it.
  std::string CheckInvariants() const;

 private:
  void On(const ReplicaId& from, const Heartbeat& heartbeat, Nanos now_ns);
  void On(const ReplicaId& from, const HeartbeatAck& ack, Nanos now_ns);
  void On(const ReplicaId& from, const AlignRequest& request, Nanos now_ns);
  void On(const ReplicaId& from, const AlignReply& reply, Nanos now_ns);
  void On(const ReplicaId& from, const Append& append, Nanos now_ns);
  void On(const ReplicaId& from, const AppendAck& ack, Nanos now_ns);
  void On(const ReplicaId& from, const Fenced& fenced, Nanos now_ns);
  void On(const ReplicaId& from, const PromiseRequest& request, Nanos now_ns);
  void On(const ReplicaId& from, const PromiseReply& reply, Nanos now_ns);
  void On(const ReplicaId& from, const CampaignNow& request, Nanos now_ns);
  void On(const ReplicaId& from, const DeathNotice& notice, Nanos now_ns);
  void On(const ReplicaId& from, const Resign& resign, Nanos now_ns);
  void On(const ReplicaId& from, const Condemn& condemn, Nanos now_ns);
  void On(const ReplicaId& from, const InstallOffer& offer, Nanos now_ns);
  void Learn(const PartitionEntry& entry, Nanos now_ns);
  // A message of that epoch's master has come.
  void SeeMaster(Epoch epoch);
  void LookAtDisk(Nanos now_ns);
  void LookAtTopology(Nanos now_ns);
  void TakeOver(Nanos now_ns);
  void BeginMastership(Nanos now_ns);
  bool MayTake(Epoch epoch) const;
  bool IsPart(const PartitionEntry& entry);
  void StepDown(std::string why, const ReplicaId& successor = {});
  void Quarantine(std::string why);
  void Discard(std::string why);

  // The master is told when the room has changed by so much, or is used up.
  static constexpr uint64_t kRoomStep = 1 << 20;
  // Every campaign raises the epoch by one, so no honest message names one so far above the topology's. One that
  // does is ignored: its epoch would be promised for good, and no higher one might be left for a master.
  static constexpr Epoch kMaxEpochsAhead = Epoch{1} << 28;

  CoreContext context_;
  Follower follower_;
  Leader leader_;
  Election election_;
  const Epoch recovered_promise_;
  Epoch last_led_ = 0;  // by this process
  std::optional<Nanos> topology_heard_ns_;
  bool saw_entry_ = false;
  bool was_listed_ = false;  // in the newest entry
  uint64_t told_room_ = std::numeric_limits<uint64_t>::max();
  bool quarantined_ = false;
  bool discarded_ = false;
  Nanos turn_ns_;  // of the last input
};

}  // namespace pando::replication
