// The fixture for tests of partitions that come and go while clients use a node.
//
// Threads: that of the simulation.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/rpc/rpc_client.h"
#include "tests/sim/sim_node.h"

#define EXPECT_OK(expr)                                              \
  do {                                                               \
    const ::pando::Status pando_expected_ = (expr);                  \
    EXPECT_TRUE(pando_expected_.ok()) << pando_expected_.ToString(); \
  } while (0)

namespace pando {

inline constexpr uint32_t kRanges = 8;
inline constexpr Nanos kCallNs = 10 * kSecond;

inline uint32_t PartitionOf(const std::string& key) {
  StoreInfo store;
  store.ranges = kRanges;
  return store.PartitionOf(key);
}

// A node of two reactors, and clients on another machine.
struct World {
  explicit World(uint64_t seed) : World(seed, nullptr, 1) {}
  // Several worlds may share a kernel.
  World(uint64_t seed, SimKernel* shared, int number)
      : own(shared ? nullptr : std::make_unique<SimKernel>(seed)),
        kernel(shared ? *shared : *own),
        machine(kernel.AddMachine(fmt::format("10.0.{}.1", number))),
        client_machine(kernel.AddMachine(fmt::format("10.0.{}.2", number))) {
    FLAGS_minloglevel = 3;
    options.store.partitions = kRanges;
    options.store.reactors = 2;
    options.engine.memory_bytes = 6u << 20;
    client_reactor = client_machine->Boot();
    Start();
  }
  ~World() { Stop(); }
  void Start() {
    machine->Boot(2);
    node = std::make_unique<SimNode>(machine, options);
    Status status = *kernel.RunTask(*machine->reactor(), node->Start());
    EXPECT_TRUE(status.ok()) << status.ToString();
    // Several, so that each reactor has some.
    for (int i = 0; i < 6; ++i) {
      clients.push_back(std::make_unique<RpcClient>(*client_reactor));
      EXPECT_TRUE(
          kernel.RunTask(*client_reactor, clients.back()->Connect(machine->host(), options.port, kSecond))->ok());
    }
  }
  // Stops the node, which then loses power: `seed` decides what is left of what was not durable.
  void Stop(uint64_t seed = 1) {
    if (!node) return;
    Status status = *kernel.RunTask(*machine->reactor(), node->Stop());
    EXPECT_TRUE(status.ok()) << status.ToString();
    node.reset();
    for (auto& client : clients) kernel.RunTask(*client_reactor, client->Close());
    clients.clear();
    machine->PowerLoss(seed);
  }
  template <typename T>
  T OnNode(Task<T> task) {
    auto result = kernel.RunTask(*machine->reactor(), std::move(task));
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }
  NodePartitions& partitions() { return node->partitions(); }
  // A key of the partition.
  static std::string KeyOf(uint32_t partition, int i = 0) {
    for (int n = 0;; ++n) {
      std::string key = fmt::format("key-{}-{}", i, n);
      if (PartitionOf(key) == partition) return key;
    }
  }
  // Returns a pointer because the generated structs can be neither copied nor moved.
  template <typename Reply, typename Args>
  std::unique_ptr<Reply> Call(size_t client, const char* method, const Args& args) {
    auto reply = std::make_unique<Reply>();
    Status status = *kernel.RunTask(*client_reactor, clients[client]->Call(method, &args, reply.get(), kCallNs));
    EXPECT_TRUE(status.ok()) << method << ": " << status.ToString();
    return reply;
  }

  std::unique_ptr<SimKernel> own;
  SimKernel& kernel;
  SimMachine* machine;
  SimMachine* client_machine;
  SimReactor* client_reactor = nullptr;
  SimNodeOptions options;
  std::unique_ptr<SimNode> node;
  std::vector<std::unique_ptr<RpcClient>> clients;
};

inline void ExpectNotHere(const api::KvError& error, const std::string& what) {
  EXPECT_THAT(error.message,
              testing::AllOf(testing::HasSubstr("partition "), testing::HasSubstr(" is not on this node")))
      << what;
  EXPECT_TRUE(error.retryable) << what;
  EXPECT_EQ(error.applied, 1) << what;  // APPLIED_NO
}

// A source of the store's own form, whose snapshot is as small as one can be.
inline InstallSource SourceFor(World* world) {
  InstallSource source;
  source.root.partition = Uuid{1, 2};
  source.root.file_blocks = 64;
  source.root.epoch = source.root.generation = source.root.next_page_id = 1;
  const StoreInfo& store = world->partitions().store();
  source.ranges = store.ranges;
  source.page_bytes = store.page_bytes;
  source.seal_bytes = store.seal_bytes;
  source.namespaced = store.namespaced;
  return source;
}

}  // namespace pando
