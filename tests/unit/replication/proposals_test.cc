// Proposals of a master whose outcome it does not know, and what it proposes where there is no room for more. Whatever
// became of them, everything goes on once the topology answers again.
#include <gtest/gtest.h>

#include "tests/sim/replication_trio.h"

namespace pando::replication {
namespace {

class Proposals : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(trio_.Opens());
    trio_.WriteEvery(5 * kMillisecond);
    trio_.Run(200 * kMillisecond);
  }
  // A member is silent for so long that its removal is proposed, and back before the topology answers.
  void ProposeInVain() {
    trio_.topology_down = true;
    trio_[2].cut = true;
    trio_.Run(900 * kMillisecond);
    trio_[2].cut = false;
    trio_.Run(kSecond);
    trio_.topology_down = false;
    trio_.Run(kSecond);
    ASSERT_EQ(trio_.master(), 0u);
    ASSERT_EQ(trio_.entry.isr.size(), 3u);
  }

  Trio trio_;
};

TEST_F(Proposals, OneThatHasNotLandedKeepsNobodyFromHandingOver) {
  ProposeInVain();
  ASSERT_TRUE(trio_.Do(
      0, [this](ReplicaCore& core) { return core.Handover(trio_[1].id, trio_.now(), trio_.now() + kSecond); }));
  EXPECT_TRUE(trio_.RunUntil([this] { return trio_.master() == 1; }, 2 * kSecond));
  EXPECT_EQ(trio_.Wrong(), "");
}

// Who asks again names another replica each time.
TEST_F(Proposals, ManyThatHaveNotLandedKeepNobodyInTheIsr) {
  trio_.topology_down = true;
  for (uint64_t i = 0; i < 6; ++i) {
    trio_.Do(0, [this, i](ReplicaCore& core) { return core.Add(ReplicaId{100 + i, 0}, trio_.now()); });
    trio_.Run(600 * kMillisecond);
  }
  trio_.topology_down = false;
  trio_.Run(kSecond);
  ASSERT_EQ(trio_.master(), 0u);
  trio_.Stop(2);
  EXPECT_TRUE(trio_.RunUntil([this] { return !trio_.entry.isr.Contains(trio_[2].id); }, 3 * kSecond));
  EXPECT_TRUE(trio_.Write(0));
  EXPECT_EQ(trio_.Wrong(), "");
}

// The topology has what it had: the doubt ends with one write.
TEST_F(Proposals, ADoubtEndsAndIsNotRenewed) {
  ProposeInVain();
  const uint64_t revision = trio_.entry.revision;
  trio_.Run(5 * kSecond);
  EXPECT_EQ(trio_.entry.revision, revision);
}

TEST(ProposalLimits, APartitionWithAllReplicasTakesNoMore) {
  Trio trio(kMaxReplicas);
  ASSERT_TRUE(trio.Opens());
  const auto add = [&](ReplicaCore& core) { return core.Add(ReplicaId{100, 0}, trio.now()); };
  EXPECT_EQ(trio.Do(0, add), ChangeResult::kNotAllowed);
  const auto assign = [&](ReplicaCore& core) { return core.Assign(ReplicaId{100, 0}, std::nullopt, trio.now()); };
  EXPECT_EQ(trio.Do(0, assign), ChangeResult::kNotAllowed);
  EXPECT_TRUE(trio.Write(0));
}

// Who asks for it again gets to know that it is done.
TEST(ProposalLimits, TheLastLearnerThatFitsIsAssignedOnce) {
  Trio trio(kMaxReplicas - 1);
  ASSERT_TRUE(trio.Opens());
  const auto assign = [&](ReplicaCore& core) { return core.Assign(ReplicaId{100, 0}, std::nullopt, trio.now()); };
  EXPECT_EQ(trio.Do(0, assign), ChangeResult::kProposed);
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.Do(0, assign), ChangeResult::kDone);
  const auto add = [&](ReplicaCore& core) { return core.Add(ReplicaId{100, 0}, trio.now()); };
  EXPECT_NE(trio.Do(0, add), ChangeResult::kNotAllowed);
}

}  // namespace
}  // namespace pando::replication
