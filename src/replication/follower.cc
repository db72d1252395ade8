#include "src/replication/follower.h"

#include <fmt/format.h>

#include <utility>

namespace pando::replication {

void Follower::Reset() {
  matched_epoch_ = 0;
  matched_ = acknowledged_ = HistoryPoint();
  master_commit_ = 0;
}

bool Follower::Refuses(const ReplicaId& from, Epoch epoch) {
  if (epoch >= context_.promised || !context_.rules().fence_appends) return false;
  context_.Send(from, Fenced{epoch, context_.promised});
  return true;
}

void Follower::OnHeartbeat(const ReplicaId& from, const Heartbeat& heartbeat, Nanos now_ns) {
  if (context_.rules().heartbeat_names_epoch && heartbeat.epoch < context_.promised) {
    context_.Send(from, Fenced{heartbeat.epoch, context_.promised});
    return;
  }
  if (grant_.IsStale(from, heartbeat.incarnation, heartbeat.epoch)) return;
  grant_.Give(from, heartbeat.incarnation, heartbeat.epoch, now_ns);
  const uint64_t process = context_.config.incarnation;
  context_.Send(from, HeartbeatAck{heartbeat.epoch, heartbeat.incarnation, heartbeat.sent_ns, process, now_ns,
                                   context_.hears_topology});
  if (heartbeat.echo_ns != 0 && heartbeat.echo_ns <= now_ns && heartbeat.echo_process == process) {
    if (next_.as_of_ns != 0 && context_.log.applied() >= next_.lsn) proven_ = std::exchange(next_, Fresh());
    // One at a time: the next heartbeat comes soon.
    if (next_.as_of_ns == 0 && heartbeat.echo_ns > proven_.as_of_ns) next_ = {heartbeat.echo_ns, heartbeat.commit_lsn};
  }
  if (heartbeat.epoch == matched_epoch_) {
    master_commit_ = std::max(master_commit_, heartbeat.commit_lsn);
    AdvanceCommit();
  }
}

std::optional<Nanos> Follower::FreshAsOf() const {
  if (next_.as_of_ns != 0 && context_.log.applied() >= next_.lsn) return next_.as_of_ns;
  if (proven_.as_of_ns == 0) return std::nullopt;
  return proven_.as_of_ns;
}

AlignReply Follower::Ends(Epoch epoch, Lsn limit) const {
  AlignReply reply;
  reply.epoch = epoch;
  reply.incarnation = context_.config.incarnation;
  reply.log_end = context_.log.end();
  reply.ends.reserve(kMaxNamedEnds);
  HistoryPoint end = context_.log.end();
  // What is committed is in the master's log, so one point there is enough.
  while (end.lsn > context_.commit_lsn && reply.ends.size() + 1 < kMaxNamedEnds) {
    if (end.lsn <= limit) reply.ends.push_back(end);
    end = context_.log.EpochEnd(end.epoch - 1);
  }
  reply.more = end.lsn > context_.commit_lsn;
  if (const auto committed = context_.log.PointAt(context_.commit_lsn); committed && committed->lsn != 0) {
    reply.ends.push_back(*committed);
    reply.committed = *committed;
  }
  return reply;
}

void Follower::OnAlignRequest(const ReplicaId& from, const AlignRequest& request) {
  if (Refuses(from, request.epoch)) return;
  if (!context_.installed) return;  // RC8: what it has is to be replaced
  AlignReply reply = Ends(request.epoch, context_.log.end().lsn);
  reply.number = request.number;
  context_.Send(from, std::move(reply));
  if (!context_.rules().ack_after_alignment) {
    context_.Send(from, Ack(request.epoch, context_.log.durable()));
  }
}

std::string Follower::OnAppend(const ReplicaId& from, const Append& append) {
  if (Refuses(from, append.epoch)) return "";
  if (!context_.installed) return "";  // RC8
  const std::optional<HistoryPoint> after = context_.log.PointAt(append.after.lsn);
  if (!after || after->chain != append.after.chain) {
    // Not here, or another history: the master goes further back.
    const Lsn end = context_.log.end().lsn;
    const Lsn limit = append.after.lsn == 0 ? 0 : append.after.lsn - 1;
    AlignReply reply = Ends(append.epoch, std::min(end, limit));
    reply.refused = append.after.lsn;
    context_.Send(from, std::move(reply));
    return "";
  }
  const bool store = context_.rules().promises_are_durable && context_.rules().followed_epoch_is_stored;
  context_.Promise(append.epoch, store);
  if (matched_epoch_ != append.epoch) {
    matched_epoch_ = append.epoch;
    matched_ = *after;
    acknowledged_ = HistoryPoint();
    master_commit_ = 0;
  }
  master_ = from;
  master_commit_ = std::max(master_commit_, append.commit_lsn);
  std::string wrong = Take(append, *after);
  if (!wrong.empty()) return wrong;
  // What is on its way to the disk is acknowledged once it is there. If nothing is, the master may have asked.
  Acknowledge(context_.log.durable().lsn >= matched_.lsn);
  return "";
}

// Goes through the units. Those that are here already are passed over; at the first that differs, the own
// tail ends. Of what is committed, not all is remembered: the next point that is tells whether it was the same.
std::string Follower::Take(const Append& append, const HistoryPoint& after) {
  HistoryPoint at = after, same = after;
  PayloadReader reader(append.units);
  for (auto item = reader.Next(); item != PayloadReader::Item::kEnd; item = reader.Next()) {
    const WriteUnit& unit = reader.unit;
    // Bytes of a peer that make no sense are not taken; the master will align again.
    if (item != PayloadReader::Item::kUnit || reader.partition != context_.config.partition) break;
    if (unit.first_lsn != at.lsn + 1 || unit.chain_before != at.chain || unit.epoch < at.epoch ||
        unit.epoch > append.epoch || UnitChain(unit) != unit.chain_after) {
      break;
    }
    const HistoryPoint end{unit.epoch, unit.last_lsn(), unit.chain_after};
    const std::optional<HistoryPoint> own = context_.log.PointAt(end.lsn);
    if (!own && end.lsn <= context_.commit_lsn) {
      at = end;
      continue;
    }
    if (!own || (own->chain != end.chain && context_.rules().unit_is_its_epoch)) {
      if (context_.log.end().lsn >= unit.first_lsn) {
        if (unit.first_lsn <= context_.commit_lsn) {
          return fmt::format("the master of epoch {} has another unit at LSN {}, which is committed here up to LSN {}",
                             append.epoch, unit.first_lsn, context_.commit_lsn);
        }
        // In an epoch, its master's log only grows, so one of two messages is not the master's. Until it has compared
        // the logs anew, nothing more is taken or acknowledged.
        if (matched_epoch_ == append.epoch && unit.first_lsn <= matched_.lsn && context_.rules().fence_appends) {
          Reset();
          return "";
        }
        context_.log.Supersede(at);
        if (matched_.lsn > at.lsn) matched_ = at;  // only if a rule is off: see CheckInvariants
      }
      if (!context_.log.Append(unit)) break;
    }
    at = same = end;
  }
  if (same.lsn > matched_.lsn) matched_ = same;
  return "";
}

std::optional<HistoryPoint> Follower::Acknowledgeable() const {
  if (!context_.installed) return std::nullopt;
  if (matched_epoch_ == 0 || matched_epoch_ < context_.promised || context_.stored_promise < matched_epoch_) {
    if (context_.rules().fence_appends || matched_epoch_ == 0) return std::nullopt;
  }
  const HistoryPoint durable = context_.log.durable();
  if (!context_.rules().ack_after_sync || durable.lsn >= matched_.lsn) return matched_;
  return durable;
}

void Follower::Acknowledge(bool repeat) {
  const std::optional<HistoryPoint> point = Acknowledgeable();
  if (!point || (!repeat && point->lsn <= acknowledged_.lsn)) return;
  if (point->lsn > acknowledged_.lsn) acknowledged_ = *point;
  AdvanceCommit();
  context_.Send(master_, Ack(matched_epoch_, *point));
}

AppendAck Follower::Ack(Epoch epoch, const HistoryPoint& durable) const {
  AppendAck ack;
  ack.epoch = epoch;
  ack.incarnation = context_.config.incarnation;
  ack.durable = durable;
  ack.applied_lsn = context_.log.applied();
  ack.installed = context_.installed;
  ack.room = context_.room;
  ack.apply_stalled = context_.apply_stalled;
  return ack;
}

void Follower::AdvanceCommit() {
  if (matched_epoch_ == 0) return;
  const Lsn durable = std::min(matched_.lsn, context_.log.durable().lsn);
  context_.Commit(std::min(master_commit_, durable));  // RC3
}

std::string Follower::CheckInvariants() const {
  if (matched_epoch_ == 0) return "";
  if (matched_epoch_ > context_.promised) return "I1: the replica follows an epoch above its promise";
  if (matched_.lsn > context_.log.end().lsn) return "I4: what matched the master's log was removed in the same epoch";
  if (acknowledged_.lsn > context_.log.durable().lsn) {
    return fmt::format("I8: LSN {} is acknowledged in epoch {}, and LSN {} is durable", acknowledged_.lsn,
                       matched_epoch_, context_.log.durable().lsn);
  }
  return "";
}

}  // namespace pando::replication
