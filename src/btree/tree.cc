// Tree: lifetime, descents and fetching. Modifications are in tree_write.cc, generations in
// tree_checkpoint.cc.
#include "src/btree/tree.h"

#include <algorithm>

#include "src/base/hash.h"

namespace pando {

Tree::Tree(BufferPool& pool, PageStore& store)
    : PageOwner(store),
      pool_(pool),
      max_key_bytes_(MaxKeyBytes(pool.usable_bytes())),
      max_inline_bytes_(MaxInlineBytes(pool.usable_bytes())),
      checkpoint_progress_(pool.reactor()) {}

Tree::~Tree() { CHECK(root_ == nullptr) << "call Tree::Abandon before destroying the tree"; }

Task<Status> Tree::CreateEmpty() {
  CO_RETURN_IF_ERROR(co_await pool_.EnsureFree(kFramesPerUpdate, this));
  generation_ = 1;
  root_ = NewNode(0, {}, nullptr);
  root_->attached = true;
  co_return Status();
}

Task<Status> Tree::OpenRoot(ChildRef root, uint8_t level, Generation generation, uint64_t next_page_id) {
  PagePin pin;
  while (!pin) CO_RETURN_IF_ERROR(co_await Fetch(root, level, {&pin, 1}));
  root_ = pin.frame();
  root_->attached = true;
  generation_ = generation;
  next_page_id_ = next_page_id;
  co_return Status();
}

void Tree::Forget() {
  abandoned_ = true;
  for (auto& parity : lists_) {
    for (DirtyList& list : parity) list = DirtyList{};
  }
  dirty_count_ = 0;
  root_ = nullptr;
  frozen_.clear();
}

void Tree::Abandon() {
  if (abandoned_) return;
  Forget();
  pool_.DropAll(this);
}

Task<void> Tree::AbandonInTurns() {
  Forget();
  co_await pool_.DropAllInTurns(this);
}

// -- descents -------------------------------------------------------------------------------------

void Tree::Attach(Frame* parent, uint32_t slot, Frame* child) {
  CHECK(!child->attached && child->state == Frame::State::kResident);
  NodeOf(parent).SetChildLocation(slot, child_word::FromFrame(child->id));
  child->attached = true;
  child->parent = parent->id;
  ++parent->frame_children;
}

uint32_t Tree::SlotOfChild(Frame* parent, const Frame* child) const {
  const TreeNode node = NodeOf(parent);
  const uint32_t slot = node.ChildSlot(TreeNode(pool_.data(*child), pool_.usable_bytes()).lower());
  CHECK(node.ChildLocation(slot) == child_word::FromFrame(child->id))
      << "page " << child->page_id << " is not among the children of page " << parent->page_id;
  return slot;
}

// The resident child in `slot` of an attached inner page, or null. A child that the pool holds is
// attached first.
Frame* Tree::ResolveChild(Frame* parent, uint32_t slot, ChildRef* missing) {
  TreeNode node = NodeOf(parent);
  Extent word = node.ChildLocation(slot);
  if (child_word::IsFrame(word)) return &pool_.frame(child_word::Frame(word));
  CHECK(child_word::IsExtent(word)) << "an attached page refers to a child by frozen page id";
  if (Frame* child = pool_.Lookup(this, word)) {
    Attach(parent, slot, child);
    return child;
  }
  *missing = node.LoadChild(slot);
  return nullptr;
}

Frame* Tree::FindNode(std::string_view key, uint8_t level, ChildRef* missing, uint8_t* missing_level) {
  Frame* frame = root_;
  while (frame->level > level) {
    Frame* child = ResolveChild(frame, NodeOf(frame).ChildSlot(key), missing);
    if (!child) {
      *missing_level = frame->level - 1;
      return nullptr;
    }
    frame = child;
  }
  return frame;
}

Frame* Tree::FindLeaf(std::string_view key, ChildRef* missing, uint8_t* missing_level) {
  return FindNode(key, 0, missing, missing_level);
}

bool Tree::IsLeafOf(const Frame& frame, std::string_view key) {
  if (!frame.attached) return false;  // it was cloned, merged away or dropped
  const TreeNode leaf(pool_.data(frame), pool_.page_bytes());
  return key >= leaf.lower() && (!leaf.has_upper() || key < leaf.upper());
}

void Tree::PrefetchRecord(const Frame& leaf, std::string_view key) const {
  if (!leaf.attached) return;
  constexpr uint32_t kLine = 64, kMaxBytes = 1088;  // a record of 1 KB, to be overwritten
  char* page = pool_.data(leaf);
  const TreeNode node(page, pool_.page_bytes());
  __builtin_prefetch(node.upper().data());
  const std::string_view prefix = node.prefix();
  if (key.size() < prefix.size() || node.count() == 0) return;
  const uint32_t slot = std::min(node.GuessSlot(key), node.count() - 1);
  const uint32_t begin = node.slots()[slot].offset;
  const uint32_t end = std::min(begin + kMaxBytes, pool_.page_bytes());
  for (uint32_t at = begin; at < end; at += kLine) __builtin_prefetch(page + at, 1);
}

std::optional<FoundRecord> Tree::FindInLeaf(Frame* leaf, std::string_view key) {
  TreeNode node = NodeOf(leaf);
  bool exact = false;
  uint32_t slot = node.LowerBound(key, &exact);
  if (!exact) return std::nullopt;
  return FoundRecord{node.prefix(), node.Record(slot)};
}

// -- fetching -------------------------------------------------------------------------------------

Task<Status> Tree::Fetch(ChildRef missing, uint8_t level, std::span<PagePin> keep, size_t slot) {
  Result<PagePin> pin = co_await pool_.Load(this, missing, level);
  if (pin.ok()) {
    keep[slot] = *std::move(pin);
  } else if (pin.code() == Code::kAborted) {
    // Pins held while waiting could keep other waiters from ever getting room.
    for (PagePin& kept : keep) kept.Release();
    CO_RETURN_IF_ERROR(co_await pool_.WaitForRoom(1, this));
  } else {
    co_return pin.TakeStatus();
  }
  co_return Status();
}

Task<Result<PagePin>> Tree::FetchLeaf(std::string key) {
  PagePin loaded;
  for (;;) {
    ChildRef missing;
    uint8_t level = 0;
    if (Frame* leaf = FindLeaf(key, &missing, &level)) {
      pool_.Touch(leaf);
      co_return pool_.Pin(leaf);
    }
    // The tree may change during the read: descend again from the root.
    CO_RETURN_IF_ERROR(co_await Fetch(missing, level, {&loaded, 1}));
  }
}

Task<Result<PagePin>> Tree::FetchLeafBefore(std::string before) {
  PagePin loaded;
  for (;;) {
    Frame* frame = root_;
    ChildRef missing;
    while (frame && frame->level > 0) {
      TreeNode node = NodeOf(frame);
      uint32_t slot = before.empty() ? node.count() - 1 : node.ChildSlotBefore(before);
      Frame* child = ResolveChild(frame, slot, &missing);
      if (!child) CO_RETURN_IF_ERROR(co_await Fetch(missing, static_cast<uint8_t>(frame->level - 1), {&loaded, 1}));
      frame = child;
    }
    if (frame) {
      pool_.Touch(frame);
      co_return pool_.Pin(frame);
    }
  }
}

namespace {
Task<void> LoadQuietly(BufferPool* pool, Tree* tree, ChildRef ref, uint8_t level) {
  // An error surfaces again when the scan or the descent reaches this page.
  Result<PagePin> pin = co_await pool->Load(tree, ref, level);
  (void)pin.ok();
}
}  // namespace

Frame* Tree::LeafParent(Generation view, std::string_view key, bool before, ChildRef* missing, uint8_t* missing_level) {
  const TreeSnapshot* snapshot = view == 0 ? nullptr : &snapshots_.at(view);
  uint8_t level = snapshot ? snapshot->root_level : root_->level;
  if (level == 0) return nullptr;
  Frame* frame = snapshot ? SnapshotRoot(*snapshot, missing) : root_;
  *missing_level = level;
  for (; frame && level > 1; --level) {
    const TreeNode node = NodeOf(frame);
    const uint32_t slot = !before ? node.ChildSlot(key) : key.empty() ? node.count() - 1 : node.ChildSlotBefore(key);
    frame = snapshot ? SnapshotChild(frame, slot, missing) : ResolveChild(frame, slot, missing);
    *missing_level = static_cast<uint8_t>(level - 1);
  }
  return frame;
}

// Adds the children of `parent` that the scan needs from *at on, and moves *at past them.
void Tree::AddChildrenAhead(Frame* parent, const ScanAhead& scan, std::string* at, AheadWalk* walk) {
  const TreeNode node = NodeOf(parent);
  const uint32_t count = node.count();
  uint32_t slot = 0, last = 0;
  if (scan.reverse) {
    slot = at->empty() ? count - 1 : node.ChildSlotBefore(*at);
    last = scan.bound <= node.lower() ? 0 : node.ChildSlot(scan.bound);
    walk->covered.all = node.lower().empty() || scan.bound >= node.lower();
  } else {
    slot = node.ChildSlot(*at);
    const bool beyond = scan.bound.empty() || (node.has_upper() && scan.bound > node.upper());
    last = beyond ? count - 1 : node.ChildSlotBefore(scan.bound);
    walk->covered.all = !node.has_upper() || (!scan.bound.empty() && scan.bound <= node.upper());
  }
  *at = scan.reverse ? node.lower() : node.upper();
  const auto steps =
      static_cast<uint32_t>(std::max<int64_t>((scan.reverse ? int64_t{slot} - last : int64_t{last} - slot) + 1, 0));
  for (uint32_t step = 0; step < steps; ++step, slot += scan.reverse ? -1 : 1) {
    if (walk->HasEnough(scan) || walk->covered.leaves >= scan.leaves) {
      walk->covered.all = walk->HasEnough(scan);
      return;
    }
    ChildRef child;
    uint64_t rows = 0, bytes = 0;
    if (KnownChild(parent, slot, &child)) {
      rows = child.count;
      bytes = child.bytes;
      if (!child_word::IsFrame(node.ChildLocation(slot))) {  // else it is in memory
        walk->unread.push_back(child);
        walk->numbers.push_back(walk->covered.leaves);
      }
    } else if (const Extent word = node.ChildLocation(slot); child_word::IsFrame(word)) {
      const TreeNode leaf = NodeOf(&pool_.frame(child_word::Frame(word)));
      rows = leaf.count();
      bytes = leaf.UsedBytes();
    } else {
      rows = 1;  // a dirty leaf of an older state, of which there are few
    }
    // The scan begins somewhere within the first leaf.
    if (walk->covered.leaves++ == 0) rows /= 2, bytes /= 2;
    walk->rows += rows;
    walk->bytes += bytes;
  }
}

LeavesAhead Tree::ReadAhead(Generation view, const ScanAhead& scan, TaskGroup* tasks) {
  if (!pool_.MayReadAhead()) return {};
  AheadWalk walk;
  std::string at(scan.from);
  while (!walk.covered.all && walk.covered.leaves < scan.leaves) {
    ChildRef missing;
    uint8_t level = 0;
    Frame* parent = LeafParent(view, at, scan.reverse, &missing, &level);
    if (!parent) {
      // The scan itself waits for the first one. Those of a snapshot are not read ahead: it may end before they come.
      const bool ahead = walk.covered.leaves > 0 && view == 0 && !missing.location.empty();
      if (ahead && pool_.MakeRoom(1)) tasks->Spawn(LoadQuietly(&pool_, this, missing, level));
      break;
    }
    AddChildrenAhead(parent, scan, &at, &walk);
    walk.covered.all |= walk.HasEnough(scan);
  }
  walk.covered.looked_at = walk.covered.leaves;
  // The scan reads a single leaf itself.
  if (walk.covered.leaves > 1) {
    // However many are in memory, the scan needs the others.
    constexpr size_t kLeastPart = 4;
    const size_t in_memory = walk.covered.leaves - walk.unread.size();
    const size_t left = scan.most_pages - std::min(scan.most_pages, in_memory);
    const size_t most_pages = std::max(left, scan.most_pages / kLeastPart);
    const BufferPool::StartedReads started = pool_.LoadAhead(this, walk.unread, most_pages, tasks);
    walk.covered.pages = started.pages;
    walk.covered.reads = started.reads;
    if (started.covered < walk.unread.size()) {
      walk.covered.leaves = walk.numbers[started.covered];
      walk.covered.all = false;
    }
  }
  return walk.covered;
}

Task<void> Tree::FetchAhead(std::vector<std::string> keys) {
  // Each round takes every descent one level further down.
  for (uint8_t round = 0; round < root_->level; ++round) {
    TaskGroup loads;
    for (const std::string& key : keys) {
      ChildRef missing;
      uint8_t level = 0;
      if (FindLeaf(key, &missing, &level) || !pool_.MakeRoom(1)) continue;
      loads.Spawn(LoadQuietly(&pool_, this, missing, level));
    }
    if (loads.running() == 0) break;
    co_await loads.Drain();
  }
}

Task<Result<PagePin>> Tree::FetchOverflow(OverflowRef ref, uint32_t value_bytes) {
  Result<PagePin> pin = co_await pool_.LoadOverflow(this, ref.location, ref.checksum, value_bytes);
  if (pin.code() == Code::kAborted) CO_RETURN_IF_ERROR(co_await pool_.WaitForRoom(pool_.FramesFor(value_bytes), this));
  co_return pin;
}

}  // namespace pando
