// kvadmin failover, rebalance and drain: hand over masterships without an error for any client.
//
// What is handed over, and to whom, is decided from one look at the cluster. Each request names the epoch that
// was seen then, so that nothing that has changed meanwhile is undone.
//
// Threads: one.
#include <algorithm>
#include <memory>

#include "src/base/counted.h"
#include "tools/kvadmin/cluster_health.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/commands/force_failover.h"
#include "tools/kvadmin/master_plan.h"
#include "tools/kvadmin/new_master.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/replacing.h"

namespace pando::admin {

namespace {

struct MoveOptions {
  std::string place;
  uint32_t partition = 0;
  NodeId node = 0;
  bool masters = false, dry_run = false;
  bool force = false, accept_loss = false;
  std::string confirm;
  std::optional<Replacing> replacing;
};

Json MoveJson(const MasterMove& move) {
  return Json{{"partition", move.partition}, {"epoch", move.epoch}, {"from", move.from}, {"to", move.to}};
}

Result<api::HandoverReply> HandOver(const Globals& globals, const ClusterView& view, const MasterMove& move) {
  Client client({view.map.nodes.at(move.from).record.client_address, globals.target.timeout_ms});
  api::HandoverRequest request;
  request.partition = static_cast<int32_t>(move.partition);
  request.node = static_cast<int32_t>(move.to);
  request.epoch = static_cast<int64_t>(move.epoch);
  Result<api::HandoverReply> reply = client.Call(Client::Repeat::kUnsafe, &api::ClusterIf::handover, request);
  // The command line was right; the cluster is not as it was when it was looked at.
  if (reply.status().code() == Code::kInvalidArgument) {
    return Error(Code::kUnavailable, "{}", reply.status().message());
  }
  return reply;
}

int64_t FirstEpochAfter(const MasterMove& move) { return static_cast<int64_t>(move.epoch) + 1; }

void PrintPlan(const Globals& globals, const ClusterView& view, const std::vector<MasterMove>& moves) {
  for (const MasterMove& move : moves) {
    if (globals.json) {
      PrintJson(Json{{"would_hand_over", MoveJson(move)}});
    } else {
      tools::Print("partition {}: node {} would hand over to node {}\n", move.partition, view.NameOf(move.from),
                   view.NameOf(move.to));
    }
  }
}

void PrintSummary(const Globals& globals, size_t moved, int64_t longest_ms) {
  if (globals.json) return PrintJson(Json{{"handed_over", moved}, {"longest_pause_ms", longest_ms}});
  tools::Print("{} handed over; the longest accepted no writes for {} ms\n", Counted(moved, "partition"), longest_ms);
}

Result<ExitCode> CarryOut(const Globals& globals, const ClusterView& view, const std::vector<MasterMove>& moves,
                          bool dry_run) {
  if (dry_run) {
    PrintPlan(globals, view, moves);
    if (!globals.json)
      tools::Print("{} would be handed over; nothing was changed\n", Counted(moves.size(), "partition"));
    return kExitOk;
  }
  Progress progress("handing over", "partitions", moves.size(), globals.json);
  int64_t longest_ms = 0;
  size_t moved = 0;
  std::vector<std::pair<MasterMove, NodeId>> led;
  for (const MasterMove& move : moves) {
    Result<api::HandoverReply> reply = HandOver(globals, view, move);
    if (!reply.ok()) {
      progress.Clear();
      return Error(reply.status().code(),
                   "{}; {} of {} handed over before. Look at kvadmin cluster status, and run the "
                   "command again for the others",
                   reply.status().message(), moved, Counted(moves.size(), "partition"));
    }
    longest_ms = std::max(longest_ms, reply->pause_ms);
    ++moved;
    led.emplace_back(move, static_cast<NodeId>(reply->node));
    progress.Update(moved, 0, moved);
    if (!globals.json) continue;
    Json done = MoveJson(move);
    done["pause_ms"] = reply->pause_ms;
    PrintJson(Json{{"moved", done}});
  }
  for (const auto& [move, node] : led) {
    RETURN_IF_ERROR(WaitUntilLeads(globals, view, move.partition, node, FirstEpochAfter(move)));
  }
  progress.Clear();
  PrintSummary(globals, moved, longest_ms);
  return kExitOk;
}

// -- failover

Status CheckNode(const ClusterView& view, NodeId node) {
  if (view.nodes.contains(node)) return Status();
  std::vector<NodeId> known;
  for (const auto& [id, at] : view.nodes) known.push_back(id);
  return Error(Code::kInvalidArgument, "the cluster has no node {}; its nodes are {}", node, NodesText(known));
}

Result<MasterMove> PlanFailover(const ClusterView& view, const MoveOptions& options) {
  if (!view.map.partitions.contains(options.partition)) {
    return Error(Code::kInvalidArgument, "there is no partition {}: the cluster has {}", options.partition,
                 view.map.partitions.size());
  }
  if (options.node != 0) RETURN_IF_ERROR(CheckNode(view, options.node));
  const std::vector<Led> led = LedPartitions(view);
  const auto at = std::find_if(led.begin(), led.end(), [&](const Led& l) { return l.partition == options.partition; });
  if (at == led.end()) {
    std::string why;
    for (const PartitionHealth& p : JudgeCluster(view).partitions) {
      if (p.partition == options.partition) why = fmt::format("{}", fmt::join(p.problems, "; "));
    }
    return Error(Code::kUnavailable,
                 "partition {} cannot be handed over: {}. Its replicas elect a master by themselves, once enough of "
                 "them reach each other; kvadmin cluster status says what is missing. If too few are left for good: "
                 "--force",
                 options.partition, why);
  }
  const std::vector<NodeId>& able = at->in_sync;
  const bool leads = options.node == at->master;
  if (!leads &&
      (able.empty() || (options.node != 0 && std::find(able.begin(), able.end(), options.node) == able.end()))) {
    return Error(Code::kUnavailable,
                 "partition {} cannot be handed over{}: {}. kvadmin cluster status -v says what the others lack",
                 options.partition, options.node == 0 ? "" : fmt::format(" to node {}", options.node),
                 able.empty()
                     ? fmt::format("only its master, node {}, is in sync and answers", at->master)
                     : fmt::format("besides its master, node {}, only {} {} in sync and answer{}", at->master,
                                   NamedNodes(able), able.size() == 1 ? "is" : "are", able.size() == 1 ? "s" : ""));
  }
  return MasterMove{at->partition, at->epoch, at->master, options.node};
}

Result<ExitCode> RunFailover(const Globals& globals, const MoveOptions& options) {
  if (options.force) {
    ForceOptions force;
    force.place = options.place;
    force.confirm = options.confirm;
    force.partition = options.partition;
    force.node = options.node;
    force.accept_loss = options.accept_loss;
    force.dry_run = options.dry_run;
    return RunForceFailover(globals, force);
  }
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  ASSIGN_OR_RETURN(const MasterMove move, PlanFailover(view, options));
  if (move.to == move.from) {
    if (globals.json) {
      PrintJson(Json{{"partition", move.partition}, {"master", move.from}, {"changed", false}});
    } else {
      tools::Print("node {} is the master of partition {} already\n", move.from, move.partition);
    }
    return kExitOk;
  }
  if (options.dry_run) {
    if (globals.json) {
      PrintJson(Json{{"would_hand_over", MoveJson(move)}});
    } else {
      tools::Print("partition {}: node {} would hand over to {}; nothing was changed\n", move.partition,
                   view.NameOf(move.from),
                   move.to == 0 ? "a node that is in sync" : fmt::format("node {}", view.NameOf(move.to)));
    }
    return kExitOk;
  }
  ASSIGN_OR_RETURN(const api::HandoverReply reply, HandOver(globals, view, move));
  RETURN_IF_ERROR(
      WaitUntilLeads(globals, view, move.partition, static_cast<NodeId>(reply.node), FirstEpochAfter(move)));
  if (globals.json) {
    PrintJson(Json{{"partition", move.partition},
                   {"from", move.from},
                   {"master", reply.node},
                   {"changed", true},
                   {"pause_ms", reply.pause_ms}});
  } else {
    tools::Print("partition {}: node {} is master now instead of node {}; no writes were accepted for {} ms\n",
                 move.partition, reply.node, move.from, reply.pause_ms);
  }
  return kExitOk;
}

// -- rebalance and drain

Result<ExitCode> RunRebalance(const Globals& globals, const MoveOptions& options) {
  if (options.replacing && !options.masters) {
    return SetReplacing(globals, options.place, *options.replacing, options.dry_run);
  }
  if (!options.masters || options.replacing) {
    return Error(Code::kInvalidArgument, "say one thing to do: --masters, or --replace");
  }
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  const std::vector<Led> led = LedPartitions(view);
  std::set<NodeId> nodes;
  for (const auto& [id, node] : view.nodes) {
    if (node.status.ok() && view.map.nodes.at(id).record.state == NodeState::kActive) nodes.insert(id);
  }
  if (led.empty()) {
    return Error(Code::kUnavailable,
                 "no partition has a master, so there is nothing to hand over; kvadmin cluster status says what is "
                 "missing");
  }
  if (const size_t left = view.map.partitions.size() - led.size(); left != 0) {
    const std::string note =
        fmt::format("{} no master and {} left out",
                    left == 1 ? "1 partition has" : fmt::format("{} partitions have", left), left == 1 ? "is" : "are");
    tools::PrintNote("{}\n", globals.json ? JsonText(Json{{"note", note}}) : "note: " + note);
  }
  return CarryOut(globals, view, PlanRebalance(led, nodes), options.dry_run);
}

Result<ExitCode> RunDrain(const Globals& globals, const MoveOptions& options) {
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  RETURN_IF_ERROR(CheckNode(view, options.node));
  if (!view.IsReachable(options.node)) {
    return Error(Code::kUnavailable, "node {} does not answer, so it cannot hand over anything: {}",
                 view.NameOf(options.node), view.nodes.at(options.node).status.message());
  }
  RETURN_IF_ERROR(CheckDrain(view, options.node));
  ASSIGN_OR_RETURN(const std::vector<MasterMove> moves, PlanDrain(LedPartitions(view), options.node));
  return CarryOut(globals, view, moves, options.dry_run);
}

void AddPlace(tools::Command command, MoveOptions* o) {
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be handed over, and change nothing");
}

}  // namespace

void AddFailoverCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<MoveOptions>();
  tools::Command command = app.Add("failover", "Make another node master of a partition");
  command.Number("partition", &o->partition, "Its number", 0).Required();
  command.Number("--to", &o->node, "The number of the node (default: one that is in sync)", 1);
  tools::Option force = command.Flag(
      "--force", &o->force, "Too few replicas are left for good: let the best one (or --to) take the partition over");
  command.Flag("--accept-loss", &o->accept_loss, "Also if it may lack what was acknowledged").Needs(force);
  command.Text("--confirm", &o->confirm, "With --force: the name, partition-N, instead of the question")
      .NotEmpty()
      .Needs(force);
  AddPlace(command, o.get());
  command.Footer(
      "The master holds writes until the other replica has everything, and then gives it the partition. Nothing is\n"
      "lost, and clients see no error, but a pause. The command ends when the new master leads. Only a node that is "
      "in\n"
      "sync can become master, and only a master that works can hand over; when one dies, the others elect another by\n"
      "themselves. If the master changes between the look at the cluster and the request, as by the same command\n"
      "elsewhere, the request is refused.\n\n"
      "--force is for a partition that cannot elect a master any more, because too many of its replicas are gone for\n"
      "good. It shows what is left, and whether anything is lost: a replica that is in sync has all that was\n"
      "acknowledged. Then it asks for the name of the partition. The replica goes on as the only one, with min_isr 1,\n"
      "in a new lineage; the others, should they come back, are installed anew, and what they had alone is lost.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 failover 3\n"
      "  kvadmin failover 3 --to 2 --topology file:/var/lib/pando/topology --dry-run\n"
      "  kvadmin failover 3 --force --dry-run --topology file:/var/lib/pando/topology\n"
      "  kvadmin failover 3 --force --accept-loss --confirm partition-3 --topology file:/var/lib/pando/topology\n"
      "Exit codes: 0 the node is master; 2 there is no such partition or node; 3 it was refused or failed.");
  OnChosen(command, globals, [=] { return RunFailover(*globals, *o); });
}

void AddRebalanceCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<MoveOptions>();
  tools::Command command = app.Add("rebalance", "Let each node lead its share of the partitions");
  command.Flag("--masters", &o->masters, "Hand over masterships; replicas stay where they are");
  command.Choice(
      "--replace", {"on", "off", "default"},
      [o](const std::string& how) {
        o->replacing = how == "on" ? Replacing::kOn : how == "off" ? Replacing::kOff : Replacing::kAsStarted;
      },
      "Whether nodes that stay away are replaced: on, off, or default, which is as the nodes were started");
  AddPlace(command, o.get());
  command.Footer(
      "Counts the masters of each node that answers, and hands over as few as possible until no node leads two more\n"
      "than another one that could take one. One partition after the other is handed over. The first failure ends the\n"
      "command; what was handed over stays so.\n\n"
      "--replace is another thing: it says for the whole cluster, at once and until it is changed again, whether the\n"
      "replicas of a node that stays away are given to other nodes (kvnode --replace_after_s; half an hour if that is\n"
      "0). It needs --topology. kvadmin cluster status shows what is planned.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 rebalance --masters --dry-run\n"
      "  kvadmin rebalance --masters --topology file:/var/lib/pando/topology\n"
      "  kvadmin rebalance --replace off --topology file:/var/lib/pando/topology   # before long maintenance\n"
      "Exit codes: 0 done, or nothing to do; 3 a handover was refused or failed.");
  OnChosen(command, globals, [=] { return RunRebalance(*globals, *o); });
}

void AddDrainCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<MoveOptions>();
  tools::Command command = app.Add("drain", "Let a node lead no partition, before maintenance");
  command.Number("node", &o->node, "Its number", 1).Required();
  AddPlace(command, o.get());
  command.Footer(
      "Hands over all partitions that the node leads, to nodes that are in sync. It stays a follower of them, and may\n"
      "become master again if another node fails. kvadmin rebalance --masters gives it its share back. If a partition\n"
      "has no other replica in sync, nothing is handed over. (A node that is stopped with SIGTERM hands over by\n"
      "itself; drain first tells whether it can.)\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 drain 2\n"
      "  kvadmin drain 2 --topology file:/var/lib/pando/topology --dry-run\n"
      "Exit codes: 0 it leads nothing; 2 there is no such node; 3 a handover was refused or failed.");
  OnChosen(command, globals, [=] { return RunDrain(*globals, *o); });
}

}  // namespace pando::admin
