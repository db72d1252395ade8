// kvadmin failover --force: lets one replica take a partition over when too few are left to elect a master.
//
// kvadmin writes nothing into the topology. It asks the node that holds the replica, which checks everything again.
//
// Threads: one.
#include "tools/kvadmin/commands/force_failover.h"
#include "src/base/counted.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/force_plan.h"
#include "tools/kvadmin/new_master.h"
#include "tools/kvadmin/refusal.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

// A partition may be without a master for a moment, so it is looked at again for so long.
constexpr std::chrono::seconds kLookAgain{2};
constexpr int64_t kPauseMs = 300;
constexpr int64_t kAnswerMs = 15'000;  // at least
constexpr size_t kMaxTyped = 100;

struct Looked {
  ClusterView view;
  ForcePlan plan;
};

Result<Looked> Look(const Globals& globals, const ForceOptions& options) {
  const auto until = std::chrono::steady_clock::now() + kLookAgain;
  while (true) {
    ASSIGN_OR_RETURN(ClusterView view, LookAtCluster(globals.target, options.place));
    RETURN_IF_ERROR(CheckPartition(view.map, options.partition));
    ForcePlan plan = LookAtSurvivors(view, view.map.partitions.at(options.partition).record);
    if (plan.served_by != 0 || std::chrono::steady_clock::now() >= until) {
      return Looked{std::move(view), std::move(plan)};
    }
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

Json SurvivorJson(const Survivor& s) {
  return Json{{"node", s.node},
              {"state", s.state},
              {"in_sync", s.member},
              {"last_epoch", s.last_epoch},
              {"last_lsn", s.last_lsn},
              {"durable_lsn", s.durable_lsn},
              {"commit_lsn", s.commit_lsn},
              {"newest_change_ms", s.newest_change_ms}};
}

void PrintSurvivors(const Globals& globals, const ForcePlan& plan, const Survivor& chosen, std::string_view what) {
  if (globals.json) {
    Json survivors = Json::array();
    for (const Survivor& s : plan.survivors) survivors.push_back(SurvivorJson(s));
    PrintJson(Json{{std::string(what), Json{{"partition", plan.partition},
                                            {"to", chosen.node},
                                            {"epoch", plan.epoch},
                                            {"lineage", plan.lineage},
                                            {"nothing_lost", chosen.member},
                                            {"loss", LossText(plan, chosen)},
                                            {"replicas", std::move(survivors)}}}});
    return;
  }
  tools::Table table({"NODE", "STATE", "IN SYNC", "EPOCH", "LAST", "DURABLE", "COMMITTED", "NEWEST CHANGE"});
  for (const Survivor& s : plan.survivors) {
    table.Row({std::to_string(s.node), Printable(s.state, Encoding::kText), s.member ? "yes" : "no",
               s.able ? std::to_string(s.last_epoch) : "-", s.able ? std::to_string(s.last_lsn) : "-",
               s.able ? std::to_string(s.durable_lsn) : "-", s.able ? std::to_string(s.commit_lsn) : "-",
               s.able && s.newest_change_ms != 0 ? TimeText(s.newest_change_ms) : "-"});
  }
  tools::Print("partition {}, epoch {}: {} left, and {} must be to elect a master\n{}\n", plan.partition, plan.epoch,
               CountedOf(plan.able(), plan.replicas, "replica"), plan.min_isr, table.Render());
  tools::Print("If node {} takes it over, {}.\n", chosen.node, LossText(plan, chosen));
}

Status Confirm(const ForcePlan& plan, const Survivor& chosen, const ForceOptions& options) {
  const std::string name = PartitionName(plan.partition);
  std::string typed = options.confirm;
  if (typed.empty()) {
    if (::isatty(STDIN_FILENO) != 1) {
      return Error(Code::kInvalidArgument, "this is not a terminal, so nobody can be asked: say --confirm {}", name);
    }
    tools::Print(
        "The other replicas are given up. If one of them still runs somewhere, what it acknowledges from now on is "
        "lost.\nType {} to make node {} its master: ",
        name, chosen.node);
    RETURN_IF_ERROR(tools::FlushOutput());
    char line[kMaxTyped] = "";
    if (std::fgets(line, sizeof(line), stdin) == nullptr) line[0] = '\0';
    RETURN_IF_ERROR(tools::Interrupts::Check());
    typed = line;
    while (!typed.empty() && (typed.back() == '\n' || typed.back() == '\r')) typed.pop_back();
  }
  if (typed == name) return Status();
  return Error(Code::kInvalidArgument, "\"{}\" is not the name of the partition, which is {}; nothing was changed",
               Printable(typed, Encoding::kText), name);
}

Result<api::ForceFailoverReply> Force(const Globals& globals, const Looked& looked, const Survivor& chosen,
                                      bool accept_loss) {
  Client client(
      {looked.view.map.nodes.at(chosen.node).record.client_address, std::max(globals.target.timeout_ms, kAnswerMs)});
  api::ForceFailoverRequest request;
  request.partition = static_cast<int32_t>(looked.plan.partition);
  request.epoch = static_cast<int64_t>(looked.plan.epoch);
  request.lineage = static_cast<int64_t>(looked.plan.lineage);
  // What was shown is what is accepted: a member that has left the ISR meanwhile is refused.
  request.accept_loss = accept_loss && !chosen.member;
  Result<api::ForceFailoverReply> reply = client.Call(Client::Repeat::kUnsafe, &api::ClusterIf::forceFailover, request);
  if (reply.ok()) return reply;
  return RefusalOf(reply.status());
}

}  // namespace

Result<ExitCode> RunForceFailover(const Globals& globals, const ForceOptions& options) {
  ASSIGN_OR_RETURN(const Looked looked, Look(globals, options));
  const ForcePlan& plan = looked.plan;
  ASSIGN_OR_RETURN(const Survivor chosen, ChooseForced(plan, options.node, options.accept_loss));
  if (options.dry_run) {
    PrintSurvivors(globals, plan, chosen, "would_force");
    if (!globals.json) tools::Print("Nothing was changed.\n");
    return kExitOk;
  }
  if (!globals.json) PrintSurvivors(globals, plan, chosen, "");
  RETURN_IF_ERROR(Confirm(plan, chosen, options));
  ASSIGN_OR_RETURN(const api::ForceFailoverReply reply, Force(globals, looked, chosen, options.accept_loss));
  RETURN_IF_ERROR(WaitUntilLeads(globals, looked.view, plan.partition, chosen.node, reply.epoch));
  const uint32_t raise = std::max(plan.min_isr, DefaultMinIsr(plan.replicas));
  const std::string next = fmt::format("kvadmin cluster set-min-isr {} {}", plan.partition, raise);
  if (globals.json) {
    PrintJson(Json{{"partition", plan.partition},
                   {"master", chosen.node},
                   {"epoch", reply.epoch},
                   {"lineage", reply.lineage},
                   {"nothing_lost", reply.nothing_lost},
                   {"open", true},
                   {"min_isr", 1},
                   {"next", next}});
    return kExitOk;
  }
  tools::Print("partition {}: node {} is its master now, in epoch {} of lineage {}\n", plan.partition, chosen.node,
               reply.epoch, reply.lineage);
  tools::Print(
      "The other replicas are installed anew as soon as their nodes run. Until then it is the only copy, and min_isr "
      "is "
      "1.\n  next: once {} are in sync: {}\n",
      raise, next);
  return kExitOk;
}

}  // namespace pando::admin
