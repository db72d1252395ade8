#include "src/node/split_plan.h"

#include <algorithm>
#include <tuple>

#include "src/base/hash_ranges.h"
#include "src/replication/partition_record.h"

namespace pando {

namespace {

using replication::NodeOf;
using Step = HalfStep::Kind;

bool Has(const std::vector<ReplicaRecord>& replicas, NodeId node) {
  return std::any_of(replicas.begin(), replicas.end(), [node](const ReplicaRecord& r) { return r.node == node; });
}

const PartitionRecord* RecordIn(const ClusterMap& map, uint32_t id) {
  const auto at = map.partitions.find(id);
  return at == map.partitions.end() ? nullptr : &at->second.record;
}

bool IsBuilding(const PartitionRecord* record) {
  return record != nullptr && record->state == PartitionStage::kBuilding;
}

bool IsMaster(const PartitionRecord& record, NodeId node) { return NodeOf(record, record.master) == node; }

HalfStep Wait(std::string why, bool for_other_node = false) {
  HalfStep step;
  step.why = std::move(why);
  step.for_other_node = for_other_node;
  return step;
}

HalfStep Do(Step kind, NodeId node = 0, const Uuid& replica = {}) {
  HalfStep step;
  step.kind = kind;
  step.node = node;
  step.replica = replica;
  return step;
}

// Of a half whose master should be here and serves.
HalfStep NextOfMaster(const HalfInput& in) {
  const PartitionRecord& whole = *in.whole;
  const PartitionRecord& half = *in.half;
  // One learner comes at a time, so one whose node is away must not keep the others from it.
  for (const ReplicaRecord& r : half.learners) {
    if (!Has(whole.isr, r.node) && !in.reached.contains(r.node)) return Do(Step::kRemoveReplica, r.node, r.replica);
  }
  if (half.learners.empty()) {
    for (const auto* list : {&whole.isr, &whole.evicted}) {
      for (const ReplicaRecord& r : *list) {
        if (Has(half.isr, r.node) || Has(half.evicted, r.node)) continue;
        if (list == &whole.isr || in.reached.contains(r.node)) return Do(Step::kAddReplica, r.node);
      }
    }
  }
  for (const ReplicaRecord& r : whole.isr) {
    if (Has(half.isr, r.node)) continue;
    return Wait(
        fmt::format("the replica of partition {} on node {} is not in sync yet. If it does not come, the log of that "
                    "node says why; "
                    "it may have no memory for one more partition until it is started again",
                    half.id, r.node));
  }
  if (half.replicas != whole.replicas) return Do(Step::kTakeOver);
  if (half.min_isr != whole.min_isr) {
    HalfStep step = Do(Step::kSetMinIsr);
    step.min_isr = whole.min_isr;
    return step;
  }
  return Do(Step::kReady);
}

}  // namespace

std::vector<SplitTask> SplitTasksOf(const ClusterMap& map, NodeId self) {
  std::vector<SplitTask> tasks;
  const uint32_t base = map.cluster->record.partitions;
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& whole = known.record;
    const std::optional<std::array<uint32_t, 2>> halves = HalvesOf(id, base);
    if (!halves || whole.state == PartitionStage::kBuilding) continue;
    SplitTask task;
    task.whole = id;
    task.halves = *halves;
    const auto building = [&](uint32_t half) { return IsBuilding(RecordIn(map, half)); };
    if (whole.state == PartitionStage::kRetired) {
      task.kind = SplitTask::Kind::kOpen;
      const auto mine = [&](uint32_t half) {
        return RecordIn(map, half) != nullptr && IsMaster(*RecordIn(map, half), self);
      };
      const auto opens = [&](uint32_t half) { return building(half) && mine(half); };
      const auto lacks = [&](uint32_t half) { return mine(half) && LackingNode(map, *RecordIn(map, half)); };
      const bool any_opens = std::any_of(halves->begin(), halves->end(), opens);
      if (!any_opens) task.kind = SplitTask::Kind::kComplete;
      if (any_opens || std::any_of(halves->begin(), halves->end(), lacks)) tasks.push_back(task);
    } else if (IsMaster(whole, self)) {
      task.kind = whole.split ? SplitTask::Kind::kSplit : SplitTask::Kind::kGiveUp;
      task.rate_mb_s = whole.split ? whole.split->rate_mb_s : 0;
      task.epoch = whole.split ? whole.epoch : 0;
      if (whole.split || std::any_of(halves->begin(), halves->end(), building)) tasks.push_back(task);
    }
  }
  return tasks;
}

std::set<uint32_t> SplitsThatMayRun(const ClusterMap& map) {
  std::set<uint32_t> may_run;
  std::set<NodeId> busy;
  const auto take = [&](const PartitionRecord& whole) {
    for (const auto* list : {&whole.isr, &whole.evicted, &whole.learners}) {
      for (const ReplicaRecord& r : *list) busy.insert(r.node);
    }
  };
  const auto uses_busy = [&](const PartitionRecord& whole) {
    return std::any_of(whole.isr.begin(), whole.isr.end(), [&](const auto& r) { return busy.contains(r.node); });
  };
  std::vector<const PartitionRecord*> waiting;
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& whole = known.record;
    const std::optional<std::array<uint32_t, 2>> halves = HalvesOf(id, map.cluster->record.partitions);
    const auto building = [&](uint32_t half) { return IsBuilding(RecordIn(map, half)); };
    const bool begun = halves && std::any_of(halves->begin(), halves->end(), building);
    if (begun) take(whole);  // also if it is split, and its halves are being opened
    if (!whole.split || whole.state != PartitionStage::kServing) continue;
    if (begun) may_run.insert(id);
    if (!begun) waiting.push_back(&whole);
  }
  for (const PartitionRecord* whole : waiting) {
    if (!uses_busy(*whole)) may_run.insert(whole->id);
    take(*whole);
  }
  return may_run;
}

// A node may have been away for several splits.
std::optional<NodeId> LackingNode(const ClusterMap& map, const PartitionRecord& half) {
  if (half.state != PartitionStage::kServing || !half.learners.empty()) return std::nullopt;
  if (half.isr.size() + half.evicted.size() >= half.replicas) return std::nullopt;
  const uint32_t base = map.cluster->record.partitions;
  for (std::optional<uint32_t> id = WholeOf(half.id, base); id; id = WholeOf(*id, base)) {
    const PartitionRecord* whole = RecordIn(map, *id);
    if (whole == nullptr) break;
    for (const auto* list : {&whole->isr, &whole->evicted, &whole->learners}) {
      for (const ReplicaRecord& r : *list) {
        const auto node = map.nodes.find(r.node);
        if (node == map.nodes.end() || node->second.record.state != NodeState::kActive) continue;
        if (!Has(half.isr, r.node) && !Has(half.evicted, r.node)) return r.node;
      }
    }
  }
  return std::nullopt;
}

Status CheckProtocol(const ClusterMap& map, uint32_t protocol) {
  for (const auto& [id, node] : map.nodes) {
    const NodeRecord& r = node.record;
    if (r.state == NodeState::kRemoved || r.protocol_max >= protocol) continue;
    return Error(Code::kInvalidArgument,
                 "node {} speaks only the versions {} to {} of the peer protocol, and a split needs version {}: start "
                 "this version of Pando there first, or remove the node",
                 id, r.protocol_min, r.protocol_max, protocol);
  }
  return Status();
}

Status CheckMaySplit(const ClusterMap& map, uint32_t partition, uint32_t protocol) {
  const PartitionRecord* record = RecordIn(map, partition);
  if (record == nullptr || !map.cluster) {
    return Error(Code::kInvalidArgument, "the topology has no partition {}", partition);
  }
  if (!map.Serves(partition)) return Error(Code::kInvalidArgument, "partition {} does not serve", partition);
  if (record->state == PartitionStage::kBuilding) {
    return Error(Code::kUnavailable, "partition {} is a half that is being opened; try again", partition);
  }
  if (!record->learners.empty() || record->isr.size() + record->evicted.size() > record->replicas) {
    return Error(
        Code::kUnavailable,
        "partition {} is being given another replica, or has one more than it should have: wait until that has "
        "moved, or end the move (kvadmin rebalance resume, or kvadmin replica remove)",
        partition);
  }
  if (!HalvesOf(partition, map.cluster->record.partitions)) {
    return Error(Code::kInvalidArgument, "partition {} cannot be split: its halves would have numbers above {}",
                 partition, kMaxPartitions - 1);
  }
  return CheckProtocol(map, protocol);
}

HalfStep NextStepForHalf(const HalfInput& in) {
  if (in.half == nullptr || in.half->state == PartitionStage::kRetired) return Do(Step::kMakeRecord);
  const PartitionRecord& half = *in.half;
  if (half.state == PartitionStage::kServing) {
    return Wait(fmt::format("partition {} serves, although the one that it is a half of does: kvadmin topology verify",
                            half.id));
  }
  const auto self = std::find_if(half.isr.begin(), half.isr.end(), [&](const auto& r) { return r.node == in.self; });
  const bool only_here = half.isr.size() == 1 && self != half.isr.end();
  if (self == half.isr.end()) {
    // What others have of it is worth a copy only if this node is about to have it too.
    const bool comes = Has(half.learners, in.self) || Has(half.evicted, in.self);
    if (!comes || half.isr.size() == 1 || in.patience_over) return Do(Step::kMakeRecord);
    return Wait(fmt::format("the replica of partition {} here is not in sync yet", half.id), true);
  }
  if (!in.held || in.held->replica != self->replica) {
    if (in.to_make == self->replica) return Do(in.held ? Step::kDrop : Step::kMakeReplica, 0, self->replica);
    if (only_here || in.patience_over) return Do(Step::kMakeRecord);  // it is lost
    return Wait(fmt::format("the replica of partition {} here is being replaced", half.id), true);
  }
  if (!in.taken_over) return Do(Step::kTakeOver);
  if (half.master != self->replica) {
    if (in.patience_over) return Do(Step::kMakeRecord);
    return Do(Step::kBecomeMaster, NodeOf(half, half.master).value_or(0));
  }
  if (!in.held->serves) {
    return Wait(fmt::format("the master of partition {} here does not serve yet", half.id));
  }
  return NextOfMaster(in);
}

// The epoch goes on, so that no replica finds one that it has promised already.
PartitionRecord NewHalfRecord(uint32_t id, const PartitionRecord& whole, uint32_t base, const PartitionRecord* before,
                              NodeId self, const Uuid& replica) {
  PartitionRecord record;
  record.id = id;
  std::tie(record.first_hash, record.last_hash) = HashRangeOf(id, base);
  if (before != nullptr) {
    record.lineage = before->lineage + 1;
    record.epoch = before->epoch + 1;
    record.unknown = before->unknown;
  }
  record.master = replica;
  ReplicaRecord& only = record.isr.emplace_back();
  only.node = self;
  only.replica = replica;
  record.replicas = whole.replicas;
  record.min_isr = 1;
  record.state = PartitionStage::kBuilding;
  return record;
}

}  // namespace pando
