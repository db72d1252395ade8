#include "src/topology/cluster_init.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

namespace pando {
namespace {

constexpr size_t kMaxZoneBytes = 64;

bool IsZone(std::string_view zone) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '-';
  };
  return !zone.empty() && zone.size() <= kMaxZoneBytes && std::all_of(zone.begin(), zone.end(), fits);
}

// A number from 1.
bool ParseAll(std::string_view text, uint32_t* number) {
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && stop == text.data() + text.size() && *number > 0;
}

Result<PlacementNode> ParseNode(std::string_view text) {
  PlacementNode node;
  const size_t colon = std::min(text.find(':'), text.size());
  const size_t at = std::min(text.find('@'), colon);
  const bool has_weight = colon < text.size();
  if (!ParseAll(text.substr(0, at), &node.id) || (has_weight && !ParseAll(text.substr(colon + 1), &node.weight))) {
    return Error(Code::kInvalidArgument,
                 "\"{}\" is not a node: write its number, from 1, its zone if it has one, and its weight if it is not "
                 "1, as in 3@rack-b:2",
                 text);
  }
  if (at == colon) return node;
  node.zone = text.substr(at + 1, colon - at - 1);
  RETURN_IF_ERROR(CheckZone(node.zone));
  return node;
}

Status InTheWay(const Topology& topology, const std::string& what) {
  return Error(Code::kAlreadyExists, "{}: {}", topology.name(), what);
}

std::string Describe(const ClusterRecord& cluster) {
  return fmt::format("--nodes={} --partitions={} --replicas={} --min-isr={}", cluster.creating, cluster.partitions,
                     cluster.replicas, cluster.min_isr);
}

ClusterRecord FirstRecord(const ClusterPlan& plan, const Uuid& cluster_id) {
  ClusterRecord cluster;
  cluster.cluster_id = cluster_id;
  cluster.partitions = plan.partitions;
  cluster.replicas = plan.replicas;
  cluster.min_isr = plan.min_isr;
  cluster.creating = NodesText(plan.nodes);
  return cluster;
}

// Whether what is there is what a creation with this plan has left (CI2).
Status CheckFound(const Topology& topology, const ClusterPlan& plan, const ClusterMap& found) {
  const ClusterRecord& cluster = found.cluster->record;
  if (cluster.creating.empty()) {
    return InTheWay(
        topology,
        fmt::format("the cluster {} exists already, with {} nodes and {} partitions; kvadmin cluster show prints it",
                    cluster.cluster_id.ToString(), found.nodes.size(), found.partitions.size()));
  }
  const ClusterRecord mine = FirstRecord(plan, cluster.cluster_id);
  if (Describe(cluster) != Describe(mine)) {
    return InTheWay(topology,
                    fmt::format("the cluster {} is being created with {}, and not with {}: continue with that",
                                cluster.cluster_id.ToString(), Describe(cluster), Describe(mine)));
  }
  std::set<NodeId> ids;
  for (const PlacementNode& node : plan.nodes) ids.insert(node.id);
  for (const auto& [id, node] : found.nodes) {
    if (!ids.contains(id)) return InTheWay(topology, fmt::format("{} is there, and not in the plan", NodeKey(id)));
  }
  for (const auto& [id, partition] : found.partitions) {
    if (id >= plan.partitions) {
      return InTheWay(topology, fmt::format("{} is there, and not in the plan", PartitionKey(id)));
    }
  }
  return Status();
}

Task<Result<ClusterMap>> ListFound(Topology& topology, const ClusterPlan* plan, Nanos timeout_ns) {
  Result<TopologyListing> listing = co_await topology.List(timeout_ns);
  if (!listing.ok()) co_return listing.TakeStatus();
  ClusterMap found;
  for (const TopologyEntry& entry : listing->entries) CO_RETURN_IF_ERROR(found.Apply(entry));
  if (found.cluster) {
    CO_RETURN_IF_ERROR(CheckFound(topology, *plan, found));
  } else if (!listing->entries.empty()) {
    co_return InTheWay(topology, fmt::format("it holds {}, but no cluster; a new cluster needs an empty place",
                                             listing->entries.front().key));
  }
  co_return found;
}

class Creation {
 public:
  Creation(Topology& topology, ClusterPlan plan, Placement placement, std::function<Uuid()> new_uuid, Nanos timeout_ns)
      : topology_(topology),
        plan_(std::move(plan)),
        placement_(std::move(placement)),
        new_uuid_(std::move(new_uuid)),
        timeout_ns_(timeout_ns) {}

  Task<Result<CreatedCluster>> Run() {
    CO_RETURN_IF_ERROR(co_await Begin());
    created_.cluster_id = found_.cluster->record.cluster_id;
    for (size_t i = 0; i < plan_.nodes.size(); ++i) {
      if (!found_.nodes.contains(plan_.nodes[i].id)) CO_RETURN_IF_ERROR(co_await PutNode(plan_.nodes[i]));
    }
    for (uint32_t id = 0; id < plan_.partitions; ++id) {
      if (!found_.partitions.contains(id)) CO_RETURN_IF_ERROR(co_await PutPartition(id));
    }
    ClusterRecord whole = found_.cluster->record;  // CI1
    whole.creating.clear();
    CO_RETURN_IF_ERROR(co_await Put(std::string(kClusterKey), found_.cluster->revision, std::move(whole)));
    co_return created_;
  }

 private:
  // Finds the first record, or writes it.
  Task<Status> Begin() {
    for (int attempt = 0; attempt < 2; ++attempt) {
      Result<ClusterMap> found = co_await ListFound(topology_, &plan_, timeout_ns_);
      if (!found.ok()) co_return found.TakeStatus();
      found_ = *std::move(found);
      created_.continued = created_.written == 0;
      if (found_.cluster) co_return Status();
      CO_RETURN_IF_ERROR(co_await Put(std::string(kClusterKey), 0, FirstRecord(plan_, new_uuid_())));
      // Somebody else's may have been first: what is there decides.
    }
    co_return InTheWay(topology_, "the record of the cluster was written, and is not there");
  }

  Task<Status> PutNode(PlacementNode node) {
    NodeRecord record;
    record.id = node.id;
    record.zone = std::move(node.zone);
    record.weight = node.weight;
    co_return co_await Put(NodeKey(record.id), 0, std::move(record));
  }

  Task<Status> PutPartition(uint32_t id) {
    PartitionRecord record;
    record.id = id;
    std::tie(record.first_hash, record.last_hash) = HashRangeOf(id, plan_.partitions);
    record.replicas = plan_.replicas;
    record.min_isr = plan_.min_isr;
    for (const NodeId node : placement_[id]) record.isr.push_back({node, new_uuid_(), ""});
    record.master = record.isr.front().replica;
    co_return co_await Put(PartitionKey(id), 0, std::move(record));
  }

  // Writes a record unless somebody else has: then, that is another process with the same plan.
  template <typename Record>
  Task<Status> Put(std::string key, Revision expected, Record record) {
    record.op_id = NewOpId(topology_.reactor());
    const std::string op_id = record.op_id;
    Result<std::string> value = Encode(record);
    if (!value.ok()) co_return value.TakeStatus();
    Result<std::optional<Revision>> written =
        co_await SwapUntilKnown(topology_, std::move(key), expected, *std::move(value), op_id, timeout_ns_);
    if (!written.ok()) co_return written.TakeStatus();
    created_.written += written->has_value();
    co_return Status();
  }

  Topology& topology_;
  const ClusterPlan plan_;
  const Placement placement_;
  const std::function<Uuid()> new_uuid_;
  const Nanos timeout_ns_;
  ClusterMap found_;
  CreatedCluster created_;
};

}  // namespace

Status CheckZone(std::string_view zone) {
  if (IsZone(zone)) return Status();
  return Error(Code::kInvalidArgument, "\"{}\" is not a zone: it must have 1 to {} of a-z, A-Z, 0-9, '_', '.' and '-'",
               zone, kMaxZoneBytes);
}

Result<std::vector<PlacementNode>> ParseNodes(std::string_view text) {
  std::vector<PlacementNode> nodes;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    ASSIGN_OR_RETURN(PlacementNode node, ParseNode(text.substr(begin, end - begin)));
    nodes.push_back(std::move(node));
    begin = end + 1;
  }
  return nodes;
}

std::string NodesText(std::vector<PlacementNode> nodes) {
  std::sort(nodes.begin(), nodes.end(), [](const PlacementNode& a, const PlacementNode& b) { return a.id < b.id; });
  std::vector<std::string> texts;
  for (const PlacementNode& node : nodes) {
    texts.push_back(fmt::format("{}{}{}{}", node.id, node.zone.empty() ? "" : "@", node.zone,
                                node.weight == 1 ? "" : fmt::format(":{}", node.weight)));
  }
  return fmt::format("{}", fmt::join(texts, ","));
}

Result<Placement> CheckPlan(const ClusterPlan& plan) {
  ClusterRecord record = FirstRecord(plan, {1, 1});
  RETURN_IF_ERROR(Encode(record).status());
  if (plan.nodes.size() + plan.partitions + 1 > kMaxTopologyKeys) {
    return Error(Code::kInvalidArgument, "{} nodes and {} partitions are more than the {} records of a topology",
                 plan.nodes.size(), plan.partitions, kMaxTopologyKeys);
  }
  return PlacePartitions(plan.nodes, plan.partitions, plan.replicas);
}

Task<Result<std::optional<Uuid>>> FindCreation(Topology& topology, ClusterPlan plan, Nanos timeout_ns) {
  Result<ClusterMap> found = co_await ListFound(topology, &plan, timeout_ns);
  if (!found.ok()) co_return found.TakeStatus();
  std::optional<Uuid> cluster_id;
  if (found->cluster) cluster_id = found->cluster->record.cluster_id;
  co_return cluster_id;
}

Task<Result<CreatedCluster>> CreateCluster(Topology& topology, ClusterPlan plan, std::function<Uuid()> new_uuid,
                                           Nanos timeout_ns) {
  Result<Placement> placement = CheckPlan(plan);
  if (!placement.ok()) co_return placement.TakeStatus();
  Creation creation(topology, std::move(plan), *std::move(placement), std::move(new_uuid), timeout_ns);
  co_return co_await creation.Run();
}

}  // namespace pando
