// WU1 to WU4: which units, marks and cuts form the history of a partition.
#include "src/wal/stream_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace pando {
namespace {

using Verdict = StreamHistory::Verdict;
using testing::HasSubstr;

constexpr Uuid kPartition{1, 2};

class StreamHistoryTest : public testing::Test {
 protected:
  // A unit of `count` records that continues the chain at `before`.
  WriteUnit Unit(Epoch epoch, Lsn first, uint64_t before, uint32_t count = 1, std::string_view records = "r") {
    WriteUnit unit{epoch, first, count, before, 0, records};
    unit.chain_after = UnitChain(unit);
    return unit;
  }
  Verdict Accept(const WriteUnit& unit, uint16_t flags = 0) {
    return history_.Accept(kPartition, unit, flags, /*chained=*/true);
  }
  Verdict Cut(Epoch epoch, Lsn after, uint64_t chain) {
    return history_.Accept(StreamCut{kPartition, {epoch, after, chain}});
  }
  // Returns whether the log may end after the mark.
  bool Mark(Lsn commit, Lsn durable) {
    history_.Accept({kPartition, 1, commit, durable, 0, 0});
    return history_.AcceptEnd(kPartition);
  }

  StreamHistory history_;
};

TEST_F(StreamHistoryTest, UnitsContinueEachOther) {
  const WriteUnit a = Unit(1, 10, 77, 3), b = Unit(1, 13, a.chain_after), c = Unit(4, 14, b.chain_after);
  EXPECT_EQ(Accept(a), Verdict::kContinues) << "older units may have been released";
  EXPECT_EQ(Accept(b), Verdict::kContinues);
  EXPECT_EQ(Accept(c), Verdict::kContinues);
  EXPECT_EQ(history_.Find(kPartition)->last().lsn, 14u);
  EXPECT_EQ(history_.Find(kPartition)->last().chain, c.chain_after);
}

TEST_F(StreamHistoryTest, TheChainCoversAllOfAUnit) {
  const WriteUnit a = Unit(1, 1, 0);
  auto changed = [&](auto change) {
    WriteUnit unit = a;
    change(unit);
    return UnitChain(unit);
  };
  EXPECT_NE(a.chain_after, changed([](WriteUnit& u) { u.epoch = 2; }));
  EXPECT_NE(a.chain_after, changed([](WriteUnit& u) { u.first_lsn = 2; }));
  EXPECT_NE(a.chain_after, changed([](WriteUnit& u) { u.record_count = 2; }));
  EXPECT_NE(a.chain_after, changed([](WriteUnit& u) { u.chain_before = 1; }));
  EXPECT_NE(a.chain_after, changed([](WriteUnit& u) { u.records = "s"; }));
  WriteUnit wrong = a;
  wrong.chain_after ^= 1;
  EXPECT_EQ(Accept(wrong), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("does not match its records"));
}

TEST_F(StreamHistoryTest, HolesAndOtherPastsAreBroken) {
  const WriteUnit a = Unit(3, 1, 0);
  const StreamHistory empty;
  auto breaks = [&](const WriteUnit& unit, const char* why) {
    history_ = empty;
    ASSERT_EQ(Accept(a), Verdict::kContinues);
    EXPECT_EQ(Accept(unit), Verdict::kBroken);
    EXPECT_THAT(history_.wrong(), HasSubstr(why));
    EXPECT_EQ(history_.Find(kPartition)->last().lsn, 1u) << "what was refused has changed nothing";
  };
  breaks(Unit(3, 2, a.chain_after + 1), "does not continue the chain");
  breaks(Unit(2, 2, a.chain_after), "has epoch 2");
  breaks(Unit(3, 1, 0, 1, "another"), "in the same epoch");
  history_ = empty;
  ASSERT_EQ(Accept(a), Verdict::kContinues);
  EXPECT_EQ(Accept(Unit(3, 99, 5), kUnitStartsAnew), Verdict::kContinues);
}

// What follows in a broken partition means nothing; others are not concerned.
TEST_F(StreamHistoryTest, ABrokenPartitionStaysBroken) {
  const WriteUnit a = Unit(3, 1, 0);
  ASSERT_EQ(Accept(a), Verdict::kContinues);
  ASSERT_EQ(Accept(Unit(3, 2, a.chain_after + 1)), Verdict::kBroken);
  EXPECT_TRUE(history_.broken(kPartition));
  EXPECT_EQ(Accept(Unit(3, 2, a.chain_after)), Verdict::kIgnored);
  EXPECT_EQ(Accept(Unit(3, 99, 5), kUnitStartsAnew), Verdict::kIgnored);
  EXPECT_FALSE(history_.Accept({kPartition, 3, 1, 1, 0, 0}));
  EXPECT_TRUE(history_.Partitions().empty());
  EXPECT_EQ(history_.Accept({3, 4}, a, 0, true), Verdict::kContinues);
  EXPECT_EQ(history_.Partitions(), (std::vector<Uuid>{{3, 4}}));
}

TEST_F(StreamHistoryTest, AHigherEpochSupersedesWhatIsNotCommitted) {
  const WriteUnit a = Unit(1, 1, 0), b = Unit(1, 2, a.chain_after, 2), c = Unit(1, 4, b.chain_after);
  for (const WriteUnit& unit : {a, b, c}) ASSERT_EQ(Accept(unit), Verdict::kContinues);
  ASSERT_TRUE(Mark(/*commit=*/1, /*durable=*/4));
  const StreamHistory known = history_;
  EXPECT_EQ(Accept(Unit(2, 1, 0)), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("supersedes what was committed up to LSN 1"));
  history_ = known;
  EXPECT_EQ(Accept(Unit(2, 3, b.chain_after)), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("cut after LSN 2, which is inside a unit"));
  history_ = known;
  EXPECT_EQ(Accept(Unit(2, 2, c.chain_after)), Verdict::kBroken);
  history_ = known;
  const WriteUnit d = Unit(2, 2, a.chain_after);
  EXPECT_EQ(Accept(d), Verdict::kSupersedes);
  EXPECT_EQ(history_.Find(kPartition)->last().lsn, 2u);
  EXPECT_TRUE(Mark(1, 2)) << "what was superseded need not exist";
  EXPECT_EQ(Accept(Unit(2, 3, d.chain_after)), Verdict::kContinues);
  EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kBroken) << "it is no longer part of the history";
}

// WU2: what follows a cut may be of a lower epoch than what it has cut off.
TEST_F(StreamHistoryTest, ACutEndsTheHistory) {
  const WriteUnit a = Unit(1, 1, 0), b = Unit(1, 2, a.chain_after, 2), c = Unit(2, 4, b.chain_after);
  for (const WriteUnit& unit : {a, b, c}) ASSERT_EQ(Accept(unit), Verdict::kContinues);
  ASSERT_TRUE(Mark(/*commit=*/1, /*durable=*/4));
  const StreamHistory known = history_;
  EXPECT_EQ(Cut(0, 0, 0), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("cut after LSN 0, and was committed up to LSN 1"));
  EXPECT_EQ(Cut(1, 1, a.chain_after), Verdict::kIgnored);
  history_ = known;
  EXPECT_EQ(Cut(1, 2, b.chain_after), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("inside a unit"));
  history_ = known;
  EXPECT_EQ(Cut(1, 1, a.chain_after + 1), Verdict::kBroken);
  EXPECT_THAT(history_.wrong(), HasSubstr("with a chain that it does not have there"));
  history_ = known;
  EXPECT_EQ(Cut(1, 3, b.chain_after), Verdict::kSupersedes);
  EXPECT_EQ(history_.Find(kPartition)->last().lsn, 3u);
  EXPECT_EQ(Cut(1, 1, a.chain_after), Verdict::kSupersedes);
  EXPECT_EQ(Cut(1, 1, a.chain_after), Verdict::kSupersedes) << "it says the same again";
  EXPECT_EQ(history_.Find(kPartition)->last().lsn, 1u);
  EXPECT_TRUE(history_.AcceptEnd(kPartition)) << "what was cut off need not exist: " << history_.wrong();
  const WriteUnit d = Unit(1, 2, a.chain_after, 1, "d");
  EXPECT_EQ(Accept(d), Verdict::kContinues);
  EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kBroken) << "it is no longer part of the history";
}

// The segments with the units before the point may be gone, and the units may come again (WU4).
TEST_F(StreamHistoryTest, ACutAtAPointThatIsNotKnown) {
  const WriteUnit a = Unit(1, 1, 0), b = Unit(1, 2, a.chain_after, 2), c = Unit(2, 4, b.chain_after);
  ASSERT_EQ(Accept(c), Verdict::kContinues);
  const StreamHistory known = history_;
  EXPECT_EQ(Cut(1, 3, b.chain_after + 1), Verdict::kBroken) << "what it cuts off continues another point";
  for (const Epoch stated : {0, 1}) {
    history_ = known;
    EXPECT_EQ(Cut(stated, 3, b.chain_after), Verdict::kSupersedes);
    EXPECT_EQ(history_.Find(kPartition), nullptr) << "no unit is left";
    EXPECT_EQ(history_.LastGap(kPartition), 0u);
    const StreamHistory cut = history_;
    EXPECT_EQ(Accept(Unit(1, 4, b.chain_after + 1)), Verdict::kBroken);
    history_ = cut;
    EXPECT_EQ(Accept(Unit(1, 2, a.chain_after, 2, "another"), kUnitAgain), Verdict::kBroken);
    history_ = cut;
    EXPECT_EQ(Accept(a, kUnitAgain), Verdict::kFills);
    EXPECT_EQ(history_.LastGap(kPartition), 3u) << "b is missing";
    const WriteUnit d = Unit(1, 4, b.chain_after, 1, "d");
    EXPECT_EQ(Accept(d), Verdict::kContinues);
    EXPECT_EQ(history_.LastGap(kPartition), 3u);
    EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kFills) << "the point is no unit";
    EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kRepeats);
    EXPECT_EQ(Accept(d, kUnitAgain), Verdict::kRepeats);
    EXPECT_EQ(history_.LastGap(kPartition), 0u);
    EXPECT_TRUE(history_.AcceptEnd(kPartition));
  }
  // All of it may be gone but the cut.
  history_ = StreamHistory();
  history_.Accept({kPartition, 2, 1, 4, 1, 0});
  EXPECT_EQ(Cut(1, 3, b.chain_after), Verdict::kSupersedes);
  EXPECT_EQ(history_.marks().at(kPartition).durable_lsn, 3u);
  EXPECT_EQ(Accept(Unit(1, 4, b.chain_after)), Verdict::kContinues);
}

TEST_F(StreamHistoryTest, UnitsMayRepeat) {
  const WriteUnit a = Unit(1, 1, 0), b = Unit(1, 2, a.chain_after), c = Unit(2, 3, b.chain_after);
  for (const WriteUnit& unit : {a, b, c}) ASSERT_EQ(Accept(unit), Verdict::kContinues);
  EXPECT_EQ(Accept(a, kUnitAgain), Verdict::kRepeats);
  EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kRepeats);
  const StreamHistory known = history_;
  EXPECT_EQ(Accept(b), Verdict::kBroken) << "only what was appended again repeats";
  history_ = known;
  EXPECT_EQ(Accept(Unit(1, 2, a.chain_after, 1, "another"), kUnitAgain), Verdict::kBroken);
  history_ = known;
  ASSERT_TRUE(Mark(/*commit=*/3, /*durable=*/3));
  EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kRepeats) << "it was committed between its two places";
  EXPECT_EQ(history_.Find(kPartition)->last().lsn, 3u);
}

// WU4
TEST_F(StreamHistoryTest, UnitsThatWereAppendedAgainFillTheBeginning) {
  const WriteUnit a = Unit(1, 1, 0), b = Unit(1, 2, a.chain_after), c = Unit(1, 3, b.chain_after),
                  d = Unit(1, 4, c.chain_after);
  ASSERT_EQ(Accept(c), Verdict::kContinues);
  ASSERT_EQ(Accept(d), Verdict::kContinues);
  const StreamHistory known = history_;
  EXPECT_EQ(Accept(a), Verdict::kBroken) << "only what was appended again may come later";
  history_ = known;
  EXPECT_EQ(Accept(Unit(1, 2, 0, 1, "another"), kUnitAgain), Verdict::kBroken);
  history_ = known;
  EXPECT_EQ(history_.LastGap(kPartition), 0u);
  EXPECT_EQ(Accept(a, kUnitAgain), Verdict::kFills);
  EXPECT_EQ(history_.LastGap(kPartition), 2u) << "b is missing";
  EXPECT_EQ(Accept(b, kUnitAgain), Verdict::kFills);
  EXPECT_EQ(Accept(c, kUnitAgain), Verdict::kRepeats);
  EXPECT_EQ(history_.LastGap(kPartition), 0u);
  EXPECT_EQ(Accept(Unit(2, 2, a.chain_after)), Verdict::kSupersedes);
  EXPECT_TRUE(history_.AcceptEnd(kPartition));
}

// WU4: a checkpoint may contain what is missing, so a gap is no fault by itself. It is not forgotten
// with the units around it.
TEST_F(StreamHistoryTest, AGapIsRemembered) {
  std::vector<WriteUnit> units;
  for (Lsn lsn = 1; lsn <= 9; ++lsn) units.push_back(Unit(1, lsn, lsn == 1 ? 0 : units.back().chain_after));
  for (Lsn lsn : {1, 2}) ASSERT_EQ(Accept(units[lsn - 1]), Verdict::kContinues);
  EXPECT_EQ(Accept(units[6]), Verdict::kContinues) << "LSN 3 to 6 may be in a checkpoint";
  EXPECT_EQ(Accept(units[4], kUnitAgain), Verdict::kFills);
  EXPECT_EQ(Accept(units[3], kUnitAgain), Verdict::kFills) << "before what has filled already";
  EXPECT_EQ(history_.LastGap(kPartition), 6u);
  EXPECT_EQ(Accept(units[5], kUnitAgain), Verdict::kFills);
  EXPECT_EQ(history_.LastGap(kPartition), 3u);
  EXPECT_EQ(Accept(units[7]), Verdict::kContinues);
  EXPECT_TRUE(Mark(/*commit=*/8, /*durable=*/8));
  EXPECT_EQ(history_.LastGap(kPartition), 3u);
  EXPECT_EQ(Accept(units[8], kUnitAgain), Verdict::kContinues);
}

// The segments that held the superseded units are gone, but a mark of their epoch is not.
TEST_F(StreamHistoryTest, AMarkIsSupersededToo) {
  history_.Accept({kPartition, 3, 4, 13, 4, 0});
  EXPECT_EQ(Accept(Unit(4, 5, 77)), Verdict::kSupersedes);
  EXPECT_TRUE(history_.AcceptEnd(kPartition)) << history_.wrong();
  history_ = StreamHistory();
  history_.Accept({kPartition, 3, 4, 13, 4, 0});
  EXPECT_EQ(Accept(Unit(3, 5, 77)), Verdict::kContinues);
  EXPECT_FALSE(history_.AcceptEnd(kPartition)) << "the same epoch supersedes nothing";
  history_ = StreamHistory();
  history_.Accept({kPartition, 3, 5, 13, 4, 0});
  EXPECT_EQ(Accept(Unit(4, 5, 77)), Verdict::kBroken) << "LSN 5 is committed";
}

// The log may end with older units that were appended again before checkpoints contained what follows.
TEST_F(StreamHistoryTest, WhatCheckpointsContainMayBeGone) {
  EXPECT_EQ(Accept(Unit(1, 1, 0, 5)), Verdict::kContinues);
  history_.Accept({kPartition, 1, 13, 13, 13, 0});
  EXPECT_TRUE(history_.AcceptEnd(kPartition)) << history_.wrong();
  history_.Accept({kPartition, 1, 14, 14, 13, 0});
  EXPECT_TRUE(history_.AcceptEnd(kPartition, 14)) << "the crash came before a mark that says so";
  EXPECT_FALSE(history_.AcceptEnd(kPartition, 13));
}

TEST_F(StreamHistoryTest, WhatAMarkStatesMustBeThere) {
  EXPECT_TRUE(Mark(50, 50)) << "all its units have been released";
  const WriteUnit a = Unit(1, 1, 0);
  StreamHistory fresh;
  history_ = fresh;
  ASSERT_EQ(Accept(a), Verdict::kContinues);
  EXPECT_TRUE(Mark(0, 1));
  EXPECT_FALSE(Mark(0, 2));
  EXPECT_THAT(history_.wrong(), HasSubstr("holds it up to LSN 1, but it was durable up to LSN 2"));
}

TEST_F(StreamHistoryTest, OldBatchesHaveTheirChecksumsForChains) {
  const WriteUnit a{1, 1, 5, 0, 111, "r"}, b{1, 6, 1, 111, 222, "r"}, c{1, 7, 1, 333, 444, "r"};
  auto accept = [&](const WriteUnit& unit) { return history_.Accept(kPartition, unit, 0, /*chained=*/false); };
  EXPECT_EQ(accept(a), Verdict::kContinues);
  EXPECT_EQ(accept(b), Verdict::kContinues);
  const StreamHistory known = history_;
  EXPECT_EQ(accept(c), Verdict::kBroken);
  history_ = known;
  EXPECT_EQ(Accept(Unit(2, 7, 222)), Verdict::kContinues);
}

}  // namespace
}  // namespace pando
