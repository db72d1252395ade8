// kvadmin node: adds a node to a cluster, drains one, and removes one.
//
// They write the node's record to the topology itself, by compare-and-swap. Replicas and masters are moved by those who
// lead, as kvadmin replica and kvadmin rebalance have it done.
//
// Threads: one.
#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/base/counted.h"
#include "src/topology/cluster_init.h"
#include "src/topology/start_counter.h"
#include "src/topology/topology_spec.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/hand_over.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/plan_make.h"
#include "tools/kvadmin/plan_run.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

struct NodeOptions {
  NodeId node = 0;
  std::string zone, file;
  uint32_t weight = 1;
  bool masters = false, cancel = false, plan_only = false, dry_run = false;
  PlanOptions plan;
  RunOptions run;
};

// -- the topology

using InTopology = std::function<Task<Status>(Topology*)>;

Task<Result<ExitCode>> Open(Reactor* reactor, TopologySpec spec, const InTopology* body) {
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TopologyStore> store, co_await OpenTopologyStore(*reactor, std::move(spec)));
  Topology topology(*reactor, std::move(store));
  Status done = co_await (*body)(&topology);
  Status closed = co_await topology.Close();
  CO_RETURN_IF_ERROR(done);
  CO_RETURN_IF_ERROR(closed);
  co_return kExitOk;
}

Status CheckPlace(const std::string& place) {
  if (!place.empty()) return Status();
  return Error(Code::kInvalidArgument, "the node's record is in the topology itself: say where it is, with --topology");
}

// Runs `body`, which is no coroutine itself, with the topology at `place`.
Status WithTopology(const std::string& place, const InTopology& body) {
  RETURN_IF_ERROR(CheckPlace(place));
  ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(place));
  return RunOffline([&](Reactor& reactor) { return Open(&reactor, spec, &body); }).TakeStatus();
}

Task<Result<ClusterMap>> ReadMap(Topology* topology, Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(const TopologyListing listing, co_await topology->List(timeout_ns));
  ClusterMap map;
  for (const TopologyEntry& entry : listing.entries) CO_RETURN_IF_ERROR(map.Apply(entry));
  if (!map.cluster) {
    co_return Error(Code::kNotFound, "the topology {} holds no cluster; kvadmin cluster init creates one",
                    topology->name());
  }
  if (!map.cluster->record.creating.empty()) {
    co_return Error(Code::kUnavailable, "the cluster in the topology {} is not complete yet", topology->name());
  }
  if (listing.entries.size() >= kMaxTopologyKeys) {
    co_return Error(Code::kUnavailable, "the topology {} has {} records, which is the limit", topology->name(),
                    listing.entries.size());
  }
  co_return map;
}

std::vector<uint32_t> HeldBy(const ClusterMap& map, NodeId node) {
  std::vector<uint32_t> held;
  for (const auto& [id, known] : map.partitions) {
    if (!IsInUse(map, id)) continue;  // what the node still has of it, it drops
    bool holds = false;
    for (const auto* list : {&known.record.isr, &known.record.evicted, &known.record.learners}) {
      for (const ReplicaRecord& replica : *list) holds = holds || replica.node == node;
    }
    if (holds) held.push_back(id);
  }
  return held;
}

Result<NodeState> StateOf(const ClusterMap& map, NodeId node) {
  const auto at = map.nodes.find(node);
  if (at == map.nodes.end()) return Error(Code::kInvalidArgument, "the cluster has no node {}", node);
  return at->second.record.state;
}

Status Gone(NodeId node) {
  return Error(Code::kInvalidArgument, "node {} was removed from the cluster, and its number is not used again", node);
}

Task<Status> SetState(Topology* topology, NodeId node, NodeState state, Nanos timeout_ns) {
  const auto set = [node, state](NodeRecord& record) {
    if (record.state == NodeState::kRemoved && state == NodeState::kActive) return Gone(node);
    record.state = state;
    return Status();
  };
  co_return (co_await ChangeNode(*topology, node, set, timeout_ns)).TakeStatus();
}

// -- add

// Whether it was, or would be, added; false: it is there, as it should be.
Task<Status> Add(Topology* topology, NodeRecord record, bool dry_run, Nanos timeout_ns, bool* added) {
  CO_ASSIGN_OR_RETURN(const ClusterMap map, co_await ReadMap(topology, timeout_ns));
  if (const auto at = map.nodes.find(record.id); at != map.nodes.end()) {
    const NodeRecord& there = at->second.record;
    if (there.state == NodeState::kRemoved) co_return Gone(record.id);
    if (there.zone == record.zone && there.weight == record.weight) co_return Status();
    co_return Error(
        Code::kAlreadyExists,
        "the cluster has a node {} already, {}with weight {}; a new node needs a number that no node has had",
        record.id, there.zone.empty() ? "" : fmt::format("in the zone {}, ", there.zone), there.weight);
  }
  *added = true;
  if (dry_run) co_return Status();
  record.op_id = NewOpId(topology->reactor());
  const std::string op_id = record.op_id;
  CO_ASSIGN_OR_RETURN(std::string value, Encode(record));
  CO_ASSIGN_OR_RETURN(const std::optional<Revision> written,
                      co_await SwapUntilKnown(*topology, NodeKey(record.id), 0, std::move(value), op_id, timeout_ns));
  if (written) co_return Status();
  co_return Error(Code::kAlreadyExists, "somebody else has added a node {} at this moment", record.id);
}

Result<ExitCode> RunAdd(const Globals& globals, const NodeOptions& o) {
  NodeRecord record;
  record.id = o.node;
  record.zone = o.zone;
  record.weight = o.weight;
  if (!o.zone.empty()) RETURN_IF_ERROR(CheckZone(o.zone));
  bool added = false;
  const Nanos timeout_ns = globals.target.timeout_ms * kMillisecond;
  RETURN_IF_ERROR(WithTopology(
      o.plan.place, [&](Topology* topology) { return Add(topology, record, o.dry_run, timeout_ns, &added); }));
  if (globals.json) {
    PrintJson(Json{
        {"node", o.node}, {"zone", o.zone}, {"weight", o.weight}, {added && o.dry_run ? "would_add" : "added", added}});
  } else if (!added) {
    tools::Print("the cluster has node {} already, as it should be\n", o.node);
  } else if (o.dry_run) {
    tools::Print("node {} would be added; nothing was changed\n", o.node);
  } else {
    tools::Print(
        "added node {}; start it, with --node_id={} and an empty --data_dir, and give it its share with kvadmin "
        "rebalance plan\n",
        o.node, o.node);
  }
  return kExitOk;
}

// -- drain

Result<ExitCode> RunCancel(const Globals& globals, const NodeOptions& o) {
  const Nanos timeout_ns = globals.target.timeout_ms * kMillisecond;
  if (!o.dry_run) {
    RETURN_IF_ERROR(WithTopology(
        o.plan.place, [&](Topology* topology) { return SetState(topology, o.node, NodeState::kActive, timeout_ns); }));
  }
  if (globals.json) {
    PrintJson(Json{{"node", o.node}, {"draining", false}, {"changed", !o.dry_run}});
  } else if (o.dry_run) {
    tools::Print("node {} would be active again; nothing was changed\n", o.node);
  } else {
    tools::Print("node {} is active: plans may give it replicas again\n", o.node);
  }
  return kExitOk;
}

// Several nodes may be marked at the same time, each by somebody who saw the others stay. So it looks again afterwards.
Task<Status> Mark(Topology* topology, NodeId node, Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(const ClusterMap before, co_await ReadMap(topology, timeout_ns));
  CO_ASSIGN_OR_RETURN(const NodeState state, StateOf(before, node));
  CO_RETURN_IF_ERROR(co_await SetState(topology, node, NodeState::kDraining, timeout_ns));
  CO_ASSIGN_OR_RETURN(const ClusterMap after, co_await ReadMap(topology, timeout_ns));
  size_t active = 0;
  uint32_t replicas = 0;
  for (const auto& [id, known] : after.nodes) active += known.record.state == NodeState::kActive;
  for (const auto& [id, known] : after.partitions) replicas = std::max(replicas, known.record.replicas);
  if (active >= replicas || HeldBy(after, node).empty()) co_return Status();
  if (state == NodeState::kActive) CO_RETURN_IF_ERROR(co_await SetState(topology, node, state, timeout_ns));
  co_return Error(Code::kUnavailable,
                  "other nodes are being drained, too: only {} would be left to hold the {} replicas of a partition. "
                  "Nothing was moved, and node {} is {}",
                  Counted(active, "node"), replicas, node, state == NodeState::kActive ? "as it was" : "still marked");
}

void SayEmpty(const Globals& globals, NodeId node) {
  if (globals.json) return PrintJson(Json{{"drained", node}});
  tools::Print("node {} holds nothing: stop it, and then kvadmin node remove {}\n", node, node);
}

Result<ExitCode> RunNodeDrain(const Globals& globals, const NodeOptions& options) {
  NodeOptions o = options;
  if (o.masters + o.cancel + o.plan_only > 1) {
    return Error(Code::kInvalidArgument, "say one of --masters, --cancel and --plan-only");
  }
  if (o.cancel) return RunCancel(globals, o);
  if (o.masters) {
    ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, o.plan.place));
    return DrainMasters(globals, view, o.node, o.dry_run);
  }
  RETURN_IF_ERROR(CheckPlace(o.plan.place));
  if (o.file.empty()) o.file = fmt::format("drain-node-{}.plan", o.node);
  Result<PlanFile> made = MakePlan(globals, o.plan, o.node);
  // One that holds nothing any more may have the plan of its drain left. In the middle of a drain no plan can be made.
  if (!o.dry_run && (!made.ok() || !made->moves.empty()) && std::filesystem::exists(o.file)) {
    return Error(
        Code::kAlreadyExists,
        "{} is there already. If it is of a drain that was not finished, kvadmin rebalance resume {} goes on with "
        "it; otherwise remove it, or name another file with -o",
        o.file, o.file);
  }
  if (!made.ok()) return made.TakeStatus();
  PlanFile plan = *std::move(made);
  if (o.dry_run) {
    ShowPlan(globals, plan);
    if (!globals.json) tools::Print("Nothing was changed.\n");
    return kExitOk;
  }
  const Nanos timeout_ns = globals.target.timeout_ms * kMillisecond;
  RETURN_IF_ERROR(WithTopology(o.plan.place, [&](Topology* topology) { return Mark(topology, o.node, timeout_ns); }));
  if (plan.moves.empty()) {
    SayEmpty(globals, o.node);
    return kExitOk;
  }
  RETURN_IF_ERROR(WritePlan(o.file, &plan));
  ShowPlan(globals, plan);
  if (!globals.json) {
    tools::Print("The plan is in {}. kvadmin rebalance pause, resume and abort work with it.\n\n", o.file);
  }
  if (o.plan_only) return kExitOk;
  o.run.path = o.file;
  o.run.place = o.plan.place;
  ASSIGN_OR_RETURN(const ExitCode code, RunPlan(globals, o.run, PlanVerb::kApply));
  if (code == kExitOk) SayEmpty(globals, o.node);
  return code;
}

// -- remove

Status CheckEmpty(const ClusterMap& map, NodeId node) {
  const std::vector<uint32_t> held = HeldBy(map, node);
  if (held.empty()) return Status();
  return Error(Code::kUnavailable,
               "node {} holds {} (of partition {}), so it stays; kvadmin node drain {} gives them to other nodes", node,
               Counted(held.size(), "replica"), fmt::join(held, ","), node);
}

// A master that does not know yet that the node drains might still give it a replica, so it is asked before and after.
Task<Status> Remove(Topology* topology, NodeId node, bool dry_run, Nanos timeout_ns, bool* changed) {
  CO_ASSIGN_OR_RETURN(const ClusterMap before, co_await ReadMap(topology, timeout_ns));
  CO_ASSIGN_OR_RETURN(const NodeState state, StateOf(before, node));
  if (state == NodeState::kRemoved) co_return Status();
  CO_RETURN_IF_ERROR(CheckEmpty(before, node));
  *changed = true;
  if (dry_run) co_return Status();
  for (const NodeState next : {NodeState::kDraining, NodeState::kRemoved}) {
    CO_RETURN_IF_ERROR(co_await SetState(topology, node, next, timeout_ns));
    CO_ASSIGN_OR_RETURN(const ClusterMap after, co_await ReadMap(topology, timeout_ns));
    const Status empty = CheckEmpty(after, node);
    if (empty.ok()) continue;
    CO_RETURN_IF_ERROR(co_await SetState(topology, node, NodeState::kDraining, timeout_ns));
    co_return empty;
  }
  co_return Status();
}

Result<ExitCode> RunRemove(const Globals& globals, const NodeOptions& o) {
  RETURN_IF_ERROR(CheckPlace(o.plan.place));
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, o.plan.place));
  bool changed = false;
  const Nanos timeout_ns = globals.target.timeout_ms * kMillisecond;
  RETURN_IF_ERROR(WithTopology(o.plan.place, [&](Topology* topology) {
    return Remove(topology, o.node, /*dry_run=*/true, timeout_ns, &changed);
  }));
  if (changed && view.IsReachable(o.node)) {
    return Error(Code::kUnavailable, "node {} still runs: stop it first, and then remove it", view.NameOf(o.node));
  }
  if (changed && !o.dry_run) {
    RETURN_IF_ERROR(WithTopology(o.plan.place, [&](Topology* topology) {
      return Remove(topology, o.node, /*dry_run=*/false, timeout_ns, &changed);
    }));
  }
  if (globals.json) {
    PrintJson(Json{{"node", o.node},
                   {changed && o.dry_run ? "would_remove" : "removed", true},
                   {"changed", changed && !o.dry_run}});
  } else if (!changed) {
    tools::Print("node {} was removed before\n", o.node);
  } else if (o.dry_run) {
    tools::Print("node {} would be removed; nothing was changed\n", o.node);
  } else {
    tools::Print("removed node {}; its number is not used again, and its data directory may be deleted\n", o.node);
  }
  return kExitOk;
}

// -- the command line

void AddPlace(tools::Command command, NodeOptions* o, const std::string& without = "") {
  command.Text("--topology", &o->plan.place, "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME" + without)
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be done, and change nothing");
}

void AddAdd(tools::Command node, Globals* globals) {
  auto o = std::make_shared<NodeOptions>();
  tools::Command command = node.Add("add", "Add a node to a cluster, before it is started");
  command.Number("--id", &o->node, "Its number, which no node of the cluster has had", 1).Required();
  command.Text("--zone", &o->zone, "What fails as a whole with it, such as a rack").NotEmpty();
  command
      .Number("--weight", &o->weight, "A node with twice the weight is to hold and lead twice as much", 1,
              kMaxNodeWeight)
      .ShowDefault();
  AddPlace(command, o.get());
  command.Footer(
      "Writes the node's record to the topology. Then start it, with its number and an empty directory. It holds "
      "nothing\n"
      "until a plan gives it replicas (kvadmin rebalance plan, apply). The same command again changes nothing.\n\n"
      "Example:\n  kvadmin node add --id 4 --zone d --weight 2 --topology etcd://10.0.0.1:2379/production\n"
      "Exit codes: 0 it is there; 2 this is no zone or number; 3 another node has the number, or the topology cannot "
      "be\n"
      "reached.");
  OnChosen(command, globals, [=] { return RunAdd(*globals, *o); });
}

void AddDrain(tools::Command node, Globals* globals) {
  auto o = std::make_shared<NodeOptions>();
  tools::Command command = node.Add("drain", "Give all that a node holds to the others, before it leaves the cluster");
  command.Number("node", &o->node, "Its number", 1).Required();
  command.Flag("--masters", &o->masters, "Only what it leads, before maintenance: it keeps its replicas");
  command.Flag("--cancel", &o->cancel, "It stays in the cluster: plans may give it replicas again");
  command.Flag("--plan-only", &o->plan_only, "Write the plan, and move nothing: kvadmin rebalance apply does");
  command.Text("-o,--output", &o->file, "Write the plan to this file (default: drain-node-N.plan)").NotEmpty();
  command
      .Number("--mb-per-s", &o->plan.mb_per_s, "At which a node takes pages, for the estimate of the time", 1, 1 << 20)
      .ShowDefault();
  command.Number("--parallel", &o->run.parallel, "How many partitions are moved at the same time", 1, 64).ShowDefault();
  command
      .Number("--timeout-s", &o->run.timeout_s, "Give up when nothing has moved on for so long; what has begun goes on",
              1, 30LL * 24 * 3600)
      .ShowDefault();
  AddPlace(command, o.get(), "; needed, unless with --masters a node at --server is to say it");
  command.Footer(
      "Marks the node as draining, so that it is given nothing more, makes a plan after which it holds no replica, "
      "and\n"
      "carries it out. What it leads is handed over on the way. The node may be down. After an interruption, kvadmin\n"
      "rebalance resume goes on with the plan.\n\n"
      "--masters, which kvadmin drain is short for, hands over all that it leads to nodes that are in sync, and moves\n"
      "nothing: the node stays a follower, and may become master again if another node fails. kvadmin rebalance "
      "--masters\n"
      "gives it its share back. If a partition has no other replica in sync, nothing is handed over.\n\n"
      "Examples:\n"
      "  kvadmin node drain 4 --topology etcd://10.0.0.1:2379/production\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 node drain 2 --masters --dry-run\n"
      "Exit codes: 0 it holds (or leads) nothing; 1 the plan was paused or aborted; 2 there is no such node; 3 it was\n"
      "refused or failed.");
  OnChosen(command, globals, [=] { return RunNodeDrain(*globals, *o); });
}

void AddRemove(tools::Command node, Globals* globals) {
  auto o = std::make_shared<NodeOptions>();
  tools::Command command = node.Add("remove", "Remove a node that holds nothing from a cluster, for good");
  command.Number("node", &o->node, "Its number", 1).Required();
  AddPlace(command, o.get());
  command.Footer(
      "Refused while the node holds a replica, or runs. Its record says that it was removed, and its number is never "
      "used\n"
      "again.\n\n"
      "Example:\n  kvadmin node remove 4 --topology etcd://10.0.0.1:2379/production\n"
      "Exit codes: 0 it is removed; 2 there is no such node; 3 it was refused, or the topology cannot be reached.");
  OnChosen(command, globals, [=] { return RunRemove(*globals, *o); });
}

}  // namespace

void AddNodeCommand(tools::Command app, Globals* globals) {
  tools::Command node = app.Add("node", "Add a node to a cluster, drain it, or remove it");
  node.NeedsCommand();
  node.Footer("Example:\n  kvadmin node add --id 4 --zone d --topology etcd://10.0.0.1:2379/production");
  AddAdd(node, globals);
  AddDrain(node, globals);
  AddRemove(node, globals);
}

void AddDrainCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<NodeOptions>();
  o->masters = true;
  tools::Command command = app.Add("drain", "Let a node lead no partition, before maintenance (node drain --masters)");
  command.Number("node", &o->node, "Its number", 1).Required();
  AddPlace(command, o.get(), " (default: what a node at --server knows of it)");
  command.Footer(
      "Short for kvadmin node drain NODE --masters: hands over all partitions that the node leads, and moves nothing. "
      "(A\n"
      "node that is stopped with SIGTERM hands over by itself; drain first tells whether it can.)\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 drain 2\n"
      "  kvadmin drain 2 --topology file:/var/lib/pando/topology --dry-run\n"
      "Exit codes: 0 it leads nothing; 2 there is no such node; 3 a handover was refused or failed.");
  OnChosen(command, globals, [=] { return RunNodeDrain(*globals, *o); });
}

}  // namespace pando::admin
