// The verdict on a cluster, and which masterships are handed over.
#include "tools/kvadmin/cluster_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/kvadmin/force_plan.h"
#include "tools/kvadmin/master_plan.h"
#include "tools/kvadmin/replica_change.h"
#include "tools/kvadmin/split_run.h"

namespace pando::admin {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int kRecords = 100;

Uuid ReplicaOf(uint32_t partition, NodeId node) { return Uuid{partition + 1, node}; }

// Three nodes. Each partition has a replica on each; node 1 + partition % 3 leads it, and all are in sync.
class ClusterHealthTest : public testing::Test {
 protected:
  ClusterHealthTest() {
    ClusterRecord& cluster = view_.map.cluster.emplace().record;
    cluster.partitions = kPartitions;
    for (NodeId node = 1; node <= 3; ++node) {
      NodeRecord& record = view_.map.nodes[node].record;
      record.id = node;
      record.client_address = fmt::format("10.0.0.{}:7420", node);
      view_.nodes[node].reply.node = static_cast<int32_t>(node);
    }
    for (uint32_t id = 0; id < kPartitions; ++id) {
      PartitionRecord& record = view_.map.partitions[id].record;
      record.id = id;
      std::tie(record.first_hash, record.last_hash) = HashRangeOf(id, kPartitions);
      record.epoch = 5;
      record.replicas = 3;
      record.min_isr = 2;
      const NodeId master = 1 + id % 3;
      record.master = ReplicaOf(id, master);
      for (NodeId node = 1; node <= 3; ++node) {
        record.isr.push_back({node, ReplicaOf(id, node), {}});
        api::ReplicaStatus& status = view_.nodes[node].reply.replicas.emplace_back();
        status.partition = static_cast<int32_t>(id);
        status.replica = ReplicaOf(id, node).ToString();
        status.last_epoch = 5;
        status.last_lsn = status.durable_lsn = 100;
        status.commit_lsn = 90;
        status.role = node == master ? "master" : "follower";
        status.epoch = 5;
        status.leased = node == master;
        for (NodeId other = 1; other <= 3 && node == master; ++other) {
          if (other == node) continue;
          api::FollowerStatus& follower = status.followers.emplace_back();
          follower.node = static_cast<int32_t>(other);
          follower.in_sync = true;
        }
      }
    }
  }

  api::ReplicaStatus& On(NodeId node, uint32_t partition) { return view_.nodes[node].reply.replicas[partition]; }
  api::FollowerStatus& FollowerOf(NodeId master, uint32_t partition, NodeId node) {
    for (api::FollowerStatus& f : On(master, partition).followers) {
      if (f.node == static_cast<int32_t>(node)) return f;
    }
    ADD_FAILURE();
    return On(master, partition).followers[0];
  }
  void TakeDown(NodeId node) {
    view_.nodes[node].status = Error(Code::kUnavailable, "cannot reach it");
    view_.nodes[node].reply = {};
  }

  static constexpr uint32_t kPartitions = 4;
  ClusterView view_;
};

TEST_F(ClusterHealthTest, AllIsWell) {
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk);
  EXPECT_EQ(h.cause, "");
  EXPECT_EQ(h.next, "");
  EXPECT_EQ(h.nodes[0].masters, 2u);
  EXPECT_EQ(h.nodes[0].followers, 2u);
  for (const PartitionHealth& p : h.partitions) EXPECT_THAT(p.problems, IsEmpty());
}

// Until the others have elected another master, its partitions have none.
TEST_F(ClusterHealthTest, ADeadMasterIsNamed) {
  TakeDown(2);
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_THAT(h.cause, HasSubstr("node 2 (10.0.0.2:7420) does not answer"));
  EXPECT_THAT(h.cause, HasSubstr("1 of 4 partitions have no master (1)"));
  EXPECT_THAT(h.next, HasSubstr("start node 2 (10.0.0.2:7420)"));
  EXPECT_THAT(h.partitions[1].problems, ElementsAre(HasSubstr("unreachable of them: 2")));
  EXPECT_EQ(h.partitions[0].health, Health::kOk);
}

TEST_F(ClusterHealthTest, AMasterWithoutALeaseDoesNotServe) {
  On(1, 0).leased = false;
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_THAT(h.partitions[0].problems, ElementsAre(HasSubstr("node 1 leads it without a lease")));
}

TEST_F(ClusterHealthTest, AReplicaThatIsNotInSyncIsExplained) {
  api::FollowerStatus& follower = FollowerOf(1, 0, 3);
  follower.in_sync = false;
  follower.behind_records = kRecords;
  follower.behind_ms = 1500;
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("1 of 4 partitions have too few replicas in sync (0)"));
  EXPECT_THAT(h.partitions[0].in_sync, ElementsAre(1, 2));
  EXPECT_THAT(h.partitions[0].problems, ElementsAre(HasSubstr("node 3: it is catching up, 100 records and 1.5 s")));
  EXPECT_THAT(h.partitions[0].problems[0], HasSubstr("without one more of them, writes stop"));
  EXPECT_THAT(h.next, HasSubstr("wait"));

  On(3, 0).role = "installing";
  On(3, 0).install_bytes = 4 << 20;
  h = JudgeCluster(view_);
  EXPECT_THAT(h.partitions[0].problems, ElementsAre(HasSubstr("node 3: it is being installed")));
  EXPECT_EQ(h.nodes[2].installing, 1u);
}

// A master that was just elected has not heard what the others have: that is not all of its log.
TEST_F(ClusterHealthTest, WhatIsNotKnownIsNoLag) {
  FollowerOf(2, 1, 1).behind_records = FollowerOf(2, 1, 1).behind_ms = -1;
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk);
  EXPECT_LT(h.partitions[1].behind_records, 0);
  FollowerOf(2, 1, 3).behind_records = kRecords;  // it lags at least so far
  FollowerOf(2, 1, 3).behind_ms = 200;
  EXPECT_EQ(JudgeCluster(view_).partitions[1].behind_records, kRecords);
  FollowerOf(2, 1, 1).in_sync = false;
  EXPECT_THAT(JudgeCluster(view_).partitions[1].problems,
              ElementsAre(HasSubstr("node 1: it has not told its master yet what it has")));
}

TEST_F(ClusterHealthTest, AFollowerThatLagsIsNamed) {
  FollowerOf(2, 1, 1).behind_records = kRecords;
  FollowerOf(2, 1, 1).behind_ms = 1999;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
  FollowerOf(2, 1, 1).behind_ms = 5000;
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("have a replica that lags (1)"));
  EXPECT_EQ(h.partitions[1].behind_records, kRecords);
}

TEST_F(ClusterHealthTest, AQuarantinedReplicaLeadsToItsNode) {
  On(3, 0).role = "quarantined";
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_EQ(h.next, "kvadmin --server 10.0.0.3:7420 status");
}

TEST_F(ClusterHealthTest, AReplicaThatItsMasterDoesNotHearIsNotWaitedFor) {
  api::FollowerStatus& follower = FollowerOf(1, 0, 3);
  follower.in_sync = false;
  follower.silent_ms = 5'000;
  EXPECT_THAT(JudgeCluster(view_).next, HasSubstr("wait"));
  follower.silent_ms = 60'000;
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.next, HasSubstr("see the log of node 3 (10.0.0.3:7420)"));
  EXPECT_THAT(h.next, HasSubstr("start node 3 again"));
  On(3, 0).role = "installing";
  EXPECT_THAT(JudgeCluster(view_).next, HasSubstr("wait"));
}

// Everything is served as before, so nothing else shows it.
TEST_F(ClusterHealthTest, ATopologyThatDoesNotAnswerIsNotWell) {
  for (const NodeId node : {1u, 3u}) {
    api::TopologyTrouble trouble;
    trouble.problem = "the directory of the topology cannot be used";
    trouble.silent_ms = 1000 * node;
    view_.nodes[node].reply.__set_topology_trouble(trouble);
  }
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_EQ(h.cause,
            "the nodes 1,3 cannot reach the topology, for 3.0 s: the directory of the topology cannot be used");
  EXPECT_THAT(h.next, HasSubstr("repair the topology, or the way of the nodes 1,3 to it, while the nodes run"));
  EXPECT_THAT(h.nodes[2].trouble, HasSubstr("the topology does not answer for 3.0 s"));
  EXPECT_EQ(h.nodes[1].trouble, "");
  // A node that is down besides does not hide it, and nothing can be forced meanwhile.
  TakeDown(1);
  TakeDown(2);
  On(3, 0).role = On(3, 1).role = "follower";
  h = JudgeCluster(view_);
  EXPECT_THAT(h.cause, HasSubstr("node 3 cannot reach the topology, for 3.0 s"));
  EXPECT_THAT(h.next, HasSubstr("repair the topology, or the way of node 3 to it"));
  EXPECT_THAT(h.next, HasSubstr("start node 1 (10.0.0.1:7420) and node 2 (10.0.0.2:7420)"));
  EXPECT_THAT(h.next, Not(HasSubstr("--force")));
}

// A forced failover would lose nothing either, but makes all other replicas copy everything again.
TEST_F(ClusterHealthTest, ALowerMinIsrComesBeforeAForcedFailover) {
  for (auto& [id, known] : view_.map.partitions) known.record.min_isr = 3;
  TakeDown(3);
  On(1, 0).leased = On(2, 1).leased = On(1, 3).leased = false;  // node 3 led partition 2
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_EQ(h.partitions[0].lower_min_isr, 2u);
  EXPECT_EQ(h.partitions[2].lower_min_isr, 0u) << "nobody leads it, and only a master changes it";
  EXPECT_THAT(h.next, HasSubstr("kvadmin cluster set-min-isr 0 2 (so for each of 3 partitions), which loses nothing"));
  EXPECT_THAT(h.next, HasSubstr("If their data is lost for good: kvadmin failover 2 --force"));
  On(1, 2).role = "new master";
  On(1, 2).epoch = 6;
  h = JudgeCluster(view_);
  EXPECT_THAT(h.next, HasSubstr("start node 3 (10.0.0.3:7420)"));
  EXPECT_THAT(h.next, HasSubstr("kvadmin cluster set-min-isr all 2, which loses nothing"));
  EXPECT_THAT(h.next, Not(HasSubstr("--force")));
  TakeDown(2);
  h = JudgeCluster(view_);
  EXPECT_THAT(h.next, HasSubstr("set-min-isr 0 1 (so for each of 3 partitions)"));
  EXPECT_THAT(h.next, HasSubstr("acknowledged with 1 copy"));
  EXPECT_THAT(h.next, HasSubstr("kvadmin failover 1 --force"));
}

// An older map does not say who has all that was acknowledged.
TEST_F(ClusterHealthTest, NothingIsForcedByATopologyThatHasGoneBack) {
  TakeDown(1);
  TakeDown(2);
  On(3, 0).role = On(3, 1).role = On(3, 3).role = "follower";
  EXPECT_THAT(JudgeCluster(view_).next, HasSubstr("failover 0 --force"));
  const auto expect_stale = [this](const char* why) {
    const ClusterHealth h = JudgeCluster(view_);
    EXPECT_EQ(h.health, Health::kUnavailable);
    EXPECT_TRUE(h.topology.went_back);
    EXPECT_THAT(h.cause, HasSubstr("the topology is older than what the nodes have: "));
    EXPECT_THAT(h.cause, HasSubstr(why));
    EXPECT_THAT(h.next, HasSubstr("bring back the newest copy of the topology"));
    EXPECT_THAT(h.next, HasSubstr("kvadmin topology recover"));
    EXPECT_THAT(h.next, Not(HasSubstr("--force")));
    const Status refused =
        ChooseForced(LookAtSurvivors(view_, view_.map.partitions[0].record), 0, /*accept_loss=*/true).status();
    EXPECT_EQ(refused.code(), Code::kUnavailable);
    EXPECT_THAT(refused.message(), HasSubstr("nothing is forced"));
  };
  On(3, 0).last_epoch = 6;
  expect_stale("partition 0 is in epoch 5 there, and node 3 has records of epoch 6");
  On(3, 0).last_epoch = 5;
  view_.stale = "file:/t has gone back: its revision is 3, and node 3 has seen 9";
  expect_stale("node 3 has seen 9");
  view_.stale = "";
  api::TopologyTrouble trouble;
  trouble.went_back = true;
  trouble.problem = "it was at revision 9 before";
  view_.nodes[3].reply.__set_topology_trouble(trouble);
  expect_stale("it was at revision 9 before");
}

TEST_F(ClusterHealthTest, ADiskThatIsFullIsNamed) {
  On(3, 0).disk_full = On(3, 2).disk_full = true;
  FollowerOf(1, 0, 3).in_sync = false;
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("node 3 (10.0.0.3:7420): the disk is full; writes are refused in 2 partitions"));
  EXPECT_THAT(h.next, HasSubstr("add space to the disk of node 3 (10.0.0.3:7420), or delete records. To have writes "
                                "before that, stop node 3: the others go on without it"));
  // Not of partition 0, where nothing waits for it. Another master would not help.
  EXPECT_THAT(h.next, HasSubstr("kvadmin replica remove 2 3, and add it again later"));
  EXPECT_THAT(h.next, Not(HasSubstr("drain")));
  EXPECT_THAT(h.nodes[2].trouble, HasSubstr("the disk is full"));
  EXPECT_THAT(h.partitions[2].problems,
              ElementsAre("the disk of node 3 is full: writes are refused while it is in sync"));
  EXPECT_THAT(h.partitions[0].problems, Contains("the disk of node 3 is full"));
  view_.map.partitions[2].record.min_isr = 3;
  EXPECT_THAT(JudgeCluster(view_).next, HasSubstr("too few others are in sync"));
  On(3, 2).disk_full = false;
  h = JudgeCluster(view_);
  EXPECT_THAT(h.cause, HasSubstr("writes are refused in 1 partition"));
  EXPECT_THAT(h.next, Not(HasSubstr("stop node")));
}

// Nothing else shows it until a snapshot is refused.
TEST_F(ClusterHealthTest, AClockThatIsWrongIsNamed) {
  constexpr int64_t kNowMs = 1'700'000'000'000, kHourMs = 3'600'000;
  for (auto& [id, node] : view_.nodes) {
    node.reply.clock_ms = node.reply.versions_ms = kNowMs;
    node.clock_ahead_ms = -2 * kHourMs;  // the clock of kvadmin does not matter
    node.clock_error_ms = 10;
  }
  view_.nodes[2].reply.clock_ms = view_.nodes[2].reply.versions_ms = kNowMs + 3000;
  view_.nodes[2].clock_ahead_ms += 3000;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
  view_.nodes[3].reply.clock_ms = view_.nodes[3].reply.versions_ms = kNowMs + kHourMs;
  view_.nodes[3].clock_ahead_ms += kHourMs;
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("node 3 (10.0.0.3:7420): its clock is 60 min ahead of that of node 2"));
  EXPECT_THAT(h.cause, HasSubstr("versions are 60 min ahead of the clocks (on node 3), so snapshots of the cluster"));
  EXPECT_THAT(h.next, HasSubstr("set the clock of node 3"));
  EXPECT_THAT(h.nodes[2].trouble, HasSubstr("its clock is 60 min ahead"));
  // It is set back. What it wrote meanwhile stays ahead, also on the nodes to which that came.
  view_.nodes[3].reply.clock_ms = kNowMs;
  view_.nodes[3].clock_ahead_ms -= kHourMs;
  h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_EQ(h.nodes[2].trouble, "");
  EXPECT_THAT(h.cause, HasSubstr("versions are 60 min ahead of the clocks (on node 3)"));
  EXPECT_THAT(h.next, HasSubstr("wait for about 64 h"));
  EXPECT_THAT(h.next, HasSubstr("kvadmin export --latest works"));
  view_.nodes[3].reply.versions_ms = kNowMs + 9'000;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
  // A node of an earlier version does not say.
  view_.nodes[3].reply.clock_ms = view_.nodes[3].reply.versions_ms = 0;
  view_.nodes[3].clock_ahead_ms = -kNowMs;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
}

// With two nodes nobody knows which clock is right.
TEST_F(ClusterHealthTest, ClocksThatDifferAreNamed) {
  TakeDown(3);
  view_.nodes[1].reply.clock_ms = view_.nodes[2].reply.clock_ms = 1'700'000'000'000;
  view_.nodes[1].reply.versions_ms = view_.nodes[2].reply.versions_ms = 1'700'000'000'000;
  view_.nodes[1].clock_ahead_ms = 60'000;
  EXPECT_THAT(JudgeCluster(view_).cause, HasSubstr("its clock is 60 s ahead of that of node 2"));
  view_.nodes[1].clock_error_ms = 58'000;  // it took so long to answer
  EXPECT_THAT(JudgeCluster(view_).cause, Not(HasSubstr("clock")));
}

// A plan that was killed and forgotten leaves new replicas behind, which nobody waits for.
TEST_F(ClusterHealthTest, AReplicaThatIsBeingAddedIsNotWell) {
  view_.map.nodes[4].record.id = 4;
  view_.map.nodes[4].record.client_address = "10.0.0.4:7420";
  view_.nodes[4].reply.node = 4;
  view_.map.partitions[1].record.learners.push_back({4, ReplicaOf(1, 4), {}});
  api::FollowerStatus learner;
  learner.node = 4;
  learner.learner = true;
  On(2, 1).followers.push_back(learner);
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_EQ(h.cause, "1 of 4 partitions have a replica that is being added (1)");
  EXPECT_THAT(h.next, HasSubstr("kvadmin replica remove 1 4, which takes the new replica back"));
  EXPECT_THAT(h.partitions[1].problems, Contains("node 4 is being given a replica"));
  // Its master does not answer.
  TakeDown(2);
  EXPECT_THAT(JudgeCluster(view_).partitions[1].problems, Contains("node 4 is being given a replica"));
}

TEST_F(ClusterHealthTest, WhyAReplicaCannotBeInstalledIsSaid) {
  view_.map.nodes[4].record.id = 4;
  view_.map.nodes[4].record.client_address = "10.0.0.4:7420";
  view_.nodes[4].reply.node = 4;
  for (const uint32_t id : {1u, 3u}) {
    view_.map.partitions[id].record.learners.push_back({4, ReplicaOf(id, 4), {}});
    api::FollowerStatus learner;
    learner.node = 4;
    learner.learner = true;
    On(id == 1 ? 2 : 1, id).followers.push_back(learner);
    api::ReplicaStatus& status = view_.nodes[4].reply.replicas.emplace_back();
    status.partition = static_cast<int32_t>(id);
    status.role = "installing";
    status.install_problem = "DISK_FULL: write 8192 bytes: No space left on device";
  }
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("node 4 (10.0.0.4:7420) cannot install 2 replicas: DISK_FULL: write 8192 bytes"));
  EXPECT_THAT(h.next, HasSubstr("mend what keeps node 4 (10.0.0.4:7420) from installing"));
  EXPECT_THAT(h.next, HasSubstr("kvadmin replica remove 1 4"));
  EXPECT_THAT(h.nodes[3].trouble, HasSubstr("No space left"));
  EXPECT_THAT(h.partitions[1].problems,
              Contains(HasSubstr("node 4: it could not be installed, and is tried again: D")));
}

TEST_F(ClusterHealthTest, AChangeSaysWhyTheReplicaCannotBeInstalled) {
  view_.map.nodes[4].record.id = 4;
  view_.map.nodes[4].record.client_address = "10.0.0.4:7420";
  view_.nodes[4].reply.node = 4;
  api::FollowerStatus learner;
  learner.node = 4;
  learner.learner = true;
  On(2, 1).followers.push_back(learner);
  api::ReplicaStatus& status = view_.nodes[4].reply.replicas.emplace_back();
  status.partition = 1;
  status.role = "installing";
  Globals globals;
  ReplicaRequest request;
  request.partition = 1;
  request.add = 4;
  request.leave = 1;
  ReplicaChange change(globals, request);
  ASSERT_TRUE(*change.Observe(view_));
  EXPECT_EQ(change.WhyNotDone(), "the replica of node 4 is installing");
  status.install_problem = "DISK_FULL: write 8192 bytes at offset 4096";
  EXPECT_EQ(change.WhyNotDone(),
            "node 4 (10.0.0.4:7420) could not install its replica, and tries again: " + status.install_problem);
  EXPECT_TRUE(SaysTheSame("write 8192 bytes at offset 4096", "write 8192 bytes at offset 12288"));
  EXPECT_FALSE(SaysTheSame("write 8192 bytes", "read 8192 bytes"));
}

// As a replica move leaves it that is interrupted before it takes the old one away.
TEST_F(ClusterHealthTest, AReplicaTooManyIsNotWell) {
  view_.map.partitions[1].record.isr.push_back({4, ReplicaOf(1, 4), {}});
  api::FollowerStatus more;
  more.node = 4;
  more.in_sync = true;
  On(2, 1).followers.push_back(more);
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("1 of 4 partitions have more replicas than they should (1)"));
  EXPECT_THAT(h.next, HasSubstr("kvadmin replica remove 1 NODE takes one away"));
  EXPECT_THAT(h.partitions[1].problems, ElementsAre("it has 4 replicas, and should have 3"));
}

TEST_F(ClusterHealthTest, ADrainedNodeMayGo) {
  NodeRecord& record = view_.map.nodes[4].record;
  record.id = 4;
  record.client_address = "10.0.0.4:7420";
  record.state = NodeState::kDraining;
  view_.nodes[4].reply.node = 4;
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk);
  EXPECT_TRUE(h.nodes[3].draining);
  EXPECT_EQ(h.nodes[3].held, 0u);
  TakeDown(4);
  h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_EQ(h.cause, "node 4 (10.0.0.4:7420) does not answer, and is drained");
  EXPECT_THAT(h.next, HasSubstr("kvadmin node remove 4, or, if it is to stay, kvadmin node drain 4 --cancel"));
  view_.map.partitions[0].record.evicted.push_back({4, ReplicaOf(0, 4), {}});
  h = JudgeCluster(view_);
  EXPECT_EQ(h.nodes[3].held, 1u);
  EXPECT_THAT(h.next, HasSubstr("start node 4"));
}

// An operator has removed replicas, and may have forgotten it. `ok` is what scripts wait for before they stop a node.
TEST_F(ClusterHealthTest, APartitionWithFewerReplicasThanOthersIsNotWell) {
  view_.map.cluster->record.replicas = 3;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
  view_.map.partitions[0].record.replicas = 2;
  view_.map.partitions[0].record.isr.resize(2);
  On(1, 0).followers.resize(1);
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded);
  EXPECT_THAT(h.cause, HasSubstr("1 of 4 partitions have fewer replicas than the cluster's (0)"));
  EXPECT_EQ(h.next, "kvadmin replica add 0 3");
}

// A cluster of which nothing answers may be new, or another one. Nobody should look for a backup because of that.
TEST_F(ClusterHealthTest, NothingIsSaidOfLossesWhileNoNodeAnswers) {
  for (NodeId node = 1; node <= 3; ++node) TakeDown(node);
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_THAT(h.next, HasSubstr("start node 1"));
  EXPECT_THAT(h.next, Not(HasSubstr("lost for good")));
}

TEST_F(ClusterHealthTest, ANodeThatLeadsWithoutALeaseIsNotDrained) {
  EXPECT_TRUE(CheckDrain(view_, 1).ok());
  On(1, 0).leased = false;
  const Status refused = CheckDrain(view_, 1);
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("leads partition 0 without a lease"));
  EXPECT_THAT(refused.message(), HasSubstr("Do not stop it"));
  EXPECT_TRUE(CheckDrain(view_, 2).ok());
}

// What an older copy of the topology says does not count against what the master says.
TEST_F(ClusterHealthTest, TheMasterKnowsBetterThanAnOldTopology) {
  view_.map.partitions[0].record.epoch = 4;
  view_.map.partitions[0].record.isr.resize(2);
  view_.map.partitions[0].record.evicted = {{3, ReplicaOf(0, 3), {}}};
  EXPECT_EQ(JudgeCluster(view_).health, Health::kOk);
  view_.map.partitions[0].record.epoch = 6;
  EXPECT_EQ(JudgeCluster(view_).health, Health::kDegraded);
}

TEST_F(ClusterHealthTest, OnlyNodesThatAnswerAndStayTakeMasterships) {
  TakeDown(3);
  view_.map.nodes[2].record.state = NodeState::kDraining;
  const std::vector<Led> led = LedPartitions(view_);
  ASSERT_EQ(led.size(), 3u);  // partition 2 has lost its master
  EXPECT_EQ(led[0].master, 1u);
  EXPECT_THAT(led[0].in_sync, IsEmpty());
  EXPECT_THAT(led[1].in_sync, ElementsAre(1));
}

const std::map<NodeId, uint32_t> kThreeNodes = {{1, 1}, {2, 1}, {3, 1}};  // of equal weight

TEST(MasterPlan, MovesAsFewAsPossible) {
  std::vector<Led> led;
  for (uint32_t id = 0; id < 8; ++id) led.push_back({id, 7, id < 6 ? 1u : 2u, {1, 2, 3}});
  const std::vector<MasterMove> moves = PlanRebalance(led, kThreeNodes);
  std::map<NodeId, size_t> counts = {{1, 6}, {2, 2}, {3, 0}};
  for (const MasterMove& move : moves) {
    EXPECT_EQ(move.from, 1u);
    EXPECT_EQ(move.epoch, 7u);
    --counts[move.from], ++counts[move.to];
  }
  EXPECT_EQ(moves.size(), 3u);
  for (const auto& [node, count] : counts) EXPECT_THAT(count, testing::AnyOf(2u, 3u)) << node;
  EXPECT_THAT(PlanRebalance({}, kThreeNodes), IsEmpty());
}

// Node 1 leads too many, and node 3 holds none of them: node 2 gives one of its own to node 3.
TEST(MasterPlan, MovesOverAThirdNode) {
  const std::vector<Led> led = {{0, 1, 1, {2}}, {1, 1, 1, {2}}, {2, 1, 2, {3}}};
  const std::vector<MasterMove> moves = PlanRebalance(led, kThreeNodes);
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_EQ(moves[0].to, 2u);
  EXPECT_EQ(moves[1], (MasterMove{2, 1, 2, 3}));
}

TEST(MasterPlan, LeavesWhatNobodyCouldTake) {
  EXPECT_THAT(PlanRebalance({{0, 1, 1, {}}, {1, 1, 1, {}}, {2, 1, 1, {9}}}, {{1, 1}, {2, 1}}), IsEmpty());
}

TEST(MasterPlan, ADrainedNodeLeadsNothing) {
  const std::vector<Led> led = {{0, 1, 1, {2, 3}}, {1, 1, 1, {2, 3}}, {2, 1, 2, {1, 3}}};
  Result<std::vector<MasterMove>> moves = PlanDrain(led, 1);
  ASSERT_TRUE(moves.ok());
  ASSERT_EQ(moves->size(), 2u);
  EXPECT_EQ((*moves)[0].to, 3u);  // it leads the fewest
  for (const MasterMove& move : *moves) EXPECT_EQ(move.from, 1u);

  moves = PlanDrain({{0, 1, 1, {2}}, {1, 1, 1, {}}}, 1);
  ASSERT_FALSE(moves.ok());
  EXPECT_THAT(moves.status().message(), HasSubstr("partition 1"));
}

std::map<NodeId, size_t> MastersAfter(const std::vector<Led>& led, const std::map<NodeId, uint32_t>& weights) {
  std::map<NodeId, size_t> counts;
  std::map<uint32_t, NodeId> moved;
  for (const MasterMove& move : PlanRebalance(led, weights)) moved[move.partition] = move.to;
  for (const Led& l : led) ++counts[moved.contains(l.partition) ? moved[l.partition] : l.master];
  return counts;
}

TEST(MasterPlan, NodesLeadByTheirWeights) {
  std::vector<Led> led;
  for (uint32_t p = 0; p < 12; ++p) led.push_back({p, 1, 1, {2, 3}});
  using Counts = std::map<NodeId, size_t>;
  EXPECT_EQ(MastersAfter(led, {{1, 1}, {2, 1}, {3, 1}}), (Counts{{1, 4}, {2, 4}, {3, 4}}));
  EXPECT_EQ(MastersAfter(led, {{1, 1}, {2, 2}, {3, 3}}), (Counts{{1, 2}, {2, 4}, {3, 6}}));
  EXPECT_EQ(MastersAfter(led, {{1, 1}, {2, 1}}), (Counts{{1, 6}, {2, 6}}));
  led.resize(4);
  EXPECT_EQ(MastersAfter(led, {{1, 1}, {2, 1}, {3, 1}}).at(1), 2u);  // one of them leads two
}

// -- forced failover

TEST_F(ClusterHealthTest, TooFewAreLeftToElectAMaster) {
  TakeDown(1);
  TakeDown(2);
  On(3, 0).role = "follower";
  On(3, 1).role = "follower";
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_THAT(h.cause, HasSubstr("3 of 4 partitions have too few replicas left to elect one (0, 1, 3)"));
  EXPECT_THAT(h.next, HasSubstr("start node 1 (10.0.0.1:7420) and node 2 (10.0.0.2:7420)"));
  EXPECT_THAT(h.next, HasSubstr("lost for good: kvadmin failover 0 --force (node 3 has all that was acknowledged)"));
  EXPECT_TRUE(h.partitions[0].stuck);
  EXPECT_FALSE(h.partitions[2].stuck);  // node 3 leads it
}

// The others are there, but with empty directories: nobody needs to be started.
TEST_F(ClusterHealthTest, EmptiedNodesDoNotElect) {
  for (const NodeId node : {1, 2}) {
    On(node, 0).role = "installing";
    On(node, 0).replica = Uuid{99, node}.ToString();
  }
  On(3, 0).role = "candidate";
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.next, "kvadmin failover 0 --force (node 3 has all that was acknowledged)");
  On(3, 0).role = "quarantined";
  EXPECT_THAT(JudgeCluster(view_).next, HasSubstr("partition 0 has no replica left"));
}

class ForcePlanTest : public ClusterHealthTest {
 protected:
  ForcePlanTest() {
    for (NodeId node = 1; node <= 3; ++node) On(node, 0).role = "follower";
    On(1, 0).leased = false;
  }
  PartitionRecord& record() { return view_.map.partitions[0].record; }
  void Evict(NodeId node) {
    std::erase_if(record().isr, [node](const ReplicaRecord& r) { return r.node == node; });
    record().evicted.push_back({node, ReplicaOf(0, node), {}});
  }
  Status Refusal(NodeId to, bool accept_loss) {
    return ChooseForced(LookAtSurvivors(view_, record()), to, accept_loss).status();
  }
  NodeId Chosen(NodeId to, bool accept_loss) {
    Result<Survivor> chosen = ChooseForced(LookAtSurvivors(view_, record()), to, accept_loss);
    return chosen.ok() ? chosen->node : 0;
  }
};

TEST_F(ForcePlanTest, WhoIsWellIsNotForced) {
  On(1, 0).role = "master";
  On(1, 0).leased = true;
  EXPECT_THAT(Refusal(0, true).message(), HasSubstr("is well: node 1 is its master"));
  On(1, 0).leased = false;
  EXPECT_THAT(Refusal(0, true).message(), HasSubstr("the nodes 1,2,3 are enough to elect one (min_isr is 2)"));
  TakeDown(1);
  EXPECT_THAT(Refusal(0, true).message(), HasSubstr("the nodes 2,3 are enough"));
  TakeDown(2);
  EXPECT_EQ(Chosen(0, false), 3u);
}

TEST_F(ForcePlanTest, AMemberIsBetterThanALongerLog) {
  record().min_isr = 3;
  TakeDown(1);
  Evict(3);
  On(3, 0).last_lsn = 500;
  EXPECT_EQ(Chosen(0, false), 2u);
  EXPECT_THAT(Refusal(3, false).message(), HasSubstr("node 3 is behind"));
  EXPECT_THAT(Refusal(3, false).message(), HasSubstr("node 2 is in sync"));
  EXPECT_EQ(Chosen(3, true), 3u);
  EXPECT_THAT(Refusal(1, true).message(), HasSubstr("cannot take partition 0 over: unreachable"));
  EXPECT_EQ(Refusal(4, true).code(), Code::kInvalidArgument);
}

TEST_F(ForcePlanTest, WhatMayBeLostIsSaid) {
  TakeDown(1);
  TakeDown(2);
  Evict(3);
  On(3, 0).newest_change_ms = 1'700'000'000'000;
  const Status refused = Refusal(0, false);
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("node 3 was not in sync: what was acknowledged after LSN 100 of epoch 5"));
  EXPECT_THAT(refused.message(), HasSubstr("since about 2023-11-14 22:13:20"));
  EXPECT_EQ(Chosen(0, true), 3u);
  On(3, 0).replica = Uuid{9, 9}.ToString();
  EXPECT_THAT(Refusal(0, true).message(), HasSubstr("no replica left that could take over"));
}

// -- splits: of partition 1, which node 2 leads, into 6 and 7

class SplitHealthTest : public ClusterHealthTest {
 protected:
  static constexpr uint32_t kWhole = 1, kLower = 6, kUpper = 7;

  void AddHalf(uint32_t half) {
    PartitionRecord record = view_.map.partitions.at(kWhole).record;
    record.id = half;
    record.state = PartitionStage::kBuilding;
    record.split.reset();
    std::tie(record.first_hash, record.last_hash) = HashRangeOf(half, kPartitions);
    view_.map.partitions[half].record = record;
    for (NodeId node = 1; node <= 3; ++node) {
      api::ReplicaStatus status = On(node, kWhole);
      status.partition = static_cast<int32_t>(half);
      view_.nodes[node].reply.replicas.push_back(std::move(status));
    }
  }
  void BeginSplit() {
    view_.map.partitions[kWhole].record.split = SplitOrder{50, ""};
    AddHalf(kLower);
    AddHalf(kUpper);
    api::SplitStatus& said = view_.nodes[2].reply.splits.emplace_back();
    said.partition = kWhole;
    said.phase = "copying";
    said.copied_bytes = 10;
    said.total_bytes = 40;
  }
  void Switch() {
    PartitionRecord& whole = view_.map.partitions[kWhole].record;
    whole.state = PartitionStage::kRetired;
    whole.split.reset();
    view_.nodes[2].reply.splits.clear();
    for (NodeId node = 1; node <= 3; ++node) {
      On(node, kWhole).role = "follower";
      On(node, kWhole).leased = false;
    }
  }
  void Open(uint32_t half) { view_.map.partitions[half].record.state = PartitionStage::kServing; }
  api::ReplicaStatus& HalfOn(NodeId node, uint32_t half) { return On(node, kPartitions + (half - kLower)); }
};

TEST_F(SplitHealthTest, ASplitThatRunsIsWell) {
  BeginSplit();
  // The others are still to get replicas of it.
  view_.map.partitions[kLower].record.isr.resize(2);
  HalfOn(2, kLower).followers.clear();
  HalfOn(2, kLower).in_sync = 1;
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk) << h.cause;
  ASSERT_EQ(h.splits.size(), 1u);
  EXPECT_EQ(h.splits[0].partition, kWhole);
  EXPECT_EQ(h.splits[0].node, 2u);
  EXPECT_EQ(h.splits[0].phase, "copying");
  EXPECT_EQ(h.splits[0].total_bytes, 40u);
  EXPECT_EQ(h.splits[0].rate_mb_s, 50u);
  EXPECT_EQ(h.splits[0].waits_for, "");
  ASSERT_EQ(h.partitions.size(), 6u);
  EXPECT_EQ(h.partitions[1].stage, SplitStage::kSplitting);
  EXPECT_EQ(h.partitions[4].stage, SplitStage::kBuilding);
}

TEST_F(SplitHealthTest, AHalfWithoutAMasterHoldsItsSplitUp) {
  BeginSplit();
  HalfOn(2, kUpper).role = "follower";
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kDegraded) << "everything is served";
  EXPECT_THAT(h.cause, HasSubstr("1 of 6 partitions are being built for a split and have no master (7)"));
  EXPECT_THAT(h.partitions[5].problems, ElementsAre(HasSubstr("no master"), HasSubstr("the split of partition 1")));
  EXPECT_THAT(h.next, HasSubstr("kvadmin partition split 1 --abort"));
}

TEST_F(SplitHealthTest, ANodeThatSaysNothingOfItsSplitIsNamed) {
  BeginSplit();
  view_.nodes[2].reply.splits.clear();
  EXPECT_THAT(JudgeCluster(view_).splits[0].waits_for, HasSubstr("node 2 (10.0.0.2:7420)"));
  TakeDown(2);
  EXPECT_THAT(JudgeCluster(view_).splits[0].waits_for, HasSubstr("has no master"));
}

TEST_F(SplitHealthTest, AHalfThatIsOpenedServesAndMustHaveAMaster) {
  BeginSplit();
  Switch();
  ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk) << h.cause;
  ASSERT_EQ(h.partitions.size(), 5u);
  EXPECT_EQ(h.partitions[3].stage, SplitStage::kOpening);
  ASSERT_EQ(h.splits.size(), 1u);
  EXPECT_EQ(h.splits[0].phase, "opening");
  HalfOn(2, kLower).role = "follower";
  h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kUnavailable);
  EXPECT_THAT(h.splits[0].waits_for, HasSubstr("partition 6, a half, has no master"));
}

TEST_F(SplitHealthTest, WhatWasSplitIsNotCountedAnyMore) {
  BeginSplit();
  Switch();
  Open(kLower);
  Open(kUpper);
  TakeDown(3);  // where the whole may still be
  view_.nodes[3].status = Status();
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_THAT(h.splits, IsEmpty());
  ASSERT_EQ(h.partitions.size(), 5u);
  EXPECT_EQ(h.partitions[1].partition, 2u);
  EXPECT_EQ(h.nodes[0].followers, 3u);
  EXPECT_EQ(h.nodes[1].masters, 2u);
}

TEST_F(SplitHealthTest, HalvesThatWereGivenUpAreNotCounted) {
  BeginSplit();
  view_.map.partitions[kWhole].record.split.reset();
  view_.nodes[2].reply.splits.clear();
  for (const uint32_t half : {kLower, kUpper}) view_.map.partitions[half].record.state = PartitionStage::kRetired;
  const ClusterHealth h = JudgeCluster(view_);
  EXPECT_EQ(h.health, Health::kOk) << h.cause;
  EXPECT_EQ(h.partitions.size(), 4u);
  EXPECT_THAT(h.splits, IsEmpty());
  EXPECT_EQ(StageOf(view_.map, kLower), SplitStage::kGivenUp);
  EXPECT_THAT(CheckPartition(view_.map, kLower).message(), HasSubstr("partition 1 has its records"));
  EXPECT_TRUE(CheckPartition(view_.map, kWhole).ok());
}

TEST_F(SplitHealthTest, OnlyWhatServesIsLedByPlans) {
  BeginSplit();
  EXPECT_EQ(LedPartitions(view_).size(), 4u);
  EXPECT_THAT(CheckNoSplit(view_.map).message(), HasSubstr("partition 1 is being split, so no plan is made"));
  Switch();
  EXPECT_EQ(LedPartitions(view_).size(), 5u);
  EXPECT_THAT(CheckNoSplit(view_.map).message(), HasSubstr("kvadmin partition split 1"));
  Open(kLower);
  Open(kUpper);
  EXPECT_TRUE(CheckNoSplit(view_.map).ok());
  EXPECT_THAT(CheckPartition(view_.map, kWhole).message(),
              HasSubstr("partition 1 was split: the partitions 6 and 7 have its records"));
}

TEST_F(SplitHealthTest, AllIsTheWidest) {
  EXPECT_THAT(*AllToSplit(view_.map, 0), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(*AllToSplit(view_.map, 6), ElementsAre(0, 1));
  EXPECT_THAT(*AllToSplit(view_.map, 4), IsEmpty());
  EXPECT_EQ(AllToSplit(view_.map, 9).code(), Code::kInvalidArgument);
  BeginSplit();
  EXPECT_EQ(SplitStateOf(view_.map, kWhole), SplitState::kRunning);
  EXPECT_THAT(*AllToSplit(view_.map, 0), ElementsAre(1, 0, 2, 3)) << "it goes on with what runs";
  EXPECT_THAT(*AllToSplit(view_.map, 6), ElementsAre(1, 0));
  Switch();
  EXPECT_EQ(SplitStateOf(view_.map, kWhole), SplitState::kOpening);
  Open(kLower);
  Open(kUpper);
  EXPECT_EQ(SplitStateOf(view_.map, kWhole), SplitState::kDone);
  EXPECT_THAT(*AllToSplit(view_.map, 0), ElementsAre(0, 2, 3)) << "not the halves";
  EXPECT_THAT(*AllToSplit(view_.map, 8), ElementsAre(0, 2, 3));
  EXPECT_EQ(AllToSplit(view_.map, 9).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace pando::admin
