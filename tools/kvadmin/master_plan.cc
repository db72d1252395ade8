#include "tools/kvadmin/master_plan.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

namespace pando::admin {

namespace {

using Counts = std::map<NodeId, size_t>;

// One step of a path over which a mastership moves on: partition `at` of the list goes to `to`.
struct Step {
  size_t at = 0;
  NodeId to = 0;
};

// The shortest path from a node to one that would then lead less for its weight. Nothing if there is none.
std::vector<Step> FindPath(const std::vector<Led>& led, const std::vector<NodeId>& masters, const Counts& counts,
                           const std::map<NodeId, uint32_t>& weights, NodeId from) {
  std::map<NodeId, std::pair<NodeId, Step>> came;  // by node: from which, and how
  std::deque<NodeId> next = {from};
  came[from] = {0, {}};
  while (!next.empty()) {
    const NodeId here = next.front();
    next.pop_front();
    if ((counts.at(here) + 1) * weights.at(from) < counts.at(from) * weights.at(here)) {
      std::vector<Step> path;
      for (NodeId node = here; node != from; node = came[node].first) path.push_back(came[node].second);
      return path;
    }
    for (size_t i = 0; i < led.size(); ++i) {
      if (masters[i] != here) continue;
      std::vector<NodeId> takers = led[i].in_sync;
      takers.push_back(led[i].master);  // it may have moved away, and come back
      for (const NodeId to : takers) {
        if (counts.contains(to) && came.try_emplace(to, here, Step{i, to}).second) next.push_back(to);
      }
    }
  }
  return {};
}

}  // namespace

std::vector<Led> LedPartitions(const ClusterView& view) {
  std::vector<Led> led;
  for (const uint32_t id : view.map.Serving()) {
    const ClusterView::Master master = view.MasterOf(id);
    if (master.status == nullptr) continue;
    Led& out = led.emplace_back(Led{id, static_cast<Epoch>(master.status->epoch), master.node, {}});
    for (const api::FollowerStatus& f : master.status->followers) {
      const auto node = static_cast<NodeId>(f.node);
      const auto at = view.map.nodes.find(node);
      const bool stays = at != view.map.nodes.end() && at->second.record.state == NodeState::kActive;
      if (f.in_sync && stays && view.IsReachable(node)) out.in_sync.push_back(node);
    }
  }
  return led;
}

std::vector<MasterMove> PlanRebalance(const std::vector<Led>& led, const std::map<NodeId, uint32_t>& nodes) {
  Counts counts;
  for (const auto& [node, weight] : nodes) counts[node] = 0;
  std::vector<NodeId> masters;
  for (const Led& l : led) {
    masters.push_back(l.master);
    if (counts.contains(l.master)) ++counts[l.master];
  }
  // Each path makes the greater load of its two ends smaller, and leaves none as great, so this ends.
  for (bool moved = true; moved;) {
    moved = false;
    for (const auto& [node, weight] : nodes) {
      const std::vector<Step> path = FindPath(led, masters, counts, nodes, node);
      for (const Step& step : path) {
        --counts[masters[step.at]];
        masters[step.at] = step.to;
        ++counts[step.to];
      }
      moved = moved || !path.empty();
    }
  }
  std::vector<MasterMove> moves;
  for (size_t i = 0; i < led.size(); ++i) {
    if (masters[i] != led[i].master) moves.push_back({led[i].partition, led[i].epoch, led[i].master, masters[i]});
  }
  return moves;
}

Status CheckDrain(const ClusterView& view, NodeId node) {
  std::vector<uint32_t> held;
  for (const uint32_t id : view.map.Serving()) {
    const api::ReplicaStatus* replica = view.ReplicaOn(node, id);
    if (replica == nullptr || (replica->role != "master" && replica->role != "new master")) continue;
    if (view.MasterOf(id).node == 0) held.push_back(id);
  }
  if (held.empty()) return Status();
  return Error(Code::kUnavailable,
               "node {} leads {} {} without a lease, so it cannot hand them over, and may hold the only "
               "replicas that are left; nothing was handed over. Do not stop it: kvadmin cluster status says what is "
               "missing",
               view.NameOf(node), held.size() == 1 ? "partition" : "the partitions", fmt::join(held, ","));
}

Result<std::vector<MasterMove>> PlanDrain(const std::vector<Led>& led, NodeId node) {
  Counts counts;
  for (const Led& l : led) ++counts[l.master];
  std::vector<MasterMove> moves;
  for (const Led& l : led) {
    if (l.master != node) continue;
    std::optional<NodeId> to;
    for (const NodeId candidate : l.in_sync) {
      if (candidate != node && (!to || counts[candidate] < counts[*to])) to = candidate;
    }
    if (!to) {
      return Error(Code::kUnavailable,
                   "partition {}: no other replica is in sync on a node that answers, so node {} must go on leading "
                   "it; nothing was handed over. Wait until kvadmin cluster status says ok",
                   l.partition, node);
    }
    ++counts[*to];
    moves.push_back({l.partition, l.epoch, node, *to});
  }
  return moves;
}

}  // namespace pando::admin
