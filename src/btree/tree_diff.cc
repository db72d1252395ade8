// Tree: the differences between two generations, in time proportional to the pages that differ.
//
// Both trees are descended side by side. When both have the same page, everything below it is equal
// and is skipped. Two pages are the same if they are in the same frame or in the same extent; the
// older snapshot keeps its extents from being reused. Leaves that differ are compared record by
// record. A version is assigned only once, so equal versions mean equal records.
#include <algorithm>

#include "src/btree/tree.h"

namespace pando {
namespace {
// Costs in units of the turn budget.
constexpr uint32_t kDiffStepUnits = 16;   // per level of the two descents
constexpr uint32_t kDiffRecordUnits = 4;  // per record compared, including assembling its key
}  // namespace

Tree::Place Tree::RootPlace(Generation view) {
  Place place;
  if (view == 0) {
    place.frame = root_;
    place.level = root_->level;
    if (!root_->dirty) place.ref = root_->disk;
    return place;
  }
  const TreeSnapshot& snapshot = snapshots_.find(view)->second;
  place.frame = SnapshotRoot(snapshot, &place.ref);
  place.ref = snapshot.root;
  place.level = snapshot.root_level;
  return place;
}

// The child of `parent` (whose frame is resident) that covers `key`.
Tree::Place Tree::ChildPlace(Generation view, const Place& parent, const std::string& key) {
  TreeNode node = NodeOf(parent.frame);
  const uint32_t slot = node.ChildSlot(key);
  const bool last = slot + 1 == node.count();
  Place place;
  place.level = static_cast<uint8_t>(parent.level - 1);
  place.has_upper = !last || node.has_upper();
  place.upper = last ? std::string(node.upper()) : node.Key(slot + 1);
  const bool on_disk = KnownChild(parent.frame, slot, &place.ref);
  ChildRef missing;
  place.frame = view == 0 ? ResolveChild(parent.frame, slot, &missing) : SnapshotChild(parent.frame, slot, &missing);
  if (!on_disk) place.ref = ChildRef{};
  return place;
}

bool Tree::Place::SamePageAs(const Place& other) const {
  if (frame && frame == other.frame) return true;
  return !ref.location.empty() && ref.location == other.ref.location;
}

// One step from `*at`: skips a page that both trees have, or compares two leaves. Returns the page
// that must be loaded first, if any.
std::optional<Tree::DiffMissing> Tree::DiffStep(Generation older, Generation newer, std::string* at,
                                                const std::string& end, DiffVisitor* visitor, bool* over,
                                                uint32_t* work) {
  Place places[2] = {RootPlace(older), RootPlace(newer)};
  const Generation views[2] = {older, newer};
  *work = 1;
  for (;; *work += kDiffStepUnits) {
    if (places[0].level == places[1].level && places[0].SamePageAs(places[1])) {
      *over = !places[1].has_upper || (!end.empty() && places[1].upper >= end);
      *at = std::move(places[1].upper);
      return std::nullopt;
    }
    // Descend in the tree whose page is at the higher level, or in both when the levels are equal.
    const uint8_t level = std::max(places[0].level, places[1].level);
    for (int i = 0; i < 2; ++i) {
      if (places[i].level < level) continue;
      if (!places[i].frame) return DiffMissing{{places[i].ref, places[i].level, false, {}}, i};
    }
    if (level == 0) break;
    for (int i = 0; i < 2; ++i) {
      if (places[i].level == level) places[i] = ChildPlace(views[i], places[i], *at);
    }
  }
  std::string upper = places[1].upper;
  bool has_upper = places[1].has_upper;
  if (places[0].has_upper && (!has_upper || places[0].upper < upper)) {
    upper = places[0].upper;
    has_upper = true;
  }
  if (!end.empty() && (!has_upper || end <= upper)) {
    upper = end;
    has_upper = true;
    *over = true;
  }
  if (!has_upper) *over = true;
  *work += kDiffRecordUnits * (NodeOf(places[0].frame).count() + NodeOf(places[1].frame).count());
  if (DiffLeaves(NodeOf(places[0].frame), NodeOf(places[1].frame), *at, has_upper ? &upper : nullptr, visitor)) {
    *over = true;
  }
  *at = std::move(upper);
  return std::nullopt;
}

// Compares the records of both leaves in [from, *end). Returns true when the visitor ends the walk.
bool Tree::DiffLeaves(const TreeNode& older, const TreeNode& newer, const std::string& from, const std::string* end,
                      DiffVisitor* visitor) {
  const TreeNode* nodes[2] = {&older, &newer};
  uint32_t slots[2], ends[2];
  for (int i = 0; i < 2; ++i) {
    bool exact = false;
    slots[i] = from <= nodes[i]->lower() ? 0 : nodes[i]->LowerBound(from, &exact);
    const bool whole = !end || (nodes[i]->has_upper() && nodes[i]->upper() <= *end);
    ends[i] = whole ? nodes[i]->count() : nodes[i]->LowerBound(*end, &exact);
  }
  while (slots[0] < ends[0] || slots[1] < ends[1]) {
    int order = 0;  // older key to newer key: negative before, 0 equal, positive after
    if (slots[0] == ends[0]) {
      order = 1;
    } else if (slots[1] == ends[1]) {
      order = -1;
    } else {
      order = nodes[0]->Key(slots[0]).compare(nodes[1]->Key(slots[1]));
    }
    const bool has_older = order <= 0, has_newer = order >= 0;
    const bool same = order == 0 && nodes[0]->Record(slots[0]).version == nodes[1]->Record(slots[1]).version;
    if (!same &&
        visitor->OnChange(has_older ? nodes[0] : nullptr, slots[0], has_newer ? nodes[1] : nullptr, slots[1])) {
      return true;
    }
    if (has_older) ++slots[0];
    if (has_newer) ++slots[1];
  }
  return false;
}

Task<Status> Tree::Diff(Generation older, Generation newer, std::string start, std::string end, DiffVisitor* visitor) {
  // By tree and level. Pages of a snapshot need pins: resident children do not keep them in memory.
  PagePin loaded[2 * kMaxTreeHeight];
  std::string at = std::move(start);
  TurnSlice slice(pool_.turn());
  for (bool over = !end.empty() && at >= end; !over;) {
    CO_RETURN_IF_ERROR(CheckView(older));
    CO_RETURN_IF_ERROR(CheckView(newer));
    uint32_t work = 0;
    std::optional<DiffMissing> missing = DiffStep(older, newer, &at, end, visitor, &over, &work);
    if (missing) {
      const size_t slot = static_cast<size_t>(missing->tree) * kMaxTreeHeight + missing->page.level;
      CO_RETURN_IF_ERROR(co_await FetchIn(missing->tree == 0 ? older : newer, missing->page, loaded, slot));
    } else if (!over && slice.Spend(work)) {
      co_await Yield(pool_.reactor());
    }
  }
  co_return Status();
}

}  // namespace pando
