// Scans of one slice of the keys, over the wire protocol, with fake partitions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "src/kvapi/merge_scan.h"
#include "tests/support/fake_node.h"

namespace pando {
namespace {

class KvSlicesTest : public FakeNodeTest {};
INSTANTIATE_TEST_SUITE_P(Wire, KvSlicesTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

// Whether they are larger than partitions or smaller, or lie across them.
TEST_P(KvSlicesTest, SlicesHaveEachRowOnce) {
  std::vector<std::string> all;
  for (int i = 0; i < 300; ++i) {
    all.push_back(fmt::format("s{:04}", i));
    node_->PartitionOf(all.back()).records[all.back()] = {true, 5, 0, "v"};
  }
  for (const int32_t slices : {1, 3, 4, 8, 50}) {
    api::Kv_scan_args args;
    args.request.slices = slices;
    args.request.limit_rows = 40;
    std::vector<std::string> keys;
    for (args.request.slice = 0; args.request.slice < slices; ++args.request.slice) {
      const size_t before = keys.size();
      args.request.cursor.clear();
      do {
        auto reply = CallFor<api::Kv_scan_result>("scan", args);
        ASSERT_TRUE(reply->__isset.success) << reply->error.message;
        for (auto& row : reply->success.rows) keys.push_back(row.key);
        args.request.cursor = reply->success.cursor;
      } while (!args.request.cursor.empty());
      EXPECT_TRUE(std::is_sorted(keys.begin() + static_cast<ptrdiff_t>(before), keys.end()));
    }
    std::sort(keys.begin(), keys.end());
    EXPECT_EQ(keys, all) << slices;
  }
  uint64_t before = 0, after = 0;
  for (auto& fake : node_->fakes) before += fake->scans;
  api::Kv_scan_args args;
  args.request.slices = 4;
  CallFor<api::Kv_scan_result>("scan", args);
  for (auto& fake : node_->fakes) after += fake->scans;
  EXPECT_EQ(after - before, 2u) << "the other partitions have nothing of it";
}

// Records of other slices count, so that a page ends.
TEST_P(KvSlicesTest, APageOfASliceMayHaveNoRow) {
  auto& records = node_->fakes[7]->records;
  const HashSlice slice = HashSlice::Of(65'536, 65'535);
  for (uint32_t i = 0; records.size() < kMaxExaminedRecords + 10; ++i) {
    const std::string key = fmt::format("k{:07}", i);
    if (!slice.Has(HashId(key))) records[key] = {true, 1, 0, "v"};
  }
  api::Kv_scan_args args;
  args.request.slices = 65'536;
  args.request.slice = 65'535;
  auto first = CallFor<api::Kv_scan_result>("scan", args);
  ASSERT_TRUE(first->__isset.success) << first->error.message;
  EXPECT_TRUE(first->success.rows.empty());
  ASSERT_FALSE(first->success.cursor.empty());
  args.request.cursor = first->success.cursor;
  auto second = CallFor<api::Kv_scan_result>("scan", args);
  EXPECT_TRUE(second->success.rows.empty());
  EXPECT_TRUE(second->success.cursor.empty());
  args.request.slice = 0;
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", args)->error.code, api::g_pando_constants.BAD_CURSOR);
}

}  // namespace
}  // namespace pando
