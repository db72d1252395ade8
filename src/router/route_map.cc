#include "src/router/route_map.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "src/base/hash.h"

namespace pando {

namespace {

constexpr size_t kMaxNodes = 4096, kMaxRoutes = 65'536;
constexpr Epoch kMaxHintAhead = 1'000'000;

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

Result<std::vector<Route>> ToRoutes(const std::vector<api::Route>& from) {
  std::vector<Route> routes;
  routes.reserve(from.size());
  for (const api::Route& told : from) {
    ASSIGN_OR_RETURN(Route route, ToRoute(told));
    routes.push_back(std::move(route));
  }
  return routes;
}

// No true route would ever be newer.
bool IsFarAhead(const Route& route, const Route& known) {
  return known.epoch > 0 && route.lineage == known.lineage && route.epoch > known.epoch &&
         route.epoch - known.epoch > kMaxHintAhead;
}

Status CheckEpochs(const RouteMap& map, const std::vector<Route>& told, const std::string& asked_at) {
  for (const Route& route : told) {
    const Route* known = map.Find(route.partition);
    if (known == nullptr || !IsFarAhead(route, *known)) continue;
    return Error(Code::kInvalidArgument, "the map of {} has partition {} in epoch {}, and this router knows epoch {}",
                 asked_at, route.partition, route.epoch, known->epoch);
  }
  return {};
}

bool SamePartitions(const std::vector<Route>& a, const std::vector<Route>& b) {
  const auto same = [](const Route& x, const Route& y) { return x.partition == y.partition; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
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

Result<uint32_t> BaseOf(const std::vector<Route>& routes) {
  uint32_t base = 0;
  for (const Route& r : routes) {
    const int row = std::countl_zero(r.last_hash - r.first_hash);  // of so many bits, all hashes have the same
    const bool possible = row < static_cast<int>(std::bit_width(2 * kMaxPartitions));
    const uint64_t place = row == 0 ? 1 : (uint64_t{1} << (row % 64)) + (r.first_hash >> ((64 - row) % 64));
    const uint64_t base_of_this = place - r.partition;
    const bool known = possible && place > r.partition && base_of_this <= kMaxPartitions &&
                       std::has_single_bit(base_of_this) && r.partition < kMaxPartitions;
    if (base == 0 && known) base = static_cast<uint32_t>(base_of_this);
    if (!known || base != base_of_this || HashRangeOf(r.partition, base) != std::pair(r.first_hash, r.last_hash)) {
      return Error(Code::kCorruption, "partition {} cannot have the hashes {:016x} to {:016x}", r.partition,
                   r.first_hash, r.last_hash);
    }
  }
  return base;
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
  if (!reply.whole && version_ == 0) {
    return Error(Code::kInvalidArgument, "{} answered with the changes of a map that this router does not have",
                 asked_at);
  }
  if (reply.nodes.size() > kMaxNodes || reply.routes.size() > kMaxRoutes) {
    return Error(Code::kInvalidArgument, "{} answered with a map of {} nodes and {} partitions", asked_at,
                 reply.nodes.size(), reply.routes.size());
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
  ASSIGN_OR_RETURN(std::vector<Route> told, ToRoutes(reply.routes));
  RETURN_IF_ERROR(CheckEpochs(*this, told, asked_at));
  if (!reply.whole && KnowsRangesOf(told)) {
    version_ = reply.version;
    const bool news = Replace(std::move(told));
    if (!news && nodes == nodes_) return {};
    nodes_ = std::move(nodes);
    ++changes_;
    return {};
  }
  std::map<uint32_t, Route> by_id;
  for (const Route& r : routes_) by_id[r.partition] = r;
  std::map<uint32_t, Route> next = reply.whole ? std::map<uint32_t, Route>() : by_id;
  for (Route& route : told) {
    const auto known = by_id.find(route.partition);
    const bool keep =
        known != by_id.end() && (route.OlderThan(known->second) || (older && !known->second.OlderThan(route)));
    next[route.partition] = keep ? known->second : std::move(route);
  }
  std::vector<Route> routes;
  for (auto& [id, route] : next) routes.push_back(std::move(route));
  if (Status covered = CheckCoverage(&routes); !covered.ok()) {
    if (!reply.whole) version_ = 0;
    return Error(Code::kInvalidArgument, "the map of {} does not fit together: {}", asked_at, covered.message());
  }
  const Result<uint32_t> base = BaseOf(routes);
  if (!base.ok()) {
    return Error(Code::kInvalidArgument, "the map of {} does not fit together: {}", asked_at, base.status().message());
  }
  // RM2: whoever asks again learns of it from a node that knows more.
  if (older && !SamePartitions(routes, routes_)) routes = routes_;
  cluster_id_ = *cluster;
  base_ = *base;
  version_ = std::max(version_, reply.version);
  if (nodes == nodes_ && routes == routes_) return {};
  nodes_ = std::move(nodes);
  routes_ = std::move(routes);
  by_partition_.clear();
  for (size_t i = 0; i < routes_.size(); ++i) by_partition_[routes_[i].partition] = i;
  ++changes_;
  return {};
}

bool RouteMap::KnowsRangesOf(const std::vector<Route>& told) const {
  return std::all_of(told.begin(), told.end(), [this](const Route& route) {
    const Route* known = Find(route.partition);
    return known != nullptr && known->first_hash == route.first_hash && known->last_hash == route.last_hash;
  });
}

bool RouteMap::Replace(std::vector<Route> told) {
  bool news = false;
  for (Route& route : told) {
    Route& known = routes_[by_partition_.at(route.partition)];
    if (route.OlderThan(known) || route == known) continue;
    known = std::move(route);
    news = true;
  }
  return news;
}

bool RouteMap::IsContradictedBy(const api::MapReply& reply) const {
  if (!reply.whole || reply.cluster_id != cluster_id_.ToString()) return false;
  if (reply.version < version_) return true;
  return std::any_of(reply.routes.begin(), reply.routes.end(), [this](const api::Route& from) {
    const Result<Route> route = ToRoute(from);
    const Route* known = route.ok() ? Find(route->partition) : nullptr;
    return known != nullptr && route->OlderThan(*known);
  });
}

void RouteMap::Doubt() {
  version_ = 0;
  for (Route& route : routes_) route.lineage = route.epoch = 0;
}

bool RouteMap::ApplyHint(uint32_t partition, std::string_view master_address, Epoch epoch) {
  const NodeId master = NodeAt(master_address);
  const auto at = by_partition_.find(partition);
  if (master == 0 || at == by_partition_.end()) return false;
  Route* route = &routes_[at->second];
  // One that is far ahead is nonsense, and no true route would ever be newer.
  if (route->master == master || epoch > route->epoch + kMaxHintAhead) return false;
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
  const auto at = by_partition_.find(partition);
  return at == by_partition_.end() ? nullptr : &routes_[at->second];
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
