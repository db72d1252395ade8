// Tree: generations, write-back and checkpoints.
#include <algorithm>

#include "src/base/hash.h"
#include "src/btree/tree.h"

namespace pando {
namespace {
constexpr uint8_t kOverflowList = kMaxTreeHeight;
constexpr uint8_t kParityShift = 6;
constexpr uint8_t kUnlisted = 0xff;
// A page whose share of dead bytes is at least 1/kDeadDivisor is compacted when it is written.
constexpr uint32_t kDeadDivisor = 16;
// Costs in units of the turn budget.
constexpr uint32_t kWriteBytesPerUnit = 32;  // of a page compressed and hashed
constexpr uint32_t kForgottenUnits = 2;      // per entry of the frozen table freed
}  // namespace

// -- dirty lists. A checkpoint processes them level by level, so that children are on disk before
// their parents.

void Tree::ListAdd(Frame* frame, uint8_t parity) {
  CHECK_EQ(frame->dirty_list, kUnlisted);
  uint8_t index = frame->overflow ? kOverflowList : frame->level;
  frame->dirty_list = static_cast<uint8_t>(parity << kParityShift | index);
  DirtyList& list = ListOf(frame->dirty_list);
  frame->dirty_prev = list.tail;
  frame->dirty_next = nullptr;
  (list.tail ? list.tail->dirty_next : list.head) = frame;
  list.tail = frame;
  ++list.size;
  ++dirty_count_;
}

void Tree::ListRemove(Frame* frame) {
  CHECK_NE(frame->dirty_list, kUnlisted);
  DirtyList& list = ListOf(frame->dirty_list);
  (frame->dirty_prev ? frame->dirty_prev->dirty_next : list.head) = frame->dirty_next;
  (frame->dirty_next ? frame->dirty_next->dirty_prev : list.tail) = frame->dirty_prev;
  frame->dirty_prev = frame->dirty_next = nullptr;
  frame->dirty_list = kUnlisted;
  --list.size;
  --dirty_count_;
}

// -- write-back callbacks of the pool -------------------------------------------------------------

// Nullopt when the child is not on disk.
std::optional<ChildRef> Tree::DiskRefOf(const ChildRef& child) const {
  if (child_word::IsFrame(child.location)) {
    const Frame& frame = pool_.frame(child_word::Frame(child.location));
    if (frame.dirty) return std::nullopt;
    return frame.disk;
  }
  if (child_word::IsFrozen(child.location)) {
    auto entry = frozen_.find(child_word::FrozenId(child.location));
    CHECK(entry != frozen_.end()) << "a detached page refers to a page that is not in the frozen table";
    if (entry->second.frame) return std::nullopt;
    return entry->second.ref;
  }
  return child;
}

bool Tree::PrepareForDisk(const Frame& frame, char* page, ChildRef* ref) {
  TreeNode node(page, pool_.usable_bytes());
  // Deleted bytes still occupy the heap. Without compaction, an emptied leaf takes as much disk
  // space as a full one.
  if (node.header().heap_dead >= pool_.usable_bytes() / kDeadDivisor) node.Compact();
  Aggregates sum;
  if (frame.level == 0) {
    AddRecords(node, 0, node.count(), /*now_ms=*/0, &sum);
  } else {
    for (uint32_t i = 0; i < node.count(); ++i) {
      std::optional<ChildRef> child = DiskRefOf(node.LoadChild(i));
      if (!child) return false;
      node.StoreChild(i, *child);
      sum.Add(*child);
    }
  }
  ref->count = sum.count;
  ref->bytes = sum.bytes;
  ref->content_hash = sum.content_hash;
  ref->earliest_expiry_ms = sum.earliest_expiry_ms;
  return true;
}

size_t Tree::NeighborsOf(const Frame& frame, std::span<Extent> neighbors) {
  if (frame.roams || !frame.attached || frame.parent == kNoFrame) return 0;
  Frame* parent = &pool_.frame(frame.parent);
  return SiblingPlaces(parent, SlotOfChild(parent, &frame), neighbors);
}

// Where some other children of `parent` are, or will soon be, those closest to `slot` first: at distances 1, 3, 6, 10
// and so on, because a few that are spread over the parent tell where most of them are. Returns their number.
size_t Tree::SiblingPlaces(Frame* parent, uint32_t slot, std::span<Extent> places) {
  const TreeNode node = NodeOf(parent);
  const uint32_t count = node.count();
  size_t found = 0;
  auto add = [&](uint32_t at) {
    if (found == places.size()) return;
    const Extent word = node.ChildLocation(at);
    const bool in_memory = child_word::IsFrame(word);
    if (!in_memory && !child_word::IsExtent(word)) return;
    const Extent place = in_memory ? pool_.frame(child_word::Frame(word)).last_place : word;
    if (!place.empty()) places[found++] = place;
  };
  for (uint32_t distance = 1, step = 1; found < places.size() && distance < count; distance += ++step) {
    if (slot >= distance) add(slot - distance);
    if (slot + distance < count) add(slot + distance);
  }
  return found;
}

void Tree::OnWriteEnded(Frame& frame, bool valid) {
  checkpoint_progress_.NotifyAll();
  if (!valid) return;
  ListRemove(&frame);
  frame.roams = false;
  if (frame.overflow) {
    if (frame.superseded) pool_.Drop(&frame);
    return;
  }
  store().AdoptExtent(frame.disk.location, frame.birth);
  if (checkpointing_ && frame.page_id == frozen_root_id_ && frame.birth <= frozen_generation_) {
    frozen_root_ref_ = frame.disk;
    auto snapshot = snapshots_.find(frozen_generation_);
    if (snapshot != snapshots_.end()) snapshot->second.root = frame.disk;
  }
  if (frame.frozen_listed) {
    frozen_[frame.page_id] = {nullptr, frame.disk};
    frame.frozen_listed = false;
  }
  if (!frame.attached) {
    // The newest tree has replaced this page. Only the root being checkpointed refers to it.
    FreeExtent(frame.disk.location, frame.disk.birth);
    pool_.Drop(&frame);
  }
}

void Tree::OnEvict(Frame& frame) {
  if (abandoned_) return;  // its parent may be gone
  Frame* parent = Parent(&frame);
  NodeOf(parent).StoreChild(SlotOfChild(parent, &frame), frame.disk);
  --parent->frame_children;
}

// -- checkpoints ----------------------------------------------------------------------------------

void Tree::EndGeneration() {
  CHECK(!checkpointing_) << "EndGeneration before the last checkpoint has finished";
  checkpointing_ = true;
  frozen_generation_ = generation_;
  frozen_root_id_ = root_->page_id;
  frozen_root_level_ = root_->level;
  frozen_root_ref_ = root_->dirty ? ChildRef{} : root_->disk;
  ++generation_;
  parity_ ^= 1;
  for (const DirtyList& list : lists_[parity_])
    CHECK_EQ(list.size, 0u) << "pages of two generations ago are still dirty";
}

Task<void> Tree::WriteOne(Frame* frame, Status* first_error, size_t* in_flight) {
  Status status = co_await pool_.WriteBack(frame);
  --*in_flight;
  if (!status.ok() && first_error->ok()) *first_error = std::move(status);
  checkpoint_progress_.NotifyAll();
}

Task<Result<FrozenRoot>> Tree::WriteFrozen(size_t max_in_flight, std::function<Task<void>()> pace) {
  CHECK(checkpointing_);
  TaskGroup writes;
  Status error;
  size_t in_flight = 0;
  TurnSlice slice(pool_.turn());
  DirtyList* lists = lists_[parity_ ^ 1];
  // Overflow values first, then leaves, then inner pages level by level.
  uint8_t order[kLists];
  order[0] = kOverflowList;
  for (uint8_t level = 0; level < kMaxTreeHeight; ++level) order[level + 1] = level;
  for (uint8_t index : order) {
    DirtyList& list = lists[index];
    while (list.size > 0 && error.ok()) {
      // Pages already being written, by this loop or by the pool's cleaner, move to the tail. When
      // all pages of the list are being written, wait for one to finish. OnWriteEnded may remove
      // pages from the list meanwhile, so the loop looks at it afresh.
      size_t looked = 0;
      while (list.head->writing && looked++ < list.size) {
        Frame* first = list.head;
        ListRemove(first);
        ListAdd(first, parity_ ^ 1);
      }
      if (list.head->writing || in_flight >= max_in_flight) {
        co_await checkpoint_progress_.Wait();
        continue;
      }
      ++in_flight;
      writes.Spawn(WriteOne(list.head, &error, &in_flight));
      if (pace) co_await pace();
      if (slice.Spend(pool_.page_bytes() / kWriteBytesPerUnit)) co_await Yield(pool_.reactor());
    }
  }
  co_await writes.Drain();
  if (!error.ok()) co_return error;
  CHECK(!frozen_root_ref_.location.empty());
  co_return FrozenRoot{frozen_generation_, frozen_root_level_, frozen_root_ref_};
}

Task<void> Tree::FinishCheckpoint() {
  CHECK(checkpointing_);
  // Everything is on disk, so no resident page names another by page id any more. The table can be
  // freed in pieces, with other tasks running in between.
  std::unordered_map<uint64_t, FrozenEntry> written;
  written.swap(frozen_);
  checkpointing_ = false;
  TurnSlice slice(pool_.turn());
  while (!written.empty()) {
    auto first = written.begin();
    CHECK(first->second.frame == nullptr) << "page " << first->first << " of the frozen generation was never written";
    written.erase(first);
    if (slice.Spend(kForgottenUnits)) co_await Yield(pool_.reactor());
  }
}

}  // namespace pando
