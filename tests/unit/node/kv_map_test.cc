// Tests the map that routers are told, over the wire protocol, with fake partitions on two simulated reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_node.h"

namespace pando {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Uuid kCluster{11, 12};

Versioned<NodeRecord> NodeAt(NodeId id, Revision revision, NodeState state = NodeState::kActive) {
  NodeRecord record;
  record.id = id;
  record.client_address = fmt::format("10.0.0.{}:7420", id);
  record.zone = "z";
  record.state = state;
  return {record, revision};
}

Versioned<PartitionRecord> PartitionAt(uint32_t id, Revision revision, Epoch epoch, NodeId master) {
  PartitionRecord record;
  record.id = id;
  std::tie(record.first_hash, record.last_hash) = HashRangeOf(id, 2);
  record.epoch = epoch;
  for (NodeId node : {1u, 2u, 3u}) record.isr.push_back({node, Uuid{id, node}, {}});
  record.master = Uuid{id, master};
  return {record, revision};
}

MapNews FirstNews() {
  MapNews news;
  news.one_counter = true;
  news.nodes = {NodeAt(1, 4), NodeAt(2, 5), NodeAt(3, 6)};
  news.partitions = {PartitionAt(0, 7, 1, 1), PartitionAt(1, 9, 3, 2)};
  return news;
}

class KvMapTest : public FakeNodeTest {
 protected:
  void JoinCluster() {
    for (KvBackend& backend : node_->backends) backend.cluster_id = kCluster;
  }
  KnownMap& map() { return node_->backends[0].map; }
  std::unique_ptr<api::Routing_getMap_result> GetMap(int64_t known, const std::string& cluster, int32_t wait_ms = 0) {
    api::Routing_getMap_args args;
    args.request.known_version = known;
    args.request.cluster_id = cluster;
    args.request.wait_ms = wait_ms;
    return CallFor<api::Routing_getMap_result>("getMap", args);
  }
  const std::string cluster_ = kCluster.ToString();
};
INSTANTIATE_TEST_SUITE_P(Wire, KvMapTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

TEST_P(KvMapTest, ANodeThatIsAloneShowsItself) {
  map() = KnownMap::Alone(node_->store);
  auto reply = GetMap(0, "");
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  const api::MapReply& told = reply->success;
  EXPECT_EQ(told.cluster_id, node_->store.node.ToString());
  EXPECT_EQ(told.version, 1);
  EXPECT_TRUE(told.whole);
  ASSERT_EQ(told.nodes.size(), 1u);
  EXPECT_EQ(told.nodes[0].id, 1);
  EXPECT_EQ(told.nodes[0].client_address, "");
  ASSERT_EQ(told.routes.size(), kPartitions);
  uint64_t next = 0;
  for (const api::Route& route : told.routes) {
    EXPECT_EQ(static_cast<uint64_t>(route.first_hash), next);
    next = static_cast<uint64_t>(route.last_hash) + 1;
    EXPECT_EQ(route.master, 1);
    EXPECT_THAT(route.in_sync, ElementsAre(1));
  }
  EXPECT_EQ(next, 0u) << "all hashes";
  reply = GetMap(1, told.cluster_id);
  EXPECT_EQ(reply->success.version, 1);
  EXPECT_THAT(reply->success.routes, IsEmpty());
}

TEST_P(KvMapTest, TellsEverythingOrWhatHasChanged) {
  JoinCluster();
  EXPECT_EQ(GetMap(0, "")->error.code, api::g_pando_constants.UNAVAILABLE) << "it has not joined";
  map().Take(FirstNews());
  auto reply = GetMap(0, "");
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_EQ(reply->success.version, 9);
  EXPECT_TRUE(reply->success.whole);
  ASSERT_EQ(reply->success.nodes.size(), 3u);
  EXPECT_EQ(reply->success.nodes[1].client_address, "10.0.0.2:7420");
  ASSERT_EQ(reply->success.routes.size(), 2u);
  EXPECT_EQ(reply->success.routes[1].epoch, 3);
  EXPECT_EQ(reply->success.routes[1].master, 2);
  EXPECT_THAT(reply->success.routes[1].in_sync, ElementsAre(1, 2, 3));

  MapNews news;
  news.one_counter = true;
  news.partitions = {PartitionAt(0, 20, 2, 3), PartitionAt(1, 8, 2, 1)};  // the second is old
  news.nodes = {NodeAt(2, 19, NodeState::kDraining)};
  map().Take(news);
  reply = GetMap(9, cluster_);
  EXPECT_EQ(reply->success.version, 20);
  EXPECT_FALSE(reply->success.whole);
  ASSERT_EQ(reply->success.nodes.size(), 1u);
  EXPECT_EQ(reply->success.nodes[0].state, 1);
  ASSERT_EQ(reply->success.routes.size(), 1u);
  EXPECT_EQ(reply->success.routes[0].master, 3);
  EXPECT_THAT(GetMap(19, cluster_)->success.nodes, IsEmpty());
  // Who knows more than this node gets what it knows; a version without a cluster says nothing.
  for (auto [known, cluster] : {std::pair(21, cluster_), std::pair(9, std::string())}) {
    reply = GetMap(known, cluster);
    EXPECT_EQ(reply->success.version, 20);
    EXPECT_TRUE(reply->success.whole);
    EXPECT_EQ(reply->success.routes.size(), 2u);
  }
  reply = GetMap(20, Uuid{5, 5}.ToString());
  EXPECT_EQ(reply->error.code, api::g_pando_constants.BAD_REQUEST);
  EXPECT_THAT(reply->error.message, HasSubstr(cluster_));
  EXPECT_EQ(GetMap(20, "nonsense")->error.code, api::g_pando_constants.BAD_REQUEST);
  EXPECT_EQ(GetMap(-1, cluster_)->error.code, api::g_pando_constants.BAD_REQUEST);
}

// KM2. Partition 0 of 2 is split, into 2 and 3.
TEST_P(KvMapTest, ShowsTheHalvesOnceTheWholeIsRetired) {
  JoinCluster();
  MapNews first = FirstNews();
  first.base = 2;
  std::optional<RangeTable> serving = map().Take(first);
  ASSERT_TRUE(serving.has_value());
  EXPECT_EQ(*serving, RangeTable::Equal(2));
  const auto with = [](uint32_t id, Revision revision, PartitionStage state) {
    Versioned<PartitionRecord> known = PartitionAt(id, revision, 1, 1);
    known.record.state = state;
    MapNews news;
    news.one_counter = true;
    news.partitions = {known};
    return news;
  };
  EXPECT_EQ(map().Take(with(2, 10, PartitionStage::kBuilding)), std::nullopt);
  EXPECT_EQ(map().Take(with(3, 11, PartitionStage::kBuilding)), std::nullopt);
  auto reply = GetMap(9, cluster_);
  EXPECT_EQ(reply->success.version, 11);
  EXPECT_FALSE(reply->success.whole);
  EXPECT_THAT(reply->success.routes, IsEmpty());

  serving = map().Take(with(0, 12, PartitionStage::kRetired));
  ASSERT_TRUE(serving.has_value());
  EXPECT_EQ(serving->ids(), (std::vector<uint32_t>{2, 3, 1}));
  for (int64_t known : {0, 9, 11}) {  // also one who knows the records of the halves
    reply = GetMap(known, cluster_);
    EXPECT_TRUE(reply->success.whole) << known;
    ASSERT_EQ(reply->success.routes.size(), 3u) << known;
    EXPECT_EQ(reply->success.routes[0].partition, 1);
    EXPECT_EQ(reply->success.routes[1].partition, 2);
    EXPECT_EQ(reply->success.routes[2].partition, 3);
  }
  EXPECT_THAT(GetMap(12, cluster_)->success.routes, IsEmpty());
  // What the records say later changes nothing, and is told as what is new.
  EXPECT_EQ(map().Take(with(2, 13, PartitionStage::kServing)), std::nullopt);
  reply = GetMap(12, cluster_);
  EXPECT_FALSE(reply->success.whole);
  ASSERT_EQ(reply->success.routes.size(), 1u);
  EXPECT_EQ(reply->success.routes[0].partition, 2);
}

// A revision says nothing about another key.
TEST_P(KvMapTest, KeysThatCountForThemselvesAreToldWhole) {
  JoinCluster();
  MapNews news = FirstNews();
  news.one_counter = false;
  map().Take(news);
  EXPECT_EQ(GetMap(0, "")->success.version, 4 + 5 + 6 + 7 + 9);
  MapNews more;
  more.partitions = {PartitionAt(0, 9, 2, 3)};
  map().Take(more);
  auto reply = GetMap(31, cluster_);
  EXPECT_EQ(reply->success.version, 33);
  EXPECT_TRUE(reply->success.whole);
  EXPECT_EQ(reply->success.routes.size(), 2u);
}

TEST_P(KvMapTest, WaitsForANewerMap) {
  JoinCluster();
  map().Take(FirstNews());
  const Nanos begin = kernel_.now_ns();
  kernel_.At(begin + kSecond, SimKernel::kNoBoot, [this] {
    MapNews news;
    news.one_counter = true;
    news.partitions = {PartitionAt(0, 20, 2, 3)};
    map().Take(news);
  });
  auto reply = GetMap(9, cluster_, 5000);
  EXPECT_EQ(reply->success.version, 20);
  EXPECT_EQ(reply->success.routes.size(), 1u);
  EXPECT_GE(kernel_.now_ns() - begin, kSecond);
  EXPECT_LT(kernel_.now_ns() - begin, kSecond + 20 * kMillisecond);
  // In vain, and also for what would be newer than what the caller knows of another node.
  for (int64_t known : {20, 25}) {
    const Nanos from = kernel_.now_ns();
    reply = GetMap(known, cluster_, 300);
    EXPECT_EQ(reply->success.version, 20);
    EXPECT_EQ(reply->success.whole, known == 25);
    EXPECT_GE(kernel_.now_ns() - from, 300 * kMillisecond);
    EXPECT_LT(kernel_.now_ns() - from, 400 * kMillisecond);
  }
  // The budget ends it before it is over.
  api::Routing_getMap_args args;
  args.context.budget_ms = 1000;
  args.request.known_version = 20;
  args.request.cluster_id = cluster_;
  args.request.wait_ms = 60'000;
  reply = CallFor<api::Routing_getMap_result>("getMap", args);
  EXPECT_TRUE(reply->__isset.success) << reply->error.message;
}

struct Pipeline {
  static Task<void> One(RpcClient* client, api::Routing_getMap_args* args, api::Routing_getMap_result* result) {
    const Status status = co_await client->Call("getMap", args, result, 30 * kSecond);
    CHECK(status.ok()) << status.ToString();
  }
  static Task<void> All(RpcClient* client, api::Routing_getMap_args* args,
                        std::vector<std::unique_ptr<api::Routing_getMap_result>>* results) {
    TaskGroup calls;
    for (auto& result : *results) calls.Spawn(One(client, args, result.get()));
    co_await calls.Drain();
  }
};

// One that is refused stands behind the others on the connection, which therefore end.
TEST_P(KvMapTest, WaitingCallsAreLimitedAndHoldUpNoReply) {
  JoinCluster();
  map().Take(FirstNews());
  const WatchHub& hub = node_->services[0]->map_watchers();
  api::Routing_getMap_args args;
  args.context.budget_ms = args.request.wait_ms = 20'000;
  args.request.known_version = 9;
  args.request.cluster_id = cluster_;
  std::vector<std::unique_ptr<api::Routing_getMap_result>> results;
  for (size_t i = 0; i < hub.options().max_waiting + 1; ++i) {
    results.push_back(std::make_unique<api::Routing_getMap_result>());
  }
  const Nanos begin = kernel_.now_ns();
  Await(Pipeline::All(client_.get(), &args, &results));
  EXPECT_LT(kernel_.now_ns() - begin, kSecond);
  EXPECT_EQ(results.back()->error.code, api::g_pando_constants.OVERLOADED);
  EXPECT_TRUE(results.back()->error.retryable);
  results.pop_back();
  for (const auto& result : results) EXPECT_EQ(result->success.version, 9) << result->error.message;
  EXPECT_EQ(node_->services[0]->map_watchers().metrics().refused_total.value(), 1u);
  EXPECT_EQ(node_->services[0]->map_watchers().metrics().waiting.value(), 0);
}

TEST_P(KvMapTest, AClientThatIsGoneFreesItsPlace) {
  JoinCluster();
  map().Take(FirstNews());
  api::Routing_getMap_args args;
  args.context.budget_ms = args.request.wait_ms = 60'000;
  args.request.known_version = 9;
  args.request.cluster_id = cluster_;
  struct Leaver {
    static Task<void> Run(Reactor* reactor, uint16_t port, std::string call, const Gauge* waiting) {
      RawPeer peer(*reactor);
      CHECK((co_await peer.Connect("10.0.0.1", port)).ok());
      peer.Send(call);
      co_await Sleep(*reactor, 100 * kMillisecond);
      EXPECT_EQ(waiting->value(), 1);
      co_await peer.Close();
    }
  };
  const Gauge& waiting = node_->services[0]->map_watchers().metrics().waiting;
  Await(Leaver::Run(client_reactor_, node_->port, EncodeCall("getMap", 1, args, GetParam()), &waiting));
  Pass(100 * kMillisecond);
  EXPECT_EQ(waiting.value(), 0);
}

TEST_P(KvMapTest, TheMemoryOfAReplyIsReservedFirst) {
  JoinCluster();
  map().Take(FirstNews());
  BudgetAccount& account = node_->servers[0]->account();
  MemoryGrant taken(&account, MemoryLane::kControl);
  while (taken.TryGrow(1024)) continue;
  taken.Shrink(6 << 10);  // enough for the call, but not for the map
  EXPECT_EQ(GetMap(0, "")->error.code, api::g_pando_constants.OVERLOADED);
  taken.Shrink(6 << 10);
  EXPECT_TRUE(GetMap(0, "")->__isset.success);
}

}  // namespace
}  // namespace pando
