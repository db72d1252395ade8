// kvadmin failover: makes another node master of one partition, without an error for any client, or by force.
//
// Threads: one.
#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "tools/common/interrupts.h"
#include "tools/kvadmin/cluster_health.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/commands/force_failover.h"
#include "tools/kvadmin/hand_over.h"
#include "tools/kvadmin/new_master.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPauseMs = 50;
// A wait that takes longer is explained.
constexpr std::chrono::milliseconds kExplainAfter{500};

struct FailoverOptions {
  std::string place;
  uint32_t partition = 0;
  NodeId node = 0;
  bool dry_run = false;
  bool force = false, accept_loss = false;
  std::string confirm;
};

// -- failover

PartitionHealth HealthOf(const ClusterView& view, uint32_t partition) {
  for (PartitionHealth& p : JudgeCluster(view).partitions) {
    if (p.partition == partition) return std::move(p);
  }
  return {};
}

// It has no master, but will have one: another handover of it goes on, or an election.
bool WillHaveMaster(const ClusterView& view, uint32_t partition) {
  return view.map.Serves(partition) && view.MasterOf(partition).node == 0 && !HealthOf(view, partition).stuck;
}

Result<MasterMove> PlanFailover(const ClusterView& view, const FailoverOptions& options) {
  RETURN_IF_ERROR(CheckPartition(view.map, options.partition));
  if (!view.map.Serves(options.partition)) {
    return Error(Code::kUnavailable,
                 "partition {} is a half that is being built, so it is led by the node that leads its whole; hand that "
                 "one over",
                 options.partition);
  }
  if (options.node != 0) RETURN_IF_ERROR(CheckNode(view, options.node));
  const std::vector<Led> led = LedPartitions(view);
  const auto at = std::find_if(led.begin(), led.end(), [&](const Led& l) { return l.partition == options.partition; });
  if (at == led.end()) {
    const PartitionHealth health = HealthOf(view, options.partition);
    return Error(Code::kUnavailable,
                 "partition {} cannot be handed over: {}. Its replicas elect a master by themselves, once enough of "
                 "them reach each other; kvadmin cluster status says what is missing{}",
                 options.partition, fmt::format("{}", fmt::join(health.problems, "; ")),
                 health.stuck ? ". If too few are left for good: --force" : "");
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

// Waits while another handover of the partition, or an election, goes on.
Result<MasterMove> LookAndPlan(const Globals& globals, const FailoverOptions& options, ClusterView* view) {
  const auto until = Clock::now() + std::chrono::milliseconds(globals.target.timeout_ms);
  bool said = false;
  for (auto began = Clock::now();;) {
    ASSIGN_OR_RETURN(*view, LookAtCluster(globals.target, options.place));
    if (!WillHaveMaster(*view, options.partition) || Clock::now() >= until) return PlanFailover(*view, options);
    if (!said && Clock::now() - began >= kExplainAfter) {
      said = true;
      const std::string note = fmt::format("waiting until partition {} has a master: {}", options.partition,
                                           fmt::join(HealthOf(*view, options.partition).problems, "; "));
      tools::PrintNote("{}\n", globals.json ? JsonText(Json{{"note", note}}) : "note: " + note);
    }
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

Result<ExitCode> RunFailover(const Globals& globals, const FailoverOptions& options) {
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
  ClusterView view;
  ASSIGN_OR_RETURN(const MasterMove move, LookAndPlan(globals, options, &view));
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

void AddPlace(tools::Command command, FailoverOptions* o) {
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be handed over, and change nothing");
}

}  // namespace

void AddFailoverCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<FailoverOptions>();
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
      "elsewhere, the request is refused. A partition that has no master because another handover or an election goes "
      "on\n"
      "is waited for, at most for --timeout-ms.\n\n"
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

}  // namespace pando::admin
