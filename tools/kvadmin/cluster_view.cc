#include "tools/kvadmin/cluster_view.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "src/topology/topology.h"
#include "src/topology/topology_spec.h"
#include "tools/kvadmin/offline.h"

namespace pando::admin {

namespace {

constexpr int64_t kAskMs = 3000;  // of each node

struct ReadTopology {
  ClusterMap map;
  Revision revision = 0;  // 0: unknown
};

Task<Result<ExitCode>> ReadInto(Reactor* reactor, TopologySpec spec, Nanos timeout_ns, ReadTopology* read) {
  Result<std::unique_ptr<TopologyStore>> store = co_await OpenTopologyStore(*reactor, std::move(spec));
  if (!store.ok()) co_return store.TakeStatus();
  Topology topology(*reactor, *std::move(store));
  Result<TopologyListing> listing = co_await topology.List(timeout_ns);
  Status closed = co_await topology.Close();
  if (!listing.ok()) co_return listing.TakeStatus();
  CO_RETURN_IF_ERROR(closed);
  for (const TopologyEntry& entry : listing->entries) CO_RETURN_IF_ERROR(read->map.Apply(entry));
  read->revision = listing->revision;
  co_return kExitOk;
}

Status CheckCreated(const ClusterMap& map) {
  if (map.cluster) return Status();
  return Error(Code::kNotFound, "the topology holds no cluster; kvadmin cluster init creates one");
}

Result<ReadTopology> ReadMap(const Target& target, const std::string& place) {
  ReadTopology read;
  if (!place.empty()) {
    ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(place));
    const Nanos timeout_ns = target.timeout_ms * kMillisecond;
    RETURN_IF_ERROR(
        RunOffline([&](Reactor& reactor) { return ReadInto(&reactor, spec, timeout_ns, &read); }).TakeStatus());
  } else {
    Client client(target);
    ASSIGN_OR_RETURN(read.map, MapOf(client));
  }
  RETURN_IF_ERROR(CheckCreated(read.map));
  return read;
}

int64_t WallMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

// What was read before the nodes were asked may be older than what they have seen, so it is read once more.
Status FindStale(const Target& target, const std::string& place, Revision revision, ClusterView* view) {
  NodeId by = 0;
  Revision seen = revision;
  for (const auto& [id, node] : view->nodes) {
    if (!node.status.ok() || static_cast<Revision>(node.reply.topology_revision) <= seen) continue;
    by = id;
    seen = static_cast<Revision>(node.reply.topology_revision);
  }
  if (by == 0 || place.empty()) return Status();
  ASSIGN_OR_RETURN(const ReadTopology again, ReadMap(target, place));
  if (again.revision >= seen) return Status();
  view->stale = fmt::format("{} has gone back: its revision is {}, and node {} has seen {}", place, again.revision,
                            view->NameOf(by), seen);
  return Status();
}

}  // namespace

const api::ReplicaStatus* ClusterView::ReplicaOn(NodeId node, uint32_t partition) const {
  const auto at = nodes.find(node);
  if (at == nodes.end() || !at->second.status.ok()) return nullptr;
  for (const api::ReplicaStatus& replica : at->second.reply.replicas) {
    if (replica.partition == static_cast<int32_t>(partition)) return &replica;
  }
  return nullptr;
}

ClusterView::Master ClusterView::MasterOf(uint32_t partition) const {
  Master master;
  for (const auto& [id, node] : nodes) {
    const api::ReplicaStatus* replica = ReplicaOn(id, partition);
    if (replica == nullptr || replica->role != "master" || !replica->leased) continue;
    if (master.status == nullptr || replica->epoch > master.status->epoch) master = {id, replica};
  }
  return master;
}

bool ClusterView::IsReachable(NodeId node) const {
  const auto at = nodes.find(node);
  return at != nodes.end() && at->second.status.ok();
}

std::string ClusterView::WhyStale() const {
  if (!stale.empty()) return stale;
  for (const auto& [id, node] : nodes) {
    if (node.status.ok() && node.reply.__isset.topology_trouble && node.reply.topology_trouble.went_back) {
      return node.reply.topology_trouble.problem;
    }
  }
  return "";
}

std::string ClusterView::NameOf(NodeId node) const {
  const auto at = map.nodes.find(node);
  if (at == map.nodes.end() || at->second.record.client_address.empty()) return fmt::format("{}", node);
  return fmt::format("{} ({})", node, at->second.record.client_address);
}

Result<ClusterMap> MapOf(Client& client) {
  ASSIGN_OR_RETURN(const api::TopologyReply reply, client.Call(Client::Repeat::kSafe, &api::ClusterIf::topology));
  ClusterMap map;
  for (const api::TopologyKey& key : reply.keys) {
    TopologyEntry entry;
    entry.key = key.key;
    entry.revision = static_cast<Revision>(key.revision);
    entry.value = key.value;
    RETURN_IF_ERROR(map.Apply(entry));
  }
  RETURN_IF_ERROR(CheckCreated(map));
  return map;
}

Result<ClusterView> LookAtCluster(const Target& target, const std::string& place) {
  ClusterView view;
  ASSIGN_OR_RETURN(ReadTopology read, ReadMap(target, place));
  view.map = std::move(read.map);
  view.revision = read.revision;
  for (const auto& [id, known] : view.map.nodes) {
    if (known.record.state == NodeState::kRemoved) continue;
    ClusterView::Node& node = view.nodes[id];
    if (known.record.client_address.empty()) {
      node.status = Error(Code::kUnavailable, "it has never been started");
      continue;
    }
    Client client({known.record.client_address, std::min(target.timeout_ms, kAskMs)});
    const int64_t asked_ms = WallMs();
    Result<api::ReplicasReply> reply = client.Call(Client::Repeat::kSafe, &api::ClusterIf::replicas);
    if (reply.status().code() == Code::kAborted) return reply.TakeStatus();
    node.status = reply.status();
    if (!reply.ok()) continue;
    node.reply = *std::move(reply);
    const int64_t answered_ms = WallMs();
    node.clock_ahead_ms = node.reply.clock_ms - (asked_ms + answered_ms) / 2;
    node.clock_error_ms = std::abs(answered_ms - asked_ms) / 2 + 1;
    view.revision = std::max(view.revision, static_cast<Revision>(node.reply.topology_revision));
    const std::string expected = view.map.cluster->record.cluster_id.ToString();
    if (node.reply.node == static_cast<int32_t>(id) && node.reply.cluster_id == expected) continue;
    node.status =
        Error(Code::kUnavailable, "node {} of the cluster {} answers there", node.reply.node, node.reply.cluster_id);
  }
  RETURN_IF_ERROR(FindStale(target, place, read.revision, &view));
  return view;
}

Status CheckNode(const ClusterView& view, NodeId node) {
  if (view.nodes.contains(node)) return Status();
  std::vector<NodeId> known;
  for (const auto& [id, at] : view.nodes) known.push_back(id);
  return Error(Code::kInvalidArgument, "the cluster has no node {}; its nodes are {}", node, NodesText(known));
}

std::string NodesText(const std::vector<NodeId>& nodes) {
  return nodes.empty() ? "-" : fmt::format("{}", fmt::join(nodes, ","));
}

std::string NamedNodes(const std::vector<NodeId>& nodes) {
  if (nodes.empty()) return "no node";
  return fmt::format("{} {}", nodes.size() == 1 ? "node" : "the nodes", NodesText(nodes));
}

}  // namespace pando::admin
