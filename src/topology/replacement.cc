#include "src/topology/replacement.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "src/topology/placement.h"

namespace pando {

namespace {

using Kind = ReplacementStep::Kind;

class Planner {
 public:
  explicit Planner(const ReplacementInput& input) : in_(input), map_(*input.map) {
    for (const auto& [id, partition] : map_.partitions) {
      const PartitionRecord& r = partition.record;
      if (r.state == PartitionStage::kRetired) continue;
      learning_ += !r.learners.empty();
      for (const auto* list : {&r.isr, &r.evicted, &r.learners}) {
        for (const ReplicaRecord& replica : *list) ++load_[replica.node];
      }
    }
  }

  ReplacementPlan Plan() {
    size_t nodes = 0, away = 0;
    for (const auto& [id, node] : map_.nodes) {
      if (node.record.state == NodeState::kRemoved) continue;
      ++nodes;
      away += in_.away.contains(id);
    }
    if (!in_.gone.empty() && 3 * away >= nodes) {  // RL1
      plan_.waits.push_back(
          fmt::format("{} of {} nodes are away: nothing is replaced while a third or more are", away, nodes));
      return std::move(plan_);
    }
    for (const auto& [id, partition] : map_.partitions) {
      if (partition.record.state == PartitionStage::kRetired) continue;
      if (!Undo(partition.record) && !Trim(partition.record)) Judge(partition.record);
    }
    return std::move(plan_);
  }

 private:
  bool IsGone(const ReplicaRecord& r) const { return in_.gone.contains(r.node); }

  void Remove(const PartitionRecord& p, const ReplicaRecord& r, NodeId gone, std::string why) {
    plan_.steps.push_back({Kind::kRemove, p.id, r.node, r.replica, gone, std::move(why)});
  }
  void Wait(const PartitionRecord& p, const std::string& why) {
    plan_.waits.push_back(fmt::format("partition {}: {}", p.id, why));
  }

  // The node is back, and in sync: the replica that was added in its place is one too many.
  bool Undo(const PartitionRecord& p) {
    const auto begun = in_.begun.find(p.id);
    if (begun == in_.begun.end() || in_.away.contains(begun->second.gone)) return false;
    const bool is_back =
        std::any_of(p.isr.begin(), p.isr.end(), [&](const ReplicaRecord& r) { return r.node == begun->second.gone; });
    if (!is_back) return false;
    for (const auto* list : {&p.isr, &p.learners}) {
      for (const ReplicaRecord& r : *list) {
        if (r.node != begun->second.node || r.replica == p.master) continue;
        if (p.isr.size() < p.replicas + (list == &p.isr ? 1 : 0)) continue;
        Remove(p, r, begun->second.gone,
               fmt::format("node {} is back: the replica that node {} was to have in the place of its own is removed",
                           begun->second.gone, r.node));
        return true;
      }
    }
    return false;
  }

  // Of a zone that has several, and of the node that holds the most.
  bool Trim(const PartitionRecord& p) {
    if (!in_.surplus.contains(p.id) || p.isr.size() <= p.replicas || !p.learners.empty()) return false;
    auto zone_of = [&](const ReplicaRecord& r) {
      const auto node = map_.nodes.find(r.node);
      return node == map_.nodes.end() ? std::string() : node->second.record.zone;
    };
    auto cost = [&](const ReplicaRecord& r) {
      const std::string zone = zone_of(r);
      const auto in_zone = std::count_if(p.isr.begin(), p.isr.end(), [&](const auto& o) { return zone_of(o) == zone; });
      return std::tuple(zone.empty() ? 1 : in_zone, load_.at(r.node), r.node);
    };
    const ReplicaRecord* worst = nullptr;
    for (const ReplicaRecord& r : p.isr) {
      if (r.replica != p.master && (worst == nullptr || cost(r) > cost(*worst))) worst = &r;
    }
    Remove(p, *worst, 0,
           fmt::format("{} replicas are in sync, and there should be {}: that of node {} is removed", p.isr.size(),
                       p.replicas, worst->node));
    return true;
  }

  void Judge(const PartitionRecord& p) {
    for (const ReplicaRecord& r : p.learners) {
      if (!IsGone(r)) continue;
      return Remove(p, r, r.node, fmt::format("node {} is gone before it was in sync: its replica is removed", r.node));
    }
    const auto gone = std::find_if(p.evicted.begin(), p.evicted.end(), [this](const auto& r) { return IsGone(r); });
    if (gone == p.evicted.end()) {
      const auto member = std::find_if(p.isr.begin(), p.isr.end(), [this](const auto& r) { return IsGone(r); });
      if (member != p.isr.end()) {
        Wait(p, fmt::format("node {} is gone, and its replica still counts: without it too few would be in sync",
                            member->node));
      }
      return;
    }
    if (p.isr.size() >= p.replicas) {  // RL2
      return Remove(p, *gone, gone->node,
                    fmt::format("node {} is gone, and {} other replicas are in sync: its replica is removed",
                                gone->node, p.isr.size()));
    }
    if (!p.learners.empty()) return;  // it comes
    size_t others = p.isr.size();
    for (const ReplicaRecord& r : p.evicted) others += !IsGone(r);
    if (others >= p.replicas) return Wait(p, "replicas of other nodes are still to be in sync again");
    Add(p, gone->node);
  }

  void Add(const PartitionRecord& p, NodeId gone) {
    if (learning_ >= in_.moves_at_once) {  // RL3
      return Wait(p, fmt::format("node {} is gone; others come first, {} at a time", gone, in_.moves_at_once));
    }
    const std::optional<NodeId> node = Choose(p);
    if (!node) return Wait(p, fmt::format("node {} is gone, and no other node could take its replica", gone));
    ++learning_;
    ++load_[*node];
    plan_.steps.push_back(
        {Kind::kAdd, p.id, *node, Uuid(), gone,
         fmt::format("node {} is gone: node {} gets a replica in the place of its own", gone, *node)});
  }

  std::optional<NodeId> Choose(const PartitionRecord& p) const {
    std::vector<PlacementNode> nodes, stay;
    std::vector<size_t> loads;
    for (const auto& [id, node] : map_.nodes) {
      const NodeRecord& r = node.record;
      const PlacementNode place{id, r.zone, r.weight};
      bool holds = false, is_gone = in_.gone.contains(id);
      for (const auto* list : {&p.isr, &p.evicted, &p.learners}) {
        for (const ReplicaRecord& replica : *list) holds = holds || replica.node == id;
      }
      if (holds && !is_gone) stay.push_back(place);
      if (holds || r.state != NodeState::kActive || r.opened == 0 || in_.away.contains(id)) continue;
      nodes.push_back(place);
      const auto load = load_.find(id);
      loads.push_back(load == load_.end() ? 0 : load->second);
    }
    return ChooseNode(nodes, loads, stay, p.id);
  }

  const ReplacementInput& in_;
  const ClusterMap& map_;
  std::map<NodeId, size_t> load_;
  size_t learning_ = 0;
  ReplacementPlan plan_;
};

}  // namespace

ReplacementPlan PlanReplacement(const ReplacementInput& input) { return Planner(input).Plan(); }

}  // namespace pando
