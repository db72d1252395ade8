// RouterTest: a router between a client and scripted nodes, on the simulated kernel.
//
// Threads: one, that of the simulation.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "src/router/router_service.h"
#include "src/rpc/rpc_client.h"
#include "tests/support/scripted_nodes.h"

namespace pando {

inline constexpr uint32_t kPartitionCount = 8;

class RouterTest : public testing::Test {
 protected:
  // `long_bytes`: of the memory that LongWork divides; 0: there is no LongWork.
  explicit RouterTest(const PointOptions& point = {}, uint32_t partitions = kPartitionCount, int64_t long_bytes = 0)
      : kernel_(7), cluster_(partitions), shared_(64 << 20), long_shared_(long_bytes), long_work_(&long_shared_) {
    for (NodeId id = 1; id <= 3; ++id) {
      nodes_.push_back(std::make_unique<ScriptedNode>(&cluster_, id, &kernel_));
      reactors_.push_back(kernel_.machine(ScriptedNode::Host(id))->reactor());
    }
    for (uint32_t p = 0; p < partitions; ++p) cluster_.masters[p] = 1 + p % 3;
    at_router_ = kernel_.AddMachine(kRouterHost)->Boot();
    at_client_ = kernel_.AddMachine("10.0.2.1")->Boot();
    RouteKeeperOptions options;
    options.seeds = {"10.0.0.2:7420"};
    options.cluster = followed_;
    server_ = std::make_unique<RpcServer>(*at_router_, RpcOptions(), &shared_);
    options.upstream.memory = &server_->account();
    if (long_bytes > 0) {
      options.upstream.answers = &long_work_.answers();
      options.long_work = &long_work_;
    }
    keeper_ = std::make_unique<RouteKeeper>(*at_router_, options);
    service_ = std::make_unique<RouterService>(server_.get(), keeper_.get(), point);
    server_->SetService(service_.get());
    ListenOptions listen;
    listen.host = kRouterHost;
    listen.port = 7430;
    CHECK(server_->Listen(listen).ok());
  }
  void SetUp() override {
    keeper_->Start();
    client_ = std::make_unique<RpcClient>(*at_client_);
    CHECK(kernel_.RunTask(*at_client_, client_->Connect(kRouterHost, 7430, kSecond))->ok());
    kernel_.RunFor(50 * kMillisecond);  // until every node is connected
  }
  void TearDown() override {
    kernel_.RunTask(*at_client_, client_->Close());
    for (auto& node : nodes_) node->manners = ScriptedNode::Manners();
    kernel_.RunTask(*at_router_, StopRouter());
    for (size_t i = 0; i < nodes_.size(); ++i) kernel_.RunTask(*reactors_[i], nodes_[i]->Stop());
  }
  Task<void> StopRouter() {
    RouteKeeper* keeper = keeper_.get();
    co_await server_->Shutdown(0, [keeper] { keeper->BeginStop(); });
    co_await service_->Drain();
    co_await keeper_->Stop();
  }

  api::Kv_get_result Get(const std::string& key, api::Context context = {}) {
    api::Kv_get_result result;
    kernel_.RunTask(*at_client_, Call<api::Kv_get_args>("get", key, std::move(context), &result));
    return result;
  }
  api::Kv_put_result Put(const std::string& key, const std::string& value, api::Context context = {}) {
    api::Kv_put_result result;
    put_value_ = value;
    kernel_.RunTask(*at_client_, Call<api::Kv_put_args>("put", key, std::move(context), &result));
    return result;
  }
  template <typename Args, typename Result>
  Task<void> Call(std::string method, std::string key, api::Context context, Result* result) {
    Args args;
    args.context = std::move(context);
    args.request.key = std::move(key);
    if constexpr (requires { args.request.value; }) args.request.value = put_value_;
    status_ = co_await client_->Call(std::move(method), &args, result, 60 * kSecond);
  }
  // A key of the partition.
  std::string KeyIn(uint32_t partition) const {
    for (int i = 0;; ++i) {
      std::string key = fmt::format("key{}", i);
      if (cluster_.PartitionOf(key) == partition) return key;
    }
  }
  static api::Context Budget(int32_t budget_ms) {
    api::Context context;
    context.budget_ms = budget_ms;
    return context;
  }
  ScriptedNode& node(NodeId id) { return *nodes_[id - 1]; }
  ScriptedNode& MasterOf(uint32_t partition) { return node(cluster_.masters[partition]); }

  SimKernel kernel_;
  ScriptedCluster cluster_;
  std::vector<std::unique_ptr<ScriptedNode>> nodes_;
  std::vector<SimReactor*> reactors_;
  RpcShared shared_;
  LongWork::Shared long_shared_;
  LongWork long_work_;
  SimReactor *at_router_ = nullptr, *at_client_ = nullptr;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<FollowedCluster> followed_ = std::make_shared<FollowedCluster>();
  std::unique_ptr<RouteKeeper> keeper_;
  std::unique_ptr<RouterService> service_;
  std::unique_ptr<RpcClient> client_;
  std::string put_value_;
  Status status_;
};

}  // namespace pando
