#include "src/replication/election.h"

#include <algorithm>

namespace pando::replication {
namespace {

bool IsLonger(const HistoryPoint& a, const HistoryPoint& b) {
  return a.epoch != b.epoch ? a.epoch > b.epoch : a.lsn > b.lsn;
}

}  // namespace

// -- promises to others

void Election::OnPromiseRequest(const ReplicaId& from, const PromiseRequest& request, Epoch leads, Nanos now_ns) {
  context_.NoteEpoch(request.epoch);
  PromiseReply reply;
  reply.epoch = request.epoch;
  reply.highest = context_.promised;
  reply.revision = context_.entry.revision;
  const bool again = request.epoch == context_.promised && promised_to_ == from && promised_to_epoch_ == request.epoch;
  const bool knows_better = context_.entry.revision > request.revision;
  const bool free = leads == 0 && follower_.grant().Allows(from, context_.self(), now_ns);
  if (!again && (request.epoch <= context_.promised || knows_better || !free)) {
    context_.Send(from, reply);
    return;
  }
  if (!again) {
    OnHigherEpoch();
    context_.Promise(request.epoch, context_.rules().promises_are_durable);
    promised_to_ = from;
    promised_to_epoch_ = request.epoch;
    // It has the first turn.
    next_try_ns_ = now_ns + context_.timing().campaign_ns + context_.RandomBelow(context_.timing().max_backoff_ns);
  }
  reply_due_ = true;
  OnPromiseStored(now_ns);
}

void Election::OnPromiseStored(Nanos now_ns) {
  if (context_.stored_promise < context_.promised) return;
  if (reply_due_ && promised_to_epoch_ == context_.promised) {
    PromiseReply reply;
    reply.epoch = promised_to_epoch_;
    reply.promised = true;
    reply.highest = context_.promised;
    reply.revision = context_.entry.revision;
    reply.end = context_.log.durable();
    reply.stands_back = context_.StandsBack();
    context_.Send(promised_to_, reply);
  }
  reply_due_ = false;
  Proceed(now_ns);
}

// -- the own campaign

bool Election::MayBegin(Epoch leads, Nanos now_ns) const {
  const PartitionEntry& entry = context_.entry;
  if (campaigning() || !entry.known() || now_ns < next_try_ns_ || context_.CannotServe()) return false;
  if (entry.retired() && context_.rules().retired_is_final) return false;
  if (context_.rules().promotes_member && !entry.isr.Contains(context_.self())) return false;
  // A master that meets a promise above its epoch must win a higher one, or it commits nothing.
  if (leads != 0 && context_.highest_seen <= leads) return false;
  return follower_.grant().Allows(context_.self(), context_.self(), now_ns);
}

void Election::Tick(Epoch leads, Nanos now_ns) {
  if (campaigning()) {
    if (now_ns - began_ns_ >= context_.timing().campaign_ns && (!sent_cas_ || in_doubt_)) {
      GiveUp(now_ns);
      return;
    }
    if (!sent_cas_ && now_ns - asked_ns_ >= context_.timing().resend_after_ns) {
      asked_ns_ = now_ns;
      for (const ReplicaId& id : context_.entry.assigned) {
        if (id != context_.self()) context_.Send(id, PromiseRequest{epoch_, revision_});
      }
    }
    if (in_doubt_ && now_ns - read_ns_ >= context_.timing().cas_retry_ns) {
      read_ns_ = now_ns;
      context_.out.Add(ReadTopology{});
    }
    Proceed(now_ns);
    return;
  }
  if (leads == 0 && !follower_.grant().Allows(context_.self(), context_.self(), now_ns)) {
    waited_ = false;
    tries_ = 0;
    return;
  }
  // Candidates that begin together fence each other, so each waits a little time of its own.
  if (!waited_) {
    waited_ = true;
    next_try_ns_ = std::max(next_try_ns_, now_ns + Wait(60 * kMillisecond));
    return;
  }
  if (MayBegin(leads, now_ns)) Begin(now_ns);
}

// A replica with a slow disk leaves the first turn to the others.
Nanos Election::Wait(Nanos most) {
  return context_.RandomBelow(most) + (context_.StandsBack() ? context_.timing().slow_disk_wait_ns : 0);
}

void Election::OnMasterGone(const ReplicaId& master, Nanos now_ns) {
  gone_ = master;
  waited_ = true;
  next_try_ns_ = now_ns + Wait(20 * kMillisecond);
}

void Election::StandBack(Nanos now_ns) {
  waited_ = true;
  next_try_ns_ = now_ns + context_.timing().campaign_ns + context_.RandomBelow(context_.timing().max_backoff_ns);
}

void Election::AwaitNews(Nanos now_ns) {
  waited_ = true;
  next_try_ns_ = std::max(next_try_ns_, now_ns + context_.timing().cas_retry_ns + Wait(60 * kMillisecond));
}

void Election::OnOtherMaster(Nanos now_ns) {
  gone_ = ReplicaId();
  next_try_ns_ = std::max(
      next_try_ns_, now_ns + context_.timing().max_backoff_ns + context_.RandomBelow(context_.timing().max_backoff_ns));
}

void Election::OnNamed(Nanos now_ns) {
  OnHigherEpoch();
  named_ = context_.entry.epoch;
  // A campaign of its own would begin a higher epoch before the promise of this one is stored.
  waited_ = true;
  next_try_ns_ = now_ns + context_.timing().campaign_ns;
  context_.Promise(named_, context_.rules().promises_are_durable && context_.rules().followed_epoch_is_stored);
  OnPromiseStored(now_ns);
}

bool Election::Takes(Nanos now_ns) const {
  return named_ != 0 && named_ == context_.promised && named_ == context_.stored_promise &&
         named_ == context_.entry.epoch && context_.entry.master == context_.self() &&
         (follower_.grant().HasRunOut(now_ns) || !context_.rules().grant_runs_out_first);
}

void Election::OnNamedAtStart(Nanos now_ns) {
  if (context_.entry.epoch < context_.promised) return;  // somebody else may have won since
  Begin(now_ns);
}

void Election::OnCampaignNow(Epoch leads, Nanos now_ns) {
  if (leads != 0 || !follower_.grant().HasRunOut(now_ns)) return;
  next_try_ns_ = now_ns;
  waited_ = true;
  if (MayBegin(leads, now_ns)) Begin(now_ns);
}

void Election::Begin(Nanos now_ns) {
  epoch_ = std::max({context_.promised, context_.entry.epoch, context_.highest_seen}) + 1;
  revision_ = context_.entry.revision;
  began_ns_ = asked_ns_ = now_ns;
  sent_cas_ = in_doubt_ = yielded_ = false;
  vote_count_ = 0;
  refused_ = ReplicaSet();
  named_ = 0;
  promised_to_ = context_.self();
  promised_to_epoch_ = epoch_;
  reply_due_ = false;
  context_.Promise(epoch_, context_.rules().promises_are_durable);
  for (const ReplicaId& id : context_.entry.assigned) {
    if (id != context_.self()) context_.Send(id, PromiseRequest{epoch_, revision_});
  }
  Proceed(now_ns);
}

void Election::OnConnected(const ReplicaId& other, Nanos now_ns) {
  if (campaigning()) {
    if (!sent_cas_ && context_.entry.assigned.Contains(other)) context_.Send(other, PromiseRequest{epoch_, revision_});
  } else if (promised_to_ == other && promised_to_epoch_ == context_.promised) {
    reply_due_ = true;
    OnPromiseStored(now_ns);
  }
}

void Election::GiveUp(Nanos now_ns) {
  epoch_ = 0;
  tries_ = std::min(tries_ + 1, 4u);
  next_try_ns_ = now_ns + context_.RandomBelow(context_.timing().max_backoff_ns * tries_);
}

void Election::OnHigherEpoch() { epoch_ = named_ = 0; }

// Candidates that began together have fenced each other: better to try again soon than to wait.
bool Election::CannotWin() const {
  size_t possible = 0;
  for (const ReplicaId& id : context_.entry.assigned) possible += id != gone_ && !refused_.Contains(id);
  return possible < context_.entry.min_isr;
}

void Election::OnPromiseReply(const ReplicaId& from, const PromiseReply& reply, Nanos now_ns) {
  context_.NoteEpoch(reply.highest);
  if (!campaigning() || reply.epoch != epoch_ || sent_cas_) return;
  if (reply.revision > context_.entry.revision) context_.out.Add(ReadTopology{});
  if (!reply.promised) {
    if (reply.highest >= epoch_ && context_.entry.assigned.Contains(from)) refused_.Insert(from);
    if (!CannotWin()) return;
    epoch_ = 0;
    tries_ = std::min(tries_ + 1, 4u);
    waited_ = true;
    next_try_ns_ = now_ns + Wait(30 * kMillisecond * tries_);
    return;
  }
  for (size_t i = 0; i < vote_count_; ++i) {
    if (votes_[i].replica == from) return;
  }
  if (vote_count_ == votes_.size()) return;
  votes_[vote_count_++] = {from, reply.end, reply.stands_back};
  Proceed(now_ns);
}

ReplicaSet Election::Voters() const {
  ReplicaSet voters{context_.self()};
  for (size_t i = 0; i < vote_count_; ++i) voters.Insert(votes_[i].replica);
  return voters.Intersection(context_.entry.assigned);
}

// Any member may go on, so this is only a preference: no slow disk, and then a long log.
bool Election::IsBetter(const Vote& vote) const {
  if (!context_.entry.isr.Contains(vote.replica)) return false;
  if (vote.stands_back != context_.StandsBack()) return context_.StandsBack();
  return IsLonger(vote.end, context_.log.end());
}

const Election::Vote* Election::Better() const {
  for (size_t i = 0; i < vote_count_; ++i) {
    if (IsBetter(votes_[i])) return &votes_[i];
  }
  return nullptr;
}

void Election::Proceed(Nanos now_ns) {
  if (!campaigning() || sent_cas_ || context_.stored_promise < epoch_ || context_.promised != epoch_) return;
  const ReplicaSet voters = Voters();
  if (context_.rules().promotion_needs_promises) {
    if (voters.size() < context_.entry.min_isr) return;
    ReplicaSet awaited = context_.entry.isr;
    awaited.Remove(gone_);
    const bool all = awaited.IsSubsetOf(voters);
    if (!all && now_ns - began_ns_ < context_.timing().vote_wait_ns) return;
    const Vote* better = Better();
    if (better != nullptr && now_ns - began_ns_ < context_.timing().better_wait_ns) {
      if (!yielded_) context_.Send(better->replica, CampaignNow{epoch_});
      yielded_ = true;
      return;
    }
  }
  SendCas(now_ns);
}

// The new ISR is of those that promised, filled up to min_isr with members that did not answer: commit
// then waits for them.
void Election::SendCas(Nanos now_ns) {
  PartitionEntry desired = context_.entry;
  desired.epoch = epoch_;
  desired.master = context_.self();
  desired.isr = Voters().Intersection(context_.entry.isr).Union({context_.self()});
  for (const ReplicaId& id : context_.entry.isr) {
    if (desired.isr.size() >= desired.min_isr || !context_.rules().promotion_keeps_min_isr) break;
    desired.isr.Insert(id);
  }
  op_ = context_.NewOp();
  desired.op_id = op_;
  sent_cas_ = true;
  read_ns_ = now_ns;
  context_.out.Add(CasTopology{desired});
}

bool Election::OnEntry(Nanos now_ns) {
  if (!campaigning()) return false;
  if (context_.entry.epoch == epoch_ && context_.entry.op_id == op_ && sent_cas_) {
    epoch_ = 0;
    tries_ = 0;
    return true;
  }
  // The CAS of this campaign compares an older revision, so it cannot land any more.
  GiveUp(now_ns);
  return false;
}

void Election::OnCasDone(const OpId& op, CasOutcome outcome, Nanos now_ns) {
  if (!campaigning() || !sent_cas_ || op != op_) return;
  if (outcome == CasOutcome::kConflict) {
    GiveUp(now_ns);
  } else if (outcome == CasOutcome::kUnknown) {
    in_doubt_ = true;
    read_ns_ = now_ns;
    context_.out.Add(ReadTopology{});
  }
}

}  // namespace pando::replication
