// A router under load, and before nodes that do not answer: what one client may take, and how long nobody waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/router_harness.h"

namespace pando {
namespace {

using testing::HasSubstr;

// -- long calls

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
  RpcClient other(*at_client_);
  CHECK(kernel_.RunTask(*at_client_, other.Connect(kRouterHost, 7430, kSecond))->ok());
  api::Kv_multiGet_result result;
  kernel_.RunTask(*at_client_, Body::Run(&other, KeyIn(0), &result));
  ASSERT_EQ(result.success.items.size(), 1u) << result.error.message;
  EXPECT_EQ(result.success.items[0].record.value, "zero") << result.success.items[0].error.message;
  EXPECT_GT(keeper_->metrics().upstream.refused_share_total.value(), 0u);
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(calls.running(), 0u);
  kernel_.RunTask(*at_client_, other.Close());
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
  EXPECT_TRUE(Put(KeyIn(1), "v").success.applied) << "others go on";
  taken.ReleaseAll();
  kernel_.RunFor(5 * kSecond);
  ASSERT_EQ(result.success.items.size(), 3u) << result.error.message;
  for (const api::MultiGetItem& item : result.success.items) EXPECT_EQ(item.record.value.size(), 1'000'000u);
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

}  // namespace
}  // namespace pando
