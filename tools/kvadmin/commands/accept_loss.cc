// kvadmin accept-loss: shows what is lost of a quarantined partition, or of a log. With the code that it
// prints, it gets the partition, or the store, back without what is lost.
//
// Threads: one.
#include "src/verify/accept_loss.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/expiry.h"
#include "src/base/hash.h"
#include "src/topology/node_identity.h"
#include "tools/kvadmin/commands/accept_log_loss.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/readable.h"
#include "tools/kvadmin/restore_partition.h"

namespace pando::admin {

namespace {

constexpr size_t kProblemsShown = 5;

struct AcceptLossOptions {
  std::string data_dir, backup, confirm;
  uint32_t partition = 0, log = 0;
  bool empty = false;
  bool of_log = false;  // --log, not --partition
};

// How the partition is to continue.
struct Choice {
  std::string name;         // of the options that choose it
  std::string description;  // "it continues ..."
  bool possible = true;
  bool of_own_file = false;               // it keeps its file as it is
  uint64_t damage_stays = 0;              // damaged places of the tree that it continues with
  Lsn lsn = 0;                            // that it then holds everything up to
  std::optional<BackupChain> chain;       // null: no backup
  const BackupPartition* copy = nullptr;  // in the newest of them
};

std::string TimeOf(Version version) { return TimeText(VersionMs(version)); }

Result<Choice> ChoiceOf(const LossReport& report, const AcceptLossOptions& options) {
  Choice choice;
  if (options.empty) {
    choice.name = " --empty";
    choice.description = "without any records";
    return choice;
  }
  if (options.backup.empty()) {
    const PartitionCheck& file = report.file;
    choice.possible = report.file_opens;
    choice.of_own_file = true;
    choice.lsn = file.checkpoint_lsn;
    choice.damage_stays = file.tree_problems;
    choice.description =
        fmt::format("from the last checkpoint in its file: generation {}, LSN {}, {} records, as of {}",
                    file.generation, file.checkpoint_lsn, file.records, TimeOf(file.last_version));
    return choice;
  }
  choice.name = " --backup " + options.backup;
  ASSIGN_OR_RETURN(choice.chain, LoadBackupChain(options.backup));
  const BackupManifest& manifest = choice.chain->newest();
  for (const BackupPartition& p : manifest.partitions) {
    if (p.uuid == report.partition.uuid && p.id == report.partition.id) choice.copy = &p;
  }
  if (choice.copy != nullptr && manifest.namespaced != report.store.namespaced) {
    return Error(Code::kInvalidArgument,
                 "{}: the backup says that its keys are stored {} namespaces, but this store has them {}: another "
                 "version of kvadmin made it; use another backup",
                 options.backup, manifest.namespaced ? "with" : "without",
                 report.store.namespaced ? "with" : "without");
  }
  if (choice.copy == nullptr) {
    return Error(Code::kInvalidArgument,
                 "{}: this backup does not hold partition {} with UUID {}; use a backup of this store", options.backup,
                 report.partition.id, report.partition.uuid.ToString());
  }
  choice.lsn = choice.copy->root.lsn;
  choice.description = fmt::format("from the backup: LSN {}, {} records, as of {}", choice.lsn,
                                   choice.copy->root.root.count, TimeText(manifest.taken_at_ms));
  return choice;
}

// Changes with everything that was shown, so that nobody confirms what they have not seen.
std::string CodeOf(const LossReport& report, const Choice& choice) {
  std::string seen = fmt::format("{} {} {} {} {} {} {}", report.partition.uuid.ToString(), choice.name, choice.lsn,
                                 report.file.generation, report.logged_lsn, report.next_history,
                                 choice.chain ? choice.chain->newest().id : "");
  for (const CheckProblem& p : report.problems) seen += p.what;
  return fmt::format("{:08x}", static_cast<uint32_t>(Hash64(seen)));
}

// Nobody must take this for a repair of the tree.
std::string DamageText(const Choice& choice) {
  if (choice.damage_stays == 0) return "";
  return fmt::format(
      "Its tree is damaged in {} {}, and that stays: the keys there cannot be read (CORRUPT), and neither can a scan, "
      "a\ncount or an export that comes to them. If a node serves the partition but for these keys, this choice only\n"
      "loses more. --backup DIR or --empty replaces the tree.\n",
      choice.damage_stays, choice.damage_stays == 1 ? "place" : "places");
}

std::string LostText(const LossReport& report, const Choice& choice) {
  const std::string writes =
      report.logged_lsn <= choice.lsn
          ? "no write that the log knows of"
          : fmt::format("the writes with LSN {} to {}, {} in all, the last of them by {}", choice.lsn + 1,
                        report.logged_lsn, report.logged_lsn - choice.lsn, TimeOf(report.logged_version));
  const auto places = std::count_if(report.problems.begin(), report.problems.end(),
                                    [&](const CheckProblem& p) { return p.file == report.file.file; });
  if (!choice.of_own_file || places == 0) return writes;
  return fmt::format("{}; and what the damaged places of its file held, of which {} are known", writes, places);
}

void Show(const LossReport& report, const Choice& choice, const AcceptLossOptions& options) {
  const PartitionInfo& p = report.partition;
  tools::Print("partition {} of {}: hash {:016x} to {:016x}, UUID {}\n", p.id, report.store.data_dir, p.first_hash,
               p.last_hash, p.uuid.ToString());
  for (size_t i = 0; i < std::min(report.problems.size(), kProblemsShown); ++i) {
    const CheckProblem& problem = report.problems[i];
    tools::Print("damage: {} at offset {}: {}\n", problem.file, problem.offset_bytes, problem.what);
  }
  if (report.problems.size() > kProblemsShown) {
    tools::Print("... and {} more; kvadmin check lists them\n", report.problems.size() - kProblemsShown);
  }
  if (!choice.possible) {
    tools::Print(
        "Its file {}, so it cannot continue from its last checkpoint. Put a sound copy of the file back,\n"
        "or choose --backup DIR or --empty.\n",
        report.file.opened ? "is damaged in what a node needs to extend it" : "cannot be opened");
    return;
  }
  tools::Print("If you accept the loss, it continues {}.\n", choice.description);
  tools::Print("Lost: {}.\n{}", LostText(report, choice), DamageText(choice));
  tools::Print("Nothing was changed. To accept the loss: kvadmin accept-loss {} --partition {}{} --confirm {}\n",
               options.data_dir, p.id, choice.name, CodeOf(report, choice));
}

Json ReportJson(const LossReport& report, const Choice& choice, bool accepted) {
  Json j;
  j["data_dir"] = report.store.data_dir;
  j["partition"] = report.partition.id;
  j["uuid"] = report.partition.uuid.ToString();
  j["first_hash"] = fmt::format("{:016x}", report.partition.first_hash);
  j["last_hash"] = fmt::format("{:016x}", report.partition.last_hash);
  j["problems"] = Json::array();
  for (const CheckProblem& p : report.problems) {
    j["problems"].push_back(Json{{"file", p.file}, {"offset", p.offset_bytes}, {"what", p.what}});
  }
  j["possible"] = choice.possible;
  j["continues_from_lsn"] = choice.lsn;
  j["logged_lsn"] = report.logged_lsn;
  j["damage_stays"] = choice.damage_stays;
  j["accepted"] = accepted;
  if (choice.possible && !accepted) j["confirm"] = CodeOf(report, choice);
  return j;
}

MakePartitionFile Replacement(Reactor* reactor, const Choice* choice, const AcceptLossOptions* options) {
  if (options->empty) {
    return [reactor](uint32_t, PartitionFileOptions made) { return CreateEmptySuccessor(*reactor, std::move(made)); };
  }
  if (choice->copy == nullptr) return nullptr;
  return [reactor, choice](uint32_t id, PartitionFileOptions made) {
    return RestorePartition(reactor, &*choice->chain, id, std::move(made), nullptr);
  };
}

// In a cluster, there is mostly a way that loses nothing.
Task<Status> NoteCluster(Reactor* reactor, const Globals* globals, const AcceptLossOptions* options) {
  CO_ASSIGN_OR_RETURN(const std::optional<NodeIdentity> identity, co_await LoadIdentity(*reactor, options->data_dir));
  if (!identity) co_return Status();
  const std::string note = fmt::format(
      "this is node {} of a cluster. If another node has a sound replica in sync, do not accept a loss: empty the "
      "directory and start the node, and everything is installed from there",
      identity->node);
  tools::PrintNote("{}\n", globals->json ? JsonText(Json{{"note", note}}) : "note: " + note);
  co_return Status();
}

// The caller holds the lock.
Task<Result<ExitCode>> ShowOrAccept(Reactor* reactor, const Globals* globals, const AcceptLossOptions* options) {
  CO_RETURN_IF_ERROR(co_await NoteCluster(reactor, globals, options));
  CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, options->data_dir));
  if (options->of_log) {
    co_return co_await ShowOrAcceptLogLoss(reactor, globals, std::move(store), options->log, options->confirm);
  }
  CO_ASSIGN_OR_RETURN(const LossReport report, co_await ExamineLoss(*reactor, std::move(store), options->partition));
  if (report.problems.empty()) {
    co_return Error(Code::kInvalidArgument,
                    "{}: partition {} is sound, so there is no loss to accept. If a node has quarantined it, start the "
                    "node again: the error was temporary",
                    options->data_dir, options->partition);
  }
  CO_ASSIGN_OR_RETURN(const Choice choice, ChoiceOf(report, *options));
  const bool confirmed = !options->confirm.empty();
  if (confirmed && (!choice.possible || options->confirm != CodeOf(report, choice))) {
    co_return Error(Code::kInvalidArgument,
                    "--confirm {} is not the code for this loss: the store has changed since it was shown, or it was "
                    "shown for other options; leave --confirm out to see the loss and its code. Nothing was changed",
                    options->confirm);
  }
  if (confirmed) CO_RETURN_IF_ERROR(co_await AcceptLoss(*reactor, &report, Replacement(reactor, &choice, options)));
  if (globals->json) {
    PrintJson(ReportJson(report, choice, confirmed));
  } else if (!confirmed) {
    Show(report, choice, *options);
  } else {
    tools::Print("partition {}: the loss is accepted, and it continues {}. Start kvnode --data_dir={}.\n{}",
                 options->partition, choice.description, options->data_dir, DamageText(choice));
  }
  co_return confirmed ? kExitOk : kExitNo;
}

Task<Result<ExitCode>> WithLock(Reactor* reactor, const Globals* globals, const AcceptLossOptions* options) {
  CO_RETURN_IF_ERROR(CheckReadable(options->data_dir));
  // A directory without a store is not turned into one by its lock.
  CO_RETURN_IF_ERROR((co_await LoadStore(*reactor, options->data_dir)).status());
  CO_ASSIGN_OR_RETURN(File lock, co_await LockStore(*reactor, options->data_dir));
  Result<ExitCode> code = co_await ShowOrAccept(reactor, globals, options);
  Status unlocked = co_await lock.Close();
  if (code.ok()) CO_RETURN_IF_ERROR(unlocked);
  co_return code;
}

}  // namespace

void AddAcceptLossCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<AcceptLossOptions>();
  tools::Command command =
      app.Add("accept-loss", "Get a quarantined partition, or a store with a damaged log, back without what is lost");
  command.Text("data_dir", &o->data_dir, "The data directory of a stopped node").Required().ExistingDirectory();
  auto partition = command.Number("--partition", &o->partition, "The partition", 0, kMaxPartitions - 1);
  auto log = command.Number("--log", &o->log, "The reactor whose log is damaged", 0, kMaxPartitions - 1);
  auto backup = command.Text("--backup", &o->backup, "Continue from this backup of the store").ExistingDirectory();
  auto empty = command.Flag("--empty", &o->empty, "Continue without any records");
  command.Text("--confirm", &o->confirm, "The code that accept-loss shows: accept the loss").NotEmpty();
  empty.Excludes(backup).Excludes(log);
  backup.Excludes(log);
  log.Excludes(partition);
  command.Footer(
      "Without --confirm, accept-loss changes nothing: it shows what is damaged, what would be lost, and the code "
      "that\n"
      "accepts exactly this loss. With neither --backup nor --empty, the partition continues from the last checkpoint\n"
      "in its file, which must open. What the log holds of the partition since then is given up, too. Damaged pages "
      "of\n"
      "its tree stay damaged: only --backup and --empty replace them.\n\n"
      "First try what loses nothing: start the node again after a write error, and put a sound copy of a damaged file\n"
      "back. Nothing of other partitions changes, and the partition's old file stays as data.damaged-N beside the new\n"
      "one. A command that was cut short can be repeated.\n\n"
      "With --log, the loss is that of a log with which no node starts: it then ends before its damage, and each\n"
      "partition of that reactor continues from the newest of its checkpoint and that log. What lies behind stays as\n"
      "segment-N.damaged-K.\n\n"
      "Examples:\n"
      "  kvadmin accept-loss /var/lib/pando --partition 3\n"
      "  kvadmin accept-loss /var/lib/pando --partition 3 --backup /backups/monday\n"
      "  kvadmin accept-loss /var/lib/pando --partition 3 --backup /backups/monday --confirm 1f2e3d4c\n"
      "  kvadmin accept-loss /var/lib/pando --log 0\n"
      "Exit codes: 0 accepted; 1 shown only; 2 wrong options or code, or nothing is damaged; 3 the system failed; 4 "
      "the\n"
      "whole log (with --partition) or the backup is damaged; 5 a node has the directory open.");
  OnChosen(command, globals, [=]() -> Result<ExitCode> {
    o->of_log = log.given();
    if (!log.given() && !partition.given()) {
      return Error(Code::kInvalidArgument, "accept-loss needs --partition or --log: what is damaged");
    }
    return RunOffline([=](Reactor& reactor) { return WithLock(&reactor, globals, o.get()); });
  });
}

}  // namespace pando::admin
