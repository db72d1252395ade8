// The status page of a router, and the latencies that it shows.
#include "src/router/router_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tests/support/router_harness.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;
using testing::Not;

TEST(RecentLatencyTest, PercentilesOfTheLastSeconds) {
  RecentLatency latency;
  EXPECT_EQ(latency.Percentile(50), 0);
  for (int i = 1; i <= 100; ++i) latency.Record(i * kMillisecond, kSecond);
  EXPECT_EQ(latency.count(), 100u);
  EXPECT_THAT(latency.Percentile(50), AllOf(Ge(50 * kMillisecond), Le(57 * kMillisecond)));
  EXPECT_THAT(latency.Percentile(99), AllOf(Ge(99 * kMillisecond), Le(112 * kMillisecond)));
  latency.Record(0, kSecond);
  latency.Record(kSecond * 100'000, kSecond);
  EXPECT_EQ(latency.count(), 102u);
  latency.Turn(kSecond + RecentLatency::kWindowNs);
  EXPECT_EQ(latency.count(), 102u) << "the window before";
  latency.Turn(kSecond + 2 * RecentLatency::kWindowNs);
  EXPECT_EQ(latency.count(), 0u);
}

TEST_F(RouterTest, TheStatusSaysWhatTheRouterKnows) {
  Put(KeyIn(0), "v");
  for (int i = 0; i < 20; ++i) Get(KeyIn(0));
  cluster_.Move(5, 9);  // nobody
  node(3).manners.silent = true;
  kernel_.RunFor(100 * kMillisecond);
  RouterStatus status;
  CollectStatus(server_.get(), keeper_.get(), service_.get(), &status);
  status.version = "<1.0&>";
  RouterRates rates;
  rates.Fill(10 * kSecond, &status);
  const auto json = nlohmann::json::parse(StatusAsJson(status));
  EXPECT_EQ(json["version"], "<1.0&>");
  EXPECT_EQ(json["partitions"], kPartitionCount);
  EXPECT_EQ(json["partitions_without_master"], nlohmann::json::array({5}));
  EXPECT_EQ(json["nodes"].size(), 3u);
  EXPECT_EQ(json["nodes"][0]["address"], "10.0.0.1:7420");
  EXPECT_EQ(json["nodes"][0]["state"], "up");
  EXPECT_EQ(json["nodes"][0]["masters"], 3);
  EXPECT_EQ(json["nodes"][0]["gets"]["recent"], 20);
  EXPECT_GT(json["nodes"][0]["gets"]["p99_ms"], 0.0);
  EXPECT_EQ(json["rates_per_s"]["point_requests"], 2.1);
  const std::string html = StatusAsHtml(status);
  EXPECT_THAT(html, AllOf(HasSubstr("&lt;1.0&amp;&gt;"), HasSubstr("10.0.0.3:7420"), HasSubstr("<td>1: 5</td>")));
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<1.0&>"))));
}

TEST_F(RouterTest, TheStatusSaysWhichMastersRefuse) {
  const auto refused = [this] {
    RouterStatus status;
    CollectStatus(server_.get(), keeper_.get(), service_.get(), &status);
    return status;
  };
  EXPECT_TRUE(refused().refused.empty());
  MasterOf(0).manners.unavailable = 1000;
  Put(KeyIn(0), "v", Budget(200));
  const auto json = nlohmann::json::parse(StatusAsJson(refused()));
  EXPECT_EQ(json["partitions_refused"], nlohmann::json::array({{{"partition", 0}, {"why", "not yet"}}}));
  EXPECT_THAT(StatusAsHtml(refused()), HasSubstr("1: 0. For example: not yet"));
  MasterOf(0).manners.unavailable = 0;
  kernel_.RunFor(11 * kSecond);
  EXPECT_TRUE(refused().refused.empty());
}

class LargeMapTest : public RouterTest {
 protected:
  static constexpr uint32_t kMany = 16'384;
  LargeMapTest() : RouterTest({}, kMany) {}
};

// It is made on the reactor that serves requests, so it must not take long; and what it lists is bounded.
TEST_F(LargeMapTest, TheStatusOfManyPartitionsIsShort) {
  for (uint32_t p = 0; p < 3000; ++p) cluster_.Move(p, 9);
  kernel_.RunFor(kSecond);
  ASSERT_EQ(keeper_->map().routes().size(), kMany);
  RouterStatus status;
  const auto began = std::chrono::steady_clock::now();
  CollectStatus(server_.get(), keeper_.get(), service_.get(), &status);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  RecordProperty("collect_ms", std::to_string(took.count()));
  std::printf("%u partitions: %.2f ms\n", kMany, took.count());
  const auto json = nlohmann::json::parse(StatusAsJson(status));
  EXPECT_EQ(json["partitions"], kMany);
  EXPECT_EQ(json["partitions_without_master_count"], 3000);
  EXPECT_EQ(json["partitions_without_master"].size(), 1000u);
  EXPECT_EQ(json["partitions_without_master"][999], 999);
  EXPECT_EQ(json["partitions_with_unreachable_master_count"], 0);
  uint32_t led = 0;
  for (const auto& node : json["nodes"]) led += node["masters"].get<uint32_t>();
  EXPECT_EQ(led, kMany - 3000);
  EXPECT_LT(StatusAsJson(status).size(), 64u << 10);
  EXPECT_THAT(StatusAsHtml(status), HasSubstr("3000: 0, 1, 2"));
}

}  // namespace
}  // namespace pando
