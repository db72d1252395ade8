// What the core does for a split (docs/SPLIT.md): a master retires its partition in favour of the halves (RC10, RC11),
// and a half begins to serve (SP4).
#include <gtest/gtest.h>

#include "src/replication/replica_file.h"
#include "src/replication/replica_host.h"
#include "tests/sim/replication_trio.h"

namespace pando::replication {
namespace {

class Retire : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(trio_.Opens());
    trio_.WriteEvery(5 * kMillisecond);
    trio_.Run(200 * kMillisecond);
  }
  void TearDown() override { EXPECT_EQ(trio_.Wrong(), ""); }

  ChangeResult SetSplit(const std::optional<SplitOrder>& split) {
    return trio_.Do(0, [&](ReplicaCore& core) { return core.SetSplit(split, trio_.now()); });
  }
  bool Hold(Nanos within = 10 * kSecond) {
    const auto hold = [&](ReplicaCore& core) { return core.HoldForSplit(trio_.now(), trio_.now() + within); };
    return trio_.Do(0, hold) && trio_.RunUntil([this] { return trio_.core(0).leader().IsQuiet(); }, kSecond);
  }
  bool AskToRetire(Nanos within = 10 * kSecond) {
    return trio_.Do(0, [&](ReplicaCore& core) { return core.Retire(trio_.now(), trio_.now() + within); });
  }
  // A split runs, and all is ready for its end.
  void BringToTheSwitch() {
    ASSERT_EQ(SetSplit(SplitOrder{64, ""}), ChangeResult::kProposed);
    ASSERT_TRUE(trio_.RunUntil([this] { return trio_.core(0).entry().split.has_value(); }, kSecond));
    ASSERT_EQ(SetSplit(SplitOrder{64, ""}), ChangeResult::kDone);
    ASSERT_TRUE(Hold());
  }
  WriteVerdict Judge(size_t i) { return trio_.core(i).JudgeWrite(WriteLevel::kQuorum, 1, trio_.now()); }
  bool HoldsLease(size_t i) {
    const auto serving = trio_.core(i).Serving();
    return serving && trio_.core(i).LeaseHolds(*serving, trio_.now());
  }
  bool AllHaveLearned() {
    for (size_t i = 0; i < trio_.size(); ++i) {
      if (trio_[i].core != nullptr && trio_.core(i).role() != "retired") return false;
    }
    return true;
  }
  // Whatever happens from now on, nobody leads, and nothing changes.
  void ExpectTheEnd() {
    const uint64_t revision = trio_.entry.revision;
    const Lsn end = trio_[2].log.end().lsn;  // all have as much
    for (int i = 0; i < 100; ++i) {
      trio_.Run(100 * kMillisecond);
      EXPECT_EQ(trio_.master(), trio_.size());
      for (size_t r = 0; r < trio_.size(); ++r) {
        if (trio_[r].core == nullptr) continue;
        EXPECT_FALSE(trio_.core(r).leader().active());
        EXPECT_EQ(trio_[r].log.end().lsn, end);
      }
    }
    EXPECT_EQ(trio_.entry.revision, revision);
  }

  Trio trio_;
};

TEST_F(Retire, EndsAllMasterships) {
  const Epoch epoch = trio_.entry.epoch;
  BringToTheSwitch();
  EXPECT_EQ(Judge(0), WriteVerdict::kHandingOver);
  EXPECT_TRUE(HoldsLease(0));  // reads go on
  ASSERT_TRUE(AskToRetire());
  EXPECT_FALSE(HoldsLease(0));  // given up before the CAS is sent
  EXPECT_EQ(Judge(0), WriteVerdict::kHandingOver);
  ASSERT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, kSecond));
  EXPECT_TRUE(trio_.entry.retired());
  EXPECT_FALSE(trio_.entry.split.has_value());
  EXPECT_EQ(trio_.entry.epoch, epoch);
  EXPECT_EQ(trio_.entry.master, trio_[0].id);
  EXPECT_EQ(trio_.entry.isr.size(), 3u);
  const auto* ended = trio_.Told<HandoverEnded>(0);
  ASSERT_NE(ended, nullptr);
  EXPECT_TRUE(ended->done);
  EXPECT_TRUE(ended->target.IsNil());
  EXPECT_NE(trio_.Told<CloseMastership>(0), nullptr);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Judge(i), WriteVerdict::kRetired);
    EXPECT_FALSE(trio_.core(i).Serves());
    EXPECT_EQ(trio_.core(i).FreshAsOf(), std::nullopt);
  }
  ExpectTheEnd();
}

TEST_F(Retire, NobodyIsElectedAfterwards) {
  BringToTheSwitch();
  ASSERT_TRUE(AskToRetire());
  ASSERT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, kSecond));
  trio_.Stop(0);
  trio_.NoticeDeath(0, 1);
  ExpectTheEnd();
  trio_.Start(0);  // the topology still names it
  trio_.Stop(1);
  trio_.Start(1);
  ExpectTheEnd();
  EXPECT_EQ(trio_.Do(2, [this](ReplicaCore& core) { return core.Force({}, true, trio_.now()); }),
            ForceVerdict::kRetired);
}

// It has not heard that the partition is retired, and is elected by nobody.
TEST_F(Retire, AFollowerWithAnOldMapWinsNothing) {
  BringToTheSwitch();
  trio_[2].hears_topology = false;
  ASSERT_TRUE(AskToRetire());
  ASSERT_TRUE(trio_.RunUntil([this] { return trio_.entry.retired(); }, kSecond));
  trio_.Run(100 * kMillisecond);
  EXPECT_NE(trio_.core(2).role(), "retired");
  ExpectTheEnd();
  trio_[2].hears_topology = true;
  EXPECT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, 5 * kSecond));
  ExpectTheEnd();
}

TEST_F(Retire, NothingHappensWithoutAHold) {
  ASSERT_EQ(SetSplit(SplitOrder{}), ChangeResult::kProposed);
  EXPECT_FALSE(AskToRetire());
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
}

TEST_F(Retire, LettingGoEndsAHold) {
  BringToTheSwitch();
  EXPECT_FALSE(Hold());  // one at a time
  EXPECT_FALSE(trio_.Do(
      0, [this](ReplicaCore& core) { return core.Handover(trio_[1].id, trio_.now(), trio_.now() + kSecond); }));
  trio_.Do(0, [this](ReplicaCore& core) { core.LetGo(trio_.now()); });
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
  ASSERT_NE(trio_.Told<HandoverEnded>(0), nullptr);
  EXPECT_FALSE(trio_.Told<HandoverEnded>(0)->done);
  EXPECT_TRUE(Hold());
}

TEST_F(Retire, AHoldEndsAtItsDeadline) {
  ASSERT_TRUE(Hold(300 * kMillisecond));
  trio_.Run(400 * kMillisecond);
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
  EXPECT_FALSE(AskToRetire());
}

// RC10: whoever has taken the split out of the record may give up the halves.
TEST_F(Retire, NotAfterTheSplitWasGivenUp) {
  BringToTheSwitch();
  ASSERT_EQ(SetSplit(std::nullopt), ChangeResult::kProposed);
  trio_.Run(100 * kMillisecond);
  ASSERT_FALSE(trio_.entry.split.has_value());
  ASSERT_TRUE(AskToRetire());
  trio_.Run(kSecond);
  EXPECT_FALSE(trio_.entry.retired());
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
}

// It was given up just before the CAS arrived.
TEST_F(Retire, AConflictLetsItGoOn) {
  BringToTheSwitch();
  ASSERT_TRUE(AskToRetire());
  PartitionEntry other = trio_.entry;
  other.split.reset();
  other.op_id = {trio_[1].id, 1, 77};
  trio_.Land(other);
  trio_.Run(kSecond);
  EXPECT_FALSE(trio_.entry.retired());
  EXPECT_EQ(trio_.master(), 0u);
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
  ASSERT_NE(trio_.Told<HandoverEnded>(0), nullptr);
  EXPECT_FALSE(trio_.Told<HandoverEnded>(0)->done);
}

TEST_F(Retire, NoAnswerAndItHadLanded) {
  BringToTheSwitch();
  PartitionEntry landed = trio_.entry;
  landed.stage = PartitionStage::kRetired;
  landed.split.reset();
  trio_.topology_down = true;
  ASSERT_TRUE(AskToRetire());
  for (int i = 0; i < 20; ++i) {
    trio_.Run(100 * kMillisecond);
    EXPECT_EQ(Judge(0), WriteVerdict::kHandingOver);
    EXPECT_EQ(trio_.master(), trio_.size());
  }
  trio_.topology_down = false;
  trio_.Land(landed);
  ASSERT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, kSecond));
  EXPECT_TRUE(trio_.Told<HandoverEnded>(0)->done);
  ExpectTheEnd();
}

// The same CAS is sent again, and lands.
TEST_F(Retire, NoAnswerAndItLandsLater) {
  BringToTheSwitch();
  trio_.topology_down = true;
  ASSERT_TRUE(AskToRetire());
  trio_.Run(2 * kSecond);
  EXPECT_EQ(trio_.master(), trio_.size());
  trio_.topology_down = false;
  EXPECT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, kSecond));
  ExpectTheEnd();
}

// Past its deadline, an entry without a change ends the doubt, and then the first CAS cannot land any more.
TEST_F(Retire, NoAnswerAndItNeverLands) {
  BringToTheSwitch();
  const PartitionEntry before = trio_.entry;
  trio_.topology_down = true;
  ASSERT_TRUE(AskToRetire(300 * kMillisecond));
  trio_.Run(2 * kSecond);
  EXPECT_EQ(Judge(0), WriteVerdict::kHandingOver);
  EXPECT_EQ(trio_.master(), trio_.size());
  trio_.topology_down = false;
  EXPECT_TRUE(trio_.RunUntil([this] { return trio_.master() == 0; }, kSecond));
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
  EXPECT_GT(trio_.entry.revision, before.revision);
  EXPECT_EQ(trio_.entry.split, before.split);
  EXPECT_FALSE(trio_.entry.retired());
}

// Another one is elected at a revision that the CAS does not compare, and still knows of the split.
TEST_F(Retire, AMasterThatDiesInDoubtIsReplaced) {
  BringToTheSwitch();
  trio_.topology_down = true;
  ASSERT_TRUE(AskToRetire());
  trio_.Run(50 * kMillisecond);
  trio_.Stop(0);
  trio_.NoticeDeath(0, 1);
  trio_.topology_down = false;
  ASSERT_TRUE(trio_.RunUntil([this] { return trio_.master() < trio_.size(); }, 5 * kSecond));
  EXPECT_NE(trio_.master(), 0u);
  EXPECT_EQ(trio_.entry.split, (SplitOrder{64, ""}));
  EXPECT_FALSE(trio_.entry.retired());
}

// A change of who is in sync is on its way: it comes first.
TEST_F(Retire, WaitsForAChangeOfTheIsr) {
  BringToTheSwitch();
  trio_.Stop(2);
  trio_.NoticeDeath(2, 1);
  ASSERT_TRUE(AskToRetire());
  ASSERT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, 3 * kSecond));
  EXPECT_TRUE(trio_.entry.retired());
}

// -- halves

class Half : public Retire {
 protected:
  void SetUp() override {
    trio_.entry.stage = PartitionStage::kBuilding;
    Retire::SetUp();
  }
  Lsn Feed() {
    EXPECT_EQ(trio_.core(0).JudgeFeed(WriteLevel::kQuorum, 1, trio_.now()), WriteVerdict::kAccepted);
    trio_[0].log.AppendOwn(trio_.core(0).leader().epoch(), 1, "fed");
    trio_.Do(0, [this](ReplicaCore& core) { core.OnAppended(trio_.now()); });
    return trio_[0].log.end().lsn;
  }
  ChangeResult SetServing(Lsn lsn) {
    return trio_.Do(0, [&](ReplicaCore& core) { return core.SetServing(lsn, trio_.now()); });
  }
};

TEST_F(Half, ServesOnceItIsOpened) {
  EXPECT_EQ(trio_.master(), 0u);
  EXPECT_EQ(Judge(0), WriteVerdict::kNotOpen);
  EXPECT_FALSE(trio_.core(0).Serves());
  EXPECT_EQ(SetSplit(SplitOrder{}), ChangeResult::kNotAllowed);
  const Lsn opens = Feed();
  EXPECT_EQ(SetServing(opens), ChangeResult::kNotAllowed);  // it is not applied
  trio_.Run(20 * kMillisecond);
  ASSERT_EQ(SetServing(opens), ChangeResult::kProposed);
  trio_.Run(20 * kMillisecond);
  EXPECT_EQ(SetServing(opens), ChangeResult::kDone);
  EXPECT_EQ(SetServing(opens + 1), ChangeResult::kNotAllowed);
  EXPECT_EQ(trio_.entry.opened_lsn, opens);
  EXPECT_EQ(Judge(0), WriteVerdict::kAccepted);
  EXPECT_TRUE(trio_.core(0).Serves());
  EXPECT_TRUE(trio_.RunUntil([this] { return trio_.core(1).Serves() && trio_.core(2).Serves(); }, kSecond));
}

// SP4: it knows the record before it has what the record names.
TEST_F(Half, AReplicaThatHasNotAppliedWhatOpensItDoesNotServe) {
  trio_[2].cut = true;
  const Lsn opens = Feed();
  ASSERT_TRUE(trio_.RunUntil([&] { return trio_[0].log.applied() >= opens; }, 3 * kSecond));
  ASSERT_TRUE(trio_.RunUntil([&] { return SetServing(opens) == ChangeResult::kDone; }, kSecond));
  ASSERT_TRUE(trio_.RunUntil([&] { return trio_.core(2).entry().opened_lsn == opens; }, kSecond));
  EXPECT_FALSE(trio_.core(2).Serves());
  trio_[2].cut = false;
  EXPECT_TRUE(trio_.RunUntil([this] { return trio_.core(2).Serves(); }, 3 * kSecond));
}

// Another master, and changes of who is in sync, leave what the record says of splits as it is. A new lineage begins
// with other LSNs.
TEST_F(Half, EveryProposalKeepsWhatIsSaidOfSplits) {
  const Lsn opens = Feed();
  trio_.Run(20 * kMillisecond);
  ASSERT_TRUE(trio_.RunUntil([&] { return SetServing(opens) == ChangeResult::kDone; }, kSecond));
  ASSERT_TRUE(trio_.RunUntil([this] { return SetSplit(SplitOrder{7, "{}"}) == ChangeResult::kDone; }, kSecond));
  trio_.Stop(0);
  trio_.NoticeDeath(0, 1);
  ASSERT_TRUE(trio_.RunUntil([this] { return trio_.master() == 1 || trio_.master() == 2; }, 5 * kSecond));
  const size_t master = trio_.master();
  trio_.Run(2 * kSecond);
  EXPECT_EQ(trio_.entry.isr.size(), 2u);
  EXPECT_EQ(trio_.entry.opened_lsn, opens);
  EXPECT_EQ(trio_.entry.split, (SplitOrder{7, "{}"}));
  const size_t other = 3 - master;
  trio_.Stop(master);
  trio_.Run(3 * kSecond);
  ASSERT_EQ(trio_.Do(other, [this](ReplicaCore& core) { return core.Force({}, false, trio_.now()); }),
            ForceVerdict::kProposed);
  ASSERT_TRUE(trio_.RunUntil([&] { return trio_.master() == other; }, 3 * kSecond));
  EXPECT_EQ(trio_.entry.lineage, 2u);
  EXPECT_EQ(trio_.entry.opened_lsn, 0u);
  EXPECT_EQ(trio_.entry.split, (SplitOrder{7, "{}"}));
}

// Its parent's master has given the split up, with a swap of its own.
TEST_F(Half, OneThatWasGivenUpEndsToo) {
  PartitionEntry given_up = trio_.entry;
  given_up.stage = PartitionStage::kRetired;
  trio_.Land(given_up);
  ASSERT_TRUE(trio_.RunUntil([this] { return AllHaveLearned(); }, kSecond));
  trio_.Run(kSecond);
  ExpectTheEnd();
}

// The driver of a split has made an empty replica for the next lineage, and the record still tells of the one before.
TEST_F(Half, ANewReplicaIsNotOfALineageThatWasGivenUp) {
  trio_.Stop(2);
  trio_.NoticeDeath(2, 1);
  ASSERT_TRUE(trio_.RunUntil([this] { return trio_.entry.isr.size() == 2; }, 3 * kSecond));
  PartitionEntry given_up = trio_.entry;
  given_up.stage = PartitionStage::kRetired;
  given_up.assigned = given_up.isr;
  trio_.Land(given_up);
  trio_[2].id = ReplicaId{3, 1};
  trio_[2].lineage = trio_[2].promise = 0;
  trio_[2].log.PutDisk({}, 0);
  trio_.Start(2);
  trio_.Run(kSecond);
  EXPECT_EQ(trio_.core(2).lineage(), 0u);
  PartitionEntry again = trio_.entry;
  ++again.lineage;
  ++again.epoch;
  again.stage = PartitionStage::kBuilding;
  again.master = trio_[2].id;
  again.isr = again.assigned = {trio_[2].id};
  again.min_isr = again.replicas = 1;
  trio_.Land(again);
  EXPECT_TRUE(trio_.RunUntil([this] { return trio_.master() == 2; }, 5 * kSecond));
  EXPECT_EQ(trio_.core(2).lineage(), 2u);
}

// -- the data of what is retired

TEST(WasRemoved, OfARetiredPartition) {
  PartitionRecord record;
  record.lineage = 3;
  record.state = PartitionStage::kRetired;
  record.isr = {{1, {7, 1}, ""}};
  ReplicaState state;
  state.installed = true;
  state.lineage = 3;
  state.replica = {7, 1};
  EXPECT_TRUE(WasRemoved(record, 1, state));
  state.replica = {7, 2};  // it was removed before
  EXPECT_TRUE(WasRemoved(record, 1, state));
  state.lineage = 2;
  EXPECT_TRUE(WasRemoved(record, 1, state));
  state.lineage = 0;  // it is new
  EXPECT_FALSE(WasRemoved(record, 1, state));
  state.installed = false;  // nobody has a copy for it
  EXPECT_TRUE(WasRemoved(record, 1, state));
}

TEST(WasRemoved, OfALineageOfAHalfThatWasGivenUp) {
  PartitionRecord record;
  record.lineage = 3;
  record.state = PartitionStage::kBuilding;
  record.isr = {{1, {7, 1}, ""}};
  ReplicaState state;
  state.installed = true;
  state.replica = {7, 2};
  state.lineage = 2;
  EXPECT_TRUE(WasRemoved(record, 2, state));
  record.state = PartitionStage::kServing;  // what an operator has given up may be wanted again
  EXPECT_FALSE(WasRemoved(record, 2, state));
}

}  // namespace
}  // namespace pando::replication
