// HostedReplica: how it takes its partition over without a promotion, because an operator says that too few
// replicas are left to promote one. And how it changes min_isr, which that lowers.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "src/base/hash.h"
#include "src/io/timed_wait.h"
#include "src/replication/hosted_replica.h"

namespace pando::replication {

namespace {

constexpr Nanos kLookNs = 20 * kMillisecond, kReadAgainNs = 500 * kMillisecond;
// A replica that hears no master any more knows that after so long, at the latest.
constexpr Nanos kHearNs = 1500 * kMillisecond;
// The own changes of the record, as of who is in sync, may come first.
constexpr int kTries = 5;

}  // namespace

void HostedReplica::BeginForce(ForceOrder order, ForceOutcome outcome) {
  if (closing_ || core_ == nullptr || forcing_) {
    *outcome = forcing_ ? Error(Code::kOverloaded,
                                "partition {}: another forced failover is under way on this node; look at kvadmin "
                                "cluster status",
                                id_)
                        : NotServing();
    return;
  }
  forcing_ = true;
  tasks_.Spawn(RunForce(order, std::move(outcome)));
}

Task<void> HostedReplica::RunForce(ForceOrder order, ForceOutcome outcome) {
  Result<ForcedMastership> done = co_await Force(order);
  forcing_ = false;
  *outcome = std::move(done);
}

bool HostedReplica::IsMember() const {
  const PartitionRecord& r = record_.record;
  return std::any_of(r.isr.begin(), r.isr.end(), [this](const auto& m) { return m.replica == replica(); });
}

Status HostedReplica::CheckOrder(const ForceOrder& order) const {
  const PartitionRecord& r = record_.record;
  if (r.epoch == order.epoch && r.lineage == order.lineage) return Status();
  return Error(Code::kInvalidArgument,
               "partition {}: its epoch is {} and its lineage {}, and not {} and {} any more: an election, or another "
               "failover, has changed its master meanwhile. Look at kvadmin cluster status",
               id_, r.epoch, r.lineage, order.epoch, order.lineage);
}

Status HostedReplica::WhyNotForced(ForceVerdict verdict) const {
  switch (verdict) {
    case ForceVerdict::kServes:
      return Error(Code::kInvalidArgument,
                   "partition {}: it is served by this node, so nothing is forced; kvadmin failover without --force "
                   "hands it over",
                   id_);
    case ForceVerdict::kHearsMaster:
      return Error(Code::kInvalidArgument,
                   "partition {}: this node hears its master, so nothing is forced; kvadmin failover without --force "
                   "hands it over",
                   id_);
    case ForceVerdict::kMayLose:
      return Error(Code::kInvalidArgument,
                   "partition {}: the replica on this node is not in sync, so it may lack what was acknowledged; "
                   "--accept-loss accepts that",
                   id_);
    case ForceVerdict::kRetired:
      return Error(Code::kInvalidArgument, "partition {}: it is retired, and nobody is to lead it", id_);
    case ForceVerdict::kNotAssigned:
      return Error(Code::kInvalidArgument,
                   "partition {}: the replica on this node does not count, as far as it knows the topology", id_);
    case ForceVerdict::kOutOfService:
      return Error(Code::kInvalidArgument, "partition {}: the replica on this node is out of service", id_);
    case ForceVerdict::kProposed: break;
  }
  return Status();
}

// One for each node that has another replica. Nobody has had their UUIDs.
ReplicaSet HostedReplica::NameLearners() {
  std::set<NodeId> nodes;
  const PartitionRecord& r = record_.record;
  for (const auto* replicas : {&r.isr, &r.evicted, &r.learners}) {
    for (const ReplicaRecord& of : *replicas) {
      if (of.node != host_.node && host_.members.contains(of.node)) nodes.insert(of.node);
    }
  }
  ReplicaSet learners;
  newcomers_.clear();
  for (const NodeId node : nodes) {
    const ReplicaId learner =
        HashUuid(fmt::format("{} {} {} {}", replica().ToString(), node, host_.incarnation, host_.reactor.Random()));
    newcomers_[learner] = node;
    learners.Insert(learner);
  }
  return learners;
}

ForceVerdict HostedReplica::AskToForce(const ReplicaSet& learners, bool accept_loss) {
  ForceVerdict verdict = ForceVerdict::kOutOfService;
  Ask([&](ReplicaCore& core, Nanos now_ns) { verdict = core.Force(learners, accept_loss, now_ns); });
  return verdict;
}

Task<Result<ForcedMastership>> HostedReplica::Force(ForceOrder order) {
  const Nanos deadline_ns = host_.reactor.NowNs() + order.timeout_ns;
  for (int i = 0; i < kTries; ++i) {
    bool was_member = false;
    CO_ASSIGN_OR_RETURN(const bool landed, co_await ForceOnce(&order, deadline_ns, &was_member));
    if (!landed) continue;
    ForcedMastership forced;
    forced.lineage = order.lineage + 1;
    forced.epoch = record_.record.epoch;
    forced.was_member = was_member;
    while (core_ != nullptr && !core_->Serving() && host_.reactor.NowNs() < deadline_ns) {
      co_await Sleep(host_.reactor, kLookNs);
    }
    forced.open = core_ != nullptr && core_->Serving().has_value();
    LOG(WARNING) << "partition " << id_ << ": an operator has made this node its master, in epoch " << forced.epoch
                 << " of lineage " << forced.lineage << (forced.was_member ? "" : ", and has accepted a loss");
    co_return forced;
  }
  co_return Error(Code::kUnavailable, "partition {}: its record changes all the time; look at kvadmin cluster status",
                  id_);
}

// False: the record was changed first, in another way than the order forbids.
Task<Result<bool>> HostedReplica::ForceOnce(const ForceOrder* order, Nanos deadline_ns, bool* was_member) {
  Result<Versioned<PartitionRecord>> read = co_await host_.topology->Read(id_);
  if (!read.ok()) {
    co_return Error(
        Code::kUnavailable,
        "partition {}: the topology does not answer, and only it can name a master; nothing was changed: {}", id_,
        read.status().message());
  }
  OnRecord(*read);
  const Nanos hears_until_ns = std::min(host_.reactor.NowNs() + kHearNs, deadline_ns);
  ForceVerdict verdict = ForceVerdict::kOutOfService;
  Revision expected = 0;
  while (core_ != nullptr && !closing_) {
    CO_RETURN_IF_ERROR(CheckOrder(*order));
    expected = record_.revision;
    *was_member = IsMember();
    verdict = AskToForce(NameLearners(), order->accept_loss);
    if (verdict != ForceVerdict::kHearsMaster || host_.reactor.NowNs() >= hears_until_ns) break;
    co_await Sleep(host_.reactor, kLookNs);
  }
  CO_RETURN_IF_ERROR(WhyNotForced(verdict));
  Nanos read_ns = host_.reactor.NowNs();
  while (core_ != nullptr && record_.revision <= expected) {
    if (host_.reactor.NowNs() >= deadline_ns) {
      co_return Error(Code::kUnavailable,
                      "partition {}: the topology has not said in time whether this node is its master now; look at "
                      "kvadmin cluster status",
                      id_);
    }
    co_await Sleep(host_.reactor, kLookNs);
    if (host_.reactor.NowNs() - read_ns < kReadAgainNs) continue;
    read_ns = host_.reactor.NowNs();
    ReadTopology again;
    Do(again);
  }
  if (core_ == nullptr) {
    co_return Error(Code::kUnavailable,
                    "partition {}: this node ends, and it is unknown whether the topology names it; look at kvadmin "
                    "cluster status",
                    id_);
  }
  // Only this replica writes that.
  co_return record_.record.lineage == order->lineage + 1 && record_.record.master == replica();
}

// -- the number that must be in sync, which a forced failover lowers

Result<bool> HostedReplica::SetMinIsr(uint32_t min_isr) {
  if (core_ == nullptr || !core_->leader().active()) return NotServing();
  const ChangeResult result = Change([&](ReplicaCore& core, Nanos now_ns) { return core.SetMinIsr(min_isr, now_ns); });
  if (result == ChangeResult::kNotMaster) return NotServing();
  if (result == ChangeResult::kNotAllowed) {
    return Error(
        Code::kInvalidArgument,
        "partition {}: min_isr cannot be {}: it must be at least 1, and at most as many as are in sync ({}) and "
        "as there should be ({})",
        id_, min_isr, record_.record.isr.size(), record_.record.replicas);
  }
  return result == ChangeResult::kDone;
}

}  // namespace pando::replication
