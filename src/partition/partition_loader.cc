#include "src/partition/partition_loader.h"

#include <algorithm>
#include <cstring>

#include "src/btree/tree.h"
#include "src/partition/meta_chain.h"

namespace pando {
namespace {

constexpr size_t kBitmapReads = 32;  // in flight

// The state of one load. It lives in the frame of LoadPartition, which waits for everything below.
class Loader {
 public:
  Loader(Reactor& reactor, TurnBudget& turn, File* file, const PartitionFileOptions& options,
         std::vector<MetaDamage>* damage)
      : reactor_(reactor), turn_(turn), file_(file), options_(options), damage_(damage) {}

  Task<Status> Run();
  LoadedPartition loaded;

 private:
  Status CheckSuperblock(uint64_t file_bytes) const;
  Status Damaged(uint64_t offset_bytes, Status status);
  MetaChainReader ChainReader() const {
    return MetaChainReader(file_, options_.partition, loaded.superblock.format, file_blocks_);
  }
  Task<void> LoadGroups();
  Task<void> LoadBitmaps(uint32_t* next);
  Task<void> LoadDeadList();
  Task<Status> CheckDeadList();

  Reactor& reactor_;
  TurnBudget& turn_;
  File* const file_;
  const PartitionFileOptions& options_;
  std::vector<MetaDamage>* const damage_;
  uint64_t file_blocks_ = 0;  // at least as many as the superblock says
  Status groups_status_, dead_status_;
  std::vector<Extent> dead_pieces_;
};

// Handles damage to the metadata at `offset_bytes`: records it for the checker, or returns `status`
// so that the open fails.
Status Loader::Damaged(uint64_t offset_bytes, Status status) {
  if (!damage_ || status.ok()) return status;
  damage_->push_back({offset_bytes, status.message()});
  return Status();
}

Status Loader::CheckSuperblock(uint64_t file_bytes) const {
  const Superblock& sb = loaded.superblock;
  const std::string& path = options_.path;
  if (sb.partition != options_.partition || sb.node != options_.node) {
    return Error(Code::kCorruption,
                 "{}: belongs to partition {} of node {}, not to partition {} of node {}; restore it from a backup",
                 path, sb.partition.ToString(), sb.node.ToString(), options_.partition.ToString(),
                 options_.node.ToString());
  }
  if (sb.page_bytes != options_.page_bytes) {
    return Error(Code::kCorruption,
                 "{}: has pages of {} bytes, but the store has pages of {} bytes; restore it from a backup", path,
                 sb.page_bytes, options_.page_bytes);
  }
  if (sb.seal_bytes != options_.seal_bytes) {
    return Error(Code::kCorruption,
                 "{}: leaves {} bytes of each page for a seal, but the store leaves {}; restore it from a backup", path,
                 sb.seal_bytes, options_.seal_bytes);
  }
  if (sb.root_level >= kMaxTreeHeight) {
    return Error(Code::kCorruption, "{}: its root has level {}, but levels are below {}; restore it from a backup",
                 path, sb.root_level, kMaxTreeHeight);
  }
  if (sb.group_blocks != ExtentAllocator::kGroupBlocks) {
    return Error(Code::kVersion,
                 "{}: has allocation groups of {} blocks, but this build reads {}; use the version that wrote it", path,
                 sb.group_blocks, ExtentAllocator::kGroupBlocks);
  }
  if (file_bytes / kBlockBytes < sb.file_blocks) {
    return Error(Code::kCorruption,
                 "{}: truncated to {} bytes, but the superblock says {} bytes; restore it from a backup", path,
                 file_bytes, sb.file_blocks * kBlockBytes);
  }
  return Status();
}

Task<Status> Loader::Run() {
  const std::string& path = options_.path;
  CO_ASSIGN_OR_RETURN(uint64_t bytes, file_->Size());
  if (bytes < kSuperblockBlocks * kBlockBytes) {
    co_return Error(Code::kCorruption, "{}: {} bytes long, too short for its superblocks; restore it from a backup",
                    path, bytes);
  }
  AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
  CO_RETURN_IF_ERROR(co_await file_->Read(head.data(), head.size(), 0));
  CO_ASSIGN_OR_RETURN(loaded.superblock, ChooseSuperblock({head.data(), head.size()}, path, &loaded.older_lsn));
  CO_RETURN_IF_ERROR(CheckSuperblock(bytes));
  file_blocks_ = bytes / kBlockBytes;
  loaded.allocator.Grow(loaded.superblock.file_blocks);
  // The chains do not depend on each other, and this start may wait for thousands of partitions.
  TaskGroup reads;
  reads.Spawn(LoadGroups());
  reads.Spawn(LoadDeadList());
  co_await reads.Drain();
  CO_RETURN_IF_ERROR(groups_status_);
  CO_RETURN_IF_ERROR(dead_status_);
  loaded.pieces.insert(loaded.pieces.end(), dead_pieces_.begin(), dead_pieces_.end());
  // With a damaged bitmap it is unknown which blocks are in use.
  if (!damage_ || damage_->empty()) {
    CO_RETURN_IF_ERROR(Damaged(loaded.superblock.dead.location.offset_bytes(), co_await CheckDeadList()));
  }
  // Blocks that the file grew by after that checkpoint are free, whatever the bitmap says about
  // blocks beyond its end.
  loaded.allocator.Grow(file_blocks_);
  co_return Status();
}

Task<void> Loader::LoadGroups() {
  loaded.groups.resize(loaded.allocator.group_count());
  MetaChainReader reader = ChainReader();
  uint64_t damaged_at = 0;
  Result<std::vector<char>> directory = co_await reader.Read(loaded.superblock.groups, loaded.groups.size(),
                                                             "group directory", &loaded.pieces, &damaged_at);
  if (directory.ok() && directory->empty()) {
    damaged_at = 0;
    directory = Error(Code::kCorruption, "{}: the superblock names no group directory", options_.path);
  }
  if (!directory.ok()) {
    groups_status_ = Damaged(damaged_at, directory.TakeStatus());
    co_return;
  }
  std::memcpy(static_cast<void*>(loaded.groups.data()), directory->data(), directory->size());
  TaskGroup readers;
  uint32_t next = 0;
  const size_t groups = loaded.superblock.groups.entries;
  for (size_t i = 0; i < std::min(kBitmapReads, groups); ++i) readers.Spawn(LoadBitmaps(&next));
  co_await readers.Drain();
}

// One of several tasks that share *next.
Task<void> Loader::LoadBitmaps(uint32_t* next) {
  MetaChainReader reader = ChainReader();
  while (*next < loaded.superblock.groups.entries && groups_status_.ok()) {
    const uint32_t g = (*next)++;
    if (loaded.groups[g].block == 0) continue;
    const Extent at = Extent::Of(loaded.groups[g].block, 1);
    Result<AlignedBuffer> bitmap = co_await reader.ReadExtent(at, loaded.groups[g].checksum, "allocation bitmap");
    if (bitmap.ok()) {
      loaded.allocator.LoadGroup(g, bitmap->data());
    } else {
      Status status = Damaged(at.offset_bytes(), bitmap.TakeStatus());
      if (!status.ok()) groups_status_ = std::move(status);
    }
  }
}

Task<void> Loader::LoadDeadList() {
  const Superblock& sb = loaded.superblock;
  if (sb.dead.location.empty()) co_return;
  MetaChainReader reader = ChainReader();
  uint64_t damaged_at = 0;
  // Each entry names at least one block of the file, and no block twice, so this bounds the number
  // of entries.
  Result<std::vector<char>> dead =
      co_await reader.Read(sb.dead, sb.file_blocks, "dead list", &dead_pieces_, &damaged_at);
  if (!dead.ok()) {
    dead_status_ = Damaged(damaged_at, dead.TakeStatus());
    co_return;
  }
  loaded.dead.resize(sb.dead.entries);
  if (!loaded.dead.empty()) std::memcpy(static_cast<void*>(loaded.dead.data()), dead->data(), dead->size());
}

// The extents of the dead list will be freed. Each must lie inside the file, be in use, and be
// listed only once.
Task<Status> Loader::CheckDeadList() {
  const Superblock& sb = loaded.superblock;
  auto wrong = [this](Extent extent, std::string_view what) {
    return Error(Code::kCorruption,
                 "{}: the dead list at offset {} names blocks {} to {}, {}; restore it from a backup", options_.path,
                 loaded.superblock.dead.location.offset_bytes(), extent.block(), extent.block() + extent.blocks() - 1,
                 what);
  };
  if (loaded.dead.empty()) co_return Status();
  std::vector<bool> named(sb.file_blocks);
  std::fill_n(named.begin(), kSuperblockBlocks, true);
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : loaded.dead) {
    const Extent extent = dead.extent;
    const uint64_t end = extent.block() + extent.blocks();
    if (extent.empty() || end > sb.file_blocks) co_return wrong(extent, "outside the file");
    for (uint64_t b = extent.block(); b < end; ++b) {
      if (named[b]) co_return wrong(extent, "which belong to the superblocks or are listed twice");
      if (!loaded.allocator.IsUsed(b)) co_return wrong(extent, "which are not in use");
      named[b] = true;
    }
    if (slice.Spend(1 + extent.blocks() / 8)) co_await Yield(reactor_);
  }
  co_return Status();
}

}  // namespace

Task<Result<LoadedPartition>> LoadPartition(Reactor& reactor, TurnBudget& turn, File* file,
                                            const PartitionFileOptions& options, std::vector<MetaDamage>* damage) {
  Loader loader(reactor, turn, file, options, damage);
  CO_RETURN_IF_ERROR(co_await loader.Run());
  co_return std::move(loader.loaded);
}

}  // namespace pando
