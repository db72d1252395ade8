// Tree: reading a frozen generation while the newest tree changes.
//
// A page of a snapshot is found through its parent in the snapshot. An attached parent has not
// changed since the snapshot, and neither have its children: their frames serve both trees. A
// detached parent names its children by extent or, until the checkpoint has written them, by page
// id.
#include "src/btree/tree.h"

namespace pando {

Generation Tree::AddSnapshot() {
  CHECK(checkpointing_) << "AddSnapshot must follow EndGeneration, before the checkpoint finishes";
  snapshots_[frozen_generation_] = {frozen_generation_, frozen_root_id_, frozen_root_level_, frozen_root_ref_};
  return frozen_generation_;
}

// The resident frame, or null with *missing set.
Frame* Tree::SnapshotRoot(const TreeSnapshot& snapshot, ChildRef* missing) {
  if (!snapshot.root.location.empty()) {
    *missing = snapshot.root;
    return pool_.Lookup(this, snapshot.root.location);
  }
  if (root_->page_id == snapshot.root_id) return root_;
  auto entry = frozen_.find(snapshot.root_id);
  CHECK(entry != frozen_.end() && entry->second.frame) << "an unwritten snapshot root was lost";
  return entry->second.frame;
}

Frame* Tree::SnapshotChild(Frame* parent, uint32_t slot, ChildRef* missing) {
  ChildRef ref = NodeOf(parent).LoadChild(slot);
  if (child_word::IsFrame(ref.location)) return &pool_.frame(child_word::Frame(ref.location));
  if (child_word::IsFrozen(ref.location)) {
    auto entry = frozen_.find(child_word::FrozenId(ref.location));
    CHECK(entry != frozen_.end()) << "a detached page refers to a page that is not in the frozen table";
    if (entry->second.frame) return entry->second.frame;
    ref = entry->second.ref;
  }
  *missing = ref;
  return pool_.Lookup(this, ref.location);
}

Task<Result<PagePin>> Tree::FetchSnapshotLeaf(Generation generation, std::string key, bool before) {
  // By level. Pages of a snapshot need pins: resident children do not keep them in memory.
  PagePin loaded[kMaxTreeHeight];
  for (;;) {
    auto found = snapshots_.find(generation);
    if (found == snapshots_.end()) co_return PagePin();
    ChildRef missing;
    uint8_t level = found->second.root_level;
    Frame* frame = SnapshotRoot(found->second, &missing);
    while (frame && level > 0) {
      TreeNode node = NodeOf(frame);
      uint32_t slot = !before ? node.ChildSlot(key) : key.empty() ? node.count() - 1 : node.ChildSlotBefore(key);
      frame = SnapshotChild(frame, slot, &missing);
      --level;
    }
    if (frame) {
      pool_.Touch(frame);
      co_return pool_.Pin(frame);
    }
    MissingPage page;
    page.ref = missing;
    page.level = level;
    Status fetched = co_await FetchIn(generation, std::move(page), loaded, level);
    if (fetched.code() == Code::kSnapshotGone) co_return PagePin();
    CO_RETURN_IF_ERROR(fetched);
  }
}

// -- on-disk pages

std::optional<Tree::MissingPage> Tree::CollectStep(const TreeSnapshot& snapshot, Generation since,
                                                   const std::string& key, PageRun* run) {
  *run = PageRun{};
  ChildRef missing;
  ChildRef ref = snapshot.root;
  Frame* frame = SnapshotRoot(snapshot, &missing);
  bool has_upper = false;  // of the subtree under `ref`
  std::string lower, upper;
  for (uint8_t level = snapshot.root_level;; --level) {
    CHECK(!ref.location.empty()) << "a snapshot's page is not on disk";
    if (ref.birth <= since) {  // then so is everything below
      run->next = std::move(upper);
      run->over = !has_upper;
      return std::nullopt;
    }
    if (level == 0 || lower == key) run->pages.push_back({ref, level, lower});
    if (level == 0) {  // the root is a leaf
      run->over = true;
      return std::nullopt;
    }
    if (!frame) return MissingPage{missing, level, false, {}};
    TreeNode node = NodeOf(frame);
    uint32_t slot = node.ChildSlot(key);
    for (; level == 1 && slot < node.count(); ++slot) {
      CHECK(KnownChild(frame, slot, &ref)) << "a snapshot's page is not on disk";
      if (ref.birth > since) run->pages.push_back({ref, 0, node.Key(slot)});
    }
    if (level == 1) {
      run->next = node.upper();
      run->over = !node.has_upper();
      return std::nullopt;
    }
    CHECK(KnownChild(frame, slot, &ref));
    const bool last = slot + 1 == node.count();
    lower = node.Key(slot);
    upper = last ? std::string(node.upper()) : node.Key(slot + 1);
    has_upper = !last || node.has_upper();
    frame = SnapshotChild(frame, slot, &missing);
  }
}

Status Tree::CheckView(Generation view) const {
  if (view == 0 || snapshots_.contains(view)) return Status();
  return Error(Code::kSnapshotGone, "the snapshot has expired or was released: open another");
}

Task<Status> Tree::FetchIn(Generation view, MissingPage missing, std::span<PagePin> keep, size_t slot) {
  Status status = co_await Fetch(missing.ref, missing.level, keep, slot);
  CO_RETURN_IF_ERROR(CheckView(view));
  co_return status;
}

Task<Result<PageRun>> Tree::CollectPages(Generation generation, Generation since, std::string key) {
  PagePin loaded[kMaxTreeHeight];
  for (;;) {
    CO_RETURN_IF_ERROR(CheckView(generation));
    PageRun run;
    std::optional<MissingPage> missing = CollectStep(snapshot(generation), since, key, &run);
    if (!missing) co_return run;
    CO_RETURN_IF_ERROR(co_await FetchIn(generation, *missing, loaded, missing->level));
  }
}

}  // namespace pando
