// What moves off nodes with too much traffic: single plans, plans that are carried out one after the other in random
// clusters, and how many nodes are wanted.
#include "src/topology/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Kind = LoadMove::Kind;

// A cluster whose masters do at once what they are asked.
struct World {
  LoadInput in;

  void AddNode(NodeId id, uint32_t weight = 1, std::string zone = "") {
    LoadedNode& node = in.nodes.emplace_back();
    node.place = {id, std::move(zone), weight};
  }
  // The first of `holders` leads it.
  void AddPartition(uint32_t id, std::vector<NodeId> holders, Traffic traffic, uint64_t bytes = 1 << 20) {
    in.partitions.push_back({id, traffic, bytes, holders.front(), holders, true});
  }
  PartitionLoad& Of(uint32_t id) {
    return *std::find_if(in.partitions.begin(), in.partitions.end(), [id](const auto& p) { return p.id == id; });
  }
  const LoadedNode& Node(NodeId id) const {
    return *std::find_if(in.nodes.begin(), in.nodes.end(), [id](const auto& n) { return n.place.id == id; });
  }
  double Load(NodeId id) const {
    double load = 0;
    for (const PartitionLoad& p : in.partitions) {
      for (const NodeId holder : p.holders) {
        if (holder == id) load += holder == p.master ? LeaderLoad(p.traffic) : FollowerLoad(p.traffic);
      }
    }
    return load / Node(id).place.weight;
  }
  double Mean() const {
    double total = 0, weights = 0;
    for (const LoadedNode& n : in.nodes) {
      total += Load(n.place.id) * n.place.weight;
      weights += n.place.weight;
    }
    return total / weights;
  }
  size_t CountIn(uint32_t id, const std::string& zone) {
    const auto& holders = Of(id).holders;
    return static_cast<size_t>(
        std::count_if(holders.begin(), holders.end(), [&](NodeId n) { return Node(n).place.zone == zone; }));
  }

  // LP1, LP2.
  void Carry(const LoadMove& move) {
    PartitionLoad& p = Of(move.partition);
    const double before = std::max(Load(move.from), Load(move.to)), mean = Mean();
    const auto from = std::find(p.holders.begin(), p.holders.end(), move.from);
    ASSERT_NE(from, p.holders.end());
    EXPECT_EQ(move.leads, p.master == move.from);
    if (move.kind == Kind::kMaster) {
      EXPECT_EQ(p.master, move.from);
      EXPECT_NE(std::find(p.holders.begin(), p.holders.end(), move.to), p.holders.end());
    } else {
      EXPECT_EQ(std::find(p.holders.begin(), p.holders.end(), move.to), p.holders.end());
      EXPECT_TRUE(Node(move.to).takes);
      const std::string old_zone = Node(move.from).place.zone, zone = Node(move.to).place.zone;
      const size_t had = CountIn(p.id, old_zone);
      *from = move.to;
      if (!zone.empty()) {
        EXPECT_LE(CountIn(p.id, zone), std::max<size_t>(had, 1));
      }
    }
    if (move.leads) p.master = move.to;
    EXPECT_LT(std::max(Load(move.from), Load(move.to)), before - 0.9 * kMinGain * mean) << move.why;
  }
};

Traffic Reads(double reads) { return {reads, 0, 0}; }

TEST(LoadPlan, MastersMoveBeforeReplicas) {
  World w;
  for (NodeId id = 1; id <= 4; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 8; ++p) w.AddPartition(p, {1, 2, 3}, Reads(100));
  w.in.most_moves = 100;
  const LoadPlan plan = PlanLoad(w.in);
  EXPECT_EQ(plan.hot, std::set<NodeId>{1});
  ASSERT_FALSE(plan.moves.empty());
  ASSERT_EQ(plan.moves.size(), 6u);
  for (size_t i = 0; i < plan.moves.size(); ++i) {
    const LoadMove& move = plan.moves[i];
    EXPECT_EQ(move.from, 1u);
    // The nodes 2 and 3 can take two more each. What is still too much copies data, to the node that has none.
    EXPECT_EQ(move.kind, i < 4 ? Kind::kMaster : Kind::kReplica);
    EXPECT_EQ(move.to == 4, i >= 4);
    EXPECT_THAT(move.why, HasSubstr(i < 4 ? "the mastership goes to node" : "a replica goes to node 4"));
    w.Carry(move);
  }
  EXPECT_LE(w.Load(1), kHot * w.Mean());
}

TEST(LoadPlan, ANewNodeGetsReplicasWhereMastershipsDoNotHelp) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 12; ++p)
    w.AddPartition(p, {1 + p % 3, 1 + (p + 1) % 3, 1 + (p + 2) % 3}, Reads(100), 100 - p);
  w.in.most_moves = 100;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty()) << "the load is even";
  w.AddNode(4);
  const LoadPlan plan = PlanLoad(w.in);
  ASSERT_FALSE(plan.moves.empty());
  for (const LoadMove& move : plan.moves) {
    EXPECT_EQ(move.kind, Kind::kReplica);
    EXPECT_EQ(move.to, 4u);
    EXPECT_TRUE(move.leads) << "a follower that is not read costs nothing";
    w.Carry(move);
  }
  EXPECT_GT(w.Load(4), 0);
}

// Where the others do not become hot because of it, too.
TEST(LoadPlan, ANewNodeOfALargerClusterGetsReplicas) {
  World w;
  for (NodeId id = 1; id <= 6; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 60; ++p) w.AddPartition(p, {1 + p % 6, 1 + (p + 1) % 6, 1 + (p + 2) % 6}, Reads(100));
  w.in.most_moves = 100;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
  w.AddNode(7);
  w.in.nodes.back().takes = false;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty()) << "it drains";
  w.in.nodes.back().takes = true;
  w.in.most_copies = 0;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
  w.in.most_copies = 3;
  EXPECT_EQ(PlanLoad(w.in).moves.size(), 3u);
  w.in.most_copies = 100;
  for (const LoadMove& move : PlanLoad(w.in).moves) {
    EXPECT_EQ(move.to, 7u);
    w.Carry(move);
  }
  EXPECT_GT(w.Load(7), kIdle * w.Mean());
}

TEST(LoadPlan, WhatMayNotMoveStays) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 4; ++p) w.AddPartition(p, {1, 2}, Reads(100));
  w.in.most_moves = 100;
  w.in.nodes[2].takes = false;  // drains, say
  w.Of(0).settled = false;
  w.in.resting = {1};
  const LoadPlan plan = PlanLoad(w.in);
  EXPECT_EQ(plan.moves.size(), 2u);
  for (const LoadMove& move : plan.moves) {
    EXPECT_GE(move.partition, 2u);
    EXPECT_EQ(move.to, 2u);
  }
  w.in.most_moves = 0;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
}

// Whoever drains a node moves everything off it.
TEST(LoadPlan, NodesThatDrainAreLeftAlone) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 4; ++p) w.AddPartition(p, {1, 2}, Reads(100));
  w.in.most_moves = 100;
  EXPECT_THAT(PlanLoad(w.in).moves, Not(IsEmpty()));
  w.in.nodes[0].takes = false;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
  EXPECT_THAT(PlanLoad(w.in).hot, IsEmpty());
}

TEST(LoadPlan, AFullDiskGetsNoReplica) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 6; ++p) w.AddPartition(p, {1, 2}, Reads(100));
  w.in.most_moves = 100;
  const auto to_3 = [&w] {
    const LoadPlan plan = PlanLoad(w.in);
    return std::count_if(plan.moves.begin(), plan.moves.end(), [](const auto& move) { return move.to == 3; });
  };
  EXPECT_GT(to_3(), 0);
  w.in.nodes[2].disk_full = true;
  EXPECT_EQ(to_3(), 0);
}

TEST(LoadPlan, OnePartitionThatIsTooHotForAnyNodeStaysWhereItIs) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  w.AddPartition(0, {1, 2, 3}, Reads(10000));
  w.in.most_moves = 100;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
  EXPECT_EQ(PlanLoad(w.in).hot, std::set<NodeId>{1});
  // But what is beside it goes.
  w.AddPartition(1, {1, 2, 3}, Reads(1000));
  const LoadPlan plan = PlanLoad(w.in);
  ASSERT_EQ(plan.moves.size(), 1u);
  EXPECT_EQ(plan.moves[0].partition, 1u);
}

TEST(LoadPlan, LittleTrafficMovesNothing) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 8; ++p) w.AddPartition(p, {1, 2, 3}, Reads(1));
  w.in.most_moves = 100;
  EXPECT_THAT(PlanLoad(w.in).moves, IsEmpty());
  EXPECT_THAT(PlanLoad(LoadInput()).moves, IsEmpty());
}

TEST(LoadPlan, WeightsAndZonesCount) {
  World w;
  w.AddNode(1, 1, "a");
  w.AddNode(2, 3, "b");
  w.AddNode(3, 1, "b");
  w.AddNode(4, 1, "a");
  // Node 2 carries three times as much as it has three times the weight, so nobody is hot.
  for (uint32_t p = 0; p < 6; ++p) w.AddPartition(p, {p % 3 == 0 ? 1u : 2u, p % 3 == 0 ? 3u : 4u}, {100, 50, 0});
  w.in.most_moves = 100;
  EXPECT_EQ(PlanLoad(w.in).hot.count(2), 0u);
  // Replicas in the zones a and b stay in the zones a and b (LP2); Carry looks.
  World z;
  z.AddNode(1, 1, "a");
  z.AddNode(2, 1, "b");
  z.AddNode(3, 1, "a");
  z.AddNode(4, 1, "b");
  for (uint32_t p = 0; p < 8; ++p) z.AddPartition(p, {1, 2}, {10, 100, 0});
  z.in.most_moves = 100;
  const LoadPlan plan = PlanLoad(z.in);
  EXPECT_FALSE(plan.moves.empty());
  for (const LoadMove& move : plan.moves) z.Carry(move);
  for (uint32_t p = 0; p < 8; ++p) EXPECT_EQ(z.CountIn(p, "a"), 1u);
}

// LP1: for traffic that does not change, the plans end, and no partition comes back to where it was.
TEST(LoadPlan, PlansOfRandomClustersEnd) {
  for (const uint64_t seed : Seeds(60)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    World w;
    const uint32_t nodes = 3 + static_cast<uint32_t>(random.Below(8)), zones = static_cast<uint32_t>(random.Below(4));
    for (NodeId id = 1; id <= nodes; ++id) {
      w.AddNode(id, 1 + static_cast<uint32_t>(random.Below(3)), zones == 0 ? "" : fmt::format("z{}", id % zones));
    }
    const uint32_t partitions = 1 + static_cast<uint32_t>(random.Below(64));
    for (uint32_t p = 0; p < partitions; ++p) {
      std::vector<NodeId> holders;
      while (holders.size() < 3) {
        const NodeId id = 1 + static_cast<NodeId>(random.Below(nodes));
        if (std::find(holders.begin(), holders.end(), id) == holders.end()) holders.push_back(id);
      }
      w.AddPartition(p, holders,
                     {static_cast<double>(random.Below(2000)), static_cast<double>(random.Below(500)),
                      static_cast<double>(random.Below(20))});
    }
    w.in.most_moves = 1 + random.Below(5);
    size_t moves = 0;
    for (;;) {
      const LoadPlan plan = PlanLoad(w.in);
      if (plan.moves.empty()) break;
      w.in.hot = plan.hot;
      for (const LoadMove& move : plan.moves) w.Carry(move);
      moves += plan.moves.size();
      ASSERT_LE(moves, 40 * partitions) << "the plans do not end";
    }
  }
}

// -- LoadHistory

struct Clock {
  int64_t now_ms = 1'000'000;
  int64_t Pass(int64_t ms) { return now_ms += ms; }
};

TEST(LoadHistory, OnlyANodeThatStaysHotIsRelieved) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 9; ++p) w.AddPartition(p, {1, 2, 3}, Reads(100));
  LoadInput calm = w.in;
  for (PartitionLoad& p : calm.partitions) p.master = 1 + p.id % 3;
  LoadHistory history(10);
  Clock clock;
  for (int round = 0; round < 10; ++round) {  // hot for 15 s, again and again
    for (int i = 0; i < 3; ++i) EXPECT_THAT(history.Plan(w.in, clock.Pass(5000)).moves, IsEmpty());
    EXPECT_THAT(history.Plan(calm, clock.Pass(5000)).moves, IsEmpty());
  }
  for (int i = 0; i < 4; ++i) EXPECT_THAT(history.Plan(w.in, clock.Pass(5000)).moves, IsEmpty());
  EXPECT_FALSE(history.Plan(w.in, clock.Pass(5000)).moves.empty());
}

// LP3.
TEST(LoadHistory, MovesAreLimitedAndPartitionsRest) {
  World w;
  for (NodeId id = 1; id <= 3; ++id) w.AddNode(id);
  for (uint32_t p = 0; p < 30; ++p) w.AddPartition(p, {1, 2, 3}, Reads(100));
  LoadHistory history(2);
  Clock clock;
  std::deque<int64_t> moved_ms;
  std::map<uint32_t, int64_t> last_ms;
  for (int i = 0; i < 300; ++i) {
    clock.Pass(3000);
    for (const LoadMove& move : history.Plan(w.in, clock.now_ms).moves) {
      w.Carry(move);
      moved_ms.push_back(clock.now_ms);
      if (last_ms.contains(move.partition)) {
        EXPECT_GE(clock.now_ms - last_ms[move.partition], LoadHistory::kRestMs);
      }
      last_ms[move.partition] = clock.now_ms;
    }
    while (!moved_ms.empty() && clock.now_ms - moved_ms.front() >= 60'000) moved_ms.pop_front();
    EXPECT_LE(moved_ms.size(), 2u);
  }
  EXPECT_LE(w.Load(1), kCool * w.Mean() + 100) << "until it is cool, and not only not hot";
}

TEST(LoadHistory, TrafficThatComesAndGoesMovesLittle) {
  for (const uint64_t seed : Seeds(10)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    World w;
    for (NodeId id = 1; id <= 5; ++id) w.AddNode(id);
    for (uint32_t p = 0; p < 32; ++p) w.AddPartition(p, {1 + p % 5, 1 + (p + 1) % 5, 1 + (p + 2) % 5}, {});
    LoadHistory history(6);
    Clock clock;
    size_t moves = 0;
    for (int i = 0; i < 720; ++i) {  // an hour
      for (PartitionLoad& p : w.in.partitions) {
        p.traffic = {900 + static_cast<double>(random.Below(200)), 90 + static_cast<double>(random.Below(20)), 0};
      }
      for (const LoadMove& move : history.Plan(w.in, clock.Pass(5000)).moves) {
        w.Carry(move);
        ++moves;
      }
    }
    EXPECT_LE(moves, 3u);
  }
}

TEST(LoadHistory, NodesAreWantedOnlyAfterAWhile) {
  LoadHistory history(1);
  Clock clock;
  EXPECT_EQ(history.Publish(3, 3, clock.now_ms), 3u);
  for (int i = 0; i < 100; ++i) {  // a peak of 50 s, again and again
    for (int j = 0; j < 10; ++j) EXPECT_EQ(history.Publish(3, 5, clock.Pass(5000)), 3u);
    EXPECT_EQ(history.Publish(3, 3, clock.Pass(5000)), 3u);
  }
  for (int j = 0; j < 12; ++j) EXPECT_EQ(history.Publish(3, 5, clock.Pass(5000)), 3u);
  EXPECT_EQ(history.Publish(3, 5, clock.Pass(5000)), 5u);
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(5000)), 5u);
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(LoadHistory::kLessMs)), 4u) << "one at a time";
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(5000)), 4u);
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(LoadHistory::kLessMs)), 3u);
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(LoadHistory::kLessMs * 3)), 3u);
  history.Clear();
  EXPECT_EQ(history.Publish(5, 3, clock.Pass(5000)), 5u);
}

TEST(LoadPlan, WantedNodes) {
  WantedInput in;
  in.replicas = 3;
  EXPECT_EQ(WantedNodes(in), 3u);
  const auto busy = [&in](std::vector<std::pair<double, uint32_t>> nodes) {
    in.nodes.clear();
    for (const auto& [part, weight] : nodes) {
      LoadedNode& node = in.nodes.emplace_back();
      node.busy = part;
      node.place.weight = weight;
    }
    return WantedNodes(in);
  };
  EXPECT_EQ(busy({{0.6, 1}, {0.6, 1}, {0.6, 1}}), 3u);
  EXPECT_EQ(busy({{0.9, 1}, {0.9, 1}, {0.9, 1}}), 5u);  // 2.7 / 0.6
  EXPECT_EQ(busy({{1.0, 1}, {0.2, 1}, {0.2, 1}}), 3u) << "it is the balance that is wrong";
  EXPECT_EQ(busy({{0.1, 1}, {0.1, 1}, {0.1, 1}}), 3u) << "not fewer than replicas";
  EXPECT_EQ(busy({{0.3, 1}, {0.3, 1}, {0.3, 1}, {0.3, 1}, {0.3, 1}}), 3u);
  EXPECT_EQ(busy({{0.45, 1}, {0.45, 1}, {0.45, 1}, {0.45, 1}}), 4u) << "three would be at 0.6 at once";
  EXPECT_EQ(busy({{0.9, 4}, {0.9, 4}, {0.9, 4}}), 5u);
  EXPECT_EQ(busy({{7.0, 1}, {-3.0, 1}, {0.5, 1}}), 3u);
}

}  // namespace
}  // namespace pando
