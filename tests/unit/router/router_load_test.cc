// A router under load, and before nodes that do not answer: what one client may take, and how long nobody waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/router/client_share.h"
#include "src/router/node_calls.h"
#include "tests/support/router_harness.h"

namespace pando {
namespace {

using testing::HasSubstr;

// -- long calls

// UP3: however many connections it has.
TEST_F(RouterTest, TheLongCallsOfOneHostLeaveRoomForOthers) {
  Put(KeyIn(0), "zero");
  MasterOf(0).manners.delay_ns = 2 * kSecond;
  struct Body {
    static Task<void> Run(RpcClient* client, std::string key, api::Kv_multiGet_result* result) {
      api::Kv_multiGet_args args;
      args.context = Budget(1000);
      args.request.keys = {std::move(key)};
      CHECK((co_await client->Call("multiGet", &args, result, 60 * kSecond)).ok());
    }
  };
  constexpr size_t kConnections = 6, kCalls = 40;
  std::vector<std::unique_ptr<RpcClient>> clients;
  for (size_t i = 0; i < kConnections; ++i) {
    clients.push_back(std::make_unique<RpcClient>(*at_client_));
    CHECK(kernel_.RunTask(*at_client_, clients.back()->Connect(kRouterHost, 7430, kSecond))->ok());
  }
  const int before = MasterOf(0).requests;
  std::vector<api::Kv_multiGet_result> results(kConnections * kCalls);
  TaskGroup calls;
  for (size_t i = 0; i < results.size(); ++i) {
    calls.Spawn(Body::Run(clients[i % kConnections].get(), KeyIn(0), &results[i]));
  }
  kernel_.RunFor(500 * kMillisecond);
  EXPECT_LE(MasterOf(0).requests - before, static_cast<int>(Upstream::kMaxLongCalls * 2 / 3));
  EXPECT_GT(keeper_->metrics().upstream.refused_share_total.value(), 0u);
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(calls.running(), 0u);
  for (auto& client : clients) kernel_.RunTask(*at_client_, client->Close());
}

TEST(ClientShare, IsOfAHostOrOfAPrincipal) {
  const auto share = [](std::string address, std::string principal = "") {
    Identity identity;
    identity.address = std::move(address);
    identity.principal = std::move(principal);
    return ShareOf(identity);
  };
  EXPECT_EQ(share("10.0.0.1:5000"), share("10.0.0.1:6000"));
  EXPECT_NE(share("10.0.0.1:5000"), share("10.0.0.2:5000"));
  EXPECT_EQ(share("10.0.0.1:5000"), share("[::ffff:10.0.0.1]:5000")) << "the same host";
  EXPECT_EQ(share("[2001:db8::1]:5000"), share("[2001:db8::2:0:0:9]:5000"));
  EXPECT_NE(share("[2001:db8::1]:5000"), share("[2001:db8:0:1::1]:5000"));
  EXPECT_EQ(share("10.0.0.1:5000", "ann"), share("10.0.0.2:5000", "ann"));
  EXPECT_NE(share("10.0.0.1:5000", "ann"), share("10.0.0.1:5000", "bob"));
  EXPECT_NE(share("10.0.0.1:5000", "ann"), share("10.0.0.1:5000"));
  for (int i = 0; i < 1000; ++i) EXPECT_GT(share(fmt::format("host{}", i)), CallTerms::kRouterItself);
}

// What a node can do and the router would not pass on is not announced; nor is what the node cannot do.
TEST_F(RouterTest, AnnouncesWhatBothCanDo) {
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_hello_result* hello, api::Kv_scan_result* scan) {
      api::Kv_hello_args args;
      args.request.api_version = 2;
      CHECK((co_await client->Call("hello", &args, hello, kSecond)).ok());
      api::Kv_scan_args of_slice;
      of_slice.request.slices = 2;
      CHECK((co_await client->Call("scan", &of_slice, scan, 60 * kSecond)).ok());
    }
  };
  for (auto& node : nodes_) node->features = {"levels", "time_travel", "out_of_order_replies"};
  api::Kv_hello_result hello;
  api::Kv_scan_result scan;
  const Nanos began_ns = kernel_.now_ns();
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &hello, &scan));
  EXPECT_THAT(hello.success.features, testing::UnorderedElementsAre("levels", "out_of_order_replies"));
  // Such a node would read the rows of all slices.
  EXPECT_EQ(scan.error.code, api::g_pando_constants.BAD_REQUEST);
  EXPECT_THAT(scan.error.message, HasSubstr("cannot read slices"));
  EXPECT_LT(kernel_.now_ns() - began_ns, kSecond);
}

// What rows take when they are decoded is more than what they take on the wire.
TEST(DecodedReply, IsCountedAsWhatItTakes) {
  api::Routing_scanPartitions_result sent, read;
  sent.__isset.success = true;
  for (int i = 0; i < 10'000; ++i) sent.success.rows.emplace_back().key = fmt::format("k{}", i);
  ThriftCodec codec;
  std::string wire;
  codec.WriteStruct(sent, &wire);
  MemoryBudget budget(64 << 20);
  BudgetAccount account(&budget);
  MemoryGrant memory(&account);
  constexpr size_t kEntry = EntryBytesOf<api::Routing_scanPartitions_result>();
  ASSERT_TRUE(codec.ReadReply(WireProtocol::kBinary, wire, &read, &memory, kEntry, false).ok());
  EXPECT_GE(memory.bytes(), wire.size() + 10'000 * sizeof(api::Row));
  EXPECT_GT(memory.bytes(), 2 * wire.size());
  memory.ReleaseAll();
  // Nothing is decoded that there is no memory for, unless it must be.
  MemoryGrant taken(&account);
  ASSERT_TRUE(taken.TryGrow((64u << 20) - wire.size() - (256u << 10)));
  api::Routing_scanPartitions_result refused;
  const Status status = codec.ReadReply(WireProtocol::kBinary, wire, &refused, &memory, kEntry, false);
  EXPECT_EQ(status.code(), Code::kOverloaded) << status.message();
  EXPECT_TRUE(refused.success.rows.empty());
  memory.ReleaseAll();
  ASSERT_TRUE(codec.ReadReply(WireProtocol::kBinary, wire, &refused, &memory, kEntry, true).ok());
  EXPECT_EQ(refused.success.rows.size(), 10'000u);
}

// UP3.
TEST_F(RouterTest, TheLongCallsOfOneClientLeaveRoomForOthers) {
  Put(KeyIn(0), "zero");
  MasterOf(0).manners.delay_ns = 2 * kSecond;
  struct Body {
    static Task<void> Run(RpcClient* client, std::string key, api::Kv_multiGet_result* result) {
      api::Kv_multiGet_args args;
      args.context = Budget(3000);
      args.request.keys = {std::move(key)};
      CHECK((co_await client->Call("multiGet", &args, result, 60 * kSecond)).ok());
    }
  };
  std::vector<api::Kv_multiGet_result> results(RpcOptions().max_requests);
  TaskGroup calls;
  for (api::Kv_multiGet_result& result : results) calls.Spawn(Body::Run(client_.get(), KeyIn(0), &result));
  kernel_.RunFor(100 * kMillisecond);
  SimReactor* elsewhere = kernel_.AddMachine("10.0.2.2")->Boot();
  RpcClient other(*elsewhere);
  CHECK(kernel_.RunTask(*elsewhere, other.Connect(kRouterHost, 7430, kSecond))->ok());
  api::Kv_multiGet_result result;
  kernel_.RunTask(*elsewhere, Body::Run(&other, KeyIn(0), &result));
  ASSERT_EQ(result.success.items.size(), 1u) << result.error.message;
  EXPECT_EQ(result.success.items[0].record.value, "zero") << result.success.items[0].error.message;
  EXPECT_GT(keeper_->metrics().upstream.refused_share_total.value(), 0u);
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(calls.running(), 0u);
  kernel_.RunTask(*elsewhere, other.Close());
}

// Nobody else's gets wait behind those that wait at a node for what it does not have, and never will.
TEST_F(RouterTest, GetsThatWaitAtANodeHaveAConnectionOfTheirOwn) {
  Put(KeyIn(0), "zero");
  MasterOf(0).manners.too_stale_after_ns = 200 * kMillisecond;
  constexpr int kClients = 12;
  struct Body {
    static Task<void> Run(RpcClient* client, const api::Kv_get_args* args, api::Kv_get_result* result) {
      CHECK((co_await client->Call("get", args, result, 60 * kSecond)).ok());
    }
  };
  api::Kv_get_args args;
  args.context = Budget(30'000);
  args.context.level = api::g_pando_constants.LEVEL_SESSION;
  args.context.session = "of the future";
  args.request.key = KeyIn(0);
  std::vector<SimReactor*> hosts;
  std::vector<std::unique_ptr<RpcClient>> clients;
  std::vector<api::Kv_get_result> results(kClients * RpcOptions().max_requests);
  TaskGroup calls;
  for (size_t i = 0; i < results.size(); ++i) {
    if (clients.size() < kClients) {
      hosts.push_back(kernel_.AddMachine(fmt::format("10.0.2.{}", 2 + i))->Boot());
      clients.push_back(std::make_unique<RpcClient>(*hosts.back()));
      CHECK(kernel_.RunTask(*hosts.back(), clients.back()->Connect(kRouterHost, 7430, kSecond))->ok());
    }
    calls.Spawn(Body::Run(clients[i % clients.size()].get(), &args, &results[i]));
  }
  for (int i = 0; i < 20; ++i) {
    const Nanos begin_ns = kernel_.now_ns();
    EXPECT_EQ(Get(KeyIn(0), Budget(3000)).success.record.value, "zero");
    EXPECT_LT(kernel_.now_ns() - begin_ns, 50 * kMillisecond);
    kernel_.RunFor(50 * kMillisecond);
  }
  EXPECT_GT(keeper_->metrics().upstream.refused_share_total.value(), 0u);
  kernel_.RunFor(20 * kSecond);
  EXPECT_EQ(calls.running(), 0u) << "what the master does not have after several tries, it will not have";
  for (const api::Kv_get_result& result : results) EXPECT_TRUE(result.__isset.error);
  EXPECT_THAT(results[0].error.message, HasSubstr("not yet applied (tried 3 times"));
  for (size_t i = 0; i < clients.size(); ++i) kernel_.RunTask(*hosts[i], clients[i]->Close());
}

// Answers take memory when they come: what there is no room for is asked for again, or shed.
TEST_F(RouterTest, ManyLargeAnswersStayWithinTheBudget) {
  std::vector<std::string> keys;
  for (int i = 0; keys.size() < 3; ++i) {
    if (cluster_.PartitionOf(fmt::format("large{}", i)) == 0) keys.push_back(fmt::format("large{}", i));
  }
  for (const std::string& large : keys) cluster_.records[large] = std::string(1'000'000, 'v');
  struct Body {
    static Task<void> Run(RpcClient* client, std::vector<std::string> keys, api::Kv_multiGet_result* result) {
      api::Kv_multiGet_args args;
      args.context = Budget(20'000);
      args.request.keys = std::move(keys);
      CHECK((co_await client->Call("multiGet", &args, result, 60 * kSecond)).ok());
    }
  };
  // All memory but a little is taken by somebody else.
  MemoryGrant taken(&server_->account());
  ASSERT_TRUE(taken.TryGrow(static_cast<size_t>(shared_.memory.limit_bytes()) - (2u << 20)));
  api::Kv_multiGet_result result;
  TaskGroup call;
  call.Spawn(Body::Run(client_.get(), keys, &result));
  kernel_.RunFor(kSecond);
  EXPECT_EQ(call.running(), 1u);
  EXPECT_GT(keeper_->metrics().upstream.unread_total.value(), 0u);
  // On a connection of its own: on that one, replies keep their order.
  struct Other {
    static Task<void> Run(RpcClient* client, std::string key) {
      CHECK((co_await client->Connect(kRouterHost, 7430, kSecond)).ok());
      api::Kv_put_args args;
      api::Kv_put_result result;
      args.request.key = std::move(key);
      CHECK((co_await client->Call("put", &args, &result, kSecond)).ok());
      EXPECT_TRUE(result.success.applied) << "others go on";
      co_await client->Close();
    }
  };
  RpcClient other(*at_client_);
  kernel_.RunTask(*at_client_, Other::Run(&other, KeyIn(1)));
  taken.ReleaseAll();
  kernel_.RunFor(5 * kSecond);
  ASSERT_EQ(result.success.items.size(), 3u) << result.error.message;
  for (const api::MultiGetItem& item : result.success.items)
    EXPECT_EQ(item.record.value.size(), 1'000'000u) << item.error.message;
}

// What ops return of earlier values may be more than a frame holds: what does not fit is left out, and no result.
TEST_F(RouterTest, TheValuesThatABatchReturnsFitIntoAFrame) {
  api::Kv_writeBatch_args write;
  for (int i = 0; i < 12; ++i) {
    api::WriteOp& op = write.request.ops.emplace_back();
    op.kind = api::g_pando_constants.OP_PUT;
    op.key = fmt::format("large{}", i);
    op.value = "v";
    op.return_previous = true;
    cluster_.records[op.key] = std::string(800'000, 'v');
  }
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_writeBatch_args* w, api::Kv_writeBatch_result* written) {
      const Status called = co_await client->Call("writeBatch", w, written, 20 * kSecond);
      CHECK(called.ok()) << called.message();
    }
  };
  api::Kv_writeBatch_result written;
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &write, &written));
  ASSERT_EQ(written.success.results.size(), 12u) << written.error.message;
  size_t whole = 0, omitted = 0;
  for (const api::WriteResult& result : written.success.results) {
    EXPECT_TRUE(result.applied) << result.error.message;
    EXPECT_TRUE(result.__isset.previous);
    EXPECT_EQ(result.previous.value.empty(), result.previous_value_omitted);
    whole += result.previous.value.size() == 800'000 ? 1 : 0;
    omitted += result.previous_value_omitted ? 1 : 0;
  }
  EXPECT_EQ(whole, 4u);
  EXPECT_EQ(omitted, 8u);
}

// -- silent nodes

class SilenceTest : public RouterTest {
 protected:
  api::Kv_multiGet_result MultiGet(int32_t level, int32_t budget_ms) {
    api::Kv_multiGet_args args;
    args.context = Budget(budget_ms);
    args.context.level = level;
    args.context.max_staleness_ms = 1000;
    for (uint32_t p = 0; p < kPartitionCount; ++p) args.request.keys.push_back(KeyIn(p));
    struct Body {
      static Task<void> Run(RpcClient* client, api::Kv_multiGet_args* args, api::Kv_multiGet_result* result) {
        CHECK((co_await client->Call("multiGet", args, result, 60 * kSecond)).ok());
      }
    };
    api::Kv_multiGet_result result;
    kernel_.RunTask(*at_client_, Body::Run(client_.get(), &args, &result));
    return result;
  }
};

TEST_F(SilenceTest, AMultiGetLeavesASilentReplicaForAnother) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) Put(KeyIn(p), "v");
  node(2).manners.silent = true;
  const Nanos began_ns = kernel_.now_ns();
  const api::Kv_multiGet_result result = MultiGet(api::g_pando_constants.LEVEL_BOUNDED, 10'000);
  ASSERT_EQ(result.success.items.size(), kPartitionCount) << result.error.message;
  for (const api::MultiGetItem& item : result.success.items) EXPECT_EQ(item.record.value, "v") << item.error.message;
  EXPECT_LT(kernel_.now_ns() - began_ns, 3 * kSecond);
}

// What others have answered arrives, and the error says whose answer is missing.
TEST_F(SilenceTest, AMultiGetSaysWhichPartitionsDidNotAnswer) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) Put(KeyIn(p), "v");
  node(2).manners.silent = true;
  const api::Kv_multiGet_result result = MultiGet(api::g_pando_constants.LEVEL_LINEARIZABLE, 600);
  ASSERT_EQ(result.success.items.size(), kPartitionCount) << result.error.message;
  for (uint32_t p = 0; p < kPartitionCount; ++p) {
    const api::MultiGetItem& item = result.success.items[p];
    if (cluster_.masters[p] != 2) {
      EXPECT_EQ(item.record.value, "v");
      continue;
    }
    EXPECT_EQ(item.error.code, api::g_pando_constants.DEADLINE);
    EXPECT_THAT(item.error.message, HasSubstr(fmt::format("partition {}: 10.0.0.2:7420", p)));
  }
}

// It says itself that it was too slow, so its connections stay, with all that others wait for on them.
TEST_F(SilenceTest, ANodeThatIsSlowIsNotTakenForSilent) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) Put(KeyIn(p), "v");
  node(2).manners.delay_ns = 60 * kSecond;
  for (int i = 0; i < 5; ++i) {
    const api::Kv_multiGet_result result = MultiGet(api::g_pando_constants.LEVEL_LINEARIZABLE, 600);
    ASSERT_EQ(result.success.items.size(), kPartitionCount) << result.error.message;
    for (uint32_t p = 0; p < kPartitionCount; ++p) {
      const int32_t code = result.success.items[p].error.code;
      EXPECT_EQ(code, cluster_.masters[p] == 2 ? api::g_pando_constants.DEADLINE : 0);
    }
  }
  EXPECT_EQ(keeper_->metrics().upstream.tripped_total.value(), 0u);
}

// What a replica that is slow got of the budget is not all of it.
TEST_F(SilenceTest, AMultiGetLeavesASlowReplicaForAnother) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) Put(KeyIn(p), "v");
  node(2).manners.delay_ns = 60 * kSecond;
  for (const int32_t budget_ms : {1500, 10'000}) {
    const api::Kv_multiGet_result result = MultiGet(api::g_pando_constants.LEVEL_BOUNDED, budget_ms);
    ASSERT_EQ(result.success.items.size(), kPartitionCount) << result.error.message;
    for (const api::MultiGetItem& item : result.success.items) EXPECT_EQ(item.record.value, "v") << item.error.message;
  }
}

// FW3. Also if it is the master, and with a budget shorter than the router would wait.
TEST_F(SilenceTest, AGetLeavesASlowReplicaForAnother) {
  for (uint32_t p = 0; p < kPartitionCount; ++p) Put(KeyIn(p), "v");
  node(2).manners.delay_ns = 60 * kSecond;
  node(2).budgets_ms.clear();
  for (const int32_t budget_ms : {200, 1500, 10'000}) {
    api::Context context = Budget(budget_ms);
    context.level = api::g_pando_constants.LEVEL_BOUNDED;
    context.max_staleness_ms = 1000;
    for (uint32_t p = 0; p < 2 * kPartitionCount; ++p) {
      const api::Kv_get_result result = Get(KeyIn(p % kPartitionCount), context);
      EXPECT_EQ(result.success.record.value, "v") << result.error.message;
    }
  }
  EXPECT_GT(node(2).budgets_ms.size(), 6u) << "it was asked";
  for (const int32_t given_ms : node(2).budgets_ms) EXPECT_LT(given_ms, 300);
  EXPECT_EQ(keeper_->metrics().upstream.tripped_total.value(), 0u);
}

// Nobody else can answer, so it gets all the time there is.
TEST_F(SilenceTest, AGetWaitsForAReplicaThatIsAlone) {
  Put(KeyIn(0), "v");
  cluster_.in_sync_everywhere = false;
  ++cluster_.version;
  kernel_.RunFor(100 * kMillisecond);
  MasterOf(0).manners.delay_ns = 2 * kSecond;
  const int before = MasterOf(0).gets;
  api::Context context = Budget(5000);
  context.level = api::g_pando_constants.LEVEL_BOUNDED;
  context.max_staleness_ms = 1000;
  const api::Kv_get_result result = Get(KeyIn(0), context);
  EXPECT_EQ(result.success.record.value, "v") << result.error.message;
  EXPECT_EQ(MasterOf(0).gets, before + 1);
}

// -- hedged reads

class HedgeTest : public RouterTest {
 protected:
  explicit HedgeTest(double percent = 2) : RouterTest(Options(percent)) {}
  static PointOptions Options(double percent) {
    PointOptions options;
    options.hedge_percent = percent;
    return options;
  }
  void SetUp() override {
    RouterTest::SetUp();
    context_ = Budget(5000);
    context_.level = api::g_pando_constants.LEVEL_BOUNDED;
    context_.max_staleness_ms = 1000;
    Put(KeyIn(0), "v");
  }
  // Reads so often. Returns how many took longer than a node that is not slow.
  int Read(int count) {
    int slow = 0;
    for (int i = 0; i < count; ++i) {
      const Nanos began_ns = kernel_.now_ns();
      EXPECT_EQ(Get(KeyIn(0), context_).success.record.value, "v");
      slow += kernel_.now_ns() - began_ns > 100 * kMillisecond ? 1 : 0;
    }
    return slow;
  }
  int gets() { return node(1).gets + node(2).gets + node(3).gets; }
  HedgeMetrics& hedges() { return service_->forwarder().hedge_metrics(); }
  api::Context context_;
};

TEST_F(HedgeTest, ASlowReplicaIsOvertaken) {
  Read(500);  // earns ten tokens
  const uint64_t before = hedges().sent_total.value();
  EXPECT_LE(before, 10u);
  node(2).manners.delay_ns = 200 * kMillisecond;
  const int gets_before = node(2).gets;
  EXPECT_EQ(Read(10), 0) << "nobody waits for it";
  EXPECT_GT(node(2).gets, gets_before);
  EXPECT_GT(hedges().won_total.value(), 0u);
  kernel_.RunFor(kSecond);  // the answers that nobody waits for
  node(2).manners.delay_ns = 0;
  EXPECT_EQ(Read(10), 0);
}

// HG1.
TEST_F(HedgeTest, ASlowClusterIsNotAskedTwice) {
  Read(200);
  for (NodeId id = 1; id <= 3; ++id) node(id).manners.delay_ns = 20 * kMillisecond;
  const int before = gets();
  Read(300);
  EXPECT_LE(gets() - before, 300 + 10);
  EXPECT_GT(hedges().no_token_total.value(), 0u);
  EXPECT_LE(hedges().sent_total.value(), 10u);
}

// HG2: the first one answers after the second was sent.
TEST_F(HedgeTest, AHedgeThatLosesIsDropped) {
  Read(500);
  node(2).manners.delay_ns = 5 * kMillisecond;
  for (NodeId id : {1u, 3u}) node(id).manners.delay_ns = 30 * kMillisecond;
  Read(20);
  kernel_.RunFor(kSecond);
  EXPECT_GT(hedges().sent_total.value(), hedges().won_total.value());
  // A node that does not answer at all.
  for (NodeId id = 1; id <= 3; ++id) node(id).manners.delay_ns = 0;
  Read(500);
  node(2).manners.silent = true;
  Read(8);
}

class NoHedgeTest : public HedgeTest {
 protected:
  NoHedgeTest() : HedgeTest(0) {}
};

TEST_F(NoHedgeTest, IsTheDefault) {
  Read(100);
  node(2).manners.delay_ns = 200 * kMillisecond;
  EXPECT_GT(Read(20), 0);
  EXPECT_EQ(hedges().sent_total.value(), 0u);
}

}  // namespace
}  // namespace pando
