// PartitionFile: checkpoints.
#include <algorithm>
#include <cstring>

#include "src/partition/partition_file.h"

namespace pando {

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

// Allocates pieces, each as long as possible, until *pieces has room for `entries` entries. *took
// is set if any had to be allocated.
Task<Status> PartitionFile::AllocatePieces(uint64_t entries, std::vector<Extent>* pieces, bool* took) {
  uint64_t room = 0;
  for (Extent e : *pieces) room += EntriesInPiece(e.blocks());
  while (room < entries) {
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
Task<Status> PartitionFile::AllocateMeta(MetaPlaces* places) {
  // The next blocks to be freed (dead_newest_) and the extents that must not be in this bitmap
  // (young_, unreferenced_) change groups as well.
  auto mark = [this](Extent e) {
    allocator_.MarkChanged(static_cast<uint32_t>(e.block() / ExtentAllocator::kGroupBlocks));
  };
  for (const DeadExtent& d : dead_newest_) mark(d.extent);
  for (uint64_t packed : young_) mark(Extent{packed});
  for (uint64_t packed : unreferenced_) mark(Extent{packed});
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
    const uint64_t dead = dead_frozen_.size() + held_extents() + pieces_.size() + allocator_.group_count();
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

// Lists what dies with this checkpoint (*dead), and everything that the next start must treat as
// dead (*dead_on_disk). After a restart nothing is held. Extents that this root does not reach but
// snapshots hold must then become free.
void PartitionFile::ListDead(const MetaPlaces& places, std::vector<DeadExtent>* dead,
                             std::vector<DeadExtent>* dead_on_disk) const {
  *dead = dead_frozen_;
  auto retire = [&](Extent e) { dead->push_back({e, superblock_.generation}); };
  for (Extent e : pieces_) retire(e);
  for (uint32_t g = 0; g < places.bitmaps.size(); ++g) {
    if (!places.bitmaps[g].empty() && g < groups_.size() && groups_[g].block != 0) {
      retire(Extent::Of(groups_[g].block, 1));
    }
  }
  *dead_on_disk = *dead;
  for (const auto& [generation, held] : held_) {
    for (const HeldExtent& e : held.extents) {
      if (e.died <= frozen_generation_) dead_on_disk->push_back(e.dead);
    }
  }
}

// Encodes the bitmaps of the changed groups as reachable from this checkpoint and the previous one
// (D2), and fills in the new directory.
std::vector<MetaWrite> PartitionFile::EncodeBitmaps(const MetaPlaces& places, std::vector<GroupEntry>* groups) {
  std::vector<MetaWrite> writes;
  std::vector<size_t> write_of_group(places.bitmaps.size(), SIZE_MAX);
  for (uint32_t g = 0; g < places.bitmaps.size(); ++g) {
    if (places.bitmaps[g].empty()) continue;
    AlignedBuffer bytes(kBlockBytes);
    allocator_.EncodeGroup(g, bytes.data());
    allocator_.ClearChanged(g);
    write_of_group[g] = writes.size();
    writes.push_back({places.bitmaps[g], std::move(bytes)});
  }
  auto clear = [&](Extent e, bool differs_from_memory) {
    uint32_t g = static_cast<uint32_t>(e.block() / ExtentAllocator::kGroupBlocks);
    CHECK_NE(write_of_group[g], SIZE_MAX);
    char* bits = writes[write_of_group[g]].bytes.data();
    uint64_t first = e.block() % ExtentAllocator::kGroupBlocks;
    for (uint64_t b = first; b < first + e.blocks(); ++b) bits[b / 8] &= static_cast<char>(~(1 << (b % 8)));
    if (differs_from_memory) allocator_.MarkChanged(g);
  };
  // Free in memory too, once this is durable.
  for (const DeadExtent& d : dead_newest_) clear(d.extent, false);
  for (uint64_t packed : young_) clear(Extent{packed}, true);
  for (uint64_t packed : unreferenced_) clear(Extent{packed}, true);
  groups->resize(allocator_.group_count());
  for (uint32_t g = 0; g < places.bitmaps.size(); ++g) {
    if (write_of_group[g] == SIZE_MAX) continue;
    const MetaWrite& write = writes[write_of_group[g]];
    (*groups)[g] = {write.location.block(), MetaChecksum(options_.partition, write.location, write.bytes.data())};
  }
  return writes;
}

// Encodes the metadata as of now. Nothing here suspends, so the result is consistent.
std::vector<MetaWrite> PartitionFile::Serialize(Superblock* next, MetaPlaces* places, std::vector<GroupEntry>* groups,
                                                std::vector<DeadExtent>* dead) {
  serialized_ = true;
  std::vector<DeadExtent> dead_on_disk;
  ListDead(*places, dead, &dead_on_disk);
  TrimPieces(allocator_.group_count(), &places->directory);
  TrimPieces(dead_on_disk.size(), &places->dead);
  *groups = groups_;
  std::vector<MetaWrite> writes = EncodeBitmaps(*places, groups);
  size_t used = 0;
  next->groups = EncodeMetaChain(options_.partition, groups->data(), groups->size(), places->directory, &used, &writes);
  CHECK_EQ(used, places->directory.size());
  next->dead =
      EncodeMetaChain(options_.partition, dead_on_disk.data(), dead_on_disk.size(), places->dead, &used, &writes);
  CHECK_EQ(used, places->dead.size());
  return writes;
}

Task<Status> PartitionFile::WriteMeta(std::vector<MetaWrite> writes) {
  for (const MetaWrite& w : writes) {
    CO_RETURN_IF_ERROR(co_await file_.Write(w.bytes.data(), w.location.size_bytes(), w.location.offset_bytes()));
  }
  co_return Status();
}

// Frees what an attempt that ran out of space had allocated.
void PartitionFile::ReleaseMeta(const MetaPlaces& places) {
  for (const std::vector<Extent>* extents : {&places.directory, &places.dead, &places.bitmaps}) {
    for (Extent e : *extents) {
      if (!e.empty()) allocator_.Free(e);
    }
  }
}

Task<Status> PartitionFile::WriteSuperblock(Superblock* next) {
  SealSuperblock(next);
  AlignedBuffer slot(2 * kBlockBytes);
  std::memcpy(slot.data(), next, sizeof(*next));
  std::memcpy(slot.data() + kBlockBytes, next, sizeof(*next));
  CO_RETURN_IF_ERROR(co_await file_.Write(slot.data(), slot.size(), next->generation % 2 * 2 * kBlockBytes));
  co_return co_await file_.Sync(/*data_only=*/true);
}

Task<Status> PartitionFile::Commit(Superblock content) {
  CHECK(checkpointing_);
  Superblock next = content;
  next.page_bytes = options_.page_bytes;
  next.node = options_.node;
  next.partition = options_.partition;
  next.group_blocks = ExtentAllocator::kGroupBlocks;
  MetaPlaces places;
  if (Status status = co_await AllocateMeta(&places); !status.ok()) {
    ReleaseMeta(places);
    co_return status;
  }
  next.file_blocks = allocator_.total_blocks();
  std::vector<GroupEntry> groups;
  std::vector<DeadExtent> dead;
  std::vector<MetaWrite> writes = Serialize(&next, &places, &groups, &dead);
  // D3: the metadata is flushed before the superblock that refers to it is written.
  Status status = co_await WriteMeta(std::move(writes));
  if (status.ok()) status = co_await file_.Sync(/*data_only=*/true);
  if (status.ok()) status = co_await WriteSuperblock(&next);
  if (!status.ok()) {
    OnIoError(status);
    co_return status;
  }
  // Durable. Blocks that only the generation before the previous one needed are free now.
  for (const DeadExtent& d : dead_newest_) {
    allocator_.Free(d.extent);
    pending_free_blocks_ -= d.extent.blocks();
  }
  for (size_t i = dead_frozen_.size(); i < dead.size(); ++i) pending_free_blocks_ += dead[i].extent.blocks();
  dead_newest_ = std::move(dead);
  dead_frozen_.clear();
  groups_ = std::move(groups);
  pieces_ = std::move(places.directory);
  pieces_.insert(pieces_.end(), places.dead.begin(), places.dead.end());
  older_lsn_ = superblock_.checkpoint_lsn;
  superblock_ = next;
  young_.clear();
  checkpointing_ = serialized_ = false;
  co_return Status();
}

}  // namespace pando
