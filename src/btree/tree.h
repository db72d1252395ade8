// Tree: a copy-on-write B+ tree over the buffer pool, one per partition.
//
// Threads: one reactor.
//
// Invariants
//   C1  The parent of an attached frame is attached and resident. The root is attached and never
//       evicted.
//   C2  All ancestors of a dirty attached page are dirty, and none is older than the page. A page
//       is written only after all its children, so that no page on disk refers to one that is not.
//   C3  A page born before the current generation is never changed.
//   C4  Every extent is reachable from a durable root, about to become so, on a dead list, or free.
//   C5  Calls that modify the tree need kFramesPerUpdate free frames, which the caller obtains from
//       BufferPool::EnsureFree. They never suspend.
//
// Generations. A page born in the current generation is edited in place. EndGeneration freezes
// every page. The first write to a frozen page depends on whether its content is on disk. If it is,
// the frame itself joins the current generation. If not, the page is cloned, and the old frame is
// kept for the checkpoint ("detached"). The newest tree refers to resident children by frame
// ("attached"). A detached inner page refers to its unwritten children by page id, which `frozen_`
// resolves.
//
// Suspension. Reads and writes of resident pages are synchronous. A caller first fetches a page
// that is missing (FetchLeaf), then descends again: no position in the tree is held across a
// suspension.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/btree/tree_node.h"
#include "src/buffer_pool/buffer_pool.h"

namespace pando {

// Frames that one Upsert or Erase may take: a clone and a split on every level, plus a new root.
inline constexpr size_t kMaxTreeHeight = 12;
inline constexpr size_t kFramesPerUpdate = 2 * kMaxTreeHeight;
static_assert(2 * kFramesPerUpdate <= BufferPool::kMinFrames / 4, "a merge's frames can be promised in any pool");

// A page is merged with a neighbor when it uses less than 1/4 of its bytes and both fit in 3/4 of a
// page. The free quarter keeps a few inserts from splitting the page again at once.
inline constexpr uint32_t kUnderfullDivisor = 4;

// A record found in a resident leaf. Views are valid until the next modification or suspension.
struct FoundRecord {
  std::string_view leaf_prefix;
  RecordView record;
};

// A value to store: inline bytes, or an overflow value whose extent the caller has allocated
// (Tree::NeedsOverflow).
struct NewValue {
  std::string_view bytes;
  Extent overflow_extent;  // empty: inline
  Version version = 0;
  int64_t expires_at_ms = 0;
};

struct Aggregates {
  uint64_t count = 0, bytes = 0, content_hash = 0;
  int64_t earliest_expiry_ms = 0;
  void Add(const ChildRef& ref);
};
// Adds the records of the leaf in slots [from, to) that have not expired at `now_ms`. 0 adds all.
void AddRecords(const TreeNode& leaf, uint32_t from, uint32_t to, int64_t now_ms, Aggregates* sum);

// Records that have expired, with the versions at which they were seen.
struct DueRecords {
  struct Due {
    std::string key;
    Version version;
  };
  std::vector<Due> due;
  // Earliest expiry among the records visited that are not due; 0 = none of them expires.
  int64_t next_expiry_ms = 0;
  std::string next;  // the key to continue from, unless `over`
  bool over = false;
  Status damage;  // the first page that could not be read and was skipped
};

// Leaves that use so little of their page that merging them pays. A leaf is named by its lower
// fence.
struct UnderfullLeaves {
  std::vector<std::string> keys;
  std::string next;  // the key to continue from, unless `over`
  bool over = false;
  Status damage;  // the first page that could not be read and was skipped
};

// Receives the parts of a range in key order. Views are valid during the call. A callback must not
// modify the tree.
class RangeVisitor {
 public:
  // A subtree that lies wholly inside the range and whose aggregates are known. Returns true to
  // accept it as a whole, false to descend into it.
  virtual bool OnSubtree(const ChildRef& ref) = 0;
  // Slots [from, to) of a leaf lie in the range. Returns true to end the walk.
  virtual bool OnLeaf(const TreeNode& leaf, uint32_t from, uint32_t to) = 0;
  // A page of the range cannot be read. Returns true to continue after it; false ends the walk with
  // `status`.
  virtual bool OnDamage(const Status& status) {
    (void)status;
    return false;
  }

 protected:
  ~RangeVisitor() = default;
};

// Receives the differences between two generations in key order.
class DiffVisitor {
 public:
  // A record that was added (`older` is null), removed (`newer` is null) or replaced. Views are
  // valid during the call. The callback must not modify the tree. Returns true to end the walk.
  virtual bool OnChange(const TreeNode* older, uint32_t older_slot, const TreeNode* newer, uint32_t newer_slot) = 0;

 protected:
  ~DiffVisitor() = default;
};

// On-disk pages of a snapshot: the leaves of one inner page, preceded by the inner pages that begin
// with the same key. Parents therefore come before their children.
struct PageRun {
  struct Page {
    ChildRef ref;
    uint8_t level = 0;
    std::string lower;
  };
  std::vector<Page> pages;
  std::string next;  // the key to continue from, unless `over`
  bool over = false;
};

// A frozen generation that is kept readable. Its root is known by page id and, once it is on disk,
// by reference.
struct TreeSnapshot {
  Generation generation = 0;
  uint64_t root_id = 0;
  uint8_t root_level = 0;
  ChildRef root;
};

// The root of a frozen generation, in the form that a checkpoint stores.
struct FrozenRoot {
  Generation generation = 0;
  uint8_t level = 0;
  ChildRef ref;
};

// A place in a leaf: the first slot whose key is not less than the one that was looked for.
struct LeafSlot {
  uint32_t slot = 0;
  bool exact = false;
};

// What a scan still wants.
struct ScanAhead {
  std::string_view from;   // forwards: the first key; reverse: the first key that it does not want, "" = none
  std::string_view bound;  // the same for the other end of the range
  bool reverse = false;
  uint64_t rows = 0, bytes = 0;  // it ends when it has either
  size_t leaves = 0;             // no more than so many are looked at
  size_t most_pages = 0;         // of these in memory afterwards, or a few more if as many were before
};

// What MoveLeaf has done.
struct MovedLeaf {
  std::string next;  // the key to continue from, unless `over`
  bool over = false;
  uint64_t bytes = 0;  // that will be written; 0: the leaf stays where it is, or was dirty already
};

// What ReadAhead has covered: leaves in memory, and those whose reads it has started.
struct LeavesAhead {
  size_t leaves = 0;            // including the leaf of ScanAhead::from
  size_t looked_at = 0;         // leaves, covered or not: what it cost to find out
  bool all = false;             // all that the scan probably needs
  size_t pages = 0, reads = 0;  // of those whose reads it has started
};

class Tree final : public PageOwner {
 public:
  Tree(BufferPool& pool, PageStore& store);
  ~Tree();

  // -- lifetime
  Task<Status> CreateEmpty();  // generation 1, one empty leaf
  Task<Status> OpenRoot(ChildRef root, uint8_t level, Generation generation, uint64_t next_page_id);
  // Frees every frame without writing it. No I/O of this tree may be in flight.
  void Abandon();
  // The same, without a long turn. The store is condemned, or no page is dirty. Then Abandon does nothing.
  Task<void> AbandonInTurns();

  // -- reading resident pages
  // The attached leaf for `key`. If a page on the path is not in memory, returns null and sets
  // *missing and *missing_level to the page to load.
  Frame* FindLeaf(std::string_view key, ChildRef* missing, uint8_t* missing_level);
  // The child in `slot` of an attached inner page, or null when it is not in memory.
  Frame* ChildIfResident(Frame* parent, uint32_t slot) {
    ChildRef missing;
    return ResolveChild(parent, slot, &missing);
  }
  // Whether `frame`, which FindLeaf has returned for some key and which has been pinned since, is
  // the attached leaf for `key` now.
  bool IsLeafOf(const Frame& frame, std::string_view key);
  // Begins to bring the head of a leaf into the processor's cache.
  void Prefetch(const Frame& leaf) const {
    const char* page = pool_.data(leaf);
    __builtin_prefetch(page);
    __builtin_prefetch(page + 64);
    __builtin_prefetch(page + 128);
  }
  // The same for the record of `key`, when the head of the leaf is there already. The leaf may be the
  // wrong one by now: then this helps nothing.
  void PrefetchRecord(const Frame& leaf, std::string_view key) const;
  LeafSlot FindSlot(Frame* leaf, std::string_view key) {
    LeafSlot at;
    at.slot = NodeOf(leaf).LowerBound(key, &at.exact);
    return at;
  }
  std::optional<FoundRecord> FindInLeaf(Frame* leaf, std::string_view key);
  TreeNode NodeOf(Frame* frame) const { return TreeNode(pool_.data(*frame), pool_.usable_bytes()); }
  Frame* root() const { return root_; }
  BufferPool& pool() { return pool_; }
  uint32_t max_key_bytes() const { return max_key_bytes_; }

  // -- fetching
  Task<Result<PagePin>> FetchLeaf(std::string key);
  // Reads the pages that descents to `keys` are missing, all in parallel, and pins none of them.
  // Fetching the leaves one by one afterwards then rarely waits. Reads only what the pool has room
  // for. Errors surface when the pages are fetched.
  Task<void> FetchAhead(std::vector<std::string> keys);
  // For reverse scans: the leaf that holds the last key below `key` (`before` empty = the last
  // leaf).
  Task<Result<PagePin>> FetchLeafBefore(std::string before);
  // Read-ahead for scans: starts to read the leaves that a scan will need next, without waiting. `view` is the
  // generation of a snapshot, or 0 for the newest tree.
  LeavesAhead ReadAhead(Generation view, const ScanAhead& scan, TaskGroup* tasks);
  // kAborted: look the record up again. Either the value was superseded, or there was no room (in
  // which case there is room now).
  Task<Result<PagePin>> FetchOverflow(OverflowRef ref, uint32_t value_bytes);
  // A resident overflow value, or null.
  Frame* FindOverflow(const OverflowRef& ref) { return pool_.Lookup(this, ref.location); }

  // -- writing resident pages (C5). `leaf` is what FindLeaf returned for this key, with no
  // suspension since.
  // A value no longer than an OverflowRef stays inline whatever the key length. All numbers
  // qualify.
  bool NeedsOverflow(size_t key_bytes, size_t value_bytes) const {
    return value_bytes > sizeof(OverflowRef) && key_bytes + value_bytes > max_inline_bytes_;
  }
  // `at`: what FindSlot has returned, if the leaf has not changed since.
  void Upsert(Frame* leaf, std::string_view key, const NewValue& value, std::optional<LeafSlot> at = {});
  // How many new pages the splits of one Upsert in a batch may need, on top of kFramesPerUpdate for
  // the batch as a whole.
  size_t NewPagesFor(size_t key_bytes) const {
    // A leaf is split once, or twice around a record that fits in neither half. Inner pages with
    // short separators split so rarely that kFramesPerUpdate covers them; with the longest
    // separators, a page has only three children.
    return key_bytes <= max_key_bytes_ / kShortKeyDivisor ? 2 : 4;
  }
  // Changes the version and expiry of the record of `key`, which must exist. A large value stays
  // where it is.
  void Touch(Frame* leaf, std::string_view key, Version version, int64_t expires_at_ms);
  // How many pages would be cloned if all of `leaves` were modified now. kFramesPerUpdate covers
  // the clones for one leaf.
  size_t ClonesNeeded(std::span<Frame* const> leaves);
  // Returns true when there was a record. *underfull: the leaf is worth merging (MergeLeaf).
  bool Erase(Frame* leaf, std::string_view key, bool* underfull);
  // Fetches the leaf of `key` and a neighbor, and joins them when both fit in one page. Frees pages
  // that become empty. *merged: some page was freed.
  Task<Status> MergeLeaf(std::string key, bool* merged = nullptr);

  // Makes the leaf of `key` dirty without changing it if it would come to lie with more of its siblings (PageStore::
  // HasBetterPlace). Fetches it then if it is not in memory.
  Task<Result<MovedLeaf>> MoveLeaf(std::string key);

  // -- generations and checkpoints
  Generation generation() const { return generation_; }
  uint64_t next_page_id() const { return next_page_id_; }
  uint8_t root_level() const { return root_->level; }
  bool checkpointing() const { return checkpointing_; }
  size_t dirty_pages() const { return dirty_count_; }
  // Freezes the current state of the tree in O(1). Only one frozen generation may await its
  // checkpoint at a time.
  void EndGeneration();
  // Writes all pages frozen by EndGeneration, children first, with at most `in_flight` writes at
  // once, and returns the root. Awaits `pace` after starting each page's write.
  Task<Result<FrozenRoot>> WriteFrozen(size_t in_flight, std::function<Task<void>()> pace);
  // Call after the superblock is durable: drops what only the frozen tree needed. The tree may be
  // changed at once, but the next generation may end only when this returns.
  Task<void> FinishCheckpoint();

  // -- snapshots. A snapshot keeps the most recently frozen generation readable until it is
  // dropped. Taking one is O(1). PageStore::FreeLater is responsible for keeping its pages on disk.
  Generation AddSnapshot();
  const TreeSnapshot& snapshot(Generation generation) const { return snapshots_.at(generation); }
  void DropSnapshot(Generation generation) { snapshots_.erase(generation); }
  // Like FetchLeaf and, with `before`, FetchLeafBefore, but in a snapshot. A null pin means that
  // the snapshot does not exist, or was dropped while this was suspended.
  Task<Result<PagePin>> FetchSnapshotLeaf(Generation generation, std::string key, bool before);

  // The pages of a snapshot from `key` (the lower bound of a page) on that were born after
  // generation `since`. Returns one part at a time, which may be empty. The checkpoint of the
  // snapshot must have finished. kSnapshotGone.
  Task<Result<PageRun>> CollectPages(Generation generation, Generation since, std::string key);

  // -- walks of [start, end) ("" = open) in a snapshot (view = its generation) or the newest tree
  // (view = 0). A walk descends only into dirty pages, the edges of the range, and subtrees that
  // the visitor asks for, so it usually costs little more than O(log n). kSnapshotGone.
  Task<Status> Walk(Generation view, std::string start, std::string end, RangeVisitor* visitor);
  // Excludes records that have expired at `now_ms`.
  Task<Result<Aggregates>> Aggregate(Generation view, std::string start, std::string end, int64_t now_ms);
  // The keys that have exactly `ranks[i]` records of the range before them. Returns fewer keys when
  // the range has fewer records. `ranks` must ascend.
  Task<Result<std::vector<std::string>>> KeysAtRanks(Generation view, std::string start, std::string end,
                                                     std::vector<uint64_t> ranks);
  // The differences in [start, end) between a snapshot and a younger one, or the newest tree (newer
  // = 0). Takes time proportional to the pages that differ. kSnapshotGone.
  Task<Status> Diff(Generation older, Generation newer, std::string start, std::string end, DiffVisitor* visitor);
  // At most `limit` records that have expired at `now_ms`, from the key `from` on.
  Task<Result<DueRecords>> FindDue(std::string from, int64_t now_ms, size_t limit);
  // Leaves worth merging among those born after generation `since`, from the leaf of `from` on.
  // Returns one part at a time. Reads no leaf, and only inner pages born after `since`.
  Task<Result<UnderfullLeaves>> FindUnderfull(Generation since, std::string from);

  // -- PageOwner
  bool PrepareForDisk(const Frame& frame, char* page, ChildRef* ref) override;
  size_t NeighborsOf(const Frame& frame, std::span<Extent> neighbors) override;
  void OnWriteEnded(Frame& frame, bool valid) override;
  void OnEvict(Frame& frame) override;
  Status ValidatePage(const char* page, uint32_t usable_bytes) override {
    return TreeNode::Validate(page, usable_bytes);
  }

 private:
  struct DirtyList {  // doubly linked through Frame::dirty_prev and dirty_next
    Frame* head = nullptr;
    Frame* tail = nullptr;
    size_t size = 0;
  };
  struct FrozenEntry {
    Frame* frame = nullptr;  // null once the page is written
    ChildRef ref;            // valid once the page is written
  };

  void Forget();

  // tree.cc: fetching
  // Reads the page that a descent found missing, and pins it in keep[slot] until the descent has
  // passed through it. On OK, descend again. When there is no room, releases all of `keep`, waits
  // for room, and also returns OK.
  Task<Status> Fetch(ChildRef missing, uint8_t level, std::span<PagePin> keep, size_t slot = 0);
  // tree.cc: descents
  Frame* ResolveChild(Frame* parent, uint32_t slot, ChildRef* missing);
  void Attach(Frame* parent, uint32_t slot, Frame* child);
  uint32_t SlotOfChild(Frame* parent, const Frame* child) const;
  size_t SiblingPlaces(Frame* parent, uint32_t slot, std::span<Extent> places);
  Frame* Parent(const Frame* frame) { return frame->parent == kNoFrame ? nullptr : &pool_.frame(frame->parent); }
  // The page above the leaf of `key` (with `before`, of the last key below it). Null if the root is a leaf, or if a
  // page on the way is not in memory: then *missing and *missing_level name it.
  Frame* LeafParent(Generation view, std::string_view key, bool before, ChildRef* missing, uint8_t* missing_level);
  // What ReadAhead has found so far, and the leaves to be read.
  struct AheadWalk {
    LeavesAhead covered;
    uint64_t rows = 0, bytes = 0;
    std::vector<ChildRef> unread;
    std::vector<size_t> numbers;  // of the leaves in `unread`, from the first that is covered on
    bool HasEnough(const ScanAhead& scan) const { return rows >= scan.rows || bytes >= scan.bytes; }
  };
  void AddChildrenAhead(Frame* parent, const ScanAhead& scan, std::string* at, AheadWalk* walk);
  // Like FindLeaf, but stops at `level`.
  Frame* FindNode(std::string_view key, uint8_t level, ChildRef* missing, uint8_t* missing_level);

  // tree_snapshot.cc
  Status CheckView(Generation view) const;  // kSnapshotGone
  struct MissingPage {
    ChildRef ref;
    uint8_t level = 0;
    bool has_upper = false;  // false: the last page of its level. Only walks set it and `upper`
    std::string upper;
  };
  // Fetch, for a descent in `view` (0 = the newest tree). Returns kSnapshotGone when the snapshot
  // was dropped during the read: the extent may have held another page by then.
  Task<Status> FetchIn(Generation view, MissingPage missing, std::span<PagePin> keep, size_t slot);
  Frame* SnapshotRoot(const TreeSnapshot& snapshot, ChildRef* missing);
  Frame* SnapshotChild(Frame* parent, uint32_t slot, ChildRef* missing);
  std::optional<MissingPage> CollectStep(const TreeSnapshot& snapshot, Generation since, const std::string& key,
                                         PageRun* run);

  // tree_write.cc: copy-on-write, splits, merges
  Frame* MakePathWritable(Frame* frame);
  Frame* MakeWritable(Frame* frame);
  Frame* Clone(Frame* old);
  void DetachChildren(Frame* from, Frame* to);
  Frame* NewNode(uint8_t level, std::string_view lower, const std::string_view* upper);
  void InsertRecord(Frame* leaf, uint32_t slot, std::string_view key, RecordView* record);
  Frame* Split(Frame* left, std::string_view key);
  uint32_t ChooseSplit(const TreeNode& node, std::string_view key, std::string* separator) const;
  bool SplitFits(const TreeNode& node, uint32_t at, std::string_view separator) const;
  void GrowRoot();
  void ReparentChildren(Frame* frame);
  bool Underfull(const TreeNode& node) const;
  bool MergeFits(const TreeNode& left, const TreeNode& right) const;
  void Merge(Frame* parent, uint32_t left_slot);
  enum class MergeStep : uint8_t {
    kMerged,  // joined with a neighbor
    kAlone,   // it has no neighbor under its parent, but the parent may have one
    kDone,    // it is full enough, is the root, or fits with no neighbor
  };
  Task<Result<MergeStep>> MergeAt(std::string key, uint8_t level);
  void DropPage(Frame* frame);
  void FreeOverflow(const RecordView& record);
  void FreeExtent(Extent extent, Generation birth);

  // tree_checkpoint.cc
  DirtyList& ListOf(uint8_t index) { return lists_[index >> 6][index & 63]; }
  void ListAdd(Frame* frame) { ListAdd(frame, parity_); }
  void ListAdd(Frame* frame, uint8_t parity);
  void ListRemove(Frame* frame);
  Task<void> WriteOne(Frame* frame, Status* first_error, size_t* in_flight);
  std::optional<ChildRef> DiskRefOf(const ChildRef& child) const;

  // tree_walk.cc
  bool KnownChild(Frame* parent, uint32_t slot, ChildRef* ref) const;
  std::optional<MissingPage> WalkStep(Generation view, std::string* at, const std::string& end, RangeVisitor* visitor,
                                      bool* over, uint32_t* work);
  bool IsUnderfull(const ChildRef& child);
  std::optional<MissingPage> UnderfullStep(Generation since, const std::string& from, UnderfullLeaves* found,
                                           uint32_t* work);

  // tree_diff.cc
  // A page on the path down to a key.
  struct Place {
    Frame* frame = nullptr;  // null: not in memory; read it by `ref`
    ChildRef ref;            // location empty: not on disk yet
    uint8_t level = 0;
    bool has_upper = false;  // false: the last page of its level
    std::string upper;
    bool SamePageAs(const Place& other) const;
  };
  struct DiffMissing {
    MissingPage page;
    int tree = 0;  // 0 = the older, 1 = the newer
  };
  Place RootPlace(Generation view);
  Place ChildPlace(Generation view, const Place& parent, const std::string& key);
  std::optional<DiffMissing> DiffStep(Generation older, Generation newer, std::string* at, const std::string& end,
                                      DiffVisitor* visitor, bool* over, uint32_t* work);
  static bool DiffLeaves(const TreeNode& older, const TreeNode& newer, const std::string& from, const std::string* end,
                         DiffVisitor* visitor);

  static constexpr size_t kShortKeyDivisor = 8;
  static constexpr size_t kLists = kMaxTreeHeight + 1;  // one per level, then overflow values

  BufferPool& pool_;
  const uint32_t max_key_bytes_, max_inline_bytes_;
  Frame* root_ = nullptr;
  Generation generation_ = 0;
  uint64_t next_page_id_ = 1;
  size_t dirty_count_ = 0;
  // By the parity of the generation that dirtied the pages, then by level.
  DirtyList lists_[2][kLists];
  uint8_t parity_ = 0;  // of the current generation
  bool abandoned_ = false;
  bool checkpointing_ = false;
  Generation frozen_generation_ = 0;
  uint64_t frozen_root_id_ = 0;
  uint8_t frozen_root_level_ = 0;
  ChildRef frozen_root_ref_;                          // empty until the frozen root is on disk
  std::unordered_map<uint64_t, FrozenEntry> frozen_;  // by page id
  std::map<Generation, TreeSnapshot> snapshots_;
  WaitQueue checkpoint_progress_;
};

}  // namespace pando
