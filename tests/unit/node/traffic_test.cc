// Rates from the counters that nodes report, and what of a cluster may be planned with.
#include "src/node/traffic.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

class TrafficTest : public ::testing::Test {
 protected:
  TrafficTest() {
    for (NodeId id = 1; id <= 3; ++id) {
      NodeRecord& node = map_.nodes[id].record;
      node.id = id;
      node.weight = id;
      node.zone = "z";
    }
    PartitionRecord& p = map_.partitions[0].record;
    p.replicas = 2;
    p.isr = {{1, Uuid{1, 1}, {}}, {2, Uuid{1, 2}, {}}};
    p.master = Uuid{1, 1};
  }

  // A report of a node that has done so much since it started.
  static api::ReplicasReply Report(int64_t clock_ms, int64_t reads, int64_t cpu_us, int64_t incarnation = 1,
                                   bool leads = true) {
    api::ReplicasReply reply;
    reply.incarnation = incarnation;
    api::NodeTraffic traffic;
    traffic.clock_ms = clock_ms;
    traffic.cpu_us = cpu_us;
    traffic.processors = 2;
    traffic.requests = reads;
    traffic.latency_us = reads * 500;
    traffic.bytes = reads * 100;
    reply.__set_traffic(traffic);
    api::ReplicaStatus replica;
    replica.partition = 0;
    replica.role = leads ? "master" : "follower";
    replica.leased = leads;
    replica.reads_total = reads;
    replica.used_bytes = 4096;
    reply.replicas.push_back(replica);
    replica.partition = 77;  // nobody knows it
    reply.replicas.push_back(replica);
    return reply;
  }
  void TakeOfAll(int64_t seconds, int64_t reads, int64_t cpu_us) {
    for (NodeId id = 1; id <= 3; ++id) {
      meter_.Take(id, Report(seconds * 1000, reads, cpu_us, 1, id == 1), map_, seconds * 1000);
    }
  }

  ClusterMap map_;
  TrafficMeter meter_;
  const std::set<NodeId> all_ = {1, 2, 3};
};

TEST_F(TrafficTest, TwoReportsMakeARate) {
  TakeOfAll(100, 1000, 0);
  EXPECT_FALSE(meter_.Input(map_, all_, 100'000)) << "one report says nothing";
  TakeOfAll(110, 3000, 5'000'000);
  const std::optional<LoadInput> input = meter_.Input(map_, all_, 110'000);
  ASSERT_TRUE(input);
  ASSERT_EQ(input->nodes.size(), 3u);
  EXPECT_DOUBLE_EQ(input->nodes[0].requests, 200);
  EXPECT_DOUBLE_EQ(input->nodes[0].request_bytes, 20'000);
  EXPECT_DOUBLE_EQ(input->nodes[0].latency_ms, 0.5);
  EXPECT_DOUBLE_EQ(input->nodes[0].busy, 0.25) << "half a processor of two";
  EXPECT_EQ(input->nodes[1].place.weight, 2u);
  ASSERT_EQ(input->partitions.size(), 1u);
  EXPECT_DOUBLE_EQ(input->partitions[0].traffic.reads, 200) << "at its master";
  EXPECT_EQ(input->partitions[0].master, 1u);
  EXPECT_EQ(input->partitions[0].bytes, 4096u);
  EXPECT_TRUE(input->partitions[0].settled);
  TakeOfAll(120, 3000, 5'000'000);
  EXPECT_DOUBLE_EQ(meter_.Input(map_, all_, 120'000)->partitions[0].traffic.reads, 100) << "it is smoothed";
}

TEST_F(TrafficTest, WhatIsNotKnownMovesNothing) {
  TakeOfAll(100, 0, 0);
  TakeOfAll(110, 1000, 0);
  EXPECT_FALSE(meter_.Input(map_, all_, 110'000 + TrafficMeter::kLatelyMs)) << "too old";
  // Node 3 was started again: its counters begin anew.
  meter_.Take(3, Report(1000, 10, 0, 2, false), map_, 111'000);
  EXPECT_FALSE(meter_.Input(map_, all_, 111'000));
  EXPECT_TRUE(meter_.Input(map_, {1, 2}, 111'000)) << "who is not reached need not be known";
  meter_.Take(3, Report(2000, 10, 0, 2, false), map_, 112'000);
  EXPECT_TRUE(meter_.Input(map_, all_, 112'000));
  meter_.Take(3, api::ReplicasReply(), map_, 112'500);  // it stops
  EXPECT_FALSE(meter_.Input(map_, all_, 112'500));
  meter_.Take(3, Report(3000, 10, 0, 2, false), map_, 112'700);
  meter_.Take(3, Report(4000, 10, 0, 2, false), map_, 113'000);

  PartitionRecord& p = map_.partitions[0].record;
  const auto settled = [this] { return meter_.Input(map_, all_, 113'000)->partitions[0].settled; };
  EXPECT_TRUE(settled());
  p.learners.push_back({3, Uuid{1, 3}, {}});
  EXPECT_FALSE(settled());
  p.learners.clear();
  p.replicas = 3;
  EXPECT_FALSE(settled());
  p.replicas = 2;
  p.split = SplitOrder();
  EXPECT_FALSE(settled());
  p.split.reset();
  EXPECT_TRUE(settled());
  p.state = PartitionStage::kBuilding;  // a half
  EXPECT_FALSE(settled());
  p.state = PartitionStage::kServing;
  EXPECT_TRUE(settled());
  p.master = Uuid{1, 2};  // node 2 has not said yet that it leads
  EXPECT_FALSE(settled());
  p.state = PartitionStage::kRetired;
  EXPECT_TRUE(meter_.Input(map_, all_, 113'000)->partitions.empty());
}

TEST_F(TrafficTest, APartitionKeepsItsTrafficWhileItsMasterChanges) {
  TakeOfAll(100, 0, 0);
  TakeOfAll(110, 1000, 0);
  const auto take = [this](int64_t seconds, int64_t reads_of_2) {
    for (NodeId id = 1; id <= 3; ++id) {
      meter_.Take(id, Report(seconds * 1000, id == 2 ? reads_of_2 : 1000, 0, 1, id == 2), map_, seconds * 1000);
    }
    return meter_.Input(map_, all_, seconds * 1000)->partitions[0];
  };
  map_.partitions[0].record.master = Uuid{1, 2};
  const PartitionLoad begins = take(120, 1500);
  EXPECT_FALSE(begins.settled) << "it has led only for a part of the time";
  EXPECT_DOUBLE_EQ(begins.traffic.reads, 100) << "as node 1 has measured";
  const PartitionLoad leads = take(130, 3500);
  EXPECT_TRUE(leads.settled);
  EXPECT_DOUBLE_EQ(leads.traffic.reads, 200);
  map_.partitions[0].record.master = Uuid{1, 1};
  const PartitionLoad ends = meter_.Input(map_, all_, 130'000)->partitions[0];
  EXPECT_FALSE(ends.settled);
  EXPECT_DOUBLE_EQ(ends.traffic.reads, 200);
  map_.partitions.clear();
  meter_.Keep(map_);
  EXPECT_TRUE(meter_.Input(map_, all_, 130'000)->partitions.empty());
}

TEST_F(TrafficTest, NodesThatDrainTakeNothingAndThoseThatLeftAreForgotten) {
  TakeOfAll(100, 0, 0);
  TakeOfAll(110, 1000, 0);
  map_.nodes[3].record.state = NodeState::kDraining;
  EXPECT_FALSE(meter_.Input(map_, all_, 110'000)->nodes[2].takes);
  EXPECT_TRUE(meter_.Input(map_, all_, 110'000)->nodes[1].takes);
  map_.nodes[3].record.state = NodeState::kRemoved;
  meter_.Keep(map_);
  EXPECT_EQ(meter_.Input(map_, all_, 110'000)->nodes.size(), 2u);
}

// What others do with replicas comes first.
TEST_F(TrafficTest, OthersComeFirst) {
  PartitionRecord& p = map_.partitions[0].record;
  const LoadMove master{LoadMove::Kind::kMaster, 0, 1, 2, true, ""},
      replica{LoadMove::Kind::kReplica, 0, 2, 3, false, ""};
  const auto possible = [&] { return std::pair(IsPossible(p, master), IsPossible(p, replica)); };
  EXPECT_EQ(possible(), std::pair(true, true));
  EXPECT_FALSE(OthersMoveReplicas(map_, {}));
  p.learners.push_back({3, Uuid{1, 3}, {}});
  EXPECT_EQ(possible(), std::pair(false, false));
  EXPECT_TRUE(OthersMoveReplicas(map_, {}));
  EXPECT_FALSE(OthersMoveReplicas(map_, {0})) << "its own";
  p.isr.push_back(p.learners.back());
  p.learners.clear();
  EXPECT_EQ(possible(), std::pair(false, false)) << "there is one too many";
  EXPECT_TRUE(OthersMoveReplicas(map_, {}));
  p.replicas = 3;
  EXPECT_EQ(possible(), std::pair(true, false)) << "node 3 holds one";
  EXPECT_FALSE(OthersMoveReplicas(map_, {}));
  p.master = Uuid{1, 2};
  EXPECT_EQ(possible(), std::pair(false, false)) << "node 1 does not lead it";
  p.master = Uuid{1, 1};
  p.split = SplitOrder();
  EXPECT_EQ(possible(), std::pair(false, false));
  p.split.reset();
  map_.nodes[3].record.state = NodeState::kDraining;
  EXPECT_TRUE(OthersMoveReplicas(map_, {0})) << "a node that drains still holds some";
  p.isr.pop_back();
  p.replicas = 2;
  EXPECT_FALSE(OthersMoveReplicas(map_, {0})) << "it is empty";
  p.learners.push_back({3, Uuid{1, 3}, {}});
  p.state = PartitionStage::kRetired;
  EXPECT_FALSE(OthersMoveReplicas(map_, {}));
  EXPECT_FALSE(IsPossible(p, master));
}

// Counters never fall, but a partition that was dropped and came back begins anew.
TEST_F(TrafficTest, ARateIsNeverNegative) {
  TakeOfAll(100, 1000, 1000);
  TakeOfAll(110, 500, 500);
  const std::optional<LoadInput> input = meter_.Input(map_, all_, 110'000);
  EXPECT_EQ(input->nodes[0].requests, 0);
  EXPECT_EQ(input->partitions[0].traffic.reads, 0);
}

}  // namespace
}  // namespace pando
