// Compares trees with std::map: walks, aggregates, ranks, batched lookups and snapshots, while
// pages are evicted and generations end.
#include "src/btree/tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>

#include "src/base/hash.h"
#include "src/btree/batch_find.h"
#include "tests/support/hand_bytes.h"
#include "tests/support/seeds.h"
#include "tests/support/tree_harness.h"

namespace pando {
namespace {

struct Entry {
  std::string value;
  Version version = 0;
  int64_t expires_at_ms = 0;
};
using Entries = std::map<std::string, Entry>;

// The aggregates of docs/FORMAT.md, "References".
uint64_t HashOf(const std::string& key, const Entry& e) {
  return Hash64(
      HandBytes().U64(Hash64(e.value)).U64(e.version).U64(static_cast<uint64_t>(e.expires_at_ms)).Text(key).str());
}

struct Sums {
  uint64_t count = 0, bytes = 0, hash = 0;
  int64_t earliest = 0;
  bool operator==(const Sums&) const = default;
};

Sums SumsOf(const Entries& entries, const std::string& start, const std::string& end, int64_t now_ms) {
  Sums s;
  for (auto it = entries.lower_bound(start); it != entries.end() && (end.empty() || it->first < end); ++it) {
    const Entry& e = it->second;
    if (e.expires_at_ms != 0 && e.expires_at_ms <= now_ms) continue;
    ++s.count;
    s.bytes += it->first.size() + e.value.size();
    s.hash += HashOf(it->first, e);
    if (e.expires_at_ms != 0 && (s.earliest == 0 || e.expires_at_ms < s.earliest)) s.earliest = e.expires_at_ms;
  }
  return s;
}
Sums SumsOf(const Aggregates& a) { return {a.count, a.bytes, a.content_hash, a.earliest_expiry_ms}; }
Sums SumsOf(const ChildRef& r) { return {r.count, r.bytes, r.content_hash, r.earliest_expiry_ms}; }
void PrintTo(const Sums& s, std::ostream* out) {
  *out << fmt::format("{} records, {} bytes, hash {:x}, earliest expiry {}", s.count, s.bytes, s.hash, s.earliest);
}

Task<void> EnsureFreeTask(BufferPool* pool, size_t frames) { EXPECT_TRUE((co_await pool->EnsureFree(frames)).ok()); }

// One tree and the map that it must equal, changed at random.
class Twin {
 public:
  Twin(TreeHarness* harness, size_t tree, uint64_t seed, size_t keys)
      : harness_(*harness), tree_(tree), random_(seed), keys_(keys) {}

  std::string RandomKey() { return KeyOf(random_.Below(keys_)); }
  static std::string KeyOf(uint64_t n) {
    std::string key = fmt::format("{:05}", n * 7919 % 100'000);
    if (n % 9 == 0) key += std::string(n % 200, 'k');
    return key;
  }
  std::string RandomBound() { return random_.Chance(0.2) ? "" : RandomKey(); }

  void Change() {
    const std::string key = RandomKey();
    if (random_.Chance(erase_)) {
      EXPECT_EQ(harness_.Erase(key, tree_), entries.erase(key) == 1);
      return;
    }
    Entry e;
    const uint64_t size = random_.Below(100);
    e.value.assign(random_.Below(size < 2 ? 20'000 : size < 20 ? 900 : 60), static_cast<char>('a' + random_.Below(26)));
    e.version = ++version_;
    if (random_.Chance(0.3)) e.expires_at_ms = random_.Between(1, 1000);
    harness_.Put(key, e.value, e.version, e.expires_at_ms, tree_);
    entries[key] = e;
  }
  // Alternates periods of growing and shrinking, with occasional checkpoints.
  void ChangeMany(int n) {
    for (int i = 0; i < n; ++i) {
      if (random_.Chance(0.005)) erase_ = random_.Chance(0.5) ? 0.1 : 0.8;
      if (random_.Chance(0.01)) harness_.Checkpoint(tree_);
      Change();
    }
  }
  // Inserts more than the smallest pool holds.
  void Fill() {
    for (uint64_t n = 0; n < keys_; ++n) {
      const std::string key = KeyOf(n);
      Entry e{std::string(300, static_cast<char>('A' + n % 26)), ++version_, 0};
      harness_.Put(key, e.value, e.version, 0, tree_);
      entries[key] = e;
    }
  }
  // Makes walks accept most subtrees by their references and descend into the few that changed
  // since.
  void WriteMostPages() {
    harness_.Checkpoint(tree_);
    for (int i = 0; i < 5; ++i) Change();
  }
  SimRandom& random() { return random_; }

  Entries entries;

 private:
  TreeHarness& harness_;
  const size_t tree_;
  SimRandom random_;
  const size_t keys_;
  double erase_ = 0.1;
  Version version_ = 0;
};

TreeHarness::Options OptionsOf(uint64_t seed, uint32_t trees = 1) {
  SimRandom random(seed);
  return {.seed = seed,
          .page_bytes = 4096u << random.Below(3),
          .trees = trees,
          .memory_factor = 1 + random.Below(2) * 3,
          .compression = static_cast<Compression>(random.Below(3))};
}

// Changes a tree and its twin for `rounds` rounds and calls `check` after each. In every other
// round, most pages are clean at that point.
void ForChangingTrees(uint64_t seeds, int rounds, int changes,
                      const std::function<void(TreeHarness& harness, Twin& twin)>& check) {
  for (uint64_t seed : Seeds(seeds)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness harness(OptionsOf(seed));
    Twin twin(&harness, 0, seed, 3000);
    if (seed % 2 == 0) twin.Fill();
    for (int round = 0; round < rounds && !testing::Test::HasFailure(); ++round) {
      twin.ChangeMany(changes);
      if (round % 2 == 1) twin.WriteMostPages();
      check(harness, twin);
    }
  }
}

// -- aggregates

TEST(Tree, RangesSumLikeTheMap) {
  ForChangingTrees(6, 8, 300, [](TreeHarness& harness, Twin& twin) {
    for (int i = 0; i < 30; ++i) {
      const std::string start = twin.RandomBound(), end = twin.RandomBound();
      const int64_t now_ms = twin.random().Between(0, 1100);
      const Sums want = !end.empty() && start >= end ? Sums() : SumsOf(twin.entries, start, end, now_ms);
      ASSERT_EQ(SumsOf(harness.Sum(0, start, end, now_ms)), want) << "[" << start << ", " << end << ") at " << now_ms;
    }
    const FrozenRoot root = harness.Checkpoint();
    EXPECT_EQ(SumsOf(root.ref), SumsOf(twin.entries, "", "", 0)) << "the root's reference";
  });
}

TEST(Tree, EqualContentHasEqualSumsWhateverMadeIt) {
  Entries content;
  SimRandom random(5);
  for (int i = 0; i < 2000; ++i) {
    Entry e{std::string(random.Below(i % 50 == 0 ? 6000 : 100), 'v'), random.Next(), random.Below(2) ? 0 : 77 + i};
    content[fmt::format("{:x}", random.Next())] = e;
  }
  const Sums want = SumsOf(content, "", "", 0);
  std::vector<std::string> keys;
  for (const auto& [key, e] : content) keys.push_back(key);
  for (int way = 0; way < 4; ++way) {
    TreeHarness harness({.page_bytes = 4096u << way});
    if (way == 1) std::reverse(keys.begin(), keys.end());
    if (way >= 2) std::shuffle(keys.begin(), keys.end(), std::mt19937_64(static_cast<uint64_t>(way)));
    for (size_t i = 0; i < keys.size(); ++i) {
      const Entry& e = content[keys[i]];
      if (way == 3) {  // with some records replaced and removed in between
        harness.Put(keys[i], "other", 1);
        harness.Put(keys[i] + "x", "gone", 2, 5);
      }
      harness.Put(keys[i], e.value, e.version, e.expires_at_ms);
      if (way == 3) {
        EXPECT_TRUE(harness.Erase(keys[i] + "x"));
      }
      if (way >= 1 && i % 500 == 100) harness.Checkpoint();
    }
    EXPECT_EQ(SumsOf(harness.Sum(0, "", "", 0)), want) << "way " << way;
    // Any difference changes the hash.
    Entry& e = content[keys[7]];
    harness.Put(keys[7], e.value, e.version + 1, e.expires_at_ms);
    EXPECT_NE(harness.Sum(0, "", "", 0).content_hash, want.hash);
    harness.Put(keys[7], e.value, e.version, e.expires_at_ms + 1);
    EXPECT_NE(harness.Sum(0, "", "", 0).content_hash, want.hash);
    harness.Put(keys[7], e.value + "!", e.version, e.expires_at_ms);
    EXPECT_NE(harness.Sum(0, "", "", 0).content_hash, want.hash);
    harness.Put(keys[7], e.value, e.version, e.expires_at_ms);
    EXPECT_EQ(SumsOf(harness.Sum(0, "", "", 0)), want);
  }
}

TEST(Tree, KeysAtRanksAreThoseOfTheSortedKeys) {
  ForChangingTrees(4, 6, 400, [](TreeHarness& harness, Twin& twin) {
    for (int i = 0; i < 20; ++i) {
      const std::string start = twin.RandomBound(), end = twin.RandomBound();
      if (!end.empty() && start >= end) continue;
      std::vector<std::string> keys;
      for (auto it = twin.entries.lower_bound(start); it != twin.entries.end(); ++it) {
        if (end.empty() || it->first < end) keys.push_back(it->first);
      }
      std::set<uint64_t> ranks;
      for (uint64_t n = 1 + twin.random().Below(8); n > 0; --n) ranks.insert(twin.random().Below(keys.size() + 3));
      std::vector<std::string> want;
      for (uint64_t rank : ranks) {
        if (rank < keys.size()) want.push_back(keys[rank]);
      }
      auto got = harness.Get(harness.tree().KeysAtRanks(0, start, end, {ranks.begin(), ranks.end()}));
      ASSERT_TRUE(got.ok());
      ASSERT_EQ(*got, want);
    }
  });
}

// -- lookups

TEST(Tree, BatchFindFindsWhatSingleLookupsFind) {
  for (uint64_t seed : Seeds(5)) {
    SCOPED_TRACE(Replay(seed));
    constexpr size_t kTrees = 3;
    TreeHarness harness({.seed = seed, .trees = kTrees, .memory_factor = 1});
    std::vector<Twin> twins;
    for (size_t t = 0; t < kTrees; ++t) {
      twins.emplace_back(&harness, t, seed + t, 1500);
      twins[t].Fill();
    }
    uint64_t missing_pages = 0, found_records = 0;
    for (int round = 0; round < 10 && !HasFailure(); ++round) {
      for (Twin& twin : twins) twin.ChangeMany(200);
      std::vector<std::string> keys;
      std::vector<BatchLookup> lookups(1 + twins[0].random().Below(100));
      for (BatchLookup& l : lookups) {
        const size_t t = twins[0].random().Below(kTrees);
        l.tree = &harness.tree(t);
        keys.push_back(twins[t].RandomKey());
      }
      for (size_t i = 0; i < lookups.size(); ++i) lookups[i].key = keys[i];
      BatchFind(harness.pool(), lookups);
      for (const BatchLookup& l : lookups) {
        ChildRef missing;
        uint8_t level = 0;
        Frame* leaf = l.tree->FindLeaf(l.key, &missing, &level);
        ASSERT_EQ(l.leaf, leaf) << l.key;
        missing_pages += leaf == nullptr;
        if (!leaf) continue;
        std::optional<FoundRecord> found = l.tree->FindInLeaf(leaf, l.key);
        ASSERT_EQ(l.found, found.has_value());
        const size_t t = l.tree == &harness.tree(0) ? 0 : l.tree == &harness.tree(1) ? 1 : 2;
        auto want = twins[t].entries.find(std::string(l.key));
        ASSERT_EQ(l.found, want != twins[t].entries.end()) << l.key;
        if (!l.found) continue;
        ++found_records;
        ASSERT_EQ(l.record.version, want->second.version);
        ASSERT_EQ(l.record.expires_at_ms, want->second.expires_at_ms);
        ASSERT_EQ(l.record.value_bytes, want->second.value.size());
        if (l.record.overflow) {
          ASSERT_EQ(l.record.overflow_ref.value_hash, Hash64(want->second.value));
        } else {
          ASSERT_EQ(l.record.value, want->second.value);
        }
      }
    }
    EXPECT_GT(missing_pages, 0u);
    EXPECT_GT(found_records, 0u);
  }
}

// -- snapshots

Task<void> ExpectSnapshot(Tree* tree, Generation generation, const Entries* want) {
  Entries got;
  std::string at;
  for (bool over = false; !over;) {
    Result<PagePin> leaf = co_await tree->FetchSnapshotLeaf(generation, at, false);
    EXPECT_TRUE(leaf.ok() && *leaf) << leaf.status().ToString();
    if (!leaf.ok() || !*leaf) co_return;
    TreeNode node = tree->NodeOf(leaf->frame());
    for (uint32_t i = 0; i < node.count(); ++i) {
      const RecordView r = node.Record(i);
      Entry e{std::string(r.value), r.version, r.expires_at_ms};
      const std::string key = node.Key(i);
      if (r.overflow) {
        Result<PagePin> value = Error(Code::kAborted, "not read yet");
        while (value.code() == Code::kAborted) value = co_await tree->FetchOverflow(r.overflow_ref, r.value_bytes);
        EXPECT_TRUE(value.ok()) << value.status().ToString();
        if (!value.ok()) co_return;
        tree->pool().CopyOverflow(*value->frame(), &e.value);
      }
      got[key] = std::move(e);
    }
    over = !node.has_upper();
    at = node.upper();
  }
  EXPECT_EQ(got.size(), want->size());
  for (const auto& [key, e] : *want) {
    auto found = got.find(key);
    EXPECT_TRUE(found != got.end() && found->second.value == e.value && found->second.version == e.version &&
                found->second.expires_at_ms == e.expires_at_ms)
        << key;
    if (testing::Test::HasFailure()) co_return;
  }
}

TEST(Tree, SnapshotsStayAsTheyWere) {
  for (uint64_t seed : Seeds(5)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness harness({.seed = seed, .memory_factor = 1});
    Twin twin(&harness, 0, seed, 4000);
    twin.Fill();
    std::map<Generation, Entries> snapshots;
    for (int round = 0; round < 8 && !HasFailure(); ++round) {
      twin.ChangeMany(150);
      if (round % 3 != 2) snapshots[harness.Snapshot()] = twin.entries;
      twin.ChangeMany(100);
      for (const auto& [generation, entries] : snapshots) {
        harness.Run(ExpectSnapshot(&harness.tree(), generation, &entries));
        EXPECT_EQ(SumsOf(harness.Sum(generation, "", "", 500)), SumsOf(entries, "", "", 500));
        auto ranked = harness.Get(harness.tree().KeysAtRanks(generation, "", "", {entries.size() / 2}));
        ASSERT_TRUE(ranked.ok());
        EXPECT_EQ(ranked->at(0), std::next(entries.begin(), static_cast<long>(entries.size() / 2))->first);
      }
      if (round % 4 == 3) {
        harness.tree().DropSnapshot(snapshots.begin()->first);
        Result<Aggregates> gone = harness.Get(harness.tree().Aggregate(snapshots.begin()->first, "", "", 0));
        EXPECT_EQ(gone.code(), Code::kSnapshotGone);
        snapshots.erase(snapshots.begin());
      }
    }
    EXPECT_GT(harness.pool().stats().evictions_total, 0u);
  }
}

// C3: a snapshot is readable and unchanged from the moment it is taken, even while none of it is on
// disk.
TEST(Tree, ASnapshotThatIsNotWrittenYetStaysAsItWas) {
  for (uint64_t seed : Seeds(3)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness::Options options = OptionsOf(seed);
    options.memory_factor = 8;
    TreeHarness harness(options);
    Twin twin(&harness, 0, seed, 800);
    for (int i = 0; i < 600; ++i) twin.Change();
    harness.tree().EndGeneration();
    const Generation generation = harness.tree().AddSnapshot();
    const Entries then = twin.entries;
    for (int i = 0; i < 400; ++i) twin.Change();
    harness.Run(ExpectSnapshot(&harness.tree(), generation, &then));
    EXPECT_EQ(SumsOf(harness.Sum(generation, "", "", 0)), SumsOf(then, "", "", 0));
    EXPECT_EQ(SumsOf(harness.Sum(0, "", "", 0)), SumsOf(twin.entries, "", "", 0));
    struct Body {
      static Task<void> Finish(Tree* tree) {
        EXPECT_TRUE((co_await tree->WriteFrozen(4, nullptr)).ok());
        co_await tree->FinishCheckpoint();
      }
    };
    harness.Run(Body::Finish(&harness.tree()));
    harness.Run(ExpectSnapshot(&harness.tree(), generation, &then));
  }
}

// -- differences of generations

// By key: the versions before and after; 0 = no record.
using Changes = std::map<std::string, std::pair<Version, Version>>;

class ChangeCollector final : public DiffVisitor {
 public:
  bool OnChange(const TreeNode* older, uint32_t older_slot, const TreeNode* newer, uint32_t newer_slot) override {
    const std::string key = older ? older->Key(older_slot) : newer->Key(newer_slot);
    EXPECT_TRUE(changes.empty() || changes.rbegin()->first < key) << "changes must come in key order";
    changes[key] = {older ? older->Record(older_slot).version : 0, newer ? newer->Record(newer_slot).version : 0};
    return false;
  }
  Changes changes;
};

Changes ChangesOf(const Entries& older, const Entries& newer, const std::string& start, const std::string& end) {
  Changes changes;
  auto in = [&](const std::string& key) { return key >= start && (end.empty() || key < end); };
  for (const auto& [key, e] : older) {
    if (in(key)) changes[key].first = e.version;
  }
  for (const auto& [key, e] : newer) {
    if (in(key)) changes[key].second = e.version;
  }
  std::erase_if(changes, [](const auto& c) { return c.second.first == c.second.second; });
  return changes;
}

TEST(Tree, DiffsAreThoseOfTheMaps) {
  for (uint64_t seed : Seeds(6)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness harness(OptionsOf(seed));
    Twin twin(&harness, 0, seed, 3000);
    if (seed % 2 == 0) twin.Fill();
    std::map<Generation, Entries> views;  // 0 = the newest tree
    for (int round = 0; round < 8 && !HasFailure(); ++round) {
      views[harness.Snapshot()] = twin.entries;
      twin.ChangeMany(round % 3 == 0 ? 5 : 300);
      views[0] = twin.entries;
      for (const auto& [older, older_entries] : views) {
        for (const auto& [newer, newer_entries] : views) {
          if (older == 0 || (newer != 0 && newer < older)) continue;
          const std::string start = twin.RandomBound(), end = twin.RandomBound();
          if (!end.empty() && start >= end) continue;
          ChangeCollector collector;
          Status status = harness.Get(harness.tree().Diff(older, newer, start, end, &collector));
          ASSERT_TRUE(status.ok()) << status.ToString();
          ASSERT_EQ(collector.changes, ChangesOf(older_entries, newer_entries, start, end))
              << "from generation " << older << " to " << newer;
        }
      }
      if (views.size() > 3) {
        const Generation oldest = std::next(views.begin())->first;
        harness.tree().DropSnapshot(oldest);
        views.erase(oldest);
        ChangeCollector collector;
        EXPECT_EQ(harness.Get(harness.tree().Diff(oldest, 0, "", "", &collector)).code(), Code::kSnapshotGone);
      }
    }
  }
}

TEST(Tree, ADiffReadsOnlyPagesThatDiffer) {
  TreeHarness harness({.seed = 3, .memory_factor = 1});
  Twin twin(&harness, 0, 3, 12'000);
  twin.Fill();
  const Generation older = harness.Snapshot();
  const Entries before = twin.entries;
  for (int i = 0; i < 5; ++i) twin.Change();
  const Generation newer = harness.Snapshot();
  ChangeCollector collector;
  const uint64_t loads_before = harness.pool().stats().loads_total;
  ASSERT_TRUE(harness.Get(harness.tree().Diff(older, newer, "", "", &collector)).ok());
  const uint64_t loads = harness.pool().stats().loads_total - loads_before;
  EXPECT_EQ(collector.changes, ChangesOf(before, twin.entries, "", ""));
  EXPECT_EQ(collector.changes.size(), 5u);
  // At most two leaves per change, and the inner pages above them. The tree has about a thousand
  // pages.
  EXPECT_LE(loads, 5u * 2 * 4);
}

// -- frames

// C5: a batch is applied without suspending, using the frames promised for it: kFramesPerUpdate,
// plus NewPagesFor each operation. With the longest keys an inner page has three children, and
// every other split propagates one level up.
TEST(Tree, ABatchTakesNoMoreFramesThanWerePromised) {
  for (uint64_t seed : Seeds(6)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness harness({.seed = seed, .page_bytes = 4096, .memory_factor = 24});
    Tree& tree = harness.tree();
    SimRandom random(seed);
    const size_t longest = MaxKeyBytes(4096);
    for (int round = 0; round < 60; ++round) {
      constexpr size_t kOps = 32;
      harness.Run(EnsureFreeTask(&harness.pool(), 600));
      const size_t before = harness.pool().free_frames();
      size_t promised = kFramesPerUpdate;
      for (size_t n = 0; n < kOps; ++n) {
        // Keys that differ only near the end need separators as long as the keys.
        std::string key(random.Chance(0.8) ? longest - 4 - random.Below(8) : 1 + random.Below(900), 'k');
        key += fmt::format("{:04}", random.Below(10'000));
        key.resize(std::min(key.size(), longest));
        std::string value(random.Chance(0.5) ? 0 : random.Below(32), 'v');
        ChildRef missing;
        uint8_t level = 0;
        Frame* leaf = tree.FindLeaf(key, &missing, &level);
        ASSERT_NE(leaf, nullptr) << "the pool must hold all pages";
        tree.Upsert(leaf, key, NewValue{value, {}, 1, 0});
        promised += tree.NewPagesFor(key.size());
      }
      const size_t taken = before - harness.pool().free_frames();
      EXPECT_LE(taken, promised) << "round " << round;
    }
  }
}

// -- merging

struct Leaves final : RangeVisitor {
  explicit Leaves(uint32_t bytes) : page_bytes(bytes) {}
  bool OnSubtree(const ChildRef&) override { return false; }
  bool OnLeaf(const TreeNode& leaf, uint32_t, uint32_t) override {
    ++count;
    empty += leaf.count() == 0;
    if (leaf.UsedBytes() < page_bytes / kUnderfullDivisor) underfull.push_back(std::string(leaf.lower()));
    return false;
  }
  const uint32_t page_bytes;
  size_t count = 0, empty = 0;
  std::vector<std::string> underfull;
};

Task<uint64_t> PagesReadAhead(Tree* tree, ScanAhead scan, Generation view, LeavesAhead* covered) {
  TaskGroup reads;
  const uint64_t before = tree->pool().stats().ahead_pages_total;
  *covered = tree->ReadAhead(view, scan, &reads);
  co_await reads.Drain();
  co_return tree->pool().stats().ahead_pages_total - before;
}

// Read-ahead covers the leaves that hold the rows a scan wants, in either direction, and none beyond its range.
TEST(Tree, ReadAheadCoversWhatAScanWants) {
  TreeHarness harness({.seed = 1, .page_bytes = 4096, .memory_factor = 64});
  Tree& tree = harness.tree();
  auto key = [](int i) { return fmt::format("{:06}", i); };
  for (int i = 0; i < 5000; ++i) harness.Put(key(i), std::string(400, 'v'));  // about nine to a leaf
  const Generation view = harness.Snapshot();
  for (const Generation g : {Generation{0}, view}) {
    for (const bool reverse : {false, true}) {
      ScanAhead scan;
      scan.reverse = reverse;
      scan.rows = 100;
      scan.bytes = SIZE_MAX;
      scan.leaves = 1000;
      scan.most_pages = 1000;
      const std::string from = key(2500), bound = key(reverse ? 2400 : 2600), end = key(reverse ? 2470 : 2530);
      scan.from = from;
      LeavesAhead covered;
      harness.Get(PagesReadAhead(&tree, scan, g, &covered));
      EXPECT_TRUE(covered.all);
      EXPECT_GE(covered.leaves, 10u);
      EXPECT_LE(covered.leaves, 20u);
      scan.rows = SIZE_MAX;
      scan.bound = end;
      harness.Get(PagesReadAhead(&tree, scan, g, &covered));
      EXPECT_TRUE(covered.all) << "the range ends first";
      EXPECT_GE(covered.leaves, 3u);
      EXPECT_LE(covered.leaves, 7u);
      scan.bound = "";
      scan.leaves = 5;
      harness.Get(PagesReadAhead(&tree, scan, g, &covered));
      EXPECT_FALSE(covered.all);
      EXPECT_EQ(covered.leaves, 5u);
      scan.leaves = 100'000;
      harness.Get(PagesReadAhead(&tree, scan, g, &covered));
      EXPECT_TRUE(covered.all) << "all parents are in memory";
      EXPECT_GE(covered.leaves, 2500u / 10);
    }
  }
}

// FindUnderfull finds the underfull leaves changed since a generation, whether or not they are in
// memory.
TEST(Tree, FindUnderfullFindsTheLeavesThatDeletesEmptied) {
  TreeHarness harness({.seed = 1, .page_bytes = 4096});
  Tree& tree = harness.tree();
  auto key = [](int i) { return fmt::format("{:06}", i); };
  for (int i = 0; i < 20'000; ++i) harness.Put(key(i), std::string(40, 'v'));
  harness.Checkpoint();
  const Generation since = tree.generation() - 1;
  for (int i = 0; i < 20'000; ++i) {
    if (i % 2000 < 1000 && i % 100 != 0) harness.EraseOnly(key(i));
  }
  for (int round = 0; round < 2; ++round) {
    Leaves all(4096);
    ASSERT_TRUE(harness.Get(tree.Walk(0, "", "", &all)).ok());
    EXPECT_GT(all.underfull.size(), all.count / 4);
    std::vector<std::string> found;
    std::string from;
    for (bool over = false; !over;) {
      Result<UnderfullLeaves> part = harness.Get(tree.FindUnderfull(since, from));
      ASSERT_TRUE(part.ok());
      found.insert(found.end(), part->keys.begin(), part->keys.end());
      over = part->over;
      from = part->next;
    }
    EXPECT_EQ(found, all.underfull);
    harness.Checkpoint();  // after it, most leaves are known only by their references
    Result<UnderfullLeaves> none = harness.Get(tree.FindUnderfull(tree.generation() - 1, ""));
    ASSERT_TRUE(none.ok());
    EXPECT_TRUE(none->keys.empty()) << "nothing has changed since the checkpoint";
  }
}

// After a sorted load, every leaf and inner page but the last is full. An emptied page then fits
// with a full neighbor only because it is empty, or must merge with the other neighbor.
TEST(Tree, WhatIsEmptiedFromTheFrontIsMergedToTheLastPage) {
  TreeHarness harness({.seed = 1, .page_bytes = 4096});
  Tree& tree = harness.tree();
  auto key = [](int i) { return fmt::format("{:08}", i); };
  size_t most = 0;
  for (int i = 0; i < 40'000; ++i) {
    harness.Put(key(i), std::string(60, 'v'));
    if (i >= 2000) {
      EXPECT_TRUE(harness.Erase(key(i - 2000)));
    }
    if (i % 4000 != 3999) continue;
    harness.Checkpoint();
    Leaves all(4096);
    ASSERT_TRUE(harness.Get(tree.Walk(0, "", "", &all)).ok());
    most = std::max(most, all.count);
    EXPECT_LE(all.empty, 2u) << i;
  }
  EXPECT_LE(most, 60u) << "2000 records fill about 50 leaves";
}

// -- expiry

TEST(Tree, FindDueFindsWhatIsDue) {
  for (uint64_t seed : Seeds(5)) {
    SCOPED_TRACE(Replay(seed));
    TreeHarness harness(OptionsOf(seed));
    Twin twin(&harness, 0, seed, 3000);
    if (seed % 2 == 0) twin.Fill();
    for (int round = 0; round < 8 && !HasFailure(); ++round) {
      twin.ChangeMany(300);
      if (round % 2 == 1) twin.WriteMostPages();
      const int64_t now_ms = twin.random().Between(0, 1100);
      std::map<std::string, Version> want;
      int64_t next = 0;
      for (const auto& [key, e] : twin.entries) {
        if (e.expires_at_ms == 0) continue;
        if (e.expires_at_ms <= now_ms)
          want[key] = e.version;
        else if (next == 0 || e.expires_at_ms < next)
          next = e.expires_at_ms;
      }
      auto all = harness.Get(harness.tree().FindDue("", now_ms, 1'000'000));
      ASSERT_TRUE(all.ok());
      std::map<std::string, Version> got;
      for (const auto& due : all->due) EXPECT_TRUE(got.emplace(due.key, due.version).second) << "reported twice";
      EXPECT_EQ(got, want);
      EXPECT_EQ(all->next_expiry_ms, next);
      if (want.size() < 2) continue;
      EXPECT_TRUE(all->over);
      // With a limit, each batch continues where the previous one ended.
      std::string from;
      auto it = want.begin();
      int64_t earliest = 0;
      for (bool over = false; !over && !HasFailure();) {
        auto some = harness.Get(harness.tree().FindDue(from, now_ms, 7));
        ASSERT_TRUE(some.ok());
        ASSERT_LE(some->due.size(), 7u);
        for (const auto& due : some->due) {
          ASSERT_NE(it, want.end());
          EXPECT_EQ(due.key, it++->first);
        }
        if (earliest == 0 || (some->next_expiry_ms != 0 && some->next_expiry_ms < earliest)) {
          earliest = some->next_expiry_ms;
        }
        over = some->over;
        from = some->next;
      }
      EXPECT_EQ(it, want.end());
      EXPECT_EQ(earliest, next);
    }
  }
}

}  // namespace
}  // namespace pando
