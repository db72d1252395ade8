// kvadmin status: prints the state of a node, the reason, and what to do next.
#include <fmt/format.h>
#include <map>

#include "src/base/counted.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/check_online.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

std::string Bytes(int64_t n) { return tools::HumanBytes(static_cast<double>(n)); }

std::string Share(int64_t part, int64_t whole) {
  if (whole <= 0) return "";
  return fmt::format(" ({:.0f} %)", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string ScrubText(const api::ScrubReply& scrub) {
  std::string text = scrub.running ? fmt::format("running, {} of {}; ", Bytes(scrub.bytes), Bytes(scrub.expected_bytes))
                                   : std::string();
  text += scrub.last_finished_ms == 0 ? "no pass has finished since the start"
                                      : fmt::format("last pass finished {}", TimeText(scrub.last_finished_ms));
  return text + fmt::format(", {} damaged places", ProblemsOf(scrub));
}

Json StatusJson(const api::NodeStatus& s, const std::string& server) {
  Json j;
  j["server"] = server;
  if (s.cluster_node != 0) j["cluster_node"] = s.cluster_node;
  j["verdict"] = s.verdict;
  j["advice"] = s.advice;
  j["node_id"] = s.node_id;
  j["server_version"] = s.server_version;
  j["uptime_ms"] = s.uptime_ms;
  j["data_dir"] = s.data_dir;
  j["page_bytes"] = s.page_bytes;
  j["memory_limit_bytes"] = s.memory_limit_bytes;
  j["resident_bytes"] = s.resident_bytes;
  j["pool_pages"] = s.pool_pages;
  j["pool_free_pages"] = s.pool_free_pages;
  j["log_bytes"] = s.log_bytes;
  j["log_budget_bytes"] = s.log_budget_bytes;
  j["connections"] = s.connections;
  j["http_port"] = s.http_port;
  j["scrub"] = Json{{"running", s.scrub.running},
                    {"bytes", s.scrub.bytes},
                    {"expected_bytes", s.scrub.expected_bytes},
                    {"problems_total", ProblemsOf(s.scrub)},
                    {"passes_finished", s.scrub.passes_finished},
                    {"last_finished_ms", s.scrub.last_finished_ms}};
  j["partitions"] = Json::array();
  for (const api::PartitionStatus& p : s.partitions) {
    j["partitions"].push_back(Json{{"id", p.id},
                                   {"uuid", p.uuid},
                                   {"reactor", p.reactor},
                                   {"generation", p.generation},
                                   {"last_lsn", p.last_lsn},
                                   {"applied_lsn", p.applied_lsn},
                                   {"checkpoint_lsn", p.checkpoint_lsn},
                                   {"file_bytes", p.file_bytes},
                                   {"used_bytes", p.used_bytes},
                                   {"dirty_pages", p.dirty_pages},
                                   {"checkpoint_running", p.checkpoint_running},
                                   {"snapshots", p.snapshots},
                                   {"snapshot_pinned_bytes", p.snapshot_pinned_bytes}});
    if (p.__isset.quarantine) j["partitions"].back()["quarantine"] = p.quarantine;
  }
  return j;
}

struct StatusOptions {
  bool partitions = false;
};

// A node may have thousands of partitions. More than this are not listed unless asked for.
constexpr size_t kMaxListed = 64;

void PrintPartitions(const api::NodeStatus& s) {
  tools::Table parts({"PARTITION", "REACTOR", "GENERATION", "LAST LSN", "APPLIED", "CHECKPOINT", "FILE", "USED",
                      "DIRTY PAGES", "CHECKPOINTING"});
  for (const api::PartitionStatus& p : s.partitions) {
    parts.Row({std::to_string(p.id), std::to_string(p.reactor), std::to_string(p.generation),
               std::to_string(p.last_lsn), std::to_string(p.applied_lsn), std::to_string(p.checkpoint_lsn),
               Bytes(p.file_bytes), Bytes(p.used_bytes), std::to_string(p.dirty_pages),
               p.checkpoint_running ? "yes" : "no"});
  }
  tools::Print("{}", parts.Render());
}

// One row for the partitions of each reactor.
void PrintPartitionSums(const api::NodeStatus& s) {
  struct Sums {
    int64_t partitions = 0, to_apply = 0, to_checkpoint = 0, file_bytes = 0, used_bytes = 0, dirty_pages = 0,
            checkpointing = 0;
  };
  std::map<int32_t, Sums> reactors;
  for (const api::PartitionStatus& p : s.partitions) {
    Sums& sums = reactors[p.reactor];
    ++sums.partitions;
    sums.to_apply += p.last_lsn - p.applied_lsn;
    sums.to_checkpoint += p.applied_lsn - p.checkpoint_lsn;
    sums.file_bytes += p.file_bytes;
    sums.used_bytes += p.used_bytes;
    sums.dirty_pages += p.dirty_pages;
    sums.checkpointing += p.checkpoint_running ? 1 : 0;
  }
  tools::Table table(
      {"REACTOR", "PARTITIONS", "RECORDS TO APPLY", "TO CHECKPOINT", "FILES", "USED", "DIRTY PAGES", "CHECKPOINTING"});
  for (const auto& [reactor, sums] : reactors) {
    table.Row({std::to_string(reactor), std::to_string(sums.partitions), std::to_string(sums.to_apply),
               std::to_string(sums.to_checkpoint), Bytes(sums.file_bytes), Bytes(sums.used_bytes),
               std::to_string(sums.dirty_pages), std::to_string(sums.checkpointing)});
  }
  tools::Print("{}{}; --partitions lists them\n", table.Render(), Counted(s.partitions.size(), "partition"));
}

void PrintStatus(const api::NodeStatus& s, const std::string& server, bool all_partitions) {
  tools::Print("{}\n", s.verdict);
  if (!s.advice.empty()) tools::Print("  next: {}\n", s.advice);
  tools::Print("\n");
  int64_t file_bytes = 0, used_bytes = 0, dirty_pages = 0;
  for (const api::PartitionStatus& p : s.partitions) {
    file_bytes += p.file_bytes;
    used_bytes += p.used_bytes;
    dirty_pages += p.dirty_pages;
  }
  const std::string name = s.cluster_node == 0 ? s.node_id : fmt::format("{} of its cluster", s.cluster_node);
  tools::Table node({"NODE", name}, /*align_numbers=*/false);
  node.Row({"server", server});
  if (s.cluster_node != 0) node.Row({"store", s.node_id});
  node.Row({"version", s.server_version});
  node.Row({"up", tools::HumanSeconds(static_cast<double>(s.uptime_ms) / 1000)});
  node.Row({"data", fmt::format("{}, {} in files, {} used", s.data_dir, Bytes(file_bytes), Bytes(used_bytes))});
  node.Row({"memory", fmt::format("{} resident of {}{}", Bytes(s.resident_bytes), Bytes(s.memory_limit_bytes),
                                  Share(s.resident_bytes, s.memory_limit_bytes))});
  node.Row({"pool", fmt::format("{} pages of {}, {} free, {} dirty", s.pool_pages, Bytes(s.page_bytes),
                                s.pool_free_pages, dirty_pages)});
  node.Row({"log", fmt::format("{} of {}{}", Bytes(s.log_bytes), Bytes(s.log_budget_bytes),
                               Share(s.log_bytes, s.log_budget_bytes))});
  node.Row({"scrub", ScrubText(s.scrub)});
  node.Row({"connections", std::to_string(s.connections)});
  node.Row({"http port", std::to_string(s.http_port)});
  tools::Print("{}\n", node.Render());
  for (const api::PartitionStatus& p : s.partitions) {
    if (p.__isset.quarantine) tools::Print("{}\n", p.quarantine);
  }

  if (all_partitions || s.partitions.size() <= kMaxListed) {
    PrintPartitions(s);
  } else {
    PrintPartitionSums(s);
  }
}

Result<ExitCode> ShowStatus(const Globals& globals, const StatusOptions& options) {
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::NodeStatus status, client.Call(Client::Repeat::kSafe, &api::AdminIf::status));
  if (globals.json) {
    PrintJson(StatusJson(status, client.at()));
  } else {
    PrintStatus(status, client.at(), options.partitions);
  }
  return status.verdict == "ok" ? kExitOk : kExitNo;
}

}  // namespace

void AddStatusCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<StatusOptions>();
  tools::Command command = app.Add("status", "Print the state of the node, the reason, and what to do next");
  command.Flag("--partitions", &o->partitions, "List all partitions, even if there are many");
  command.Footer(
      "Examples:\n"
      "  kvadmin status\n"
      "  kvadmin --json status | jq .verdict\n"
      "Exit codes: 0 the verdict is ok; 1 it is not; 3 the node does not answer.");
  OnChosen(command, globals, [=] { return ShowStatus(*globals, *o); });
}

}  // namespace pando::admin
