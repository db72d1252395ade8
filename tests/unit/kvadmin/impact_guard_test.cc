// How RateControl finds a rate.
#include "tools/kvadmin/impact_guard.h"

#include <gtest/gtest.h>

namespace pando::admin {
namespace {

TEST(RateControlTest, GrowsUntilItIsTooMuchAndStaysAroundThat) {
  RateControl control(/*before_ms=*/1.0, /*most_percent=*/10);
  EXPECT_DOUBLE_EQ(control.most_ms(), 1.1);
  // A server whose latency grows above 100 MB/s.
  int above = 0;
  double sum = 0;
  for (int second = 0; second < 200; ++second) {
    const double rate = control.rate();
    const bool lowered = control.Adapt(rate > 100e6 ? 2.0 : 1.0, rate);
    EXPECT_EQ(lowered, rate > 100e6);
    above += lowered;
    sum += rate;
  }
  EXPECT_LT(above, 40);
  EXPECT_GT(sum / 200, 60e6);
}

TEST(RateControlTest, ARateThatIsNotUsedDoesNotGrow) {
  RateControl control(1.0, 10);
  for (int second = 0; second < 100; ++second) EXPECT_FALSE(control.Adapt(1.0, 2e6));
  EXPECT_DOUBLE_EQ(control.rate(), RateControl::kFirst);
  // What is too much is what was read, not what might have been.
  EXPECT_TRUE(control.Adapt(5.0, 4e6));
  EXPECT_DOUBLE_EQ(control.rate(), 2e6);
}

TEST(RateControlTest, AnExportAlwaysGoesOn) {
  RateControl control(1.0, 1);
  for (int second = 0; second < 100; ++second) EXPECT_TRUE(control.Adapt(50.0, control.rate()));
  EXPECT_DOUBLE_EQ(control.rate(), RateControl::kLeast);
}

}  // namespace
}  // namespace pando::admin
