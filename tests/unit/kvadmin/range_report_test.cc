// The figures of kvadmin report.
#include "tools/kvadmin/range_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando::admin {
namespace {

using testing::HasSubstr;

TEST(RangeReportTest, AHistogramHasPowersOfTwo) {
  SizeHistogram sizes;
  EXPECT_EQ(sizes.Percentile(50), 0u);
  EXPECT_TRUE(sizes.Buckets().empty());
  for (const uint64_t size : {2, 3, 3, 5, 100}) sizes.Add(size);
  EXPECT_EQ(sizes.records(), 5u);
  EXPECT_EQ(sizes.bytes(), 113u);
  EXPECT_EQ(sizes.max(), 100u);
  EXPECT_EQ(sizes.Percentile(50), 3u);
  EXPECT_EQ(sizes.Percentile(80), 5u);
  EXPECT_EQ(sizes.Percentile(99), 100u);
  const auto buckets = sizes.Buckets();
  ASSERT_EQ(buckets.size(), 6u);
  EXPECT_EQ(buckets.front().least, 2u);
  EXPECT_EQ(buckets.front().most, 3u);
  EXPECT_EQ(buckets.front().records, 3u);
  EXPECT_EQ(buckets.front().bytes, 8u);
  EXPECT_EQ(buckets.back().least, 64u);
  EXPECT_EQ(buckets[2].records, 0u);
  sizes.Add(0);
  EXPECT_EQ(sizes.Buckets().front().most, 0u);
}

TEST(RangeReportTest, KeysAreGroupedByTheirPrefix) {
  EXPECT_EQ(GroupOf("user/17/name", "", "/", 4), "user/");
  EXPECT_EQ(GroupOf("user/17/name", "user/", "/", 4), "user/17/");
  EXPECT_EQ(GroupOf("user::17", "", "::", 4), "user::");
  EXPECT_EQ(GroupOf("counter17", "", "/", 4), "coun");
  EXPECT_EQ(GroupOf("counter17", "counter", "/", 4), "counter17");
  EXPECT_EQ(GroupOf("ab", "", "", 4), "ab");
  EXPECT_EQ(AfterPrefix("user/"), "user0");
  EXPECT_EQ(AfterPrefix("a\xff"), "b");
  EXPECT_EQ(AfterPrefix("\xff\xff"), "");
}

TEST(RangeReportTest, AReportSaysTheSameInAllFormats) {
  RangeReport report;
  report.range.prefix = "<a>/";
  report.sums = {7, 700, 0xabc};
  report.prefixes = {{"<a>/1/", {4, 400, 1}}, {"<a>/\xff", {2, 200, 2}}};
  report.prefixes_found = 3;
  report.other_prefixes = {1, 100, 3};
  report.sizes.Add(90, 7);
  const std::string table = ReportTable(report, Encoding::kText);
  for (const char* part :
       {"prefix \"<a>/\"", "0000000000000abc", "<a>/1/", "57.1%", "(1 other prefixes)", "64 to 127", "p99 90"}) {
    EXPECT_THAT(table, HasSubstr(part));
  }
  const auto json = ReportJson(report);
  EXPECT_EQ(json["prefixes"][0]["bytes"], 400);
  EXPECT_EQ(json["prefixes"][1]["prefix_b64"], "PGE+L/8=");
  EXPECT_EQ(json["other_prefixes"]["prefixes"], 1);
  EXPECT_EQ(json["value_bytes"]["histogram"][0]["records"], 7);
  EXPECT_FALSE(json["value_bytes"]["sampled"]);
  const std::string svg = ReportSvg(report, Encoding::kText);
  EXPECT_THAT(svg, HasSubstr("&lt;a&gt;/1/"));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace pando::admin
