// Election: how a replica becomes master, and what it promises to others.
//
// A candidate promises a new epoch itself, asks every assigned replica for the same promise, and then
// tries to write itself into the topology as master, with a CAS on the revision that it began with. Only
// that CAS decides. The promises make sure that the old master can commit and serve nothing meanwhile,
// and that a node that is cut off from the others cannot fence them.
//
// Threads: that of the partition.
//
// Invariants
//   RC4  a promotion has promises of min_isr assigned replicas, the candidate's among them, and the
//        candidate is a member of the ISR.
#pragma once

#include <array>
#include <optional>

#include "src/replication/core_context.h"
#include "src/replication/follower.h"
#include "src/replication/messages.h"

namespace pando::replication {

class Election {
 public:
  Election(CoreContext& context, Follower& follower) : context_(context), follower_(follower) {}

  // `leads`: this replica is master of that epoch; 0: it is not.
  void Tick(Epoch leads, Nanos now_ns);
  void OnPromiseRequest(const ReplicaId& from, const PromiseRequest& request, Epoch leads, Nanos now_ns);
  void OnPromiseReply(const ReplicaId& from, const PromiseReply& reply, Nanos now_ns);
  void OnCampaignNow(Epoch leads, Nanos now_ns);
  void OnPromiseStored(Nanos now_ns);
  // The master that this replica granted to uses no lease any more: it is dead, or has resigned. Its vote
  // is not waited for.
  void OnMasterGone(const ReplicaId& master, Nanos now_ns);
  // The own mastership ended because of the disk: others have the first turn.
  void StandBack(Nanos now_ns);
  // The master has resigned, and the topology may already say to whom it has handed over: that one has the first turn.
  void AwaitNews(Nanos now_ns);
  // A newer entry is known. Returns whether it is this campaign's.
  bool OnEntry(Nanos now_ns);
  // The topology names this replica as master of an epoch that it did not campaign for: the old master
  // hands over, or an operator forces it. Once the promise of that epoch is stored and nobody else can have
  // a lease, Takes is true, and the mastership may begin.
  void OnNamed(Nanos now_ns);
  bool Takes(Nanos now_ns) const;
  // It has begun. If it ends, only a campaign begins another one.
  void OnTaken() { named_ = 0; }
  // Somebody else has become master: it has the first turn.
  void OnOtherMaster(Nanos now_ns);
  // The first entry since the start names this replica as master. The only campaign that waits for
  // nothing, because nobody else can be master at that revision.
  void OnNamedAtStart(Nanos now_ns);
  // Somebody leads or promised a higher epoch than this campaign's, or the partition is retired.
  void OnHigherEpoch();
  void OnCasDone(const OpId& op, CasOutcome outcome, Nanos now_ns);
  // What was said to that one before, or by it, may have been lost.
  void OnConnected(const ReplicaId& other, Nanos now_ns);
  bool campaigning() const { return epoch_ != 0; }

 private:
  struct Vote {
    ReplicaId replica;
    HistoryPoint end;
    bool stands_back = false;
  };

  bool MayBegin(Epoch leads, Nanos now_ns) const;
  void Begin(Nanos now_ns);
  Nanos Wait(Nanos most);
  void GiveUp(Nanos now_ns);
  bool CannotWin() const;
  bool IsBetter(const Vote& vote) const;
  void Proceed(Nanos now_ns);
  ReplicaSet Voters() const;
  const Vote* Better() const;
  void SendCas(Nanos now_ns);

  CoreContext& context_;
  Follower& follower_;
  // -- the campaign
  Epoch epoch_ = 0;  // 0: none
  uint64_t revision_ = 0;
  Nanos began_ns_ = 0, asked_ns_ = 0;
  bool sent_cas_ = false, in_doubt_ = false, yielded_ = false;
  OpId op_;
  Nanos read_ns_ = 0;
  std::array<Vote, kMaxReplicas> votes_;
  size_t vote_count_ = 0;
  ReplicaSet refused_;  // those that have promised as much to others
  ReplicaId gone_;      // the last master, if it is known to be gone
  Epoch named_ = 0;     // OnNamed
  // -- between campaigns
  Nanos next_try_ns_ = 0;
  bool waited_ = false;  // next_try_ns_ was drawn for the present silence
  uint32_t tries_ = 0;
  // -- the promise that waits to be durable
  Epoch promised_to_epoch_ = 0;
  ReplicaId promised_to_;
  bool reply_due_ = false;
};

}  // namespace pando::replication
