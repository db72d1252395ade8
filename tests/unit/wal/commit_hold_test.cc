#include "src/wal/commit_hold.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

constexpr Nanos kFlush = 1000;

// Ends a batch of `records` while `staged` records wait, and submits the next one after `after`,
// when `arrived` records wait.
void Round(CommitHold* hold, Nanos* now, uint64_t records, uint64_t staged, Nanos after, uint64_t arrived) {
  *now += kFlush;
  hold->OnBatchDone(*now, kFlush, records, staged);
  *now += after;
  hold->OnSubmit(*now, arrived);
}

TEST(CommitHold, WaitsUntilTheWritersOfTheLastGroupAreBack) {
  CommitHold hold;
  Nanos now = 5000;
  hold.OnBatchDone(now, kFlush, 25, 25);
  EXPECT_EQ(hold.HoldUntil(now, 25), now + kFlush / 2);
  EXPECT_EQ(hold.HoldUntil(now + 100, 49), now + kFlush / 2);
  EXPECT_EQ(hold.HoldUntil(now + 100, 50), 0);
}

// Q1: a hold ends after half of the mean flush time.
TEST(CommitHold, NeverLongerThanHalfAFlush) {
  CommitHold hold;
  hold.OnBatchDone(5000, kFlush, 25, 25);
  EXPECT_EQ(hold.HoldUntil(5000 + kFlush / 2, 25), 0);
}

// Q1: a hold begins only when a batch has just ended.
TEST(CommitHold, AnIdleLogDoesNotWait) {
  CommitHold hold;
  EXPECT_EQ(hold.HoldUntil(5000, 1), 0);
  hold.OnBatchDone(5000, kFlush, 1, 0);
  EXPECT_EQ(hold.HoldUntil(5000 + kFlush, 1), 0);
}

TEST(CommitHold, StopsWhenWritersDoNotComeBackAndTriesAgain) {
  CommitHold hold;
  Nanos now = 0;
  for (int i = 0; i < 10; ++i) Round(&hold, &now, 25, 1, kFlush / 2, 2);
  int held = 0;
  for (int i = 0; i < 640; ++i) {
    now += kFlush;
    hold.OnBatchDone(now, kFlush, 25, 1);
    held += hold.HoldUntil(now, 1) != 0;
    now += kFlush / 2;
    hold.OnSubmit(now, 2);
  }
  EXPECT_EQ(held, 10);
  // The writers do come back: after a probe that paid, every batch is held again.
  for (int i = 0; i < 128; ++i) Round(&hold, &now, 25, 1, kFlush / 4, 26);
  hold.OnBatchDone(now, kFlush, 25, 1);
  EXPECT_NE(hold.HoldUntil(now, 1), 0);
}

}  // namespace
}  // namespace pando
