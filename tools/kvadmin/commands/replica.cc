// kvadmin replica: gives a partition a replica on another node, takes one away, or moves one.
//
// It asks the partition's master for each step, and decides the next one from a new look at the cluster. So it can be
// interrupted at any time, and goes on where it was when it is run again.
//
// Threads: one.
#include <algorithm>
#include <chrono>
#include <memory>

#include "tools/common/interrupts.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/replica_change.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

struct ReplicaOptions : ReplicaRequest {
  std::string place;
  bool dry_run = false;
  int64_t timeout_s = 3600;
};

constexpr int64_t kPauseMs = 300;
constexpr std::chrono::seconds kMasterPatience{15}, kDropPatience{10};

class ReplicaChanger {
 public:
  ReplicaChanger(const Globals& globals, const ReplicaOptions& options)
      : globals_(globals), o_(options), change_(globals, options) {}
  Result<ExitCode> Run();

 private:
  using Step = ReplicaChange::Step;
  Status Look(Clock::time_point until);
  void WarnOfZones() const;
  ExitCode ShowPlan() const;
  void Show(Progress* progress) const;
  void SayWhatIsWaitedFor(Progress* progress);
  Result<ExitCode> Take();
  std::string WhatIsLeft() const;
  Status TimeIsUp() const;
  Status WaitForDrop();
  ExitCode Report(bool changed);

  const Globals& globals_;
  const ReplicaOptions& o_;
  ClusterView view_;
  ReplicaChange change_;
  std::string said_;  // what it waits for, as was said last
  bool dropped_ = false;
};

// Waits for a master: there is none for a moment after one has died.
Status ReplicaChanger::Look(Clock::time_point until) {
  while (true) {
    ASSIGN_OR_RETURN(view_, LookAtCluster(globals_.target, o_.place));
    ASSIGN_OR_RETURN(const bool led, change_.Observe(view_));
    if (led) return Status();
    if (Clock::now() >= until) {
      return Error(Code::kUnavailable,
                   "partition {} has no master, and only a master changes its replicas; kvadmin cluster status says "
                   "what is missing",
                   o_.partition);
    }
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

void ReplicaChanger::WarnOfZones() const {
  const std::string note = change_.ZoneNote();
  if (note.empty()) return;
  tools::PrintNote("{}\n", globals_.json ? JsonText(Json{{"note", note}}) : "note: " + note);
}

void ReplicaChanger::Show(Progress* progress) const {
  const auto [bytes, of_bytes] = change_.Installed();
  if (of_bytes == 0) return;
  progress->SetTotal(std::max(of_bytes, bytes));
  progress->Update(0, bytes, bytes);
}

// Once each; a step that is refused for a moment only is none.
void ReplicaChanger::SayWhatIsWaitedFor(Progress* progress) {
  std::string why = change_.WhyNotDone();
  if (why.empty() || SaysTheSame(why, said_)) return;
  if (change_.Next() == Step::kWait && view_.IsReachable(o_.add) && change_.InstallProblem().empty()) return;
  progress->Clear();
  const std::string note = fmt::format("partition {} is waited for: {}", o_.partition, why);
  tools::PrintNote("{}\n",
                   globals_.json ? JsonText(Json{{"note", note}}) : "note: " + Printable(note, Encoding::kText));
  said_ = std::move(why);
}

// REQUIRES: something was asked of a master, or is waited for.
std::string ReplicaChanger::WhatIsLeft() const {
  std::string why = change_.WhyNotDone();
  const api::ReplicaStatus* replica = view_.ReplicaOn(o_.add, o_.partition);
  if (change_.Next() == Step::kWait && replica != nullptr && change_.InstallProblem().empty()) {
    why += replica->install_bytes == 0
               ? ", and has not begun to copy"
               : fmt::format(", with {} of about {} bytes", replica->installed_bytes, replica->install_bytes);
  }
  return fmt::format(
      "partition {} is not done{}{}. What has begun goes on by itself; left to do: {}. Run the same command again to "
      "wait for it and to take the steps that are left",
      o_.partition, why.empty() ? "" : ": ", why, fmt::join(change_.Plan(), ", "));
}

Status ReplicaChanger::TimeIsUp() const {
  return Error(Code::kDeadline, "{} s have passed, and {}", o_.timeout_s, WhatIsLeft());
}

Status ReplicaChanger::WaitForDrop() {
  const Clock::time_point until = Clock::now() + kDropPatience;
  while (view_.IsReachable(o_.leave)) {
    const api::ReplicaStatus* held = view_.ReplicaOn(o_.leave, o_.partition);
    dropped_ = held == nullptr || held->replica != change_.left();
    if (dropped_ || Clock::now() >= until) return Status();
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look(until + kMasterPatience));
  }
  return Status();
}

ExitCode ReplicaChanger::Report(bool changed) {
  std::vector<NodeId> in_sync;
  for (const Situation::Member& m : change_.now().members) {
    if (m.in_sync) in_sync.push_back(m.node);
  }
  std::sort(in_sync.begin(), in_sync.end());
  if (globals_.json) {
    Json done{{"partition", o_.partition}, {"changed", changed}};
    if (o_.add != 0) done["added"] = o_.add;
    if (o_.leave != 0) done["removed"] = o_.leave;
    if (o_.leave != 0) done["dropped"] = dropped_;
    done["master"] = change_.now().master;
    done["in_sync"] = in_sync;
    done["replicas"] = change_.now().replicas;
    PrintJson(done);
    return kExitOk;
  }
  tools::Print("partition {}: {}; in sync {} {}, and its master is node {}\n", o_.partition,
               changed ? "done" : "nothing is left to do", in_sync.size() > 1 ? "are" : "is", NamedNodes(in_sync),
               change_.now().master);
  if (!change_.left().empty() && !dropped_) {
    const bool forced = view_.map.partitions.at(o_.partition).record.lineage > 1;
    tools::Print("node {} has not dropped its data yet; it does so by itself{}{}\n", view_.NameOf(o_.leave),
                 view_.IsReachable(o_.leave) ? "" : " once it runs again",
                 forced
                     ? ", except for what it has of a lineage before a forced failover: that stays until the node is "
                       "given a replica of the partition again"
                     : "");
  }
  return kExitOk;
}

ExitCode ReplicaChanger::ShowPlan() const {
  const std::vector<std::string> steps = change_.Plan();
  if (globals_.json) {
    PrintJson(Json{{"partition", o_.partition}, {"would", steps}});
  } else {
    tools::Print("partition {}: would {}; nothing was changed\n", o_.partition,
                 steps.empty() ? "do nothing" : fmt::format("{}", fmt::join(steps, ", ")));
  }
  return kExitOk;
}

Result<ExitCode> ReplicaChanger::Run() {
  tools::Interrupts::Install();
  RETURN_IF_ERROR(Look(Clock::now() + kMasterPatience));
  RETURN_IF_ERROR(change_.CheckBegin());
  WarnOfZones();
  if (o_.dry_run) return ShowPlan();
  Result<ExitCode> taken = Take();
  if (taken.ok() || tools::Interrupts::Received() == 0) return taken;
  if (change_.Next() == Step::kDone) return Error(Code::kAborted, "{}; all steps are taken", taken.status().message());
  return Error(Code::kAborted, "{}; {}", taken.status().message(), WhatIsLeft());
}

Result<ExitCode> ReplicaChanger::Take() {
  const Clock::time_point until = Clock::now() + std::chrono::seconds(o_.timeout_s);
  Progress progress(fmt::format("node {} gets its replica", o_.add), "replicas", 0, globals_.json || o_.add == 0);
  bool changed = false;
  for (Step step = change_.Next(); step != Step::kDone; step = change_.Next()) {
    changed = changed || step != Step::kWait;
    if (Clock::now() >= until) return TimeIsUp();
    if (step == Step::kWait) {
      Show(&progress);
    } else {
      progress.Clear();
      RETURN_IF_ERROR(change_.Carry(step));
    }
    SayWhatIsWaitedFor(&progress);
    if (!tools::Interrupts::Sleep(step == Step::kWait ? kPauseMs : kPauseMs / 3)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look(std::max(until, Clock::now() + kMasterPatience)));
  }
  progress.Clear();
  if (!change_.left().empty()) RETURN_IF_ERROR(WaitForDrop());
  return Report(changed);
}

void AddCommon(tools::Command command, ReplicaOptions* o) {
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Number("--timeout-s", &o->timeout_s, "Wait at most so long; what has begun goes on", 1, 30LL * 24 * 3600)
      .ShowDefault();
  command.Flag("--dry-run", &o->dry_run, "Print what would be done, and change nothing");
}

void AddAdd(tools::Command replica, Globals* globals) {
  auto o = std::make_shared<ReplicaOptions>();
  tools::Command command = replica.Add("add", "Give a partition one replica more, on another node");
  command.Number("partition", &o->partition, "Its number", 0).Required();
  command.Number("node", &o->add, "The number of the node", 1).Required();
  AddCommon(command, o.get());
  command.Footer(
      "The master makes a new replica on that node a learner; the node copies the partition's pages from the master,\n"
      "and joins those that are in sync. There should be one replica more from then on. Until it is in sync, writes "
      "of\n"
      "level ALL are refused.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 replica add 3 4\n"
      "  kvadmin replica add 3 4 --topology file:/var/lib/pando/topology --dry-run\n"
      "Exit codes: 0 it is in sync; 2 there is no such partition or node, or the node holds a replica of it already;\n"
      "3 it was refused, failed, or took longer.");
  OnChosen(command, globals, [=] { return ReplicaChanger(*globals, *o).Run(); });
}

void AddRemove(tools::Command replica, Globals* globals) {
  auto o = std::make_shared<ReplicaOptions>();
  tools::Command command = replica.Add("remove", "Take the replica of a node out of a partition");
  command.Number("partition", &o->partition, "Its number", 0).Required();
  command.Number("node", &o->leave, "The number of the node", 1).Required();
  command.Flag("--yes", &o->yes, "If the node is the master, make another one master first");
  AddCommon(command, o.get());
  command.Footer(
      "The replica is not counted any more, and its node drops its data; one that is down does so when it runs again.\n"
      "The partition should have one replica less from then on. Refused if too few would be in sync (min_isr).\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 replica remove 3 4\n"
      "  kvadmin replica remove 3 1 --yes --topology file:/var/lib/pando/topology\n"
      "Exit codes: 0 it is removed; 2 there is no such partition or node, or it holds no replica of it; 3 it was\n"
      "refused or failed.");
  OnChosen(command, globals, [=] { return ReplicaChanger(*globals, *o).Run(); });
}

void AddMove(tools::Command replica, Globals* globals) {
  auto o = std::make_shared<ReplicaOptions>();
  tools::Command command = replica.Add("move", "Move a replica of a partition from one node to another");
  command.Number("partition", &o->partition, "Its number", 0).Required();
  command.Number("from", &o->leave, "The number of the node that gives it away; it may be down", 1).Required();
  command.Number("to", &o->add, "The number of the node that gets it", 1).Required();
  AddCommon(command, o.get());
  command.Footer(
      "First the other node is given a replica, and only once that is in sync the old one is removed, so at no time "
      "are\n"
      "there fewer. If the old one is the master, the new one becomes master first. After an interruption the same\n"
      "command goes on where it was.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 replica move 3 2 4\n"
      "  kvadmin replica move 3 2 4 --topology file:/var/lib/pando/topology --dry-run\n"
      "Exit codes: 0 it is moved; 2 there is no such partition, node or replica; 3 it was refused, failed, or took\n"
      "longer.");
  OnChosen(command, globals, [=] { return ReplicaChanger(*globals, *o).Run(); });
}

}  // namespace

void AddReplicaCommand(tools::Command app, Globals* globals) {
  tools::Command replica = app.Add("replica", "Add, remove or move replicas of a partition");
  replica.NeedsCommand();
  replica.Footer("Example:\n  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 replica move 3 2 4");
  AddAdd(replica, globals);
  AddRemove(replica, globals);
  AddMove(replica, globals);
}

}  // namespace pando::admin
