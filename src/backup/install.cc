#include "src/backup/install.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "src/backup/copied_tree.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page_store.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {

constexpr size_t kWritesInFlight = 16;
// A sender that is wrong about the size of its file must not take all memory: 8 TiB.
constexpr uint64_t kMaxFileBlocks = 1u << 31;
constexpr char kAdvice[] = "the sender must send the snapshot again, or be checked";

class Installer {
 public:
  Installer(Reactor& reactor, SnapshotRoot root, PartitionFileOptions options, File* file)
      : reactor_(reactor), root_(std::move(root)), options_(std::move(options)), file_(file) {}

  Task<Status> Run(SnapshotPages* pages) {
    if (root_.file_blocks < kSuperblockBlocks || root_.file_blocks > kMaxFileBlocks) {
      co_return Error(Code::kCorruption, "{}: the sender's file is said to have {} blocks; {}", options_.path,
                      root_.file_blocks, kAdvice);
    }
    CO_RETURN_IF_ERROR(co_await file_->Truncate(0));
    CO_RETURN_IF_ERROR(co_await file_->Truncate(root_.file_blocks * kBlockBytes));
    for (bool exhausted = false; !exhausted;) {
      CO_ASSIGN_OR_RETURN(PageBatch batch, co_await pages->Next());
      exhausted = batch.exhausted;
      CO_RETURN_IF_ERROR(co_await Write(&batch));
    }
    co_return co_await VerifyAll();
  }

 private:
  Status Check(const PageImage& image) const {
    const Extent at = image.location;
    const bool inside = !at.empty() && at.block() >= kSuperblockBlocks && at.block() + at.blocks() <= root_.file_blocks;
    const bool whole = inside && image.bytes.size() == at.size_bytes();
    if (whole && Hash64(image.bytes, ChecksumSeed(root_.partition, at.block())) == image.checksum) return Status();
    return Error(Code::kCorruption, "{}: the page of {} bytes for offset {} that was sent {}; {}", options_.path,
                 image.bytes.size(), inside ? at.offset_bytes() : 0,
                 whole ? "fails its checksum" : "does not fit there", kAdvice);
  }

  Task<Status> Write(const PageBatch* batch) {
    Status status;
    size_t next = 0;
    TaskGroup writers;
    for (size_t i = 0; i < std::min(kWritesInFlight, batch->images.size()); ++i) {
      writers.Spawn(WriteNext(batch, &next, &status));
    }
    co_await writers.Drain();
    co_return status;
  }

  Task<void> WriteNext(const PageBatch* batch, size_t* next, Status* status) {
    while (*next < batch->images.size() && status->ok()) {
      const PageImage& image = batch->images[(*next)++];
      Status written = Check(image);
      if (written.ok()) {
        AlignedBuffer bytes(image.bytes.size());
        std::memcpy(bytes.data(), image.bytes.data(), image.bytes.size());
        written = co_await file_->Write(bytes.data(), bytes.size(), image.location.offset_bytes());
      }
      if (status->ok()) *status = std::move(written);
    }
  }

  // IN1.
  Task<Status> VerifyAll() {
    Status first;
    auto on_problem = [&first](CheckProblem p) {
      if (!first.ok()) return;
      first = Error(Code::kCorruption, "{} at offset {}: {}; {}", p.file, p.offset_bytes, p.what, p.advice);
    };
    CopiedTree tree(reactor_, {root_.partition, options_.page_bytes, options_.seal_bytes}, root_, options_.path,
                    kAdvice, on_problem, nullptr);
    FilePages written(file_);
    co_await tree.Walk(&written);
    CO_RETURN_IF_ERROR(first);
    CO_RETURN_IF_ERROR(tree.stopped());
    co_return co_await tree.WriteMetadata(file_, options_);
  }

  Reactor& reactor_;
  const SnapshotRoot root_;
  const PartitionFileOptions options_;
  File* const file_;
};

}  // namespace

Task<Status> InstallPartitionFile(Reactor& reactor, SnapshotPages* pages, SnapshotRoot root,
                                  PartitionFileOptions options) {
  CHECK(root.partition == options.partition) << "the pages of a partition are valid only with its UUID";
  CO_ASSIGN_OR_RETURN(File file, co_await OpenNewPartitionFile(reactor, options));
  Installer installer(reactor, std::move(root), std::move(options), &file);
  Status status = co_await installer.Run(pages);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando
