#include "tools/kvbench/data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "tools/kvbench/workload.h"

namespace pando::bench {
namespace {

TEST(Keys, AreDistinctStableAndOfTheAskedLength) {
  std::set<std::string> keys;
  for (uint64_t i = 0; i < 20'000; ++i) keys.insert(MakeKey(i, 16));
  EXPECT_EQ(keys.size(), 20'000u);
  EXPECT_EQ(MakeKey(0, 16), "e220a8397b1dcdaf");  // SplitMix64 of 0, the published first output
  EXPECT_EQ(MakeKey(0, 20), "e220a8397b1dcdaf....");
}

TEST(Values, AreCheckable) {
  for (size_t bytes : {size_t{16}, size_t{17}, size_t{23}, size_t{1000}, size_t{1001}, size_t{65536}}) {
    std::string value(bytes, '\0');
    FillValue("key-1", 42, value.data(), bytes);
    EXPECT_TRUE(CheckValue("key-1", value, bytes));
    EXPECT_FALSE(CheckValue("key-1", value, bytes + 1));
    if (bytes < 64) continue;  // too short for bytes that depend on the key
    EXPECT_FALSE(CheckValue("key-2", value, bytes)) << "another key's value";
    for (size_t at : {size_t{0}, size_t{9}, bytes / 2, bytes - 1}) {
      std::string damaged = value;
      damaged[at] = static_cast<char>(damaged[at] ^ 1);
      EXPECT_FALSE(CheckValue("key-1", damaged, bytes)) << "byte " << at;
    }
  }
}

TEST(Values, CompressAsMuchAsAsked) {
  for (size_t bytes : {size_t{16}, size_t{1001}}) {
    for (uint32_t percent : {0u, 30u, 100u}) {
      std::string value(bytes, '\0');
      FillValue("key-1", 42, value.data(), bytes, percent);
      EXPECT_TRUE(CheckValue("key-1", value, bytes, percent));
      const size_t text = value.find("pando: one root");
      if (bytes < 1000) continue;
      ASSERT_EQ(text == std::string::npos, percent == 0);
      if (percent > 0) {
        EXPECT_NEAR(static_cast<double>(bytes - text), static_cast<double>(bytes * percent) / 100, 9);
      } else {
        EXPECT_FALSE(CheckValue("key-1", value.substr(0, bytes - 1) + '.', bytes, percent)) << "the last byte counts";
      }
    }
  }
}

TEST(Values, AreHalfRandomHalfRepetitive) {
  std::string first(1000, '\0'), second(1000, '\0');
  FillValue("key-1", 1, first.data(), first.size());
  FillValue("key-2", 2, second.data(), second.size());
  EXPECT_EQ(first.substr(500), second.substr(500));
  std::string repeated = first.substr(500);
  size_t period = repeated.find(repeated.substr(0, 20), 1);
  ASSERT_LT(period, 100u);
  EXPECT_EQ(repeated.substr(0, 300), repeated.substr(period, 300));
  std::set<std::string> words;  // 4-byte strings, the shortest matches of a compressor
  for (const std::string& value : {first, second}) {
    for (size_t at = 8; at + 4 <= 496; ++at) words.insert(value.substr(at, 4));
  }
  EXPECT_GE(words.size(), 2u * (496 - 4 - 8)) << "nothing repeats in the random halves";
}

TEST(RandomNumbers, RepeatForASeed) {
  Random a(7), b(7), c(8);
  bool differs = false;
  for (int i = 0; i < 1000; ++i) {
    uint64_t x = a.Next();
    EXPECT_EQ(x, b.Next());
    differs |= x != c.Next();
    EXPECT_LT(a.Below(10), 10u);
    b.Below(10);
  }
  EXPECT_TRUE(differs);
}

TEST(ZipfianRanks, FollowTheLaw) {
  constexpr uint64_t kN = 1000;
  constexpr int kDraws = 1'000'000;
  Zipfian zipfian(kN);
  Random random(1);
  std::vector<int> seen(kN, 0);
  for (int i = 0; i < kDraws; ++i) {
    uint64_t rank = zipfian.Next(random);
    ASSERT_LT(rank, kN);
    ++seen[rank];
  }
  double zeta = 0;
  for (uint64_t i = 1; i <= kN; ++i) zeta += 1 / std::pow(static_cast<double>(i), Zipfian::kTheta);
  for (uint64_t rank : {0u, 1u}) {  // the method is exact for these ranks
    double expected = kDraws / std::pow(static_cast<double>(rank + 1), Zipfian::kTheta) / zeta;
    EXPECT_NEAR(seen[rank], expected, expected * 0.03);
  }
  double head = 0, expected_head = 0;
  for (uint64_t rank = 0; rank < 100; ++rank) {
    head += seen[rank];
    expected_head += kDraws / std::pow(static_cast<double>(rank + 1), Zipfian::kTheta) / zeta;
  }
  EXPECT_NEAR(head, expected_head, expected_head * 0.05);
}

TEST(ZipfianRanks, TinyCountsStayInRange) {
  Random random(3);
  for (uint64_t n : {1u, 2u, 3u}) {
    Zipfian zipfian(n);
    for (int i = 0; i < 1000; ++i) ASSERT_LT(zipfian.Next(random), n);
  }
}

TEST(Chooser, StaysBelowAGrowingCountAndKeepsItsFavourites) {
  for (Distribution d : {Distribution::kUniform, Distribution::kZipfian, Distribution::kLatest}) {
    KeyChooser chooser(d, 100);
    Random random(5);
    for (int i = 0; i < 1000; ++i) ASSERT_LT(chooser.Next(random), 100u);
    chooser.Grow(200);
    for (int i = 0; i < 1000; ++i) ASSERT_LT(chooser.Next(random), 200u);
  }
  auto favourite = [](KeyChooser& chooser) {
    Random random(9);
    std::vector<int> seen(2000, 0);
    for (int i = 0; i < 20'000; ++i) ++seen[chooser.Next(random)];
    return std::max_element(seen.begin(), seen.end()) - seen.begin();
  };
  KeyChooser zipfian(Distribution::kZipfian, 1000);
  auto before = favourite(zipfian);
  zipfian.Grow(1001);
  EXPECT_EQ(favourite(zipfian), before);
  KeyChooser latest(Distribution::kLatest, 1000);
  EXPECT_EQ(favourite(latest), 999);
  latest.Grow(1500);
  EXPECT_EQ(favourite(latest), 1499);
}

WorkloadOptions Named(const std::string& name) {
  WorkloadOptions options;
  options.name = name;
  options.keys = 1000;
  return options;
}

TEST(Workloads, ShareOutTheirOperations) {
  struct Expected {
    const char* name;
    double get, put, scan, rmw;
  };
  for (const Expected& e :
       {Expected{"get", 1, 0, 0, 0}, Expected{"put", 0, 1, 0, 0}, Expected{"mixed", .5, .5, 0, 0},
        Expected{"scan", 0, 0, 1, 0}, Expected{"load", 0, 1, 0, 0}, Expected{"ycsb-a", .5, .5, 0, 0},
        Expected{"ycsb-b", .95, .05, 0, 0}, Expected{"ycsb-c", 1, 0, 0, 0}, Expected{"ycsb-d", .95, .05, 0, 0},
        Expected{"ycsb-e", 0, .05, .95, 0}, Expected{"ycsb-f", .5, 0, 0, .5}}) {
    Result<Mix> mix = MixOf(Named(e.name));
    ASSERT_TRUE(mix.ok()) << mix.status().ToString();
    OpStream ops(*mix, 1000, 11);
    constexpr int kOps = 20'000;
    std::array<int, 4> seen{};
    for (int i = 0; i < kOps; ++i) ++seen[static_cast<size_t>(ops.Next().kind)];
    std::array<double, 4> shares{e.get, e.put, e.scan, e.rmw};
    for (size_t k = 0; k < 4; ++k) EXPECT_NEAR(seen[k], shares[k] * kOps, kOps * 0.015) << e.name << " kind " << k;
  }
  EXPECT_FALSE(MixOf(Named("ycsb-z")).ok());
}

TEST(Workloads, LoadPutsEachRecordOnce) {
  OpStream ops(*MixOf(Named("load")), 1000, 1);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(ops.Next().index, i);
}

TEST(Workloads, RepeatForASeedAndInsertNewRecords) {
  OpStream a(*MixOf(Named("ycsb-d")), 1000, 5), b(*MixOf(Named("ycsb-d")), 1000, 5);
  uint64_t next_insert = 1000;
  for (int i = 0; i < 10'000; ++i) {
    Op x = a.Next(), y = b.Next();
    ASSERT_EQ(x.kind, y.kind);
    ASSERT_EQ(x.index, y.index);
    if (x.kind == OpKind::kPut) {
      ASSERT_EQ(x.index, next_insert++);
    } else {
      ASSERT_LT(x.index, next_insert);
    }
  }
  EXPECT_GT(next_insert, 1300u);
}

}  // namespace
}  // namespace pando::bench
