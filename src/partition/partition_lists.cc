// PartitionFile: where an extent that died waits until it may be reused.
//
// An extent that was born in generation b and died in generation d belongs to the generations b to
// d - 1. It waits on the list of the youngest of these generations that is held. If none is held,
// it waits on the dead list of generation d until D1 allows its reuse. Place() applies this rule to
// one extent. A release and HoldNewest change which generations are held. They apply the rule again
// to the extents concerned, in slices, while they hold lists_.
#include <algorithm>
#include <utility>

#include "src/partition/partition_file.h"

namespace pando {

void PartitionFile::Place(const DiedExtent& extent) {
  const auto& [dead, died] = extent;
  auto held = held_.lower_bound(died);
  if (held != held_.begin() && std::prev(held)->first >= dead.birth) {
    std::prev(held)->second.extents.push_back(extent);
    held_blocks_ += dead.extent.blocks();
    return;
  }
  if (died < superblock_.generation) {
    allocator_.Free(dead.extent);
    return;
  }
  pending_free_blocks_ += dead.extent.blocks();
  if (died == superblock_.generation) {
    CHECK(!serialized_) << "the dead list that is being written does not name it";
    dead_newest_.push_back(dead);
    allocator_.MarkChanged(static_cast<uint32_t>(dead.extent.block() / ExtentAllocator::kGroupBlocks));
    return;
  }
  const bool frozen = checkpointing_ && died <= frozen_generation_;
  CHECK(!frozen || !serialized_) << "the dead list that is being written does not name it";
  (frozen ? dead_frozen_ : dead_current_).push_back(dead);
}

// PlaceHeld and PlaceDead: the caller holds lists_, has taken the extents off their list, and has
// added them to in_hand_. While they yield, FreeLater may place more extents and EndGeneration may
// move dead_current_ to dead_frozen_. Both agree with what Place decides from then on.
Task<void> PartitionFile::PlaceHeld(std::deque<DiedExtent> extents) {
  TurnSlice slice(turn_);
  while (!extents.empty()) {
    const DiedExtent extent = extents.back();
    extents.pop_back();
    held_blocks_ -= extent.dead.extent.blocks();
    Place(extent);
    --in_hand_;
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

Task<void> PartitionFile::PlaceDead(std::vector<DeadExtent> extents, Generation died) {
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : extents) {
    pending_free_blocks_ -= dead.extent.blocks();
    Place({dead, died});
    --in_hand_;
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

void PartitionFile::FreeLater(DeadExtent dead) { Place({dead, frozen_generation_ + 1}); }

void PartitionFile::ReleaseGeneration(Generation generation) {
  auto released = held_.find(generation);
  CHECK(released != held_.end() && released->second.holds > 0) << "generation " << generation << " is not held";
  if (--released->second.holds > 0 || releasing_generations_) return;
  releasing_generations_ = true;
  tasks_.Spawn(PlaceReleased());
}

Task<void> PartitionFile::PlaceReleased() {
  // A running commit lists what is held. It would miss extents that moved meanwhile, or list them
  // twice.
  co_await lists_.Acquire();
  // With lists_ held, serialized_ means that a commit failed on I/O. The engine stops then, and the
  // lists stay as that commit may have written them.
  while (!serialized_) {
    auto released = std::find_if(held_.begin(), held_.end(), [](const auto& held) { return held.second.holds == 0; });
    if (released == held_.end()) break;
    std::deque<DiedExtent> extents = std::move(released->second.extents);
    held_.erase(released);
    in_hand_ += extents.size();
    co_await PlaceHeld(std::move(extents));
  }
  releasing_generations_ = false;
  lists_.Release();
}

// Extents that died since the newest durable generation ended may belong to it. They are on the
// dead lists of younger generations, or on the list of an older held generation. (Extents on the
// list of a younger held generation stay there.)
Task<Superblock> PartitionFile::HoldNewest() {
  co_await lists_.Acquire();
  const Superblock newest = superblock_;
  HoldGeneration(newest.generation);
  // Both lists are taken at one moment, because a generation may end while this function yields.
  std::vector<DeadExtent> frozen = std::exchange(dead_frozen_, {}), current = std::exchange(dead_current_, {});
  const Generation died = frozen_generation_ + 1;
  in_hand_ += frozen.size() + current.size();
  co_await PlaceDead(std::move(frozen), died - 1);
  co_await PlaceDead(std::move(current), died);
  // Nothing is appended to the lists of older generations now that a younger one is held.
  TurnSlice slice(turn_);
  for (auto held = held_.begin(); held->first < newest.generation; ++held) {
    std::deque<DiedExtent>& older = held->second.extents;
    for (size_t i = 0; i < older.size();) {
      if (older[i].died > newest.generation) {
        held_[newest.generation].extents.push_back(older[i]);
        older[i] = older.back();
        older.pop_back();
      } else {
        ++i;
      }
      if (slice.Spend(1)) co_await Yield(reactor_);
    }
  }
  lists_.Release();
  co_return newest;
}

uint64_t PartitionFile::held_extents() const {
  uint64_t extents = in_hand_;
  for (const auto& [generation, held] : held_) extents += held.extents.size();
  return extents;
}

}  // namespace pando
