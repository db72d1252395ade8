// A router between a client and scripted nodes, on the simulated kernel: what it does about answers that are not the
// last word, and about nodes that do not answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>

#include "src/router/range_plan.h"
#include "tests/support/router_harness.h"
#include "tests/support/rpc_harness.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::Each;
using testing::Gt;
using testing::HasSubstr;
using testing::Le;

TEST_F(RouterTest, EachKeyGoesToItsMasterAtOnce) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) {
    EXPECT_TRUE(Put(KeyIn(p), fmt::format("value {}", p)).success.applied);
    EXPECT_EQ(Get(KeyIn(p)).success.record.value, fmt::format("value {}", p));
  }
  EXPECT_FALSE(Get("nothing").success.record.found);
  EXPECT_EQ(service_->forwarder().metrics().retries_total.value(), 0u);
  EXPECT_EQ(node(1).requests + node(2).requests + node(3).requests, static_cast<int>(2 * kPartitionCount + 1));
}

// FW3.
TEST_F(RouterTest, TheNodeGetsWhatIsLeftOfTheBudget) {
  EXPECT_TRUE(Put(KeyIn(0), "v", Budget(500)).success.applied);
  EXPECT_THAT(MasterOf(0).budgets_ms, Each(AllOf(Gt(490), Le(499))));
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  EXPECT_THAT(MasterOf(0).budgets_ms.back(), AllOf(Gt(9900), Le(10'000)));
}

TEST_F(RouterTest, AMoveIsFollowedWithoutAnErrorAndByTheHintAlone) {
  Get(KeyIn(0));
  for (auto& n : nodes_) n->KeepMap();  // the nodes do not tell of the move
  cluster_.Move(0, 3);
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  EXPECT_EQ(node(3).writes, 1);
  EXPECT_EQ(service_->forwarder().metrics().misrouted_total.value(), 1u);
  EXPECT_TRUE(Put(KeyIn(0), "w").success.applied);
  EXPECT_EQ(service_->forwarder().metrics().misrouted_total.value(), 1u);
}

TEST_F(RouterTest, AMoveIsFollowedByTheMapAlone) {
  Get(KeyIn(0));
  for (auto& n : nodes_) n->manners.no_hint = true;
  cluster_.Move(0, 3);
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  EXPECT_EQ(node(3).writes, 1);
  // The long poll brings the next one before any request meets it.
  cluster_.Move(0, 2);
  kernel_.RunFor(100 * kMillisecond);
  const uint64_t misrouted = service_->forwarder().metrics().misrouted_total.value();
  EXPECT_TRUE(Put(KeyIn(0), "w").success.applied);
  EXPECT_EQ(service_->forwarder().metrics().misrouted_total.value(), misrouted);
}

// FW1: it ends with its budget. RK1: many requests that find the map wrong ask for one newer map.
TEST_F(RouterTest, TwoNodesThatSendItToEachOtherDoNotKeepItBusy) {
  Get(KeyIn(0));
  for (auto& n : nodes_) n->KeepMap();
  // Each says that another one is master: the last one to be asked is never the one.
  cluster_.Move(0, 2);
  node(2).manners.unavailable = 1 << 20;
  const api::Kv_put_result result = Put(KeyIn(0), "v", Budget(1000));
  EXPECT_EQ(result.error.code, api::g_pando_constants.UNAVAILABLE);
  EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_NO);
  EXPECT_THAT(result.error.message, HasSubstr("within the budget of 1000 ms"));
  EXPECT_LT(node(1).requests + node(2).requests + node(3).requests, 30);
  EXPECT_GT(node(2).requests, 3);
}

TEST_F(RouterTest, WhatIsNotYetIsTriedAgain) {
  MasterOf(0).manners.unavailable = 3;
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  MasterOf(0).manners.busy = 2;
  const Nanos before_ns = kernel_.now_ns();
  EXPECT_TRUE(Put(KeyIn(0), "w").success.applied);
  EXPECT_GE(kernel_.now_ns() - before_ns, 60 * kMillisecond);  // twice what the node asks for
  EXPECT_EQ(cluster_.records[KeyIn(0)], "w");
}

TEST_F(RouterTest, AReadIsSentAgainWhenItsConnectionBreaks) {
  Put(KeyIn(0), "v");
  MasterOf(0).manners.close_after = 1;
  EXPECT_EQ(Get(KeyIn(0)).success.record.value, "v");
  EXPECT_GE(MasterOf(0).gets, 2);
}

// FW2.
TEST_F(RouterTest, AWriteWithoutANameIsNeverSentTwice) {
  for (const bool applies : {false, true}) {
    MasterOf(0).manners.close_after = 1;
    MasterOf(0).manners.applies_and_closes = applies;
    const int before = MasterOf(0).requests;
    const api::Kv_put_result result = Put(KeyIn(0), "v");
    EXPECT_EQ(result.error.code, api::g_pando_constants.UNAVAILABLE);
    EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
    EXPECT_EQ(MasterOf(0).requests, before + 1);
  }
}

TEST_F(RouterTest, AWriteWithANameIsSentAgainUnderIt) {
  MasterOf(0).manners.close_after = 1;
  MasterOf(0).manners.applies_and_closes = true;
  api::Context context;
  context.client_id = "lane";
  context.sequence = 17;
  context.first_sent_ms = 1234;
  EXPECT_TRUE(Put(KeyIn(0), "v", context).success.applied);
  EXPECT_EQ(MasterOf(0).requests, 2);
  EXPECT_EQ(MasterOf(0).last_context.client_id, "lane");
  EXPECT_EQ(MasterOf(0).last_context.sequence, 17);
  EXPECT_EQ(MasterOf(0).last_context.first_sent_ms, 1234);
}

// The first try may have been applied, whatever comes of the next ones.
TEST_F(RouterTest, AWriteThatWasLostOnceIsUnknownUntilItIsAnswered) {
  ScriptedNode& master = MasterOf(0);
  master.manners.close_after = 1;
  master.manners.applies_and_closes = true;
  auto get_busy_after_it = [](ScriptedNode* node, SimReactor* reactor) -> Task<void> {
    while (node->writes == 0) co_await Sleep(*reactor, kMillisecond);
    node->manners.busy = 1000;
  };
  TaskGroup watching;
  watching.Spawn(get_busy_after_it(&master, at_client_));
  api::Context context = Budget(1000);
  context.client_id = "lane";
  context.sequence = 17;
  context.first_sent_ms = 1234;
  const api::Kv_put_result result = Put(KeyIn(0), "v", context);
  EXPECT_EQ(master.writes, 1);
  ASSERT_TRUE(result.__isset.error);
  EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
}

// Memory that runs out while a write is on its way does not make the write not applied.
TEST_F(RouterTest, AWriteThatWasAppliedIsNotCalledRefusedForLackOfMemory) {
  MasterOf(0).manners.delay_ns = 50 * kMillisecond;
  api::Kv_put_result result;
  TaskGroup puts;
  puts.Spawn(Call<api::Kv_put_args>("put", KeyIn(0), {}, &result));
  kernel_.RunFor(20 * kMillisecond);
  const int64_t all = shared_.memory.limit_bytes() + 1;
  server_->account().Force(all);
  kernel_.RunFor(kSecond);
  server_->account().Release(all);
  EXPECT_EQ(puts.running(), 0u);
  EXPECT_EQ(MasterOf(0).writes, 1);
  EXPECT_TRUE(result.success.applied || result.error.applied == api::g_pando_constants.APPLIED_UNKNOWN);
}

// A request that is as long as a frame may be, and has no context, becomes longer on its way. A node closes the
// connection of whoever sends it, and that is the connection of all clients.
TEST_F(RouterTest, ARequestThatBecomesTooLongHarmsNobodyElse) {
  MasterOf(0).manners.delay_ns = 100 * kMillisecond;
  put_value_ = "v";
  api::Kv_put_result others[6];  // on both connections, before it and after it
  TaskGroup puts;
  for (int i = 0; i < 2; ++i) puts.Spawn(Call<api::Kv_put_args>("put", KeyIn(0), {}, &others[i]));
  kernel_.RunFor(20 * kMillisecond);
  struct Raw final : RpcExchange {
    Status OnReply(const MessageHeader&, std::string_view, ThriftCodec*) override { return {}; }
  };
  struct Body {
    static Task<void> Run(RpcClient* client, std::string body) {
      CHECK((co_await client->Connect(kRouterHost, 7430, kSecond)).ok());
      CHECK(client->Send(WireProtocol::kBinary, "put", body, {}).ok());
      Raw raw;
      co_await client->Begin(&raw, 5 * kSecond);
      co_await client->Close();
    }
  };
  constexpr size_t kHeaderBytes = 15;
  api::PutRequest large;
  large.key = KeyIn(0);
  std::string body;
  server_->codec().WriteStruct(large, &body);
  large.value.assign(kMaxFrameBytes - kHeaderBytes - body.size() - 4, 'x');
  body = std::string("\x0c\x00\x02", 3);
  server_->codec().WriteStruct(large, &body);
  body.push_back('\0');
  RpcClient client(*at_client_);
  kernel_.RunTask(*at_client_, Body::Run(&client, std::move(body)));
  put_value_ = "v";
  for (int i = 2; i < 6; ++i) puts.Spawn(Call<api::Kv_put_args>("put", KeyIn(0), {}, &others[i]));
  kernel_.RunFor(kSecond);
  EXPECT_EQ(puts.running(), 0u);
  for (const api::Kv_put_result& other : others) EXPECT_TRUE(other.success.applied) << other.error.message;
}

TEST_F(RouterTest, ADeletionThatIsLateMayHaveDeleted) {
  Get(KeyIn(0));
  for (NodeId id = 1; id <= 3; ++id) node(id).manners.silent = true;
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_deleteRange_args* args, api::Kv_deleteRange_result* result) {
      CHECK((co_await client->Call("deleteRange", args, result, 20 * kSecond)).ok());
    }
  };
  api::Kv_deleteRange_args args;
  api::Kv_deleteRange_result result;
  args.context = Budget(300);
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &args, &result));
  ASSERT_TRUE(result.__isset.error);
  EXPECT_EQ(result.error.code, api::g_pando_constants.DEADLINE);
  EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
}

// A node must be able to read a request for as many partitions as the interface allows.
TEST_F(RouterTest, ARequestMayNameAsManyPartitionsAsTheInterfaceSays) {
  api::Routing_scanPartitions_args args, read;
  for (size_t p = 0; p < kMaxNamedPartitions; ++p) args.request.partitions.push_back(static_cast<int32_t>(p));
  std::string bytes;
  server_->codec().WriteStruct(args, &bytes);
  MemoryGrant memory(&server_->account());
  const Status status = server_->codec().Read(WireProtocol::kBinary, bytes, &read, &memory);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(RouterTest, AWatchMayNameAsManyPartitionsAsARouterDoes) {
  api::Routing_watchPartitions_args args, read;
  args.request.positions.resize(kMaxShare);
  std::string bytes;
  server_->codec().WriteStruct(args, &bytes);
  MemoryGrant memory(&server_->account());
  const Status status = server_->codec().Read(WireProtocol::kBinary, bytes, &read, &memory);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(RouterTest, ABoundedReadMayTakeLongerThanTheFirstReplicaIsGiven) {
  Put(KeyIn(0), "v");
  for (NodeId id = 1; id <= 3; ++id) node(id).manners.delay_ns = 400 * kMillisecond;
  api::Context context = Budget(5000);
  context.level = api::g_pando_constants.LEVEL_BOUNDED;
  context.max_staleness_ms = 1000;
  EXPECT_EQ(Get(KeyIn(0), context).success.record.value, "v");
}

TEST_F(RouterTest, ASilentNodeDelaysOnlyItsOwnKeys) {
  Put(KeyIn(0), "zero");
  Put(KeyIn(1), "one");
  MasterOf(0).manners.silent = true;
  TaskGroup stuck;
  std::vector<api::Kv_get_result> results(50);
  for (api::Kv_get_result& result : results) {
    stuck.Spawn(Call<api::Kv_get_args>("get", KeyIn(0), Budget(2000), &result));
  }
  // On connections of their own: on this one, replies keep their order.
  RpcClient other(*at_client_);
  struct Body {
    static Task<Nanos> Run(RpcClient* client, SimReactor* reactor, std::string key) {
      CHECK((co_await client->Connect(kRouterHost, 7430, kSecond)).ok());
      const Nanos began_ns = reactor->NowNs();
      for (int i = 0; i < 20; ++i) {
        api::Kv_get_args args;
        api::Kv_get_result result;
        args.request.key = key;
        CHECK((co_await client->Call("get", &args, &result, kSecond)).ok());
        EXPECT_EQ(result.success.record.value, "one");
      }
      const Nanos took_ns = reactor->NowNs() - began_ns;
      co_await client->Close();
      co_return took_ns;
    }
  };
  EXPECT_LT(*kernel_.RunTask(*at_client_, Body::Run(&other, at_client_, KeyIn(1))), 50 * kMillisecond);
  kernel_.RunFor(3 * kSecond);
  EXPECT_EQ(stuck.running(), 0u);
  for (const api::Kv_get_result& result : results) EXPECT_TRUE(result.__isset.error);
}

TEST_F(RouterTest, NobodyWaitsForASilentNodeThatIsNotMasterAnyMore) {
  Put(KeyIn(0), "v");
  ScriptedNode& silent = MasterOf(0);
  silent.manners.silent = true;
  const NodeId next = 1 + cluster_.masters[0] % 3;
  auto move_soon = [](ScriptedCluster* cluster, SimReactor* reactor, NodeId to) -> Task<void> {
    co_await Sleep(*reactor, 200 * kMillisecond);
    cluster->Move(0, to);
  };
  TaskGroup moves;
  moves.Spawn(move_soon(&cluster_, at_client_, next));
  const Nanos began_ns = kernel_.now_ns();
  EXPECT_EQ(Get(KeyIn(0), Budget(20'000)).success.record.value, "v");
  EXPECT_LT(kernel_.now_ns() - began_ns, 400 * kMillisecond);
  // A write under a name too; one without a name may have been carried out, so it must not be sent again.
  cluster_.Move(0, cluster_.masters[0] == 1 ? 2 : 1);
  kernel_.RunFor(50 * kMillisecond);
  EXPECT_EQ(keeper_->metrics().abandoned_total.value(), 1u);
}

TEST_F(RouterTest, ASilentReplicaIsLeftForAnother) {
  api::Context context = Budget(20'000);
  context.level = api::g_pando_constants.LEVEL_BOUNDED;
  context.max_staleness_ms = 1000;
  Put(KeyIn(0), "v");
  for (NodeId id = 1; id <= 3; ++id) node(id).manners.silent = id != cluster_.masters[0];
  for (int i = 0; i < 10; ++i) {
    const Nanos began_ns = kernel_.now_ns();
    EXPECT_EQ(Get(KeyIn(0), context).success.record.value, "v");
    EXPECT_LT(kernel_.now_ns() - began_ns, kSecond);
  }
}

// UP1, UP2: what the breaker refuses was not sent.
TEST_F(RouterTest, ANodeThatDoesNotAnswerIsLeftOutAndComesBack) {
  Put(KeyIn(0), "v");
  MasterOf(0).manners.silent = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Get(KeyIn(0), Budget(600)).error.code, api::g_pando_constants.DEADLINE);
  }
  EXPECT_EQ(keeper_->metrics().upstream.tripped_total.value(), 1u);
  MasterOf(0).manners.silent = false;
  EXPECT_EQ(Get(KeyIn(0), Budget(5000)).success.record.value, "v");
}

TEST_F(RouterTest, ShortBudgetsDoNotTripTheBreaker) {
  Put(KeyIn(0), "v");
  MasterOf(0).manners.delay_ns = 200 * kMillisecond;
  for (int i = 0; i < 10; ++i) Get(KeyIn(0), Budget(5));
  EXPECT_EQ(keeper_->metrics().upstream.tripped_total.value(), 0u);
}

TEST_F(RouterTest, BoundedReadsUseEveryReplicaAndTheMasterIfOneIsBehind) {
  api::Context context;
  context.level = api::g_pando_constants.LEVEL_BOUNDED;
  context.max_staleness_ms = 1000;
  for (int i = 0; i < 60; ++i) Get(KeyIn(0), context);
  for (NodeId id = 1; id <= 3; ++id) EXPECT_GT(node(id).gets, 5) << id;
}

TEST_F(RouterTest, WithoutANodeTheErrorSaysWhichAndNothingIsSent) {
  cluster_.Move(0, 9);  // nobody
  const api::Kv_put_result result = Put(KeyIn(0), "v", Budget(300));
  EXPECT_EQ(result.error.code, api::g_pando_constants.UNAVAILABLE);
  EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_NO);
  EXPECT_TRUE(result.error.retryable);
}

// RK2.
TEST_F(RouterTest, AnotherClustersMapIsRefused) {
  Get(KeyIn(0));
  cluster_.id = Uuid{9, 9};
  cluster_.Move(0, 3);
  kernel_.RunFor(kSecond);
  EXPECT_EQ(keeper_->map().cluster_id(), kScriptedCluster);
  EXPECT_GT(keeper_->metrics().refused_maps_total.value(), 0u);
  EXPECT_LT(keeper_->metrics().refused_maps_total.value(), 60u);  // it is not asked again at once
}

// The client has chosen nothing of the mark, so what a node finds wrong with it breaks no rule of the client's.
TEST_F(RouterTest, ASnapshotThatANodeRefusesIsNotTheClientsFault) {
  node(1).manners.refuses_marks = "too far ahead";
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_openSnapshot_args* args, api::Kv_openSnapshot_result* result) {
      CHECK((co_await client->Call("openSnapshot", args, result, 20 * kSecond)).ok());
    }
  };
  api::Kv_openSnapshot_args args;
  api::Kv_openSnapshot_result result;
  const Nanos began_ns = kernel_.now_ns();
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &args, &result));
  ASSERT_TRUE(result.__isset.error);
  EXPECT_EQ(result.error.code, api::g_pando_constants.UNAVAILABLE);
  EXPECT_FALSE(result.error.retryable);
  EXPECT_EQ(result.error.message,
            "3 partitions could not take the snapshot; partition 0 (node 1 at 10.0.0.1:7420): too far ahead");
  EXPECT_LT(kernel_.now_ns() - began_ns, 3 * kSecond);
}

TEST_F(RouterTest, AnUnusualOrderOfFieldsIsUnderstood) {
  // The request before the context: legal Thrift, though no generated client sends it.
  api::Kv_put_args args;
  args.request.key = KeyIn(0);
  args.request.value = "v";
  ThriftCodec codec;
  std::string context, request;
  codec.WriteStruct(args.context, &context);
  codec.WriteStruct(args.request, &request);
  const std::string body = std::string("\x0c\x00\x02", 3) + request + std::string("\x0c\x00\x01", 3) + context + '\0';
  std::string frame;
  codec.WriteEncoded({WireProtocol::kBinary, apache::thrift::protocol::T_CALL, 1, "put"}, body, {}, &frame);
  RawPeer peer(*at_client_);
  struct Body {
    static Task<void> Run(RawPeer* p, std::string bytes) {
      CHECK((co_await p->Connect(kRouterHost, 7430)).ok());
      p->Send(std::move(bytes));
      co_await p->UntilFrames(1);
      co_await p->Close();
    }
  };
  kernel_.RunTask(*at_client_, Body::Run(&peer, frame));
  ASSERT_EQ(peer.frames.size(), 1u);
  EXPECT_EQ(cluster_.records[KeyIn(0)], "v");
}

TEST_F(RouterTest, TheCompactProtocolIsServed) {
  RpcClientOptions options;
  options.protocol = WireProtocol::kCompact;
  RpcClient compact(*at_client_, options);
  struct Body {
    static Task<std::string> Run(RpcClient* client, std::string key) {
      CHECK((co_await client->Connect(kRouterHost, 7430, kSecond)).ok());
      api::Kv_put_args put;
      api::Kv_put_result done;
      put.request.key = key;
      put.request.value = "compact";
      CHECK((co_await client->Call("put", &put, &done, kSecond)).ok());
      EXPECT_TRUE(done.success.applied);
      api::Kv_get_args get;
      api::Kv_get_result got;
      get.request.key = key;
      CHECK((co_await client->Call("get", &get, &got, kSecond)).ok());
      co_await client->Close();
      co_return got.success.record.value;
    }
  };
  EXPECT_EQ(*kernel_.RunTask(*at_client_, Body::Run(&compact, KeyIn(0))), "compact");
}

// -- gets that share

// Sends gets of one key on connections of their own.
class SharingTest : public RouterTest {
 protected:
  struct Reader {
    std::unique_ptr<RpcClient> client;
    api::Kv_get_result result;
    Nanos took_ns = 0;
  };
  void Connect(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      Reader& reader = readers_.emplace_back();
      reader.client = std::make_unique<RpcClient>(*at_client_);
      CHECK(kernel_.RunTask(*at_client_, reader.client->Connect(kRouterHost, 7430, kSecond))->ok());
    }
  }
  void TearDown() override {
    for (Reader& reader : readers_) kernel_.RunTask(*at_client_, reader.client->Close());
    RouterTest::TearDown();
  }
  Task<void> Read(Reader* reader, std::string key, int32_t budget_ms) {
    api::Kv_get_args args;
    args.request.key = std::move(key);
    args.context.budget_ms = budget_ms;
    const Nanos began_ns = at_client_->NowNs();
    CHECK((co_await reader->client->Call("get", &args, &reader->result, 60 * kSecond)).ok());
    reader->took_ns = at_client_->NowNs() - began_ns;
  }
  std::deque<Reader> readers_;
  TaskGroup reads_;
};

TEST_F(SharingTest, ManyGetsOfOneKeyAreTwo) {
  Connect(40);
  Put(KeyIn(0), "v");
  MasterOf(0).manners.delay_ns = 20 * kMillisecond;
  for (Reader& reader : readers_) reads_.Spawn(Read(&reader, KeyIn(0), 5000));
  kernel_.RunFor(kSecond);
  EXPECT_EQ(reads_.running(), 0u);
  for (const Reader& reader : readers_) EXPECT_EQ(reader.result.success.record.value, "v");
  EXPECT_LE(MasterOf(0).gets, 4);  // those that came in the turns before the first was answered
  EXPECT_GE(service_->forwarder().metrics().shared_total.value(), 30u);
}

// GS1: a get that comes while another is on its way must see what was acknowledged before it came.
TEST_F(SharingTest, AGetSeesWhatWasAcknowledgedBeforeIt) {
  Connect(2);
  Put(KeyIn(0), "old");
  MasterOf(0).manners.delay_after_ns = 50 * kMillisecond;  // the answer is made at once, and comes late
  reads_.Spawn(Read(&readers_[0], KeyIn(0), 5000));
  kernel_.RunFor(10 * kMillisecond);
  MasterOf(0).manners.delay_after_ns = 0;
  Put(KeyIn(0), "new");
  reads_.Spawn(Read(&readers_[1], KeyIn(0), 5000));
  kernel_.RunFor(kSecond);
  EXPECT_EQ(readers_[0].result.success.record.value, "old");
  EXPECT_EQ(readers_[1].result.success.record.value, "new");
  EXPECT_EQ(service_->forwarder().metrics().shared_total.value(), 1u);
}

// GS2.
TEST_F(SharingTest, EachHasItsOwnBudget) {
  Connect(3);
  Put(KeyIn(0), "v");
  MasterOf(0).manners.silent = true;
  reads_.Spawn(Read(&readers_[0], KeyIn(0), 2000));
  kernel_.RunFor(5 * kMillisecond);
  reads_.Spawn(Read(&readers_[1], KeyIn(0), 100));
  reads_.Spawn(Read(&readers_[2], KeyIn(0), 10'000));
  kernel_.RunFor(kSecond);
  EXPECT_EQ(readers_[1].result.error.code, api::g_pando_constants.DEADLINE);
  EXPECT_LT(readers_[1].took_ns, 150 * kMillisecond);
  MasterOf(0).manners.silent = false;
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(reads_.running(), 0u);
  EXPECT_EQ(readers_[0].result.error.code, api::g_pando_constants.DEADLINE);
  EXPECT_EQ(readers_[2].result.success.record.value, "v");
}

// A connection has room for more requests when those that waited were answered, however long another client's waits.
TEST_F(SharingTest, GetsThatAreLateDoNotHoldUpTheirConnection) {
  Connect(2);
  Put(KeyIn(1), "one");
  MasterOf(0).manners.silent = true;
  reads_.Spawn(Read(&readers_[0], KeyIn(0), 30'000));
  kernel_.RunFor(5 * kMillisecond);
  std::vector<api::Kv_get_result> late(RpcOptions().max_requests);
  struct Body {
    static Task<void> Get(RpcClient* client, std::string key, int32_t budget_ms, api::Kv_get_result* result) {
      api::Kv_get_args args;
      args.request.key = std::move(key);
      args.context.budget_ms = budget_ms;
      CHECK((co_await client->Call("get", &args, result, 60 * kSecond)).ok());
    }
  };
  TaskGroup gets;
  for (api::Kv_get_result& result : late) gets.Spawn(Body::Get(readers_[1].client.get(), KeyIn(0), 100, &result));
  kernel_.RunFor(kSecond);
  for (const api::Kv_get_result& result : late) EXPECT_EQ(result.error.code, api::g_pando_constants.DEADLINE);
  api::Kv_get_result other;
  gets.Spawn(Body::Get(readers_[1].client.get(), KeyIn(1), 1000, &other));
  kernel_.RunFor(2 * kSecond);
  EXPECT_EQ(gets.running(), 0u);
  EXPECT_EQ(other.success.record.value, "one");
  MasterOf(0).manners.silent = false;
  kernel_.RunFor(60 * kSecond);
}

TEST_F(SharingTest, WhatSharesAFailureIsTriedByItself) {
  Connect(4);
  Put(KeyIn(0), "v");
  MasterOf(0).manners.silent = true;
  reads_.Spawn(Read(&readers_[0], KeyIn(0), 300));  // the others wait for it
  kernel_.RunFor(5 * kMillisecond);
  reads_.Spawn(Read(&readers_[1], KeyIn(0), 700));  // and then share this one
  kernel_.RunFor(5 * kMillisecond);
  reads_.Spawn(Read(&readers_[2], KeyIn(0), 20'000));
  reads_.Spawn(Read(&readers_[3], KeyIn(0), 20'000));
  kernel_.RunFor(600 * kMillisecond);
  MasterOf(0).manners.silent = false;
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(readers_[2].result.success.record.value, "v");
  EXPECT_EQ(readers_[3].result.success.record.value, "v");
}

// RK3.
TEST_F(RouterTest, WhatAllNodesContradictIsNotBelievedForLong) {
  Put(KeyIn(0), "zero");
  // The nodes told of a map that is not true, and do not know of it any more: they did not mean it, or were put back.
  const std::vector<int64_t> epochs = cluster_.epochs;
  const std::vector<NodeId> masters = cluster_.masters;
  const int64_t version = cluster_.version;
  cluster_.version += 1000;
  for (int64_t& epoch : cluster_.epochs) epoch += 1000;
  cluster_.masters.assign(kPartitionCount, 1 + masters[0] % 3);
  kernel_.RunFor(2 * kSecond);
  ASSERT_EQ(keeper_->map().Find(0)->epoch, 1001u);
  cluster_.version = version;
  cluster_.epochs = epochs;
  cluster_.masters = masters;
  for (auto& node : nodes_) node->manners.no_hint = true;
  EXPECT_EQ(Get(KeyIn(0), Budget(20'000)).success.record.value, "zero");
  EXPECT_EQ(keeper_->map().Find(0)->epoch, 1u);
  EXPECT_EQ(keeper_->map().version(), version);
}

// A write is answered in any case; what it says of the record that was there is not worth the last memory.
TEST_F(RouterTest, RefusedWritesLeaveTheValueOutWhenMemoryIsShort) {
  const std::string key = KeyIn(0);
  cluster_.records[key] = std::string(500'000, 'v');
  for (auto& node : nodes_) node->manners.refuse_puts = true;
  api::Kv_put_result result = Put(key, "w");
  EXPECT_EQ(result.success.current.value.size(), 500'000u);
  EXPECT_FALSE(result.success.current_value_omitted);
  // The budget of all but the request itself.
  server_->account().Force(shared_.memory.limit_bytes() - (64 << 10));
  struct Body {
    static Task<void> Run(RpcClient* client, std::string key, api::Kv_put_result* result) {
      api::Kv_put_args args;
      args.request.key = std::move(key);
      CHECK((co_await client->Call("put", &args, result, 10 * kSecond)).ok());
    }
  };
  MasterOf(0).manners.delay_ns = 100 * kMillisecond;
  api::Kv_put_result late;
  TaskGroup call;
  call.Spawn(Body::Run(client_.get(), key, &late));
  kernel_.RunFor(50 * kMillisecond);
  server_->account().Force(128 << 10);
  kernel_.RunFor(kSecond);
  EXPECT_EQ(call.running(), 0u);
  EXPECT_TRUE(late.__isset.success) << late.error.message;
  EXPECT_FALSE(late.success.applied);
  EXPECT_TRUE(late.success.current.found);
  EXPECT_TRUE(late.success.current_value_omitted);
  EXPECT_TRUE(late.success.current.value.empty());
  server_->account().Release(shared_.memory.limit_bytes() + (64 << 10));
}

// -- multiGet and writeBatch

// BC1, BC2.
TEST_F(RouterTest, BatchesAreSplitByNodeAndPutTogetherInOrder) {
  api::Kv_writeBatch_args write;
  api::Kv_multiGet_args read;
  for (int i = 0; i < 100; ++i) {
    api::WriteOp& op = write.request.ops.emplace_back();
    op.kind = api::g_pando_constants.OP_PUT;
    op.key = fmt::format("k{}", i);
    op.value = fmt::format("v{}", i);
    read.request.keys.push_back(op.key);
  }
  read.request.keys.push_back("missing");
  // A move that nobody has told of, and a node that has no time: only their entries are tried again.
  Get(KeyIn(0));
  cluster_.Move(0, 3);
  node(2).manners.busy = 1;
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_writeBatch_args* w, api::Kv_writeBatch_result* written,
                          api::Kv_multiGet_args* r, api::Kv_multiGet_result* result) {
      CHECK((co_await client->Call("writeBatch", w, written, 20 * kSecond)).ok());
      CHECK((co_await client->Call("multiGet", r, result, 20 * kSecond)).ok());
    }
  };
  api::Kv_writeBatch_result written;
  api::Kv_multiGet_result result;
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &write, &written, &read, &result));
  ASSERT_EQ(written.success.results.size(), 100u);
  for (const api::WriteResult& r : written.success.results) EXPECT_TRUE(r.applied) << r.error.message;
  EXPECT_EQ(node(1).writes + node(2).writes + node(3).writes, 100);
  ASSERT_EQ(result.success.items.size(), 101u);
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(result.success.items[i].record.value, fmt::format("v{}", i)) << result.success.items[i].error.message;
  }
  EXPECT_FALSE(result.success.items[100].record.found);
  EXPECT_FALSE(result.success.items[100].__isset.error);
}

// BC3.
TEST_F(RouterTest, ALostBatchIsUnknownForItsNodeAlone) {
  node(1).manners.close_after = 1;
  api::Kv_writeBatch_args write;
  for (uint32_t p = 0; p < kPartitionCount; ++p) {
    api::WriteOp& op = write.request.ops.emplace_back();
    op.kind = api::g_pando_constants.OP_PUT;
    op.key = KeyIn(p);
    op.value = "v";
  }
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_writeBatch_args* w, api::Kv_writeBatch_result* written) {
      CHECK((co_await client->Call("writeBatch", w, written, 20 * kSecond)).ok());
    }
  };
  api::Kv_writeBatch_result written;
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &write, &written));
  ASSERT_EQ(written.success.results.size(), kPartitionCount);
  for (uint32_t p = 0; p < kPartitionCount; ++p) {
    const api::WriteResult& r = written.success.results[p];
    EXPECT_EQ(r.applied, cluster_.masters[p] != 1);
    EXPECT_EQ(r.__isset.error, cluster_.masters[p] == 1);
    if (r.__isset.error) {
      EXPECT_EQ(r.error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
    }
  }
  EXPECT_EQ(node(1).requests, 1);
}

}  // namespace
}  // namespace pando
