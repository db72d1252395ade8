#include "src/backup/restore.h"

#include <algorithm>
#include <cstring>

#include "src/base/hash.h"
#include "src/partition/meta_chain.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 32;

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

  // Ends the walk before its end. Later problems are not reported.
  void Stop(Status why) {
    if (stopped_.ok()) stopped_ = std::move(why);
  }
  // OK if the walk reached its end.
  const Status& stopped() const { return stopped_; }

  Task<void> Run(PageSource* pages) {
    if (root_.generation != header_.generation) {
      OnProblem(
          0,
          fmt::format("its file has generation {}, but its description says {}", header_.generation, root_.generation),
          "use another backup");
      co_return;
    }
    TreeCheck::Options options;
    options.reactor = &reactor_;
    options.pages = pages;
    options.partition = header_.partition;
    options.usable_bytes = UsablePageBytes(header_.page_bytes, header_.seal_bytes);
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
    if (on_progress_) Stop(on_progress_(read_blocks_));
    co_return stopped_.ok();
  }
  bool OnExtent(Extent extent, std::string_view owner) override {
    bool sound = !extent.empty() && extent.block() + extent.blocks() <= root_.file_blocks;
    for (uint64_t b = extent.block(); sound && b < extent.block() + extent.blocks(); ++b) sound = !blocks_.IsUsed(b);
    if (sound) {
      blocks_.MarkUsed(extent);
    } else {
      OnProblem(extent.offset_bytes(),
                fmt::format("{}: its blocks lie outside the partition or belong to something else too", owner),
                "use another backup");
    }
    return sound;
  }
  void OnProblem(uint64_t offset_bytes, std::string what, std::string_view) override {
    if (!stopped_.ok()) return;
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
  Status stopped_;
};

// Reads the backup's pages and writes each to its original location. TreeCheck compares their
// checksums afterwards. TreeCheck takes every failed Read for a damaged page, so a write that fails
// stops the walk: a full disk says nothing about the backup.
class CopiedPages final : public PageSource {
 public:
  CopiedPages(PageSource* from, File* to, BackupWalk* walk) : from_(from), to_(to), walk_(walk) {}
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
  BackupWalk* const walk_;
};

// Fills both slots with the snapshot's generation and the one after it, as if a second checkpoint
// had found nothing to do. With a single slot, one damaged superblock could make the restored
// partition unreadable.
void FillSlots(Superblock* sb, AlignedBuffer* slots) {
  for (const Generation generation : {sb->generation, sb->generation + 1}) {
    sb->generation = generation;
    char* slot = slots->data() + generation % 2 * (2 * kBlockBytes);
    for (int copy = 0; copy < 2; ++copy) EncodeSuperblock(*sb, slot + copy * kBlockBytes);
  }
}

// Chunks that are entirely free stay holes. They may be holes in the file that was backed up, and
// the next start assumes that they are. Space for the other chunks is allocated now, so that later
// writes do not find the disk full.
Task<Status> HoldChunksInUse(File* file, const ExtentAllocator& blocks) {
  constexpr uint64_t kChunk = ExtentAllocator::kChunkBlocks;
  uint64_t from = 0;  // start of the run of chunks that are in use but not allocated yet
  for (uint64_t at = 0; at < blocks.total_blocks(); at += kChunk) {
    const uint64_t end = std::min(at + kChunk, blocks.total_blocks());
    bool used = end - at < kChunk;
    for (uint64_t b = at; b < end && !used; ++b) used = blocks.IsUsed(b);
    if (used && end < blocks.total_blocks()) continue;
    const uint64_t to = used ? end : at;
    if (to > from) CO_RETURN_IF_ERROR(co_await file->Allocate(from * kBlockBytes, (to - from) * kBlockBytes));
    from = end;
  }
  co_return Status();
}

// The pages may fill the file, so it grows at its end. (This may begin another group, whose bitmap
// counts too.)
Task<Status> MakeRoomForMetadata(File* file, ExtentAllocator* blocks) {
  const uint64_t old_blocks = blocks->total_blocks();
  const uint64_t groups = blocks->group_count() + 1;
  const uint64_t step = groups + MetaBlocksFor(groups);
  CO_RETURN_IF_ERROR(co_await file->Allocate(old_blocks * kBlockBytes, step * kBlockBytes));
  blocks->Grow(old_blocks + step);
  co_return Status();
}

// Writes the bitmaps, the group directory, and the superblocks for the pages that are in `file`
// already.
Task<Status> WriteMetadata(Reactor* reactor, File* file, ExtentAllocator* blocks, SnapshotRoot root,
                           PartitionFileOptions options) {
  CO_RETURN_IF_ERROR(co_await MakeRoomForMetadata(file, blocks));
  std::vector<GroupEntry> groups(blocks->group_count());
  std::vector<Extent> pieces(MetaBlocksFor(groups.size())), bitmaps(groups.size());
  for (Extent& piece : pieces) piece = *blocks->Allocate(1);
  for (Extent& bitmap : bitmaps) bitmap = *blocks->Allocate(1);
  CO_RETURN_IF_ERROR(co_await HoldChunksInUse(file, *blocks));
  std::vector<MetaWrite> writes;
  for (uint32_t g = 0; g < groups.size(); ++g) {
    AlignedBuffer bytes(kBlockBytes);
    blocks->EncodeGroup(g, bytes.data());
    groups[g] = {bitmaps[g].block(), MetaChecksum(options.partition, bitmaps[g], bytes.data())};
    writes.push_back({bitmaps[g], std::move(bytes)});
  }
  TurnBudget turn(*reactor);
  const MetaRef directory =
      co_await EncodeMetaChain(*reactor, turn, options.partition, groups.data(), groups.size(), pieces, &writes);
  CO_RETURN_IF_ERROR(co_await WriteMetadata(file, std::move(writes)));
  CO_RETURN_IF_ERROR(co_await file->Sync(/*data_only=*/false));

  Superblock sb;
  sb.page_bytes = options.page_bytes;
  sb.LeaveSeal(options.seal_bytes);
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
  sb.groups = directory;
  AlignedBuffer slots(kSuperblockBlocks * kBlockBytes);
  FillSlots(&sb, &slots);
  CO_RETURN_IF_ERROR(co_await file->Write(slots.data(), slots.size(), 0));
  co_return co_await file->Sync(/*data_only=*/false);
}

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
  BackupWalk walk(*reactor, *backup, root, options.path, on_problem, std::move(on_progress));
  CopiedPages copied(backup, file, &walk);
  co_await walk.Run(&copied);
  CO_RETURN_IF_ERROR(first);
  CO_RETURN_IF_ERROR(walk.stopped());
  co_return co_await WriteMetadata(reactor, file, &walk.blocks(), root, options);
}

}  // namespace

Task<Result<TreeCheckCounts>> CheckBackup(Reactor& reactor, BackupReader* backup, SnapshotRoot root, std::string name,
                                          BackupProblem on_problem, BackupProgress on_progress) {
  BackupWalk walk(reactor, *backup, root, std::move(name), std::move(on_problem), std::move(on_progress));
  co_await walk.Run(backup);
  CO_RETURN_IF_ERROR(walk.stopped());
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
