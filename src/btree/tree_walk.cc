// Tree: walks over a range that take whole subtrees where their reference already says enough.
#include <algorithm>

#include "src/base/hash.h"
#include "src/btree/tree.h"

namespace pando {

void Aggregates::Add(const ChildRef& ref) {
  count += ref.count;
  bytes += ref.bytes;
  content_hash += ref.content_hash;
  if (ref.earliest_expiry_ms != 0 && (earliest_expiry_ms == 0 || ref.earliest_expiry_ms < earliest_expiry_ms)) {
    earliest_expiry_ms = ref.earliest_expiry_ms;
  }
}

void AddRecords(const Node& leaf, uint32_t from, uint32_t to, int64_t now_ms, Aggregates* sum) {
  for (uint32_t i = from; i < to; ++i) {
    RecordView r = leaf.Record(i);
    if (r.expires_at_ms != 0 && r.expires_at_ms <= now_ms) continue;
    ChildRef one;
    one.count = 1;
    one.bytes = leaf.header().prefix_bytes + r.key_suffix.size() + r.value_bytes;
    uint64_t value_hash = r.overflow ? r.overflow_ref.value_hash : Hash64(r.value);
    one.content_hash = RecordHash(leaf.prefix(), r.key_suffix, value_hash, r.version, r.expires_at_ms);
    one.earliest_expiry_ms = r.expires_at_ms;
    sum->Add(one);
  }
}

// What is known of a child without looking into it. False: it is dirty, its aggregates are yet to be computed.
bool Tree::KnownChild(Frame* parent, uint32_t slot, ChildRef* ref) const {
  *ref = NodeOf(parent).LoadChild(slot);
  const Frame* child = nullptr;
  if (child_word::IsFrame(ref->location)) {
    child = &pool_.frame(child_word::Frame(ref->location));
  } else if (child_word::IsFrozen(ref->location)) {
    auto entry = frozen_.find(child_word::FrozenId(ref->location));
    CHECK(entry != frozen_.end());
    if (!entry->second.frame) *ref = entry->second.ref;
    child = entry->second.frame;
  }
  if (!child) return true;
  *ref = child->disk;
  return !child->dirty;
}

// One step of a walk from `*at`: takes one subtree or one leaf, and moves `*at` behind it. Null when that was done
// (*over when the range is), else what must be loaded first.
std::optional<Tree::MissingPage> Tree::WalkStep(Generation view, std::string* at, const std::string& end,
                                                RangeVisitor* visitor, bool* over) {
  ChildRef missing;
  const TreeSnapshot* snapshot = view == 0 ? nullptr : &snapshots_.find(view)->second;
  uint8_t level = snapshot ? snapshot->root_level : root_->level;
  Frame* frame = snapshot ? SnapshotRoot(*snapshot, &missing) : root_;
  for (; frame; --level) {
    Node node = NodeOf(frame);
    if (level == 0) {
      bool exact = false;
      bool whole_end = end.empty() || (node.has_upper() && node.upper() <= end);
      uint32_t from = *at <= node.lower() ? 0 : node.LowerBound(*at, &exact);
      uint32_t to = whole_end ? node.count() : node.LowerBound(end, &exact);
      *over = visitor->OnLeaf(node, from, to) || !node.has_upper() || (!end.empty() && node.upper() >= end);
      *at = node.upper();
      return std::nullopt;
    }
    uint32_t slot = node.ChildSlot(*at);
    bool last = slot + 1 == node.count();
    bool has_upper = !last || node.has_upper();
    std::string upper = last ? std::string(node.upper()) : node.Key(slot + 1);
    bool inside = *at == node.Key(slot) && (end.empty() || (has_upper && upper <= end));
    ChildRef ref;
    if (inside && KnownChild(frame, slot, &ref) && visitor->OnSubtree(ref)) {
      *over = !has_upper || (!end.empty() && upper >= end);
      *at = std::move(upper);
      return std::nullopt;
    }
    frame = snapshot ? SnapshotChild(frame, slot, &missing) : ResolveChild(frame, slot, &missing);
  }
  return MissingPage{missing, level};
}

Task<Status> Tree::Walk(Generation view, std::string start, std::string end, RangeVisitor* visitor) {
  PagePin loaded[kMaxTreeHeight];  // by level: the pages of a snapshot are not kept by their children
  std::string at = std::move(start);
  for (bool over = !end.empty() && at >= end; !over;) {
    CO_RETURN_IF_ERROR(CheckView(view));
    std::optional<MissingPage> missing = WalkStep(view, &at, end, visitor, &over);
    if (!missing) continue;
    CO_RETURN_IF_ERROR(co_await FetchIn(view, *missing, loaded, missing->level));
  }
  co_return Status();
}

namespace {

class AggregateVisitor final : public RangeVisitor {
 public:
  explicit AggregateVisitor(int64_t now_ms) : now_ms_(now_ms) {}
  bool OnSubtree(const ChildRef& ref) override {
    if (ref.earliest_expiry_ms != 0 && ref.earliest_expiry_ms <= now_ms_) return false;
    sum.Add(ref);
    return true;
  }
  bool OnLeaf(const Node& leaf, uint32_t from, uint32_t to) override {
    AddRecords(leaf, from, to, now_ms_, &sum);
    return false;
  }
  Aggregates sum;

 private:
  const int64_t now_ms_;
};

// Finds the keys at given ranks, ascending.
class RankVisitor final : public RangeVisitor {
 public:
  explicit RankVisitor(std::vector<uint64_t> ranks) : ranks_(std::move(ranks)) {}
  bool OnSubtree(const ChildRef& ref) override {
    if (passed_ + ref.count > ranks_[keys.size()]) return false;
    passed_ += ref.count;
    return true;
  }
  bool OnLeaf(const Node& leaf, uint32_t from, uint32_t to) override {
    for (uint32_t i = from; i < to; ++i, ++passed_) {
      if (passed_ == ranks_[keys.size()]) keys.push_back(leaf.Key(i));
      if (keys.size() == ranks_.size()) return true;
    }
    return false;
  }
  std::vector<std::string> keys;

 private:
  const std::vector<uint64_t> ranks_;
  uint64_t passed_ = 0;
};

class DueVisitor final : public RangeVisitor {
 public:
  DueVisitor(int64_t now_ms, size_t limit) : now_ms_(now_ms), limit_(limit) {}
  bool OnSubtree(const ChildRef& ref) override {
    Next(ref.earliest_expiry_ms);
    return ref.earliest_expiry_ms == 0 || ref.earliest_expiry_ms > now_ms_;
  }
  bool OnLeaf(const Node& leaf, uint32_t from, uint32_t to) override {
    for (uint32_t i = from; i < to; ++i) {
      RecordView r = leaf.Record(i);
      Next(r.expires_at_ms);
      if (r.expires_at_ms == 0 || r.expires_at_ms > now_ms_) continue;
      result.due.push_back({leaf.Key(i), r.version});
      if (result.due.size() >= limit_) {
        result.next_expiry_ms = now_ms_;  // there may be more
        return true;
      }
    }
    return false;
  }
  DueRecords result;

 private:
  void Next(int64_t expiry_ms) {
    if (expiry_ms <= now_ms_) return;  // none, or due
    if (result.next_expiry_ms == 0 || expiry_ms < result.next_expiry_ms) result.next_expiry_ms = expiry_ms;
  }
  const int64_t now_ms_;
  const size_t limit_;
};

}  // namespace

Task<Result<Aggregates>> Tree::Aggregate(Generation view, std::string start, std::string end, int64_t now_ms) {
  AggregateVisitor visitor(now_ms);
  CO_RETURN_IF_ERROR(co_await Walk(view, start, end, &visitor));
  co_return visitor.sum;
}

Task<Result<std::vector<std::string>>> Tree::KeysAtRanks(Generation view, std::string start, std::string end,
                                                         std::vector<uint64_t> ranks) {
  CHECK(!ranks.empty() && std::is_sorted(ranks.begin(), ranks.end()));
  RankVisitor visitor(std::move(ranks));
  CO_RETURN_IF_ERROR(co_await Walk(view, start, end, &visitor));
  co_return std::move(visitor.keys);
}

Task<Result<DueRecords>> Tree::FindDue(int64_t now_ms, size_t limit) {
  DueVisitor visitor(now_ms, limit);
  CO_RETURN_IF_ERROR(co_await Walk(0, {}, {}, &visitor));
  co_return std::move(visitor.result);
}

}  // namespace pando
