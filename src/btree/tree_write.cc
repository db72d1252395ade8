// Tree: copy-on-write, inserts and splits, deletes and merges.
#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "src/base/hash.h"
#include "src/btree/tree.h"
#include "src/buffer_pool/extent_allocator.h"

namespace pando {

// -- copy-on-write --------------------------------------------------------------------------------

void Tree::FreeExtent(Extent extent, Generation birth) {
  if (extent.empty()) return;
  if (birth == generation_) {
    store().FreeNow(extent);
  } else {
    store().FreeLater({extent, birth});
  }
}

Frame* Tree::MakePathWritable(Frame* frame) {
  if (frame->birth == generation_ && frame->dirty) return frame;  // by C2, so are its ancestors
  FrameId path[kMaxTreeHeight + 1];
  size_t depth = 0;
  for (Frame* f = frame; f; f = Parent(f)) path[depth++] = f->id;
  Frame* writable = nullptr;
  // From the root down, so that the parent of a clone is already writable.
  while (depth > 0) writable = MakeWritable(&pool_.frame(path[--depth]));
  return writable;
}

Frame* Tree::MakeWritable(Frame* frame) {
  if (frame->birth == generation_ && frame->dirty) return frame;
  if (frame->dirty) return Clone(frame);  // frozen; the checkpoint must still write it
  // The content is on disk, so the frame itself becomes the page's new version.
  Extent old = frame->disk.location;
  Generation old_birth = frame->disk.birth;
  // An image of the parent that is being written now holds an outdated reference to this page.
  if (Frame* parent = Parent(frame)) ++parent->modifications;
  pool_.MarkDirty(frame);
  frame->disk = ChildRef{};
  frame->birth = generation_;
  HeaderOf(pool_.data(*frame)).birth = generation_;
  ListAdd(frame);
  FreeExtent(old, old_birth);
  return frame;
}

Frame* Tree::Clone(Frame* old) {
  CHECK(checkpointing_ && old->birth <= frozen_generation_) << "cloning a page that is not frozen";
  Frame* clone = pool_.NewPage(this, old->level);
  char* page = pool_.data(*clone);
  std::memcpy(page, pool_.data(*old), pool_.usable_bytes());
  clone->page_id = next_page_id_++;
  clone->birth = generation_;
  clone->last_place = old->last_place;
  clone->roams = old->roams;
  HeaderOf(page).page_id = clone->page_id;
  HeaderOf(page).birth = generation_;
  clone->attached = true;
  clone->parent = old->parent;
  if (Frame* parent = Parent(old)) {
    NodeOf(parent).SetChildLocation(SlotOfChild(parent, old), child_word::FromFrame(clone->id));
    ++parent->modifications;
    CHECK(old->frozen_listed) << "the frozen table lacks the dirty child of a cloned parent";
  } else {
    frozen_[old->page_id].frame = old;  // snapshots of this generation find their root here
    old->frozen_listed = true;
    root_ = clone;
  }
  if (old->level > 0) DetachChildren(old, clone);
  old->attached = false;
  old->parent = kNoFrame;
  ListAdd(clone);
  return clone;
}

size_t Tree::ClonesNeeded(std::span<Frame* const> leaves) {
  if (!checkpointing_) return 0;
  std::unordered_set<FrameId> clones;
  for (Frame* frame : leaves) {
    for (; frame && frame->birth != generation_ && frame->dirty; frame = Parent(frame)) {
      if (!clones.insert(frame->id).second) break;
    }
  }
  return clones.size();
}

// `to` is a copy of `from` and takes over its children. `from` then refers to them by extent, or by
// page id while they are unwritten.
void Tree::DetachChildren(Frame* from, Frame* to) {
  TreeNode node = NodeOf(from);
  for (uint32_t i = 0; i < node.count(); ++i) {
    Extent word = node.ChildLocation(i);
    if (!child_word::IsFrame(word)) continue;
    Frame& child = pool_.frame(child_word::Frame(word));
    child.parent = to->id;
    if (child.dirty) {
      node.SetChildLocation(i, child_word::FromFrozen(child.page_id));
      frozen_[child.page_id].frame = &child;
      child.frozen_listed = true;
    } else {
      node.StoreChild(i, child.disk);
    }
  }
  to->frame_children = std::exchange(from->frame_children, 0);
}

Frame* Tree::NewNode(uint8_t level, std::string_view lower, const std::string_view* upper) {
  CHECK_LT(level, kMaxTreeHeight);
  Frame* frame = pool_.NewPage(this, level);
  frame->page_id = next_page_id_++;
  frame->birth = generation_;
  TreeNode::Format(pool_.data(*frame), pool_.usable_bytes(), level, lower, upper, frame->page_id, generation_);
  ListAdd(frame);
  return frame;
}

// Drops a page that nothing in the newest tree refers to any more. It is writable, so it was born
// in this generation.
void Tree::DropPage(Frame* frame) {
  CHECK(frame->birth == generation_ && frame->dirty && frame->frame_children == 0);
  ListRemove(frame);
  pool_.Drop(frame);
}

// -- inserts --------------------------------------------------------------------------------------

void Tree::FreeOverflow(const RecordView& record) {
  const OverflowRef& ref = record.overflow_ref;
  Frame* frame = pool_.LookupAny(this, ref.location);
  bool now = ref.birth == generation_;
  if (frame && frame->dirty && !now) {
    // The value is frozen and the checkpoint still has to write it. OnWriteEnded drops it then.
    frame->superseded = true;
  } else if (frame) {
    if (frame->dirty) ListRemove(frame);
    if (now) store().OrphanExtent(ref.location);
    pool_.Drop(frame, now);
  } else if (now) {
    store().FreeNow(ref.location);
  }
  if (!now) store().FreeLater({ref.location, ref.birth});
}

void Tree::Upsert(Frame* leaf, std::string_view key, const NewValue& value, std::optional<LeafSlot> at) {
  leaf = MakePathWritable(leaf);  // a clone has the same slots
  RecordView record;
  record.version = value.version;
  record.expires_at_ms = value.expires_at_ms;
  record.value_bytes = static_cast<uint32_t>(value.bytes.size());
  record.overflow = !value.overflow_extent.empty();
  if (record.overflow) {
    Frame* stored = pool_.NewOverflow(this, value.overflow_extent, value.bytes, generation_);
    ListAdd(stored);
    store().AdoptExtent(value.overflow_extent, generation_);
    record.overflow_ref = {value.overflow_extent, generation_, stored->disk.checksum, Hash64(value.bytes)};
  } else {
    CHECK(!NeedsOverflow(key.size(), value.bytes.size())) << "a large value has no overflow extent";
    record.value = value.bytes;
  }
  TreeNode node = NodeOf(leaf);
  const auto [slot, exact] = at ? *at : FindSlot(leaf, key);
  record.key_suffix = key.substr(node.header().prefix_bytes);
  ++leaf->modifications;
  if (exact) {
    RecordView old = node.Record(slot);
    if (old.overflow) FreeOverflow(old);
    if (node.ReplaceRecord(slot, record)) return;
    node.Remove(slot);
  }
  InsertRecord(leaf, slot, key, &record);
}

// Inserts before `slot` of a writable leaf, splitting the leaf as often as necessary. The views of
// the record must not point into the leaf.
void Tree::InsertRecord(Frame* leaf, uint32_t slot, std::string_view key, RecordView* record) {
  TreeNode node = NodeOf(leaf);
  while (!node.Fits(node.SpaceFor(*record))) {
    leaf = Split(leaf, key);
    node = NodeOf(leaf);
    record->key_suffix = key.substr(node.header().prefix_bytes);
    bool exact = false;
    slot = node.LowerBound(key, &exact);
  }
  node.InsertRecord(slot, *record);
}

void Tree::Touch(Frame* leaf, std::string_view key, Version version, int64_t expires_at_ms) {
  leaf = MakePathWritable(leaf);
  TreeNode node = NodeOf(leaf);
  bool exact = false;
  const uint32_t slot = node.LowerBound(key, &exact);
  CHECK(exact) << "touching a record that does not exist";
  RecordView record = node.Record(slot);
  const std::string value(record.value);  // the record may move and the page may split
  record.key_suffix = key.substr(node.header().prefix_bytes);
  record.value = value;
  record.version = version;
  record.expires_at_ms = expires_at_ms;
  ++leaf->modifications;
  if (node.ReplaceRecord(slot, record)) return;
  node.Remove(slot);
  InsertRecord(leaf, slot, key, &record);
}

bool Tree::SplitFits(const TreeNode& node, uint32_t at, std::string_view separator) const {
  uint32_t room = pool_.usable_bytes() - kPageHeaderBytes;
  uint32_t left_prefix = static_cast<uint32_t>(CommonPrefix(node.lower(), separator));
  uint32_t right_prefix = node.has_upper() ? static_cast<uint32_t>(CommonPrefix(separator, node.upper())) : 0;
  uint32_t sep = static_cast<uint32_t>(separator.size());
  uint32_t left = node.header().lower_bytes + sep + TreeNode::SpaceToAppend(node, 0, at, left_prefix);
  uint32_t right = sep + node.header().upper_bytes + TreeNode::SpaceToAppend(node, at, node.count(), right_prefix);
  return left <= room && right <= room;
}

// Returns the slot that starts the right half, and the separator. Splits near the middle by bytes
// and prefers short separators. Splits at the end when keys arrive in order, so that loading sorted
// data leaves full pages.
uint32_t Tree::ChooseSplit(const TreeNode& node, std::string_view key, std::string* separator) const {
  const uint32_t count = node.count();
  const bool leaf = node.leaf();
  std::string last = node.Key(count - 1);
  if (leaf && count == 1) {
    bool behind = key > last;
    *separator = behind ? ShortestSeparator(last, key) : ShortestSeparator(key, last);
    return behind ? 1 : 0;
  }
  auto separator_at = [&](uint32_t at) {
    if (at == count) return std::string(ShortestSeparator(last, key));
    return leaf ? std::string(ShortestSeparator(node.Key(at - 1), node.Key(at))) : node.Key(at);
  };
  if (!node.has_upper() && key > last) {
    for (uint32_t at = leaf ? count : count - 1; at > count / 2 && at > 0; --at) {
      *separator = separator_at(at);
      if (SplitFits(node, at, *separator)) return at;
    }
  }
  uint32_t total = 0;
  for (uint32_t i = 0; i < count; ++i) total += kSlotBytes + node.RecordBytes(i);
  uint32_t best = 0;
  uint64_t best_cost = ~0ull;
  uint32_t left = 0;
  for (uint32_t at = 1; at < count; ++at) {
    left += kSlotBytes + node.RecordBytes(at - 1);
    uint64_t distance = left * 2 > total ? left * 2 - total : total - left * 2;
    // Skip splits that are clearly less even than the best one.
    if (best != 0 && distance > total / 4 && distance * 4 > best_cost) continue;
    std::string candidate = separator_at(at);
    // A byte of separator is stored in three places and slows every descent. Weigh it like eight
    // bytes of imbalance.
    uint64_t cost = distance * 4 + candidate.size() * 32;
    if (cost >= best_cost || !SplitFits(node, at, candidate)) continue;
    best = at;
    best_cost = cost;
    *separator = std::move(candidate);
  }
  CHECK_NE(best, 0u) << "no split of page " << node.header().page_id << " fits both halves into a page";
  return best;
}

void Tree::GrowRoot() {
  Frame* old = root_;
  Frame* root = NewNode(static_cast<uint8_t>(old->level + 1), {}, nullptr);
  ChildRef ref;
  ref.location = child_word::FromFrame(old->id);
  NodeOf(root).InsertChild(0, {}, ref);
  root->attached = true;
  root->frame_children = 1;
  old->parent = root->id;
  root_ = root;
}

// Sets the parent of every resident child and counts these children.
void Tree::ReparentChildren(Frame* frame) {
  TreeNode node = NodeOf(frame);
  frame->frame_children = 0;
  for (uint32_t i = 0; i < node.count(); ++i) {
    Extent word = node.ChildLocation(i);
    if (!child_word::IsFrame(word)) continue;
    pool_.frame(child_word::Frame(word)).parent = frame->id;
    ++frame->frame_children;
  }
}

// Splits a writable page. Returns the half whose range holds `key`.
Frame* Tree::Split(Frame* left, std::string_view key) {
  if (left == root_) GrowRoot();
  std::string separator;
  uint32_t at = ChooseSplit(NodeOf(left), key, &separator);
  // Make room in the parent first. Splitting it may give `left` another parent.
  while (!NodeOf(Parent(left)).Fits(TreeNode::ChildSpace(separator.size()))) Split(Parent(left), separator);
  Frame* parent = Parent(left);

  std::vector<char> copy(pool_.usable_bytes());
  std::memcpy(copy.data(), pool_.data(*left), copy.size());
  TreeNode source(copy.data(), pool_.usable_bytes());
  std::string_view upper = source.upper();
  std::string_view middle = separator;
  Frame* right = NewNode(left->level, separator, source.has_upper() ? &upper : nullptr);
  TreeNode right_node = NodeOf(right);
  right_node.AppendFrom(source, at, source.count());
  uint8_t heat = source.header().heat;
  TreeNode::Format(pool_.data(*left), pool_.usable_bytes(), left->level, source.lower(), &middle, left->page_id,
                   generation_);
  NodeOf(left).AppendFrom(source, 0, at);
  NodeOf(left).header().heat = right_node.header().heat = heat;
  ++left->modifications;
  if (left->level > 0) {
    ReparentChildren(left);
    ReparentChildren(right);
  }
  ChildRef ref;
  ref.location = child_word::FromFrame(right->id);
  TreeNode parent_node = NodeOf(parent);
  parent_node.InsertChild(SlotOfChild(parent, left) + 1, middle.substr(parent_node.header().prefix_bytes), ref);
  right->attached = true;
  right->parent = parent->id;
  ++parent->frame_children;
  ++parent->modifications;
  return key < separator ? left : right;
}

// -- deletes --------------------------------------------------------------------------------------

bool Tree::Erase(Frame* leaf, std::string_view key, bool* underfull) {
  bool exact = false;
  uint32_t slot = NodeOf(leaf).LowerBound(key, &exact);
  // Checked even when there is nothing to erase: an earlier erase may have left the leaf unmerged.
  *underfull = leaf != root_ && Underfull(NodeOf(leaf));
  if (!exact) return false;
  leaf = MakePathWritable(leaf);
  TreeNode node = NodeOf(leaf);
  RecordView old = node.Record(slot);
  if (old.overflow) FreeOverflow(old);
  node.Remove(slot);
  ++leaf->modifications;
  *underfull = leaf != root_ && Underfull(node);
  return true;
}

bool Tree::Underfull(const TreeNode& node) const { return node.UsedBytes() < pool_.usable_bytes() / kUnderfullDivisor; }

bool Tree::MergeFits(const TreeNode& left, const TreeNode& right) const {
  uint32_t prefix = right.has_upper() ? static_cast<uint32_t>(CommonPrefix(left.lower(), right.upper())) : 0;
  uint32_t bytes = kPageHeaderBytes + left.header().lower_bytes + right.header().upper_bytes +
                   TreeNode::SpaceToAppend(left, 0, left.count(), prefix) +
                   TreeNode::SpaceToAppend(right, 0, right.count(), prefix);
  // An empty page, or an inner page with a single child, is worth merging even into a full page.
  const uint32_t little = left.leaf() ? 0 : 1;
  const bool alone = left.count() <= little || right.count() <= little;
  return bytes <= (alone ? pool_.usable_bytes() : pool_.usable_bytes() / 4 * 3);
}

// Joins the writable children in `left_slot` and the next slot of a writable parent. They must fit.
void Tree::Merge(Frame* parent, uint32_t left_slot) {
  TreeNode parent_node = NodeOf(parent);
  Frame* left = &pool_.frame(child_word::Frame(parent_node.ChildLocation(left_slot)));
  Frame* right = &pool_.frame(child_word::Frame(parent_node.ChildLocation(left_slot + 1)));
  TreeNode right_node = NodeOf(right);
  std::vector<char> copy(pool_.usable_bytes());
  std::memcpy(copy.data(), pool_.data(*left), copy.size());
  TreeNode source(copy.data(), pool_.usable_bytes());
  std::string_view upper = right_node.upper();
  uint8_t heat = source.header().heat;
  TreeNode::Format(pool_.data(*left), pool_.usable_bytes(), left->level, source.lower(),
                   right_node.has_upper() ? &upper : nullptr, left->page_id, generation_);
  TreeNode merged = NodeOf(left);
  merged.AppendFrom(source, 0, source.count());
  merged.AppendFrom(right_node, 0, right_node.count());
  merged.header().heat = heat;
  ++left->modifications;
  // If what deletes leave stayed where it was, no chunk would become entirely free.
  left->roams = true;
  left->last_place = {};
  if (left->level > 0) ReparentChildren(left);
  right->frame_children = 0;
  parent_node.Remove(left_slot + 1);
  --parent->frame_children;
  ++parent->modifications;
  DropPage(right);
}

Task<Result<MovedLeaf>> Tree::MoveLeaf(std::string key) {
  PagePin loaded;
  for (;;) {
    CO_RETURN_IF_ERROR(co_await pool_.EnsureFree(kFramesPerUpdate, this));
    if (root_->level == 0) co_return MovedLeaf{{}, true, 0};
    ChildRef missing;
    uint8_t level = 0;
    if (Frame* parent = FindNode(key, 1, &missing, &level)) {
      const TreeNode node = NodeOf(parent);
      const uint32_t slot = node.ChildSlot(key);
      const bool last = slot + 1 == node.count();
      MovedLeaf moved{last ? std::string(node.upper()) : node.Key(slot + 1), last && !node.has_upper(), 0};
      Extent near[ExtentAllocator::kMaxNeighbors];
      // A dirty one will be written anyway. A snapshot that has this one would hold its old place.
      if (!KnownChild(parent, slot, &missing)) co_return moved;
      if (!snapshots_.empty() && missing.birth <= snapshots_.rbegin()->first) co_return moved;
      if (!store().HasBetterPlace(missing.location, {near, SiblingPlaces(parent, slot, near)})) co_return moved;
      moved.bytes = missing.location.size_bytes();
      if (Frame* leaf = ResolveChild(parent, slot, &missing)) {
        MakePathWritable(leaf);
        co_return moved;
      }
      level = 0;
    }
    CO_RETURN_IF_ERROR(co_await Fetch(missing, level, {&loaded, 1}));
  }
}

// Fetches the page at `level` that holds `key` and a neighbor under the same parent, and joins them
// if they fit.
Task<Result<Tree::MergeStep>> Tree::MergeAt(std::string key, uint8_t level) {
  PagePin pins[2];
  for (size_t next_pin = 0;;) {
    CO_RETURN_IF_ERROR(co_await pool_.EnsureFree(2 * kFramesPerUpdate, this));
    // EnsureFree's promise holds only until the next suspension. Nothing below suspends until the
    // merge is done or a page turns out to be missing.
    if (level >= root_->level) co_return MergeStep::kDone;
    ChildRef missing;
    uint8_t missing_level = 0;
    Frame* node = FindNode(key, level, &missing, &missing_level);
    if (node) {
      if (!Underfull(NodeOf(node))) co_return MergeStep::kDone;
      Frame* parent = Parent(node);
      const uint32_t slot = SlotOfChild(parent, node);
      const uint32_t count = NodeOf(parent).count();
      if (count == 1) co_return MergeStep::kAlone;
      missing_level = level;
      bool fetched = true;
      // Prefer the next page to the previous one.
      const uint32_t first = slot + 1 < count ? slot : slot - 1;
      const uint32_t second = slot > 0 ? slot - 1 : first;
      for (uint32_t left_slot : {first, second}) {
        Frame* left = ResolveChild(parent, left_slot, &missing);
        Frame* right = left ? ResolveChild(parent, left_slot + 1, &missing) : nullptr;
        fetched = right != nullptr;
        if (!fetched) break;
        if (!MergeFits(NodeOf(left), NodeOf(right))) continue;
        parent = Parent(MakePathWritable(left));
        MakeWritable(right);
        Merge(parent, left_slot);
        co_return MergeStep::kMerged;
      }
      if (fetched) co_return MergeStep::kDone;
    }
    // The pins alternate, so that the page read before this one stays in memory.
    CO_RETURN_IF_ERROR(co_await Fetch(missing, missing_level, pins, next_pin++ % 2));
  }
}

Task<Status> Tree::MergeLeaf(std::string key, bool* merged) {
  bool freed = false;
  for (uint8_t level = 0; level < kMaxTreeHeight; ++level) {
    Result<MergeStep> step = co_await MergeAt(key, level);
    if (!step.ok()) co_return step.TakeStatus();
    if (*step == MergeStep::kDone) break;
    freed |= *step == MergeStep::kMerged;
  }
  // A leaf without a neighbor may have one now that its parent was merged.
  Result<MergeStep> again = co_await MergeAt(key, 0);
  if (!again.ok()) co_return again.TakeStatus();
  freed |= *again == MergeStep::kMerged;
  if (merged) *merged = freed;
  // Replace a root that has a single child by that child.
  CO_RETURN_IF_ERROR(co_await pool_.EnsureFree(kFramesPerUpdate, this));
  while (root_->level > 0 && NodeOf(root_).count() == 1) {
    ChildRef missing;
    Frame* child = ResolveChild(root_, 0, &missing);
    if (!child) break;
    MakePathWritable(child);
    Frame* old_root = root_;
    child = &pool_.frame(child_word::Frame(NodeOf(root_).ChildLocation(0)));
    old_root->frame_children = 0;
    child->parent = kNoFrame;
    root_ = child;
    old_root->attached = false;
    DropPage(old_root);
  }
  co_return Status();
}

}  // namespace pando
