// Tests the numbers of hash ranges and the table of those that serve (HR1, HR2).
#include "src/base/hash_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace pando {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Range = std::pair<uint64_t, uint64_t>;

// HR1: the numbers that existed before there were halves, and what follows from them. Golden: stores depend on it.
TEST(HashRanges, ANumberStandsForOneRange) {
  EXPECT_EQ(HashRangeOf(0, 1), Range(0, UINT64_MAX));
  EXPECT_EQ(HashRangeOf(3, 16), Range(0x3000000000000000, 0x3fffffffffffffff));
  EXPECT_EQ(HashRangeOf(15, 16), Range(0xf000000000000000, 0xffffffffffffffff));
  EXPECT_EQ(HashRangeOf(16, 16), Range(0x0000000000000000, 0x07ffffffffffffff));
  EXPECT_EQ(HashRangeOf(23, 16), Range(0x3800000000000000, 0x3fffffffffffffff));
  EXPECT_EQ(HashRangeOf(47, 16), Range(0xf800000000000000, 0xffffffffffffffff));
  EXPECT_EQ(HashRangeOf(48, 16), Range(0x0000000000000000, 0x03ffffffffffffff));
  EXPECT_EQ(HashRangeOf(kMaxPartitions - 1, kMaxPartitions), Range(0xffff000000000000, UINT64_MAX));
  EXPECT_EQ(*HalvesOf(3, 16), (std::array<uint32_t, 2>{22, 23}));
  EXPECT_EQ(*HalvesOf(23, 16), (std::array<uint32_t, 2>{62, 63}));
}

TEST(HashRanges, HalvesDivideTheirRange) {
  for (const uint32_t base : {1u, 2u, 16u, 4096u, kMaxPartitions}) {
    for (uint32_t id = 0; id < kMaxPartitions; ++id) {
      const auto [first, last] = HashRangeOf(id, base);
      const auto halves = HalvesOf(id, base);
      if (!halves) {
        EXPECT_GE(2 * uint64_t{id} + base + 1, kMaxPartitions) << id << " of " << base;
        break;
      }
      const uint64_t middle = first + (last - first) / 2;
      ASSERT_EQ(HashRangeOf((*halves)[0], base), Range(first, middle)) << id << " of " << base;
      ASSERT_EQ(HashRangeOf((*halves)[1], base), Range(middle + 1, last)) << id << " of " << base;
      for (const uint32_t half : *halves) {
        ASSERT_EQ(WholeOf(half, base), id);
        ASSERT_TRUE(IsPartOf(half, id, base));
        ASSERT_FALSE(IsPartOf(id, half, base));
      }
    }
  }
  EXPECT_EQ(WholeOf(15, 16), std::nullopt);
  EXPECT_TRUE(IsPartOf(63, 3, 16));
  EXPECT_FALSE(IsPartOf(63, 2, 16));
  EXPECT_FALSE(IsPartOf(3, 3, 16));
}

TEST(RangeTable, OfANewStore) {
  const RangeTable one = RangeTable::Equal(1);
  EXPECT_EQ(one.PartitionOfHash(0), 0u);
  EXPECT_EQ(one.PartitionOfHash(UINT64_MAX), 0u);
  const RangeTable many = RangeTable::Equal(kMaxPartitions);
  EXPECT_EQ(many.PartitionOfHash(UINT64_MAX), kMaxPartitions - 1);
  EXPECT_TRUE(many.Has(kMaxPartitions - 1));
  EXPECT_FALSE(many.Has(kMaxPartitions));
  EXPECT_EQ(*RangeTable::Of(4, {3, 1, 0, 2}), RangeTable::Equal(4));
}

// HR2, against a model: halves ranges at random, and compares every answer with the ranges themselves.
TEST(RangeTable, FindsTheRangeOfEveryHash) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    const uint32_t base = 1u << random() % 6;
    std::vector<uint32_t> ids = RangeTable::Equal(base).ids();
    for (int i = 0; i < round; ++i) {
      const size_t at = random() % ids.size();
      const auto halves = HalvesOf(ids[at], base);
      if (!halves) continue;
      ids[at] = (*halves)[0];
      ids.push_back((*halves)[1]);
    }
    const Result<RangeTable> table = RangeTable::Of(base, ids);
    ASSERT_TRUE(table.ok()) << table.status().ToString();
    EXPECT_EQ(table->ids().size(), ids.size());
    for (const uint32_t id : ids) {
      const auto [first, last] = HashRangeOf(id, base);
      for (const uint64_t hash : {first, last, first + random() % (last - first)}) {
        ASSERT_EQ(table->PartitionOfHash(hash), id);
      }
      EXPECT_TRUE(table->Has(id));
      if (const auto whole = WholeOf(id, base)) {
        EXPECT_FALSE(table->Has(*whole));
      }
    }
    // One that is missing or one too many is noticed.
    std::vector<uint32_t> fewer = ids;
    fewer.erase(fewer.begin() + static_cast<ptrdiff_t>(random() % fewer.size()));
    EXPECT_EQ(RangeTable::Of(base, fewer).code(), Code::kCorruption);
    std::vector<uint32_t> more = ids;
    const uint32_t again = ids[random() % ids.size()];
    const auto halves = HalvesOf(again, base);
    more.push_back(halves && random() % 2 == 0 ? (*halves)[random() % 2] : again);
    EXPECT_EQ(RangeTable::Of(base, more).code(), Code::kCorruption);
  }
  EXPECT_THAT(RangeTable::Of(2, {1}).status().message(), HasSubstr("0000000000000000 to 7fffffffffffffff"));
  EXPECT_EQ(RangeTable::Of(2, {0, 1, kMaxPartitions}).code(), Code::kCorruption);
}

TEST(RangeTable, ListsItsPartitionsByTheirHashes) {
  EXPECT_THAT(RangeTable::Of(2, {1, 2, 3})->ids(), ElementsAre(2, 3, 1));
}

}  // namespace
}  // namespace pando
