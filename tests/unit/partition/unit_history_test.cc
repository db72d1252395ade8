#include "src/partition/unit_history.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

HistoryPoint Point(Epoch epoch, Lsn lsn) { return {epoch, lsn, 1000 + lsn}; }
// The LSN of the point, and 0 if it is not known.
Lsn Known(const UnitHistory& history, Lsn lsn) {
  const std::optional<HistoryPoint> point = history.At(lsn);
  if (point && lsn > 0) {
    EXPECT_EQ(point->chain, 1000 + lsn);
  }
  return point ? point->lsn : 0;
}

TEST(UnitHistory, BeginsWithNothing) {
  UnitHistory history(4);
  EXPECT_EQ(history.end().lsn, 0u);
  ASSERT_TRUE(history.At(0));
  EXPECT_EQ(history.At(0)->chain, 0u);
  EXPECT_FALSE(history.At(1));
  EXPECT_EQ(history.EpochEnd(9).lsn, 0u);
  // The epoch of a checkpoint that has no units means nothing.
  history.Begin({3, 0, 0});
  EXPECT_EQ(history.end().epoch, 0u);
}

TEST(UnitHistory, KnowsWhereUnitsAndEpochsEnd) {
  UnitHistory history(100);
  history.Begin(Point(2, 10));
  history.Add(Point(2, 13));
  history.Add(Point(2, 14));
  history.Add(Point(5, 20));
  EXPECT_EQ(history.end().lsn, 20u);
  EXPECT_EQ(Known(history, 10), 10u);
  EXPECT_EQ(Known(history, 13), 13u);
  EXPECT_EQ(Known(history, 12), 0u);
  EXPECT_EQ(Known(history, 21), 0u);
  EXPECT_EQ(history.EpochEnd(1).lsn, 0u);
  EXPECT_EQ(history.EpochEnd(2).lsn, 14u);
  EXPECT_EQ(history.EpochEnd(4).lsn, 14u);
  EXPECT_EQ(history.EpochEnd(5).lsn, 20u);
  history.CutAfter(13);
  EXPECT_EQ(history.end().lsn, 13u);
  EXPECT_EQ(Known(history, 14), 0u);
  history.Add(Point(2, 15));  // of the epoch of what was cut, and of a lower one than its last
  EXPECT_EQ(history.EpochEnd(9).lsn, 15u);
}

// UH1: what is not committed stays, and so does the last unit that is.
TEST(UnitHistory, ForgetsTheOldest) {
  UnitHistory history(3);
  for (Lsn lsn = 1; lsn <= 10; ++lsn) history.Add(Point(lsn < 3 ? 1 : 2, lsn));
  history.Trim(0);
  EXPECT_EQ(history.size(), 11u);
  history.Trim(5);
  EXPECT_EQ(Known(history, 4), 0u);
  for (Lsn lsn = 5; lsn <= 10; ++lsn) EXPECT_EQ(Known(history, lsn), lsn);
  history.Trim(10);
  EXPECT_EQ(history.size(), 3u);
  EXPECT_EQ(Known(history, 7), 0u);
  EXPECT_EQ(Known(history, 8), 8u);
  // The end of an epoch is kept longer.
  EXPECT_EQ(Known(history, 2), 2u);
  EXPECT_EQ(history.EpochEnd(1).lsn, 2u);
  EXPECT_EQ(history.EpochEnd(2).lsn, 10u);
}

TEST(UnitHistory, IsBounded) {
  UnitHistory history(1);
  constexpr Lsn kUnits = 1000;
  for (Lsn lsn = 1; lsn <= kUnits; ++lsn) {
    history.Add(Point(lsn, lsn));
    history.Trim(lsn);
    EXPECT_EQ(history.size(), 1u);
  }
  EXPECT_EQ(history.EpochEnd(kUnits - 1).lsn, kUnits - 1);
  EXPECT_EQ(history.EpochEnd(kUnits - UnitHistory::kMaxEpochs).lsn, kUnits - UnitHistory::kMaxEpochs);
  EXPECT_EQ(history.EpochEnd(kUnits - UnitHistory::kMaxEpochs - 1).lsn, 0u);
}

TEST(UnitHistoryDeathTest, RefusesWhatDoesNotFollow) {
  UnitHistory history(10);
  history.Add(Point(2, 5));
  EXPECT_DEATH(history.Add(Point(1, 6)), "UH1");
  EXPECT_DEATH(history.Add(Point(2, 5)), "UH1");
  EXPECT_DEATH(history.CutAfter(3), "UH1");
}

}  // namespace
}  // namespace pando
