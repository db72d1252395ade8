// kvadmin cluster set-min-isr: how many replicas must have a write before it is acknowledged.
//
// kvadmin writes nothing into the topology. It asks the master of each partition, which refuses what would
// stop its own writes.
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
#include "tools/kvadmin/refusal.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

struct MinIsrOptions {
  std::string place, which;
  uint32_t min_isr = 0;
  bool dry_run = false;
};

constexpr int64_t kPauseMs = 100;

struct Change {
  uint32_t partition = 0, before = 0;
  std::string master;  // where it serves
};

// The one that may change it: it needs no lease, as when nothing is committed because min_isr is too high.
ClusterView::Master MasterOf(const ClusterView& view, uint32_t partition) {
  ClusterView::Master master;
  for (const auto& [id, node] : view.nodes) {
    const api::ReplicaStatus* replica = view.ReplicaOn(id, partition);
    if (replica == nullptr || (replica->role != "master" && replica->role != "new master")) continue;
    if (master.status == nullptr || replica->epoch > master.status->epoch) master = {id, replica};
  }
  return master;
}

// Those that have another number now.
Result<std::vector<Change>> PlanChanges(const ClusterView& view, const MinIsrOptions& options) {
  const std::optional<uint32_t> one = tools::ParseNumber<uint32_t>(options.which);
  if (!one && options.which != "all") {
    return Error(Code::kInvalidArgument, "\"{}\" is neither the number of a partition nor \"all\"", options.which);
  }
  if (one) RETURN_IF_ERROR(CheckPartition(view.map, *one));
  std::vector<Change> changes;
  for (const auto& [id, known] : view.map.partitions) {
    if ((one && id != *one) || known.record.min_isr == options.min_isr) continue;
    // Whoever builds a half gives it the min_isr of its whole.
    if (!one && !view.map.Serves(id)) continue;
    const ClusterView::Master master = MasterOf(view, id);
    if (master.status == nullptr) {
      return Error(Code::kUnavailable,
                   "partition {} has no master, and only a master changes its min_isr; nothing was changed. kvadmin "
                   "cluster status says what is missing",
                   id);
    }
    if (options.min_isr > known.record.replicas) {
      return Error(Code::kInvalidArgument, "partition {} has {}, so its min_isr cannot be {}; nothing was changed", id,
                   Counted(known.record.replicas, "replica"), options.min_isr);
    }
    const size_t in_sync = static_cast<size_t>(master.status->in_sync);
    if (options.min_isr > in_sync) {
      return Error(Code::kUnavailable,
                   "partition {} has {} in sync, so its min_isr cannot be {}; nothing was changed. Wait until "
                   "kvadmin cluster status says that the others are in sync",
                   id, Counted(in_sync, "replica"), options.min_isr);
    }
    changes.push_back({id, known.record.min_isr, view.map.nodes.at(master.node).record.client_address});
  }
  return changes;
}

Status CarryOut(const Globals& globals, const Change& change, uint32_t min_isr) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(globals.target.timeout_ms);
  Client client({change.master, globals.target.timeout_ms});
  api::SetMinIsrRequest request;
  request.partition = static_cast<int32_t>(change.partition);
  request.min_isr = static_cast<int32_t>(min_isr);
  while (true) {
    Result<api::SetMinIsrReply> reply = client.Call(Client::Repeat::kSafe, &api::ClusterIf::setMinIsr, request);
    RETURN_IF_ERROR(RefusalOf(reply.status()));
    if (reply->done) return Status();
    if (std::chrono::steady_clock::now() >= until) {
      return Error(Code::kUnavailable,
                   "partition {}: the topology has not said in time that its min_isr is {}; run the command again",
                   change.partition, min_isr);
    }
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

// Nobody can be left out any more.
void WarnOfAll(const Globals& globals, const ClusterView& view, const std::vector<Change>& changes, uint32_t min_isr) {
  const auto all = [&](const Change& c) { return view.map.partitions.at(c.partition).record.replicas == min_isr; };
  const auto count = static_cast<size_t>(std::count_if(changes.begin(), changes.end(), all));
  if (count == 0) return;
  const std::string note = fmt::format(
      "{} must have all replicas in sync then: the failure or the stop of any one of the nodes stops reads and writes "
      "until it is back, or until min_isr is lowered again",
      Counted(count, "partition"));
  tools::PrintNote("{}\n", globals.json ? JsonText(Json{{"note", note}}) : "note: " + note);
}

Result<ExitCode> RunSetMinIsr(const Globals& globals, const MinIsrOptions& options) {
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  ASSIGN_OR_RETURN(const std::vector<Change> changes, PlanChanges(view, options));
  WarnOfAll(globals, view, changes, options.min_isr);
  Progress progress("changing", "partitions", options.dry_run ? 0 : changes.size(), globals.json);
  size_t changed = 0;
  for (const Change& change : changes) {
    if (!options.dry_run) {
      const Status done = CarryOut(globals, change, options.min_isr);
      if (!done.ok()) {
        progress.Clear();
        return Error(done.code(), "{}; {} of {} changed before", done.message(), changed,
                     Counted(changes.size(), "partition"));
      }
      ++changed;
      progress.Update(changed, 0, changed);
    }
    if (!globals.json) continue;
    PrintJson(Json{{options.dry_run ? "would_set" : "set",
                    Json{{"partition", change.partition}, {"from", change.before}, {"min_isr", options.min_isr}}}});
  }
  progress.Clear();
  if (globals.json) {
    PrintJson(Json{{"changed", changed}, {"min_isr", options.min_isr}});
  } else if (options.dry_run) {
    tools::Print("min_isr of {} would become {}; nothing was changed\n", Counted(changes.size(), "partition"),
                 options.min_isr);
  } else {
    tools::Print("min_isr is {} now; {} had another one\n", options.min_isr, Counted(changed, "partition"));
  }
  return kExitOk;
}

}  // namespace

void AddSetMinIsrCommand(tools::Command cluster, Globals* globals) {
  auto o = std::make_shared<MinIsrOptions>();
  tools::Command command =
      cluster.Add("set-min-isr", "Change how many replicas must have a write before it is acknowledged");
  command.Text("partition", &o->which, "Its number, or all").Required().NotEmpty();
  command.Number("min_isr", &o->min_isr, "So many replicas must be in sync; with fewer, writes are refused", 1)
      .Required();
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be changed, and change nothing");
  command.Footer(
      "The master of each partition changes it. It cannot be more than are in sync. The default is R / 2 + 1. With a\n"
      "lower one, writes go on with fewer replicas, and are lost if those are. A forced failover (kvadmin failover\n"
      "--force) lowers it to 1; this command raises it again.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 cluster set-min-isr 3 2\n"
      "  kvadmin cluster set-min-isr all 2 --topology file:/var/lib/pando/topology --dry-run\n"
      "Exit codes: 0 it is so; 2 there is no such partition; 3 it was refused or failed.");
  OnChosen(command, globals, [=] { return RunSetMinIsr(*globals, *o); });
}

}  // namespace pando::admin
