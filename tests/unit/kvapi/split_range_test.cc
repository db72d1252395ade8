// Compares ranges split into parts with one std::map of all records.
#include "src/kvapi/split_range.h"

#include <gtest/gtest.h>

#include <map>

#include "src/base/hash.h"
#include "tests/support/fake_partition.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

struct Fakes {
  Fakes(uint64_t seed, size_t count) : kernel(seed), reactor(kernel.AddMachine()->Boot()) {
    for (uint32_t i = 0; i < count; ++i) {
      fakes.push_back(std::make_unique<FakePartition>(i, reactor, kMillisecond));
      partitions.push_back(fakes.back().get());
    }
  }
  void Add(const std::string& key) {
    fakes[HashId(key) % fakes.size()]->records[key] = {true, 1, 0, "value"};
    ++all[key];
  }
  std::vector<RangePart> Split(const ScanRange& range, size_t parts) {
    Result<std::vector<RangePart>> result = TrySplit(range, parts);
    CHECK(result.ok());
    return *std::move(result);
  }
  Result<std::vector<RangePart>> TrySplit(const ScanRange& range, size_t parts) {
    MemoryGrant memory(&account);
    auto result = kernel.RunTask(*reactor, SplitRangeEvenly(partitions, range, parts, 0, &memory));
    CHECK(result.has_value());
    reserved_bytes = memory.bytes();
    return *std::move(result);
  }

  SimKernel kernel;
  SimReactor* reactor;
  std::vector<std::unique_ptr<FakePartition>> fakes;
  std::vector<Partition*> partitions;
  std::map<std::string, int> all;
  MemoryBudget budget{4 << 20};
  BudgetAccount account{&budget};
  size_t reserved_bytes = 0;  // at the end of the last split
};

TEST(SplitRange, PartsFollowEachOtherAndCountWhatTheyHold) {
  for (uint64_t seed : Seeds(20)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    Fakes f(seed, 1 + random.Below(16));
    for (uint64_t n = random.Below(3000); n > 0; --n) f.Add(fmt::format("k{}", random.Below(100'000)));
    ScanRange range;
    if (random.Chance(0.5)) range.start = fmt::format("k{}", random.Below(5));
    if (random.Chance(0.5)) range.end = fmt::format("k{}", 5 + random.Below(5));
    const size_t parts = 2 + random.Below(20);
    std::vector<RangePart> split = f.Split(range, parts);
    ASSERT_LE(split.size(), parts);
    EXPECT_EQ(split.front().start, range.start);
    EXPECT_EQ(split.back().end, range.end);
    for (size_t i = 0; i < split.size(); ++i) {
      if (i > 0) {
        EXPECT_EQ(split[i].start, split[i - 1].end);
        EXPECT_GT(split[i].start, split[i - 1].start);
      }
      uint64_t count = 0;
      for (auto it = f.all.lower_bound(split[i].start); it != f.all.end(); ++it) {
        if (!split[i].end.empty() && it->first >= split[i].end) break;
        ++count;
      }
      EXPECT_EQ(split[i].sums.count, count) << "part " << i;
    }
  }
}

TEST(SplitRange, PartsAreEven) {
  for (size_t partitions : {1, 4, 16}) {
    Fakes f(7, partitions);
    for (int i = 0; i < 40'000; ++i) f.Add(fmt::format("{}", i * 2'654'435'761u));
    for (size_t parts : {2, 3, 8, 64}) {
      std::vector<RangePart> split = f.Split({}, parts);
      ASSERT_EQ(split.size(), parts) << partitions;
      const double share = 40'000.0 / static_cast<double>(parts);
      // Allows for the sampling error and for rounding to whole records.
      const double slack = partitions == 1 ? 1 : 0.25 * share;
      for (const RangePart& part : split) {
        EXPECT_NEAR(static_cast<double>(part.sums.count), share, slack) << partitions << " partitions, " << parts;
      }
    }
  }
}

TEST(SplitRange, FewRecordsMakeFewParts) {
  Fakes f(1, 4);
  EXPECT_EQ(f.Split({}, 8).size(), 1u);
  f.Add("a");
  f.Add("b");
  std::vector<RangePart> split = f.Split({}, 8);
  ASSERT_LE(split.size(), 3u);
  uint64_t count = 0;
  for (const RangePart& part : split) count += part.sums.count;
  EXPECT_EQ(count, 2u);
  ScanRange none;
  none.start = none.end = "x";
  none.empty = true;
  EXPECT_EQ(f.Split(none, 4).size(), 1u);
}

// 64 partitions and 256 parts need a sample of 65,536 keys, or 130 MB if the keys are long.
TEST(SplitRange, TheSampleIsPaidForBeforeItGrows) {
  Fakes f(3, 64);
  for (int i = 0; i < 2000; ++i) f.Add(fmt::format("k{:06}", i) + std::string(100, 'x'));
  ASSERT_TRUE(f.TrySplit(ScanRange(), 16).ok());
  EXPECT_GT(f.reserved_bytes, 2000u * 107) << "every key is in the sample";
  for (int i = 0; i < 3000; ++i) f.Add(fmt::format("l{:06}", i) + std::string(1500, 'x'));
  EXPECT_EQ(f.TrySplit(ScanRange(), 256).code(), Code::kOverloaded);
  EXPECT_LE(f.reserved_bytes, 4u << 20);
  ASSERT_TRUE(f.TrySplit(ScanRange(), 2).ok()) << "a smaller sample fits";
}

}  // namespace
}  // namespace pando
