// What grows with the number of nodes and partitions of a cluster: the map and its changes, what nodes ask of the
// topology and say to each other, and the time until others lead what a lost node has led. The bounds are those that
// docs/CAPACITY.md computes with.
//
// PANDO_TEST_CLUSTER=100x8192 sets the numbers of nodes and partitions (by default, a few), and PANDO_TEST_VERBOSE=1
// prints what was measured.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/large_cluster.h"

namespace pando::replication {
namespace {

constexpr double kReplicas = 3;

struct Size {
  uint32_t nodes = 12, partitions = 256;
};

Size SizeOfTest() {
  Size size;
  if (const char* text = std::getenv("PANDO_TEST_CLUSTER")) {
    CHECK_EQ(std::sscanf(text, "%ux%u", &size.nodes, &size.partitions), 2) << "PANDO_TEST_CLUSTER=NODESxPARTITIONS";
  }
  return size;
}

template <typename... Args>
void Say(fmt::format_string<Args...> format, Args&&... args) {
  if (std::getenv("PANDO_TEST_VERBOSE") == nullptr) return;
  fmt::print(stderr, "{}\n", fmt::format(format, std::forward<Args>(args)...));
}

double Seconds(Nanos ns) { return static_cast<double>(ns) / kSecond; }

void SayTraffic(const char* when, const TopologyTraffic& t) {
  Say("  topology {}: {} writes of {} bytes, {} reads, {} listings of {} bytes, {} checks that found {} bytes, changes "
      "of {} bytes",
      when, t.swaps, t.written_bytes, t.reads, t.lists, t.listed_bytes, t.checks, t.checked_bytes, t.change_bytes);
}

class LargeClusterTest : public testing::Test {
 protected:
  LargeClusterTest() : size_(SizeOfTest()), cluster_(size_.nodes, size_.partitions, 1) {
    FLAGS_minloglevel = google::GLOG_ERROR;
    nodes_ = size_.nodes;
    partitions_ = size_.partitions;
    Say("{} nodes, {} partitions", size_.nodes, size_.partitions);
  }
  double per_node() const { return partitions_ / nodes_; }

  void CreateAndStart();
  void CheckMap();
  void CheckHeartbeats();
  void CheckDeath(NodeId dead);
  void CheckReturn(NodeId dead);
  void CheckRebalance(NodeId added);

  const Size size_;
  double nodes_ = 0, partitions_ = 0;
  LargeCluster cluster_;
};

void LargeClusterTest::CreateAndStart() {
  const Nanos created_ns = cluster_.Create();
  SayTraffic("to create it", cluster_.traffic());
  EXPECT_LE(cluster_.traffic().swaps, nodes_ + partitions_ + 2);
  Say("  created in {:.1f} s", Seconds(created_ns));
  cluster_.StartAll();
  const TopologyTraffic before = cluster_.traffic();
  const auto served = cluster_.Until([this] { return cluster_.AllServed(); }, 30 * kSecond);
  ASSERT_TRUE(served.has_value());
  Say("  all partitions served {:.2f} s after the start of all nodes", Seconds(*served));
  ASSERT_TRUE(cluster_.Until([this] { return cluster_.AllInSync(); }, 30 * kSecond).has_value());
  SayTraffic("at the start", cluster_.traffic() - before);
  for (const auto& [id, node] : cluster_.nodes()) EXPECT_EQ(node->links_up(), size_.nodes - 1) << "node " << id;
}

void LargeClusterTest::CheckMap() {
  size_t bytes = 0, largest = 0;
  for (const auto& [key, entry] : cluster_.server().entries()) {
    bytes += key.size() + entry.value.size();
    if (PartitionOfKey(key)) largest = std::max(largest, key.size() + entry.value.size());
  }
  Say("  map: {} keys, {} bytes, {:.0f} for each partition; the largest record of a partition has {}",
      cluster_.server().entries().size(), bytes, static_cast<double>(bytes) / partitions_, largest);
  EXPECT_LE(largest, 640u);
  EXPECT_LE(static_cast<double>(bytes), partitions_ * 640 + nodes_ * 400 + 2000 + nodes_ * 16);
}

// In a quiet time: each replica that follows gets a heartbeat from its master ten times a second, and answers it.
void LargeClusterTest::CheckHeartbeats() {
  constexpr double kTimeS = 4;
  std::map<NodeId, std::pair<uint64_t, uint64_t>> before;
  for (const auto& [id, node] : cluster_.nodes()) {
    before[id] = {node->peer_metrics().sent_messages_total.value(), node->peer_metrics().sent_bytes_total.value()};
  }
  const TopologyTraffic traffic = cluster_.traffic();
  cluster_.Run(static_cast<Nanos>(kTimeS) * kSecond);
  double messages = 0, bytes = 0;
  for (const auto& [id, node] : cluster_.nodes()) {
    const double sent = static_cast<double>(node->peer_metrics().sent_messages_total.value() - before[id].first);
    messages += sent / kTimeS / nodes_;
    bytes += static_cast<double>(node->peer_metrics().sent_bytes_total.value() - before[id].second) / kTimeS / nodes_;
  }
  Say("  each node sends {:.0f} messages and {:.0f} bytes a second", messages, bytes);
  const double beats = 2 * per_node() * (kReplicas - 1) * 10;
  EXPECT_LE(messages, 1.1 * beats + 10);
  EXPECT_GE(messages, 0.8 * beats);
  // Of 96 bytes each, with their frames; and a ping and a pong on each link twice a second.
  EXPECT_LE(bytes, 1.1 * beats * 112 + 2 * 2 * 16 * 2 * nodes_);
  const TopologyTraffic quiet = cluster_.traffic() - traffic;
  SayTraffic("in 4 quiet seconds", quiet);
  EXPECT_EQ(quiet.swaps, 0u);
  EXPECT_EQ(quiet.reads, 0u);
  EXPECT_EQ(quiet.lists, 0u);
  EXPECT_EQ(quiet.checked_bytes, 0u);
  EXPECT_GE(static_cast<double>(quiet.checks), nodes_ * (kTimeS / 2 - 1));
  EXPECT_LE(static_cast<double>(quiet.checks), nodes_ * (kTimeS / 2 + 1));
}

void LargeClusterTest::CheckDeath(NodeId dead) {
  const std::vector<uint32_t> led = cluster_.LedBy(dead);
  const double replicas = static_cast<double>(cluster_.node(dead).replicas());
  std::map<NodeId, size_t> before = cluster_.Masters();
  const TopologyTraffic traffic = cluster_.traffic();
  cluster_.Kill(dead);
  const auto served = cluster_.Until([&] { return cluster_.Served(led); }, 20 * kSecond);
  ASSERT_TRUE(served.has_value());
  Say("  node {} lost: its {} masterships and {} other replicas; all partitions served after {:.2f} s", dead,
      led.size(), replicas - static_cast<double>(led.size()), Seconds(*served));
  EXPECT_LE(*served, 3 * kSecond);
  cluster_.Run(2 * kSecond);
  const TopologyTraffic after = cluster_.traffic() - traffic;
  SayTraffic("from then until 2 s later", after);
  // Each replica costs a write, and each new master another one, without the lost node; some lose their race.
  EXPECT_LE(static_cast<double>(after.swaps), 1.3 * (replicas + static_cast<double>(led.size())) + 10);
  EXPECT_LE(static_cast<double>(after.reads), 4 * replicas + 10);
  size_t most = 0, takers = 0;
  for (const auto& [id, masters] : cluster_.Masters()) {
    const size_t taken = masters - std::min(masters, before[id]);
    most = std::max(most, taken);
    takers += taken > 0;
  }
  const double mean = static_cast<double>(led.size()) / (nodes_ - 1);
  Say("  they are on {} of the other nodes: {:.2f} on each in the mean, at most {}", takers, mean, most);
  EXPECT_LE(static_cast<double>(most), 3 * mean + 5);
  EXPECT_TRUE(cluster_.AllServed());
}

void LargeClusterTest::CheckReturn(NodeId dead) {
  TopologyTraffic traffic = cluster_.traffic();
  cluster_.Restart(dead);
  const auto back = cluster_.Until([this] { return cluster_.AllInSync(); }, 30 * kSecond);
  ASSERT_TRUE(back.has_value());
  Say("  node {} is in sync again {:.2f} s after its start", dead, Seconds(*back));
  SayTraffic("until then", cluster_.traffic() - traffic);
  // As kvadmin rebalance --masters: one after the other, from those that lead the most.
  traffic = cluster_.traffic();
  const Nanos begun_ns = cluster_.kernel().now_ns();
  size_t moved = 0;
  std::map<NodeId, size_t> masters = cluster_.Masters();
  for (uint32_t p = 0; p < size_.partitions && static_cast<double>(masters[dead]) < per_node(); ++p) {
    const std::vector<NodeId> nodes = cluster_.NodesOf(p);
    if (std::find(nodes.begin() + 1, nodes.end(), dead) == nodes.end()) continue;
    if (static_cast<double>(masters[nodes[0]]) <= per_node()) continue;
    LargeNode& from = cluster_.node(nodes[0]);
    ASSERT_TRUE(*cluster_.kernel().RunTask(from.reactor(), from.HandOver(p, dead))) << "partition " << p;
    ++moved, --masters[nodes[0]], ++masters[dead];
  }
  const double seconds = Seconds(cluster_.kernel().now_ns() - begun_ns);
  const TopologyTraffic after = cluster_.traffic() - traffic;
  Say("  {} masterships given back in {:.2f} s", moved, seconds);
  SayTraffic("for that", after);
  EXPECT_GT(moved, 0u);
  EXPECT_LE(static_cast<double>(after.swaps), 1.1 * static_cast<double>(moved) + 3);
  EXPECT_LE(seconds, 0.1 * static_cast<double>(moved));
  ASSERT_TRUE(cluster_.Until([this] { return cluster_.AllServed(); }, 5 * kSecond).has_value());
}

// As kvadmin rebalance: a node comes, and gets its share of the replicas. What it costs to copy their bytes is not
// here.
void LargeClusterTest::CheckRebalance(NodeId added) {
  constexpr uint64_t kBytes = 1 << 20;
  cluster_.Add(added);
  ASSERT_TRUE(cluster_.Until([&] { return cluster_.node(added).links_up() == size_.nodes; }, 30 * kSecond));
  const Result<MovePlan> plan = PlanMoves(cluster_.Placed(kBytes));
  ASSERT_TRUE(plan.ok()) << plan.status().ToString();
  double least = 0;  // what the nodes that hold too little lack
  for (const auto& [id, load] : plan->loads) {
    least += static_cast<double>(load.share - std::min(load.share, load.before));
  }
  Say("  node {} comes: {} moves, the least would be {:.1f}; its share is {:.1f}", added, plan->moves.size(),
      least / kBytes, static_cast<double>(plan->loads.at(added).share) / kBytes);
  EXPECT_GE(plan->moves.size(), 1u);
  EXPECT_LE(static_cast<double>(plan->bytes()), 1.1 * least + kBytes);
  const TopologyTraffic traffic = cluster_.traffic();
  const auto made = cluster_.Make(plan->moves, 4, 120 * kSecond);
  ASSERT_TRUE(made.has_value());
  const TopologyTraffic after = cluster_.traffic() - traffic;
  const double moves = static_cast<double>(plan->moves.size());
  Say("  they are made in {:.2f} s, four at a time", Seconds(*made));
  SayTraffic("for that", after);
  // The learner, that it is in sync, that the old one leaves; and a handover, if that was the master.
  EXPECT_LE(static_cast<double>(after.swaps), 1.2 * 4 * moves + 3);
  EXPECT_LE(Seconds(*made), 0.3 * moves + 1);
  ASSERT_TRUE(cluster_.Until([this] { return cluster_.AllServed() && cluster_.AllInSync(); }, 5 * kSecond));
  EXPECT_EQ(cluster_.node(added).replicas(), plan->loads.at(added).replicas_after);
  const Result<MovePlan> again = PlanMoves(cluster_.Placed(kBytes));
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->moves.empty()) << again->moves.size();
}

TEST_F(LargeClusterTest, CostsWhatThePlanSays) {
  ASSERT_NO_FATAL_FAILURE(CreateAndStart());
  CheckMap();
  CheckHeartbeats();
  ASSERT_NO_FATAL_FAILURE(CheckDeath(2));
  ASSERT_NO_FATAL_FAILURE(CheckReturn(2));
  ASSERT_NO_FATAL_FAILURE(CheckRebalance(size_.nodes + 1));
}

}  // namespace
}  // namespace pando::replication
