#include "src/replication/leader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

namespace pando::replication {

void Leader::Begin(const PartitionEntry& entry, bool resume, Nanos now_ns) {
  CHECK(entry.master == context_.self() && entry.epoch > epoch_);
  epoch_ = entry.epoch;
  open_ = false;
  stalled_since_ns_ = 0;
  committed_here_ = 0;
  all_lsn_ = 0;
  peers_.clear();
  proposals_.Clear();
  if (resume) {
    start_lsn_ = context_.log.EpochEnd(epoch_ - 1).lsn + 1;
  } else {
    start_lsn_ = context_.log.end().lsn + 1;
    context_.log.BeginEpoch(epoch_);
  }
  UpdatePeers(now_ns);
  next_heartbeat_ns_ = now_ns;
  Tick(now_ns);
}

void Leader::End(std::string why, const ReplicaId& successor) {
  if (!active()) return;
  handover_.OnEnd();
  context_.out.Add(CloseMastership{epoch_, std::move(why), successor});
  // Nobody needs to wait for the lease of this mastership.
  for (const Peer& peer : peers_) {
    context_.Send(peer.id, Resign{epoch_, context_.config.incarnation, context_.entry.revision});
  }
  epoch_ = 0;
  open_ = false;
  peers_.clear();
  proposals_.Clear();
}

Leader::Peer* Leader::Find(const ReplicaId& id) {
  const auto at = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& p) { return p.id == id; });
  return at == peers_.end() ? nullptr : &*at;
}

void Leader::UpdatePeers(Nanos now_ns) {
  const ReplicaSet all = context_.entry.assigned.Union(context_.entry.learners);
  std::erase_if(peers_, [&](const Peer& p) { return !all.Contains(p.id); });
  for (const ReplicaId& id : all) {
    if (id == context_.self()) continue;
    Peer* peer = Find(id);
    if (peer == nullptr) {
      peer = &peers_.emplace_back();
      peer->id = id;
      peer->heard_ns = peer->caught_up_ns = peer->goal_ns = peer->progress_ns = now_ns;
      peer->rejoin_wait_ns = context_.timing().rejoin_after_ns;
      peer->joined_ns = now_ns;
      AskToAlign(peer, now_ns);
    }
  }
}

// -- leases

void Leader::OnHeartbeatAck(const ReplicaId& from, const HeartbeatAck& ack, Nanos now_ns) {
  if (context_.rules().heartbeat_names_epoch && ack.epoch != epoch_) return;
  if (ack.incarnation != context_.config.incarnation) return;
  Peer* peer = Find(from);
  if (peer == nullptr || ack.sent_ns > now_ns) return;  // no heartbeat of this process was sent then
  // It has answered what was sent after the notice of its death, so the notice was wrong.
  if (peer->is_dead() && ack.process == peer->process && ack.sent_ns > peer->dead_ns) peer->dead_process = 0;
  const Nanos counts_from = context_.rules().lease_from_send_time ? ack.sent_ns : now_ns;
  peer->lease_until_ns = std::max(peer->lease_until_ns, counts_from + context_.timing().lease.lease_ns);
  peer->heard_ns = now_ns;
  peer->lag.NoteRoundTrip(std::max<Nanos>(now_ns - ack.sent_ns, 0));
  if (ack.process < peer->process) return;
  if (!ack.hears_topology) peer->hears_topology_since_ns = 0;
  if (ack.hears_topology && peer->hears_topology_since_ns == 0) peer->hears_topology_since_ns = now_ns;
  if (ack.process > peer->process) {
    // What an older process acknowledged must still be there. Nothing else would ask while nobody writes.
    if (peer->process != 0 && !peer->lost_disk) AskToAlign(peer, now_ns);
    peer->process = ack.process;
    peer->echo_ns = 0;
  }
  if (ack.own_ns <= peer->echo_ns) return;
  peer->echo_ns = ack.own_ns;
  peer->echo_at_ns = now_ns;
}

Nanos Leader::LeaseEnd() const {
  if (handover_.gives_up_lease()) return std::numeric_limits<Nanos>::min();
  Nanos end = std::numeric_limits<Nanos>::max();
  for (const ReplicaId& id : proposals_.WaitSet()) {
    if (id == context_.self()) continue;
    const Peer* peer = Find(id);
    end = std::min(end, peer == nullptr ? 0 : peer->lease_until_ns);
  }
  return end;
}

// -- the log

void Leader::AskToAlign(Peer* peer, Nanos now_ns) {
  peer->located = false;
  peer->asked_ns = now_ns;
  peer->acked_when_asked = peer->acked.lsn;
  context_.Send(peer->id, AlignRequest{epoch_, ++peer->asked_number});
}

// A reply to the newest request was given after the follower had acknowledged what the master knew then,
// however late it comes. The reply to an Append proves nothing, but is a reason to ask.
bool Leader::CheckPast(Peer* peer, const AlignReply& reply, Nanos now_ns) {
  if (!context_.rules().lost_disk_is_condemned) return true;
  if (reply.committed.lsn > 0) {
    const std::optional<HistoryPoint> own = context_.log.PointAt(reply.committed.lsn);
    if (own && own->chain != reply.committed.chain) {
      GiveUpOn(peer, own->lsn,
               fmt::format("it has committed another unit {}:{} than the master's {}:{}", reply.committed.epoch,
                           own->lsn, own->epoch, own->lsn));
      return false;
    }
  }
  if (reply.number != 0 && reply.number == peer->asked_number && reply.log_end.lsn < peer->acked_when_asked) {
    GiveUpOn(peer, peer->acked_when_asked,
             fmt::format("it had acknowledged LSN {}, and its log ends at LSN {}", peer->acked_when_asked,
                         reply.log_end.lsn));
    return false;
  }
  if (reply.number == 0 && reply.log_end.lsn < peer->acked.lsn) {
    if (now_ns - peer->asked_ns >= context_.timing().resend_after_ns / 8) AskToAlign(peer, now_ns);
    return false;
  }
  return true;
}

void Leader::GiveUpOn(Peer* peer, Lsn lsn, std::string why) {
  if (peer->lost_disk) return;
  peer->lost_disk = true;
  peer->located = false;
  peer->lost_lsn = lsn;
  context_.Send(peer->id, Condemn{epoch_, lsn});
  context_.out.Add(ReportLostReplica{peer->id, std::move(why)});
}

// The last point that both logs have, as far as the named ends tell. The follower verifies it.
std::optional<HistoryPoint> Leader::CommonPoint(const AlignReply& reply) const {
  for (const HistoryPoint& end : reply.ends) {
    const std::optional<HistoryPoint> own = context_.log.PointAt(end.lsn);
    if (own && own->chain == end.chain) return own;
    // It is committed there, so it is in this log, although its chain may not be remembered any more. Who
    // reads the log from there compares it.
    if (!own && end.lsn != 0 && end.lsn == reply.committed.lsn && end.lsn <= context_.commit_lsn) return end;
    // The same epoch goes on longer over there: it may contain our end of it.
    const HistoryPoint own_end = context_.log.EpochEnd(end.epoch);
    if (own_end.epoch == end.epoch && own_end.lsn < end.lsn) return own_end;
  }
  if (reply.more) return std::nullopt;
  return HistoryPoint();
}

void Leader::OnAlignReply(const ReplicaId& from, const AlignReply& reply, Nanos now_ns) {
  Peer* peer = Find(from);
  if (peer == nullptr || peer->lost_disk || reply.epoch != epoch_) return;
  if (reply.incarnation < peer->incarnation) return;
  peer->incarnation = reply.incarnation;
  if (!CheckPast(peer, reply, now_ns)) return;
  // A refusal of the first Append means that the common point lies lower. Those after a lost one are
  // refused one by one, with an answer each; one answer is enough.
  const bool lower = reply.refused && *reply.refused == peer->start_lsn;
  if (peer->located && !lower && now_ns - peer->located_ns < context_.timing().resend_after_ns / 8) return;
  const std::optional<HistoryPoint> common = CommonPoint(reply);
  if (!common) {
    OfferInstall(*peer);
    return;
  }
  peer->located = true;
  peer->located_ns = now_ns;
  peer->start_lsn = common->lsn;
  peer->probe = true;
  peer->next = *common;
  peer->progress_ns = now_ns;
  Ship(peer);
}

void Leader::Ship(Peer* peer) {
  if (!peer->located || peer->reading) return;
  const Lsn end = context_.log.end().lsn;
  if (!peer->probe && (peer->next.lsn >= end || peer->next.lsn > peer->acked.lsn + kWindowRecords)) return;
  peer->probe = false;
  peer->reading = true;
  context_.out.Add(ShipUnits{peer->id, epoch_, peer->next, context_.commit_lsn});
}

// RC8. One that is in sync leaves the ISR first: it makes no progress.
void Leader::OfferInstall(const Peer& peer) {
  context_.out.Add(InstallReplica{peer.id});
  if (proposals_.WaitSet().Contains(peer.id) || peer.acked.lsn >= std::max(start_lsn_, context_.commit_lsn)) return;
  context_.Send(peer.id, InstallOffer{epoch_, peer.acked.lsn});
}

void Leader::OnShipped(const ReplicaId& to, Epoch epoch, const HistoryPoint& end, Nanos now_ns) {
  Peer* peer = Find(to);
  if (peer == nullptr || epoch != epoch_) return;
  peer->reading = false;
  if (!peer->located) return;
  if (end.lsn > peer->next.lsn) {
    if (peer->next.lsn <= peer->acked.lsn) peer->progress_ns = now_ns;
    peer->next = end;
  }
  Ship(peer);
}

void Leader::OnShipFailed(const ReplicaId& to, Epoch epoch) {
  Peer* peer = Find(to);
  if (peer == nullptr || epoch != epoch_) return;
  peer->reading = peer->located = false;
  OfferInstall(*peer);
}

void Leader::OnAppendAck(const ReplicaId& from, const AppendAck& ack, Nanos now_ns) {
  if (context_.rules().count_own_epoch_only && ack.epoch != epoch_) return;  // RC2
  Peer* peer = Find(from);
  if (peer == nullptr || peer->lost_disk) return;
  if (context_.rules().ack_after_alignment) {
    const std::optional<HistoryPoint> own = context_.log.PointAt(ack.durable.lsn);
    // Below the commit LSN nothing depends on it, and the log may not know the point any more.
    const bool old = !own && ack.durable.lsn < context_.commit_lsn;
    if (!old && (!own || own->chain != ack.durable.chain)) return;  // RC2: it means another history
  }
  bool news = false;
  if (ack.incarnation >= peer->incarnation) {
    news = ack.apply_stalled && !peer->apply_stalled;
    peer->incarnation = ack.incarnation;
    peer->installed = ack.installed;
    peer->applied_lsn = ack.applied_lsn;
    peer->room = ack.room;
    peer->apply_stalled = ack.apply_stalled;
  }
  if (ack.durable.lsn > peer->acked.lsn) {
    peer->acked = ack.durable;
    peer->acked_epoch = ack.epoch;
    peer->progress_ns = now_ns;
    peer->lag.OnAcked(peer->acked.lsn, now_ns);
    NoteProgress(peer, now_ns);
    AdvanceCommit();
    Ship(peer);
  }
  if (news) ChangeIsr(now_ns);  // it may be about to end
  TickHandover(now_ns);
}

void Leader::NoteProgress(Peer* peer, Nanos now_ns) {
  if (peer->acked.lsn < peer->goal_lsn) return;
  peer->caught_up_ns = peer->goal_ns;
  peer->goal_lsn = context_.log.durable().lsn;
  peer->goal_ns = now_ns;
}

// With one other member there is nothing to compare, and without it there would be only this replica.
void Leader::CompareLags(Nanos now_ns) {
  for (Peer& peer : peers_) {
    Nanos others_ns = 0;
    size_t others = 0;
    for (const Peer& other : peers_) {
      if (other.id == peer.id || !context_.entry.isr.Contains(other.id)) continue;
      ++others;
      others_ns = std::max(others_ns, other.lag.Lag(now_ns));
    }
    peer.lag.Compare(others == 0 ? std::numeric_limits<int32_t>::max() : others_ns, now_ns);
  }
}

void Leader::OnLogMoved(Nanos now_ns) {
  AdvanceCommit();
  const Lsn durable = context_.log.durable().lsn;
  for (Peer& peer : peers_) {
    peer.lag.OnDurable(durable, peer.acked.lsn, now_ns);
    Ship(&peer);
  }
  TickHandover(now_ns);
}

// -- commit

Lsn Leader::AckedBy(const ReplicaId& id) const {
  if (id == context_.self()) {
    return context_.rules().own_disk_counts ? context_.log.durable().lsn : context_.log.end().lsn;
  }
  const Peer* peer = Find(id);
  return peer == nullptr || peer->lost_disk ? 0 : peer->acked.lsn;
}

void Leader::AdvanceCommit() {
  const ReplicaSet wait = proposals_.WaitSet().Union({context_.self()});
  std::array<Lsn, kMaxReplicas> acked;
  size_t count = 0;
  for (const ReplicaId& id : wait) acked[count++] = AckedBy(id);
  std::sort(acked.begin(), acked.begin() + count, std::greater<>());
  const Lsn target = acked[context_.rules().commit_needs_every_member ? count - 1 : count / 2];
  if (context_.rules().commit_from_epoch_start && target < start_lsn_) return;  // RC1
  if (target > context_.commit_lsn) {
    committed_here_ = target;
    context_.Commit(target);
  }
  // Whoever is in sync has what is committed.
  if (context_.entry.isr.size() >= context_.entry.replicas) all_lsn_ = std::max(all_lsn_, committed_here_);
  OpenIfApplied();
}

// What earlier masters have acknowledged must be seen by the first read.
void Leader::OpenIfApplied() {
  if (open_ || context_.commit_lsn < start_lsn_) return;
  if (context_.rules().opens_when_applied && context_.log.applied() < start_lsn_) return;
  open_ = true;
  context_.out.Add(OpenMastership{epoch_});
}

// -- who is in sync

void Leader::OnEntry(Nanos now_ns) {
  proposals_.OnEntry(context_.entry);
  handover_.OnEntry();
  UpdatePeers(now_ns);
  AdvanceCommit();
  ChangeIsr(now_ns);
}

// A guard has seen the process of a follower exit: a commit need not wait until its silence shows it.
void Leader::OnDeath(const ReplicaId& replica, uint64_t incarnation, Nanos now_ns) {
  Peer* peer = Find(replica);
  if (peer == nullptr) return;
  peer->dead_process = std::max(peer->dead_process, incarnation);
  peer->dead_ns = now_ns;
  ChangeIsr(now_ns);
}

bool Leader::MustLeave(const Peer& peer, Nanos now_ns) const {
  if (peer.lost_disk || peer.apply_stalled || peer.is_dead()) return true;
  const Nanos limit = context_.timing().evict_after_ns;
  if (now_ns - peer.heard_ns > limit) return true;  // no lease without it
  if (peer.lag.IsFarFor(context_.timing().evict_slow_after_ns, now_ns)) return true;
  return peer.acked.lsn < peer.goal_lsn && now_ns - peer.caught_up_ns > limit;
}

bool Leader::MayJoin(const Peer& peer, Nanos now_ns) const {
  if (peer.lost_disk || peer.apply_stalled || peer.is_dead()) return false;
  if (!peer.installed || now_ns < peer.rejoin_at_ns || peer.lag.is_far()) return false;
  if (now_ns - peer.heard_ns > context_.timing().evict_after_ns / 2) return false;
  const Lsn start = context_.rules().join_from_epoch_start ? start_lsn_ : 1;
  return peer.acked.lsn >= std::max(start, context_.commit_lsn);
}

bool Leader::ShouldGiveWay(Nanos now_ns) const {
  if (!active() || !context_.cut_off || !FrozenForLong(now_ns) || handover_.active()) return false;
  if (context_.entry.isr.size() <= context_.entry.min_isr) return false;  // nobody could take anybody out
  return std::any_of(peers_.begin(), peers_.end(), [&](const Peer& peer) {
    const Nanos since_ns = peer.hears_topology_since_ns;
    return since_ns != 0 && now_ns - since_ns >= context_.timing().give_way_ns &&
           context_.entry.isr.Contains(peer.id) && !MustLeave(peer, now_ns);
  });
}

// One CAS takes out who must leave and takes in who may join. Check and proposal are one step, and the
// wait set has the joiner from then on.
void Leader::ChangeIsr(Nanos now_ns) {
  if (handover_.proposed()) return;
  CompareLags(now_ns);
  PartitionEntry desired = context_.entry;
  ReplicaSet must_leave;
  for (Peer& peer : peers_) {
    const bool member = desired.isr.Contains(peer.id);
    if (member && MustLeave(peer, now_ns)) must_leave.Insert(peer.id);
    if (!member && MayJoin(peer, now_ns)) {
      desired.isr.Insert(peer.id);
      if (desired.learners.Contains(peer.id)) {
        desired.learners.Remove(peer.id);
        desired.assigned.Insert(peer.id);
      }
      peer.joined_ns = now_ns;
      peer.caught_up_ns = peer.goal_ns = now_ns;
    }
  }
  for (const ReplicaId& id : must_leave) {
    if (context_.rules().shrink_keeps_min_isr && desired.isr.size() <= desired.min_isr) break;  // I10
    desired.isr.Remove(id);
  }
  // Others have come in the places of those that are not in sync.
  if (desired.isr.size() >= desired.replicas) desired.assigned = desired.isr;
  // It must not promise either: it may have lost what it promised.
  for (const Peer& peer : peers_) {
    if (!peer.lost_disk || desired.isr.Contains(peer.id)) continue;
    desired.assigned.Remove(peer.id);
    desired.learners.Remove(peer.id);
  }
  const bool stalled = !must_leave.empty();
  if (!stalled) stalled_since_ns_ = 0;
  if (stalled && stalled_since_ns_ == 0) stalled_since_ns_ = now_ns;
  if (Propose(desired, now_ns) != ChangeResult::kProposed) return proposals_.Settle(now_ns);
  for (const ReplicaId& id : context_.entry.isr) {
    Peer* peer = Find(id);
    if (peer == nullptr || desired.isr.Contains(id)) continue;
    const bool soon = now_ns - peer->joined_ns < context_.timing().calm_after_ns;
    peer->rejoin_wait_ns =
        soon ? std::min(2 * peer->rejoin_wait_ns, context_.timing().max_rejoin_ns) : context_.timing().rejoin_after_ns;
    peer->rejoin_at_ns = now_ns + peer->rejoin_wait_ns;
  }
}

ChangeResult Leader::Propose(const PartitionEntry& desired, Nanos now_ns) {
  if (desired.SaysTheSame(context_.entry)) return ChangeResult::kDone;
  if (handover_.proposed()) return ChangeResult::kLater;
  return proposals_.Propose(desired, now_ns) ? ChangeResult::kProposed : ChangeResult::kLater;
}

// False: there are as many replicas as there may be.
bool Leader::AddLearner(const ReplicaId& learner, PartitionEntry* desired) const {
  if (desired->assigned.Contains(learner) || desired->learners.Contains(learner)) return true;
  if (desired->assigned.size() + desired->learners.size() >= kMaxReplicas) return false;
  desired->learners.Insert(learner);
  return true;
}

ChangeResult Leader::Assign(const ReplicaId& learner, const std::optional<ReplicaId>& leaves, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  if (leaves && !desired.isr.Contains(*leaves)) {
    desired.assigned.Remove(*leaves);
    desired.learners.Remove(*leaves);
  }
  if (!AddLearner(learner, &desired)) return ChangeResult::kNotAllowed;
  return Propose(desired, now_ns);
}

ChangeResult Leader::Add(const ReplicaId& learner, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  if (!AddLearner(learner, &desired)) return ChangeResult::kNotAllowed;
  const size_t count = desired.assigned.Union(desired.learners).size();
  desired.replicas = std::max(desired.replicas, static_cast<uint32_t>(count));
  return Propose(desired, now_ns);
}

void Leader::Tick(Nanos now_ns) {
  const Timing& timing = context_.timing();
  if (now_ns >= next_heartbeat_ns_) {
    next_heartbeat_ns_ = now_ns + timing.heartbeat_ns;
    SendHeartbeats(now_ns);
    // The news that there is room again may have been lost, and while nothing is written nothing else asks.
    for (Peer& peer : peers_) peer.probe |= peer.apply_stalled || peer.room < std::numeric_limits<uint64_t>::max();
  }
  for (Peer& peer : peers_) {
    NoteProgress(&peer, now_ns);
    const bool stuck =
        peer.located && peer.next.lsn > peer.acked.lsn && now_ns - peer.progress_ns >= timing.resend_after_ns;
    const bool silent = !peer.located && now_ns - peer.asked_ns >= timing.resend_after_ns;
    // It has aligned with nothing to acknowledge, and its first acknowledgement was lost.
    const bool unknown = peer.located && peer.acked.lsn == 0 && now_ns - peer.asked_ns >= timing.resend_after_ns;
    if (!peer.lost_disk && (stuck || silent || unknown)) AskToAlign(&peer, now_ns);
    Ship(&peer);
  }
  ChangeIsr(now_ns);
  OpenIfApplied();
  if (Peer* target = Find(handover_.target()); handover_.active() && target != nullptr) {
    target->probe = true;  // how far has it applied?
    Ship(target);
  }
  TickHandover(now_ns);
}

// A follower's own time is echoed in a later turn than that in which it came, so the lease held at a moment
// after that time: until then nobody else had committed anything.
void Leader::SendHeartbeats(Nanos now_ns) {
  const bool leased = (open_ && now_ns < LeaseEnd()) || !context_.rules().freshness_needs_lease;
  for (const Peer& peer : peers_) {
    Heartbeat heartbeat{epoch_, context_.config.incarnation, now_ns, context_.commit_lsn, 0, 0};
    if (leased && peer.echo_at_ns < now_ns) {
      heartbeat.echo_ns = peer.echo_ns;
      heartbeat.echo_process = peer.process;
    }
    context_.Send(peer.id, heartbeat);
    if (peer.lost_disk) context_.Send(peer.id, Condemn{epoch_, peer.lost_lsn});
  }
}

// -- what an operator asks for

bool Leader::BeginHandover(const ReplicaId& target, Nanos now_ns, Nanos deadline_ns) {
  if (!open_ || handover_.active() || target == context_.self()) return false;
  Peer* peer = Find(target);
  if (peer == nullptr || peer->lost_disk || !context_.entry.isr.Contains(target)) return false;
  handover_.Begin(target, deadline_ns);
  handover_asked_lsn_ = 0;
  peer->probe = true;
  Ship(peer);
  TickHandover(now_ns);
  return true;
}

bool Leader::BeginHold(Nanos deadline_ns) {
  if (!open_ || handover_.active()) return false;
  handover_.Hold(deadline_ns);
  return true;
}

bool Leader::Retire(Nanos now_ns, Nanos deadline_ns) {
  if (!handover_.holds()) return false;
  handover_.Retire(deadline_ns);
  TickHandover(now_ns);
  return true;
}

bool Leader::IsQuiet() const {
  const Lsn end = context_.log.end().lsn;
  return context_.commit_lsn == end && context_.log.applied() == end;
}

bool Leader::IsLevel(const Peer& peer) const {
  const Lsn end = context_.log.end().lsn;
  return peer.acked.lsn == end && context_.commit_lsn == end && peer.applied_lsn == end && proposals_.empty();
}

// The target learns with the next message what is committed, and its answer to the one after that says that it has
// applied it. If not, Tick asks again.
void Leader::AskWhetherApplied(Peer* target) {
  const Lsn end = context_.log.end().lsn;
  if (context_.commit_lsn < end || target->applied_lsn >= end) return;
  if (handover_asked_lsn_ != end) handover_asks_ = 0;
  handover_asked_lsn_ = end;
  if (handover_asks_++ >= kHandoverAsks) return;
  target->probe = true;
  Ship(target);
}

void Leader::TickHandover(Nanos now_ns) {
  if (!handover_.active()) return;
  if (handover_.target().IsNil()) {
    return handover_.Tick(IsQuiet() && proposals_.empty(), true, now_ns);
  }
  Peer* peer = Find(handover_.target());
  if (peer != nullptr && !handover_.proposed()) AskWhetherApplied(peer);
  const bool answers = peer != nullptr && now_ns - peer->heard_ns <= context_.timing().evict_after_ns;
  handover_.Tick(peer != nullptr && IsLevel(*peer), answers, now_ns);
}

uint64_t Leader::Room() const {
  uint64_t room = std::numeric_limits<uint64_t>::max();
  if (std::none_of(peers_.begin(), peers_.end(), [&](const Peer& peer) { return peer.room < room; })) return room;
  for (const ReplicaId& id : proposals_.WaitSet()) {
    const Peer* peer = Find(id);
    if (peer != nullptr) room = std::min(room, peer->room);
  }
  return room;
}

ChangeResult Leader::Remove(const ReplicaId& replica, Removal why, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  if (replica == context_.self()) return ChangeResult::kNotAllowed;  // it hands over first
  PartitionEntry desired = context_.entry;
  desired.isr.Remove(replica);
  desired.assigned.Remove(replica);
  desired.learners.Remove(replica);
  if (desired.isr.size() < desired.min_isr) return ChangeResult::kNotAllowed;  // I10
  if (why == Removal::kReplaced && desired.assigned.size() < desired.replicas) return ChangeResult::kNotAllowed;
  const size_t count = desired.assigned.Union(desired.learners).size();
  desired.replicas = std::min(desired.replicas, static_cast<uint32_t>(count));
  return Propose(desired, now_ns);
}

ChangeResult Leader::SetMinIsr(uint32_t min_isr, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  desired.min_isr = min_isr;
  if (min_isr == 0 || min_isr > desired.isr.size() || min_isr > desired.replicas) return ChangeResult::kNotAllowed;
  return Propose(desired, now_ns);
}

ChangeResult Leader::SetReplicas(uint32_t replicas, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  desired.replicas = replicas;
  if (replicas == 0 || replicas < desired.min_isr || replicas > kMaxReplicas) return ChangeResult::kNotAllowed;
  return Propose(desired, now_ns);
}

ChangeResult Leader::SetSplit(const std::optional<SplitOrder>& split, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  desired.split = split;
  if (desired.stage != PartitionStage::kServing) return ChangeResult::kNotAllowed;
  return Propose(desired, now_ns);
}

ChangeResult Leader::SetServing(Lsn opened_lsn, Nanos now_ns) {
  if (!active()) return ChangeResult::kNotMaster;
  PartitionEntry desired = context_.entry;
  if (desired.stage == PartitionStage::kServing && desired.opened_lsn == opened_lsn) return ChangeResult::kDone;
  if (desired.stage != PartitionStage::kBuilding || opened_lsn > context_.log.applied())
    return ChangeResult::kNotAllowed;
  desired.stage = PartitionStage::kServing;
  desired.opened_lsn = opened_lsn;
  return Propose(desired, now_ns);
}

std::vector<Leader::Following> Leader::Followers() const {
  std::vector<Following> followers;
  for (const Peer& peer : peers_) {
    followers.push_back({peer.id, peer.acked.lsn, peer.caught_up_ns, peer.heard_ns, peer.room});
  }
  return followers;
}

std::vector<Leader::Counted> Leader::CountedAcks() const {
  std::vector<Counted> counted;
  for (const Peer& peer : peers_) {
    if (peer.acked.lsn > 0 && !peer.lost_disk) counted.push_back({peer.id, peer.acked});
  }
  return counted;
}

std::string Leader::CheckInvariants() const {
  if (!active()) return "";
  if (committed_here_ != 0 && committed_here_ < start_lsn_) {
    return fmt::format("RC1: epoch {} has committed LSN {}, and begins at LSN {}", epoch_, committed_here_, start_lsn_);
  }
  if (open_ && context_.commit_lsn < start_lsn_)
    return "RC1: the mastership is open before its first record is committed";
  if (handover_.proposed() && handover_.waits_until_level() && context_.log.end().lsn != context_.commit_lsn) {
    return fmt::format("RC5: LSN {} was appended while a handover is proposed", context_.log.end().lsn);
  }
  for (const Peer& peer : peers_) {
    if (peer.acked.lsn > 0 && peer.acked_epoch != epoch_) {
      return fmt::format("RC2: an acknowledgement of epoch {} counts in epoch {}", peer.acked_epoch, epoch_);
    }
    if (peer.acked.lsn <= context_.commit_lsn) continue;
    const std::optional<HistoryPoint> own = context_.log.PointAt(peer.acked.lsn);
    if (!own || own->chain != peer.acked.chain) {
      return fmt::format("RC2: an acknowledgement of LSN {} counts, and names no point of the log", peer.acked.lsn);
    }
  }
  return "";
}

}  // namespace pando::replication
