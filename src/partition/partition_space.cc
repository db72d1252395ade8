// PartitionFile: which blocks are given out, how the file grows, what of it goes back to the file system, and what
// waits on dead lists and for snapshots until it is free.
#include <algorithm>

#include "src/io/punch_hole.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {

constexpr uint64_t kMinGrowBlocks = 1024, kMaxGrowBlocks = 32'768;  // 4 MiB .. 128 MiB
constexpr uint32_t kLongRunBlocks = 8;
// Free space from which on a file that has no run for a value is taken for scattered: growing it by more than the run
// would only add to what is free.
constexpr uint64_t kScatteredBlocks = 256;

}  // namespace

// -- growth ----------------------------------------------------------------------------------------------------------

// Makes blocks free: of those set aside, if there are any (at least `run` in one piece), else after the file's end. One
// at a time; who comes meanwhile waits, and looks again.
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
    // No room for more file. What is set aside in pieces may still complete a run, with what is free next to it.
    if (status.code() == Code::kDiskFull && run > ExtentAllocator::kChunkBlocks) {
      Status tried = co_await TakeBack(1, blocks, &returned);
      if (!tried.ok() || returned) status = std::move(tried);
    }
  }
  growing_ = false;
  grown_.NotifyAll();
  co_return status;
}

// Has the file system hold a run of what is set aside for the file again. *returned: there was one, and it is free now.
Task<Status> PartitionFile::TakeBack(uint32_t least, uint64_t blocks, bool* returned) {
  const auto most = static_cast<uint32_t>(std::clamp(blocks, kMinGrowBlocks, kMaxGrowBlocks));
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
    // Perhaps a part of it is held already, or is small enough.
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
    if (allocator_.hole_blocks() == holes) co_return Status();  // only holes are left, and no room for them
  }
}

// Makes the file longer; once the disk has no room for the usual step, by just what helps.
Task<Status> PartitionFile::Extend(uint64_t blocks, uint32_t run) {
  const uint64_t old_blocks = allocator_.total_blocks();
  // Free space that is only too scattered for a long run: more of it than the run would be scattered, too.
  const bool exactly = run >= kLongRunBlocks && allocator_.free_blocks() >= kScatteredBlocks + run;
  uint64_t step = std::max(blocks, exactly ? 0 : std::clamp(old_blocks / 32, kMinGrowBlocks, kMaxGrowBlocks));
  Status status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
  if (status.code() == Code::kDiskFull && step > blocks) {
    step = blocks;
    status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
    // What is admitted now needs the last of the disk: also after a power failure, when others may want it, too.
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
    uint64_t need = blocks <= left_in_group ? blocks : left_in_group + blocks;
    CO_RETURN_IF_ERROR(co_await Grow(need, blocks));
  }
}

Task<Status> PartitionFile::EnsureFreeBlocks(uint64_t blocks) {
  while (allocator_.free_blocks() < blocks) {
    CO_RETURN_IF_ERROR(co_await Grow(blocks - allocator_.free_blocks(), 1));
  }
  co_return Status();
}

uint64_t PartitionFile::MetadataBlocks() const {
  const uint64_t groups = allocator_.group_count();
  const uint64_t dead = dead_current_.size() + dead_frozen_.size() + held_extents() + pieces_.size() + groups;
  return groups + MetaBlocksFor(groups) + MetaBlocksFor(dead) + 2;
}

// -- giving back -----------------------------------------------------------------------------------------------------

// The chunks are set aside while the hole is made, so that nobody is given them meanwhile; a crash leaves either. What
// is free here is reached by neither superblock and by no snapshot (D1), which is all that a hole needs, too.
Task<Result<uint64_t>> PartitionFile::ReleaseSpace(uint64_t blocks, uint64_t keep_free) {
  CHECK(releasing_.empty()) << "one hole is made at a time";
  if (growing_) co_return uint64_t{0};
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

// -- the tree's extents ----------------------------------------------------------------------------------------------

Task<Result<Extent>> PartitionFile::AllocateForWrite(uint32_t blocks) {
  Result<Extent> extent = co_await Allocate(blocks);
  if (extent.ok()) unreferenced_.insert(extent->packed);
  co_return extent;
}

void PartitionFile::AdoptExtent(Extent extent, Generation birth) {
  CHECK_EQ(unreferenced_.erase(extent.packed), 1u);
  if (checkpointing_ && birth > frozen_generation_) young_.insert(extent.packed);
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

void PartitionFile::FreeLater(DeadExtent dead) {
  if (!held_.empty() && dead.birth <= held_.rbegin()->first) {
    held_.rbegin()->second.extents.push_back({dead, frozen_generation_ + 1});
    held_blocks_ += dead.extent.blocks();
    return;
  }
  dead_current_.push_back(dead);
  pending_free_blocks_ += dead.extent.blocks();
}

void PartitionFile::ReleaseGeneration(Generation generation) {
  auto released = held_.find(generation);
  CHECK(released != held_.end());
  if (--released->second.holds > 0) return;
  std::vector<HeldExtent> extents = std::move(released->second.extents);
  auto next = held_.erase(released);
  std::vector<HeldExtent>* older = next == held_.begin() ? nullptr : &std::prev(next)->second.extents;
  Generation older_generation = older ? std::prev(next)->first : 0;
  for (const HeldExtent& e : extents) {
    // Born after the next older held generation: only the released one referred to it.
    if (older && e.dead.birth <= older_generation) {
      older->push_back(e);
      continue;
    }
    held_blocks_ -= e.dead.extent.blocks();
    // Nothing held it any more: it is where it would be had nothing ever (D1).
    if (e.died < superblock_.generation) {
      allocator_.Free(e.dead.extent);
      continue;
    }
    if (e.died == superblock_.generation && !serialized_) {
      dead_newest_.push_back(e.dead);
      pending_free_blocks_ += e.dead.extent.blocks();
      allocator_.MarkChanged(static_cast<uint32_t>(e.dead.extent.block() / ExtentAllocator::kGroupBlocks));
      continue;
    }
    // The checkpoint under way does not reach what died before it either: if nothing held it any more and it were not
    // on this checkpoint's dead list, it would be lost should the process end before the next one.
    const bool listable = checkpointing_ && !serialized_ && e.died <= frozen_generation_;
    (listable ? dead_frozen_ : dead_current_).push_back(e.dead);
    pending_free_blocks_ += e.dead.extent.blocks();
  }
}

// What died since the newest durable generation ended may be part of it, also when it is on the list of an older held
// one. (A younger held one, which is being checkpointed, hands on what it does not hold alone.)
Generation PartitionFile::HoldNewest() {
  CHECK(!serialized_);
  const Generation newest = superblock_.generation;
  HoldGeneration(newest);
  std::vector<HeldExtent>& extents = held_[newest].extents;
  auto take = [&](std::vector<DeadExtent>* dead, Generation died) {
    std::erase_if(*dead, [&](const DeadExtent& d) {
      if (d.birth > newest) return false;
      extents.push_back({d, died});
      pending_free_blocks_ -= d.extent.blocks();
      held_blocks_ += d.extent.blocks();
      return true;
    });
  };
  if (checkpointing_) take(&dead_frozen_, frozen_generation_);
  take(&dead_current_, frozen_generation_ + 1);
  for (auto& [generation, held] : held_) {
    if (generation >= newest) break;
    auto since = held.extents.begin() + static_cast<ptrdiff_t>(held.at_end[checkpointing_ ? 1 : 0]);
    auto taken = std::stable_partition(since, held.extents.end(), [&](const auto& e) { return e.died <= newest; });
    extents.insert(extents.end(), taken, held.extents.end());
    held.extents.erase(taken, held.extents.end());
    if (checkpointing_) held.at_end[0] = held.at_end[1];  // more than needed is looked at next time
  }
  return newest;
}

uint64_t PartitionFile::held_extents() const {
  uint64_t extents = 0;
  for (const auto& [generation, held] : held_) extents += held.extents.size();
  return extents;
}

void PartitionFile::OnIoError(const Status& status) {
  if (on_io_error_) on_io_error_(status);
}

}  // namespace pando
