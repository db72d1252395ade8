#include "src/backup/install.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "src/backup/copied_tree.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page_store.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {

constexpr size_t kWritesInFlight = 16;
// At the same time, when the tree is walked. Each may read a value.
constexpr size_t kReadsInFlight = 4;
constexpr uint64_t kReadBytes = kReadsInFlight * (kMaxValueBytes + 3 * uint64_t{kMaxPageBytes});
// A sender that is wrong about the size of its file must not take all memory: 8 TiB.
constexpr uint64_t kMaxFileBlocks = 1u << 31;
// No partition counts so far, and whoever goes on counting from there never comes to an end.
constexpr uint64_t kMaxCount = uint64_t{1} << 47;
constexpr uint8_t kMaxLevel = 64;
constexpr char kAdvice[] = "the sender must send the snapshot again, or be checked";

// Returns what is impossible about a root, or "".
std::string ImpossibleIn(const SnapshotRoot& root) {
  if (root.file_blocks < kSuperblockBlocks || root.file_blocks > kMaxFileBlocks) {
    return fmt::format("the sender's file is said to have {} blocks", root.file_blocks);
  }
  if (root.epoch == 0 || root.epoch > kMaxCount) return fmt::format("the epoch is said to be {}", root.epoch);
  if (root.lsn > kMaxCount) return fmt::format("the LSN is said to be {}", root.lsn);
  if (root.lsn == 0 && (root.root.count > 0 || root.chain != 0)) {
    return fmt::format("it is said to have {} records, but LSN 0", root.root.count);
  }
  if (root.generation == 0 || root.generation > kMaxCount) {
    return fmt::format("the generation is said to be {}", root.generation);
  }
  if (root.next_page_id == 0 || root.next_page_id > kMaxCount) {
    return fmt::format("the number of the next page is said to be {}", root.next_page_id);
  }
  if (root.root_level > kMaxLevel) return fmt::format("the tree is said to have {} levels", root.root_level);
  if ((root.last_version >> kVersionCounterBits) > kMaxCount) {
    return fmt::format("the newest record is said to have version {}", root.last_version);
  }
  return "";
}

// What the installation of a file of so many blocks takes.
int64_t MemoryBytes(uint64_t blocks) {
  return static_cast<int64_t>(kReadBytes + blocks / 8 + CopiedTree::MemoryBytes(blocks));
}

class Installer {
 public:
  Installer(Reactor& reactor, SnapshotRoot root, TreeForm form, PartitionFileOptions options, File* file,
            MemoryBudget* memory)
      : reactor_(reactor),
        root_(std::move(root)),
        form_(form),
        options_(std::move(options)),
        file_(file),
        memory_(memory) {}
  ~Installer() {
    if (memory_ != nullptr) memory_->Release(reserved_bytes_);
  }

  Task<Status> Run(SnapshotPages* pages) {
    CO_RETURN_IF_ERROR(Reserve());
    CO_RETURN_IF_ERROR(co_await file_->Truncate(0));
    CO_RETURN_IF_ERROR(co_await file_->Truncate(root_.file_blocks * kBlockBytes));
    CO_RETURN_IF_ERROR(co_await TakeSnapshot(pages));
    for (;;) {
      CO_ASSIGN_OR_RETURN(std::optional<SnapshotRoot> newer, co_await pages->Newer());
      if (!newer) break;
      CO_RETURN_IF_ERROR(Replace(*std::move(newer)));
      CO_RETURN_IF_ERROR(co_await file_->Truncate(root_.file_blocks * kBlockBytes));
      CO_RETURN_IF_ERROR(co_await TakeSnapshot(pages));
    }
    co_return co_await VerifyAll();
  }

 private:
  Status Reserve() {
    const int64_t bytes = MemoryBytes(root_.file_blocks), more = std::max<int64_t>(bytes - reserved_bytes_, 0);
    if (memory_ != nullptr && !memory_->TryReserve(more)) {
      return Error(
          Code::kOverloaded,
          "{}: a partition in a file of {} bytes needs {} bytes of memory to be installed, and the node has no "
          "memory for that now: try again, or raise --memory_limit_mb",
          options_.path, root_.file_blocks * kBlockBytes, bytes);
    }
    reserved_bytes_ += more;
    return Status();
  }

  // The next pages are those of this snapshot that the last one does not have.
  Status Replace(SnapshotRoot newer) {
    std::string impossible = ImpossibleIn(newer);
    if (newer.partition != root_.partition || newer.generation <= root_.generation || newer.lsn < root_.lsn ||
        newer.epoch < root_.epoch || newer.file_blocks < root_.file_blocks) {
      impossible = fmt::format("the snapshot of generation {} is said to be newer than that of {}", newer.generation,
                               root_.generation);
    }
    if (!impossible.empty()) return Error(Code::kCorruption, "{}: {}; {}", options_.path, impossible, kAdvice);
    root_ = std::move(newer);
    replaced_ = true;
    return Reserve();
  }

  Task<Status> TakeSnapshot(SnapshotPages* pages) {
    came_.assign(root_.file_blocks, false);
    for (bool exhausted = false; !exhausted;) {
      CO_ASSIGN_OR_RETURN(PageBatch batch, co_await pages->Next());
      exhausted = batch.exhausted;
      CO_RETURN_IF_ERROR(co_await Write(&batch));
    }
    co_return Status();
  }

  Status Refuse(const PageImage& image, std::string_view what) const {
    const Extent at = image.location;
    return Error(Code::kCorruption, "{}: the page of {} bytes that was sent for block {} {}; {}", options_.path,
                 image.bytes.size(), at.block(), what, kAdvice);
  }

  Status Check(const PageImage& image) {
    const Extent at = image.location;
    const bool inside = !at.empty() && at.block() >= kSuperblockBlocks && at.block() + at.blocks() <= root_.file_blocks;
    if (!inside || image.bytes.size() != at.size_bytes()) return Refuse(image, "does not fit there");
    if (Hash64(image.bytes, ChecksumSeed(root_.partition, at.block())) != image.checksum) {
      return Refuse(image, "fails its checksum");
    }
    for (uint64_t b = at.block(); b < at.block() + at.blocks(); ++b) {
      if (came_[b]) return Refuse(image, "comes a second time, or another one has come for the same place");
      came_[b] = true;
    }
    blocks_came_ += at.blocks();
    return Status();
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
    CopiedTree tree(reactor_, form_, root_, options_.path, kAdvice, on_problem, nullptr, kReadsInFlight);
    FilePages written(file_);
    co_await tree.Walk(&written);
    CO_RETURN_IF_ERROR(first);
    CO_RETURN_IF_ERROR(tree.stopped());
    // Of what an earlier snapshot had, the newest may have no use.
    if (replaced_ ? tree.counts().blocks > blocks_came_ : tree.counts().blocks != blocks_came_) {
      co_return Error(Code::kCorruption, "{}: {} blocks were sent, but the tree has {}; {}", options_.path,
                      blocks_came_, tree.counts().blocks, kAdvice);
    }
    co_return co_await tree.WriteMetadata(file_, options_);
  }

  Reactor& reactor_;
  SnapshotRoot root_;
  const TreeForm form_;
  const PartitionFileOptions options_;
  File* const file_;
  MemoryBudget* const memory_;
  int64_t reserved_bytes_ = 0;
  bool replaced_ = false;   // by a newer snapshot
  std::vector<bool> came_;  // by block, of the newest snapshot
  uint64_t blocks_came_ = 0;
};

Task<Status> InstallInto(Reactor* reactor, SnapshotPages* pages, SnapshotRoot root, TreeForm form, MemoryBudget* memory,
                         PartitionFileOptions options) {
  CO_ASSIGN_OR_RETURN(File file, co_await OpenNewPartitionFile(*reactor, options));
  Installer installer(*reactor, std::move(root), form, std::move(options), &file, memory);
  Status status = co_await installer.Run(pages);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace

Task<Status> InstallPartitionFile(Reactor& reactor, SnapshotPages* pages, SnapshotRoot root, TreeForm form,
                                  MemoryBudget* memory, PartitionFileOptions options) {
  CHECK(root.partition == options.partition) << "the pages of a partition are valid only with its UUID";
  CHECK(form.checks_keys) << "IN2";
  if (const std::string impossible = ImpossibleIn(root); !impossible.empty()) {
    co_return Error(Code::kCorruption, "{}: {}; {}", options.path, impossible, kAdvice);
  }
  co_return co_await InstallInto(&reactor, pages, std::move(root), form, memory, std::move(options));
}

}  // namespace pando
