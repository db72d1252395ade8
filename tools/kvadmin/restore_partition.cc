#include "tools/kvadmin/restore_partition.h"

namespace pando::admin {

Task<Status> RestorePartition(Reactor* reactor, const BackupChain* chain, uint32_t id, PartitionFileOptions options,
                              BackupProgress on_progress) {
  Result<std::unique_ptr<BackupReader>> opened = co_await BackupReader::Open(*reactor, chain->Files(id));
  if (opened.code() == Code::kNotFound || opened.code() == Code::kInvalidArgument) {
    // The manifests are intact and fit together, so a missing or foreign file is damage.
    co_return Error(Code::kCorruption, "{}: the backup is damaged; use another one", opened.status().message());
  }
  if (!opened.ok()) co_return opened.TakeStatus();
  std::unique_ptr<BackupReader> reader = *std::move(opened);
  Status status = co_await RestorePartitionFile(*reactor, reader.get(), chain->newest().partitions[id].root,
                                                std::move(options), std::move(on_progress));
  Status closed = co_await reader->Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando::admin
