#include "src/partition/partition_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr uint64_t kInitialBlocks = 256;                            // 1 MiB
constexpr uint64_t kMinGrowBlocks = 1024, kMaxGrowBlocks = 32'768;  // 4 MiB .. 128 MiB
constexpr uint32_t kLongRunBlocks = 8;
constexpr size_t kDeadListSlack = 64;
constexpr size_t kSpareRuns = 4;  // two of each kind: a checkpoint takes one and frees the one of two checkpoints ago

uint32_t BlocksFor(uint64_t bytes) { return static_cast<uint32_t>((bytes + kBlockBytes - 1) / kBlockBytes); }

uint64_t MetaChecksum(const Uuid& partition, Extent at, const char* bytes) {
  return Hash64({bytes, at.size_bytes()}, ChecksumSeed(partition, at.block()));
}

}  // namespace

Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options) {
  Result<File> opened = co_await File::Open(reactor, options.path, File::Mode::kCreate, /*direct=*/true);
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  // Superblocks, one empty leaf, the bitmap of group 0, the group directory.
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
  GroupEntry entry{kBitmapBlock, checksum_at(kBitmapBlock)};
  std::memcpy(image.data() + kDirectoryBlock * kBlockBytes, &entry, sizeof(entry));

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
  sb.groups = {Extent::Of(kDirectoryBlock, 1), checksum_at(kDirectoryBlock), 1};
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
  self->damage_ = nullptr;
  co_return self;
}

// An error of the metadata at `offset_bytes`: what the open fails with, or what the checker is told.
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
    co_return Error(Code::kCorruption, "{}: belongs to partition {} of node {}, not to {} of {}", path,
                    superblock_.partition.ToString(), superblock_.node.ToString(), options_.partition.ToString(),
                    options_.node.ToString());
  }
  if (superblock_.page_bytes != options_.page_bytes) {
    co_return Error(Code::kCorruption, "{}: has pages of {} bytes, the store of {}", path, superblock_.page_bytes,
                    options_.page_bytes);
  }
  if (superblock_.root_level >= kMaxTreeHeight) {
    co_return Error(Code::kCorruption, "{}: a root of level {}; trees are up to {} high", path, superblock_.root_level,
                    kMaxTreeHeight);
  }
  if (superblock_.group_blocks != ExtentAllocator::kGroupBlocks) {
    co_return Error(Code::kVersion, "{}: allocation groups of {} blocks, this build has {}", path,
                    superblock_.group_blocks, ExtentAllocator::kGroupBlocks);
  }
  if (bytes / kBlockBytes < superblock_.file_blocks) {
    co_return Error(Code::kCorruption, "{}: truncated to {} bytes, the superblock says {}; restore it from a backup",
                    path, bytes, superblock_.file_blocks * kBlockBytes);
  }
  frozen_generation_ = superblock_.generation;
  allocator_.Grow(superblock_.file_blocks);
  Status groups = co_await LoadGroups();
  CO_RETURN_IF_ERROR(Damaged(superblock_.groups.location.offset_bytes(), std::move(groups)));
  // What the file grew by after that checkpoint is free, whatever the bitmap says about blocks behind its end.
  allocator_.Grow(bytes / kBlockBytes);
  Status dead = co_await LoadDeadList();
  co_return Damaged(superblock_.dead.location.offset_bytes(), std::move(dead));
}

Task<Status> PartitionFile::LoadDeadList() {
  if (superblock_.dead.location.empty()) co_return Status();
  CO_ASSIGN_OR_RETURN(AlignedBuffer dead, co_await ReadMeta(superblock_.dead, sizeof(DeadExtent), "dead list"));
  dead_newest_.resize(superblock_.dead.entries);
  if (!dead_newest_.empty())
    std::memcpy(static_cast<void*>(dead_newest_.data()), dead.data(), dead_newest_.size() * sizeof(DeadExtent));
  for (const DeadExtent& d : dead_newest_) pending_free_blocks_ += d.extent.blocks();
  // Which blocks are in use is not known once a bitmap is damaged.
  co_return damage_ && !damage_->empty() ? Status() : CheckDeadList();
}

// Every extent of the dead list inside the file, in use, and there once: they will be freed.
Status PartitionFile::CheckDeadList() const {
  auto wrong = [this](Extent extent, std::string_view what) {
    return Error(Code::kCorruption,
                 "{}: the dead list at offset {} names blocks {} to {}, {}; restore it from a backup", options_.path,
                 superblock_.dead.location.offset_bytes(), extent.block(), extent.block() + extent.blocks(), what);
  };
  std::vector<Extent> sorted;
  sorted.reserve(dead_newest_.size());
  for (const DeadExtent& d : dead_newest_) sorted.push_back(d.extent);
  std::sort(sorted.begin(), sorted.end(), [](Extent a, Extent b) { return a.block() < b.block(); });
  uint64_t end = kSuperblockBlocks;
  for (Extent extent : sorted) {
    if (extent.empty() || extent.block() + extent.blocks() > superblock_.file_blocks) {
      return wrong(extent, "outside the file");
    }
    if (extent.block() < end) return wrong(extent, "which are the superblocks' or were named before");
    end = extent.block() + extent.blocks();
    for (uint64_t b = extent.block(); b < end; ++b) {
      if (!allocator_.IsUsed(b)) return wrong(extent, "which are not in use");
    }
  }
  return {};
}

Task<Result<AlignedBuffer>> PartitionFile::ReadMeta(MetaRef ref, uint64_t entry_bytes, std::string_view what) {
  const uint64_t end = ref.location.block() + ref.location.blocks();
  if (ref.location.empty() || end > allocator_.total_blocks() ||
      ref.entries > ref.location.size_bytes() / entry_bytes) {
    co_return Error(Code::kCorruption, "{}: the superblock's {} lies outside the file", options_.path, what);
  }
  AlignedBuffer bytes(ref.location.size_bytes());
  CO_RETURN_IF_ERROR(co_await file_.Read(bytes.data(), bytes.size(), ref.location.offset_bytes()));
  if (MetaChecksum(options_.partition, ref.location, bytes.data()) != ref.checksum) {
    co_return Error(Code::kCorruption,
                    "{}: {} at offset {} fails its checksum; restore the partition from a backup or a "
                    "replica",
                    options_.path, what, ref.location.offset_bytes());
  }
  co_return bytes;
}

Task<Status> PartitionFile::LoadGroups() {
  CO_ASSIGN_OR_RETURN(AlignedBuffer directory,
                      co_await ReadMeta(superblock_.groups, sizeof(GroupEntry), "group directory"));
  groups_.resize(allocator_.group_count());
  if (superblock_.groups.entries > groups_.size()) {
    co_return Error(Code::kCorruption, "{}: {} allocation groups for {} blocks", options_.path,
                    superblock_.groups.entries, allocator_.total_blocks());
  }
  std::memcpy(static_cast<void*>(groups_.data()), directory.data(), superblock_.groups.entries * sizeof(GroupEntry));
  for (uint32_t g = 0; g < superblock_.groups.entries; ++g) {
    if (groups_[g].block == 0) continue;
    MetaRef ref{Extent::Of(groups_[g].block, 1), groups_[g].checksum, 0};
    Result<AlignedBuffer> bitmap = co_await ReadMeta(ref, 1, "allocation bitmap");
    if (bitmap.ok()) {
      allocator_.LoadGroup(g, bitmap->data());
    } else {
      CO_RETURN_IF_ERROR(Damaged(ref.location.offset_bytes(), bitmap.TakeStatus()));
    }
  }
  co_return Status();
}

// -- space -----------------------------------------------------------------------------------------------------------

Task<Status> PartitionFile::Grow(uint64_t blocks, bool exactly) {
  if (growing_) {
    co_await grown_.Wait();
    co_return Status();  // the caller looks again
  }
  growing_ = true;
  uint64_t old_blocks = allocator_.total_blocks();
  uint64_t step = std::clamp(old_blocks / 32, kMinGrowBlocks, kMaxGrowBlocks);
  step = exactly ? blocks : std::max(step, blocks);
  Status status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
  if (!status.ok() && status.code() == Code::kDiskFull && step > blocks) {
    // The last of the disk, in the smallest step that helps.
    step = blocks;
    status = co_await file_.Allocate(old_blocks * kBlockBytes, step * kBlockBytes);
  }
  if (status.ok()) allocator_.Grow(old_blocks + step);
  growing_ = false;
  grown_.NotifyAll();
  co_return status;
}

Task<Result<Extent>> PartitionFile::Allocate(uint32_t blocks) {
  for (;;) {
    if (std::optional<Extent> extent = allocator_.Allocate(blocks)) co_return *extent;
    // A run never crosses a group, so the new space may have to reach into the next one.
    uint64_t left_in_group = ExtentAllocator::kGroupBlocks - allocator_.total_blocks() % ExtentAllocator::kGroupBlocks;
    uint64_t need = blocks <= left_in_group ? blocks : left_in_group + blocks;
    // Free space that is only too scattered for a long run: more of it than the run would be scattered, too.
    const bool scattered = blocks >= kLongRunBlocks && allocator_.free_blocks() >= kInitialBlocks + blocks;
    CO_RETURN_IF_ERROR(co_await Grow(need, scattered));
  }
}

Task<Status> PartitionFile::EnsureFreeBlocks(uint64_t blocks) {
  while (allocator_.free_blocks() < blocks) {
    CO_RETURN_IF_ERROR(co_await Grow(blocks - allocator_.free_blocks()));
  }
  co_return Status();
}

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

// -- checkpoints -----------------------------------------------------------------------------------------------------

void PartitionFile::EndGeneration(Generation frozen) {
  CHECK(!checkpointing_ && dead_frozen_.empty() && young_.empty());
  checkpointing_ = true;
  frozen_generation_ = frozen;
  dead_frozen_.swap(dead_current_);
  for (auto& [generation, held] : held_) {
    held.at_end[1] = held.at_end[0];
    held.at_end[0] = held.extents.size();
  }
}

// A place for a directory or a dead list: one that an earlier one left, else a new one, with room to grow.
Task<Result<Extent>> PartitionFile::AllocateRun(uint64_t bytes) {
  const uint32_t blocks = std::max(1u, BlocksFor(bytes));
  auto best = spare_runs_.end();
  for (auto it = spare_runs_.begin(); it != spare_runs_.end(); ++it) {
    if (it->blocks() >= blocks && (best == spare_runs_.end() || it->blocks() < best->blocks())) best = it;
  }
  Extent run;
  if (best != spare_runs_.end()) {
    run = *best;
    spare_runs_.erase(best);
    CHECK_EQ(unreferenced_.erase(run.packed), 1u);
    // Its bits are clear on disk.
    allocator_.MarkChanged(static_cast<uint32_t>(run.block() / ExtentAllocator::kGroupBlocks));
  } else {
    CO_ASSIGN_OR_RETURN(run, co_await Allocate(std::min(std::bit_ceil(blocks), kMaxExtentBlocks)));
  }
  meta_runs_.insert(run.packed);
  co_return run;
}

// A run that no root reaches any more, or an ordinary extent. Of the spare ones the smallest makes way.
void PartitionFile::FreeRun(Extent extent) {
  if (meta_runs_.erase(extent.packed) == 0) return allocator_.Free(extent);
  spare_runs_.push_back(extent);
  unreferenced_.insert(extent.packed);
  allocator_.MarkChanged(static_cast<uint32_t>(extent.block() / ExtentAllocator::kGroupBlocks));
  if (spare_runs_.size() <= kSpareRuns) return;
  auto smallest = std::min_element(spare_runs_.begin(), spare_runs_.end(),
                                   [](Extent a, Extent b) { return a.blocks() < b.blocks(); });
  const Extent given_back = *smallest;
  spare_runs_.erase(smallest);
  FreeNow(given_back);
}

// New places for the directory, the dead list and every changed group's bitmap. Allocating changes bitmaps, so this
// repeats until every changed group has its block. Ends without a suspension after the last allocation.
Task<Status> PartitionFile::AllocateMeta(Superblock* next, std::vector<Extent>* bitmaps) {
  // What the old metadata occupied dies with this checkpoint, too: room for it.
  size_t dead_entries = dead_frozen_.size() + held_extents() + allocator_.group_count() + kDeadListSlack;
  CO_ASSIGN_OR_RETURN(next->dead.location, co_await AllocateRun(dead_entries * sizeof(DeadExtent)));
  size_t group_entries = allocator_.group_count() + kDeadListSlack;
  CO_ASSIGN_OR_RETURN(next->groups.location, co_await AllocateRun(group_entries * sizeof(GroupEntry)));
  // The next release (dead_newest_) and what must not be in this bitmap (young, unreferenced) change groups as well.
  auto mark = [this](Extent e) {
    allocator_.MarkChanged(static_cast<uint32_t>(e.block() / ExtentAllocator::kGroupBlocks));
  };
  for (const DeadExtent& d : dead_newest_) mark(d.extent);
  for (uint64_t packed : young_) mark(Extent{packed});
  for (uint64_t packed : unreferenced_) mark(Extent{packed});
  bool found = true;
  while (found) {
    found = false;
    bitmaps->resize(allocator_.group_count());
    for (uint32_t g = 0; g < bitmaps->size(); ++g) {
      if (!allocator_.group_changed(g) || !(*bitmaps)[g].empty()) continue;
      CO_ASSIGN_OR_RETURN((*bitmaps)[g], co_await Allocate(1));
      found = true;
    }
  }
  co_return Status();
}

// The metadata's bytes, as of now; nothing here suspends, so they are one consistent picture.
std::vector<PartitionFile::MetaWrite> PartitionFile::Serialize(Superblock* next, const std::vector<Extent>& bitmaps,
                                                               std::vector<GroupEntry>* groups,
                                                               std::vector<DeadExtent>* dead) {
  *groups = groups_;
  groups->resize(allocator_.group_count());
  *dead = dead_frozen_;
  serialized_ = true;
  auto retire = [&](Extent e) { dead->push_back({e, superblock_.generation}); };
  if (!superblock_.groups.location.empty()) retire(superblock_.groups.location);
  if (!superblock_.dead.location.empty()) retire(superblock_.dead.location);
  std::vector<MetaWrite> writes;
  std::vector<size_t> write_of_group(bitmaps.size(), SIZE_MAX);
  for (uint32_t g = 0; g < bitmaps.size(); ++g) {
    if (bitmaps[g].empty()) continue;
    if ((*groups)[g].block != 0) retire(Extent::Of((*groups)[g].block, 1));
    AlignedBuffer bytes(kBlockBytes);
    allocator_.EncodeGroup(g, bytes.data());
    allocator_.ClearChanged(g);
    write_of_group[g] = writes.size();
    writes.push_back({bitmaps[g], std::move(bytes)});
  }
  auto clear = [&](Extent e, bool differs_from_memory) {
    uint32_t g = static_cast<uint32_t>(e.block() / ExtentAllocator::kGroupBlocks);
    CHECK_NE(write_of_group[g], SIZE_MAX);
    char* bits = writes[write_of_group[g]].bytes.data();
    uint64_t first = e.block() % ExtentAllocator::kGroupBlocks;
    for (uint64_t b = first; b < first + e.blocks(); ++b) bits[b / 8] &= static_cast<char>(~(1 << (b % 8)));
    if (differs_from_memory) allocator_.MarkChanged(g);
  };
  for (const DeadExtent& d : dead_newest_) clear(d.extent, false);  // free in memory, too, once this is durable
  for (uint64_t packed : young_) clear(Extent{packed}, true);
  for (uint64_t packed : unreferenced_) clear(Extent{packed}, true);
  for (uint32_t g = 0; g < bitmaps.size(); ++g) {
    if (bitmaps[g].empty()) continue;
    (*groups)[g] = {bitmaps[g].block(),
                    MetaChecksum(options_.partition, bitmaps[g], writes[write_of_group[g]].bytes.data())};
  }
  // After a restart nothing is held: what this root does not reach and snapshots hold must then become free.
  std::vector<DeadExtent> dead_on_disk = *dead;
  for (const auto& [generation, held] : held_) {
    for (const HeldExtent& e : held.extents) {
      if (e.died <= frozen_generation_) dead_on_disk.push_back(e.dead);
    }
  }
  auto add = [&](MetaRef* ref, const void* entries, size_t count, size_t entry_bytes) {
    AlignedBuffer bytes(ref->location.size_bytes());
    CHECK_LE(count * entry_bytes, bytes.size());
    if (count > 0) std::memcpy(bytes.data(), entries, count * entry_bytes);
    ref->entries = count;
    ref->checksum = MetaChecksum(options_.partition, ref->location, bytes.data());
    writes.push_back({ref->location, std::move(bytes)});
  };
  add(&next->groups, groups->data(), groups->size(), sizeof(GroupEntry));
  add(&next->dead, dead_on_disk.data(), dead_on_disk.size(), sizeof(DeadExtent));
  return writes;
}

Task<Status> PartitionFile::WriteMeta(std::vector<MetaWrite> writes) {
  for (const MetaWrite& w : writes) {
    CO_RETURN_IF_ERROR(co_await file_.Write(w.bytes.data(), w.location.size_bytes(), w.location.offset_bytes()));
  }
  co_return Status();
}

// Gives back what an attempt that ran out of space had taken.
void PartitionFile::ReleaseMeta(const Superblock& next, const std::vector<Extent>& bitmaps) {
  for (Extent e : {next.groups.location, next.dead.location}) {
    if (!e.empty()) FreeRun(e);
  }
  for (Extent e : bitmaps) {
    if (!e.empty()) allocator_.Free(e);
  }
}

Task<Status> PartitionFile::Commit(Superblock content) {
  CHECK(checkpointing_);
  Superblock next = content;
  next.page_bytes = options_.page_bytes;
  next.node = options_.node;
  next.partition = options_.partition;
  next.group_blocks = ExtentAllocator::kGroupBlocks;
  next.groups = next.dead = MetaRef{};
  std::vector<Extent> bitmaps;
  if (Status status = co_await AllocateMeta(&next, &bitmaps); !status.ok()) {
    ReleaseMeta(next, bitmaps);
    co_return status;
  }
  next.file_blocks = allocator_.total_blocks();
  std::vector<GroupEntry> groups;
  std::vector<DeadExtent> dead;
  std::vector<MetaWrite> writes = Serialize(&next, bitmaps, &groups, &dead);
  Status status = co_await WriteMeta(std::move(writes));
  if (status.ok()) status = co_await file_.Sync(/*data_only=*/true);
  if (status.ok()) {
    SealSuperblock(&next);
    AlignedBuffer slot(2 * kBlockBytes);
    std::memcpy(slot.data(), &next, sizeof(next));
    std::memcpy(slot.data() + kBlockBytes, &next, sizeof(next));
    status = co_await file_.Write(slot.data(), slot.size(), next.generation % 2 * 2 * kBlockBytes);
  }
  if (status.ok()) status = co_await file_.Sync(/*data_only=*/true);
  if (!status.ok()) {
    OnIoError(status);
    co_return status;
  }
  // Durable: what only the generation before the previous one needed is free now.
  for (const DeadExtent& d : dead_newest_) {
    FreeRun(d.extent);
    pending_free_blocks_ -= d.extent.blocks();
  }
  pending_free_blocks_ += [&] {
    uint64_t metadata = 0;
    for (size_t i = dead_frozen_.size(); i < dead.size(); ++i) metadata += dead[i].extent.blocks();
    return metadata;
  }();
  dead_newest_ = std::move(dead);
  dead_frozen_.clear();
  groups_ = std::move(groups);
  older_lsn_ = superblock_.checkpoint_lsn;
  superblock_ = next;
  young_.clear();
  checkpointing_ = serialized_ = false;
  co_return Status();
}

}  // namespace pando
