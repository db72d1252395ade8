// kvadmin replica: gives a partition a replica on another node, takes one away, or moves one.
//
// It asks the partition's master for each step, and decides the next one from a new look at the cluster. So it can be
// interrupted at any time, and goes on where it was when it is run again.
//
// Threads: one.
#include <algorithm>
#include <chrono>
#include <memory>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/progress.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

struct ReplicaOptions {
  std::string place;
  uint32_t partition = 0;
  NodeId add = 0, leave = 0;  // 0: none
  bool yes = false, dry_run = false;
  int64_t timeout_s = 3600;
};

constexpr int64_t kPauseMs = 300;
constexpr std::chrono::seconds kMasterPatience{15}, kDropPatience{10};

// The replicas of the partition, as its master knows them.
struct Member {
  NodeId node = 0;
  std::string replica;
  bool master = false, in_sync = false, learner = false;
};

struct Situation {
  NodeId master = 0;
  uint32_t replicas = 0, min_isr = 0;
  std::vector<Member> members;
  const Member* On(NodeId node) const {
    if (node == 0) return nullptr;
    const auto at = std::find_if(members.begin(), members.end(), [node](const Member& m) { return m.node == node; });
    return at == members.end() ? nullptr : &*at;
  }
  size_t InSync() const {
    return static_cast<size_t>(
        std::count_if(members.begin(), members.end(), [](const Member& m) { return m.in_sync; }));
  }
};

// Nothing without a master that may serve.
std::optional<Situation> SituationOf(const ClusterView& view, uint32_t partition) {
  const ClusterView::Master master = view.MasterOf(partition);
  if (master.status == nullptr) return std::nullopt;
  Situation now;
  now.master = master.node;
  now.replicas = static_cast<uint32_t>(master.status->replicas);
  now.min_isr = static_cast<uint32_t>(master.status->min_isr);
  now.members.push_back({master.node, master.status->replica, true, true, false});
  for (const api::FollowerStatus& f : master.status->followers) {
    now.members.push_back({static_cast<NodeId>(f.node), f.replica, false, f.in_sync, f.learner});
  }
  return now;
}

class ReplicaChanger {
 public:
  ReplicaChanger(const Globals& globals, const ReplicaOptions& options) : globals_(globals), o_(options) {}
  Result<ExitCode> Run();

 private:
  enum class Step { kAdd, kWait, kHandOver, kRemove, kDone };
  Status Look(Clock::time_point until);
  Status CheckNode(NodeId node) const;
  Status CheckBegin() const;
  void WarnOfZones() const;
  Step Next() const;
  std::vector<std::string> Plan() const;
  Status Carry(Step step);
  void Show(Progress* progress) const;
  std::string WhyNotDone() const;
  void SayWhatIsWaitedFor(Progress* progress);
  Status TimeIsUp() const;
  Status Ask(const std::function<Status(Client&)>& call);
  Status WaitForDrop();
  ExitCode Report(bool changed);

  const Globals& globals_;
  const ReplicaOptions& o_;
  ClusterView view_;
  Situation now_;
  std::string left_;  // the UUID of the replica that was removed
  Status refused_;    // why the last step was not taken
  std::string said_;  // what it waits for, as was said last
  bool dropped_ = false, handed_over_ = false;
};

// Waits for a master: there is none for a moment after one has died.
Status ReplicaChanger::Look(Clock::time_point until) {
  while (true) {
    ASSIGN_OR_RETURN(view_, LookAtCluster(globals_.target, o_.place));
    if (!view_.map.partitions.contains(o_.partition)) {
      return Error(Code::kInvalidArgument, "there is no partition {}: the cluster has {}", o_.partition,
                   view_.map.partitions.size());
    }
    if (std::optional<Situation> now = SituationOf(view_, o_.partition)) {
      now_ = *std::move(now);
      return Status();
    }
    if (Clock::now() >= until) {
      return Error(Code::kUnavailable,
                   "partition {} has no master, and only a master changes its replicas; kvadmin cluster status says "
                   "what is missing",
                   o_.partition);
    }
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

Status ReplicaChanger::CheckNode(NodeId node) const {
  if (node == 0 || view_.nodes.contains(node)) return Status();
  std::vector<NodeId> known;
  for (const auto& [id, at] : view_.nodes) known.push_back(id);
  return Error(Code::kInvalidArgument, "the cluster has no node {}; its nodes are {}", node, NodesText(known));
}

// What is wrong with the request itself, before anything was changed.
Status ReplicaChanger::CheckBegin() const {
  RETURN_IF_ERROR(CheckNode(o_.add));
  RETURN_IF_ERROR(CheckNode(o_.leave));
  const Member* added = now_.On(o_.add);
  const Member* leaves = now_.On(o_.leave);
  if (o_.add != 0 && o_.add == o_.leave) {
    return Error(Code::kInvalidArgument, "a replica cannot be moved from node {} to the same node", o_.add);
  }
  if (o_.leave == 0 && added != nullptr && !added->learner) {
    return Error(Code::kInvalidArgument, "node {} holds a replica of partition {} already", o_.add, o_.partition);
  }
  if (o_.leave != 0 && leaves == nullptr && added == nullptr) {
    return Error(Code::kInvalidArgument, "node {} holds no replica of partition {}", o_.leave, o_.partition);
  }
  // It may be in sync as far as its master knows, and would not be once the other one is removed.
  if (o_.add != 0 && !view_.IsReachable(o_.add) && (added == nullptr || leaves != nullptr)) {
    return Error(Code::kUnavailable, "node {} does not answer, so it cannot be given a replica: {}",
                 view_.NameOf(o_.add), view_.nodes.at(o_.add).status.message());
  }
  for (const Member& m : now_.members) {
    if (o_.add == 0 || !m.learner || m.node == o_.add) continue;
    return Error(Code::kUnavailable,
                 "node {} is being given a replica of partition {} already; wait until it is in sync (kvadmin replica "
                 "add {} {} waits for it), or remove it",
                 m.node, o_.partition, o_.partition, m.node);
  }
  if (o_.add != 0 || leaves == nullptr) return Status();
  if (leaves->master && !o_.yes) {
    return Error(Code::kUnavailable,
                 "node {} is the master of partition {}: make another node master first (kvadmin failover {}), or say "
                 "--yes to have that done",
                 o_.leave, o_.partition, o_.partition);
  }
  if (leaves->in_sync && now_.InSync() <= now_.min_isr) {
    return Error(Code::kUnavailable,
                 "{} of partition {} {} in sync, and {} must be (min_isr): without node {} there would be too "
                 "few. Add one first, or move it",
                 Counted(now_.InSync(), "replica"), o_.partition, now_.InSync() == 1 ? "is" : "are", now_.min_isr,
                 o_.leave);
  }
  return Status();
}

void ReplicaChanger::WarnOfZones() const {
  if (o_.add == 0 || now_.On(o_.add) != nullptr) return;
  const std::string& zone = view_.map.nodes.at(o_.add).record.zone;
  for (const Member& m : now_.members) {
    const auto at = view_.map.nodes.find(m.node);
    if (m.node == o_.leave || zone.empty() || at == view_.map.nodes.end() || at->second.record.zone != zone) continue;
    const std::string note =
        fmt::format("the nodes {} and {} are both in the zone {}: if it fails, partition {} loses two replicas at once",
                    m.node, o_.add, zone, o_.partition);
    tools::PrintNote("{}\n", globals_.json ? JsonText(Json{{"note", note}}) : "note: " + note);
  }
}

ReplicaChanger::Step ReplicaChanger::Next() const {
  if (o_.add != 0) {
    const Member* added = now_.On(o_.add);
    if (added == nullptr) return Step::kAdd;
    if (!added->in_sync) return Step::kWait;
  }
  const Member* leaves = now_.On(o_.leave);
  if (o_.leave == 0 || leaves == nullptr) return Step::kDone;
  return leaves->master ? Step::kHandOver : Step::kRemove;
}

std::vector<std::string> ReplicaChanger::Plan() const {
  std::vector<std::string> steps;
  const Member* added = now_.On(o_.add);
  const Member* leaves = now_.On(o_.leave);
  if (o_.add != 0 && added == nullptr) steps.push_back(fmt::format("give node {} a replica", view_.NameOf(o_.add)));
  if (o_.add != 0 && (added == nullptr || !added->in_sync)) {
    steps.push_back(fmt::format("wait until node {} is in sync", o_.add));
  }
  if (leaves != nullptr && leaves->master) {
    steps.push_back(o_.add != 0 ? fmt::format("make node {} master instead of node {}", o_.add, o_.leave)
                                : fmt::format("make another node master instead of node {}", o_.leave));
  }
  if (leaves != nullptr) steps.push_back(fmt::format("remove the replica of node {}", view_.NameOf(o_.leave)));
  return steps;
}

// kInvalidArgument and kAborted end the command; whatever else is in the way may pass.
Status ReplicaChanger::Ask(const std::function<Status(Client&)>& call) {
  Client client({view_.map.nodes.at(now_.master).record.client_address, globals_.target.timeout_ms});
  Status status = call(client);
  if (status.code() == Code::kInvalidArgument) return Error(Code::kUnavailable, "{}", status.message());
  if (status.code() == Code::kAborted) return status;
  refused_ = std::move(status);
  return Status();
}

Status ReplicaChanger::Carry(Step step) {
  const auto partition = static_cast<int32_t>(o_.partition);
  if (step == Step::kAdd) {
    api::AddReplicaRequest request;
    request.partition = partition;
    request.node = static_cast<int32_t>(o_.add);
    request.replaces = o_.leave != 0;
    return Ask([&](Client& client) {
      return client.Call(Client::Repeat::kSafe, &api::ClusterIf::addReplica, request).TakeStatus();
    });
  }
  if (step == Step::kRemove) {
    api::RemoveReplicaRequest request;
    request.partition = partition;
    request.replica = left_ = now_.On(o_.leave)->replica;
    return Ask([&](Client& client) {
      return client.Call(Client::Repeat::kSafe, &api::ClusterIf::removeReplica, request).TakeStatus();
    });
  }
  if (step != Step::kHandOver) return Status();
  api::HandoverRequest request;
  request.partition = partition;
  request.node = static_cast<int32_t>(o_.add);
  handed_over_ = true;
  return Ask([&](Client& client) {
    return client.Call(Client::Repeat::kUnsafe, &api::ClusterIf::handover, request).TakeStatus();
  });
}

void ReplicaChanger::Show(Progress* progress) const {
  const api::ReplicaStatus* replica = view_.ReplicaOn(o_.add, o_.partition);
  if (replica == nullptr || replica->install_bytes == 0) return;
  const auto bytes = static_cast<uint64_t>(replica->installed_bytes);
  progress->SetTotal(static_cast<uint64_t>(std::max(replica->install_bytes, replica->installed_bytes)));
  progress->Update(0, bytes, bytes);
}

std::string ReplicaChanger::WhyNotDone() const {
  if (Next() != Step::kWait) return refused_.ok() ? "" : refused_.message();
  if (!view_.IsReachable(o_.add)) return fmt::format("node {} does not answer", view_.NameOf(o_.add));
  const api::ReplicaStatus* replica = view_.ReplicaOn(o_.add, o_.partition);
  if (replica == nullptr) return fmt::format("node {} does not hold its replica yet", o_.add);
  return fmt::format("the replica of node {} is {}", o_.add, replica->role);
}

// Once each; a step that is refused for a moment only is none.
void ReplicaChanger::SayWhatIsWaitedFor(Progress* progress) {
  std::string why = WhyNotDone();
  if (why.empty() || why == said_ || (Next() == Step::kWait && view_.IsReachable(o_.add))) return;
  progress->Clear();
  const std::string note = fmt::format("partition {} is waited for: {}", o_.partition, why);
  tools::PrintNote("{}\n",
                   globals_.json ? JsonText(Json{{"note", note}}) : "note: " + Printable(note, Encoding::kText));
  said_ = std::move(why);
}

Status ReplicaChanger::TimeIsUp() const {
  std::string why = WhyNotDone();
  if (!why.empty()) why = ": " + why;
  if (const api::ReplicaStatus* replica = view_.ReplicaOn(o_.add, o_.partition);
      Next() == Step::kWait && replica != nullptr) {
    why += fmt::format(", with {} of about {} bytes", replica->installed_bytes, replica->install_bytes);
  }
  return Error(Code::kDeadline,
               "partition {} is not done after {} s{}. What has begun goes on; run the same command again to wait for "
               "it and to take the steps that are left",
               o_.partition, o_.timeout_s, why);
}

Status ReplicaChanger::WaitForDrop() {
  const Clock::time_point until = Clock::now() + kDropPatience;
  while (view_.IsReachable(o_.leave)) {
    const api::ReplicaStatus* held = view_.ReplicaOn(o_.leave, o_.partition);
    dropped_ = held == nullptr || held->replica != left_;
    if (dropped_ || Clock::now() >= until) return Status();
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look(until + kMasterPatience));
  }
  return Status();
}

ExitCode ReplicaChanger::Report(bool changed) {
  std::vector<NodeId> in_sync;
  for (const Member& m : now_.members) {
    if (m.in_sync) in_sync.push_back(m.node);
  }
  std::sort(in_sync.begin(), in_sync.end());
  if (globals_.json) {
    Json done{{"partition", o_.partition}, {"changed", changed}};
    if (o_.add != 0) done["added"] = o_.add;
    if (o_.leave != 0) done["removed"] = o_.leave;
    if (o_.leave != 0) done["dropped"] = dropped_;
    done["master"] = now_.master;
    done["in_sync"] = in_sync;
    done["replicas"] = now_.replicas;
    PrintJson(done);
    return kExitOk;
  }
  tools::Print("partition {}: {}; in sync {} {}, and its master is node {}\n", o_.partition,
               changed ? "done" : "nothing is left to do", in_sync.size() > 1 ? "are" : "is", NamedNodes(in_sync),
               now_.master);
  if (!left_.empty() && !dropped_) {
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

Result<ExitCode> ReplicaChanger::Run() {
  tools::Interrupts::Install();
  RETURN_IF_ERROR(Look(Clock::now() + kMasterPatience));
  RETURN_IF_ERROR(CheckBegin());
  WarnOfZones();
  if (o_.dry_run) {
    const std::vector<std::string> steps = Plan();
    if (globals_.json) {
      PrintJson(Json{{"partition", o_.partition}, {"would", steps}});
    } else {
      tools::Print("partition {}: would {}; nothing was changed\n", o_.partition,
                   steps.empty() ? "do nothing" : fmt::format("{}", fmt::join(steps, ", ")));
    }
    return kExitOk;
  }
  const Clock::time_point until = Clock::now() + std::chrono::seconds(o_.timeout_s);
  Progress progress(fmt::format("node {} gets its replica", o_.add), "replicas", 0, globals_.json || o_.add == 0);
  bool changed = false;
  for (Step step = Next(); step != Step::kDone; step = Next()) {
    changed = changed || step != Step::kWait;
    if (Clock::now() >= until) return TimeIsUp();
    if (step == Step::kWait) {
      Show(&progress);
    } else {
      progress.Clear();
      RETURN_IF_ERROR(Carry(step));
    }
    SayWhatIsWaitedFor(&progress);
    if (!tools::Interrupts::Sleep(step == Step::kWait ? kPauseMs : kPauseMs / 3)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look(std::max(until, Clock::now() + kMasterPatience)));
  }
  progress.Clear();
  if (!left_.empty()) RETURN_IF_ERROR(WaitForDrop());
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
