#include "src/io/pace.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

constexpr uint64_t kRate = 1'000'000;

TEST(Pace, KeepsTheRate) {
  Pace pace(kRate);
  Nanos now_ns = 100 * kSecond;
  const Nanos began_ns = now_ns;
  for (int i = 0; i < 50; ++i) {
    now_ns = std::max(now_ns, pace.due_ns());
    pace.Took(kRate / 10, now_ns);
  }
  // It begins with what it may make up for.
  EXPECT_EQ(pace.due_ns() - began_ns, 5 * kSecond - Pace::kMadeUpNs);
}

TEST(Pace, MakesUpForAShortPause) {
  Pace pace(kRate);
  pace.Took(2 * kRate, 100 * kSecond);
  const Nanos due_ns = pace.due_ns();
  EXPECT_EQ(due_ns, 102 * kSecond - Pace::kMadeUpNs);
  pace.Took(kRate / 10, due_ns + Pace::kMadeUpNs / 2);
  EXPECT_EQ(pace.due_ns(), due_ns + kSecond / 10);
  pace.Took(kRate / 10, due_ns + 60 * kSecond);
  EXPECT_EQ(pace.due_ns(), due_ns + 60 * kSecond - Pace::kMadeUpNs + kSecond / 10);
}

TEST(Pace, WithoutARateNothingWaits) {
  Pace pace(0);
  pace.Took(UINT64_MAX, 100 * kSecond);
  EXPECT_EQ(pace.due_ns(), 0);
}

}  // namespace
}  // namespace pando
