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

}  // namespace
}  // namespace pando
