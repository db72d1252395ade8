// PartitionFile: opening, and the tree's extents. partition_create.cc has the file of a new
// partition, partition_space.cc allocation, growth, and the return of space, partition_commit.cc
// checkpoints.
#include "src/partition/partition_file.h"

namespace pando {

Task<Result<std::unique_ptr<PartitionFile>>> PartitionFile::Open(Reactor& reactor, PartitionFileOptions options,
                                                                 bool read_only, std::vector<MetaDamage>* damage) {
  std::unique_ptr<PartitionFile> self(new PartitionFile(reactor, std::move(options)));
  const File::Mode mode = read_only ? File::Mode::kRead : File::Mode::kReadWrite;
  if (const PartitionFileOptions& o = self->options_; o.store != nullptr) {
    CO_ASSIGN_OR_RETURN(self->file_, co_await o.store->OpenFile(o.name, mode, /*direct=*/true));
  } else {
    CO_ASSIGN_OR_RETURN(self->file_, co_await File::Open(reactor, o.path, mode, /*direct=*/true));
  }
  Result<LoadedPartition> loaded = co_await LoadPartition(reactor, self->turn_, &self->file_, self->options_, damage);
  if (!loaded.ok()) {
    Status closed = co_await self->file_.Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return loaded.TakeStatus();
  }
  self->superblock_ = loaded->superblock;
  self->older_lsn_ = loaded->older_lsn;
  self->allocator_ = std::move(loaded->allocator);
  self->groups_ = std::move(loaded->groups);
  self->pieces_ = std::move(loaded->pieces);
  self->dead_.Begin(loaded->superblock.generation, std::move(loaded->dead));
  // An earlier process may have returned free blocks to the file system as holes.
  if (!read_only) self->allocator_.SetAsideFreeChunks();
  co_return self;
}

Task<Status> PartitionFile::Close() {
  co_await dead_.Drain();
  co_return co_await file_.Close();
}

Task<Superblock> PartitionFile::HoldNewest() {
  co_await dead_.Lock();
  const Superblock newest = superblock_;
  co_await dead_.HoldDurable();
  dead_.Unlock();
  co_return newest;
}

// -- the tree's extents

Task<Result<Extent>> PartitionFile::AllocateForWrite(uint32_t blocks) {
  CO_RETURN_IF_ERROR(condemned_);
  Result<Extent> extent = co_await Allocate(blocks);
  if (extent.ok()) unreferenced_.insert(extent->packed);
  if (!extent.ok() || condemned_.ok()) co_return extent;
  FreeNow(*extent);
  co_return condemned_;
}

Task<Result<Extent>> PartitionFile::AllocateNear(uint32_t blocks, Extent last, std::span<const Extent> near) {
  CO_RETURN_IF_ERROR(condemned_);
  const std::optional<Extent> extent = allocator_.AllocateNear(blocks, last, near);
  if (!extent) co_return co_await AllocateForWrite(blocks);
  unreferenced_.insert(extent->packed);
  co_return *extent;
}

void PartitionFile::AdoptExtent(Extent extent, Generation birth) {
  CHECK_EQ(unreferenced_.erase(extent.packed), 1u);
  if (dead_.checkpointing() && birth > dead_.frozen()) young_.insert(extent.packed);
}

void PartitionFile::OrphanExtent(Extent extent) {
  young_.erase(extent.packed);
  CHECK(unreferenced_.insert(extent.packed).second);
  allocator_.MarkChanged(static_cast<uint32_t>(extent.block() / ExtentAllocator::kGroupBlocks));
}

void PartitionFile::FreeNow(Extent extent) {
  unreferenced_.erase(extent.packed);
  young_.erase(extent.packed);
  allocator_.Free(extent);
}

void PartitionFile::OnIoError(const Status& status) {
  if (on_io_error_) on_io_error_(status);
}

}  // namespace pando
