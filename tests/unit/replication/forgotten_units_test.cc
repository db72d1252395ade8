// A replica remembers where its last units end, and of older ones only those that ended an epoch. What it has forgotten
// may come once more.
#include <gtest/gtest.h>

#include "tests/sim/replication_trio.h"

namespace pando::replication {
namespace {

class ForgottenUnits : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(trio_.Opens());
    epoch_ = trio_.entry.epoch;
    for (int i = 0; i < 20; ++i) trio_.Write(0);
    trio_.Run(kSecond);
    // Another master, so that an epoch ends in the log.
    ASSERT_TRUE(trio_.Do(
        0, [this](ReplicaCore& core) { return core.Handover(trio_[1].id, trio_.now(), trio_.now() + kSecond); }));
    ASSERT_TRUE(trio_.RunUntil([this] { return trio_.master() == 1; }, 2 * kSecond));
    for (int i = 0; i < 20; ++i) trio_.Write(1);
    trio_.Run(kSecond);
    ASSERT_EQ(trio_.core(2).commit_lsn(), trio_[2].log.end().lsn);
    trio_[2].log.remembers_from = trio_[2].log.end().lsn - 3;
  }
  // The master's units after the point, as far as `count`.
  Append Again(const HistoryPoint& after, size_t count) {
    Append append{trio_.entry.epoch, after, "", trio_.core(1).commit_lsn()};
    const auto& units = trio_[1].log.units();
    for (size_t at = trio_[1].log.IndexAfter(after.lsn); at < units.size() && count > 0; ++at, --count) {
      Put(*units[at], &append.units);
    }
    return append;
  }
  static void Put(const SimUnit& unit, std::string* units) {
    const size_t before = units->size();
    units->resize(before + UnitBytes(unit.records.size()));
    EncodeUnit(Uuid{7, 7}, unit.View(), 0, units->data() + before);
  }
  void Step(Append append) {
    trio_.Do(2, [&](ReplicaCore& core) { core.Step({trio_[1].id, trio_[2].id, std::move(append)}, trio_.now()); });
  }

  Trio trio_;
  Epoch epoch_ = 0;
};

TEST_F(ForgottenUnits, ThatComeAgainAreNoOthers) {
  const HistoryPoint end = trio_[2].log.EpochEnd(epoch_);
  ASSERT_LT(end.lsn, trio_[2].log.remembers_from);
  ASSERT_TRUE(trio_[2].log.PointAt(end.lsn)) << "it has to be remembered, because it ends an epoch";
  for (const size_t count : {1, 5, 100}) {
    Step(Again(end, count));
    EXPECT_FALSE(trio_.core(2).quarantined()) << count;
    EXPECT_EQ(trio_.Wrong(), "");
  }
  ASSERT_TRUE(trio_.Write(1));
  trio_.Run(100 * kMillisecond);
  EXPECT_EQ(trio_[2].log.end().lsn, trio_[1].log.end().lsn);
  EXPECT_EQ(trio_.core(2).commit_lsn(), trio_.core(1).commit_lsn());
}

// Their chain differs at the first point that is remembered.
TEST_F(ForgottenUnits, OthersInTheirPlaceAreNoticed) {
  const HistoryPoint end = trio_[2].log.EpochEnd(epoch_);
  SimLog forged;
  forged.on_append = [](const SimUnit&) {};
  const auto& units = trio_[1].log.units();
  for (size_t i = 0; i < trio_[1].log.IndexAfter(end.lsn); ++i) forged.Append(units[i]->View());
  Append append{trio_.entry.epoch, end, "", 0};
  for (size_t i = 0; i < 30; ++i) Put(*forged.AppendOwn(trio_.entry.epoch, 1, "forged"), &append.units);
  Step(append);
  EXPECT_TRUE(trio_.core(2).quarantined());
}

}  // namespace
}  // namespace pando::replication
