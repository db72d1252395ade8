#include "src/node/known_map.h"

#include <algorithm>
#include <utility>

namespace pando {

namespace {

// What an entry takes in the reply: as a struct in a vector that grows, with what it points at, and encoded.
constexpr size_t kReplyBytes = 512;
constexpr size_t kNodeBytes = 2 * sizeof(api::RouteNode) + 1024;
constexpr size_t kRouteBytes = 2 * sizeof(api::Route) + 128 + kMaxReplicas * 2 * sizeof(int32_t);

api::RouteNode ShownNode(const NodeRecord& record) {
  api::RouteNode shown;
  shown.id = static_cast<int32_t>(record.id);
  shown.client_address = record.client_address;
  shown.zone = record.zone;
  shown.state = static_cast<int32_t>(record.state);
  return shown;
}

api::Route ShownRoute(const PartitionRecord& record) {
  api::Route shown;
  shown.partition = static_cast<int32_t>(record.id);
  shown.first_hash = static_cast<int64_t>(record.first_hash);
  shown.last_hash = static_cast<int64_t>(record.last_hash);
  shown.lineage = static_cast<int64_t>(record.lineage);
  shown.epoch = static_cast<int64_t>(record.epoch);
  for (const ReplicaRecord& replica : record.isr) {
    shown.in_sync.push_back(static_cast<int32_t>(replica.node));
    if (replica.replica == record.master) shown.master = static_cast<int32_t>(replica.node);
  }
  return shown;
}

}  // namespace

KnownMap KnownMap::Alone(const StoreInfo& store) {
  KnownMap map;
  MapNews news;
  news.one_counter = true;
  news.base = store.ranges;
  NodeRecord node;
  node.id = kAloneNode;
  news.nodes.push_back({node, 1});
  for (uint32_t id = 0; id < store.ranges; ++id) {
    const PartitionInfo info = store.InfoOf(id, Uuid());
    PartitionRecord record;
    record.id = id;
    record.first_hash = info.first_hash;
    record.last_hash = info.last_hash;
    record.epoch = kAloneEpoch;
    record.isr = {{kAloneNode, record.master, {}}};
    news.partitions.push_back({record, 1});
  }
  map.Take(news);
  return map;
}

// KM1.
template <typename Shown>
void KnownMap::Keep(Entry<Shown>* kept, Shown shown, Revision revision) {
  if (revision <= kept->revision) return;
  version_ = one_counter_ ? std::max<uint64_t>(version_, revision) : version_ + (revision - kept->revision);
  *kept = {std::move(shown), revision};
}

std::optional<RangeTable> KnownMap::Take(const MapNews& news) {
  one_counter_ = news.one_counter;
  if (news.base != 0) base_ = news.base;
  for (const auto& [record, revision] : news.nodes) Keep(&nodes_[record.id], ShownNode(record), revision);
  bool changed = false;
  for (const auto& [record, revision] : news.partitions) {
    Entry<api::Route>& known = routes_[record.id];
    if (revision > known.revision) {
      changed |= known.revision == 0 || states_[record.id] != record.state;
      states_[record.id] = record.state;
    }
    Keep(&known, ShownRoute(record), revision);
  }
  return changed ? UpdateServing() : std::nullopt;
}

bool KnownMap::Serves(uint32_t id) const {
  const auto state_of = [this](uint32_t partition) -> std::optional<PartitionStage> {
    const auto at = states_.find(partition);
    return at == states_.end() ? std::nullopt : std::optional(at->second);
  };
  const std::optional<uint32_t> whole = base_ == 0 ? std::nullopt : WholeOf(id, base_);
  return ServesIn(state_of(id).value_or(PartitionStage::kRetired), whole ? state_of(*whole) : std::nullopt);
}

// KM2.
std::optional<RangeTable> KnownMap::UpdateServing() {
  std::set<uint32_t> serving;
  for (const auto& [id, state] : states_) {
    if (Serves(id)) serving.insert(id);
  }
  if (serving == serving_) return std::nullopt;
  const bool first = serving_.empty();
  serving_ = std::move(serving);
  if (!first) serving_since_ = version_;
  if (base_ == 0) return std::nullopt;
  Result<RangeTable> table = RangeTable::Of(base_, {serving_.begin(), serving_.end()});
  if (table.ok()) return *std::move(table);
  LOG_IF(ERROR, !first) << "the partitions of the topology do not fit together: " << table.status().message();
  return std::nullopt;
}

template <typename Shown>
size_t KnownMap::CountAfter(const std::map<uint32_t, Entry<Shown>>& entries, uint64_t known) {
  return static_cast<size_t>(std::count_if(entries.begin(), entries.end(),
                                           [known](const auto& entry) { return entry.second.revision > known; }));
}

size_t KnownMap::ReplyBytes(uint64_t known) const {
  if (known == version_) return kReplyBytes;
  const uint64_t after = IsDelta(known) ? known : 0;
  return kReplyBytes + CountAfter(nodes_, after) * kNodeBytes + CountAfter(routes_, after) * kRouteBytes;
}

void KnownMap::Fill(uint64_t known, api::MapReply* reply) const {
  reply->version = static_cast<int64_t>(version_);
  if (known == version_) return;
  reply->whole = !IsDelta(known);
  const uint64_t after = reply->whole ? 0 : known;
  for (const auto& [id, node] : nodes_) {
    if (node.revision > after) reply->nodes.push_back(node.shown);
  }
  for (const auto& [id, route] : routes_) {
    if (route.revision > after && serving_.contains(id)) reply->routes.push_back(route.shown);
  }
}

}  // namespace pando
