#include "src/replication/replica_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace pando::replication {
namespace {

// The highest epoch that the message speaks of as promised, led or asked for. Points of a log are compared with
// the own log, so their epochs do not matter here.
Epoch HighestEpoch(const Message& message) {
  return std::visit(
      [](const auto& m) -> Epoch {
        Epoch highest = 0;
        if constexpr (requires { m.epoch; }) highest = m.epoch;
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, Fenced>) highest = std::max(highest, m.promised);
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, PromiseReply>) highest = std::max(highest, m.highest);
        return highest;
      },
      message.body);
}

}  // namespace

ReplicaCore::ReplicaCore(const CoreConfig& config, const RecoveredReplica& found, ReplicaLog& log, Nanos now_ns)
    : context_(config, log, found),
      follower_(context_, now_ns),
      leader_(context_),
      election_(context_, follower_),
      recovered_promise_(found.promised),
      turn_ns_(now_ns) {
  const HistoryPoint end = log.end();
  context_.NoteEpoch(end.epoch);
  const Lsn durable = log.durable().lsn;
  CHECK_LE(found.committed_lsn, durable) << "what was committed is not in the log; quarantine the replica instead";
  if (!context_.rules().apply_to_watermark_only) context_.commit_lsn = durable;
  if (context_.commit_lsn > 0) log.Commit(context_.commit_lsn);
}

void ReplicaCore::Step(const Message& message, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  if (HighestEpoch(message) > context_.entry.epoch + kMaxEpochsAhead) return;
  std::visit([&](const auto& body) { On(message.from, body, now_ns); }, message.body);
  TakeOver(now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const Heartbeat& heartbeat, Nanos now_ns) {
  SeeMaster(heartbeat.epoch);
  follower_.OnHeartbeat(from, heartbeat, now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const HeartbeatAck& ack, Nanos now_ns) {
  if (leader_.active()) leader_.OnHeartbeatAck(from, ack, now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const AlignRequest& request, Nanos) {
  SeeMaster(request.epoch);
  if (!leader_.active()) follower_.OnAlignRequest(from, request);
}

void ReplicaCore::On(const ReplicaId& from, const AlignReply& reply, Nanos now_ns) {
  if (leader_.active()) leader_.OnAlignReply(from, reply, now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const Append& append, Nanos) {
  SeeMaster(append.epoch);
  if (leader_.active()) return;  // of an older epoch: the sender will learn from the topology
  std::string wrong = follower_.OnAppend(from, append);
  if (!wrong.empty()) Quarantine(std::move(wrong));
}

void ReplicaCore::On(const ReplicaId& from, const AppendAck& ack, Nanos now_ns) {
  if (leader_.active()) leader_.OnAppendAck(from, ack, now_ns);
}

void ReplicaCore::On(const ReplicaId&, const Fenced& fenced, Nanos) { context_.NoteEpoch(fenced.promised); }

void ReplicaCore::On(const ReplicaId& from, const PromiseRequest& request, Nanos now_ns) {
  election_.OnPromiseRequest(from, request, leader_.epoch(), now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const PromiseReply& reply, Nanos now_ns) {
  election_.OnPromiseReply(from, reply, now_ns);
}

void ReplicaCore::On(const ReplicaId&, const CampaignNow&, Nanos now_ns) {
  election_.OnCampaignNow(leader_.epoch(), now_ns);
}

void ReplicaCore::On(const ReplicaId&, const DeathNotice& notice, Nanos now_ns) {
  if (leader_.active()) leader_.OnDeath(notice.replica, notice.incarnation, now_ns);
  if (!follower_.grant().OnDeath(notice.replica, notice.incarnation, context_.highest_seen, now_ns)) return;
  election_.OnMasterGone(notice.replica, now_ns);
}

void ReplicaCore::On(const ReplicaId& from, const Resign& resign, Nanos now_ns) {
  const bool news = resign.revision > context_.entry.revision;
  if (news) context_.out.Add(ReadTopology{});
  if (!follower_.grant().OnResign(from, resign.incarnation, resign.epoch, now_ns)) return;
  // It may have handed over: the topology says to whom.
  if (news) {
    election_.AwaitNews(now_ns);
  } else if (context_.entry.master == from) {
    election_.OnMasterGone(from, now_ns);
  }
}

// The master repeats it with every heartbeat, so it need not count before the topology names that master here.
void ReplicaCore::On(const ReplicaId& from, const Condemn& condemn, Nanos) {
  if (leader_.active() || condemn.epoch < context_.promised) return;
  if (condemn.epoch > context_.entry.epoch) context_.out.Add(ReadTopology{});
  if (condemn.epoch != context_.entry.epoch || from != context_.entry.master) return;
  Quarantine(fmt::format("the master of epoch {} has proof that LSN {} was lost here", condemn.epoch, condemn.lsn));
}

// RC8. What the master counts of this replica was not enough to join, so nothing that is under way can take it
// into the ISR unless it acknowledges more.
void ReplicaCore::On(const ReplicaId& from, const InstallOffer& offer, Nanos) {
  context_.NoteEpoch(offer.epoch);
  if (leader_.active() || !context_.installed || offer.epoch < context_.promised) return;
  if (offer.epoch > context_.entry.epoch) context_.out.Add(ReadTopology{});
  const PartitionEntry& entry = context_.entry;
  if (offer.epoch != entry.epoch || from != entry.master || entry.isr.Contains(context_.self())) return;
  // The offer was sent before that came, or it was lost: then the master would never know without being told again.
  if (follower_.AcknowledgedIn(offer.epoch) > offer.acked_lsn) return follower_.Remind();
  context_.installed = false;
  context_.out.Add(FetchPages{offer.epoch, from});
}

void ReplicaCore::SeeMaster(Epoch epoch) {
  context_.NoteEpoch(epoch);
  if (epoch < context_.promised) return;
  if (leader_.active() && epoch > leader_.epoch()) StepDown(fmt::format("epoch {} has a master", epoch));
  if (epoch > context_.promised) election_.OnHigherEpoch();
}

void ReplicaCore::Tick(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  LookAtDisk(now_ns);
  LookAtTopology(now_ns);
  if (leader_.active()) leader_.Tick(now_ns);
  TakeOver(now_ns);
  // The proposed handover comes first: it may have landed.
  if (!leader_.handover().proposed()) election_.Tick(leader_.epoch(), now_ns);
}

void ReplicaCore::LookAtDisk(Nanos now_ns) {
  const Lsn durable = context_.log.durable().lsn;
  const bool waits = durable < context_.log.end().lsn || context_.stored_promise < context_.promised;
  context_.disk.Look({durable, context_.stored_promise}, waits, now_ns);
  // Its process and its network may be well, so nobody else would notice. While no other replica is in
  // sync, nobody could do better.
  if (!leader_.active() || context_.entry.isr.size() < 2) return;
  // One that is open reserves the room of its writes before it appends them.
  const bool never_opens = context_.apply_stalled && !leader_.is_open();
  if (!never_opens && !(context_.disk.stalled() && context_.rules().stalled_disk_resigns)) return;
  StepDown(never_opens ? "it cannot apply what is committed" : "its disk does not answer");
  election_.StandBack(now_ns);
}

// While nobody hears the topology, nobody else could become master either: then the mastership stays.
void ReplicaCore::LookAtTopology(Nanos now_ns) {
  const Nanos silent_ns = topology_heard_ns_ ? now_ns - *topology_heard_ns_ : 0;
  context_.hears_topology = silent_ns <= context_.timing().hears_topology_ns;
  context_.cut_off = silent_ns > context_.timing().cut_off_ns;
  if (!leader_.ShouldGiveWay(now_ns)) return;
  StepDown("it commits nothing because it does not hear the topology, which another replica in sync hears");
  election_.StandBack(now_ns);
}

void ReplicaCore::TakeOver(Nanos now_ns) {
  if (leader_.active() || !election_.Takes(now_ns)) return;
  election_.OnTaken();
  BeginMastership(now_ns);
}

void ReplicaCore::BeginMastership(Nanos now_ns) {
  CHECK_GT(context_.entry.epoch, last_led_) << "I1: an epoch is led twice";
  follower_.Reset();
  last_led_ = context_.entry.epoch;
  leader_.Begin(context_.entry, false, now_ns);
}

void ReplicaCore::OnAppended(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnLogMoved(now_ns);
}

void ReplicaCore::OnDurable(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  if (leader_.active()) {
    leader_.OnLogMoved(now_ns);
  } else {
    follower_.OnDurable();
  }
}

void ReplicaCore::OnApplied(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnApplied();
}

void ReplicaCore::OnPromiseStored(Epoch epoch, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  CHECK_LE(epoch, context_.promised) << "a promise was stored that was never given";
  context_.stored_promise = std::max(context_.stored_promise, epoch);
  if (!leader_.active()) follower_.OnDurable();
  election_.OnPromiseStored(now_ns);
  TakeOver(now_ns);
}

void ReplicaCore::OnShipped(const ReplicaId& to, Epoch epoch, const HistoryPoint& end, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnShipped(to, epoch, end, now_ns);
}

void ReplicaCore::OnShipFailed(const ReplicaId& to, Epoch epoch, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnShipFailed(to, epoch);
}

void ReplicaCore::OnConnected(const ReplicaId& other, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (!out_of_service()) election_.OnConnected(other, now_ns);
}

void ReplicaCore::OnTopology(const PartitionEntry& entry, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  Learn(entry, now_ns);
}

void ReplicaCore::OnCasDone(const OpId& op, CasOutcome outcome, const PartitionEntry& entry, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (out_of_service()) return;
  if (outcome != CasOutcome::kUnknown) Learn(entry, now_ns);
  if (out_of_service()) return;
  if (leader_.active()) leader_.OnCasDone(op, outcome, now_ns);
  election_.OnCasDone(op, outcome, now_ns);
}

void ReplicaCore::OnInstalled(Nanos now_ns) {
  turn_ns_ = now_ns;
  context_.installed = true;
}

ChangeResult ReplicaCore::Assign(const ReplicaId& learner, const std::optional<ReplicaId>& leaves, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.Assign(learner, leaves, now_ns);
}

ChangeResult ReplicaCore::Add(const ReplicaId& learner, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.Add(learner, now_ns);
}

ChangeResult ReplicaCore::Remove(const ReplicaId& replica, Removal why, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.Remove(replica, why, now_ns);
}

ChangeResult ReplicaCore::SetMinIsr(uint32_t min_isr, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.SetMinIsr(min_isr, now_ns);
}

ChangeResult ReplicaCore::SetReplicas(uint32_t replicas, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.SetReplicas(replicas, now_ns);
}

// No promises: there are not enough replicas to give them. Whoever else leads can commit nothing without this
// replica, if it is in sync, and learns from the topology that its epoch is over.
ForceVerdict ReplicaCore::Force(const ReplicaSet& learners, bool accept_loss, Nanos now_ns) {
  turn_ns_ = now_ns;
  const PartitionEntry& entry = context_.entry;
  if (out_of_service() || !context_.installed) return ForceVerdict::kOutOfService;
  if (!entry.known() || !entry.assigned.Contains(context_.self())) return ForceVerdict::kNotAssigned;
  if (entry.retired()) return ForceVerdict::kRetired;
  if (leader_.is_open() && now_ns < leader_.LeaseEnd()) return ForceVerdict::kServes;
  if (!leader_.active() && !follower_.grant().HasRunOut(now_ns)) return ForceVerdict::kHearsMaster;
  if (!accept_loss && !entry.isr.Contains(context_.self())) return ForceVerdict::kMayLose;
  PartitionEntry desired = entry;
  ++desired.lineage;
  desired.epoch = std::max({context_.promised, entry.epoch, context_.highest_seen}) + 1;
  desired.master = context_.self();
  desired.isr = desired.assigned = ReplicaSet{context_.self()};
  desired.min_isr = 1;     // I10
  desired.opened_lsn = 0;  // LSNs of the older lineage mean nothing in this one
  desired.learners = learners;
  if (!context_.rules().force_names_new_replicas) {
    desired.learners = entry.assigned.Union(entry.learners);
    desired.learners.Remove(context_.self());
  }
  desired.op_id = context_.NewOp();
  context_.out.Add(CasTopology{desired});
  return ForceVerdict::kProposed;
}

bool ReplicaCore::Handover(const ReplicaId& target, Nanos now_ns, Nanos deadline_ns) {
  turn_ns_ = now_ns;
  return !context_.disk.stalled() && !election_.campaigning() && leader_.BeginHandover(target, now_ns, deadline_ns);
}

bool ReplicaCore::HoldForSplit(Nanos now_ns, Nanos deadline_ns) {
  turn_ns_ = now_ns;
  return !context_.disk.stalled() && !election_.campaigning() && leader_.BeginHold(deadline_ns);
}

void ReplicaCore::LetGo(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.LetGo();
}

bool ReplicaCore::Retire(Nanos now_ns, Nanos deadline_ns) {
  turn_ns_ = now_ns;
  return leader_.active() && leader_.Retire(now_ns, deadline_ns);
}

ChangeResult ReplicaCore::SetSplit(const std::optional<SplitOrder>& split, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.SetSplit(split, now_ns);
}

ChangeResult ReplicaCore::SetServing(Lsn opened_lsn, Nanos now_ns) {
  turn_ns_ = now_ns;
  return leader_.SetServing(opened_lsn, now_ns);
}

bool ReplicaCore::Serves() const {
  const PartitionEntry& entry = context_.entry;
  if (!context_.rules().half_waits_until_open) return entry.known() && !entry.retired();
  return entry.known() && entry.stage == PartitionStage::kServing && context_.log.applied() >= entry.opened_lsn;
}

void ReplicaCore::OnRoom(uint64_t room, bool apply_stalled, Nanos now_ns) {
  turn_ns_ = now_ns;
  const uint64_t change = std::max(room, told_room_) - std::min(room, told_room_);
  const bool tell = apply_stalled != context_.apply_stalled || (room == 0) != (told_room_ == 0) || change >= kRoomStep;
  context_.room = room;
  context_.apply_stalled = apply_stalled;
  if (!tell || out_of_service() || leader_.active()) return;
  told_room_ = room;
  follower_.Remind();
}

std::optional<Nanos> ReplicaCore::FreshAsOf() const {
  return out_of_service() || context_.entry.retired() ? std::nullopt : follower_.FreshAsOf();
}

SessionState ReplicaCore::SessionCovers(Epoch epoch, Lsn lsn) const {
  const ReplicaLog& log = context_.log;
  const Lsn applied = log.applied();
  if (!context_.rules().session_names_epoch) return lsn <= applied ? SessionState::kCovered : SessionState::kNotYet;
  const Epoch applied_epoch = log.applied_epoch();
  if (applied_epoch == epoch && lsn <= applied) return SessionState::kCovered;
  // What is applied is committed, and epochs only rise. So units of this epoch may still follow unless a
  // unit of a higher one is applied, or a unit of a lower one in its place.
  if (applied_epoch <= epoch)
    return applied_epoch < epoch && lsn <= applied ? SessionState::kLost : SessionState::kNotYet;
  const HistoryPoint end = log.EpochEnd(epoch);
  return end.epoch == epoch && lsn <= end.lsn ? SessionState::kCovered : SessionState::kLost;
}

WriteVerdict ReplicaCore::JudgeWrite(WriteLevel level, uint64_t bytes, Nanos now_ns, Epoch seen) const {
  const bool building = context_.entry.stage == PartitionStage::kBuilding && context_.rules().half_waits_until_open;
  if (building && leader_.active()) return WriteVerdict::kNotOpen;
  return JudgeFeed(level, bytes, now_ns, seen);
}

WriteVerdict ReplicaCore::JudgeFeed(WriteLevel level, uint64_t bytes, Nanos now_ns, Epoch seen) const {
  if (out_of_service()) return WriteVerdict::kOutOfService;
  if (!leader_.active()) return context_.entry.retired() ? WriteVerdict::kRetired : WriteVerdict::kNotMaster;
  if (seen > leader_.epoch() && context_.rules().session_finds_master) return WriteVerdict::kReplaced;  // LV5
  if (!leader_.is_open()) return WriteVerdict::kOpening;
  if (leader_.handover().active()) return WriteVerdict::kHandingOver;
  if (context_.disk.stalled()) return WriteVerdict::kDiskStalled;
  if (level != WriteLevel::kOne && leader_.FrozenForLong(now_ns)) return WriteVerdict::kFrozen;
  if (level == WriteLevel::kAll && context_.entry.isr.size() < context_.entry.replicas) {
    return WriteVerdict::kTooFewForAll;
  }
  return bytes > leader_.Room() ? WriteVerdict::kDiskFull : WriteVerdict::kAccepted;
}

void ReplicaCore::Learn(const PartitionEntry& entry, Nanos now_ns) {
  if (entry.revision < context_.entry.revision || !entry.known()) return;
  if (entry.revision == context_.entry.revision) {
    if (leader_.active()) leader_.OnEntryAgain(entry);
    return;
  }
  if (!IsPart(entry)) return;
  const bool new_epoch = entry.epoch > context_.entry.epoch;
  context_.entry = entry;
  context_.NoteEpoch(entry.epoch);
  const bool first = !std::exchange(saw_entry_, true);
  if (entry.retired() && context_.rules().retired_is_final) {  // RC11
    StepDown("the partition is retired");
    return election_.OnHigherEpoch();
  }
  if (leader_.active() && (entry.epoch > leader_.epoch() || entry.master != context_.self())) {
    if (!election_.campaigning() || entry.master != context_.self()) {
      StepDown(fmt::format("the topology names another master, of epoch {}", entry.epoch), entry.master);
    }
  }
  if (election_.OnEntry(now_ns)) {
    if (leader_.active()) leader_.End("it has won a higher epoch", context_.self());
    BeginMastership(now_ns);
    return;
  }
  if (leader_.active() && entry.epoch > leader_.epoch()) StepDown("the topology has a higher epoch", entry.master);
  if (leader_.active()) {
    leader_.OnEntry(now_ns);
    return;
  }
  if (new_epoch && !first) {
    if (entry.master != context_.self()) {
      follower_.grant().OnHandover(entry, now_ns);
      election_.OnOtherMaster(now_ns);
    } else if (MayTake(entry.epoch)) {
      follower_.grant().OnHandover(entry, now_ns);
      election_.OnNamed(now_ns);
      TakeOver(now_ns);
    }
  }
  if (!first || entry.master != context_.self()) return;
  if (!context_.rules().start_ends_mastership && entry.epoch >= recovered_promise_ &&
      context_.log.end().epoch == entry.epoch) {
    leader_.Begin(entry, true, now_ns);
    return;
  }
  if (recovered_promise_ == context_.promised) election_.OnNamedAtStart(now_ns);
}

// No earlier process, and no earlier mastership of this one, may have led that epoch: an epoch has one
// history. Processes store the promise of an epoch before they lead it.
bool ReplicaCore::MayTake(Epoch epoch) const {
  if (epoch < context_.promised || epoch <= last_led_) return false;
  return epoch > recovered_promise_ || !context_.rules().handover_target_is_new;
}

// Whether the entry counts with this replica. If not, there is nothing to learn from it.
bool ReplicaCore::IsPart(const PartitionEntry& entry) {
  const bool listed = entry.assigned.Contains(context_.self()) || entry.learners.Contains(context_.self());
  // A new replica is there for the next lineage of a half, of which the record is about to tell.
  if (entry.retired() && context_.lineage == 0 && !listed) return false;
  if (entry.lineage != context_.lineage && context_.rules().lineage_is_checked) {
    if (entry.lineage < context_.lineage) return false;  // the topology went back
    // Who is in sync when a loss is accepted is what the new lineage begins with.
    const bool counts = entry.isr.Contains(context_.self()) ||
                        (context_.log.end().lsn == 0 && entry.learners.Contains(context_.self()));
    if (context_.lineage != 0 && !counts) {
      Discard(fmt::format("an operator has accepted a loss: the lineage is {} now, and was {} here", entry.lineage,
                          context_.lineage));
      return false;
    }
    context_.lineage = entry.lineage;
    context_.out.Add(StorePromise{context_.promised, entry.lineage});
  }
  if (!listed && was_listed_) {
    Discard("it was removed from the replicas of the partition");
    return false;
  }
  was_listed_ = listed;
  return true;
}

void ReplicaCore::StepDown(std::string why, const ReplicaId& successor) {
  leader_.End(std::move(why), successor);
  follower_.Reset();
}

void ReplicaCore::Quarantine(std::string why) {
  StepDown("the replica is quarantined");
  election_.OnHigherEpoch();
  quarantined_ = true;
  context_.out.Add(QuarantineReplica{std::move(why)});
}

void ReplicaCore::Discard(std::string why) {
  StepDown("the replica is discarded");
  election_.OnHigherEpoch();
  discarded_ = true;
  context_.out.Add(DiscardReplica{std::move(why)});
}

std::optional<Mastership> ReplicaCore::Serving() const {
  if (out_of_service() || !leader_.is_open()) return std::nullopt;
  return Mastership{leader_.epoch(), context_.config.incarnation};
}

bool ReplicaCore::LeaseHolds(const Mastership& mastership, Nanos fresh_now_ns) const {
  if (Serving() != mastership) return false;
  return (context_.rules().lease_by_fresh_clock ? fresh_now_ns : turn_ns_) < leader_.LeaseEnd();
}

std::string_view ReplicaCore::role() const {
  if (quarantined_) return "quarantined";
  if (discarded_) return "discarded";
  if (leader_.active()) return leader_.is_open() ? "master" : "new master";
  if (context_.entry.retired()) return "retired";
  return election_.campaigning() ? "candidate" : "follower";
}

std::string ReplicaCore::CheckInvariants() const {
  const ReplicaLog& log = context_.log;
  if (context_.stored_promise > context_.promised) return "I1: the stored promise is above the given one";
  if (leader_.active() && leader_.epoch() > context_.promised)
    return "I1: the replica leads an epoch above its promise";
  if (context_.commit_lsn > log.durable().lsn) {
    return fmt::format("I5: LSN {} is committed, and only LSN {} is durable", context_.commit_lsn, log.durable().lsn);
  }
  if (context_.entry.retired() && leader_.active() && context_.rules().retired_is_final) {
    return "RC11: the replica leads a partition that is retired";
  }
  if (std::string wrong = leader_.CheckInvariants(); !wrong.empty()) return wrong;
  return follower_.CheckInvariants();
}

}  // namespace pando::replication
