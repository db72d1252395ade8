// MemoryAudit: checks everything that can be checked in memory about a pool and its trees, without
// reading from disk and without changing anything: invariants B1 (what may be evicted), C1, C2, N1,
// N2, N3, and that every frame and every dirty page is accounted for. It must not run in the middle
// of a synchronous step of an operation, so any coroutine may run it. `idle` adds the checks that
// hold only when nothing else is running.
//
// Threads: the reactor of the pool.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "src/btree/tree.h"

namespace pando::engine_test {

class MemoryAudit {
 public:
  MemoryAudit(std::vector<Tree*> trees, bool idle) : trees_(std::move(trees)), idle_(idle) {}

  // Returns the first problem, or "".
  std::string Run() {
    for (Tree* tree : trees_) {
      tree_ = tree;
      const Frame& root = *tree->root();
      if (!root.attached || root.parent != kNoFrame) Bad(root, "the root is not attached, or has a parent");
      CheckPage(root, {}, nullptr);
    }
    CheckFrames();
    return problem_;
  }

 private:
  void Bad(const Frame& frame, std::string_view what) {
    if (!problem_.empty()) return;
    problem_ = fmt::format("frame {} (page {}, level {}, birth {}{}{}): {}", frame.id, frame.page_id, frame.level,
                           frame.birth, frame.dirty ? ", dirty" : "", frame.attached ? ", attached" : "", what);
  }

  void CheckPage(const Frame& frame, std::string lower, const std::string* upper) {
    attached_.insert(frame.id);
    TreeNode node = tree_->NodeOf(const_cast<Frame*>(&frame));
    if (frame.state != Frame::State::kResident || frame.doomed || frame.overflow) Bad(frame, "not a resident page");
    if (frame.owner != tree_) Bad(frame, "belongs to another tree");
    if (node.header().level != frame.level || node.header().page_id != frame.page_id ||
        node.header().birth != frame.birth) {
      Bad(frame, "the page's header disagrees with its frame");
    }
    if (frame.birth > tree_->generation()) Bad(frame, "born after the current generation");
    if (node.lower() != lower || node.has_upper() != (upper != nullptr) || (upper && node.upper() != *upper)) {
      Bad(frame, "its fences are not the parent's separators");
    }
    CheckHeap(frame, node);
    if (node.leaf()) {
      for (uint32_t i = 0; i < node.count(); ++i) CheckKey(frame, node, i);
      return;
    }
    uint32_t in_memory = 0;
    for (uint32_t i = 0; i < node.count(); ++i) {
      CheckKey(frame, node, i);
      const Extent word = node.ChildLocation(i);
      if (child_word::IsFrozen(word)) Bad(frame, "an attached page refers to a frozen one");
      if (!child_word::IsFrame(word)) continue;
      ++in_memory;
      const Frame& child = tree_->pool().frame(child_word::Frame(word));
      if (!child.attached || child.parent != frame.id) Bad(child, "not attached, or has another parent");
      if (child.level + 1 != frame.level) Bad(child, "its level does not fit its parent's");
      if (child.dirty && !frame.dirty) Bad(child, "C2: it is dirty below a clean page");
      if (child.dirty && child.birth > frame.birth) Bad(child, "C2: it is younger than its parent");
      const bool last = i + 1 == node.count();
      std::string next = last ? std::string(node.upper()) : node.Key(i + 1);
      CheckPage(child, node.Key(i), last && !node.has_upper() ? nullptr : &next);
    }
    if (in_memory != frame.frame_children) Bad(frame, "frame_children is wrong");
  }

  void CheckKey(const Frame& frame, const TreeNode& node, uint32_t i) {
    std::string key = node.Key(i);
    if (key < node.lower() || (node.has_upper() && key >= node.upper())) Bad(frame, "N1: a key outside the fences");
    if (i > 0 && node.Key(i - 1) >= key) Bad(frame, "N1: keys are not ascending");
    if (node.slots()[i].head != KeyHead(node.KeySuffix(i))) Bad(frame, "a key head is wrong");
  }

  void CheckHeap(const Frame& frame, const TreeNode& node) {
    const PageHeader& h = node.header();
    const size_t prefix = h.has_upper ? CommonPrefix(node.lower(), node.upper()) : 0;
    if (h.prefix_bytes != prefix) Bad(frame, "N2: the prefix is not the common prefix of the fences");
    uint64_t live = h.lower_bytes + h.upper_bytes;
    for (uint32_t i = 0; i < node.count(); ++i) live += node.RecordBytes(i);
    if (live + h.heap_dead != tree_->pool().usable_bytes() - h.heap_begin) Bad(frame, "N3: heap bytes are miscounted");
  }

  void CheckFrames() {
    BufferPool& pool = trees_.front()->pool();
    size_t free = 0, dirty = 0;
    std::set<const void*> ours(trees_.begin(), trees_.end());
    std::vector<size_t> dirty_of(trees_.size());
    for (FrameId id = 0; id < pool.frame_count(); ++id) {
      const Frame& f = pool.frame(id);
      free += f.state == Frame::State::kFree;
      dirty += f.dirty;
      if (f.state != Frame::State::kResident) continue;
      if (f.attached != attached_.contains(id)) Bad(f, "C1: attached but not in the tree, or the reverse");
      if (f.dirty != (f.dirty_list != 0xff)) Bad(f, "dirty but not on a dirty list, or the reverse");
      if (!f.overflow && !f.doomed && f.in_map == f.dirty) Bad(f, "dirty and found by its extent, or the reverse");
      if (!f.doomed && f.queue == Frame::Queue::kNone) Bad(f, "in no eviction queue");
      for (size_t t = 0; t < trees_.size(); ++t) dirty_of[t] += f.dirty && f.owner == trees_[t];
      if (idle_ && f.pins > 0) Bad(f, "pinned while nothing runs");
      if (idle_ && (f.doomed || f.writing)) Bad(f, "doomed or being written while nothing runs");
      if (idle_ && f.dirty && !f.attached && !f.overflow && !Checkpointing(f))
        Bad(f, "dirty and detached, but no checkpoint is running");
    }
    if (problem_.empty() && free != pool.free_frames()) problem_ = "free frames are miscounted";
    if (problem_.empty() && dirty != pool.stats().dirty_pages) problem_ = "the pool's dirty pages are miscounted";
    for (size_t t = 0; t < trees_.size(); ++t) {
      if (problem_.empty() && dirty_of[t] != trees_[t]->dirty_pages()) problem_ = "a tree's dirty pages are miscounted";
    }
  }

  bool Checkpointing(const Frame& f) const {
    for (Tree* tree : trees_) {
      if (f.owner == tree) return tree->checkpointing();
    }
    return false;
  }

  std::vector<Tree*> trees_;
  const bool idle_;
  Tree* tree_ = nullptr;
  std::set<FrameId> attached_;
  std::string problem_;
};

// Describes the use of a pool's frames, for messages.
inline std::string DescribePool(BufferPool& pool) {
  size_t free = 0, loading = 0, pieces = 0, pinned = 0, writing = 0, dirty_leaves = 0, dirty_inner = 0,
         dirty_values = 0, detached = 0, parents = 0, doomed = 0, pinned_values = 0, in_small = 0, in_main = 0;
  for (FrameId id = 0; id < pool.frame_count(); ++id) {
    const Frame& f = pool.frame(id);
    free += f.state == Frame::State::kFree;
    loading += f.state == Frame::State::kLoading;
    pieces += f.state == Frame::State::kPiece;
    pinned += f.pins > 0;
    writing += f.writing;
    dirty_values += f.dirty && f.overflow;
    dirty_leaves += f.dirty && !f.overflow && f.level == 0;
    dirty_inner += f.dirty && f.level > 0;
    detached += f.dirty && !f.attached && !f.overflow;
    parents += f.frame_children > 0;
    doomed += f.doomed;
    pinned_values += f.pins > 0 && f.overflow;
    in_small += f.queue == Frame::Queue::kSmall;
    in_main += f.queue == Frame::Queue::kMain;
  }
  return fmt::format(
      "{} frames: {} free, {} loading, {} pieces, {} pinned ({} values), {} being written, {} doomed; dirty: "
      "{} leaves, {} inner, {} values, {} of them detached; {} with children in memory; queues {} and {}",
      pool.frame_count(), free, loading, pieces, pinned, pinned_values, writing, doomed, dirty_leaves, dirty_inner,
      dirty_values, detached, parents, in_small, in_main);
}

}  // namespace pando::engine_test
