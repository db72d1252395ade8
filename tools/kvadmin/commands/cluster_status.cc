// kvadmin cluster status: whether a cluster is well, why not, and what to do next.
//
// Threads: one.
#include <chrono>
#include <memory>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/cluster_health.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct ClusterStatusOptions {
  std::string place;
  bool verbose = false;
};

// A partition may be without a master for a moment, or may be handed over between the questions to two nodes.
// So if one seems to have none, all are asked again, for so long.
constexpr std::chrono::seconds kLookAgain{2};
constexpr int64_t kPauseMs = 400;

// What others have written must not act on the terminal; an empty cell would not be seen.
std::string Cell(const std::string& text, std::string_view if_empty) {
  return text.empty() ? std::string(if_empty) : Printable(text, Encoding::kText);
}

std::string StateOf(const NodeHealth& n) {
  std::vector<std::string> parts;
  if (n.draining) {
    parts.push_back(n.held == 0 ? "drained, holds nothing" : "draining, holds " + Counted(n.held, "replica"));
  }
  if (!n.problem.empty() || !n.trouble.empty()) parts.push_back(n.problem.empty() ? n.trouble : n.problem);
  return fmt::format("{}", fmt::join(parts, "; "));
}

void PrintNodes(const ClusterHealth& h) {
  tools::Table table({"NODE", "ZONE", "ADDRESS", "MASTERS", "FOLLOWERS", "INSTALLING", "STATE"});
  for (const NodeHealth& n : h.nodes) {
    table.Row({std::to_string(n.node), Cell(n.zone, "-"), Cell(n.address, "-"), std::to_string(n.masters),
               std::to_string(n.followers), std::to_string(n.installing), Cell(StateOf(n), "ok")});
  }
  tools::Print("{}", table.Render());
}

void PrintController(const ControllerHealth& c) {
  if (c.wanted_nodes > 0)
    tools::Print("\nthe traffic wants {}; node {} measures it\n", Counted(c.wanted_nodes, "node"), c.holder);
  if (c.replace_after_s == 0) return tools::Print("\nnodes that stay away are not replaced (--replace_after_s=0)\n");
  tools::Print("\nnodes that stay away for {} s are replaced; {}\n", c.replace_after_s,
               c.holder == 0 ? "no node has taken that on yet" : fmt::format("node {} decides", c.holder));
  for (const std::string& plan : c.plans) tools::Print("  {}\n", Printable(plan, Encoding::kText));
}

void PrintPartitions(const ClusterHealth& h, bool all) {
  tools::Table table({"PARTITION", "EPOCH", "MASTER", "IN SYNC", "OTHERS", "OF", "LAG", "LAG TIME", "STATE"});
  bool any = false;
  for (const PartitionHealth& p : h.partitions) {
    if (!all && p.problems.empty()) continue;
    any = true;
    const std::string problems = fmt::format("{}", fmt::join(p.problems, "; "));
    table.Row({std::to_string(p.partition), std::to_string(p.epoch), p.master == 0 ? "-" : std::to_string(p.master),
               NodesText(p.in_sync), NodesText(p.missing), std::to_string(p.replicas),
               p.behind_records < 0 ? "-" : std::to_string(p.behind_records),
               p.behind_records < 0 ? "-" : fmt::format("{} ms", p.behind_ms),
               Cell(problems, p.stage == SplitStage::kServing ? "ok" : StageName(p.stage))});
  }
  if (any) tools::Print("\n{}", table.Render());
  if (all || any) return;
  tools::Print("\n{}, {}; -v lists them\n", Counted(h.partitions.size(), "partition"),
               h.health == Health::kOk ? "all well" : "none with a trouble of its own");
}

void PrintSplits(const ClusterHealth& h) {
  if (h.splits.empty()) return;
  tools::Table table({"SPLIT", "INTO", "NODE", "PHASE", "COPIED", "OF ABOUT", "RATE", "WAITS FOR"});
  for (const SplitHealth& s : h.splits) {
    table.Row({std::to_string(s.partition), fmt::format("{},{}", s.halves[0], s.halves[1]),
               s.node == 0 ? "-" : std::to_string(s.node), Cell(s.phase, "-"),
               tools::HumanBytes(static_cast<double>(s.copied_bytes)),
               tools::HumanBytes(static_cast<double>(s.total_bytes)),
               s.rate_mb_s == 0 ? "-" : fmt::format("{} MB/s", s.rate_mb_s), Cell(s.waits_for, "-")});
  }
  tools::Print("\n{}", table.Render());
}

void PrintStatusJson(const ClusterHealth& h) {
  PrintJson(Json{{"verdict", HealthName(h.health)}, {"cause", h.cause}, {"next", h.next}});
  PrintJson(Json{{"topology", Json{{"answers", h.topology.without.empty()},
                                   {"went_back", h.topology.went_back},
                                   {"problem", h.topology.problem},
                                   {"silent_ms", h.topology.silent_ms},
                                   {"unreachable_from", h.topology.without}}}});
  PrintJson(Json{{"controller", Json{{"holder", h.controller.holder},
                                     {"replace_after_s", h.controller.replace_after_s},
                                     {"wanted_nodes", h.controller.wanted_nodes},
                                     {"plans", h.controller.plans}}}});
  for (const NodeHealth& n : h.nodes) {
    Json node{{"id", n.node},
              {"zone", n.zone},
              {"address", n.address},
              {"reachable", n.problem.empty()},
              {"problem", n.problem},
              {"trouble", n.trouble},
              {"masters", n.masters},
              {"followers", n.followers},
              {"installing", n.installing},
              {"draining", n.draining},
              {"disk_full_partitions", n.disk_full}};
    PrintJson(Json{{"node", node}});
  }
  for (const PartitionHealth& p : h.partitions) {
    Json partition{{"id", p.partition},
                   {"state", StageName(p.stage)},
                   {"verdict", HealthName(p.health)},
                   {"epoch", p.epoch},
                   {"master", p.master},
                   {"in_sync", p.in_sync},
                   {"missing", p.missing},
                   {"replicas", p.replicas},
                   {"min_isr", p.min_isr},
                   {"behind_records", p.behind_records},
                   {"behind_ms", p.behind_ms},
                   {"problems", p.problems}};
    if (p.behind_records < 0) partition["behind_records"] = partition["behind_ms"] = nullptr;
    PrintJson(Json{{"partition", partition}});
  }
  for (const SplitHealth& s : h.splits) {
    PrintJson(Json{{"split", Json{{"partition", s.partition},
                                  {"halves", s.halves},
                                  {"node", s.node},
                                  {"phase", s.phase},
                                  {"copied_bytes", s.copied_bytes},
                                  {"total_bytes", s.total_bytes},
                                  {"rate_mb_s", s.rate_mb_s},
                                  {"waits_for", s.waits_for}}}});
  }
}

Result<ExitCode> RunStatus(const Globals& globals, const ClusterStatusOptions& options) {
  ClusterHealth h;
  const auto until = std::chrono::steady_clock::now() + kLookAgain;
  while (true) {
    ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
    h = JudgeCluster(view);
    if (h.health != Health::kUnavailable || std::chrono::steady_clock::now() >= until) break;
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
  if (globals.json) {
    PrintStatusJson(h);
  } else {
    tools::Print("{}{}\n", HealthName(h.health), h.cause.empty() ? "" : Printable(": " + h.cause, Encoding::kText));
    if (!h.next.empty()) tools::Print("  next: {}\n", Printable(h.next, Encoding::kText));
    tools::Print("\n");
    PrintNodes(h);
    PrintController(h.controller);
    PrintPartitions(h, options.verbose);
    PrintSplits(h);
  }
  return h.health == Health::kOk ? kExitOk : kExitNo;
}

}  // namespace

void AddClusterStatusCommand(tools::Command cluster, Globals* globals) {
  auto o = std::make_shared<ClusterStatusOptions>();
  tools::Command command = cluster.Add("status", "Say whether a cluster is well, why not, and what to do next");
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("-v,--verbose", &o->verbose, "List all partitions, and not only those that are not well");
  command.Footer(
      "The first line is ok, degraded (everything is served, but something is missing) or unavailable (a partition is\n"
      "not served), with the cause; the second says what to do. LAG is what the follower that is the furthest behind\n"
      "lacks, in records; -: since it was elected, the master has not heard what a follower has. Splits that run are "
      "listed below, with what they wait for. --server may name several nodes;\n"
      "one that answers knows the others. With --json, the first line is {\"verdict\", \"cause\", \"next\"}, then "
      "come\n"
      "{\"topology\": ...}, {\"controller\": ...}, and a {\"node\": ...}, {\"partition\": ...} or {\"split\": ...} for "
      "each.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 cluster status\n"
      "  kvadmin cluster status --topology file:/var/lib/pando/topology -v\n"
      "Exit codes: 0 ok; 1 degraded or unavailable; 2 the node belongs to no cluster; 3 neither the topology nor a "
      "node\n"
      "says what belongs to the cluster.");
  OnChosen(command, globals, [=] { return RunStatus(*globals, *o); });
}

}  // namespace pando::admin
