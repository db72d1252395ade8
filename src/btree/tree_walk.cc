// Tree: walks over a range. They use the aggregates of a reference instead of descending into a
// subtree where these suffice.
#include <algorithm>

#include "src/base/expiry.h"
#include "src/base/hash.h"
#include "src/btree/tree.h"

namespace pando {
namespace {
// Costs in units of the turn budget.
constexpr uint32_t kWalkStepUnits = 4;       // per level of a descent
constexpr uint32_t kWalkBytesPerUnit = 256;  // of a leaf whose records are hashed
}  // namespace

void Aggregates::Add(const ChildRef& ref) {
  count += ref.count;
  bytes += ref.bytes;
  content_hash += ref.content_hash;
  if (ref.earliest_expiry_ms != 0 && (earliest_expiry_ms == 0 || ref.earliest_expiry_ms < earliest_expiry_ms)) {
    earliest_expiry_ms = ref.earliest_expiry_ms;
  }
}

void AddRecords(const TreeNode& leaf, uint32_t from, uint32_t to, int64_t now_ms, Aggregates* sum) {
  for (uint32_t i = from; i < to; ++i) {
    RecordView r = leaf.Record(i);
    if (HasExpired(r.expires_at_ms, now_ms)) continue;
    ChildRef one;
    one.count = 1;
    one.bytes = leaf.header().prefix_bytes + r.key_suffix.size() + r.value_bytes;
    uint64_t value_hash = r.overflow ? r.overflow_ref.value_hash : Hash64(r.value);
    one.content_hash = RecordHash(leaf.prefix(), r.key_suffix, value_hash, r.version, r.expires_at_ms);
    one.earliest_expiry_ms = r.expires_at_ms;
    sum->Add(one);
  }
}

// Sets *ref to the child's reference without reading the child. Returns false when the child is
// dirty, so that its aggregates are not known yet.
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

// One step of a walk from `*at`: processes one subtree or one leaf, and moves `*at` past it.
// Returns nullopt when that is done, otherwise the page that must be loaded first. *over: the range
// is done. *work: the cost for the turn budget.
std::optional<Tree::MissingPage> Tree::WalkStep(Generation view, std::string* at, const std::string& end,
                                                RangeVisitor* visitor, bool* over, uint32_t* work) {
  MissingPage page;  // returned if the descent ends at a page that is not resident
  ChildRef& missing = page.ref;
  const TreeSnapshot* snapshot = view == 0 ? nullptr : &snapshots_.find(view)->second;
  uint8_t level = snapshot ? snapshot->root_level : root_->level;
  Frame* frame = snapshot ? SnapshotRoot(*snapshot, &missing) : root_;
  *work = 1;
  for (; frame; --level, *work += kWalkStepUnits) {
    TreeNode node = NodeOf(frame);
    if (level == 0) {
      bool exact = false;
      bool whole_end = end.empty() || (node.has_upper() && node.upper() <= end);
      uint32_t from = *at <= node.lower() ? 0 : node.LowerBound(*at, &exact);
      uint32_t to = whole_end ? node.count() : node.LowerBound(end, &exact);
      *work += to - std::min(from, to) + node.UsedBytes() / kWalkBytesPerUnit;
      *over = visitor->OnLeaf(node, from, to) || !node.has_upper() || (!end.empty() && node.upper() >= end);
      *at = node.upper();
      return std::nullopt;
    }
    uint32_t slot = node.ChildSlot(*at);
    bool last = slot + 1 == node.count();
    page.has_upper = !last || node.has_upper();
    page.upper = last ? std::string(node.upper()) : node.Key(slot + 1);
    bool inside = *at == node.Key(slot) && (end.empty() || (page.has_upper && page.upper <= end));
    ChildRef ref;
    if (inside && KnownChild(frame, slot, &ref) && visitor->OnSubtree(ref)) {
      *over = !page.has_upper || (!end.empty() && page.upper >= end);
      *at = std::move(page.upper);
      return std::nullopt;
    }
    frame = snapshot ? SnapshotChild(frame, slot, &missing) : ResolveChild(frame, slot, &missing);
  }
  page.level = level;
  return page;
}

Task<Status> Tree::Walk(Generation view, std::string start, std::string end, RangeVisitor* visitor) {
  // By level. Pages of a snapshot need pins: resident children do not keep them in memory.
  PagePin loaded[kMaxTreeHeight];
  TurnSlice slice(pool_.turn());
  std::string at = std::move(start);
  for (bool over = !end.empty() && at >= end; !over;) {
    CO_RETURN_IF_ERROR(CheckView(view));
    uint32_t work = 0;
    std::optional<MissingPage> missing = WalkStep(view, &at, end, visitor, &over, &work);
    if (!missing) {
      // Only the key survives the suspension: the next step descends from the root again.
      if (!over && slice.Spend(work)) co_await Yield(pool_.reactor());
      continue;
    }
    Status fetched = co_await FetchIn(view, *missing, loaded, missing->level);
    if (fetched.ok()) continue;
    if (fetched.code() == Code::kSnapshotGone || !visitor->OnDamage(fetched)) co_return fetched;
    over = !missing->has_upper || (!end.empty() && missing->upper >= end);
    at = std::move(missing->upper);
  }
  co_return Status();
}

namespace {

class AggregateVisitor final : public RangeVisitor {
 public:
  explicit AggregateVisitor(int64_t now_ms) : now_ms_(now_ms) {}
  bool OnSubtree(const ChildRef& ref) override {
    if (HasExpired(ref.earliest_expiry_ms, now_ms_)) return false;
    sum.Add(ref);
    return true;
  }
  bool OnLeaf(const TreeNode& leaf, uint32_t from, uint32_t to) override {
    AddRecords(leaf, from, to, now_ms_, &sum);
    return false;
  }
  Aggregates sum;

 private:
  const int64_t now_ms_;
};

// Finds the keys at the given ranks, which ascend.
class RankVisitor final : public RangeVisitor {
 public:
  explicit RankVisitor(std::vector<uint64_t> ranks) : ranks_(std::move(ranks)) {}
  bool OnSubtree(const ChildRef& ref) override {
    if (passed_ + ref.count > ranks_[keys.size()]) return false;
    passed_ += ref.count;
    return true;
  }
  bool OnLeaf(const TreeNode& leaf, uint32_t from, uint32_t to) override {
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
  DueVisitor(int64_t now_ms, size_t limit) : now_ms_(now_ms), limit_(limit) { result.over = true; }
  bool OnSubtree(const ChildRef& ref) override {
    Next(ref.earliest_expiry_ms);
    return !HasExpired(ref.earliest_expiry_ms, now_ms_);
  }
  bool OnLeaf(const TreeNode& leaf, uint32_t from, uint32_t to) override {
    for (uint32_t i = from; i < to; ++i) {
      RecordView r = leaf.Record(i);
      Next(r.expires_at_ms);
      if (!HasExpired(r.expires_at_ms, now_ms_)) continue;
      result.due.push_back({leaf.Key(i), r.version});
      if (result.due.size() < limit_) continue;
      result.over = false;
      result.next = result.due.back().key + '\0';
      return true;
    }
    return false;
  }
  bool OnDamage(const Status& status) override {
    if (result.damage.ok()) result.damage = status;
    return true;
  }
  DueRecords result;

 private:
  void Next(int64_t expiry_ms) {
    if (expiry_ms <= now_ms_) return;  // never expires, or is due
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

Task<Result<DueRecords>> Tree::FindDue(std::string from, int64_t now_ms, size_t limit) {
  DueVisitor visitor(now_ms, limit);
  CO_RETURN_IF_ERROR(co_await Walk(0, std::move(from), {}, &visitor));
  co_return std::move(visitor.result);
}

// -- leaves worth merging

// Judges by the child itself when it is in memory, otherwise by the aggregates of its reference.
bool Tree::IsUnderfull(const ChildRef& child) {
  Frame* frame = child_word::IsFrame(child.location) ? &pool_.frame(child_word::Frame(child.location))
                                                     : pool_.Lookup(this, child.location);
  if (frame) return Underfull(NodeOf(frame));
  constexpr uint64_t kRecordOverhead = 2 * kSlotBytes + 8;
  return child.bytes + child.count * kRecordOverhead < pool_.usable_bytes() / kUnderfullDivisor;
}

// Checks the leaves of one inner page, or skips a subtree that is too old. Returns nullopt when
// that is done, otherwise the page that must be loaded first.
std::optional<Tree::MissingPage> Tree::UnderfullStep(Generation since, const std::string& from, UnderfullLeaves* found,
                                                     uint32_t* work) {
  Frame* frame = root_;
  found->over = true;
  if (frame->level == 0 || frame->birth <= since) return std::nullopt;
  for (;; *work += kWalkStepUnits) {
    TreeNode node = NodeOf(frame);
    uint32_t slot = node.ChildSlot(from);
    auto birth_of = [&](const ChildRef& child) {
      return child_word::IsFrame(child.location) ? pool_.frame(child_word::Frame(child.location)).birth : child.birth;
    };
    if (frame->level == 1) {
      *work += node.count();
      for (; slot < node.count(); ++slot) {
        const ChildRef child = node.LoadChild(slot);
        if (birth_of(child) > since && IsUnderfull(child)) found->keys.push_back(node.Key(slot));
      }
      found->over = !node.has_upper();
      found->next = node.upper();
      return std::nullopt;
    }
    const bool last = slot + 1 == node.count();
    if (birth_of(node.LoadChild(slot)) <= since) {  // then so is everything below
      found->over = last && !node.has_upper();
      found->next = last ? std::string(node.upper()) : node.Key(slot + 1);
      return std::nullopt;
    }
    MissingPage missing;
    missing.level = static_cast<uint8_t>(frame->level - 1);
    missing.has_upper = !last || node.has_upper();
    frame = ResolveChild(frame, slot, &missing.ref);
    if (frame) continue;
    missing.upper = last ? std::string(node.upper()) : node.Key(slot + 1);
    return missing;
  }
}

Task<Result<UnderfullLeaves>> Tree::FindUnderfull(Generation since, std::string from) {
  PagePin loaded;
  TurnSlice slice(pool_.turn());
  UnderfullLeaves found;
  found.next = std::move(from);
  do {
    const std::string at = std::move(found.next);
    for (;;) {
      uint32_t work = 1;
      std::optional<MissingPage> missing = UnderfullStep(since, at, &found, &work);
      if (!missing) {
        if (slice.Spend(work)) co_await Yield(pool_.reactor());
        break;
      }
      Status status = co_await Fetch(missing->ref, missing->level, {&loaded, 1});
      if (status.ok()) continue;
      if (status.code() != Code::kCorruption && status.code() != Code::kIoError) co_return status;
      // Continue after the page that cannot be read.
      if (found.damage.ok()) found.damage = std::move(status);
      found.over = !missing->has_upper;
      found.next = std::move(missing->upper);
      break;
    }
  } while (found.keys.empty() && !found.over);
  co_return found;
}

}  // namespace pando
