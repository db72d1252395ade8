// PartitionFile: checkpoints.
#include <algorithm>
#include <cstring>
#include <utility>

#include "src/partition/partition_file.h"

namespace pando {
namespace {

// What it costs to find a place for a piece, and to encode and checksum a block, in TurnBudget
// units.
constexpr uint32_t kUnitsPerPiece = 64;

}  // namespace

void PartitionFile::EndGeneration(Generation frozen) {
  CHECK(young_.empty());
  dead_.EndGeneration(frozen);
}

// Allocates pieces, each as long as possible, until *pieces has room for `entries` entries. *took
// is set if any had to be allocated.
Task<Status> PartitionFile::AllocatePieces(uint64_t entries, std::vector<Extent>* pieces, bool* took) {
  uint64_t room = 0;
  for (Extent e : *pieces) room += EntriesInPiece(e.blocks());
  TurnSlice slice(turn_);
  while (room < entries) {
    if (slice.Spend(kUnitsPerPiece)) co_await Yield(reactor_);
    *took = true;
    auto blocks = static_cast<uint32_t>(std::min<uint64_t>(MetaBlocksFor(entries - room), kMaxPieceBlocks));
    std::optional<Extent> piece = allocator_.Allocate(blocks);
    while (!piece && blocks > 1) {
      blocks /= 2;
      piece = allocator_.Allocate(blocks);
    }
    if (!piece) {
      CO_ASSIGN_OR_RETURN(piece, co_await Allocate(1));
    }
    pieces->push_back(*piece);
    room += EntriesInPiece(piece->blocks());
  }
  co_return Status();
}

// Allocates new locations for the directory, the dead list, and the bitmap of every changed group.
// Allocation itself changes bitmaps, and other tasks run meanwhile, so this repeats until nothing
// is missing. It then returns without suspending.
Task<Status> PartitionFile::AllocateMeta(uint64_t dead_entries, MetaPlaces* places) {
  // The extents that this checkpoint frees in memory change groups as well. The groups of the
  // extents that must not be in the bitmaps (young_, unreferenced_) were marked when those were
  // allocated.
  co_await dead_.MarkUnreached();
  for (bool took = true; took;) {
    took = false;
    places->bitmaps.resize(allocator_.group_count());
    for (uint32_t g = 0; g < places->bitmaps.size(); ++g) {
      if (!allocator_.group_changed(g) || !places->bitmaps[g].empty()) continue;
      CO_ASSIGN_OR_RETURN(places->bitmaps[g], co_await Allocate(1));
      took = true;
    }
    CO_RETURN_IF_ERROR(co_await AllocatePieces(allocator_.group_count(), &places->directory, &took));
    // The blocks of the old metadata die with this checkpoint too.
    const uint64_t dead = dead_entries + pieces_.size() + allocator_.group_count();
    CO_RETURN_IF_ERROR(co_await AllocatePieces(dead, &places->dead, &took));
  }
  co_return Status();
}

// Frees the pieces that a chain of `entries` entries does not need.
void PartitionFile::TrimPieces(uint64_t entries, std::vector<Extent>* pieces) {
  size_t used = 0;
  for (uint64_t room = 0; room < entries; ++used) room += EntriesInPiece((*pieces)[used].blocks());
  for (size_t i = used; i < pieces->size(); ++i) allocator_.Free((*pieces)[i]);
  pieces->resize(used);
}

// Lists the blocks of the old metadata that this checkpoint replaces.
std::vector<DeadExtent> PartitionFile::MetadataThatDies(const MetaPlaces& places) const {
  std::vector<DeadExtent> dead;
  dead.reserve(pieces_.size() + places.bitmaps.size());
  for (Extent e : pieces_) dead.push_back({e, superblock_.generation});
  for (uint32_t g = 0; g < places.bitmaps.size(); ++g) {
    if (places.bitmaps[g].empty() || g >= groups_.size() || groups_[g].block == 0) continue;
    dead.push_back({Extent::Of(groups_[g].block, 1), superblock_.generation});
  }
  return dead;
}

// Copies the bitmaps of the changed groups as they are in memory, one write for each group.
std::vector<MetaWrite> PartitionFile::CopyBitmaps(const MetaPlaces& places) {
  std::vector<MetaWrite> writes;
  for (uint32_t g = 0; g < places.bitmaps.size(); ++g) {
    if (places.bitmaps[g].empty()) continue;
    AlignedBuffer bytes(kBlockBytes);
    allocator_.EncodeGroup(g, bytes.data());
    allocator_.ClearChanged(g);
    writes.push_back({places.bitmaps[g], std::move(bytes)});
  }
  return writes;
}

// Reduces the copied bitmaps to what this checkpoint and the previous one reach (D2). Clears the
// extents that become free in memory too once the checkpoint is durable (the newest dead list), and
// those that are in use in memory only (`unreached`). Transient extents are not in the copies.
Task<void> PartitionFile::ClearUnreached(std::vector<Extent> unreached, std::span<const Extent> bitmaps,
                                         std::vector<MetaWrite>* writes) {
  std::vector<char*> bits_of_group(bitmaps.size());
  for (size_t g = 0, write = 0; g < bitmaps.size(); ++g) {
    if (!bitmaps[g].empty()) bits_of_group[g] = (*writes)[write++].bytes.data();
  }
  auto clear = [&](Extent e) {
    char* bits = bits_of_group[e.block() / ExtentAllocator::kGroupBlocks];
    CHECK(bits) << "the group of block " << e.block() << " was not marked as changed";
    const uint64_t first = e.block() % ExtentAllocator::kGroupBlocks;
    for (uint64_t b = first; b < first + e.blocks(); ++b) bits[b / 8] &= static_cast<char>(~(1 << (b % 8)));
  };
  TurnSlice slice(turn_);
  for (Extent e : unreached) {
    clear(e);
    allocator_.MarkChanged(static_cast<uint32_t>(e.block() / ExtentAllocator::kGroupBlocks));
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
  for (const DeadExtent& d : dead_.newest()) {
    clear(d.extent);
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

// Encodes the metadata. The result is consistent although this yields: the lists do not change
// while they are locked, and everything else is copied before the first yield. Blocks by which the
// file grows meanwhile are not part of the result. `dead` is what died in the frozen generation.
Task<std::vector<MetaWrite>> PartitionFile::Serialize(Superblock* next, MetaPlaces* places,
                                                      std::vector<GroupEntry>* groups, std::vector<DeadExtent> dead,
                                                      const std::vector<DeadExtent>* old_metadata) {
  dead_.Fix();
  next->file_blocks = allocator_.total_blocks();
  dead.insert(dead.end(), old_metadata->begin(), old_metadata->end());
  TrimPieces(allocator_.group_count(), &places->directory);
  TrimPieces(dead.size(), &places->dead);
  std::vector<MetaWrite> writes = CopyBitmaps(*places);
  std::vector<Extent> unreached;
  for (const auto* set : {&young_, &unreferenced_}) {
    for (uint64_t packed : *set) unreached.push_back(Extent{packed});
  }
  co_await ClearUnreached(std::move(unreached), places->bitmaps, &writes);

  *groups = groups_;
  groups->resize(places->bitmaps.size());
  TurnSlice slice(turn_);
  size_t write = 0;
  for (size_t g = 0; g < groups->size(); ++g) {
    if (places->bitmaps[g].empty()) continue;
    const MetaWrite& bitmap = writes[write++];
    (*groups)[g] = {bitmap.location.block(), MetaChecksum(options_.partition, bitmap.location, bitmap.bytes.data())};
    if (slice.Spend(kTurnUnitsPerMetaBlock)) co_await Yield(reactor_);
  }
  next->groups = co_await EncodeMetaChain(reactor_, turn_, options_.partition, groups->data(), groups->size(),
                                          places->directory, &writes);
  next->dead =
      co_await EncodeMetaChain(reactor_, turn_, options_.partition, dead.data(), dead.size(), places->dead, &writes);
  co_return writes;
}

// Frees what an attempt that ran out of space had allocated.
void PartitionFile::ReleaseMeta(const MetaPlaces& places) {
  for (const std::vector<Extent>* extents : {&places.directory, &places.dead, &places.bitmaps}) {
    for (Extent e : *extents) {
      if (!e.empty()) allocator_.Free(e);
    }
  }
}

Task<Status> PartitionFile::WriteSuperblock(const Superblock* next) {
  AlignedBuffer slot(2 * kBlockBytes);
  EncodeSuperblock(*next, slot.data());
  EncodeSuperblock(*next, slot.data() + kBlockBytes);
  CO_RETURN_IF_ERROR(condemned_);
  CO_RETURN_IF_ERROR(co_await file_.Write(slot.data(), slot.size(), next->generation % 2 * 2 * kBlockBytes));
  co_return co_await file_.Sync(/*data_only=*/true);
}

// Does everything but free the extents that may be reused once the checkpoint is durable; puts
// those into *freed. The caller has locked the lists.
Task<Status> PartitionFile::CommitLists(Superblock next, std::vector<DeadExtent>* freed) {
  std::vector<DeadExtent> dead = co_await dead_.ListFrozen();
  MetaPlaces places;
  if (Status status = co_await AllocateMeta(dead.size(), &places); !status.ok()) {
    ReleaseMeta(places);
    co_return status;
  }
  std::vector<GroupEntry> groups;
  const std::vector<DeadExtent> old_metadata = MetadataThatDies(places);
  std::vector<MetaWrite> writes = co_await Serialize(&next, &places, &groups, std::move(dead), &old_metadata);
  Status status = co_await WriteMetadata(&file_, std::move(writes));
  // D3: this flushes the tree's pages too, and only then is the superblock written.
  if (status.ok()) status = co_await file_.Sync(/*data_only=*/true);
  if (status.ok()) status = co_await WriteSuperblock(&next);
  if (!status.ok()) {
    OnIoError(status);
    co_return status;
  }
  *freed = dead_.Advance(old_metadata);
  groups_ = std::move(groups);
  pieces_ = std::move(places.directory);
  pieces_.insert(pieces_.end(), places.dead.begin(), places.dead.end());
  older_lsn_ = superblock_.checkpoint_lsn;
  superblock_ = next;
  co_await dead_.Settle();
  co_return Status();
}

Task<Status> PartitionFile::Commit(Superblock content) {
  CHECK(dead_.checkpointing());
  content.page_bytes = options_.page_bytes;
  content.LeaveSeal(options_.seal_bytes);
  content.node = options_.node;
  content.partition = options_.partition;
  content.group_blocks = ExtentAllocator::kGroupBlocks;
  co_await dead_.Lock();
  std::vector<DeadExtent> freed;
  Status status = condemned_;
  if (status.ok()) status = co_await CommitLists(content, &freed);
  std::unordered_set<uint64_t> no_longer_young;
  if (status.ok()) no_longer_young.swap(young_);
  dead_.Unlock();
  co_await dead_.Reuse(std::move(freed));
  TurnSlice slice(turn_);
  while (!no_longer_young.empty()) {
    no_longer_young.erase(no_longer_young.begin());
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
  co_return status;
}

}  // namespace pando
