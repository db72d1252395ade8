// RpcServer and RpcClient through byte filters, on both reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gen-cpp/Kv.h"
#include "src/rpc/rpc_client.h"
#include "src/rpc/rpc_dispatch.h"
#include "src/rpc/rpc_server.h"
#include "tests/support/rpc_harness.h"
#include "tests/support/toy_filter.h"
#include "tests/unit/io/reactor_harness.h"

namespace pando {
namespace {

using testing::HasSubstr;

template <typename Harness>
class RpcOverFilter : public testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(RpcOverFilter, ReactorImplementations, ReactorNames);

// Answers `get` with the client's name and the key. The key "I am X" sets the name.
class NameService final : public RpcService {
 public:
  NameService(Reactor& reactor, RpcServer* server) : reactor_(reactor), server_(server) {}
  void OnRequest(const RpcRequest& request) override {
    StartCall<&NameService::Get, api::Kv_get_args, api::Kv_get_result>(this, server_, &tasks_, nullptr, request, "get");
  }
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}
  Task<void> Get(RpcCall<api::Kv_get_args, api::Kv_get_result>* call) {
    const std::string& key = call->args.request.key;
    if (key.starts_with("I am ")) server_->SetPrincipal(call->id, key.substr(5));
    co_await Yield(reactor_);
    const Identity* identity = server_->IdentityOf(call->id);
    if (identity == nullptr) co_return;
    call->reply.success.record.found = true;
    call->reply.success.record.value = identity->principal + ":" + key;
    call->reply.__isset.success = true;
  }
  Task<void> Drain() { co_await tasks_.Drain(); }

 private:
  Reactor& reactor_;
  RpcServer* server_;
  TaskGroup tasks_;
};

struct Node {
  explicit Node(Reactor& reactor, RpcOptions options = {})
      : server(reactor, options, &shared), service(reactor, &server) {
    server.SetService(&service);
    Result<uint16_t> bound = server.Listen({});
    CHECK(bound.ok()) << bound.status().ToString();
    port = *bound;
  }
  Task<void> Stop() {
    co_await server.Shutdown(kSecond);
    co_await service.Drain();
    EXPECT_EQ(server.account().in_use_bytes(), 0);
    EXPECT_EQ(server.metrics().filters.handshakes.value(), 0);
  }
  RpcShared shared{64 << 20};
  RpcServer server;
  NameService service;
  uint16_t port = 0;
};

struct Outcome {
  Status status;
  std::string value;
};
Task<void> GetInto(RpcClient* client, std::string key, Outcome* outcome) {
  api::Kv_get_args args;
  api::Kv_get_result result;
  args.request.key = std::move(key);
  outcome->status = co_await client->Call("get", &args, &result, 10 * kSecond);
  outcome->value = result.success.record.value;
}
Task<Outcome> GetOne(RpcClient* client, std::string key) {
  Outcome outcome;
  co_await GetInto(client, std::move(key), &outcome);
  co_return outcome;
}

std::string KeyOf(size_t i) { return std::string(1 + i * 7919 % 30'000, static_cast<char>('a' + i % 26)); }

Task<void> Pipelined(Reactor& r) {
  ToyFilters server_filters(/*client=*/false), client_filters(/*client=*/true, "alice");
  RpcOptions options;
  options.filters = &server_filters;
  Node node(r, options);
  RpcClientOptions with_filter;
  with_filter.filters = &client_filters;
  RpcClient client(r, with_filter);
  EXPECT_OK(co_await client.Connect("127.0.0.1", node.port, kSecond));
  std::vector<Outcome> outcomes(200);
  TaskGroup calls;
  for (size_t i = 0; i < outcomes.size(); ++i) calls.Spawn(GetInto(&client, KeyOf(i), &outcomes[i]));
  co_await calls.Drain();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_OK(outcomes[i].status);
    EXPECT_TRUE(outcomes[i].value == "alice:" + KeyOf(i)) << i;
  }
  const Outcome renamed = co_await GetOne(&client, "I am bob");
  EXPECT_EQ(renamed.value, "bob:I am bob");
  const Outcome still = co_await GetOne(&client, "who?");
  EXPECT_EQ(still.value, "bob:who?");
  EXPECT_EQ(node.server.metrics().filters.established_total.value(), 1u);
  co_await client.Close();
  co_await node.Stop();
}
TYPED_TEST(RpcOverFilter, Pipelined) { this->harness_.Run(Pipelined(this->harness_.reactor())); }

// A client without the filter, or with a name that the server refuses, gets no request through.
Task<void> Refused(Reactor& r) {
  ToyFilters server_filters(/*client=*/false), stranger(/*client=*/true, "stranger");
  RpcOptions options;
  options.filters = &server_filters;
  Node node(r, options);
  RpcClientOptions refused;
  refused.filters = &stranger;
  const std::vector<RpcClientOptions> both = {RpcClientOptions(), refused};
  for (const RpcClientOptions& client_options : both) {
    RpcClient client(r, client_options);
    EXPECT_OK(co_await client.Connect("127.0.0.1", node.port, kSecond));
    const Outcome outcome = co_await GetOne(&client, "k");
    EXPECT_EQ(outcome.status.code(), Code::kAborted) << outcome.status.ToString();
    if (client_options.filters != nullptr) {
      EXPECT_THAT(outcome.status.message(), HasSubstr("refuses the handshake"));
    }
    co_await client.Close();
  }
  EXPECT_EQ(node.server.metrics().requests_total.value(), 0u);
  EXPECT_EQ(node.server.metrics().filters.failed_total.value(), 2u);
  co_await node.Stop();
}
TYPED_TEST(RpcOverFilter, Refused) { this->harness_.Run(Refused(this->harness_.reactor())); }

// Without filters, nobody has a name until a request sets it.
Task<void> WithoutFilters(Reactor& r) {
  Node node(r);
  RpcClient client(r);
  EXPECT_OK(co_await client.Connect("127.0.0.1", node.port, kSecond));
  const Outcome nobody = co_await GetOne(&client, "k");
  EXPECT_EQ(nobody.value, ":k");
  const Outcome carol = co_await GetOne(&client, "I am carol");
  EXPECT_EQ(carol.value, "carol:I am carol");
  co_await client.Close();
  co_await node.Stop();
}
TYPED_TEST(RpcOverFilter, WithoutFilters) { this->harness_.Run(WithoutFilters(this->harness_.reactor())); }

}  // namespace
}  // namespace pando
