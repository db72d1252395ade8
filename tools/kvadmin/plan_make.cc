#include "tools/kvadmin/plan_make.h"

#include <algorithm>
#include <chrono>

#include "src/base/counted.h"
#include "tools/common/table.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

constexpr uint64_t kLeastBytes = 1 << 20;
constexpr uint64_t kMiB = 1 << 20;

// All must be known, or else what moves would depend on who happens to answer.
Status CheckKnown(const ClusterView& view, NodeId emptied) {
  for (const auto& [id, node] : view.nodes) {
    const bool may_be_away = id == emptied || view.map.nodes.at(id).record.state == NodeState::kDraining;
    if (node.status.ok() || may_be_away) continue;
    return Error(Code::kUnavailable, "node {} does not answer, so no plan is made: {}", view.NameOf(id),
                 node.status.message());
  }
  RETURN_IF_ERROR(CheckNoSplit(view.map));
  for (const auto& [id, known] : view.map.partitions) {
    if (!IsInUse(view.map, id)) continue;
    if (view.MasterOf(id).node == 0) {
      return Error(Code::kUnavailable,
                   "partition {} has no master, so no plan is made; kvadmin cluster status says what is missing", id);
    }
    if (!known.record.learners.empty()) {
      return Error(
          Code::kUnavailable,
          "node {} is being given a replica of partition {}, so no plan is made. Wait until it is in sync; if a "
          "plan was interrupted, resume or abort that first",
          known.record.learners.front().node, id);
    }
    const size_t held = known.record.isr.size() + known.record.evicted.size();
    if (held > known.record.replicas) {
      return Error(Code::kUnavailable,
                   "partition {} has {} replicas, and should have {}, so no plan is made. If a plan was interrupted, "
                   "resume or abort that first; otherwise remove one, with kvadmin replica remove",
                   id, held, known.record.replicas);
    }
  }
  return Status();
}

// A node installs one replica after the other; the busiest one ends last.
uint64_t EtaSeconds(const std::vector<ReplicaMove>& moves, uint64_t mb_per_s) {
  std::map<NodeId, uint64_t> taken;
  uint64_t most = 0;
  for (const ReplicaMove& move : moves) most = std::max(most, taken[move.to] += move.bytes);
  return (most + mb_per_s * kMiB - 1) / (mb_per_s * kMiB);
}

std::string Percent(double part) { return fmt::format("{:.1f} %", part * 100); }

// Like SpreadBefore and SpreadAfter of the plan that it was made from.
MovePlan LoadsOf(const PlanFile& plan) {
  MovePlan loads;
  loads.moves = plan.moves;
  for (const auto& [id, node] : plan.nodes) loads.loads[id] = node.load;
  return loads;
}

}  // namespace

Result<std::map<uint32_t, uint64_t>> SizesOf(const Globals& globals, const ClusterView& view) {
  std::map<uint32_t, uint64_t> sizes;
  for (const auto& [id, node] : view.nodes) {
    if (!node.status.ok()) continue;
    Client client({view.map.nodes.at(id).record.client_address, globals.target.timeout_ms});
    ASSIGN_OR_RETURN(const api::NodeStatus status, client.Call(Client::Repeat::kSafe, &api::AdminIf::status));
    for (const api::PartitionStatus& p : status.partitions) {
      const auto partition = static_cast<uint32_t>(p.id);
      if (view.MasterOf(partition).node != id) continue;
      sizes[partition] = std::max(kLeastBytes, static_cast<uint64_t>(std::max<int64_t>(0, p.used_bytes)));
    }
  }
  return sizes;
}

Result<PlanFile> MakePlan(const Globals& globals, const PlanOptions& options, NodeId emptied) {
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  if (emptied != 0) RETURN_IF_ERROR(CheckNode(view, emptied));
  RETURN_IF_ERROR(CheckKnown(view, emptied));
  ASSIGN_OR_RETURN(const auto sizes, SizesOf(globals, view));
  PlanFile plan;
  plan.kind = emptied == 0 ? "rebalance" : "drain";
  plan.cluster_id = view.map.cluster->record.cluster_id;
  plan.revision = view.revision;
  plan.made_at_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  plan.mb_per_s = options.mb_per_s;
  MoveInput input;
  input.goal = emptied == 0 ? MoveGoal::kBalance : MoveGoal::kEmpty;
  for (const auto& [id, node] : view.nodes) {
    const NodeRecord& record = view.map.nodes.at(id).record;
    const bool stays = id != emptied && record.state == NodeState::kActive;
    input.nodes.push_back({id, record.zone, stays ? record.weight : 0});
    plan.nodes[id] = {record.zone, stays ? record.weight : 0, {}};
  }
  for (const auto& [id, known] : view.map.partitions) {
    if (!IsInUse(view.map, id)) continue;
    const auto size = sizes.find(id);
    if (size == sizes.end()) {
      return Error(Code::kUnavailable, "the master of partition {} has changed meanwhile; run the command again", id);
    }
    PlacedPartition& p = input.partitions.emplace_back(PlacedPartition{id, size->second, {}});
    for (const auto* list : {&known.record.isr, &known.record.evicted}) {
      for (const ReplicaRecord& replica : *list) p.nodes.push_back(replica.node);
    }
  }
  ASSIGN_OR_RETURN(const MovePlan moves, PlanMoves(input));
  for (const auto& [id, load] : moves.loads) plan.nodes[id].load = load;
  plan.moves = moves.moves;
  plan.eta_s = EtaSeconds(plan.moves, plan.mb_per_s);
  for (const ReplicaMove& move : plan.moves) {
    const PartitionRecord& record = view.map.partitions.at(move.partition).record;
    const auto placed = std::find_if(input.partitions.begin(), input.partitions.end(),
                                     [&](const PlacedPartition& p) { return p.id == move.partition; });
    plan.partitions[move.partition] = {record.lineage, record.epoch, placed->nodes};
  }
  return plan;
}

void ShowPlan(const Globals& globals, const PlanFile& plan) {
  const MovePlan loads = LoadsOf(plan);
  if (globals.json) {
    Json out{{"kind", plan.kind},
             {"cluster_id", plan.cluster_id.ToString()},
             {"topology_revision", plan.revision},
             {"made_at_ms", plan.made_at_ms},
             {"moves", Json::array()},
             {"bytes", loads.bytes()},
             {"mb_per_s", plan.mb_per_s},
             {"eta_s", plan.eta_s},
             {"spread_before", loads.SpreadBefore()},
             {"spread_after", loads.SpreadAfter()},
             {"nodes", Json::array()}};
    for (const ReplicaMove& move : plan.moves) {
      out["moves"].push_back(
          Json{{"partition", move.partition}, {"from", move.from}, {"to", move.to}, {"bytes", move.bytes}});
    }
    for (const auto& [id, node] : plan.nodes) {
      out["nodes"].push_back(Json{{"id", id},
                                  {"zone", node.zone},
                                  {"weight", node.weight},
                                  {"share_bytes", node.load.share},
                                  {"bytes_before", node.load.before},
                                  {"bytes_after", node.load.after},
                                  {"replicas_before", node.load.replicas_before},
                                  {"replicas_after", node.load.replicas_after}});
    }
    return PrintJson(out);
  }
  const auto human = [](uint64_t bytes) { return tools::HumanBytes(static_cast<double>(bytes)); };
  tools::Table nodes({"NODE", "ZONE", "WEIGHT", "SHARE", "NOW", "AFTER", "REPLICAS", "AFTER"});
  for (const auto& [id, node] : plan.nodes) {
    nodes.Row({fmt::format("{}", id), node.zone.empty() ? "-" : node.zone, fmt::format("{}", node.weight),
               human(node.load.share), human(node.load.before), human(node.load.after),
               fmt::format("{}", node.load.replicas_before), fmt::format("{}", node.load.replicas_after)});
  }
  tools::Print("{}", nodes.Render());
  if (!plan.moves.empty()) {
    tools::Table moves({"PARTITION", "FROM", "TO", "BYTES"});
    for (const ReplicaMove& move : plan.moves) {
      moves.Row({fmt::format("{}", move.partition), fmt::format("{}", move.from), fmt::format("{}", move.to),
                 human(move.bytes)});
    }
    tools::Print("\n{}", moves.Render());
  }
  tools::Print(
      "\n{} to move, {}: about {} at {} MiB/s for each node; no node would be off its share by more than {} (now "
      "{})\n",
      Counted(plan.moves.size(), "replica"), human(loads.bytes()), tools::HumanSeconds(static_cast<double>(plan.eta_s)),
      plan.mb_per_s, Percent(loads.SpreadAfter()), Percent(loads.SpreadBefore()));
}

}  // namespace pando::admin
