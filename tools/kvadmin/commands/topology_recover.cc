// kvadmin topology recover: shows the map that it would make, and with the code that it prints writes it.
//
// The stores are locked from the first look at them until the map is written, so no node starts meanwhile.
//
// Threads: one.
#include "tools/kvadmin/commands/topology_recover.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "src/base/counted.h"
#include "src/base/hash.h"
#include "src/partition/store_reading.h"
#include "src/topology/cluster_init.h"
#include "src/topology/node_identity.h"
#include "src/topology/recovery.h"
#include "src/topology/topology_spec.h"
#include "tools/common/table.h"
#include "tools/kvadmin/node_report.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/readable.h"

namespace pando::admin {

namespace {

struct RecoverOptions {
  std::string place, nodes, confirm;
  std::vector<std::string> data_dirs, was_split, was_not_split;
  uint32_t replicas = 3, min_isr = 0;
  bool accept_loss = false, dry_run = false;
};

// Changes with everything that the plan was made from, so that nobody confirms what they have not seen.
std::string CodeOf(const RecoveryInput& in) {
  std::string seen = fmt::format("{} {} {}", in.replicas, in.min_isr, in.accept_loss);
  for (const PlacementNode& node : in.nodes) seen += fmt::format(" {}@{}", node.id, node.zone);
  for (const NodeReport& report : in.reports) {
    seen += fmt::format(" {} {} {} {} {}", report.cluster_id.ToString(), report.node, report.start, report.epoch,
                        report.renew);
    for (const ReplicaReport& r : report.replicas) {
      seen += fmt::format(" {} {} {} {} {} {} {} {:x} {}", r.partition, r.replica.ToString(), r.promised, r.lineage,
                          r.installed, r.last_epoch, r.last_lsn, r.chain, r.problem);
    }
  }
  seen += fmt::format(" {} {}", fmt::join(in.was_split, ","), fmt::join(in.was_not_split, ","));
  if (in.old.cluster) seen += fmt::format(" cluster {}", in.old.cluster->revision);
  for (const auto& [id, node] : in.old.nodes) seen += fmt::format(" node {} {}", id, node.revision);
  for (const auto& [id, partition] : in.old.partitions) seen += fmt::format(" partition {} {}", id, partition.revision);
  return fmt::format("{:08x}", static_cast<uint32_t>(Hash64(seen)));
}

Result<std::set<uint32_t>> NumbersOf(std::string_view option, const std::vector<std::string>& texts) {
  std::set<uint32_t> numbers;
  for (const std::string& text : texts) {
    const std::optional<uint32_t> number = tools::ParseNumber<uint32_t>(text);
    if (!number) return Error(Code::kInvalidArgument, "{} {}: it is not the number of a partition", option, text);
    numbers.insert(*number);
  }
  return numbers;
}

std::vector<NodeId> NodesOf(const std::vector<ReplicaRecord>& replicas) {
  std::vector<NodeId> nodes;
  for (const ReplicaRecord& replica : replicas) nodes.push_back(replica.node);
  return nodes;
}

NodeId MasterOf(const PartitionRecord& r) {
  const auto at = std::find_if(r.isr.begin(), r.isr.end(), [&](const auto& i) { return i.replica == r.master; });
  return at == r.isr.end() ? 0 : at->node;
}

std::string NodesText(const std::vector<ReplicaRecord>& replicas) {
  return replicas.empty() ? "-" : fmt::format("{}", fmt::join(NodesOf(replicas), ","));
}

// A half whose whole is still there is opened by its master, so it serves like the others.
std::string_view StateName(PartitionStage state) {
  return state == PartitionStage::kRetired ? "dropped" : state == PartitionStage::kBuilding ? "opening" : "serving";
}

Json PlanJson(const RecoveryPlan& plan, const std::string& code, bool written) {
  Json j;
  j["cluster_id"] = plan.cluster.cluster_id.ToString();
  j["written"] = written;
  j["missing"] = plan.missing;
  j["nodes"] = Json::array();
  for (const NodeRecord& node : plan.nodes) j["nodes"].push_back(Json{{"id", node.id}, {"starts", node.starts}});
  j["partitions"] = Json::array();
  for (const PartitionRecord& r : plan.partitions) {
    j["partitions"].push_back(Json{{"id", r.id},
                                   {"state", StateName(r.state)},
                                   {"epoch", r.epoch},
                                   {"lineage", r.lineage},
                                   {"master", MasterOf(r)},
                                   {"in_sync", NodesOf(r.isr)},
                                   {"behind", NodesOf(r.evicted)},
                                   {"learners", NodesOf(r.learners)},
                                   {"replicas", r.replicas},
                                   {"min_isr", r.min_isr}});
  }
  if (!written) j["confirm"] = code;
  return Json{{"recover", std::move(j)}};
}

void PrintPlan(const RecoveryPlan& plan) {
  tools::Print("cluster {}: {}, {}\n", plan.cluster.cluster_id.ToString(), Counted(plan.nodes.size(), "node"),
               Counted(plan.partitions.size(), "partition"));
  tools::Table table({"PARTITION", "STATE", "EPOCH", "LINEAGE", "MASTER", "IN SYNC", "BEHIND", "MADE ANEW", "MIN ISR"});
  for (const PartitionRecord& r : plan.partitions) {
    table.Row({std::to_string(r.id), std::string(StateName(r.state)), std::to_string(r.epoch),
               std::to_string(r.lineage), std::to_string(MasterOf(r)), NodesText(r.isr), NodesText(r.evicted),
               NodesText(r.learners), std::to_string(r.min_isr)});
  }
  tools::Print("{}", table.Render());
  if (plan.missing.empty()) return tools::Print("Nothing that was acknowledged is lost.\n");
  tools::Print("GIVEN UP, and with it what only these had:\n  {}\n", fmt::join(plan.missing, "\n  "));
}

void PrintNext(const RecoveryPlan& plan) {
  tools::Print(
      "The map is written. Start all nodes that were named. A node that was not heard needs an empty directory.\n");
  const auto is_lower = [&](const PartitionRecord& r) { return r.min_isr < plan.cluster.min_isr; };
  if (std::none_of(plan.partitions.begin(), plan.partitions.end(), is_lower)) return;
  tools::Print(
      "Some partitions begin with a lower min_isr. Once kvadmin cluster status shows all replicas in sync, raise it:\n"
      "  kvadmin --server ADDRESS cluster set-min-isr all {}\n",
      plan.cluster.min_isr);
}

class Recovery {
 public:
  Recovery(Reactor* reactor, const Globals* globals, const RecoverOptions* options)
      : reactor_(*reactor), globals_(*globals), o_(*options) {}

  Task<Result<ExitCode>> Run() {
    Result<ExitCode> done = co_await WithLocks();
    for (File& lock : locks_) {
      Status closed = co_await lock.Close();
      if (done.ok() && !closed.ok()) done = std::move(closed);
    }
    co_return done;
  }

 private:
  Task<Result<ExitCode>> WithLocks() {
    CO_ASSIGN_OR_RETURN(input_.nodes, ParseNodes(o_.nodes));
    input_.replicas = o_.replicas;
    input_.min_isr = o_.min_isr == 0 ? DefaultMinIsr(o_.replicas) : o_.min_isr;
    input_.accept_loss = o_.accept_loss;
    CO_ASSIGN_OR_RETURN(input_.was_split, NumbersOf("--was-split", o_.was_split));
    CO_ASSIGN_OR_RETURN(input_.was_not_split, NumbersOf("--was-not-split", o_.was_not_split));
    CO_ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(o_.place));
    for (const std::string& data_dir : o_.data_dirs) {
      CO_RETURN_IF_ERROR(CheckApart(spec, data_dir));
      CO_RETURN_IF_ERROR(CheckReadable(data_dir));
      CO_RETURN_IF_ERROR((co_await LoadStore(reactor_, data_dir)).status());
      CO_ASSIGN_OR_RETURN(File lock, co_await LockStoreForReading(reactor_, data_dir));
      if (lock.is_open()) locks_.push_back(std::move(lock));
      CO_ASSIGN_OR_RETURN(NodeReport report, co_await ReadNodeReport(reactor_, data_dir));
      input_.reports.push_back(std::move(report));
    }
    CO_ASSIGN_OR_RETURN(std::unique_ptr<TopologyStore> store, co_await OpenTopologyStore(reactor_, std::move(spec)));
    Topology topology(reactor_, std::move(store));
    Result<ExitCode> done = co_await In(&topology);
    Status closed = co_await topology.Close();
    if (done.ok()) CO_RETURN_IF_ERROR(closed);
    co_return done;
  }

  Task<Result<ExitCode>> In(Topology* topology) {
    const Nanos timeout_ns = globals_.target.timeout_ms * kMillisecond;
    CO_ASSIGN_OR_RETURN(const TopologyListing listing, co_await topology->List(timeout_ns));
    for (const TopologyEntry& entry : listing.entries) CO_RETURN_IF_ERROR(input_.old.Apply(entry));
    CO_ASSIGN_OR_RETURN(RecoveryPlan plan, PlanRecovery(input_, [this] { return NewUuid(reactor_); }));
    const std::string code = CodeOf(input_);
    if (o_.confirm.empty()) {
      Show(plan, code);
      co_return o_.dry_run ? kExitOk : kExitNo;
    }
    if (o_.confirm != code) {
      co_return Error(Code::kInvalidArgument,
                      "--confirm {} is not the code for this map: something has changed since it was shown, or it was "
                      "shown for other options; leave --confirm out to see the map and its code. Nothing was written",
                      o_.confirm);
    }
    CO_RETURN_IF_ERROR(co_await WriteRecovery(*topology, plan, input_.old, timeout_ns));
    CO_RETURN_IF_ERROR(co_await TellNodes(topology->seen()));
    if (globals_.json) {
      PrintJson(PlanJson(plan, code, /*written=*/true));
    } else {
      PrintPlan(plan);
      PrintNext(plan);
    }
    co_return kExitOk;
  }

  // Lets each directory take the new map for the newest, although its revision is lower.
  Task<Status> TellNodes(Revision revision) {
    for (const std::string& data_dir : o_.data_dirs) {
      CO_ASSIGN_OR_RETURN(std::optional<NodeIdentity> identity, co_await LoadIdentity(reactor_, data_dir));
      if (!identity || identity->seen <= revision) continue;
      identity->seen = revision;
      CO_RETURN_IF_ERROR(co_await StoreIdentity(reactor_, data_dir, *identity));
    }
    co_return Status();
  }

  void Show(const RecoveryPlan& plan, const std::string& code) const {
    if (globals_.json) return PrintJson(PlanJson(plan, code, /*written=*/false));
    PrintPlan(plan);
    tools::Print("Nothing was written. To write this map, repeat the command with: --confirm {}\n", code);
  }

  Reactor& reactor_;
  const Globals& globals_;
  const RecoverOptions& o_;
  RecoveryInput input_;
  std::vector<File> locks_;
};

Task<Result<ExitCode>> Recover(Reactor* reactor, const Globals* globals, const RecoverOptions* options) {
  Recovery recovery(reactor, globals, options);
  co_return co_await recovery.Run();
}

}  // namespace

void AddTopologyRecoverCommand(tools::Command topology, Globals* globals) {
  auto o = std::make_shared<RecoverOptions>();
  tools::Command command =
      topology.Add("recover", "Make the map of a cluster anew from the data directories of its stopped nodes");
  command
      .Text("place", &o->place,
            "Where it is to be: file:DIR or etcd://HOST:PORT,.../NAME. It may be empty, or hold an old copy")
      .Required()
      .NotEmpty();
  command.Text("--nodes", &o->nodes, "All nodes of the cluster, with their zones, as in 1@a,2@b,3")
      .Required()
      .NotEmpty();
  command.Texts("--data-dirs", &o->data_dirs, "The data directory of each of them", ',').Required();
  command.Number("--replicas", &o->replicas, "Replicas of each partition, where no old copy says it", 1, kMaxReplicas)
      .ShowDefault();
  command.Number("--min-isr", &o->min_isr, "min_isr, where no old copy says it; default: more than half of --replicas",
                 1, kMaxReplicas);
  command.Flag("--accept-loss", &o->accept_loss, "Also without nodes or replicas that are lost or damaged");
  command.Texts("--was-split", &o->was_split,
                "Partitions that were split, where the directories do not say it: their halves serve", ',');
  command.Texts("--was-not-split", &o->was_not_split,
                "Partitions whose halves were still being built: they serve, and what was copied is dropped", ',');
  auto dry_run = command.Flag("--dry-run", &o->dry_run, "Only show the map");
  command.Text("--confirm", &o->confirm, "The code that recover shows: write this map").NotEmpty().Excludes(dry_run);
  command.Footer(
      "For a topology that is lost, or that was put back from an older copy. Stop all nodes first. Without --confirm,\n"
      "recover changes nothing: it shows the map, and the code that writes exactly this one. Of each partition, the\n"
      "replicas that have everything that was acknowledged become those in sync; the others catch up. If a node was\n"
      "not named, or a replica is damaged, that cannot be known: recover says so and writes nothing, unless you say\n"
      "--accept-loss. Then the best replica that was heard goes on alone, and the others are made anew.\n"
      "Of a partition that was split, the halves serve. While directories have both, recover cannot always tell\n"
      "whether the split had ended; then it asks for --was-split or --was-not-split.\n\n"
      "Examples:\n"
      "  kvadmin topology recover file:/var/lib/pando/topology --nodes 1,2,3 --data-dirs /data/1,/data/2,/data/3\n"
      "  kvadmin topology recover etcd://10.0.0.1:2379/production --nodes 1@a,2@b --data-dirs /data/1,/data/2 \\\n"
      "    --replicas 2 --confirm 1f2e3d4c\n"
      "Exit codes: 0 written, or shown with --dry-run; 1 shown only; 2 wrong options or code, or directories of "
      "nodes\n"
      "or answers are missing; 3 a directory or the topology cannot be read or written; 4 no sound replica is left; 5 "
      "a node has a directory open.");
  OnChosen(command, globals,
           [=] { return RunOffline([=](Reactor& reactor) { return Recover(&reactor, globals, o.get()); }); });
}

}  // namespace pando::admin
