// However often connections come up, the replicas look seldom, and not too seldom (CN1).
#include "src/replication/connected_nodes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace pando::replication {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr Nanos kPause = 20 * kMillisecond;

TEST(ConnectedNodes, TheFirstIsLookedAtAtOnceAndTheLastIsNotMissed) {
  ConnectedNodes nodes(kPause);
  EXPECT_TRUE(nodes.Note(2, kSecond));
  EXPECT_TRUE(nodes.Note(3, kSecond)) << "nodes do not wait for each other";
  EXPECT_THAT(nodes.Due(2 * kSecond), IsEmpty());
  EXPECT_TRUE(nodes.Note(2, 2 * kSecond));
  EXPECT_FALSE(nodes.Note(2, 2 * kSecond + 1));
  EXPECT_FALSE(nodes.Note(2, 2 * kSecond + 2));
  EXPECT_THAT(nodes.Due(2 * kSecond + kPause - 1), IsEmpty());
  EXPECT_THAT(nodes.Due(2 * kSecond + kPause), ElementsAre(2));
  EXPECT_THAT(nodes.Due(2 * kSecond + kPause), IsEmpty());
  EXPECT_FALSE(nodes.Note(2, 2 * kSecond + 2 * kPause - 1));
  nodes.Keep(std::set<NodeId>{3});
  EXPECT_THAT(nodes.Due(9 * kSecond), IsEmpty());
}

TEST(ConnectedNodes, LooksAreBounded) {
  std::mt19937 random(7);
  ConnectedNodes nodes(kPause);
  constexpr int kNodes = 4;
  Nanos last_look_ns[kNodes] = {}, last_note_ns[kNodes] = {};
  const auto look = [&](NodeId node, Nanos now_ns) {
    EXPECT_TRUE(last_look_ns[node] == 0 || now_ns - last_look_ns[node] >= kPause);
    last_look_ns[node] = now_ns;
  };
  for (Nanos now_ns = kSecond; now_ns < 20 * kSecond; now_ns += static_cast<Nanos>(random() % (3 * kMillisecond))) {
    const auto node = static_cast<NodeId>(random() % kNodes);
    if (random() % 3 != 0) {
      last_note_ns[node] = now_ns;
      if (nodes.Note(node, now_ns)) look(node, now_ns);
    }
    for (const NodeId due : nodes.Due(now_ns)) look(due, now_ns);
  }
  for (const NodeId due : nodes.Due(30 * kSecond)) look(due, 30 * kSecond);
  for (int node = 0; node < kNodes; ++node) EXPECT_GE(last_look_ns[node], last_note_ns[node]);
}

}  // namespace
}  // namespace pando::replication
