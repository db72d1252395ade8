#include "src/node/traffic.h"

#include <algorithm>

#include "src/replication/partition_record.h"

namespace pando {

namespace {

constexpr double kSmoothing = 0.5;

double PerSecond(int64_t before, int64_t after, double seconds) {
  return static_cast<double>(std::max<int64_t>(0, after - before)) / seconds;
}
double Smooth(double before, double after, bool first) {
  return first ? after : before + kSmoothing * (after - before);
}

}  // namespace

bool IsSettled(const PartitionRecord& record) {
  return record.state == PartitionStage::kServing && !record.split && record.learners.empty() &&
         record.evicted.empty() && record.isr.size() == record.replicas;
}

bool IsPossible(const PartitionRecord& record, const LoadMove& move) {
  const auto holds = [&record](NodeId node) {
    return std::any_of(record.isr.begin(), record.isr.end(), [node](const auto& r) { return r.node == node; });
  };
  if (!IsSettled(record) || !holds(move.from)) return false;
  if (move.kind == LoadMove::Kind::kReplica) return !holds(move.to);
  return holds(move.to) && replication::NodeOf(record, record.master) == move.from;
}

bool OthersMoveReplicas(const ClusterMap& map, const std::set<uint32_t>& own) {
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& record = known.record;
    if (record.state == PartitionStage::kRetired) continue;
    if (!own.contains(id) && (!record.learners.empty() || record.isr.size() > record.replicas)) return true;
    for (const auto* list : {&record.isr, &record.evicted, &record.learners}) {
      for (const ReplicaRecord& replica : *list) {
        const auto node = map.nodes.find(replica.node);
        if (node != map.nodes.end() && node->second.record.state == NodeState::kDraining) return true;
      }
    }
  }
  return false;
}

void TrafficMeter::Take(NodeId node, const api::ReplicasReply& reply, const ClusterMap& map, int64_t now_ms) {
  if (!reply.__isset.traffic) {  // it stops, or was started without --auto_balance
    nodes_.erase(node);
    return;
  }
  Node& n = nodes_[node];
  const api::NodeTraffic& now = reply.traffic;
  const bool same = n.taken_ms != 0 && n.incarnation == reply.incarnation && now.clock_ms > n.traffic.clock_ms;
  if (!same) n = Node();
  const bool first = !n.measured;
  const double seconds = static_cast<double>(now.clock_ms - n.traffic.clock_ms) / 1000;
  if (same) {
    const double requests = PerSecond(n.traffic.requests, now.requests, seconds);
    const double latency_us = PerSecond(n.traffic.latency_us, now.latency_us, seconds);
    const double cpu_us = PerSecond(n.traffic.cpu_us, now.cpu_us, seconds);
    n.busy = Smooth(n.busy, std::min(1.0, cpu_us / 1e6 / std::max(1, now.processors)), first);
    n.requests = Smooth(n.requests, requests, first);
    n.request_bytes = Smooth(n.request_bytes, PerSecond(n.traffic.bytes, now.bytes, seconds), first);
    if (requests > 0) n.latency_ms = Smooth(n.latency_ms, latency_us / requests / 1000, first);
    n.measured = true;
  }
  n.taken_ms = now_ms;
  n.incarnation = reply.incarnation;
  n.traffic = now;
  n.disk_full = std::any_of(reply.replicas.begin(), reply.replicas.end(), [](const auto& r) { return r.disk_full; });
  std::map<uint32_t, Partition> before = std::exchange(n.partitions, {});
  for (const api::ReplicaStatus& r : reply.replicas) {
    const auto id = static_cast<uint32_t>(r.partition);
    if (!map.partitions.contains(id)) continue;
    Partition& p = n.partitions[id];
    p.counts = {r.reads_total, r.writes_total, r.scans_total};
    p.leads = r.role == "master" && r.leased;
    p.bytes = static_cast<uint64_t>(std::max<int64_t>(0, r.used_bytes));
    const auto known = before.find(id);
    if (!same || known == before.end()) continue;
    const auto& [old, rates, leads, bytes] = known->second;
    // What it did as a follower says nothing about what it does as a master.
    if (!leads || !p.leads) continue;
    const Traffic fresh = {PerSecond(old.reads, r.reads_total, seconds), PerSecond(old.writes, r.writes_total, seconds),
                           PerSecond(old.scans, r.scans_total, seconds)};
    const Traffic was = rates.value_or(Traffic());
    p.rates = Traffic{Smooth(was.reads, fresh.reads, !rates), Smooth(was.writes, fresh.writes, !rates),
                      Smooth(was.scans, fresh.scans, !rates)};
    last_[id] = *p.rates;
  }
}

void TrafficMeter::Keep(const ClusterMap& map) {
  std::erase_if(nodes_, [&map](const auto& node) {
    const auto at = map.nodes.find(node.first);
    return at == map.nodes.end() || at->second.record.state == NodeState::kRemoved;
  });
  std::erase_if(last_, [&map](const auto& last) { return !map.partitions.contains(last.first); });
}

std::optional<LoadInput> TrafficMeter::Input(const ClusterMap& map, const std::set<NodeId>& reached,
                                             int64_t now_ms) const {
  LoadInput input;
  const auto measured = [&](NodeId id) -> const Node* {
    const auto at = nodes_.find(id);
    return at != nodes_.end() && at->second.measured && now_ms - at->second.taken_ms < kLatelyMs ? &at->second
                                                                                                 : nullptr;
  };
  for (const auto& [id, known] : map.nodes) {
    const NodeRecord& record = known.record;
    if (record.state == NodeState::kRemoved || !reached.contains(id)) continue;
    const Node* node = measured(id);
    if (node == nullptr) return std::nullopt;
    LoadedNode& out = input.nodes.emplace_back();
    out.place = {id, record.zone, record.weight};
    out.takes = record.state == NodeState::kActive;
    out.disk_full = node->disk_full;
    out.busy = node->busy;
    out.latency_ms = node->latency_ms;
    out.requests = node->requests;
    out.request_bytes = node->request_bytes;
  }
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& record = known.record;
    if (record.state == PartitionStage::kRetired) continue;
    PartitionLoad& out = input.partitions.emplace_back();
    out.id = id;
    out.master = replication::NodeOf(record, record.master).value_or(0);
    for (const ReplicaRecord& replica : record.isr) out.holders.push_back(replica.node);
    out.settled = IsSettled(record);
    const Node* node = measured(out.master);
    const auto at = node == nullptr ? std::map<uint32_t, Partition>::const_iterator() : node->partitions.find(id);
    if (node == nullptr || at == node->partitions.end() || !at->second.leads || !at->second.rates) {
      out.settled = false;
      if (const auto last = last_.find(id); last != last_.end()) out.traffic = last->second;
      continue;
    }
    out.traffic = *at->second.rates;
    out.bytes = at->second.bytes;
  }
  return input;
}

}  // namespace pando
