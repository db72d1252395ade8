// Compares merged scans with one std::map of all records: random partitions, ranges, limits,
// cursors.
#include "src/kvapi/merge_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "src/base/hash.h"
#include "src/io/call_on.h"
#include "tests/support/fake_partition.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

TEST(FirstShare, IsTheExpectedShareWithRoomForChance) {
  EXPECT_EQ(FirstShare(100, 1, 1), 100u);  // at most the whole
  EXPECT_EQ(FirstShare(1600, 16, 1), 130u);
  EXPECT_EQ(FirstShare(1, 16, 1), 1u);
  EXPECT_EQ(FirstShare(0, 16, 1), 1u);
}

class MergeScanModel : public testing::TestWithParam<uint64_t> {
 protected:
  MergeScanModel() : kernel_(GetParam()), random_(GetParam()) { reactor_ = kernel_.AddMachine()->Boot(); }

  size_t Pick(size_t n) { return random_() % n; }
  std::string RandomKey() {
    std::string key;
    static const std::string kAlphabet("ab{}\0\xff", 6);
    for (size_t n = 1 + Pick(6); n > 0; --n) key += kAlphabet[Pick(kAlphabet.size())];
    return key;
  }
  std::string RandomBound() { return Pick(3) == 0 ? std::string() : RandomKey(); }

  template <typename T>
  T Await(Task<T> task) {
    auto result = kernel_.RunTask(*reactor_, std::move(task));
    CHECK(result.has_value());
    return *std::move(result);
  }

  void Fill(size_t partitions, size_t records) {
    fakes_.clear();
    partitions_.clear();
    model_.clear();
    for (uint32_t i = 0; i < partitions; ++i) {
      fakes_.push_back(std::make_unique<FakePartition>(i, reactor_, Pick(2) * kMillisecond));
      partitions_.push_back(fakes_.back().get());
    }
    for (size_t i = 0; i < records; ++i) {
      std::string key = RandomKey();
      ReadResult record{true, i + 1, 0, std::string(Pick(40), 'v')};
      // Sometimes one partition holds almost everything.
      size_t owner = Pick(4) == 0 ? 0 : HashId(key) % partitions;
      for (auto& fake : fakes_) fake->records.erase(key);
      fakes_[owner]->records[key] = record;
      model_[key] = record;
    }
  }

  // Scans the whole range page by page and checks the limits of every page.
  std::vector<std::pair<std::string, std::string>> Walk(api::ScanRequest request, size_t max_rows, size_t max_bytes) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (int pages = 0; pages < 10'000; ++pages) {
      Result<ScanRange> range = ScanRange::Of(request);
      CHECK(range.ok()) << range.status().ToString();
      MergeScanSpec spec;
      spec.range = *std::move(range);
      spec.keys_only = request.keys_only;
      spec.max_rows = max_rows;
      spec.max_bytes = max_bytes;
      // Often the limit is so low that rows first come without their values.
      if (Pick(2) == 0) spec.held_bytes = max_bytes + Pick(1000);
      std::vector<MergeSource> sources = SourcesOf(partitions_);
      if (!spec.range.slice.all()) {
        spec.max_examined = Pick(3) == 0 ? 0 : Pick(100);
        for (MergeSource& source : sources) source.filtered = true;
      }
      Result<ScanPage> page = Await(MergeScan(sources, spec));
      CHECK(page.ok());
      EXPECT_LE(page->rows.size(), max_rows);
      size_t bytes = 0;
      for (size_t i = 0; i < page->rows.size(); ++i) {
        bytes += page->rows[i].bytes();
        EXPECT_TRUE(i == 0 || bytes <= max_bytes) << "the page has a row beyond the limit";
        rows.emplace_back(page->rows[i].key, page->rows[i].value);
      }
      if (page->exhausted) return rows;
      const bool of_slice = !spec.range.slice.all();
      if (page->rows.empty() && !of_slice) ADD_FAILURE() << "an empty page that is not the last";
      empty_pages_ += page->rows.empty() ? 1 : 0;
      request.cursor = EncodeCursor(request, {1, std::string(*page->read_to())});
    }
    ADD_FAILURE() << "the scan does not end";
    return rows;
  }

  std::vector<std::pair<std::string, std::string>> Expected(const api::ScanRequest& request) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (const auto& [key, record] : model_) {
      if (key < request.start_key || (!request.end_key.empty() && key >= request.end_key)) continue;
      if (!key.starts_with(request.prefix)) continue;
      rows.emplace_back(key, request.keys_only ? "" : record.value);
    }
    if (request.reverse) std::reverse(rows.begin(), rows.end());
    return rows;
  }

  SimKernel kernel_;
  std::mt19937_64 random_;
  SimReactor* reactor_;
  std::vector<std::unique_ptr<FakePartition>> fakes_;
  std::vector<Partition*> partitions_;
  std::map<std::string, ReadResult> model_;
  int empty_pages_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Seeds, MergeScanModel, testing::Range<uint64_t>(1, 9));

TEST_P(MergeScanModel, EqualsOneMap) {
  for (int round = 0; round < 40; ++round) {
    Fill(1 + Pick(16), Pick(400));
    api::ScanRequest request;
    request.start_key = RandomBound();
    request.end_key = RandomBound();
    if (Pick(2) == 0) request.prefix = RandomKey().substr(0, 1 + Pick(2));
    request.reverse = Pick(2) == 0;
    request.keys_only = Pick(3) == 0;
    size_t max_rows = 1 + Pick(60), max_bytes = 1 + Pick(2000);
    ASSERT_EQ(Walk(request, max_rows, max_bytes), Expected(request)) << "seed " << GetParam() << " round " << round;

    ScanRange range = ScanRange::Of(request.start_key, request.end_key, request.prefix, false);
    Result<RangeAggregates> sum = Await(MergeAggregates(SourcesOf(partitions_), range, 0));
    ASSERT_TRUE(sum.ok());
    ASSERT_EQ(sum->count, Expected(request).size()) << "seed " << GetParam() << " round " << round;
  }
}

// Together they have each row once.
TEST_P(MergeScanModel, SlicesEqualOneMap) {
  for (int round = 0; round < 20; ++round) {
    Fill(1 + Pick(16), Pick(400));
    api::ScanRequest request;
    request.start_key = RandomBound();
    request.end_key = RandomBound();
    request.reverse = Pick(2) == 0;
    request.keys_only = Pick(3) == 0;
    auto left = Expected(request);
    request.slices = static_cast<int32_t>(1 + Pick(30));
    for (request.slice = 0; request.slice < request.slices; ++request.slice) {
      request.cursor.clear();
      const auto rows = Walk(request, 1 + Pick(60), 1 + Pick(2000));
      size_t next = 0;
      std::erase_if(left, [&](const auto& row) {
        const bool is_next = next < rows.size() && rows[next] == row;
        next += is_next ? 1 : 0;
        return is_next;
      });
      ASSERT_EQ(next, rows.size()) << "seed " << GetParam() << " round " << round << ": out of order, or not for here";
    }
    ASSERT_TRUE(left.empty()) << "seed " << GetParam() << " round " << round;
  }
  EXPECT_GT(empty_pages_, 0);
}

TEST_P(MergeScanModel, AsksEvenPartitionsOnce) {
  Fill(16, 0);
  for (int i = 0; i < 20'000; ++i) {
    std::string key = fmt::format("key{:06}", i);
    fakes_[HashId(key) % 16]->records[key] = {true, 1, 0, "v"};
  }
  MergeScanSpec spec;
  spec.max_rows = 1000;
  Result<ScanPage> page = Await(MergeScan(SourcesOf(partitions_), spec));
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->rows.size(), 1000u);
  uint64_t scans = 0;
  for (auto& fake : fakes_) scans += fake->scans;
  EXPECT_LE(scans, 18u) << "the first share is too small";
}

// Each of 64 partitions has a row that is larger than the page. Only the row that is returned is
// fetched, and its memory is reserved first.
TEST_P(MergeScanModel, LargeRowsAreFetchedOneByOneAndPaidFor) {
  Fill(64, 0);
  for (uint32_t i = 0; i < 64; ++i) {
    fakes_[i]->records[fmt::format("key{:02}", i)] = {true, 1, 0, std::string(1u << 20, 'v')};
  }
  MemoryBudget budget(8 << 20);
  BudgetAccount account(&budget);
  {
    MemoryGrant memory(&account);
    MergeScanSpec spec;
    spec.max_rows = 1;
    spec.max_bytes = 64u << 10;
    spec.held_bytes = CostOfScan(64, spec.max_rows, spec.max_bytes).held_bytes;
    spec.memory = &memory;
    uint64_t bytes = 0;
    for (auto& fake : fakes_) fake->scanned_bytes = 0;
    Result<ScanPage> page = Await(MergeScan(SourcesOf(partitions_), spec));
    ASSERT_TRUE(page.ok());
    ASSERT_EQ(page->rows.size(), 1u);
    EXPECT_EQ(page->rows[0].key, "key00");
    EXPECT_EQ(page->rows[0].value.size(), 1u << 20);
    EXPECT_FALSE(page->exhausted);
    for (auto& fake : fakes_) bytes += fake->scanned_bytes;
    EXPECT_LT(bytes, (1u << 20) + 64 * 10) << "values that were not needed were fetched";
    EXPECT_GE(memory.bytes(), 2u << 20);
  }
  MemoryGrant most(&account);
  ASSERT_TRUE(most.TryGrow(7u << 20));
  MemoryGrant memory(&account);
  MergeScanSpec spec;
  spec.max_rows = 1;
  spec.held_bytes = 64u << 10;
  spec.memory = &memory;
  EXPECT_EQ(Await(MergeScan(SourcesOf(partitions_), spec)).code(), Code::kOverloaded);
}

// The rows of the page are all in one partition, and those of the others fill what the scan may hold. So the first has
// to be asked again and again, and must not be for each row.
TEST_P(MergeScanModel, AllThatIsHeldIsPaidFor) {
  Fill(64, 0);
  for (int i = 0; i < 12'000; ++i) fakes_[0]->records[fmt::format("a-long-run-{:06}", i)] = {true, 1, 0, ""};
  for (uint32_t other = 1; other < 64; ++other) {
    for (int i = 0; i < 300; ++i) fakes_[other]->records[fmt::format("later-{:06}-{}", i, other)] = {true, 1, 0, ""};
  }
  MemoryBudget budget(64 << 20);
  BudgetAccount account(&budget);
  MemoryGrant memory(&account);
  MergeScanSpec spec;
  spec.keys_only = true;
  spec.max_rows = 10'000;
  spec.max_bytes = (64u << 10) << Pick(2);
  ASSERT_FALSE(ReservePage(&spec, 64, size_t{1} << 30, &memory));
  Result<ScanPage> page = Await(MergeScan(SourcesOf(partitions_), spec));
  ASSERT_TRUE(page.ok());
  EXPECT_GT(page->rows.size(), 100u);
  EXPECT_LE(page->bytes.allocated_bytes() + page->rows.capacity() * sizeof(ScanRow), memory.bytes());
  uint64_t scans = 0;
  for (auto& fake : fakes_) scans += fake->scans;
  EXPECT_LT(scans, 80u);
}

TEST_P(MergeScanModel, OneFailingPartitionFailsTheScan) {
  Fill(4, 100);
  fakes_[2]->failure = Status(Code::kCorruption, "partition-2/data: block 7 is damaged");
  MergeScanSpec spec;
  Result<ScanPage> page = Await(MergeScan(SourcesOf(partitions_), spec));
  EXPECT_EQ(page.code(), Code::kCorruption);
  EXPECT_EQ(Await(MergeAggregates(SourcesOf(partitions_), ScanRange(), 0)).code(), Code::kCorruption);
}

}  // namespace
}  // namespace pando
