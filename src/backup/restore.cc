#include "src/backup/restore.h"

#include <utility>

#include "src/backup/copied_tree.h"

namespace pando {
namespace {

constexpr char kAdvice[] = "use another backup, or a replica";

TreeForm FormOf(const BackupReader& backup) {
  TreeForm form;
  form.page_bytes = backup.header().page_bytes;
  form.seal_bytes = backup.header().seal_bytes;
  return form;
}

// What the description says, of the partition that the file says.
SnapshotRoot RootOf(const BackupReader& backup, SnapshotRoot root) {
  root.partition = backup.header().partition;
  return root;
}

// False after reporting that the file is not the one that is described.
bool CheckGeneration(const BackupReader& backup, const SnapshotRoot& root, const std::string& name,
                     const BackupProblem& on_problem) {
  const Generation generation = backup.header().generation;
  if (root.generation == generation) return true;
  on_problem({name, 0,
              fmt::format("its file has generation {}, but its description says {}", generation, root.generation),
              kAdvice});
  return false;
}

// Reads the backup's pages and writes each to its original location. TreeCheck compares their
// checksums afterwards. TreeCheck takes every failed Read for a damaged page, so a write that fails
// stops the walk: a full disk says nothing about the backup.
class CopiedPages final : public PageSource {
 public:
  CopiedPages(PageSource* from, File* to, CopiedTree* walk) : from_(from), to_(to), walk_(walk) {}
  Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) override {
    CO_RETURN_IF_ERROR(co_await from_->Read(extent, checksum, bytes));
    // The walk and the file outlive this read, because the walk waits for all of its reads.
    Status written = co_await to_->Write(bytes, extent.size_bytes(), extent.offset_bytes());
    walk_->Stop(written);
    co_return written;
  }

 private:
  PageSource* const from_;
  File* const to_;
  CopiedTree* const walk_;
};

Task<Status> RestoreInto(Reactor* reactor, BackupReader* backup, SnapshotRoot root, PartitionFileOptions options,
                         BackupProgress on_progress, File* file) {
  if (backup->header().partition != options.partition || backup->header().page_bytes != options.page_bytes ||
      backup->header().seal_bytes != options.seal_bytes) {
    co_return Error(Code::kInvalidArgument,
                    "{}: the backup file belongs to another partition or has pages of another size; use the right "
                    "backup",
                    options.path);
  }
  CO_RETURN_IF_ERROR(co_await file->Truncate(0));
  CO_RETURN_IF_ERROR(co_await file->Truncate(root.file_blocks * kBlockBytes));
  Status first;
  auto on_problem = [&first](CheckProblem p) {
    if (first.ok())
      first = Error(Code::kCorruption, "{} at offset {}: {}; {}", p.file, p.offset_bytes, p.what, p.advice);
  };
  CopiedTree tree(*reactor, FormOf(*backup), RootOf(*backup, root), options.path, kAdvice, on_problem,
                  std::move(on_progress));
  CopiedPages copied(backup, file, &tree);
  if (CheckGeneration(*backup, root, options.path, on_problem)) co_await tree.Walk(&copied);
  CO_RETURN_IF_ERROR(first);
  CO_RETURN_IF_ERROR(tree.stopped());
  co_return co_await tree.WriteMetadata(file, options);
}

}  // namespace

Task<Result<TreeCheckCounts>> CheckBackup(Reactor& reactor, BackupReader* backup, SnapshotRoot root, std::string name,
                                          BackupProblem on_problem, BackupProgress on_progress) {
  const bool described = CheckGeneration(*backup, root, name, on_problem);
  CopiedTree tree(reactor, FormOf(*backup), RootOf(*backup, root), std::move(name), kAdvice, std::move(on_problem),
                  std::move(on_progress));
  if (described) co_await tree.Walk(backup);
  CO_RETURN_IF_ERROR(tree.stopped());
  co_return tree.counts();
}

Task<Status> RestorePartitionFile(Reactor& reactor, BackupReader* backup, SnapshotRoot root,
                                  PartitionFileOptions options, BackupProgress on_progress) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, options.path, File::Mode::kCreate, /*direct=*/true));
  Status status = co_await RestoreInto(&reactor, backup, root, options, std::move(on_progress), &file);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando
