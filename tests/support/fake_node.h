// FakeNode: the services of a node over fake partitions, on two simulated reactors; and the fixture
// of tests that call it over the wire with RpcClient.
//
// Threads: one, that of the simulation.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/pando_constants.h"
#include "src/node/kv_service.h"
#include "src/node/remote_partition.h"
#include "src/rpc/rpc_client.h"
#include "tests/support/fake_partition.h"
#include "tests/support/rpc_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {

inline constexpr uint32_t kPartitions = 8;

class FakeControl final : public NodeControl {
 public:
  Task<Result<api::NodeStatus>> CollectStatus(Reactor&) override {
    api::NodeStatus status;
    status.verdict = "ok";
    co_return status;
  }
  Task<Status> CheckpointAll(Reactor&) override { co_return Status(); }
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor&, int64_t ttl_ms, UnwantedFlag unwanted) override {
    return snapshots->Open(ttl_ms, std::move(unwanted));
  }
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor&, SnapshotToken token, int64_t ttl_ms) override {
    return snapshots->Renew(token, ttl_ms);
  }
  Task<Result<bool>> ReleaseSnapshot(Reactor&, SnapshotToken token) override { return snapshots->Release(token); }
  Task<Result<api::ScrubReply>> Scrub(Reactor&, bool start, uint64_t bytes_per_s) override {
    api::ScrubReply reply;
    reply.running = start;
    reply.rate_bytes_per_s = static_cast<int64_t>(bytes_per_s);
    co_return reply;
  }
  std::string server_version() const override { return "test"; }

  std::unique_ptr<Snapshots> snapshots;
};

// A node of two reactors in one simulated machine.
struct FakeNode {
  explicit FakeNode(SimMachine* machine) : shared(256 << 20) {
    store.reactors = 2;
    store.ranges = kPartitions;
    store.page_bytes = 8192;
    store.node = Uuid{7, 8};
    constexpr uint64_t kStep = UINT64_MAX / kPartitions + 1;
    for (uint32_t i = 0; i < kPartitions; ++i) {
      store.partitions.push_back({i, Uuid{1, i}, i * kStep, i * kStep + (kStep - 1)});
      fakes.push_back(
          std::make_unique<FakePartition>(i, machine->reactor(static_cast<int>(i % 2)), 200 * kMicrosecond));
    }
    for (uint32_t r = 0; r < 2; ++r) {
      Reactor& reactor = *machine->reactor(static_cast<int>(r));
      KvBackend& b = backends[r];
      b.store = &store;
      b.serving = RangeTable::Equal(kPartitions);
      b.reactor = r;
      b.batch_get = FakePartition::BatchGet;
      b.batch_write = FakePartition::BatchWrite;
      for (uint32_t i = 0; i < kPartitions; ++i) {
        if (i % 2 == r) {
          b.partitions.push_back(fakes[i].get());
          b.stored.push_back(fakes[i].get());
        } else {
          proxies.push_back(std::make_unique<RemotePartition>(reactor, static_cast<int>(i % 2), fakes[i].get()));
          b.partitions.push_back(proxies.back().get());
          b.stored.push_back(nullptr);
        }
      }
      b.here = b.partitions;
      servers.push_back(std::make_unique<RpcServer>(reactor, RpcOptions(), &shared));
      services.push_back(std::make_unique<KvService>(servers[r].get(), &b, &control, WatchOptions{.max_waiting = 20}));
      servers[r]->SetService(services[r].get());
    }
    control.snapshots = std::make_unique<Snapshots>(*machine->reactor(0), &backends[0].partitions, 3'600'000);
    for (KvBackend& b : backends) {
      b.peers = {&backends[0], &backends[1]};
      b.get_paths = {&services[0]->get_path(), &services[1]->get_path()};
      b.write_paths = {&services[0]->write_path(), &services[1]->write_path()};
    }
    ListenOptions listen;
    listen.host = "10.0.0.1";
    listen.reuse_port = false;
    Result<uint16_t> bound = servers[0]->Listen(listen);
    CHECK(bound.ok());
    port = *bound;
  }
  Task<void> Stop() {
    co_await servers[0]->Shutdown(kSecond);
    co_await services[0]->Drain();
  }
  FakePartition& PartitionOf(const std::string& key) { return *fakes[store.PartitionOf(key)]; }

  StoreInfo store;
  FakeControl control;
  RpcShared shared;
  std::vector<std::unique_ptr<FakePartition>> fakes;
  std::vector<std::unique_ptr<RemotePartition>> proxies;
  KvBackend backends[2];
  std::vector<std::unique_ptr<RpcServer>> servers;
  std::vector<std::unique_ptr<KvService>> services;
  uint16_t port = 0;
};

class FakeNodeTest : public testing::TestWithParam<WireProtocol> {
 protected:
  explicit FakeNodeTest(SimOptions sim = {}) : kernel_(3, sim) {
    SimMachine* machine = kernel_.AddMachine("10.0.0.1");
    machine->Boot(2);
    client_reactor_ = kernel_.AddMachine("10.0.0.2")->Boot();
    node_ = std::make_unique<FakeNode>(machine);
    RpcClientOptions options;
    options.protocol = GetParam();
    client_ = std::make_unique<RpcClient>(*client_reactor_, options);
    CHECK(Await(client_->Connect("10.0.0.1", node_->port, kSecond)).ok());
    server_reactor_ = machine->reactor(0);
  }
  void TearDown() override {
    Await(client_->Close());
    Await(*server_reactor_, node_->Stop());
    EXPECT_LE(node_->shared.memory.used_bytes(), 2 * BudgetAccount::kChunkBytes);
  }
  template <typename T>
  T Await(SimReactor& reactor, Task<T> task) {
    auto result = kernel_.RunTask(reactor, std::move(task));
    CHECK(result.has_value());
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }
  template <typename T>
  T Await(Task<T> task) {
    return Await(*client_reactor_, std::move(task));
  }
  static Task<void> Wait(Reactor* reactor, Nanos ns) { co_await Sleep(*reactor, ns); }
  void Pass(Nanos ns) { Await(Wait(client_reactor_, ns)); }
  // Returns a pointer because the generated result structs can be neither copied nor moved.
  template <typename Reply, typename Args>
  std::unique_ptr<Reply> CallFor(const std::string& method, const Args& args) {
    auto reply = std::make_unique<Reply>();
    Status status = Await(client_->Call(method, &args, reply.get(), 10 * kSecond));
    CHECK(status.ok()) << status.ToString();
    return reply;
  }
  api::WriteResult Put(const std::string& key, const std::string& value) {
    api::Kv_put_args args;
    args.request.key = key;
    args.request.value = value;
    auto reply = CallFor<api::Kv_put_result>("put", args);
    EXPECT_TRUE(reply->__isset.success) << reply->error.message;
    return reply->success;
  }
  std::unique_ptr<api::Kv_get_result> Get(const std::string& key) {
    api::Kv_get_args args;
    args.request.key = key;
    return CallFor<api::Kv_get_result>("get", args);
  }

  SimKernel kernel_;
  SimReactor* client_reactor_;
  SimReactor* server_reactor_;
  std::unique_ptr<FakeNode> node_;
  std::unique_ptr<RpcClient> client_;
};

}  // namespace pando
