// kvadmin cluster: creates a cluster in its topology, and shows what the topology says about one.
//
// Threads: one.
#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/base/counted.h"
#include "src/io/resolved_path.h"
#include "src/partition/store.h"
#include "src/topology/cluster_init.h"
#include "src/topology/topology_spec.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

struct ClusterOptions {
  std::string place, nodes;
  uint32_t partitions = 16, replicas = 3, min_isr = 0;
  bool dry_run = false;
};

// -- tables

using Row = std::vector<std::string>;

// Columns are as wide as what is in them.
void PrintTable(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}", row[i], widths[i] + 2);
    }
    tools::Print("{}\n", Printable(line, Encoding::kText));
  }
}

std::string OrDash(std::string text) { return text.empty() ? "-" : text; }

std::string_view StateName(NodeState state) {
  switch (state) {
    case NodeState::kActive: return "active";
    case NodeState::kDraining: return "draining";
    case NodeState::kRemoved: return "removed";
  }
  return "?";
}

// The nodes of replicas, as in "1,2,3".
std::string NodesOf(const std::vector<ReplicaRecord>& replicas) {
  std::string text;
  for (const ReplicaRecord& replica : replicas) text += fmt::format("{}{}", text.empty() ? "" : ",", replica.node);
  return OrDash(text);
}

NodeId MasterNode(const PartitionRecord& partition) {
  for (const ReplicaRecord& replica : partition.isr) {
    if (replica.replica == partition.master) return replica.node;
  }
  return 0;  // Check does not let this happen
}

// -- init

void ReportPlan(const Globals& globals, const ClusterPlan& plan, const Placement& placement,
                const std::optional<Uuid>& found) {
  std::map<NodeId, std::pair<size_t, size_t>> counts;  // replicas and masters
  for (const std::vector<NodeId>& nodes : placement) {
    for (const NodeId node : nodes) ++counts[node].first;
    ++counts[nodes.front()].second;
  }
  if (globals.json) {
    Json line;
    line["dry_run"] = true;
    line["continues"] = found.has_value();
    line["nodes"] = NodesText(plan.nodes);
    line["replicas"] = plan.replicas;
    line["min_isr"] = plan.min_isr;
    line["partitions"] = Json::array();
    for (const std::vector<NodeId>& nodes : placement) line["partitions"].push_back(nodes);
    return PrintJson(line);
  }
  std::vector<Row> rows = {{"NODE", "ZONE", "REPLICAS", "MASTERS"}};
  for (const PlacementNode& node : plan.nodes) {
    rows.push_back({fmt::format("{}", node.id), OrDash(node.zone), fmt::format("{}", counts[node.id].first),
                    fmt::format("{}", counts[node.id].second)});
  }
  PrintTable(rows);
  tools::Print("\n");
  rows = {{"PARTITION", "MASTER", "NODES"}};
  for (size_t id = 0; id < placement.size(); ++id) {
    rows.push_back({fmt::format("{}", id), fmt::format("{}", placement[id].front()),
                    fmt::format("{}", fmt::join(placement[id], ","))});
  }
  PrintTable(rows);
  tools::Print("\nNothing was written. The command would {}.\n",
               found ? fmt::format("continue to create the cluster {}", found->ToString()) : "create the cluster");
}

void ReportCreated(const Globals& globals, const ClusterPlan& plan, const CreatedCluster& created) {
  if (!globals.json) {
    return tools::Print("{} the cluster {}: {}, {} with {} each, min_isr {}\n",
                        created.continued ? "completed" : "created", created.cluster_id.ToString(),
                        Counted(plan.nodes.size(), "node"), Counted(plan.partitions, "partition"),
                        Counted(plan.replicas, "replica"), plan.min_isr);
  }
  Json line;
  line["cluster_id"] = created.cluster_id.ToString();
  line["continued"] = created.continued;
  line["nodes"] = NodesText(plan.nodes);
  line["partitions"] = plan.partitions;
  line["replicas"] = plan.replicas;
  line["min_isr"] = plan.min_isr;
  PrintJson(line);
}

Task<Status> InitIn(Topology* topology, const Globals* globals, ClusterPlan plan, Placement placement, bool dry_run) {
  const Nanos timeout_ns = globals->target.timeout_ms * kMillisecond;
  if (dry_run) {
    Result<std::optional<Uuid>> found = co_await FindCreation(*topology, plan, timeout_ns);
    if (!found.ok()) co_return found.TakeStatus();
    ReportPlan(*globals, plan, placement, *found);
    co_return Status();
  }
  Reactor* reactor = &topology->reactor();
  Result<CreatedCluster> created = co_await CreateCluster(
      *topology, plan, [reactor] { return NewUuid(*reactor); }, timeout_ns);
  if (!created.ok()) co_return created.TakeStatus();
  ReportCreated(*globals, plan, *created);
  co_return Status();
}

Task<Result<ExitCode>> Init(Reactor* reactor, const Globals* globals, TopologySpec spec, ClusterPlan plan,
                            Placement placement, bool dry_run) {
  Result<std::unique_ptr<TopologyStore>> store = co_await OpenTopologyStore(*reactor, std::move(spec));
  if (!store.ok()) co_return store.TakeStatus();
  Topology topology(*reactor, *std::move(store));
  Status done = co_await InitIn(&topology, globals, std::move(plan), std::move(placement), dry_run);
  Status closed = co_await topology.Close();
  CO_RETURN_IF_ERROR(done);
  CO_RETURN_IF_ERROR(closed);
  co_return kExitOk;
}

// A node refuses to keep its store with the map (CheckApart), so the map must not come to a store either.
Status CheckHoldsNoStore(const TopologySpec& spec) {
  if (spec.directory.empty()) return Status();
  std::error_code error;
  fs::path place = ResolvedPath(spec.directory);
  while (!fs::exists(place / "store.meta", error)) {
    if (place == place.parent_path()) return Status();
    place = place.parent_path();
  }
  return Error(
      Code::kInvalidArgument,
      "--topology=file:{}: {} is the data directory of a node, because it holds store.meta; give the map of the "
      "cluster a directory of its own",
      spec.directory, place.string());
}

Result<ExitCode> RunInit(const Globals* globals, const ClusterOptions& options) {
  ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(options.place));
  RETURN_IF_ERROR(CheckHoldsNoStore(spec));
  ClusterPlan plan;
  ASSIGN_OR_RETURN(plan.nodes, ParseNodes(options.nodes));
  plan.partitions = options.partitions;
  plan.replicas = options.replicas;
  plan.min_isr = options.min_isr == 0 ? DefaultMinIsr(options.replicas) : options.min_isr;
  ASSIGN_OR_RETURN(Placement placement, CheckPlan(plan));
  return RunOffline([=](Reactor& reactor) { return Init(&reactor, globals, spec, plan, placement, options.dry_run); });
}

// -- show

Json ReplicasJson(const std::vector<ReplicaRecord>& replicas) {
  Json array = Json::array();
  for (const ReplicaRecord& replica : replicas) {
    Json object;
    object["node"] = replica.node;
    object["replica"] = replica.replica.ToString();
    array.push_back(object);
  }
  return array;
}

void ShowJson(const ClusterMap& map) {
  if (map.cluster) {
    const ClusterRecord& r = map.cluster->record;
    Json cluster;
    cluster["cluster_id"] = r.cluster_id.ToString();
    cluster["complete"] = r.creating.empty();
    cluster["protocol"] = r.protocol;
    cluster["partitions"] = r.partitions;
    cluster["serving"] = map.Serving().size();
    cluster["replicas"] = r.replicas;
    cluster["min_isr"] = r.min_isr;
    PrintJson(Json{{"cluster", cluster}});
  }
  for (const auto& [id, known] : map.nodes) {
    const NodeRecord& r = known.record;
    Json node;
    node["id"] = id;
    node["state"] = StateName(r.state);
    node["zone"] = r.zone;
    node["weight"] = r.weight;
    node["starts"] = r.starts;
    node["opened"] = r.opened;
    node["client_address"] = r.client_address;
    node["peer_addresses"] = r.peer_addresses;
    PrintJson(Json{{"node", node}});
  }
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& r = known.record;
    Json partition;
    partition["id"] = id;
    partition["revision"] = known.revision;
    partition["state"] = StageName(StageOf(map, id));
    partition["serves"] = map.Serves(id);
    if (r.split) partition["split"] = Json{{"rate_mb_s", r.split->rate_mb_s}};
    partition["first_hash"] = fmt::format("{:016x}", r.first_hash);
    partition["last_hash"] = fmt::format("{:016x}", r.last_hash);
    partition["lineage"] = r.lineage;
    partition["epoch"] = r.epoch;
    partition["master"] = MasterNode(r);
    partition["isr"] = ReplicasJson(r.isr);
    partition["evicted"] = ReplicasJson(r.evicted);
    partition["learners"] = ReplicasJson(r.learners);
    partition["replicas"] = r.replicas;
    partition["min_isr"] = r.min_isr;
    PrintJson(Json{{"partition", partition}});
  }
}

void ShowText(const ClusterMap& map) {
  if (map.cluster) {
    const ClusterRecord& r = map.cluster->record;
    tools::Print("cluster {}, protocol {}, {}, {} of new ones, min_isr {}\n\n", r.cluster_id.ToString(), r.protocol,
                 Counted(map.Serving().size(), "partition"), Counted(r.replicas, "replica"), r.min_isr);
  }
  std::vector<Row> rows = {{"NODE", "STATE", "ZONE", "WEIGHT", "STARTS", "OPENED", "CLIENTS", "PEERS"}};
  for (const auto& [id, known] : map.nodes) {
    const NodeRecord& r = known.record;
    rows.push_back({fmt::format("{}", id), std::string(StateName(r.state)), OrDash(r.zone), fmt::format("{}", r.weight),
                    fmt::format("{}", r.starts), fmt::format("{}", r.opened), OrDash(r.client_address),
                    OrDash(fmt::format("{}", fmt::join(r.peer_addresses, ",")))});
  }
  PrintTable(rows);
  tools::Print("\n");
  rows = {{"PARTITION", "STATE", "EPOCH", "MASTER", "ISR", "EVICTED", "LEARNERS", "REPLICAS", "MIN_ISR"}};
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& r = known.record;
    rows.push_back({fmt::format("{}", id), std::string(StageName(StageOf(map, id))), fmt::format("{}", r.epoch),
                    fmt::format("{}", MasterNode(r)), NodesOf(r.isr), NodesOf(r.evicted), NodesOf(r.learners),
                    fmt::format("{}", r.replicas), fmt::format("{}", r.min_isr)});
  }
  PrintTable(rows);
}

Task<Result<ExitCode>> Show(Reactor* reactor, const Globals* globals, TopologySpec spec) {
  Result<std::unique_ptr<TopologyStore>> store = co_await OpenTopologyStore(*reactor, std::move(spec));
  if (!store.ok()) co_return store.TakeStatus();
  Topology topology(*reactor, *std::move(store));
  Result<TopologyListing> listing = co_await topology.List(globals->target.timeout_ms * kMillisecond);
  Status closed = co_await topology.Close();
  if (!listing.ok()) co_return listing.TakeStatus();
  CO_RETURN_IF_ERROR(closed);
  ClusterMap map;
  for (const TopologyEntry& entry : listing->entries) CO_RETURN_IF_ERROR(map.Apply(entry));
  if (listing->entries.empty()) {
    const std::string note = topology.name() + " holds no cluster; kvadmin cluster init creates one";
    tools::PrintNote("{}\n", globals->json ? JsonText(Json{{"note", note}}) : "note: " + note);
    co_return kExitNo;
  }
  if (globals->json) {
    ShowJson(map);
  } else {
    ShowText(map);
  }
  for (const std::string& problem : map.Problems()) {
    tools::PrintNote("{}\n", globals->json ? JsonText(Json{{"note", problem}}) : "note: " + problem);
  }
  co_return map.cluster ? kExitOk : kExitNo;
}

Result<ExitCode> RunShow(const Globals* globals, const ClusterOptions& options) {
  ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(options.place));
  return RunOffline([=](Reactor& reactor) { return Show(&reactor, globals, spec); });
}

void AddPlace(tools::Command command, ClusterOptions* options) {
  command.Text("--topology", &options->place, "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME")
      .Required()
      .NotEmpty();
}

}  // namespace

void AddClusterCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<ClusterOptions>();
  tools::Command command =
      app.Add("cluster", "Create a cluster, show its nodes and partitions, or say whether it is well");
  command.NeedsCommand();
  command.Footer("Example:\n  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 cluster status");

  tools::Command init = command.Add("init", "Create a cluster in a topology that is still empty");
  AddPlace(init, o.get());
  init.Text("--nodes", &o->nodes, "The numbers of the nodes, with their zones if they have any: 1@rack-a,2@rack-b")
      .Required()
      .NotEmpty();
  init.Number("--partitions", &o->partitions, "A power of two", 1, 4096).ShowDefault();
  init.Number("--replicas", &o->replicas, "Of each partition, on different nodes", 1, kMaxReplicas).ShowDefault();
  init.Number("--min-isr", &o->min_isr, "Replicas that must be in sync for writes (default: more than half)", 1,
              kMaxReplicas);
  init.Flag("--dry-run", &o->dry_run, "Print where the replicas would be, and write nothing");
  init.Footer(
      "The nodes need not run. They may start when the command has succeeded; before, they refuse to. If it fails or\n"
      "is interrupted, run it again with the same options: it continues. Replicas of a partition are placed in\n"
      "different zones, as far as there are enough.\n\n"
      "Examples:\n"
      "  kvadmin cluster init --topology file:/var/lib/pando/topology --nodes 1,2,3\n"
      "  kvadmin cluster init --topology etcd://10.0.0.1:2379/production --nodes 1@a,2@b,3@c,4@a --partitions 64\n"
      "Exit codes: 0 created; 2 such a cluster is not possible; 3 the topology cannot be reached, or holds something\n"
      "else already.");
  OnChosen(init, globals, [=] { return RunInit(globals, *o); });

  tools::Command show = command.Add("show", "Print the nodes and the partitions of a cluster");
  AddPlace(show, o.get());
  show.Footer(
      "Replicas are shown by the numbers of their nodes. A partition that was split stays in the list, with the state\n"
      "split; what its nodes still have of it, they drop. Notes on standard error say what does not fit together. "
      "With\n"
      "--json, each line is {\"cluster\": ...}, {\"node\": ...} or {\"partition\": ...}, with the UUIDs of "
      "replicas.\n\n"
      "Examples:\n"
      "  kvadmin cluster show --topology file:/var/lib/pando/topology\n"
      "Exit codes: 0 shown; 1 there is no cluster; 3 the topology cannot be read; 4 a value is damaged.");
  OnChosen(show, globals, [=] { return RunShow(globals, *o); });
  AddClusterStatusCommand(command, globals);
  AddSetMinIsrCommand(command, globals);
}

}  // namespace pando::admin
