// PartitionFile: block allocation, file growth, and the return of space to the file system.
#include <algorithm>

#include "src/io/punch_hole.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {

// A node has thousands of files, most of them small. A file doubles from 256 KiB on until it grows
// by 4 MiB, and from 128 MiB on by 1/32, up to 128 MiB at once.
constexpr uint64_t kMinGrowBlocks = 64, kDoubleUpToBlocks = 1024, kMaxGrowBlocks = 32'768;
constexpr uint32_t kLongRunBlocks = 8;
// A file with at least this many free blocks beyond the length of a run, but without such a run,
// counts as fragmented. It then grows by the run only, because anything more would just add to the
// free space.
constexpr uint64_t kScatteredBlocks = 256;

// By how much a file of `blocks` blocks grows if less would do.
uint64_t GrowthOf(uint64_t blocks) {
  return std::clamp(std::max(std::min(blocks, kDoubleUpToBlocks), blocks / 32), kMinGrowBlocks, kMaxGrowBlocks);
}

}  // namespace

// -- growth

// Makes blocks free. Takes back blocks that are set aside if there is a run of at least `run`
// blocks, else extends the file. One call works at a time. Later calls wait for it and return, so
// that their callers check again.
Task<Status> PartitionFile::Grow(uint64_t blocks, uint32_t run) {
  if (growing_) {
    co_await grown_.Wait();
    co_return Status();
  }
  growing_ = true;
  bool returned = false;
  Status status = co_await TakeBack(run, blocks, &returned);
  if (status.ok() && !returned) {
    status = co_await Extend(blocks, run);
    // The file cannot grow. Smaller pieces that are set aside may still complete a run together
    // with the free blocks next to them.
    if (status.code() == Code::kDiskFull && run > ExtentAllocator::kChunkBlocks) {
      Status tried = co_await TakeBack(1, blocks, &returned);
      if (!tried.ok() || returned) status = std::move(tried);
    }
  }
  growing_ = false;
  grown_.NotifyAll();
  co_return status;
}

// Makes the file system hold space again for a run that is set aside. *returned is set if there was
// such a run; it is free then.
Task<Status> PartitionFile::TakeBack(uint32_t least, uint64_t blocks, bool* returned) {
  const auto most = static_cast<uint32_t>(std::clamp(blocks, GrowthOf(allocator_.total_blocks()), kMaxGrowBlocks));
  for (;;) {
    std::optional<Extent> run = allocator_.FindSetAside(least, most, releasing_);
    if (!run) co_return Status();
    Status status = co_await file_.Allocate(run->offset_bytes(), run->size_bytes());
    if (status.ok()) {
      allocator_.Return(*run);
      *returned = true;
      co_return Status();
    }
    if (status.code() != Code::kDiskFull) co_return status;
    // The disk may have room for a part of the run, or may hold a part of it already.
    const Extent first = Extent::Of(run->block(), ExtentAllocator::kChunkBlocks);
    if (least <= first.blocks() && first != *run) {
      status = co_await file_.Allocate(first.offset_bytes(), first.size_bytes());
      if (status.ok()) {
        allocator_.Return(first);
        *returned = true;
        co_return Status();
      }
      if (status.code() != Code::kDiskFull) co_return status;
    }
    const uint64_t holes = allocator_.hole_blocks();
    allocator_.NoteHole(least <= first.blocks() ? first : *run);
    // Only holes are left, and the disk has no room for them.
    if (allocator_.hole_blocks() == holes) co_return Status();
  }
}

Task<Status> PartitionFile::Extend(uint64_t blocks, uint32_t run) {
  Status status = co_await TryToExtend(blocks, run);
  if (status.code() != Code::kDiskFull || !make_room_) co_return status;
  const bool made = co_await make_room_();
  if (made) status = co_await TryToExtend(blocks, run);
  co_return status;
}

// Extends the file. If the disk has no room for the usual step, extends it by the minimum.
Task<Status> PartitionFile::TryToExtend(uint64_t blocks, uint32_t run) {
  const uint64_t old_blocks = allocator_.total_blocks();
  // There is free space, but it is too fragmented for a long run. Growing by more than the run
  // would only add space that fragments as well.
  const bool exactly = run >= kLongRunBlocks && allocator_.free_blocks() >= kScatteredBlocks + run;
  uint64_t step = std::max(blocks, exactly ? 0 : GrowthOf(old_blocks));
  Status status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
  if (status.code() == Code::kDiskFull && step > blocks) {
    step = blocks;
    status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
    // Writes that are admitted now depend on the last space of the disk. The sync ensures that the
    // file still has it after a power failure, when others may want it too.
    if (status.ok()) status = co_await file_.Sync(/*data_only=*/true);
  }
  if (status.ok()) allocator_.Grow(old_blocks + step);
  co_return status;
}

Task<Result<Extent>> PartitionFile::Allocate(uint32_t blocks) {
  for (;;) {
    if (std::optional<Extent> extent = allocator_.Allocate(blocks)) co_return *extent;
    // A run never crosses a group, so the new space may have to reach into the next one.
    uint64_t left_in_group = ExtentAllocator::kGroupBlocks - allocator_.total_blocks() % ExtentAllocator::kGroupBlocks;
    uint64_t growth = blocks <= left_in_group ? blocks : left_in_group + blocks;
    // Others may allocate the new blocks before this resumes, so the loop tries again.
    const uint32_t run = blocks;  // what the new space must have room for in one piece
    CO_RETURN_IF_ERROR(co_await Grow(growth, run));
  }
}

Task<Status> PartitionFile::EnsureFreeBlocks(uint64_t blocks) {
  while (allocator_.free_blocks() < blocks) {
    CO_RETURN_IF_ERROR(condemned_);
    CO_RETURN_IF_ERROR(co_await Grow(blocks - allocator_.free_blocks(), 1));
  }
  co_return Status();
}

uint64_t PartitionFile::MetadataBlocks() const {
  const uint64_t groups = allocator_.group_count();
  const uint64_t dead = dead_.entries_to_list() + pieces_.size() + groups;
  return groups + MetaBlocksFor(groups) + MetaBlocksFor(dead) + 2;
}

// -- returning space

// The chunks are set aside while the hole is punched, so they cannot be allocated meanwhile. A
// crash leaves either the hole or the blocks. Free blocks are reachable from neither superblock and
// from no snapshot (D1), so they may become a hole.
Task<Result<uint64_t>> PartitionFile::ReleaseSpace(uint64_t blocks, uint64_t keep_free) {
  CHECK(releasing_.empty()) << "one hole is made at a time";
  if (growing_ || !condemned_.ok()) co_return uint64_t{0};
  const uint64_t free = allocator_.free_blocks();
  const bool free_too = free >= keep_free + ExtentAllocator::kChunkBlocks;
  std::optional<Extent> run =
      allocator_.TakeToRelease(free_too ? std::min(blocks, free - keep_free) : blocks, free_too);
  if (!run) co_return uint64_t{0};
  releasing_ = *run;
  Status status = co_await PunchHole(&file_, run->offset_bytes(), run->size_bytes());
  releasing_ = Extent{};
  if (!status.ok()) co_return status;
  allocator_.NoteHole(*run);
  co_return uint64_t{run->blocks()};
}

}  // namespace pando
