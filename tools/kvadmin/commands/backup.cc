// kvadmin backup: copies a snapshot of everything into a directory, page by page, while the node
// serves.
//
// The result is built in a PartialDirectory and published when all of it is durable.
//
// Threads: one.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/backup_file.h"
#include "tools/kvadmin/backup_manifest.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/durable.h"
#include "tools/kvadmin/partial_directory.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/snapshot_lease.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

struct BackupOptions {
  std::string directory, base;
  uint64_t mb_per_s = 0;
  bool quiet = false;
};

// Sleeps so that at most `mb_per_s` are read on average. 0: no limit.
class RateLimit {
 public:
  explicit RateLimit(uint64_t mb_per_s) : bytes_per_s_(static_cast<double>(mb_per_s << 20)) {}
  void Spend(uint64_t bytes) {
    if (bytes_per_s_ == 0) return;
    spent_bytes_ += static_cast<double>(bytes);
    const std::chrono::duration<double, std::milli> due(spent_bytes_ / bytes_per_s_ * 1000);
    const std::chrono::duration<double, std::milli> passed = Clock::now() - start_;
    tools::Interrupts::Sleep(static_cast<int64_t>((due - passed).count()));
  }

 private:
  using Clock = std::chrono::steady_clock;
  const double bytes_per_s_;
  double spent_bytes_ = 0;
  const Clock::time_point start_ = Clock::now();
};

std::string RandomId() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

class Backup {
 public:
  Backup(const Globals& globals, const BackupOptions& options)
      : globals_(globals),
        options_(options),
        client_(globals.target),
        lease_(&client_, SnapshotLease::kWorkingTtl),
        rate_(options.mb_per_s) {}

  Result<ExitCode> Run() {
    RETURN_IF_ERROR(Begin());
    Status status = Copy();
    if (progress_) progress_->Clear();
    if (!status.ok()) {
      return Error(status.code(), "{}; the backup was not created: {} pages had been copied and were removed",
                   status.message(), pages_copied_);
    }
    // Everything is copied. If the snapshot cannot be released, it expires by itself.
    if (Status released = lease_.Release(); !released.ok() && !globals_.json) {
      tools::PrintNote("the snapshot could not be released, and will expire: {}\n", released.message());
    }
    RETURN_IF_ERROR(Publish());
    Report();
    return kExitOk;
  }

 private:
  Status Begin() {
    RETURN_IF_ERROR(partial_.Prepare(options_.directory));
    if (!options_.base.empty()) {
      ASSIGN_OR_RETURN(chain_, LoadBackupChain(options_.base));
      std::error_code error;
      const fs::path base = fs::canonical(options_.base, error);
      if (error) return Error(Code::kIoError, "{}: {}", options_.base, error.message());
      manifest_.base = base.lexically_relative(partial_.final_path()).string();
      manifest_.base_id = chain_.newest().id;
      if (!IsUtf8(manifest_.base)) {  // JSON cannot hold it
        return Error(Code::kInvalidArgument, "--base {}: the path from the new backup to it is not UTF-8; rename it",
                     Printable(options_.base, Encoding::kText));
      }
    }
    ASSIGN_OR_RETURN(status_, client_.Call(Client::Repeat::kSafe, &api::AdminIf::status));
    // A node of an earlier version does not say how many ranges there are, and holds all of them.
    for (const api::PartitionStatus& p : status_.partitions) {
      if (status_.ranges == 0 || p.id < status_.ranges) continue;
      return Error(Code::kUnsupported,
                   "the node holds partition {}, a half of one that was split, and backups have no halves: export the "
                   "records through a router (kvadmin export)",
                   p.id);
    }
    if (status_.ranges != 0 && static_cast<size_t>(status_.ranges) != status_.partitions.size()) {
      return Error(Code::kUnsupported,
                   "the node holds {} of {} partitions, and a backup must have all of them: make it of a node that "
                   "holds all",
                   status_.partitions.size(), status_.ranges);
    }
    manifest_.id = RandomId();
    manifest_.node = status_.node_id;
    manifest_.server_version = status_.server_version;
    manifest_.page_bytes = static_cast<uint32_t>(status_.page_bytes);
    manifest_.reactors = static_cast<uint32_t>(status_.reactors);
    if (!options_.base.empty() && chain_.newest().partitions.size() != status_.partitions.size()) {
      return Error(Code::kInvalidArgument,
                   "{}: this backup has {} partitions, but the node has {}; make a backup without --base",
                   options_.base, chain_.newest().partitions.size(), status_.partitions.size());
    }
    return partial_.Create();
  }

  Status Copy() {
    RETURN_IF_ERROR(lease_.Open());
    manifest_.snapshot_version = lease_.version();
    manifest_.taken_at_ms = static_cast<int64_t>(static_cast<uint64_t>(lease_.version()) >> 16);
    for (uint32_t id = 0; id < status_.partitions.size(); ++id) RETURN_IF_ERROR(CopyPartition(id));
    return Status();
  }

  Status Describe(uint32_t id, BackupPartition* partition) {
    api::DescribeSnapshotRequest request;
    request.snapshot = lease_.token();
    request.partition = static_cast<int32_t>(id);
    api::PartitionSnapshot reply;
    ASSIGN_OR_RETURN(reply, client_.Call(Client::Repeat::kSafe, &api::AdminIf::describeSnapshot, request));
    manifest_.seal_bytes = static_cast<uint32_t>(reply.seal_bytes);  // the same for all partitions
    manifest_.namespaced = reply.namespaced;
    partition->id = id;
    ASSIGN_OR_RETURN(partition->uuid, ParseUuid(reply.partition_uuid));
    partition->file = fmt::format("partition-{:05}.pages", id);
    SnapshotRoot& root = partition->root;
    root.generation = static_cast<Generation>(reply.generation);
    root.epoch = static_cast<Epoch>(reply.epoch);
    root.lsn = static_cast<Lsn>(reply.lsn);
    root.last_version = static_cast<Version>(reply.last_version);
    root.next_page_id = static_cast<uint64_t>(reply.next_page_id);
    root.file_blocks = static_cast<uint64_t>(reply.file_blocks);
    root.root_level = static_cast<uint8_t>(reply.root_level);
    if (reply.root.size() != sizeof(root.root))
      return Error(Code::kCorruption,
                   "the server sent no valid root of partition {}; use a kvadmin of the same version as the node", id);
    std::memcpy(static_cast<void*>(&root.root), reply.root.data(), sizeof(root.root));
    if (options_.base.empty()) return Status();
    const BackupPartition& base = chain_.newest().partitions[id];
    if (base.uuid != partition->uuid || base.root.generation > root.generation) {
      return Error(Code::kInvalidArgument, "{}: this is a backup of another store; make a backup without --base",
                   options_.base);
    }
    partition->since = base.root.generation;
    return Status();
  }

  Status CopyPartition(uint32_t id) {
    BackupPartition partition;
    RETURN_IF_ERROR(Describe(id, &partition));
    std::vector<std::string> base_files;
    if (!options_.base.empty()) base_files = chain_.Files(id);
    ASSIGN_OR_RETURN(BaseIndex base, BaseIndex::Load(base_files));
    BackupHeader header;
    header.page_bytes = manifest_.page_bytes;
    header.seal_bytes = static_cast<uint16_t>(manifest_.seal_bytes);
    header.partition = partition.uuid;
    header.generation = partition.root.generation;
    header.since = partition.since;
    BackupFile file(partial_.path() + "/" + partition.file, header, partition.root, std::move(base));
    RETURN_IF_ERROR(file.Open());
    api::ReadPagesRequest request;
    request.snapshot = lease_.token();
    request.partition = static_cast<int32_t>(id);
    request.since_generation = static_cast<int64_t>(partition.since);
    do {
      RETURN_IF_ERROR(lease_.Keep());
      api::ReadPagesReply reply;
      ASSIGN_OR_RETURN(reply, client_.Call(Client::Repeat::kSafe, &api::AdminIf::readPages, request));
      for (const api::PageImage& page : reply.pages) {
        RETURN_IF_ERROR(
            file.Add(Extent{static_cast<uint64_t>(page.location)}, static_cast<uint64_t>(page.checksum), page.bytes));
        ++pages_copied_;
        rate_.Spend(page.bytes.size());
      }
      RETURN_IF_ERROR(tools::Interrupts::Check());
      request.cursor = reply.cursor;
      ShowProgress(file.pages(), file.bytes());
    } while (!request.cursor.empty());
    RETURN_IF_ERROR(file.Finish());
    partition.pages = file.pages();
    partition.bytes = file.bytes();
    pages_ += partition.pages;
    bytes_ += partition.bytes;
    manifest_.partitions.push_back(std::move(partition));
    return Status();
  }

  void ShowProgress(uint64_t pages, uint64_t bytes) {
    // How much an incremental backup will read is not known in advance.
    uint64_t total = 0;
    for (const api::PartitionStatus& p : status_.partitions) total += static_cast<uint64_t>(p.used_bytes);
    if (!progress_) {
      progress_ = std::make_unique<Progress>("backing up", "pages", options_.base.empty() ? total : 0,
                                             options_.quiet || globals_.json);
    }
    progress_->Update(pages_ + pages, bytes_ + bytes, bytes_ + bytes);
  }

  // The directory becomes a backup by its manifest, and is found by its final name. It gets both
  // only when everything else in it is durable.
  Status Publish() {
    const std::string path = partial_.path() + "/" + kManifestName;
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << EncodeManifest(manifest_);
    out.close();
    if (!out) return ErrnoError(errno, "write {}", path);
    RETURN_IF_ERROR(SyncPath(path));
    return partial_.Commit();
  }

  void Report() {
    if (globals_.json) {
      PrintJson(Json{{"directory", options_.directory},
                     {"id", manifest_.id},
                     {"base_id", manifest_.base_id},
                     {"taken_at_ms", manifest_.taken_at_ms},
                     {"records", manifest_.records()},
                     {"pages", pages_},
                     {"bytes", bytes_}});
    } else {
      tools::Print("{}: {} records as of {}; {} pages, {}{}\n", options_.directory, manifest_.records(),
                   TimeText(manifest_.taken_at_ms), pages_, tools::HumanBytes(static_cast<double>(bytes_)),
                   options_.base.empty() ? "" : " that changed since " + options_.base);
    }
  }

  const Globals& globals_;
  const BackupOptions& options_;
  Client client_;
  SnapshotLease lease_;
  RateLimit rate_;
  BackupChain chain_;  // the base and the backups that it is based on
  BackupManifest manifest_;
  api::NodeStatus status_;
  PartialDirectory partial_{[](const std::string& name) {
    return name == kManifestName || (name.starts_with("partition-") && name.ends_with(".pages"));
  }};
  uint64_t pages_ = 0, bytes_ = 0, pages_copied_ = 0;
  std::unique_ptr<Progress> progress_;
};

}  // namespace

void AddBackupCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<BackupOptions>();
  tools::Command command = app.Add("backup", "Copy a snapshot of everything into a directory, while the node serves");
  command.Text("directory", &o->directory, "The directory of the backup: new or empty, in one that exists").Required();
  command.Text("--base", &o->base, "Copy only what changed since this backup; a restore needs this backup, too")
      .ExistingDirectory();
  command.Number("--mb-per-s", &o->mb_per_s, "Read at most this many MiB/s; 0 = no limit", 0, 1'000'000).ShowDefault();
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command.Footer(
      "Pages are copied as they are on disk, and each is verified. With --base, time and size depend on the changed\n"
      "pages only. The base is found by its path relative to the new backup, so move them together.\n"
      "The backup is built in DIRECTORY.partial, which is renamed to DIRECTORY when it is complete. A backup that\n"
      "fails or is interrupted removes it, and releases its snapshot. Two backups to one DIRECTORY exclude each\n"
      "other.\n\n"
      "Examples:\n"
      "  kvadmin backup /backups/sunday\n"
      "  kvadmin backup /backups/monday --base /backups/sunday\n"
      "  kvadmin check --backup /backups/monday\n"
      "  kvadmin restore /backups/monday /var/lib/pando\n"
      "Exit codes: 0 complete; 2 the base does not fit; 3 it failed, and left nothing behind; 4 the base is damaged;\n"
      "5 another kvadmin builds DIRECTORY.");
  OnChosen(command, globals, [=] { return OfManyPartitions(Backup(*globals, *o).Run()); });
}

}  // namespace pando::admin
