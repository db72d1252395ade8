// HostedReplica: what the topology says of its partition, and what operators and nodes ask of a master about its
// replicas. The core proposes the change; whoever asked asks again until the topology shows it.
#include <algorithm>

#include "src/base/hash.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/partition_record.h"

namespace pando::replication {

bool WasRemoved(const PartitionRecord& record, NodeId node, const ReplicaState& state) {
  const bool older = state.lineage != 0 && state.lineage < record.lineage;
  if (record.state == PartitionStage::kRetired) {
    // A new, empty replica of no lineage yet may be there for the next one, of which the record is about to tell.
    return NodeOf(record, state.replica) || !state.installed || older || state.lineage == record.lineage;
  }
  if (record.state == PartitionStage::kBuilding && older) return true;  // of a half that was given up
  if (NodeOf(record, state.replica)) return false;
  if (!state.installed) {
    const size_t count = record.isr.size() + record.evicted.size() + record.learners.size();
    return ReplicaOn(record, node) == nullptr && count >= record.replicas;
  }
  // What an operator gives up with a lineage may be wanted again.
  return record.epoch >= state.promised && (state.lineage == 0 || record.lineage == state.lineage);
}

// Whatever was proposed before has landed now, or never will.
void HostedReplica::Know(const Versioned<PartitionRecord>& record) {
  if (record.revision <= record_.revision) return;
  record_ = record;
  newcomers_.clear();
}

void HostedReplica::OnRecord(const Versioned<PartitionRecord>& record) {
  Know(record);
  Ask([&](ReplicaCore& core, Nanos now_ns) { core.OnTopology(EntryOf(record), now_ns); });
  MakeRoom();
}

// RecordOf must know the node of each replica that a proposal may have which goes on.
Status HostedReplica::NoteNewcomer(const ReplicaId& learner, NodeId node) {
  if (!host_.members.contains(node)) {
    return Error(Code::kInvalidArgument, "partition {}: the cluster has no node {}", id_, node);
  }
  if (newcomers_.size() >= kMaxNewcomers && !newcomers_.contains(learner)) {
    return Error(Code::kOverloaded, "partition {}: too many replicas have asked to become learners; try again", id_);
  }
  newcomers_[learner] = node;
  return Status();
}

Result<bool> HostedReplica::Newcomer(const ReplicaId& learner, ChangeResult result) {
  // What was not proposed is asked again.
  if (result != ChangeResult::kProposed) newcomers_.erase(learner);
  if (result == ChangeResult::kNotMaster) return NotServing();
  if (result == ChangeResult::kNotAllowed) {
    return Error(Code::kOverloaded, "partition {}: it has {} replicas, which is the limit; remove one", id_,
                 kMaxReplicas);
  }
  return result == ChangeResult::kDone;
}

Result<bool> HostedReplica::Replace(const ReplicaId& learner, NodeId node, const std::optional<ReplicaId>& leaves) {
  if (core_ == nullptr || !core_->Serving()) return NotServing();
  if (const auto listed = NodeOf(record_.record, learner); listed && *listed != node) {
    return Error(Code::kInvalidArgument, "partition {}: the replica {} is that of node {}", id_, learner.ToString(),
                 *listed);
  }
  RETURN_IF_ERROR(NoteNewcomer(learner, node));
  return Newcomer(learner,
                  Change([&](ReplicaCore& core, Nanos now_ns) { return core.Assign(learner, leaves, now_ns); }));
}

Result<ReplicaChange> HostedReplica::AddOn(NodeId node, bool replaces) {
  if (core_ == nullptr || !core_->Serving()) return NotServing();
  if (const ReplicaRecord* there = ReplicaOn(record_.record, node)) return ReplicaChange{there->replica, true};
  if (!record_.record.learners.empty()) {
    const ReplicaRecord& learner = record_.record.learners.front();
    return Error(Code::kOverloaded,
                 "partition {}: node {} is being given a replica of it already; wait until that is in sync, or remove "
                 "it",
                 id_, learner.node);
  }
  if (record_.record.split) {
    return Error(Code::kOverloaded,
                 "partition {} is being split, and its halves get the replicas that it has: wait until they serve, or "
                 "end the split (kvadmin partition split {} --abort)",
                 id_, id_);
  }
  // Nobody has had it. What was proposed for the node before and has not landed cannot land once this one has.
  const ReplicaId learner =
      HashUuid(fmt::format("{} {} {} {}", replica().ToString(), node, host_.incarnation, host_.reactor.Random()));
  RETURN_IF_ERROR(NoteNewcomer(learner, node));
  ASSIGN_OR_RETURN(const bool done, Newcomer(learner, Change([&](ReplicaCore& core, Nanos now_ns) {
                                               return replaces ? core.Assign(learner, std::nullopt, now_ns)
                                                               : core.Add(learner, now_ns);
                                             })));
  return ReplicaChange{learner, done};
}

Result<bool> HostedReplica::RemoveOther(const ReplicaId& other, Removal why) {
  if (core_ == nullptr || !core_->Serving()) return NotServing();
  if (!NodeOf(record_.record, other)) return true;
  if (other == replica()) {
    return Error(Code::kInvalidArgument,
                 "partition {}: node {} is its master; make another node master first, with kvadmin failover", id_,
                 host_.node);
  }
  const ChangeResult result = Change([&](ReplicaCore& core, Nanos now_ns) { return core.Remove(other, why, now_ns); });
  if (result == ChangeResult::kNotMaster) return NotServing();
  if (result == ChangeResult::kNotAllowed) {
    const PartitionRecord& r = record_.record;
    const size_t left = r.isr.size() + r.evicted.size() - 1;
    if (why == Removal::kReplaced && left < r.replicas) {
      return Error(
          Code::kInvalidArgument,
          "partition {}: without this replica it would have {}, and it should have {}: the one that came for it "
          "has taken the place of another one meanwhile. Add one first",
          id_, left, r.replicas);
    }
    return Error(Code::kInvalidArgument,
                 "partition {}: {} replicas are in sync, and {} must be (min_isr): without this one there would be too "
                 "few. Add one first",
                 id_, r.isr.size(), r.min_isr);
  }
  return result == ChangeResult::kDone;
}

}  // namespace pando::replication
