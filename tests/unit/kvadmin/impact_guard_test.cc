// How RateControl finds a rate, and what the percentiles of windows say.
#include "tools/kvadmin/impact_guard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace pando::admin {
namespace {

TEST(RateControlTest, GrowsUntilItIsTooMuchAndStaysAroundThat) {
  RateControl control(/*most_percent=*/10);
  EXPECT_FALSE(control.TooMuch(1.0, 1.1));
  EXPECT_TRUE(control.TooMuch(1.0, 1.11));
  // A server whose latency grows above 100 MB/s. It is slower at some times, whatever is read.
  int above = 0;
  double sum = 0;
  for (int second = 0; second < 200; ++second) {
    const double rate = control.rate(), pausing_ms = second % 50 < 25 ? 1.0 : 3.0;
    const bool lowered = control.Adapt(pausing_ms, pausing_ms * (rate > 100e6 ? 2.0 : 1.0), rate);
    EXPECT_EQ(lowered, rate > 100e6);
    above += lowered;
    sum += rate;
  }
  EXPECT_LT(above, 40);
  EXPECT_GT(sum / 200, 60e6);
}

TEST(RateControlTest, ARateThatIsNotUsedDoesNotGrow) {
  RateControl control(10);
  for (int second = 0; second < 100; ++second) EXPECT_FALSE(control.Adapt(1.0, 1.0, 1e6));
  EXPECT_DOUBLE_EQ(control.rate(), RateControl::kFirst);
  // What is too much is what was read, not what might have been.
  EXPECT_TRUE(control.Adapt(1.0, 5.0, 3e6));
  EXPECT_DOUBLE_EQ(control.rate(), 1.5e6);
  EXPECT_FALSE(control.Adapt(1.0, 50.0, 0)) << "nothing was read";
  EXPECT_DOUBLE_EQ(control.rate(), 1.5e6);
}

TEST(RateControlTest, AnExportAlwaysGoesOn) {
  RateControl control(1);
  for (int second = 0; second < 100; ++second) EXPECT_TRUE(control.Adapt(1.0, 50.0, control.rate()));
  EXPECT_DOUBLE_EQ(control.rate(), RateControl::kLeast);
}

// 245 gets take `usual_ms`, and five `slow_ms`.
std::vector<float> Window(float usual_ms, float slow_ms) {
  std::vector<float> window(250, usual_ms);
  std::fill(window.begin(), window.begin() + 5, slow_ms);
  return window;
}

TEST(WindowPercentileTest, OneOddWindowIsNoEvidence) {
  WindowPercentile percentile(5);
  EXPECT_EQ(percentile.MedianMs(), 0);
  for (int i = 0; i < 5; ++i) percentile.Add(Window(1, 2));
  EXPECT_EQ(percentile.MedianMs(), 2);
  percentile.Add(Window(1, 100));
  EXPECT_EQ(percentile.LeastOfLastTwoMs(), 2);
  percentile.Add(Window(1, 100));
  EXPECT_EQ(percentile.MedianMs(), 2);
  EXPECT_EQ(percentile.LeastOfLastTwoMs(), 100);
  percentile.Add(Window(1, 100));
  EXPECT_EQ(percentile.MedianMs(), 100) << "most of the last five";
  EXPECT_EQ(percentile.MedianOfAllMs(), 2) << "most of all";
  percentile.Clear();
  EXPECT_EQ(percentile.windows(), 0u);
  percentile.Add({1, 2, 3});
  EXPECT_EQ(percentile.windows(), 0u) << "too few gets";
}

// Slow gets are few in a window, and count for those that they kept from beginning.
TEST(WindowPercentileTest, SlowGetsAreEvidence) {
  WindowPercentile usual(5), slow(5), stalled(5);
  std::vector<float> window;
  for (int i = 0; i < 250; ++i) AddSamples(1, &window);
  usual.Add(std::exchange(window, {}));
  for (int i = 0; i < 5; ++i) AddSamples(200, &window);
  slow.Add(std::exchange(window, {}));
  for (int i = 0; i < 100; ++i) AddSamples(1, &window);
  for (int i = 0; i < 2; ++i) AddSamples(300, &window);
  stalled.Add(std::exchange(window, {}));
  EXPECT_EQ(usual.MedianMs(), 1);
  EXPECT_GT(slow.MedianMs(), 150);
  EXPECT_GT(stalled.MedianMs(), 250);
}

}  // namespace
}  // namespace pando::admin
