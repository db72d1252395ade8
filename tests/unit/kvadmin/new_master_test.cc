// When a node that was made master is taken for one that leads.
#include "tools/kvadmin/new_master.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/kvadmin/exit_codes.h"
#include "tools/kvadmin/refusal.h"

namespace pando::admin {
namespace {

// Somebody else was first: nothing is wrong with the command line (exit code 2, BAD_REQUEST).
TEST(RefusalTest, AnotherAdminsRaceIsNoBadRequest) {
  const Status refused = RefusalOf(Error(
      Code::kInvalidArgument, "the server refused (BAD_REQUEST): partition 1: its epoch is 13, and not 12 any more"));
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_EQ(ExitCodeOf(refused), kExitFailed);
  EXPECT_EQ(refused.message(), "the node refused: partition 1: its epoch is 13, and not 12 any more");
  EXPECT_EQ(RefusalOf(Error(Code::kOverloaded, "x")).code(), Code::kOverloaded);
  EXPECT_TRUE(RefusalOf(Status()).ok());
}

using testing::HasSubstr;

struct Answer {
  std::string role;
  int64_t epoch = 0;
  bool leased = false;
  int32_t master_node = 0;
};

class NewMasterTest : public testing::Test {
 protected:
  // Node 2 gives these answers, and the last one again and again.
  Status Wait(std::vector<Answer> answers, int64_t timeout_ms = 20'000) {
    MasterQuestion question;
    question.ask = [this, answers]() -> Result<api::ReplicasReply> {
      const Answer& answer = answers[std::min(asked_++, answers.size() - 1)];
      if (answer.role.empty()) return Error(Code::kUnavailable, "no route");
      api::ReplicasReply reply;
      reply.replicas.resize(2);
      reply.replicas[0].partition = 3;  // another one, which it leads
      reply.replicas[0].role = "master";
      reply.replicas[0].leased = true;
      reply.replicas[0].epoch = 99;
      api::ReplicaStatus& replica = reply.replicas[1];
      replica.partition = 4;
      replica.role = answer.role;
      replica.epoch = answer.epoch;
      replica.leased = answer.leased;
      replica.master_node = answer.master_node;
      return reply;
    };
    question.explain = [this](const std::string& text) { explained_.push_back(text); };
    question.timeout_ms = timeout_ms;
    return WaitUntilLeads(NewMaster{4, 2, "2 (10.0.0.2:7420)", 7}, question);
  }

  size_t asked_ = 0;
  std::vector<std::string> explained_;
};

TEST_F(NewMasterTest, ItLeadsWithALeaseInItsEpoch) {
  const Status status = Wait({{"follower", 6, false, 1},    // it does not know yet
                              {"", 0, false, 0},            // it does not answer
                              {"master", 6, true, 2},       // of an epoch before
                              {"new master", 7, false, 2},  // it is named
                              {"master", 7, false, 2},      // it may not answer reads
                              {"master", 7, true, 2}});
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(asked_, 6u);
  EXPECT_TRUE(explained_.empty()) << "it was quick";
  EXPECT_TRUE(Wait({{"master", 8, true, 2}}).ok()) << "it has won a later epoch besides";
}

TEST_F(NewMasterTest, TheWaitIsExplainedOnceAndEnds) {
  const Status status = Wait({{"new master", 7, false, 2}}, 900);
  EXPECT_EQ(status.code(), Code::kDeadline);
  EXPECT_THAT(status.message(), HasSubstr("names node 2 (10.0.0.2:7420) as the master of partition 4, in epoch 7"));
  EXPECT_THAT(status.message(), HasSubstr("its replica is new master"));
  ASSERT_EQ(explained_.size(), 1u);
  EXPECT_THAT(explained_[0], HasSubstr("waiting until node 2 (10.0.0.2:7420) leads partition 4"));
  EXPECT_THAT(Wait({{"", 0, false, 0}}, 1).message(), HasSubstr("it does not answer: no route"));
  EXPECT_THAT(Wait({{"master", 7, false, 2}}, 1).message(), HasSubstr("no lease"));
  EXPECT_THAT(Wait({{"follower", 6, false, 1}}, 1).message(), HasSubstr("not heard of it yet"));
}

TEST_F(NewMasterTest, AnotherMasterEndsIt) {
  const Status status = Wait({{"new master", 7, false, 2}, {"follower", 8, false, 3}});
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("node 3 has become its master since"));
}

}  // namespace
}  // namespace pando::admin
