#include "src/replication/replica_core.h"

#include <fmt/format.h>

#include <utility>

namespace pando::replication {

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
  if (quarantined_) return;
  std::visit([&](const auto& body) { On(message.from, body, now_ns); }, message.body);
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

void ReplicaCore::On(const ReplicaId&, const Resign&, Nanos) {}
void ReplicaCore::On(const ReplicaId&, const Condemn&, Nanos) {}

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
  if (follower_.grant().OnDeath(notice.replica, notice.incarnation, now_ns)) election_.OnDeath(now_ns);
}

void ReplicaCore::SeeMaster(Epoch epoch) {
  context_.NoteEpoch(epoch);
  if (epoch < context_.promised) return;
  if (leader_.active() && epoch > leader_.epoch()) StepDown(fmt::format("epoch {} has a master", epoch));
  if (epoch > context_.promised) election_.OnHigherEpoch();
}

void ReplicaCore::Tick(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (quarantined_) return;
  if (leader_.active()) leader_.Tick(now_ns);
  election_.Tick(leader_.epoch(), now_ns);
}

void ReplicaCore::OnAppended(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnLogMoved(now_ns);
}

void ReplicaCore::OnDurable(Nanos now_ns) {
  turn_ns_ = now_ns;
  if (quarantined_) return;
  if (leader_.active()) {
    leader_.OnLogMoved(now_ns);
  } else {
    follower_.OnDurable();
  }
}

void ReplicaCore::OnPromiseStored(Epoch epoch, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (quarantined_) return;
  CHECK_LE(epoch, context_.promised) << "a promise was stored that was never given";
  context_.stored_promise = std::max(context_.stored_promise, epoch);
  if (!leader_.active()) follower_.OnDurable();
  election_.OnPromiseStored(now_ns);
}

void ReplicaCore::OnShipped(const ReplicaId& to, Epoch epoch, const HistoryPoint& end, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnShipped(to, epoch, end, now_ns);
}

void ReplicaCore::OnShipFailed(const ReplicaId& to, Epoch epoch, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (leader_.active()) leader_.OnShipFailed(to, epoch);
}

void ReplicaCore::OnTopology(const PartitionEntry& entry, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (quarantined_) return;
  Learn(entry, now_ns);
}

void ReplicaCore::OnCasDone(const OpId& op, CasOutcome outcome, const PartitionEntry& entry, Nanos now_ns) {
  turn_ns_ = now_ns;
  if (quarantined_) return;
  if (outcome != CasOutcome::kUnknown) Learn(entry, now_ns);
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

ChangeResult ReplicaCore::Remove(const ReplicaId&, Nanos) { return ChangeResult::kNotAllowed; }
ChangeResult ReplicaCore::SetMinIsr(uint32_t, Nanos) { return ChangeResult::kNotAllowed; }
ChangeResult ReplicaCore::SetReplicas(uint32_t, Nanos) { return ChangeResult::kNotAllowed; }
bool ReplicaCore::Handover(const ReplicaId&, Nanos, Nanos) { return false; }
void ReplicaCore::OnApplied(Nanos now_ns) { turn_ns_ = now_ns; }
void ReplicaCore::OnRoom(uint64_t, bool, Nanos now_ns) { turn_ns_ = now_ns; }
std::optional<Nanos> ReplicaCore::FreshAsOf() const { return std::nullopt; }
SessionState ReplicaCore::SessionCovers(Epoch, Lsn) const { return SessionState::kNotYet; }

WriteVerdict ReplicaCore::JudgeWrite(WriteLevel, uint64_t, Nanos now_ns) const {
  if (quarantined_ || discarded_) return WriteVerdict::kOutOfService;
  if (!leader_.active()) return WriteVerdict::kNotMaster;
  if (!leader_.is_open()) return WriteVerdict::kOpening;
  return leader_.AcceptsWrites(now_ns) ? WriteVerdict::kAccepted : WriteVerdict::kFrozen;
}

void ReplicaCore::Learn(const PartitionEntry& entry, Nanos now_ns) {
  if (entry.revision < context_.entry.revision || !entry.known()) return;
  if (entry.revision == context_.entry.revision) {
    if (leader_.active()) leader_.OnEntryAgain(entry);
    return;
  }
  context_.entry = entry;
  context_.NoteEpoch(entry.epoch);
  const bool first = !std::exchange(saw_entry_, true);
  if (leader_.active() && (entry.epoch > leader_.epoch() || entry.master != context_.self())) {
    if (!election_.campaigning() || entry.master != context_.self()) {
      StepDown(fmt::format("the topology names another master, of epoch {}", entry.epoch));
    }
  }
  if (election_.OnEntry(now_ns)) {
    if (leader_.active()) leader_.End("it has won a higher epoch");
    follower_.Reset();
    leader_.Begin(entry, false, now_ns);
    return;
  }
  if (leader_.active() && entry.epoch > leader_.epoch()) StepDown("the topology has a higher epoch");
  if (leader_.active()) {
    leader_.OnEntry(now_ns);
    return;
  }
  if (!first || entry.master != context_.self()) return;
  if (!context_.rules().start_ends_mastership && entry.epoch >= recovered_promise_ &&
      context_.log.end().epoch == entry.epoch) {
    leader_.Begin(entry, true, now_ns);
    return;
  }
  if (recovered_promise_ == context_.promised) election_.OnNamedAtStart(now_ns);
}

void ReplicaCore::StepDown(std::string why) {
  leader_.End(std::move(why));
  follower_.Reset();
}

void ReplicaCore::Quarantine(std::string why) {
  StepDown("the replica is quarantined");
  election_.OnHigherEpoch();
  quarantined_ = true;
  context_.out.Add(QuarantineReplica{std::move(why)});
}

std::optional<Mastership> ReplicaCore::Serving() const {
  if (quarantined_ || !leader_.is_open()) return std::nullopt;
  return Mastership{leader_.epoch(), context_.config.incarnation};
}

bool ReplicaCore::LeaseHolds(const Mastership& mastership, Nanos fresh_now_ns) const {
  if (Serving() != mastership) return false;
  return (context_.rules().lease_by_fresh_clock ? fresh_now_ns : turn_ns_) < leader_.LeaseEnd();
}

std::string_view ReplicaCore::role() const {
  if (quarantined_) return "quarantined";
  if (leader_.active()) return leader_.is_open() ? "master" : "new master";
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
  if (std::string wrong = leader_.CheckInvariants(); !wrong.empty()) return wrong;
  return follower_.CheckInvariants();
}

}  // namespace pando::replication
