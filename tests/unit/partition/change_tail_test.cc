// Compares the tail with a list of everything that was added.
#include "src/partition/change_tail.h"

#include <gtest/gtest.h>

#include "tests/support/sim_random.h"

namespace pando {
namespace {

// What a watcher learns that asks for page after page until there is no more.
struct Heard {
  std::vector<Change> changes;
  Version up_to = 0;
  bool gone = false;
};
Heard Hear(const ChangeTail& tail, Version after, const std::string& prefix, Version applied, size_t limit = 7) {
  Heard heard;
  heard.up_to = after;
  for (bool more = true; more;) {
    ChangePage page = tail.After(heard.up_to, prefix, limit, 100, applied);
    if (page.gone) {
      heard.gone = true;
      return heard;
    }
    EXPECT_LE(page.changes.size(), limit);
    EXPECT_GE(page.up_to, heard.up_to);
    if (page.more) {
      EXPECT_GT(page.up_to, heard.up_to) << "every page must make progress";
    }
    heard.up_to = page.up_to;
    more = page.more;
    heard.changes.insert(heard.changes.end(), page.changes.begin(), page.changes.end());
  }
  return heard;
}

TEST(ChangeTail, TellsOfWhatCameAfter) {
  ChangeTail tail;
  tail.Begin(10, ChangeTail::kMinBytes);
  EXPECT_EQ(tail.newest(), 10u);
  EXPECT_FALSE(tail.After(10, "", 5, 100, 10).gone);
  EXPECT_TRUE(tail.After(9, "", 5, 100, 10).gone) << "changes before the start are unknown";
  tail.Add(11, "a", false);
  EXPECT_EQ(tail.newest(), 10u) << "the write has not ended";
  tail.Add(12, "ab", true);
  tail.Publish();
  EXPECT_EQ(tail.newest(), 12u);
  EXPECT_EQ(Hear(tail, 10, "", 15).changes, (std::vector<Change>{{"a", 11, false}, {"ab", 12, true}}));
  EXPECT_EQ(Hear(tail, 10, "ab", 15).changes, (std::vector<Change>{{"ab", 12, true}}));
  EXPECT_TRUE(Hear(tail, 12, "", 15).changes.empty());
  EXPECT_EQ(Hear(tail, 10, "zz", 15).up_to, 15u) << "there was no change of the prefix up to here";
  EXPECT_EQ(Hear(tail, 20, "", 15).up_to, 20u) << "a position after all changes must stay";
}

// Positions of another partition that had the ID before.
TEST(ChangeTail, KnowsNothingOfVersionsThatWereSeenBefore) {
  ChangeTail tail;
  tail.Begin(10, ChangeTail::kMinBytes, /*floor=*/20);
  EXPECT_EQ(tail.newest(), 20u);
  EXPECT_TRUE(tail.After(10, "", 5, 100, 10).gone);
  EXPECT_TRUE(tail.After(19, "", 5, 100, 10).gone);
  EXPECT_FALSE(tail.After(20, "", 5, 100, 10).gone);
  // Another node may have written it before this partition came here.
  tail.Add(15, "a", false);
  tail.Publish();
  EXPECT_EQ(tail.newest(), 20u);
  tail.Add(21, "b", false);
  tail.Publish();
  EXPECT_EQ(tail.newest(), 21u);
  EXPECT_EQ(Hear(tail, 20, "", 21).changes, (std::vector<Change>{{"b", 21, false}}));
}

// Whoever watches many tails looks at one count.
TEST(ChangeTail, CountsWhatNewestShows) {
  std::atomic<uint64_t> count = 0;
  ChangeTail tail;
  tail.CountIn(&count);
  tail.Begin(10, ChangeTail::kMinBytes);
  tail.Add(11, "a", false);
  EXPECT_EQ(count, 1u) << "that of Begin";
  tail.Publish();
  EXPECT_EQ(count, 2u);
  tail.Close();
  EXPECT_EQ(count, 3u) << "watchers of a quarantined partition must look";
  EXPECT_EQ(tail.newest(), UINT64_MAX);
}

TEST(ChangeTail, LooksAtABoundedNumberWithOneCall) {
  ChangeTail tail;
  tail.Begin(0, 4u << 20);
  for (Version v = 1; v <= 2 * ChangeTail::kMaxLooked; ++v) tail.Add(v, "other", false);
  tail.Add(2 * ChangeTail::kMaxLooked + 1, "mine", false);
  tail.Publish();
  ChangePage page = tail.After(0, "mine", 10, 100, tail.newest());
  EXPECT_TRUE(page.changes.empty() && page.more);
  EXPECT_EQ(page.up_to, ChangeTail::kMaxLooked);
  EXPECT_EQ(Hear(tail, 0, "mine", tail.newest()).changes.size(), 1u);
}

TEST(ChangeTail, MissesNothingWhateverIsDropped) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("replay: unit_partition --gtest_filter=ChangeTail.Misses* seed " + std::to_string(seed));
    SimRandom random(seed);
    ChangeTail tail;
    const size_t max_bytes = ChangeTail::kMinBytes + random.Below(100'000);
    tail.Begin(100, max_bytes);
    std::vector<Change> all;
    Version version = 100;
    size_t told = 0, refused = 0;
    for (int step = 0; step < 3000; ++step) {
      version += 1 + random.Below(3);
      std::string key(1 + random.Below(random.Below(50) == 0 ? kMaxKeyBytes : 40),
                      static_cast<char>('a' + random.Below(3)));
      tail.Add(version, key, random.Below(4) == 0);
      all.push_back({key, version, false});
      all.back().removed = tail.After(version - 1, "", 1, 1, version).changes.at(0).removed;
      tail.Publish();
      if (random.Below(20) != 0) continue;
      const Version after = 100 + random.Below(version - 99);
      const std::string prefix = random.Below(2) == 0 ? "" : "b";
      Heard heard = Hear(tail, after, prefix, version);
      ASSERT_EQ(heard.gone, after < tail.floor());
      ++(heard.gone ? refused : told);
      if (heard.gone) continue;
      std::vector<Change> expected;
      for (const Change& change : all) {
        if (change.version > after && change.key.starts_with(prefix)) expected.push_back(change);
      }
      ASSERT_EQ(heard.changes, expected);
      ASSERT_EQ(heard.up_to, version);
    }
    EXPECT_GT(told, 0u);
    EXPECT_GT(refused, 0u);
    EXPECT_LE(tail.allocated_bytes(), max_bytes);
    EXPECT_GT(tail.size(), 0u);
  }
}

}  // namespace
}  // namespace pando
