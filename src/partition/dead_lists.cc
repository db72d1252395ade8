#include "src/partition/dead_lists.h"

#include <algorithm>
#include <utility>

#include "src/base/check.h"

namespace pando {
namespace {

uint32_t GroupOf(const DeadExtent& dead) {
  return static_cast<uint32_t>(dead.extent.block() / ExtentAllocator::kGroupBlocks);
}

}  // namespace

void DeadLists::Begin(Generation durable, std::vector<DeadExtent> dead) {
  CHECK_EQ(durable_, 0u);
  durable_ = frozen_ = durable;
  newest_ = std::move(dead);
  for (const DeadExtent& d : newest_) pending_blocks_ += d.extent.blocks();
}

// Applies the rule at the top of dead_lists.h to one extent.
void DeadLists::Place(const DeadExtent& dead, Generation died) {
  auto held = held_.lower_bound(died);
  if (held != held_.begin() && std::prev(held)->first >= dead.birth) {
    Held& youngest = std::prev(held)->second;
    (died < durable_ ? youngest.settled : youngest.recent[died]).push_back(dead);
    held_blocks_ += dead.extent.blocks();
    ++held_extents_;
    return;
  }
  if (died < durable_) {
    allocator_.Free(dead.extent);
    return;
  }
  pending_blocks_ += dead.extent.blocks();
  if (died == durable_) {
    CHECK(!fixed_) << "D6: a checkpoint whose dead list is fixed would free it too late";
    newest_.push_back(dead);
    // A checkpoint that ran out of space may have made it transient.
    allocator_.ClearTransient(dead.extent);
    allocator_.MarkChanged(GroupOf(dead));
    return;
  }
  const bool frozen = checkpointing_ && died <= frozen_;
  CHECK(!frozen || !fixed_) << "D7: the dead list that is being written does not name it";
  (frozen ? frozen_dead_ : current_).push_back(dead);
}

// PlaceHeld and PlaceDead: the caller has locked the lists, has taken the extents off their list,
// and has added those that died after durable_ to in_hand_. While these functions yield, Add may
// place more extents and EndGeneration may move current_ to frozen_dead_. Both agree with what
// Place decides from then on.
Task<void> DeadLists::PlaceHeld(Extents extents, Generation died) {
  TurnSlice slice(turn_);
  while (!extents.empty()) {
    const DeadExtent dead = extents.back();
    extents.pop_back();
    held_blocks_ -= dead.extent.blocks();
    --held_extents_;
    Place(dead, died);
    if (died > durable_) --in_hand_;
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

Task<void> DeadLists::PlaceDead(std::vector<DeadExtent> extents, Generation died) {
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : extents) {
    pending_blocks_ -= dead.extent.blocks();
    Place(dead, died);
    --in_hand_;
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

uint64_t DeadLists::entries_to_list() const {
  uint64_t entries = current_.size() + frozen_dead_.size() + in_hand_;
  for (const auto& [generation, held] : held_) {
    for (auto died = held.recent.upper_bound(durable_); died != held.recent.end(); ++died) {
      entries += died->second.size();
    }
  }
  return entries;
}

// -- checkpoints

void DeadLists::EndGeneration(Generation frozen) {
  CHECK(!checkpointing_ && frozen_dead_.empty());
  checkpointing_ = true;
  frozen_ = frozen;
  frozen_dead_.swap(current_);
}

// Nothing dies in the frozen generation any more, and with the lists locked nothing is released
// into it. So the lists that this walks do not change.
Task<std::vector<DeadExtent>> DeadLists::ListFrozen() {
  std::vector<DeadExtent> listed;
  listed.reserve(frozen_dead_.size());
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : frozen_dead_) {
    listed.push_back(dead);
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
  for (const auto& [generation, held] : held_) {
    auto died = held.recent.find(frozen_);
    if (died == held.recent.end()) continue;
    for (const DeadExtent& dead : died->second) {
      listed.push_back(dead);
      if (slice.Spend(1)) co_await Yield(reactor_);
    }
  }
  co_return listed;
}

Task<void> DeadLists::MarkUnreached() {
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : newest_) {
    allocator_.MarkChanged(GroupOf(dead));
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
  for (const auto& [generation, held] : held_) {
    auto died = held.recent.find(durable_);
    if (died == held.recent.end()) continue;
    for (const DeadExtent& dead : died->second) {
      allocator_.SetTransient(dead.extent);
      if (slice.Spend(1)) co_await Yield(reactor_);
    }
  }
}

std::vector<DeadExtent> DeadLists::Advance(const std::vector<DeadExtent>& metadata) {
  CHECK(checkpointing_ && fixed_);
  std::vector<DeadExtent> reusable = std::exchange(newest_, std::exchange(frozen_dead_, {}));
  newest_.insert(newest_.end(), metadata.begin(), metadata.end());
  for (const DeadExtent& dead : metadata) pending_blocks_ += dead.extent.blocks();
  durable_ = frozen_;
  checkpointing_ = fixed_ = false;
  return reusable;
}

// While this yields, Hold may add generations and Add may add extents of younger generations.
Task<void> DeadLists::Settle() {
  TurnSlice slice(turn_);
  for (auto& [generation, held] : held_) {
    while (!held.recent.empty() && held.recent.begin()->first < durable_) {
      Extents& died = held.recent.begin()->second;
      while (!died.empty()) {
        held.settled.push_back(died.back());
        died.pop_back();
        if (slice.Spend(1)) co_await Yield(reactor_);
      }
      held.recent.erase(held.recent.begin());
    }
  }
}

Task<void> DeadLists::Reuse(std::vector<DeadExtent> extents) {
  TurnSlice slice(turn_);
  for (const DeadExtent& dead : extents) {
    allocator_.Free(dead.extent);
    pending_blocks_ -= dead.extent.blocks();
    if (slice.Spend(1)) co_await Yield(reactor_);
  }
}

// -- holds

void DeadLists::Release(Generation generation) {
  auto released = held_.find(generation);
  CHECK(released != held_.end() && released->second.holds > 0) << "generation " << generation << " is not held";
  if (--released->second.holds > 0 || releasing_) return;
  releasing_ = true;
  tasks_.Spawn(PlaceReleased());
}

Task<void> DeadLists::PlaceReleased() {
  // A running checkpoint lists what is held. It would miss extents that moved meanwhile, or list
  // them twice.
  co_await Lock();
  // With the lists locked, fixed_ means that a checkpoint failed on I/O. The engine stops then, and
  // the lists stay as that checkpoint may have written them.
  while (!fixed_) {
    auto released = std::find_if(held_.begin(), held_.end(), [](const auto& held) { return held.second.holds == 0; });
    if (released == held_.end()) break;
    const Generation generation = released->first;
    Held held = std::move(released->second);
    held_.erase(released);
    for (const auto& [died, extents] : held.recent) in_hand_ += died > durable_ ? extents.size() : 0;
    for (auto& [died, extents] : held.recent) co_await PlaceHeld(std::move(extents), died);
    // When exactly these died does not matter any more, only that it was before durable_ and that
    // they do not belong to a younger generation that is held.
    co_await PlaceHeld(std::move(held.settled), generation + 1);
  }
  releasing_ = false;
  Unlock();
}

// Extents that died since the newest durable generation ended may belong to it. They are on the
// dead lists of younger generations, or on the list of an older held generation. (Extents on the
// list of a younger held generation stay there.)
Task<void> DeadLists::HoldDurable() {
  const Generation newest = durable_;
  Hold(newest);
  // Both lists are taken at one moment, because a generation may end while this function yields.
  std::vector<DeadExtent> frozen = std::exchange(frozen_dead_, {}), current = std::exchange(current_, {});
  const Generation died = frozen_ + 1;
  in_hand_ += frozen.size() + current.size();
  co_await PlaceDead(std::move(frozen), died - 1);
  co_await PlaceDead(std::move(current), died);
  // Nothing is appended to the lists of older generations now that a younger one is held.
  TurnSlice slice(turn_);
  for (auto older = held_.begin(); older->first < newest; ++older) {
    auto recent = older->second.recent.upper_bound(newest);
    while (recent != older->second.recent.end()) {
      Extents& to = held_[newest].recent[recent->first];
      while (!recent->second.empty()) {
        to.push_back(recent->second.back());
        recent->second.pop_back();
        if (slice.Spend(1)) co_await Yield(reactor_);
      }
      recent = older->second.recent.erase(recent);
    }
  }
}

}  // namespace pando
