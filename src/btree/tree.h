// Tree: a copy-on-write B+ tree over the buffer pool, one per partition.
//
// Generations. A page born in the current generation is edited in place. EndGeneration freezes every page; the first
// write to a frozen page gives it a new life: in place when its content is already on disk, else as a clone whose old
// frame stays for the checkpoint ("detached"). The newest tree refers to resident children by frame ("attached");
// a detached inner page refers to its unwritten children by page id, resolved through `frozen_`.
//
// Reads and writes of resident pages are synchronous; what is missing is fetched first (FetchLeaf), then the caller
// descends again: no position in the tree is held across a suspension.
//
// Threads: one reactor.
//
// Invariants
//   C1  An attached frame's parent is attached and resident; the root is attached and never evicted.
//   C2  A dirty attached page has only dirty ancestors, and none older than itself; a page is written only once all its
//       children are, so that nothing on disk refers to what is not.
//   C3  A page born before the current generation is never changed.
//   C4  Every extent is either reachable from a root on disk or about to be, on a dead list, or free.
//   C5  Modifying calls need kFramesPerUpdate free frames promised by BufferPool::EnsureFree, and never suspend.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/btree/node.h"
#include "src/buffer_pool/buffer_pool.h"

namespace pando {

// Frames that one Upsert or Erase may take: a clone and a split on every level, plus a new root.
inline constexpr size_t kMaxTreeHeight = 12;
inline constexpr size_t kFramesPerUpdate = 2 * kMaxTreeHeight;
static_assert(2 * kFramesPerUpdate <= BufferPool::kMinFrames / 4, "a merge's frames can be promised in any pool");

// A page is merged with a neighbour when it uses less than 1/4 of its bytes and both fit in 3/4 of a page, so that a
// few inserts do not split it again at once.
inline constexpr uint32_t kUnderfullDivisor = 4;

struct DeadExtent {
  Extent extent;
  Generation birth = 0;
};

// Where the tree's pages live; implemented by the partition.
class TreeStorage {
 public:
  virtual File& file() = 0;
  virtual const Uuid& uuid() const = 0;
  // An extent that no page refers to until it is adopted; FreeNow gives it back.
  virtual Task<Result<Extent>> AllocateForWrite(uint32_t blocks) = 0;
  // An extent of the current generation: no durable root, nor one about to be, refers to it; reusable at once.
  virtual void FreeNow(Extent extent) = 0;
  // From now on a page or record of generation `birth` refers to the extent.
  virtual void AdoptExtent(Extent extent, Generation birth) = 0;
  // An extent of the current generation that nothing refers to any more, but that may still be read or written.
  virtual void OrphanExtent(Extent extent) = 0;
  // An extent that an older root may refer to; it died in the current generation.
  virtual void FreeLater(DeadExtent dead) = 0;
  virtual void OnIoError(const Status& status) = 0;

 protected:
  ~TreeStorage() = default;
};

// A record found in a resident leaf; views are valid until the next modification or suspension.
struct FoundRecord {
  std::string_view leaf_prefix;
  RecordView record;
};

// A value to store: inline bytes, or an overflow value whose extent the caller allocated (Tree::NeedsOverflow).
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
// Adds the leaf's records in slots [from, to) that have not expired at `now_ms`.
void AddRecords(const Node& leaf, uint32_t from, uint32_t to, int64_t now_ms, Aggregates* sum);

// Records whose expiry has come, with the versions they were seen at.
struct DueRecords {
  struct Due {
    std::string key;
    Version version;
  };
  std::vector<Due> due;
  int64_t next_expiry_ms = 0;  // of the records that were looked at and are not due, the earliest; 0 = none expires
  std::string next;            // where to go on, unless `over`
  bool over = false;
  Status damage;  // of a page that could not be read, and was left out
};

// Leaves that use so little of their page that they are worth merging, by their first possible key.
struct UnderfullLeaves {
  std::vector<std::string> keys;
  std::string next;  // where to go on, unless `over`
  bool over = false;
};

// Told, in key order, about the parts of a range. Views are valid during the call; nothing may be modified.
class RangeVisitor {
 public:
  // A subtree that lies wholly inside the range and whose aggregates are known. False: look into it.
  virtual bool OnSubtree(const ChildRef& ref) = 0;
  // Slots [from, to) of a leaf lie in the range. True: enough, end the walk.
  virtual bool OnLeaf(const Node& leaf, uint32_t from, uint32_t to) = 0;
  // A page of the range cannot be read. True: go on after it; false: the walk ends with `status`.
  virtual bool OnDamage(const Status& status) {
    (void)status;
    return false;
  }

 protected:
  ~RangeVisitor() = default;
};

// Told, in key order, what differs between two generations.
class DiffVisitor {
 public:
  // A record that was added (no `older` leaf), removed (no `newer` leaf) or replaced. Views are valid during the call;
  // nothing may be modified. True: enough, end the walk.
  virtual bool OnChange(const Node* older, uint32_t older_slot, const Node* newer, uint32_t newer_slot) = 0;

 protected:
  ~DiffVisitor() = default;
};

// Pages of a snapshot as they lie on disk: those of one inner page's leaves, behind the inner pages that begin with the
// same key (so that parents come before their children).
struct PageRun {
  struct Page {
    ChildRef ref;
    uint8_t level = 0;
    std::string lower;
  };
  std::vector<Page> pages;
  std::string next;  // the key to go on from
  bool over = false;
};

// A frozen generation that is kept readable: its root by page id, and by reference once that is on disk.
struct TreeSnapshot {
  Generation generation = 0;
  uint64_t root_id = 0;
  uint8_t root_level = 0;
  ChildRef root;
};

// The root of a frozen generation, as a checkpoint writes it down.
struct FrozenRoot {
  Generation generation = 0;
  uint8_t level = 0;
  ChildRef ref;
};

class Tree final : public PageOwner {
 public:
  Tree(BufferPool& pool, TreeStorage& storage);
  ~Tree();

  // -- life
  Task<Status> CreateEmpty();  // generation 1, one empty leaf
  Task<Status> OpenRoot(ChildRef root, uint8_t level, Generation generation, uint64_t next_page_id);
  // Gives every frame back without writing; no I/O of this tree may be in flight.
  void Abandon();

  // -- reading resident pages
  // The attached leaf for `key`, or null; then *missing and *missing_level say what to load.
  Frame* FindLeaf(std::string_view key, ChildRef* missing, uint8_t* missing_level);
  // The child in `slot` of an attached inner page, or null when it is not in memory.
  Frame* ChildIfResident(Frame* parent, uint32_t slot) {
    ChildRef missing;
    return ResolveChild(parent, slot, &missing);
  }
  std::optional<FoundRecord> FindInLeaf(Frame* leaf, std::string_view key);
  Node NodeOf(Frame* frame) const { return Node(pool_.data(*frame), pool_.page_bytes()); }
  Frame* root() const { return root_; }
  BufferPool& pool() { return pool_; }

  // -- fetching
  Task<Result<PagePin>> FetchLeaf(std::string key);
  // Reads the pages that a descent to any of `keys` misses, together, and keeps none of them: so that fetching the
  // leaves one after the other then hardly waits. Does what there is room for; errors show when the pages are fetched.
  Task<void> FetchAhead(std::vector<std::string> keys);
  // For reverse scans: the leaf that holds the last key below `key` (`before` empty = the last leaf).
  Task<Result<PagePin>> FetchLeafBefore(std::string before);
  // Starts reading the leaves behind `key`'s in a snapshot (view = its generation) or the newest tree (view = 0), at
  // most `pages`, without waiting: read-ahead for scans.
  void ReadAhead(Generation view, std::string_view key, bool reverse, size_t pages, TaskGroup* tasks);
  // kAborted: look the record up again; the value was superseded, or there was no room (there is now).
  Task<Result<PagePin>> FetchOverflow(OverflowRef ref, uint32_t value_bytes);
  // A resident overflow value, or null.
  Frame* FindOverflow(const OverflowRef& ref) { return pool_.Lookup(this, ref.location); }

  // -- writing resident pages (C5). `leaf` is what FindLeaf returned for this key, with no suspension since.
  // What is no longer than a reference stays inline under any key: so do all numbers.
  bool NeedsOverflow(size_t key_bytes, size_t value_bytes) const {
    return value_bytes > sizeof(OverflowRef) && key_bytes + value_bytes > MaxInlineBytes(pool_.page_bytes());
  }
  void Upsert(Frame* leaf, std::string_view key, const NewValue& value);
  // How many pages the splits of one Upsert in a batch may make, beside kFramesPerUpdate for the batch as a whole.
  size_t NewPagesFor(size_t key_bytes) const {
    // A leaf is split once, or twice around a record that fits with neither half. Inner pages of short separators are
    // split so rarely that kFramesPerUpdate covers it; with the longest, a page has three children.
    return key_bytes <= MaxKeyBytes(pool_.page_bytes()) / kShortKeyDivisor ? 2 : 4;
  }
  // Gives the record of `key`, which must exist, another version and expiry. A large value stays where it is.
  void Touch(Frame* leaf, std::string_view key, Version version, int64_t expires_at_ms);
  // How many pages would be cloned if all of `leaves` were modified now; kFramesPerUpdate covers one leaf's.
  size_t ClonesNeeded(std::span<Frame* const> leaves);
  // True when there was a record. *underfull: the leaf is worth merging (MergeLeaf).
  bool Erase(Frame* leaf, std::string_view key, bool* underfull);
  // Fetches the leaf of `key` and a neighbour, and joins them when both fit in one page; frees empty pages. *merged:
  // some page was freed.
  Task<Status> MergeLeaf(std::string key, bool* merged = nullptr);

  // -- generations and checkpoints
  Generation generation() const { return generation_; }
  uint64_t next_page_id() const { return next_page_id_; }
  uint8_t root_level() const { return root_->level; }
  bool checkpointing() const { return checkpointing_; }
  size_t dirty_pages() const { return dirty_count_; }
  // Freezes the tree as it is: O(1). One frozen generation at a time.
  void EndGeneration();
  // Writes all pages frozen by EndGeneration, children first, at most `in_flight` at once, and returns the root.
  // `pace` is awaited before each page.
  Task<Result<FrozenRoot>> WriteFrozen(size_t in_flight, std::function<Task<void>()> pace);
  // After the superblock is durable: forgets what only the frozen tree needed. The tree may be changed at once; the
  // next generation may end when this returns.
  Task<void> FinishCheckpoint();

  // -- snapshots: the generation frozen last, kept readable until dropped. Taking one is O(1). What its pages need on
  // disk is the storage's business (TreeStorage::FreeLater).
  Generation AddSnapshot();
  const TreeSnapshot& snapshot(Generation generation) const { return snapshots_.at(generation); }
  void DropSnapshot(Generation generation) { snapshots_.erase(generation); }
  // Like FetchLeaf and FetchLeafBefore, in a snapshot (which must exist, also when this resumes: null pin = it is
  // gone).
  Task<Result<PagePin>> FetchSnapshotLeaf(Generation generation, std::string key, bool before);

  // The pages of a snapshot from `key` (a page's lower bound) on that were born after generation `since`; a part at a
  // time, which may be empty. The snapshot's checkpoint must have finished. kSnapshotGone.
  Task<Result<PageRun>> CollectPages(Generation generation, Generation since, std::string key);

  // -- walks of [start, end) ("" = open) in a snapshot (view = its generation) or the newest tree (view = 0). They look
  // into dirty pages, the range's edges, and where the visitor wants to: O(log n) and a little. kSnapshotGone.
  Task<Status> Walk(Generation view, std::string start, std::string end, RangeVisitor* visitor);
  // Without what has expired at `now_ms`.
  Task<Result<Aggregates>> Aggregate(Generation view, std::string start, std::string end, int64_t now_ms);
  // The keys with so many records of the range before them; fewer when the range has fewer. `ranks` ascend.
  Task<Result<std::vector<std::string>>> KeysAtRanks(Generation view, std::string start, std::string end,
                                                     std::vector<uint64_t> ranks);
  // What differs in [start, end) between a snapshot and a younger one, or the newest tree (newer = 0): in time
  // proportional to the pages that differ. kSnapshotGone.
  Task<Status> Diff(Generation older, Generation newer, std::string start, std::string end, DiffVisitor* visitor);
  // At most `limit` records that are due, from the key `from` on.
  Task<Result<DueRecords>> FindDue(std::string from, int64_t now_ms, size_t limit);
  // Leaves worth merging among those born after generation `since`, from the one of `from` on: a part at a time, which
  // may be empty. It looks only into inner pages that are that young, and reads no leaf.
  Task<Result<UnderfullLeaves>> FindUnderfull(Generation since, std::string from);

  // -- PageOwner
  File& file() override { return storage_.file(); }
  const Uuid& uuid() const override { return storage_.uuid(); }
  Task<Result<Extent>> AllocateForWrite(uint32_t blocks) override { return storage_.AllocateForWrite(blocks); }
  void DiscardExtent(Extent extent) override { storage_.FreeNow(extent); }
  bool PrepareForDisk(const Frame& frame, char* page, ChildRef* ref) override;
  void OnWriteEnded(Frame& frame, bool valid) override;
  void OnEvict(Frame& frame) override;
  Status ValidatePage(const char* page, uint32_t page_bytes) override { return Node::Validate(page, page_bytes); }
  void OnIoError(const Status& status) override { storage_.OnIoError(status); }

 private:
  struct DirtyList {  // doubly linked through Frame::dirty_prev/next
    Frame* head = nullptr;
    Frame* tail = nullptr;
    size_t size = 0;
  };
  struct FrozenEntry {
    Frame* frame = nullptr;  // not written yet
    ChildRef ref;            // written
  };

  // tree.cc: fetching
  // Reads the page that a descent found missing, and keeps it in keep[slot] until the descent has got through it. OK:
  // descend again (also when there was no room: then that was waited for, with nothing kept).
  Task<Status> Fetch(ChildRef missing, uint8_t level, std::span<PagePin> keep, size_t slot = 0);
  // tree.cc: descents
  Frame* ResolveChild(Frame* parent, uint32_t slot, ChildRef* missing);
  void Attach(Frame* parent, uint32_t slot, Frame* child);
  uint32_t SlotOfChild(Frame* parent, const Frame* child) const;
  Frame* Parent(const Frame* frame) { return frame->parent == kNoFrame ? nullptr : &pool_.frame(frame->parent); }
  // Like FindLeaf, but stops at `level`.
  Frame* FindNode(std::string_view key, uint8_t level, ChildRef* missing, uint8_t* missing_level);

  // tree_snapshot.cc
  Status CheckView(Generation view) const;  // kSnapshotGone
  struct MissingPage {
    ChildRef ref;
    uint8_t level = 0;
    bool has_upper = false;  // false: the last page of its level. Known to walks
    std::string upper;
  };
  // Fetch, for a descent in `view` (0 = the newest tree). kSnapshotGone when it is: what was read may have been another
  // page by then.
  Task<Status> FetchIn(Generation view, MissingPage missing, std::span<PagePin> keep, size_t slot);
  Frame* SnapshotRoot(const TreeSnapshot& snapshot, ChildRef* missing);
  // The resident inner page above the leaf of `key`, or null.
  Frame* SnapshotLeafParent(const TreeSnapshot& snapshot, std::string_view key);
  Frame* SnapshotChild(Frame* parent, uint32_t slot, ChildRef* missing);
  std::optional<MissingPage> CollectStep(const TreeSnapshot& snapshot, Generation since, const std::string& key,
                                         PageRun* run);

  // tree_write.cc: copy-on-write, splits, merges
  Frame* MakePathWritable(Frame* frame);
  Frame* MakeWritable(Frame* frame);
  Frame* Clone(Frame* frame);
  void DetachChildren(Frame* from, Frame* to);
  Frame* NewNode(uint8_t level, std::string_view lower, const std::string_view* upper);
  void InsertRecord(Frame* leaf, uint32_t slot, std::string_view key, RecordView* record);
  Frame* Split(Frame* node, std::string_view key);
  uint32_t ChooseSplit(const Node& node, std::string_view key, std::string* separator) const;
  bool SplitFits(const Node& node, uint32_t at, std::string_view separator) const;
  void GrowRoot();
  void ReparentChildren(Frame* node);
  bool Underfull(const Node& node) const;
  bool MergeFits(const Node& left, const Node& right) const;
  void Merge(Frame* parent, uint32_t left_slot);
  enum class MergeStep : uint8_t {
    kMerged,  // joined with a neighbour
    kAlone,   // it has no neighbour under its parent, but the parent may have one
    kDone,    // it is full enough, the root, or fits with no neighbour
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
  // A page on the way down to a key.
  struct Place {
    Frame* frame = nullptr;  // null: not in memory, `ref` says where
    ChildRef ref;            // location empty: not on disk yet
    uint8_t level = 0;
    bool has_upper = false;  // false: the last page of its level
    std::string upper;
    bool SamePageAs(const Place& other) const;
  };
  struct DiffMissing : MissingPage {
    int tree = 0;  // 0 = the older
  };
  Place RootPlace(Generation view);
  Place ChildPlace(Generation view, const Place& parent, const std::string& key);
  std::optional<DiffMissing> DiffStep(Generation older, Generation newer, std::string* at, const std::string& end,
                                      DiffVisitor* visitor, bool* over, uint32_t* work);
  static bool DiffLeaves(const Node& older, const Node& newer, const std::string& from, const std::string* end,
                         DiffVisitor* visitor);

  static constexpr size_t kShortKeyDivisor = 8;
  static constexpr size_t kLists = kMaxTreeHeight + 1;  // by level; the last is overflow values

  BufferPool& pool_;
  TreeStorage& storage_;
  Frame* root_ = nullptr;
  Generation generation_ = 0;
  uint64_t next_page_id_ = 1;
  size_t dirty_count_ = 0;
  DirtyList lists_[2][kLists];  // by the parity of the generation that made the pages dirty, and level
  uint8_t parity_ = 0;          // of the current generation
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
