#include "src/verify/accept_loss.h"

#include <algorithm>

#include "src/partition/partition_file.h"

namespace pando {
namespace {

Task<Status> PutInPlace(Reactor* reactor, const LossReport* report, MakePartitionFile replace) {
  const StoreInfo& store = report->store;
  const uint32_t id = report->partition.id;
  const std::string directory = store.PartitionDirectory(id);
  CO_RETURN_IF_ERROR(co_await MakeDirectory(*reactor, directory));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(*reactor, store.data_dir));
  PartitionFileOptions made{directory + "/" + kReplacingName, store.node, report->partition.uuid, store.page_bytes,
                            store.seal_bytes};
  const std::string made_path = made.path;
  CO_RETURN_IF_ERROR(co_await replace(id, std::move(made)));
  // AL1: complete and durable before it gets the name.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(*reactor, directory));
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> names, reactor->ListDirectory(directory));
  if (std::find(names.begin(), names.end(), "data") != names.end()) {
    CO_RETURN_IF_ERROR(
        co_await RenameFile(*reactor, directory + "/data", directory + "/" + DamagedName(names, "data")));
  }
  CO_RETURN_IF_ERROR(co_await RenameFile(*reactor, made_path, directory + "/data"));
  co_return co_await SyncDirectory(*reactor, directory);
}

}  // namespace

Task<Result<uint64_t>> UnusedSegment(Reactor* reactor, const StoreInfo* store, uint32_t log, LogPosition known) {
  uint64_t last = PositionSegment(known);
  for (const PartitionInfo& p : store->partitions) {
    const StoreInfo::Dropped* before = store->ReactorOf(p.id) == log ? store->FindDropped(p.uuid) : nullptr;
    if (before != nullptr && before->until != StoreInfo::kAnyPosition) {
      last = std::max(last, PositionSegment(before->until));
    }
  }
  Result<std::vector<std::string>> names = reactor->ListDirectory(store->LogDirectory(log));
  if (names.code() == Code::kNotFound) co_return last + 1;
  CO_RETURN_IF_ERROR(names.status());
  for (const std::string& name : *names) last = std::max(last, ParseSegmentFileName(name).value_or(0));
  co_return last + 1;
}

Task<Result<LossReport>> ExamineLoss(Reactor& reactor, StoreInfo store, uint32_t partition) {
  const PartitionInfo* info = store.Find(partition);
  if (info == nullptr) {
    co_return Error(Code::kInvalidArgument, "{}: the store has no partition {}", store.data_dir, partition);
  }
  LossReport found;
  found.partition = *info;
  CheckReport report = co_await CheckPartition(reactor, std::move(store), partition);
  found.store = std::move(report.store);
  if (report.whole_logs_damaged) {
    const auto whole = [](const CheckProblem& p) { return !p.partition; };
    const auto first = std::find_if(report.problems.begin(), report.problems.end(), whole);
    co_return Error(Code::kCorruption,
                    "not only partition {} is damaged, but the log that it shares, so a node would not start: {}. {}",
                    partition, first == report.problems.end() ? "run kvadmin check" : first->what,
                    LogLossAdvice(found.store, found.store.ReactorOf(partition)));
  }
  found.problems = std::move(report.problems);
  found.file = std::move(report.partitions.front());
  // The node also needs the root, as far as it reads the tree at all when it opens it.
  found.file_opens =
      found.file.opened && found.file.metadata_sound && found.file.inner_pages + found.file.leaf_pages > 0;
  for (const auto& [uuid, logged] : report.logs.front().logged) {
    if (uuid != found.partition.uuid) continue;
    found.logged_lsn = logged.last_lsn;
    found.logged_version = logged.version;
  }
  CO_ASSIGN_OR_RETURN(
      const uint64_t unused,
      co_await UnusedSegment(&reactor, &found.store, found.store.ReactorOf(partition), found.file.log_end));
  found.next_history = MakePosition(unused, 0);
  co_return found;
}

Task<Status> AcceptLoss(Reactor& reactor, const LossReport* report, MakePartitionFile replace) {
  if (!replace && !report->file_opens) {
    co_return Error(Code::kInvalidArgument,
                    "{}: the file cannot be used, so the partition cannot continue from its last checkpoint: restore "
                    "the partition from a backup, or begin it anew without records",
                    report->file.file);
  }
  if (replace) CO_RETURN_IF_ERROR(co_await PutInPlace(&reactor, report, std::move(replace)));
  StoreInfo store = report->store;
  store.BeginAnew(report->partition.uuid, report->next_history);
  co_return co_await WriteStore(reactor, &store);
}

Task<Status> CreateEmptySuccessor(Reactor& reactor, PartitionFileOptions options) {
  // Checkpoints are far apart compared with milliseconds.
  const auto generation = static_cast<Generation>(std::max<int64_t>(reactor.WallMs(), 2));
  co_return co_await CreatePartitionFile(reactor, std::move(options), VersionAtMs(reactor.WallMs()), generation);
}

}  // namespace pando
