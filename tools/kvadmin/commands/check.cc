// kvadmin check: audits the pages and logs of a data directory that no node has open. With
// --online, a running node verifies its own data; with --backup, a backup is verified.
//
// Threads: one.
#include "src/verify/check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "src/base/counted.h"
#include "tools/common/table.h"
#include "tools/kvadmin/backup_manifest.h"
#include "tools/kvadmin/commands/check_backup.h"
#include "tools/kvadmin/commands/check_online.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/readable.h"

namespace pando::admin {

namespace {

struct CheckCommandOptions {
  std::string directory, backup;
  bool quiet = false;
  bool online = false;
  OnlineCheckOptions on_node;
};

std::string BlocksText(uint64_t blocks) { return tools::HumanBytes(static_cast<double>(blocks * kBlockBytes)); }

Json ProblemsJson(const std::vector<CheckProblem>& problems) {
  Json list = Json::array();
  for (const CheckProblem& p : problems) {
    Json& j =
        list.emplace_back(Json{{"file", p.file}, {"offset", p.offset_bytes}, {"what", p.what}, {"advice", p.advice}});
    if (p.partition) j["partition"] = *p.partition;
  }
  return list;
}

Json ReportJson(const CheckReport& report) {
  Json j;
  j["data_dir"] = report.store.data_dir;
  j["node"] = report.store.node.ToString();
  j["page_bytes"] = report.store.page_bytes;
  j["problems_total"] = report.problems_total;
  j["problems"] = ProblemsJson(report.problems);
  j["notes"] = ProblemsJson(report.notes);
  j["partitions"] = Json::array();
  for (const PartitionCheck& p : report.partitions) {
    j["partitions"].push_back(Json{{"id", p.id},
                                   {"file", p.file},
                                   {"generation", p.generation},
                                   {"checkpoint_lsn", p.checkpoint_lsn},
                                   {"records", p.records},
                                   {"bytes", p.bytes},
                                   {"content_hash", fmt::format("{:016x}", p.content_hash)},
                                   {"inner_pages", p.inner_pages},
                                   {"leaf_pages", p.leaf_pages},
                                   {"overflow_values", p.overflow_values},
                                   {"leaf_fill_percent", p.leaf_fill_percent},
                                   {"file_blocks", p.file_blocks},
                                   {"reachable_blocks", p.reachable_blocks},
                                   {"metadata_blocks", p.metadata_blocks},
                                   {"pending_free_blocks", p.pending_free_blocks},
                                   {"free_blocks", p.free_blocks}});
  }
  j["logs"] = Json::array();
  for (const LogCheck& l : report.logs) {
    j["logs"].push_back(Json{{"directory", l.directory},
                             {"segments", l.segments},
                             {"batches", l.batches},
                             {"records", l.records},
                             {"torn_tail", l.torn_tail}});
  }
  return j;
}

// What each problem says about it.
void PrintAdvice(const CheckReport& report) {
  std::vector<std::string_view> advice;
  for (const CheckProblem& p : report.problems) {
    if (std::find(advice.begin(), advice.end(), p.advice) == advice.end()) advice.push_back(p.advice);
  }
  for (const std::string_view text : advice) tools::Print("  {}\n", text);
}

void PrintDamage(const CheckReport& report) {
  if (report.whole_logs_damaged) {
    tools::Print("DAMAGED: {}. Do not start a node on this directory. Copy it, and restore from a replica or backup\n",
                 Counted(report.problems_total, "problem"));
    PrintAdvice(report);
    return;
  }
  const std::vector<uint32_t>& damaged = report.damaged_partitions;
  tools::Print("DAMAGED: {}, only in {} {}; all other partitions ({}) are sound\n",
               Counted(report.problems_total, "problem"), damaged.size() == 1 ? "partition" : "partitions",
               fmt::join(damaged, ", "), report.partitions.size() - damaged.size());
  PrintAdvice(report);
}

void PrintReport(const CheckReport& report) {
  tools::Table parts({"PARTITION", "GENERATION", "RECORDS", "INNER PAGES", "LEAF PAGES", "OVERFLOW", "FILL %", "FILE",
                      "REACHABLE", "METADATA", "PENDING FREE", "FREE"});
  uint64_t records = 0;
  for (const PartitionCheck& p : report.partitions) {
    records += p.records;
    parts.Row({std::to_string(p.id), std::to_string(p.generation), std::to_string(p.records),
               std::to_string(p.inner_pages), std::to_string(p.leaf_pages), std::to_string(p.overflow_values),
               std::to_string(p.leaf_fill_percent), BlocksText(p.file_blocks), BlocksText(p.reachable_blocks),
               BlocksText(p.metadata_blocks), BlocksText(p.pending_free_blocks), BlocksText(p.free_blocks)});
  }
  tools::Print("{}\n", parts.Render());
  tools::Table logs({"LOG", "SEGMENTS", "BATCHES", "RECORDS", "TAIL"});
  for (const LogCheck& l : report.logs) {
    logs.Row({l.directory, std::to_string(l.segments), std::to_string(l.batches), std::to_string(l.records),
              l.torn_tail ? "unfinished, as after a crash" : "clean"});
  }
  tools::Print("{}\n", logs.Render());
  for (const CheckProblem& p : report.notes) {
    tools::Print("NOTE {} at offset {}: {}\n  {}\n", p.file, p.offset_bytes, p.what, p.advice);
  }
  for (const CheckProblem& p : report.problems) {
    tools::Print("PROBLEM {} at offset {}: {}\n", p.file, p.offset_bytes, p.what);
  }
  if (report.problems_total > report.problems.size()) {
    tools::Print("... and more: {} in all\n", Counted(report.problems_total, "problem"));
  }
  if (report.problems_total == 0) {
    tools::Print("sound: {} records in the trees; every block has one owner; all checksums match\n", records);
  } else {
    PrintDamage(report);
  }
}

Task<Result<ExitCode>> Check(Reactor* reactor, const Globals* globals, const CheckCommandOptions* options) {
  // The total is known only when the audit has begun.
  std::unique_ptr<Progress> progress;
  CheckOptions check_options;
  check_options.on_progress = [&progress, options, globals](uint64_t done, uint64_t total) {
    if (!progress) progress = std::make_unique<Progress>("checking", "blocks", total, options->quiet || globals->json);
    progress->Update(done, done * kBlockBytes, done);
  };
  Result<CheckReport> report = co_await CheckStore(*reactor, options->directory, check_options);
  if (progress) progress->Clear();
  if (!report.ok()) co_return report.TakeStatus();
  if (globals->json) {
    PrintJson(ReportJson(*report));
  } else {
    PrintReport(*report);
  }
  co_return report->problems_total == 0 ? kExitOk : kExitCorruption;
}

}  // namespace

void AddCheckCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<CheckCommandOptions>();
  tools::Command command =
      app.Add("check", "Verify every page and log record of a stopped node's directory, a running node or a backup");
  auto directory = command.Text("directory", &o->directory, "The data directory").ExistingDirectory();
  auto online = command.Flag("--online", &o->online, "Let the node at --server verify its data on disk");
  command.Number("--mb-per-s", &o->on_node.mb_per_s, "Rate of the pass in MiB/s; 0 = the node's --scrub_mb_per_s", 0)
      .Needs(online);
  command.Flag("--report", &o->on_node.report_only, "Start no pass; show what the last one found").Needs(online);
  auto backup = command.Text("--backup", &o->backup, "Verify this backup and those that it is based on, instead")
                    .ExistingDirectory();
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  online.Excludes(directory);
  backup.Excludes(directory).Excludes(online);
  command.Footer(
      "check reads everything and changes nothing. It verifies checksums, key order, counts and hashes of all trees,\n"
      "and that reachable and free blocks together are exactly the file.\n"
      "With --online, the node verifies all but the last point while it serves. The pass continues when kvadmin is\n"
      "interrupted; --report shows its progress. The node never serves damaged data.\n\n"
      "Examples:\n"
      "  kvadmin check /var/lib/pando\n"
      "  kvadmin --json check /var/lib/pando | jq .problems_total\n"
      "  kvadmin check --online --mb-per-s 100\n"
      "  kvadmin check --backup /backups/monday\n"
      "Exit codes: 0 sound; 2 wrong options; 3 it cannot be read (such as by this user), or holds no store or backup;\n"
      "4 damage found; 5 a node has the directory open.");
  OnChosen(command, globals, [=]() -> Result<ExitCode> {
    if (o->online) {
      o->on_node.quiet = o->quiet || globals->json;
      return CheckOnline(*globals, o->on_node);
    }
    if (!o->backup.empty()) return RunBackupCheck(*globals, o->backup, o->quiet);
    if (o->directory.empty()) {
      return Error(Code::kInvalidArgument,
                   "check needs the data directory of a stopped node, or --online, or --backup");
    }
    RETURN_IF_ERROR(CheckReadable(o->directory));
    if (std::filesystem::exists(o->directory + "/" + kManifestName)) {
      return Error(Code::kInvalidArgument, "{}: this is a backup; kvadmin check --backup {} verifies it", o->directory,
                   o->directory);
    }
    return RunOffline([=](Reactor& reactor) { return Check(&reactor, globals, o.get()); });
  });
}

}  // namespace pando::admin
