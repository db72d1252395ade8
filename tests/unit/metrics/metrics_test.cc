// Compares histograms with the exact percentiles of the same numbers, and checks the exposition
// text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "src/metrics/histogram.h"
#include "src/metrics/registry.h"

namespace pando {
namespace {

TEST(Histogram, BucketsTileTheRange) {
  for (size_t b = 1; b < Histogram::kBuckets; ++b) {
    uint64_t start = Histogram::BucketStart(b);
    ASSERT_EQ(Histogram::BucketOf(start), b);
    ASSERT_EQ(Histogram::BucketOf(start - 1), b - 1);
  }
  EXPECT_EQ(Histogram::BucketOf(Histogram::kMaxValue), Histogram::kBuckets - 1);
  EXPECT_EQ(Histogram::BucketOf(UINT64_MAX), Histogram::kBuckets - 1);
}

TEST(Histogram, EmptyAndOneValue) {
  Histogram h;
  EXPECT_EQ(h.Percentile(99), 0u);
  EXPECT_EQ(h.min(), 0u);
  h.Record(1'000'003);
  for (double p : {0.0, 50.0, 99.9, 100.0}) EXPECT_EQ(h.Percentile(p), 1'000'003u) << p;
}

TEST(Histogram, PercentilesAreWithinOnePercent) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> latency(11, 2);
  Histogram whole, left, right;
  std::vector<uint64_t> exact;
  for (int i = 0; i < 200'000; ++i) {
    auto v = static_cast<uint64_t>(latency(random));
    exact.push_back(v);
    whole.Record(v);
    (i % 3 == 0 ? left : right).Record(v);
  }
  left.Merge(right);
  std::sort(exact.begin(), exact.end());
  for (double p : {1.0, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99}) {
    auto rank = static_cast<size_t>(std::ceil(p / 100 * static_cast<double>(exact.size())));
    auto want = static_cast<double>(exact[rank - 1]);
    EXPECT_NEAR(static_cast<double>(whole.Percentile(p)), want, want * 0.008 + 1) << p;
    EXPECT_EQ(left.Percentile(p), whole.Percentile(p)) << p;
  }
  EXPECT_EQ(whole.Percentile(100), exact.back());
  EXPECT_EQ(left.count(), whole.count());
  EXPECT_EQ(left.sum(), whole.sum());
  uint64_t bound = uint64_t{1} << 16;
  EXPECT_EQ(whole.CountBelow(bound),
            static_cast<uint64_t>(std::lower_bound(exact.begin(), exact.end(), bound) - exact.begin()));
}

TEST(Registry, RendersFamiliesTogetherAndForgetsOwners) {
  Registry registry;
  Counter a, b;
  Gauge g;
  Histogram h;
  int owner_a = 0, owner_b = 0;
  registry.Add(&owner_a, "kv_rpc_requests_total", "Requests.", {{"reactor", "0"}}, &a);
  registry.Add(&owner_a, "kv_rpc_connections_count", "Open \"connections\".", {}, &g);
  registry.Add(&owner_b, "kv_rpc_requests_total", "Requests.", {{"reactor", "1\"\n"}}, &b);
  registry.Add(&owner_a, "kv_rpc_request_seconds", "Time.", {}, &h, 1e-9);
  a.Add(3);
  b.Add();
  g.Set(-2);
  h.Record(5000);
  std::string text = registry.Render();
  EXPECT_THAT(text, testing::HasSubstr("# TYPE kv_rpc_requests_total counter\nkv_rpc_requests_total{reactor=\"0\"} 3\n"
                                       "kv_rpc_requests_total{reactor=\"1\\\"\\n\"} 1\n"));
  EXPECT_THAT(text, testing::HasSubstr("kv_rpc_connections_count -2\n"));
  EXPECT_THAT(text, testing::HasSubstr("kv_rpc_request_seconds_bucket{le=\"4.096e-06\"} 0\n"));
  EXPECT_THAT(text, testing::HasSubstr("kv_rpc_request_seconds_bucket{le=\"8.192e-06\"} 1\n"));
  EXPECT_THAT(text, testing::HasSubstr("kv_rpc_request_seconds_bucket{le=\"+Inf\"} 1\n"));
  registry.Remove(&owner_a);
  EXPECT_EQ(registry.Render(),
            "# HELP kv_rpc_requests_total Requests.\n# TYPE kv_rpc_requests_total counter\n"
            "kv_rpc_requests_total{reactor=\"1\\\"\\n\"} 1\n");
}

}  // namespace
}  // namespace pando
