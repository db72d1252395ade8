// Tree: reading a frozen generation while the newest tree goes on.
//
// A page of a snapshot is found through its parent in the snapshot. An attached parent has not changed since, and so
// have none of its children: their frames serve both trees. A detached parent names its children by extent or, while
// the checkpoint has not written them, by page id.
#include "src/btree/tree.h"

namespace pando {

Generation Tree::AddSnapshot() {
  CHECK(checkpointing_) << "a snapshot is a generation that has just ended";
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
  PagePin loaded[kMaxTreeHeight];  // by level: the pages of a snapshot are not kept by their children
  for (;;) {
    auto found = snapshots_.find(generation);
    if (found == snapshots_.end()) co_return PagePin();
    ChildRef missing;
    uint8_t level = found->second.root_level;
    Frame* frame = SnapshotRoot(found->second, &missing);
    while (frame && level > 0) {
      Node node = NodeOf(frame);
      uint32_t slot = !before ? node.ChildSlot(key) : key.empty() ? node.count() - 1 : node.ChildSlotBefore(key);
      frame = SnapshotChild(frame, slot, &missing);
      --level;
    }
    if (frame) {
      pool_.Touch(frame);
      co_return pool_.Pin(frame);
    }
    CO_RETURN_IF_ERROR(co_await Fetch(missing, level, loaded, level));
  }
}

}  // namespace pando
