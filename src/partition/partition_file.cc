// PartitionFile: creation and opening. partition_space.cc has allocation, growth, and the return of
// space. partition_commit.cc has checkpoints.
#include "src/partition/partition_file.h"

#include <algorithm>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {
constexpr uint64_t kInitialBlocks = 256;  // 1 MiB
}  // namespace

Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options) {
  Result<File> opened = co_await File::Open(reactor, options.path, File::Mode::kCreate, /*direct=*/true);
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  // Superblocks, one empty leaf, the bitmap of group 0, and the group directory in one piece.
  constexpr uint64_t kLeafBlock = kSuperblockBlocks, kBitmapBlock = kLeafBlock + 1, kDirectoryBlock = kLeafBlock + 2;
  AlignedBuffer image((kDirectoryBlock + 1) * kBlockBytes);
  std::vector<char> page(options.page_bytes), scratch(options.page_bytes);
  AlignedBuffer leaf(options.page_bytes);
  Node::Format(page.data(), options.page_bytes, 0, {}, nullptr, /*page_id=*/1, /*birth=*/1);
  EncodePageImage(page.data(), options.page_bytes, Compression::kNone, leaf.data(), scratch.data());
  std::memcpy(image.data() + kLeafBlock * kBlockBytes, leaf.data(), kBlockBytes);

  ExtentAllocator allocator(kInitialBlocks);
  allocator.MarkUsed(Extent::Of(0, kDirectoryBlock + 1));
  char* bitmap = image.data() + kBitmapBlock * kBlockBytes;
  std::memcpy(bitmap, allocator.GroupBitmap(0).data(), kBlockBytes);
  auto checksum_at = [&](uint64_t block) {
    return MetaChecksum(options.partition, Extent::Of(block, 1), image.data() + block * kBlockBytes);
  };
  const GroupEntry entry{kBitmapBlock, checksum_at(kBitmapBlock)};
  const Extent directory = Extent::Of(kDirectoryBlock, 1);
  std::vector<MetaWrite> chain;
  TurnBudget turn(reactor);
  const MetaRef groups = co_await EncodeMetaChain(reactor, turn, options.partition, &entry, 1, {&directory, 1}, &chain);
  std::memcpy(image.data() + kDirectoryBlock * kBlockBytes, chain[0].bytes.data(), kBlockBytes);

  Superblock sb;
  sb.page_bytes = options.page_bytes;
  sb.node = options.node;
  sb.partition = options.partition;
  sb.generation = 1;
  sb.epoch = 1;
  sb.next_page_id = 2;
  sb.file_blocks = kInitialBlocks;
  sb.root.location = Extent::Of(kLeafBlock, 1);
  sb.root.birth = 1;
  sb.root.checksum = checksum_at(kLeafBlock);
  sb.group_blocks = ExtentAllocator::kGroupBlocks;
  sb.groups = groups;
  SealSuperblock(&sb);
  uint32_t slot = sb.generation % 2;
  for (uint32_t copy = 0; copy < 2; ++copy)
    std::memcpy(image.data() + (slot * 2 + copy) * kBlockBytes, &sb, sizeof(sb));

  Status status = co_await file.Truncate(0);
  if (status.ok()) status = co_await file.Allocate(0, kInitialBlocks * kBlockBytes);
  if (status.ok()) status = co_await file.Write(image.data(), image.size(), 0);
  if (status.ok()) status = co_await file.Sync(/*data_only=*/false);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

Task<Result<std::unique_ptr<PartitionFile>>> PartitionFile::Open(Reactor& reactor, PartitionFileOptions options,
                                                                 bool read_only, std::vector<MetaDamage>* damage) {
  std::unique_ptr<PartitionFile> self(new PartitionFile(reactor, std::move(options)));
  self->damage_ = damage;
  const File::Mode mode = read_only ? File::Mode::kRead : File::Mode::kReadWrite;
  if (const PartitionFileOptions& o = self->options_; o.store != nullptr) {
    CO_ASSIGN_OR_RETURN(self->file_, co_await o.store->OpenFile(o.name, mode, /*direct=*/true));
  } else {
    CO_ASSIGN_OR_RETURN(self->file_, co_await File::Open(reactor, o.path, mode, /*direct=*/true));
  }
  Status status = co_await self->Load();
  if (!status.ok()) {
    Status closed = co_await self->file_.Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return status;
  }
  // An earlier process may have returned free blocks to the file system as holes.
  if (!read_only) self->allocator_.SetAsideFreeChunks();
  self->damage_ = nullptr;
  co_return self;
}

// Handles damage to the metadata at `offset_bytes`: records it for the checker, or returns `status`
// so that the open fails.
Status PartitionFile::Damaged(uint64_t offset_bytes, Status status) {
  if (!damage_ || status.ok()) return status;
  damage_->push_back({offset_bytes, status.message()});
  return Status();
}

Task<Status> PartitionFile::Load() {
  const std::string& path = options_.path;
  CO_ASSIGN_OR_RETURN(uint64_t bytes, file_.Size());
  if (bytes < kSuperblockBlocks * kBlockBytes) {
    co_return Error(Code::kCorruption, "{}: {} bytes long, too short for its superblocks; restore it from a backup",
                    path, bytes);
  }
  AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
  CO_RETURN_IF_ERROR(co_await file_.Read(head.data(), head.size(), 0));
  CO_ASSIGN_OR_RETURN(superblock_, ChooseSuperblock({head.data(), head.size()}, path, &older_lsn_));
  if (superblock_.partition != options_.partition || superblock_.node != options_.node) {
    co_return Error(Code::kCorruption,
                    "{}: belongs to partition {} of node {}, not to partition {} of node {}; restore it from a backup",
                    path, superblock_.partition.ToString(), superblock_.node.ToString(), options_.partition.ToString(),
                    options_.node.ToString());
  }
  if (superblock_.page_bytes != options_.page_bytes) {
    co_return Error(Code::kCorruption,
                    "{}: has pages of {} bytes, but the store has pages of {} bytes; restore it from a backup", path,
                    superblock_.page_bytes, options_.page_bytes);
  }
  if (superblock_.root_level >= kMaxTreeHeight) {
    co_return Error(Code::kCorruption, "{}: its root has level {}, but levels are below {}; restore it from a backup",
                    path, superblock_.root_level, kMaxTreeHeight);
  }
  if (superblock_.group_blocks != ExtentAllocator::kGroupBlocks) {
    co_return Error(Code::kVersion,
                    "{}: has allocation groups of {} blocks, but this build reads {}; use the version that wrote it",
                    path, superblock_.group_blocks, ExtentAllocator::kGroupBlocks);
  }
  if (bytes / kBlockBytes < superblock_.file_blocks) {
    co_return Error(Code::kCorruption,
                    "{}: truncated to {} bytes, but the superblock says {} bytes; restore it from a backup", path,
                    bytes, superblock_.file_blocks * kBlockBytes);
  }
  frozen_generation_ = superblock_.generation;
  allocator_.Grow(superblock_.file_blocks);
  CO_RETURN_IF_ERROR(co_await LoadGroups());
  // Blocks that the file grew by after that checkpoint are free, whatever the bitmap says about
  // blocks beyond its end.
  allocator_.Grow(bytes / kBlockBytes);
  co_return co_await LoadDeadList();
}

MetaChainReader PartitionFile::ChainReader() {
  return MetaChainReader(&file_, options_.partition, superblock_.format, allocator_.total_blocks());
}

Task<Status> PartitionFile::LoadGroups() {
  groups_.resize(allocator_.group_count());
  MetaChainReader reader = ChainReader();
  uint64_t damaged_at = 0;
  Result<std::vector<char>> directory =
      co_await reader.Read(superblock_.groups, groups_.size(), "group directory", &pieces_, &damaged_at);
  if (!directory.ok()) co_return Damaged(damaged_at, directory.TakeStatus());
  if (directory->empty()) {
    co_return Damaged(0, Error(Code::kCorruption, "{}: the superblock names no group directory", options_.path));
  }
  std::memcpy(static_cast<void*>(groups_.data()), directory->data(), directory->size());
  for (uint32_t g = 0; g < superblock_.groups.entries; ++g) {
    if (groups_[g].block == 0) continue;
    const Extent at = Extent::Of(groups_[g].block, 1);
    Result<AlignedBuffer> bitmap = co_await reader.ReadExtent(at, groups_[g].checksum, "allocation bitmap");
    if (bitmap.ok()) {
      allocator_.LoadGroup(g, bitmap->data());
    } else {
      CO_RETURN_IF_ERROR(Damaged(at.offset_bytes(), bitmap.TakeStatus()));
    }
  }
  co_return Status();
}

Task<Status> PartitionFile::LoadDeadList() {
  if (superblock_.dead.location.empty()) co_return Status();
  MetaChainReader reader = ChainReader();
  uint64_t damaged_at = 0;
  // Each entry names at least one block of the file, and no block twice, so this bounds the number
  // of entries.
  Result<std::vector<char>> dead =
      co_await reader.Read(superblock_.dead, superblock_.file_blocks, "dead list", &pieces_, &damaged_at);
  if (!dead.ok()) co_return Damaged(damaged_at, dead.TakeStatus());
  dead_newest_.resize(superblock_.dead.entries);
  if (!dead_newest_.empty()) std::memcpy(static_cast<void*>(dead_newest_.data()), dead->data(), dead->size());
  for (const DeadExtent& d : dead_newest_) pending_free_blocks_ += d.extent.blocks();
  // With a damaged bitmap it is unknown which blocks are in use.
  if (damage_ && !damage_->empty()) co_return Status();
  co_return Damaged(superblock_.dead.location.offset_bytes(), co_await CheckDeadList());
}

// The extents of the dead list will be freed. Each must lie inside the file, be in use, and be
// listed only once.
Task<Status> PartitionFile::CheckDeadList() {
  auto wrong = [this](Extent extent, std::string_view what) {
    return Error(Code::kCorruption,
                 "{}: the dead list at offset {} names blocks {} to {}, {}; restore it from a backup", options_.path,
                 superblock_.dead.location.offset_bytes(), extent.block(), extent.block() + extent.blocks() - 1, what);
  };
  std::vector<bool> named(superblock_.file_blocks);
  std::fill_n(named.begin(), kSuperblockBlocks, true);
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : dead_newest_) {
    const Extent extent = dead.extent;
    const uint64_t end = extent.block() + extent.blocks();
    if (extent.empty() || end > superblock_.file_blocks) co_return wrong(extent, "outside the file");
    for (uint64_t b = extent.block(); b < end; ++b) {
      if (named[b]) co_return wrong(extent, "which belong to the superblocks or are listed twice");
      if (!allocator_.IsUsed(b)) co_return wrong(extent, "which are not in use");
      named[b] = true;
    }
    if (slice.Spend(1 + extent.blocks() / 8)) co_await Yield(reactor_);
  }
  co_return Status();
}

Task<Status> PartitionFile::Close() {
  co_await tasks_.Drain();
  co_return co_await file_.Close();
}

}  // namespace pando
