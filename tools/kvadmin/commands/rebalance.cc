// kvadmin rebalance: plans of moves, and the masters' share.
//
// Threads: one.
#include <memory>

#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/hand_over.h"
#include "tools/kvadmin/plan_make.h"
#include "tools/kvadmin/plan_run.h"
#include "tools/kvadmin/replacing.h"

namespace pando::admin {

namespace {

struct RebalanceOptions {
  bool masters = false, dry_run = false;
  std::optional<Replacing> replacing;
  std::string file;
  PlanOptions plan;  // and its place is that of all
  RunOptions run;
};

Result<ExitCode> RunRebalance(const Globals& globals, const RebalanceOptions& o) {
  if (o.replacing && !o.masters) return SetReplacing(globals, o.plan.place, *o.replacing, o.dry_run);
  if (!o.masters || o.replacing) {
    return Error(Code::kInvalidArgument,
                 "say one thing to do: plan, show, apply, pause, resume or abort for the replicas, --masters, or "
                 "--replace");
  }
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, o.plan.place));
  return BalanceMasters(globals, view, o.dry_run);
}

// CLI11 gives what a command does not know to the one above it.
Status CheckAlone(const RebalanceOptions& o) {
  if (!o.masters && !o.replacing) return Status();
  return Error(Code::kInvalidArgument, "--masters and --replace stand alone");
}

Result<ExitCode> RunMake(const Globals& globals, const RebalanceOptions& o) {
  RETURN_IF_ERROR(CheckAlone(o));
  ASSIGN_OR_RETURN(PlanFile plan, MakePlan(globals, o.plan, /*emptied=*/0));
  const bool writes = !o.file.empty() && !o.dry_run;
  if (writes) RETURN_IF_ERROR(WritePlan(o.file, &plan));
  ShowPlan(globals, plan);
  if (globals.json) return kExitOk;
  if (plan.moves.empty()) tools::Print("Nothing needs to move.\n");
  if (writes) {
    tools::Print("The plan is in {}; kvadmin rebalance apply {} carries it out.\n", o.file, o.file);
  } else {
    tools::Print("Nothing was written or changed; -o FILE writes the plan.\n");
  }
  return kExitOk;
}

Result<ExitCode> RunShow(const Globals& globals, const RebalanceOptions& o) {
  RETURN_IF_ERROR(CheckAlone(o));
  ASSIGN_OR_RETURN(const PlanFile plan, ReadPlan(o.file));
  ASSIGN_OR_RETURN(const Wanted wanted, ReadWanted(o.file, plan));
  ShowPlan(globals, plan);
  const std::string_view state = wanted == Wanted::kRun ? "run" : wanted == Wanted::kPause ? "paused" : "aborted";
  if (globals.json) {
    PrintJson(Json{{"wanted", state}});
    return kExitOk;
  }
  tools::Print("A plan ({}) for the cluster {}, made {} from revision {} of its topology.\n", plan.kind,
               plan.cluster_id.ToString(), TimeText(plan.made_at_ms), plan.revision);
  if (wanted != Wanted::kRun) tools::Print("It is {}.\n", state);
  return kExitOk;
}

Result<ExitCode> RunVerb(const Globals& globals, RebalanceOptions o, PlanVerb verb) {
  RETURN_IF_ERROR(CheckAlone(o));
  o.run.path = o.file;
  o.run.place = o.plan.place;
  o.run.dry_run = o.dry_run;
  return RunPlan(globals, o.run, verb);
}

// Whoever carries the plan out sees it with its next look.
Result<ExitCode> RunPause(const Globals& globals, const RebalanceOptions& o) {
  RETURN_IF_ERROR(CheckAlone(o));
  ASSIGN_OR_RETURN(const PlanFile plan, ReadPlan(o.file));
  ASSIGN_OR_RETURN(const Wanted wanted, ReadWanted(o.file, plan));
  if (wanted == Wanted::kAbort) {
    return Error(Code::kUnavailable, "the plan {} was aborted, so it cannot be paused", o.file);
  }
  if (!o.dry_run) RETURN_IF_ERROR(WriteWanted(o.file, plan, Wanted::kPause));
  PlanLock lock;
  const Status free = lock.TryLock(o.file);
  if (!free.ok() && free.code() != Code::kLocked) return free;
  if (globals.json) {
    PrintJson(Json{{"pause", o.file}, {"carried_out", !free.ok()}, {"changed", !o.dry_run}});
  } else if (o.dry_run) {
    tools::Print("the plan {} would be paused; nothing was changed\n", o.file);
  } else {
    tools::Print("the plan {} is paused{}; kvadmin rebalance resume {} goes on with it\n", o.file,
                 free.ok() ? "" : ": the kvadmin that carries it out finishes the moves that have begun, and ends",
                 o.file);
  }
  return kExitOk;
}

void AddPlace(tools::Command command, RebalanceOptions* o) {
  command
      .Text("--topology", &o->plan.place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be done, and change nothing");
}

void AddFile(tools::Command command, RebalanceOptions* o) {
  command.Text("file", &o->file, "The plan").Required().NotEmpty();
}

void AddTimeout(tools::Command command, RebalanceOptions* o) {
  command
      .Number("--timeout-s", &o->run.timeout_s, "Give up when nothing has moved on for so long; what has begun goes on",
              1, 30LL * 24 * 3600)
      .ShowDefault();
}

void AddMake(tools::Command rebalance, Globals* globals, const std::shared_ptr<RebalanceOptions>& o) {
  tools::Command command = rebalance.Add("plan", "Compute which replicas move, so that each node holds its share");
  command.Text("-o,--output", &o->file, "Write the plan to this file, which must not exist").NotEmpty();
  command
      .Number("--mb-per-s", &o->plan.mb_per_s, "At which a node takes pages, for the estimate of the time", 1, 1 << 20)
      .ShowDefault();
  AddPlace(command, o.get());
  command.Footer(
      "A node's share of the bytes follows from its weight. Replicas of a partition are in different zones, as far as\n"
      "zones allow, and nodes that are being drained hold nothing. As little moves as possible. A plan is not made\n"
      "while a node that is to hold something does not answer.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420 rebalance plan\n"
      "  kvadmin --server 10.0.0.1:7420 rebalance plan -o grow.plan\n"
      "Exit codes: 0 it is made; 3 too little is known, or the file is there already.");
  OnChosen(command, globals, [=] { return RunMake(*globals, *o); });
}

void AddShow(tools::Command rebalance, Globals* globals, const std::shared_ptr<RebalanceOptions>& o) {
  tools::Command command = rebalance.Add("show", "Print a plan");
  AddFile(command, o.get());
  command.Footer(
      "Reads only the file. kvadmin rebalance apply --dry-run says how far it has come.\n\n"
      "Example:\n  kvadmin rebalance show grow.plan\n"
      "Exit codes: 0 shown; 3 there is no such file; 4 it is damaged, or no plan.");
  OnChosen(command, globals, [=] { return RunShow(*globals, *o); });
}

void AddApply(tools::Command rebalance, Globals* globals, const std::shared_ptr<RebalanceOptions>& o) {
  tools::Command apply = rebalance.Add("apply", "Carry a plan out");
  AddFile(apply, o.get());
  apply.Number("--parallel", &o->run.parallel, "How many partitions are moved at the same time", 1, 64).ShowDefault();
  AddTimeout(apply, o.get());
  AddPlace(apply, o.get());
  apply.Footer(
      "Each move is one of kvadmin replica move: the new node copies the pages, within its --install_mb_per_s, and "
      "only\n"
      "once its replica is in sync the old one is removed. Then masters are balanced. Nobody sees an error. What is "
      "done\n"
      "is read from the topology, so the command may be killed at any time, and run again. A partition that has "
      "changed\n"
      "since the plan was made is skipped.\n\n"
      "Example:\n  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 rebalance apply grow.plan\n"
      "Exit codes: 0 all is done; 1 it was paused or aborted, or something was skipped; 2 it is for another cluster; 3 "
      "it\n"
      "was refused or failed; 4 the file is damaged; 5 another kvadmin carries it out.");
  OnChosen(apply, globals, [=] { return RunVerb(*globals, *o, PlanVerb::kApply); });

  tools::Command resume = rebalance.Add("resume", "Go on with a plan that was paused or interrupted");
  AddFile(resume, o.get());
  resume.Number("--parallel", &o->run.parallel, "How many partitions are moved at the same time", 1, 64).ShowDefault();
  AddTimeout(resume, o.get());
  AddPlace(resume, o.get());
  resume.Footer("Example:\n  kvadmin --server 10.0.0.1:7420 rebalance resume grow.plan\nExit codes: those of apply.");
  OnChosen(resume, globals, [=] { return RunVerb(*globals, *o, PlanVerb::kResume); });
}

void AddStop(tools::Command rebalance, Globals* globals, const std::shared_ptr<RebalanceOptions>& o) {
  tools::Command pause = rebalance.Add("pause", "Begin no more moves of a plan");
  AddFile(pause, o.get());
  pause.Flag("--dry-run", &o->dry_run,
             "Change nothing; say whether the plan can be paused, and with --json whether it is carried out now");
  pause.Footer(
      "Works from another terminal of the machine where the plan is carried out: what has begun is finished, and then\n"
      "that command ends.\n\n"
      "Example:\n  kvadmin rebalance pause grow.plan\nExit codes: 0 done; 3 it was aborted, or there is no such file.");
  OnChosen(pause, globals, [=] { return RunPause(*globals, *o); });

  tools::Command abort = rebalance.Add("abort", "Take back what a plan has begun, and do nothing more of it");
  AddFile(abort, o.get());
  AddTimeout(abort, o.get());
  AddPlace(abort, o.get());
  abort.Footer(
      "What is moved stays moved. Of the moves that have begun, a new replica that is not in sync yet is removed "
      "again,\n"
      "and one that is in sync takes the place of the old one. So each partition has as many replicas as before. "
      "Another\n"
      "kvadmin that carries the plan out does this, and ends.\n\n"
      "Example:\n  kvadmin --server 10.0.0.1:7420 rebalance abort grow.plan\n"
      "Exit codes: 0 nothing of it is under way; 2 it is for another cluster; 3 it was refused or failed.");
  OnChosen(abort, globals, [=] { return RunVerb(*globals, *o, PlanVerb::kAbort); });
}

}  // namespace

void AddRebalanceCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<RebalanceOptions>();
  tools::Command command = app.Add("rebalance", "Let each node hold and lead its share of the partitions");
  command.Flag("--masters", &o->masters, "Hand over masterships; replicas stay where they are");
  command.Choice(
      "--replace", {"on", "off", "default"},
      [o](const std::string& how) {
        o->replacing = how == "on" ? Replacing::kOn : how == "off" ? Replacing::kOff : Replacing::kAsStarted;
      },
      "Whether nodes that stay away are replaced: on, off, or default, which is as the nodes were started");
  AddPlace(command, o.get());
  command.Footer(
      "The commands plan, show, apply, pause, resume and abort move replicas, by a plan in a file, after nodes were\n"
      "added, or to other weights.\n\n"
      "--masters counts the masters of each node that answers, and hands over as few as possible until no node leads "
      "two\n"
      "more than another one that could take one (of nodes with different weights: much more for its weight). One\n"
      "partition after the other is handed over. The first failure ends the command; what was handed over stays so.\n\n"
      "--replace is another thing: it says for the whole cluster, at once and until it is changed again, whether the\n"
      "replicas of a node that stays away are given to other nodes (kvnode --replace_after_s; half an hour if that is\n"
      "0). It needs --topology. kvadmin cluster status shows what is planned.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 rebalance plan -o grow.plan\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 rebalance apply grow.plan\n"
      "  kvadmin rebalance --masters --topology file:/var/lib/pando/topology\n"
      "  kvadmin rebalance --replace off --topology file:/var/lib/pando/topology   # before long maintenance\n"
      "Exit codes: 0 done, or nothing to do; 3 a handover was refused or failed.");
  OnChosen(command, globals, [=] { return RunRebalance(*globals, *o); });
  AddMake(command, globals, o);
  AddShow(command, globals, o);
  AddApply(command, globals, o);
  AddStop(command, globals, o);
}

}  // namespace pando::admin
