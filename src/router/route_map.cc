#include "src/router/route_map.h"

#include <algorithm>
#include <utility>

#include "src/base/hash.h"

namespace pando {

namespace {

Result<Route> ToRoute(const api::Route& from) {
  Route to;
  if (from.partition < 0 || from.epoch < 0 || from.lineage < 0 || from.master < 0) {
    return Error(Code::kInvalidArgument, "partition {}: a number of its route is negative", from.partition);
  }
  to.partition = static_cast<uint32_t>(from.partition);
  to.first_hash = static_cast<uint64_t>(from.first_hash);
  to.last_hash = static_cast<uint64_t>(from.last_hash);
  to.lineage = static_cast<uint64_t>(from.lineage);
  to.epoch = static_cast<Epoch>(from.epoch);
  to.master = static_cast<NodeId>(from.master);
  for (const int32_t node : from.in_sync) to.in_sync.push_back(static_cast<NodeId>(node));
  return to;
}

}  // namespace

Status CheckCoverage(std::vector<Route>* routes) {
  std::sort(routes->begin(), routes->end(), [](const Route& a, const Route& b) { return a.first_hash < b.first_hash; });
  uint64_t next = 0;
  for (size_t i = 0; i < routes->size(); ++i) {
    const Route& r = (*routes)[i];
    if (r.first_hash != next || r.last_hash < r.first_hash) {
      return Error(Code::kCorruption, "partition {} begins at hash {:016x}, and the one before it ends before {:016x}",
                   r.partition, r.first_hash, next);
    }
    const bool last = i + 1 == routes->size();
    if (last != (r.last_hash == UINT64_MAX)) {
      return Error(Code::kCorruption, "partition {} ends at hash {:016x}, and {} follows", r.partition, r.last_hash,
                   last ? "nothing" : "another");
    }
    next = r.last_hash + 1;
  }
  if (routes->empty()) return Error(Code::kCorruption, "there is no partition");
  return {};
}

void RouteMap::Clear() {
  version_ = 0;
  nodes_.clear();
  routes_.clear();
}

Status RouteMap::Apply(const api::MapReply& reply, const std::string& asked_at) {
  const std::optional<Uuid> cluster = Uuid::Parse(reply.cluster_id);
  if (!cluster || cluster->IsNil()) {
    return Error(Code::kInvalidArgument, "{} answered with a map of the cluster \"{}\", which is not a UUID", asked_at,
                 reply.cluster_id);
  }
  if (!cluster_id_.IsNil() && *cluster != cluster_id_) {
    return Error(Code::kInvalidArgument, "{} belongs to the cluster {}, and the other nodes to {}; look at --nodes",
                 asked_at, cluster->ToString(), cluster_id_.ToString());
  }
  if (!reply.whole && reply.version <= version_) return {};  // nothing is newer
  if (!reply.whole && !complete()) {
    return Error(Code::kInvalidArgument, "{} answered with the changes of a map that this router does not have",
                 asked_at);
  }
  // A whole map that is older says which partitions there are, but none of its routes replaces a newer one (RM2).
  // Nor does it take a node away, or change one that is known.
  const bool older = reply.version < version_;
  std::map<NodeId, RouteNode> nodes = reply.whole && !older ? std::map<NodeId, RouteNode>() : nodes_;
  for (const api::RouteNode& n : reply.nodes) {
    const auto id = static_cast<NodeId>(n.id);
    if (older && nodes.contains(id)) continue;
    nodes[id] = {n.client_address.empty() && reply.nodes.size() == 1 ? asked_at : n.client_address, n.zone};
  }
  std::map<uint32_t, Route> by_id;
  for (const Route& r : routes_) by_id[r.partition] = r;
  std::map<uint32_t, Route> next = reply.whole ? std::map<uint32_t, Route>() : by_id;
  for (const api::Route& from : reply.routes) {
    ASSIGN_OR_RETURN(Route route, ToRoute(from));
    const auto known = by_id.find(route.partition);
    next[route.partition] = known != by_id.end() && route.OlderThan(known->second) ? known->second : std::move(route);
  }
  std::vector<Route> routes;
  for (auto& [id, route] : next) routes.push_back(std::move(route));
  if (Status covered = CheckCoverage(&routes); !covered.ok()) {
    if (!reply.whole) Clear();
    return Error(Code::kInvalidArgument, "the map of {} does not fit together: {}", asked_at, covered.message());
  }
  cluster_id_ = *cluster;
  version_ = std::max(version_, reply.version);
  if (nodes == nodes_ && routes == routes_) return {};
  nodes_ = std::move(nodes);
  routes_ = std::move(routes);
  ++changes_;
  return {};
}

bool RouteMap::ApplyHint(uint32_t partition, std::string_view master_address, Epoch epoch) {
  const NodeId master = NodeAt(master_address);
  const auto route =
      std::find_if(routes_.begin(), routes_.end(), [partition](const Route& r) { return r.partition == partition; });
  if (master == 0 || route == routes_.end() || route->master == master) return false;
  if (epoch != 0 && epoch < route->epoch) return false;
  route->master = master;
  route->epoch = std::max(route->epoch, epoch);
  ++changes_;
  return true;
}

const Route& RouteMap::RouteOfHash(uint64_t hash) const {
  DCHECK(complete());
  auto after = std::upper_bound(routes_.begin(), routes_.end(), hash,
                                [](uint64_t wanted, const Route& r) { return wanted < r.first_hash; });
  return *--after;
}

const Route& RouteMap::RouteOfKey(std::string_view key) const { return RouteOfHash(HashId(key)); }

const Route* RouteMap::Find(uint32_t partition) const {
  for (const Route& r : routes_) {
    if (r.partition == partition) return &r;
  }
  return nullptr;
}

const RouteNode* RouteMap::FindNode(NodeId node) const {
  const auto at = nodes_.find(node);
  return at == nodes_.end() ? nullptr : &at->second;
}

NodeId RouteMap::NodeAt(std::string_view address) const {
  for (const auto& [id, node] : nodes_) {
    if (node.address == address) return id;
  }
  return 0;
}

}  // namespace pando
