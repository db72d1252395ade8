// kvadmin restore: creates a store from a backup. kvadmin check --backup: makes the same reads,
// without a store.
//
// Threads: one.
#include "src/backup/restore.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "src/backup/backup_format.h"
#include "src/base/counted.h"
#include "src/partition/store.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/backup_manifest.h"
#include "tools/kvadmin/commands/check_backup.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/offline.h"
#include "tools/kvadmin/partial_directory.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/restore_partition.h"

namespace pando::admin {

namespace {

struct RestoreOptions {
  std::string backup, data_dir;
  uint32_t reactors = 0;
  bool quiet = false;
};

// Shows the progress of a walk through all partitions.
class WalkProgress {
 public:
  WalkProgress(const char* verb, const BackupChain& chain, bool quiet)
      : progress_(verb, "blocks", Blocks(chain), quiet) {}
  BackupProgress OfNextPartition() {
    done_ += last_;
    last_ = 0;
    return [this](uint64_t blocks) {
      last_ = blocks;
      progress_.Update(done_ + blocks, (done_ + blocks) * kBlockBytes, done_ + blocks);
      return tools::Interrupts::Check();  // OK if the command has not installed Interrupts
    };
  }
  void Clear() { progress_.Clear(); }

 private:
  // An upper bound: an incremental backup replaces pages of its bases.
  static uint64_t Blocks(const BackupChain& chain) {
    uint64_t bytes = 0;
    for (const BackupManifest& m : chain.manifests) {
      for (const BackupPartition& p : m.partitions) bytes += p.bytes;
    }
    return bytes / kBlockBytes;
  }
  Progress progress_;
  uint64_t done_ = 0, last_ = 0;
};

// The bytes that a restore writes at the least: the pages in the newest backup. Those that it takes
// from the bases come on top; without reading the backup, it is not known how many they are.
uint64_t LeastBytes(const BackupManifest& manifest) {
  uint64_t bytes = 0;
  for (const BackupPartition& p : manifest.partitions) {
    const uint64_t around_pages = BackupIndexBytes(p.pages) + 2 * kBlockBytes;  // also header and trailer
    bytes += p.bytes - std::min(p.bytes, around_pages);
  }
  return bytes;
}

// Fails at once when the disk is certainly too small, instead of after filling it.
Status CheckRoom(const std::string& directory, uint64_t needed_bytes) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) return ErrnoError(errno, "look for free space in {}", directory);
  if (info.f_blocks == 0) return Status();  // a file system that does not tell
  const uint64_t free_bytes = info.f_frsize * (::geteuid() == 0 ? info.f_bfree : info.f_bavail);
  if (free_bytes >= needed_bytes) return Status();
  return Error(Code::kDiskFull,
               "{}: No space left on device: the restore needs at least {}, but {} are free; free space, or choose a "
               "directory on another disk",
               directory, tools::HumanBytes(static_cast<double>(needed_bytes)),
               tools::HumanBytes(static_cast<double>(free_bytes)));
}

Task<Result<ExitCode>> RestoreAll(Reactor* reactor, const Globals* globals, const RestoreOptions* options,
                                  const BackupChain* chain, PartialDirectory* building) {
  const BackupManifest& manifest = chain->newest();
  StoreOptions store;
  store.data_dir = building->path();
  store.reactors = options->reactors ? options->reactors : manifest.reactors;
  store.page_bytes = manifest.page_bytes;
  store.seal_bytes = manifest.seal_bytes;
  store.namespaced = manifest.namespaced;
  std::vector<Uuid> uuids;
  for (const BackupPartition& p : manifest.partitions) uuids.push_back(p.uuid);
  WalkProgress progress("restoring", *chain, options->quiet || globals->json);
  MakePartitionFile make = [&](uint32_t id, PartitionFileOptions made) {
    return RestorePartition(reactor, chain, id, std::move(made), progress.OfNextPartition());
  };
  Result<StoreInfo> made = co_await CreateStoreOf(*reactor, store, std::move(uuids), std::move(make));
  progress.Clear();
  if (!made.ok()) {
    co_return Error(made.code(), "{}; {} was not created", made.status().message(), options->data_dir);
  }
  CO_RETURN_IF_ERROR(building->Commit());
  if (globals->json) {
    PrintJson(Json{{"data_dir", options->data_dir},
                   {"backup_id", manifest.id},
                   {"node", made->node.ToString()},
                   {"taken_at_ms", manifest.taken_at_ms},
                   {"records", manifest.records()}});
  } else {
    tools::Print("{}: {} records as of {}, verified; start kvnode --data_dir={}\n", options->data_dir,
                 manifest.records(), TimeText(manifest.taken_at_ms), options->data_dir);
  }
  co_return kExitOk;
}

Result<ExitCode> Restore(const Globals& globals, const RestoreOptions& options) {
  tools::Interrupts::Install();  // so that a signal does not leave half a store
  ASSIGN_OR_RETURN(BackupChain chain, LoadBackupChain(options.backup));
  PartialDirectory building([](const std::string& name) {
    return name.starts_with("partition-") || name == "store.meta" || name == "store.meta.tmp" ||
           name == "lock";  // left by a node that refused to start on this directory
  });
  RETURN_IF_ERROR(building.Prepare(options.data_dir));
  RETURN_IF_ERROR(building.Create());
  RETURN_IF_ERROR(CheckRoom(building.path(), LeastBytes(chain.newest())));
  return RunOffline([&](Reactor& reactor) { return RestoreAll(&reactor, &globals, &options, &chain, &building); });
}

Task<Result<ExitCode>> CheckAll(Reactor* reactor, const Globals* globals, const std::string* directory, bool quiet,
                                const BackupChain* chain) {
  const BackupManifest& manifest = chain->newest();
  std::vector<CheckProblem> problems;
  auto on_problem = [&problems](CheckProblem p) { problems.push_back(std::move(p)); };
  WalkProgress progress("checking", *chain, quiet || globals->json);
  uint64_t records = 0, pages = 0;
  for (const BackupPartition& p : manifest.partitions) {
    const std::string name = *directory + "/" + p.file;
    Result<std::unique_ptr<BackupReader>> reader = co_await BackupReader::Open(*reactor, chain->Files(p.id));
    if (!reader.ok()) {
      on_problem({name, 0, reader.status().message(), ""});  // it says what to do
      continue;
    }
    Result<TreeCheckCounts> counts =
        co_await CheckBackup(*reactor, reader->get(), p.root, name, on_problem, progress.OfNextPartition());
    Status closed = co_await (*reader)->Close();
    if (!counts.ok()) co_return counts.TakeStatus();
    CO_RETURN_IF_ERROR(closed);
    records += counts->records;
    pages += counts->inner_pages + counts->leaf_pages + counts->overflow_values;
  }
  progress.Clear();
  if (globals->json) {
    Json j{{"backup", *directory},
           {"id", manifest.id},
           {"backups", chain->manifests.size()},
           {"taken_at_ms", manifest.taken_at_ms},
           {"records", records},
           {"pages", pages},
           {"problems_total", problems.size()},
           {"problems", Json::array()}};
    for (const CheckProblem& p : problems) {
      j["problems"].push_back(
          Json{{"file", p.file}, {"offset", p.offset_bytes}, {"what", p.what}, {"advice", p.advice}});
    }
    PrintJson(j);
  } else {
    for (const CheckProblem& p : problems) {
      tools::Print("PROBLEM {}, page from offset {}: {}{}{}\n", p.file, p.offset_bytes, p.what,
                   p.advice.empty() ? "" : "; ", p.advice);
    }
    if (problems.empty()) {
      tools::Print("sound: {} as of {}, {} in {}; all checksums match\n", Counted(records, "record"),
                   TimeText(manifest.taken_at_ms), Counted(pages, "page"), Counted(chain->manifests.size(), "backup"));
    } else {
      tools::Print("DAMAGED: {}; this backup cannot be restored\n", Counted(problems.size(), "problem"));
    }
  }
  co_return problems.empty() ? kExitOk : kExitCorruption;
}

}  // namespace

Result<ExitCode> RunBackupCheck(const Globals& globals, const std::string& directory, bool quiet) {
  ASSIGN_OR_RETURN(BackupChain chain, LoadBackupChain(directory));
  return RunOffline([&](Reactor& reactor) { return CheckAll(&reactor, &globals, &directory, quiet, &chain); });
}

void AddRestoreCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<RestoreOptions>();
  tools::Command command = app.Add("restore", "Create a data directory from a backup");
  command.Text("backup", &o->backup, "The directory of the backup; it leads to the backups that it is based on")
      .Required()
      .ExistingDirectory();
  command.Text("data_dir", &o->data_dir, "The data directory to create: new or empty, in one that exists").Required();
  command.Number("--reactors", &o->reactors, "Reactor threads of the new store; default: as in the original store", 1,
                 256);
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command.Footer(
      "Every page is verified as it is copied. The store gets a new node UUID; its partitions keep theirs. The store\n"
      "is built in DATA_DIR.partial, which is renamed to DATA_DIR when all of it is verified and durable, so\n"
      "DATA_DIR is never half a store. A restore that fails or is interrupted removes what it built. What a killed\n"
      "restore left is removed by the next one. Two restores to one DATA_DIR exclude each other.\n\n"
      "Examples:\n"
      "  kvadmin restore /backups/monday /var/lib/pando\n"
      "Exit codes: 0 restored; 2 wrong options, DATA_DIR is a mount point, or another backup is in the place of a "
      "base;\n"
      "3 there is no backup, a base is missing, DATA_DIR is not empty, or the system failed (such as a full disk);\n"
      "4 the backup is damaged or lacks a file; 5 another kvadmin builds DATA_DIR.");
  OnChosen(command, globals, [=] { return Restore(*globals, *o); });
}

}  // namespace pando::admin
