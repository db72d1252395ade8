#include "src/partition/restore.h"

#include <algorithm>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 32;

// The backup's pages, written to where they were as they are read. TreeCheck compares their checksums afterwards.
class CopiedPages final : public PageSource {
 public:
  CopiedPages(PageSource* from, File* to) : from_(from), to_(to) {}
  Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) override {
    CO_RETURN_IF_ERROR(co_await from_->Read(extent, checksum, bytes));
    co_return co_await to_->Write(bytes, extent.size_bytes(), extent.offset_bytes());
  }

 private:
  PageSource* const from_;
  File* const to_;
};

class BackupWalk final : private TreeCheckHost {
 public:
  BackupWalk(Reactor& reactor, const BackupReader& backup, const SnapshotRoot& root, std::string name,
             BackupProblem on_problem, BackupProgress on_progress)
      : reactor_(reactor),
        header_(backup.header()),
        root_(root),
        name_(std::move(name)),
        on_problem_(std::move(on_problem)),
        on_progress_(std::move(on_progress)),
        blocks_(root.file_blocks) {
    blocks_.MarkUsed(Extent::Of(0, kSuperblockBlocks));
  }

  Task<void> Run(PageSource* pages) {
    if (root_.generation != header_.generation) {
      OnProblem(
          0, fmt::format("its file is of generation {}, its description of {}", header_.generation, root_.generation),
          "use another backup");
      co_return;
    }
    TreeCheck::Options options;
    options.reactor = &reactor_;
    options.pages = pages;
    options.partition = header_.partition;
    options.page_bytes = header_.page_bytes;
    options.leaves_in_flight = kReadsInFlight;
    TreeCheck check(std::move(options), this);
    co_await check.Run(root_.root, root_.root_level, root_.generation);
    counts = check.counts();
  }

  TreeCheckCounts counts;
  ExtentAllocator& blocks() { return blocks_; }

 private:
  Task<bool> MayRead(uint64_t bytes) override {
    read_blocks_ += bytes / kBlockBytes;
    if (on_progress_) on_progress_(read_blocks_);
    co_return true;
  }
  bool OnExtent(Extent extent, std::string_view owner) override {
    bool sound = !extent.empty() && extent.block() + extent.blocks() <= root_.file_blocks;
    for (uint64_t b = extent.block(); sound && b < extent.block() + extent.blocks(); ++b) sound = !blocks_.IsUsed(b);
    if (sound) {
      blocks_.MarkUsed(extent);
    } else {
      OnProblem(extent.offset_bytes(),
                fmt::format("{}: its blocks lie outside the partition, or are something else's", owner),
                "use another backup");
    }
    return sound;
  }
  void OnProblem(uint64_t offset_bytes, std::string what, std::string_view) override {
    on_problem_({name_, offset_bytes, std::move(what), "use another backup, or a replica"});
  }

  Reactor& reactor_;
  const BackupHeader header_;
  const SnapshotRoot root_;
  const std::string name_;
  const BackupProblem on_problem_;
  const BackupProgress on_progress_;
  ExtentAllocator blocks_;
  uint64_t read_blocks_ = 0;
};

// Both slots, as two checkpoints in a row leave them of which the second found nothing to do: the snapshot's generation
// and the one after it. With a single slot a damaged superblock would be the end of the restored partition.
void FillSlots(Superblock* sb, AlignedBuffer* slots) {
  for (const Generation generation : {sb->generation, sb->generation + 1}) {
    sb->generation = generation;
    SealSuperblock(sb);
    char* slot = slots->data() + generation % 2 * (2 * kBlockBytes);
    for (int copy = 0; copy < 2; ++copy) std::memcpy(slot + copy * kBlockBytes, sb, sizeof(*sb));
  }
}

uint32_t DirectoryBlocks(size_t groups) {
  return static_cast<uint32_t>((groups * sizeof(GroupEntry) + kBlockBytes - 1) / kBlockBytes);
}

// The pages may fill the file, or leave no run that is long enough for the directory: then it grows by a run at its
// end.
Task<Status> MakeRoomForMetadata(File* file, ExtentAllocator* blocks) {
  const uint64_t old_blocks = blocks->total_blocks();
  // Growing may begin a further group, whose bitmap counts too; and no run crosses from one group into the next.
  const size_t groups = blocks->group_count() + 1;
  const uint64_t run = DirectoryBlocks(groups) + groups;
  const uint64_t left_in_group =
      (ExtentAllocator::kGroupBlocks - old_blocks % ExtentAllocator::kGroupBlocks) % ExtentAllocator::kGroupBlocks;
  const uint64_t step = run <= left_in_group ? run : left_in_group + run;
  CO_RETURN_IF_ERROR(co_await file->Allocate(old_blocks * kBlockBytes, step * kBlockBytes));
  blocks->Grow(old_blocks + step);
  co_return Status();
}

// Bitmaps, group directory and superblocks around the pages that are in `file` already.
Task<Status> WriteMetadata(File* file, ExtentAllocator* blocks, SnapshotRoot root, PartitionFileOptions options) {
  CO_RETURN_IF_ERROR(co_await MakeRoomForMetadata(file, blocks));
  std::vector<GroupEntry> groups(blocks->group_count());
  const uint64_t directory_bytes = groups.size() * sizeof(GroupEntry);
  const Extent directory_at = *blocks->Allocate(DirectoryBlocks(groups.size()));
  std::vector<Extent> bitmaps(groups.size());
  for (Extent& bitmap : bitmaps) bitmap = *blocks->Allocate(1);
  auto checksum_of = [&](Extent at, const AlignedBuffer& bytes) {
    return Hash64({bytes.data(), at.size_bytes()}, ChecksumSeed(options.partition, at.block()));
  };
  for (uint32_t g = 0; g < groups.size(); ++g) {
    AlignedBuffer bytes(kBlockBytes);
    blocks->EncodeGroup(g, bytes.data());
    groups[g] = {bitmaps[g].block(), checksum_of(bitmaps[g], bytes)};
    CO_RETURN_IF_ERROR(co_await file->Write(bytes.data(), kBlockBytes, bitmaps[g].offset_bytes()));
  }
  AlignedBuffer directory(directory_at.size_bytes());
  std::memcpy(directory.data(), groups.data(), directory_bytes);
  CO_RETURN_IF_ERROR(co_await file->Write(directory.data(), directory_at.size_bytes(), directory_at.offset_bytes()));
  CO_RETURN_IF_ERROR(co_await file->Sync(/*data_only=*/false));

  Superblock sb;
  sb.page_bytes = options.page_bytes;
  sb.node = options.node;
  sb.partition = options.partition;
  sb.generation = root.generation;
  sb.epoch = root.epoch;
  sb.checkpoint_lsn = root.lsn;
  sb.last_version = root.last_version;
  sb.next_page_id = root.next_page_id;
  sb.file_blocks = blocks->total_blocks();
  sb.root = root.root;
  sb.root_level = root.root_level;
  sb.group_blocks = ExtentAllocator::kGroupBlocks;
  sb.groups = {directory_at, checksum_of(directory_at, directory), groups.size()};
  AlignedBuffer slots(kSuperblockBlocks * kBlockBytes);
  FillSlots(&sb, &slots);
  CO_RETURN_IF_ERROR(co_await file->Write(slots.data(), slots.size(), 0));
  co_return co_await file->Sync(/*data_only=*/false);
}

Task<Status> RestoreInto(Reactor* reactor, BackupReader* backup, SnapshotRoot root, PartitionFileOptions options,
                         BackupProgress on_progress, File* file) {
  if (backup->header().partition != options.partition || backup->header().page_bytes != options.page_bytes) {
    co_return Error(Code::kInvalidArgument, "{}: the backup's file is of another partition, or has other pages",
                    options.path);
  }
  // All of it at once: what is not written reads as zeros, and later writes do not find the disk full.
  CO_RETURN_IF_ERROR(co_await file->Truncate(0));
  CO_RETURN_IF_ERROR(co_await file->Allocate(0, root.file_blocks * kBlockBytes));
  Status first;
  auto on_problem = [&first](CheckProblem p) {
    if (first.ok())
      first = Error(Code::kCorruption, "{} at offset {}: {}; {}", p.file, p.offset_bytes, p.what, p.advice);
  };
  BackupWalk walk(*reactor, *backup, root, options.path, on_problem, std::move(on_progress));
  CopiedPages copied(backup, file);
  co_await walk.Run(&copied);
  CO_RETURN_IF_ERROR(first);
  co_return co_await WriteMetadata(file, &walk.blocks(), root, options);
}

}  // namespace

Task<TreeCheckCounts> CheckBackup(Reactor& reactor, BackupReader* backup, SnapshotRoot root, std::string name,
                                  BackupProblem on_problem, BackupProgress on_progress) {
  BackupWalk walk(reactor, *backup, root, std::move(name), std::move(on_problem), std::move(on_progress));
  co_await walk.Run(backup);
  co_return walk.counts;
}

Task<Status> RestorePartitionFile(Reactor& reactor, BackupReader* backup, SnapshotRoot root,
                                  PartitionFileOptions options, BackupProgress on_progress) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, options.path, File::Mode::kCreate, /*direct=*/true));
  Status status = co_await RestoreInto(&reactor, backup, root, options, std::move(on_progress), &file);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando
