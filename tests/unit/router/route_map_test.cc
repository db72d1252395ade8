// RouteMap: what it takes from nodes, and what it refuses.
#include "src/router/route_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "src/topology/cluster_map.h"

namespace pando {
namespace {

using testing::HasSubstr;

const Uuid kCluster{1, 2};

api::Route RouteOf(uint32_t partition, uint32_t count, int32_t master, int64_t epoch) {
  const auto [first, last] = HashRangeOf(partition, count);
  api::Route r;
  r.partition = static_cast<int32_t>(partition);
  r.first_hash = static_cast<int64_t>(first);
  r.last_hash = static_cast<int64_t>(last);
  r.lineage = 1;
  r.epoch = epoch;
  r.master = master;
  return r;
}

api::MapReply Whole(uint32_t count, int64_t version) {
  api::MapReply reply;
  reply.cluster_id = kCluster.ToString();
  reply.version = version;
  reply.whole = true;
  for (int32_t node = 1; node <= 3; ++node) {
    api::RouteNode& n = reply.nodes.emplace_back();
    n.id = node;
    n.client_address = "10.0.0." + std::to_string(node) + ":7420";
  }
  for (uint32_t p = 0; p < count; ++p) reply.routes.push_back(RouteOf(p, count, 1 + static_cast<int32_t>(p) % 3, 5));
  return reply;
}

api::MapReply Delta(int64_t version, api::Route route) {
  api::MapReply reply;
  reply.cluster_id = kCluster.ToString();
  reply.version = version;
  reply.routes.push_back(std::move(route));
  return reply;
}

TEST(RouteMap, FindsTheRouteOfEveryHash) {
  for (const uint32_t count : {1u, 2u, 16u}) {
    RouteMap map;
    ASSERT_TRUE(map.Apply(Whole(count, 7), "a").ok());
    for (uint32_t p = 0; p < count; ++p) {
      const auto [first, last] = HashRangeOf(p, count);
      EXPECT_EQ(map.RouteOfHash(first).partition, p);
      EXPECT_EQ(map.RouteOfHash(last).partition, p);
      EXPECT_EQ(map.RouteOfHash(first + (last - first) / 2).partition, p);
    }
  }
}

// RM2.
TEST(RouteMap, ADeltaChangesOnlyWhatIsNewer) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  const uint64_t changes = map.changes();
  EXPECT_TRUE(map.Apply(Delta(7, RouteOf(0, 4, 3, 9)), "a").ok());  // not newer than what is known
  EXPECT_EQ(map.changes(), changes);
  EXPECT_TRUE(map.Apply(Delta(8, RouteOf(0, 4, 3, 6)), "a").ok());
  EXPECT_EQ(map.Find(0)->master, 3u);
  EXPECT_EQ(map.version(), 8);
  EXPECT_TRUE(map.Apply(Delta(9, RouteOf(0, 4, 2, 4)), "a").ok());  // of an older epoch
  EXPECT_EQ(map.Find(0)->master, 3u);
  // So does a whole map of a topology that was put back.
  EXPECT_TRUE(map.Apply(Whole(4, 2), "a").ok());
  EXPECT_EQ(map.Find(0)->master, 3u);
}

// A large map changes often, and its reactor serves requests meanwhile: a change costs what it names, not the whole
// map.
TEST(RouteMap, AChangeOfALargeMapCostsLittle) {
  constexpr uint32_t kMany = 65'536;
  RouteMap map;
  api::MapReply whole = Whole(kMany, 7);
  ASSERT_TRUE(map.Apply(whole, "a").ok());
  const auto began = std::chrono::steady_clock::now();
  for (int64_t i = 1; i <= 1000; ++i) {
    const auto partition = static_cast<uint32_t>(i * 7919 % kMany);
    ASSERT_TRUE(map.Apply(Delta(7 + i, RouteOf(partition, kMany, static_cast<int32_t>(1 + i % 3), 5 + i)), "a").ok());
    whole.routes[partition] = RouteOf(partition, kMany, static_cast<int32_t>(1 + i % 3), 5 + i);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  RouteMap other;
  ASSERT_TRUE(other.Apply(whole, "a").ok());
  EXPECT_EQ(map.routes(), other.routes());
  EXPECT_EQ(map.version(), 1007);
}

// A node that lags behind the topology answers a caller that knows more with a whole map. It takes no node away: the
// next node has nothing newer to say, so what is lost here stays lost.
TEST(RouteMap, AnOlderWholeMapForgetsNoNode) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  api::MapReply older = Whole(4, 5);
  older.nodes.pop_back();
  ASSERT_TRUE(map.Apply(older, "b").ok());
  api::MapReply no_news;
  no_news.cluster_id = kCluster.ToString();
  no_news.version = 7;
  ASSERT_TRUE(map.Apply(no_news, "a").ok());
  EXPECT_NE(map.FindNode(map.Find(2)->master), nullptr);
}

// The replicas in sync change within an epoch.
TEST(RouteMap, AnOlderWholeMapPutsBackNoReplicasInSync) {
  RouteMap map;
  api::MapReply newer = Whole(4, 7), older = Whole(4, 5);
  newer.routes[0].in_sync = {1, 2};
  older.routes[0].in_sync = {1, 3};
  ASSERT_TRUE(map.Apply(newer, "a").ok());
  ASSERT_TRUE(map.Apply(older, "b").ok());
  EXPECT_EQ(map.Find(0)->in_sync, (std::vector<NodeId>{1, 2}));
}

// RM1.
TEST(RouteMap, RefusesAnEpochThatNoTrueOneWouldFollow) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  api::MapReply far = Whole(4, 8);
  far.routes[2].epoch = INT64_MAX;
  EXPECT_THAT(map.Apply(far, "b").message(), HasSubstr("epoch 9223372036854775807"));
  EXPECT_EQ(map.Find(2)->epoch, 5u);
  EXPECT_FALSE(map.Apply(Delta(8, RouteOf(2, 4, 1, INT64_MAX)), "b").ok());
  EXPECT_EQ(map.Find(2)->epoch, 5u);
  EXPECT_TRUE(map.Apply(Delta(8, RouteOf(2, 4, 1, 900'000)), "a").ok());
  EXPECT_EQ(map.Find(2)->epoch, 900'000u);
}

TEST(RouteMap, TakesAnythingOnceItDoubts) {
  RouteMap map;
  api::MapReply lie = Whole(4, INT64_MAX);
  for (api::Route& route : lie.routes) route.epoch = INT64_MAX;
  lie.nodes[1].client_address = "10.0.9.9:7420";
  ASSERT_TRUE(map.Apply(lie, "b").ok());
  const api::MapReply truth = Whole(4, 7);
  EXPECT_TRUE(map.IsContradictedBy(truth));
  EXPECT_FALSE(map.IsContradictedBy(lie));
  ASSERT_TRUE(map.Apply(truth, "a").ok());
  EXPECT_EQ(map.FindNode(2)->address, "10.0.9.9:7420") << "RM2";
  map.Doubt();
  EXPECT_TRUE(map.complete());
  ASSERT_TRUE(map.Apply(truth, "a").ok());
  EXPECT_EQ(map.FindNode(2)->address, "10.0.0.2:7420");
  EXPECT_EQ(map.Find(2)->epoch, 5u);
  EXPECT_EQ(map.version(), 7);
}

TEST(RouteMap, RefusesWhatDoesNotFitTogether) {
  RouteMap map;
  EXPECT_THAT(map.Apply(Delta(8, RouteOf(0, 4, 3, 6)), "n1").message(), HasSubstr("does not have"));
  api::MapReply hole = Whole(4, 7);
  hole.routes.erase(hole.routes.begin() + 2);
  EXPECT_THAT(map.Apply(hole, "n1").message(), HasSubstr("n1"));
  api::MapReply twice = Whole(4, 7);
  twice.routes[1].partition = 9;
  twice.routes[1].last_hash = twice.routes[2].last_hash;
  EXPECT_FALSE(map.Apply(twice, "n1").ok());
  api::MapReply short_of_the_end = Whole(4, 7);
  short_of_the_end.routes.pop_back();
  EXPECT_FALSE(map.Apply(short_of_the_end, "n1").ok());
  EXPECT_FALSE(map.complete());
  api::MapReply nobody = Whole(4, 7);
  nobody.cluster_id = "x";
  EXPECT_FALSE(map.Apply(nobody, "n1").ok());
  ASSERT_TRUE(map.Apply(Whole(4, 7), "n1").ok());
  api::MapReply other = Whole(4, 9);
  other.cluster_id = Uuid{5, 5}.ToString();
  EXPECT_THAT(map.Apply(other, "n2").message(), HasSubstr("n2 belongs to the cluster"));
  EXPECT_TRUE(map.complete());
}

TEST(RouteMap, ADeltaThatLeavesAHoleAsksForAWholeMap) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  api::Route half = RouteOf(0, 8, 1, 6);  // the partition now ends earlier, and nothing follows
  EXPECT_FALSE(map.Apply(Delta(8, half), "a").ok());
  EXPECT_EQ(map.version(), 0);
  EXPECT_TRUE(map.complete());  // calls on their way go on with what is known
  EXPECT_FALSE(map.Apply(Delta(9, RouteOf(0, 4, 2, 9)), "a").ok());
  EXPECT_TRUE(map.Apply(Whole(8, 8), "a").ok());  // two children for each
}

// Partition 1 of 4 was split, into 6 and 7.
api::MapReply AfterASplit(int64_t version) {
  api::MapReply reply = Whole(4, version);
  reply.routes.erase(reply.routes.begin() + 1);
  reply.routes.push_back(RouteOf(6, 4, 2, 1));
  reply.routes.push_back(RouteOf(7, 4, 3, 1));
  return reply;
}

TEST(RouteMap, TakesTheHalvesOfAPartition) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  EXPECT_EQ(map.base(), 4u);
  ASSERT_TRUE(map.Apply(AfterASplit(9), "a").ok());
  EXPECT_EQ(map.base(), 4u);
  EXPECT_EQ(map.Find(1), nullptr);
  const auto [first, last] = HashRangeOf(1, 4);
  EXPECT_EQ(map.RouteOfHash(first).partition, 6u);
  EXPECT_EQ(map.RouteOfHash(last).partition, 7u);
}

// RM2. The next node has nothing newer to say, so what this one does not know must not come back.
TEST(RouteMap, ANodeThatLagsBehindTakesNoSplitBack) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(AfterASplit(9), "a").ok());
  ASSERT_TRUE(map.Apply(Whole(4, 7), "b").ok());
  EXPECT_EQ(map.Find(1), nullptr);
  EXPECT_EQ(map.routes().size(), 5u);
  EXPECT_EQ(map.version(), 9);
}

TEST(RouteMap, RefusesNumbersThatDoNotHaveTheseRanges) {
  RouteMap map;
  api::MapReply wrong = Whole(4, 7);
  std::swap(wrong.routes[1].partition, wrong.routes[2].partition);
  EXPECT_THAT(map.Apply(wrong, "a").message(), HasSubstr("cannot have the hashes"));
  wrong = Whole(4, 7);
  wrong.routes[0].last_hash -= 1;
  wrong.routes[1].first_hash -= 1;
  EXPECT_THAT(map.Apply(wrong, "a").message(), HasSubstr("cannot have the hashes"));
  EXPECT_FALSE(map.complete());
}

TEST(RouteMap, TheOnlyNodeMayNotKnowItsAddress) {
  RouteMap map;
  api::MapReply alone = Whole(4, 1);
  alone.nodes.resize(1);
  alone.nodes[0].client_address.clear();
  for (api::Route& r : alone.routes) r.master = 1;
  ASSERT_TRUE(map.Apply(alone, "10.1.1.1:7420").ok());
  EXPECT_EQ(map.FindNode(1)->address, "10.1.1.1:7420");
}

TEST(RouteMap, HintsCorrectTheMasterUntilAnOlderOneIsNamed) {
  RouteMap map;
  ASSERT_TRUE(map.Apply(Whole(4, 7), "a").ok());
  EXPECT_FALSE(map.ApplyHint(0, "10.0.0.9:7420", 6));  // nobody
  EXPECT_FALSE(map.ApplyHint(0, "10.0.0.1:7420", 6));  // no news
  EXPECT_FALSE(map.ApplyHint(0, "10.0.0.2:7420", 4));  // an older epoch
  EXPECT_TRUE(map.ApplyHint(0, "10.0.0.2:7420", 6));
  EXPECT_EQ(map.Find(0)->master, 2u);
  EXPECT_TRUE(map.ApplyHint(0, "10.0.0.3:7420", 0));  // it did not say
  EXPECT_EQ(map.Find(0)->master, 3u);
}

}  // namespace
}  // namespace pando
