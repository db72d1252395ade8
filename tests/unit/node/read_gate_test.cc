// Tests that reads over the wire protocol ask the read gate, with fake partitions on two simulated reactors.
#include <gtest/gtest.h>

#include "src/node/local_partition.h"
#include "tests/support/fake_node.h"

namespace pando {
namespace {

class KvReadGateTest : public FakeNodeTest {};
INSTANTIATE_TEST_SUITE_P(Wire, KvReadGateTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

// Says for all partitions alike whether this node is master and holds the lease.
struct SwitchedGate final : ReadGate {
  Result<Mastership> Begin(uint32_t) const override {
    if (holds) return Mastership{1, 1};
    return Error(Code::kNotMaster, "another node is master").WithMaster("10.0.0.2:7420", 4);
  }
  Status Check(uint32_t, const Mastership&) const override { return Status(); }
  bool Holds(uint32_t, Nanos) const override { return holds; }
  bool holds = true;
};

// What a replica has in memory is no answer without a lease: not to get, and not to multiGet.
TEST_P(KvReadGateTest, ReadsOfWhatIsInMemoryNeedTheLease) {
  SwitchedGate gate;
  const std::atomic<Version> newest{0};
  std::vector<std::unique_ptr<LocalPartition>> guarded;
  api::Kv_multiGet_args args;
  for (uint32_t id = 0; id < kPartitions; ++id) {
    KvBackend& backend = node_->backends[id % 2];
    backend.read_gate = &gate;
    guarded.push_back(std::make_unique<LocalPartition>(id, &backend.stored[id], &newest, &gate));
    backend.partitions[id] = guarded.back().get();
    node_->backends[1 - id % 2].partitions[id] = guarded.back().get();  // never called: the owner reads
  }
  for (int i = 0; i < 20; ++i) {
    std::string key = "g" + std::to_string(i);
    node_->PartitionOf(key).records[key] = {true, 5, 0, "v"};
    args.request.keys.push_back(key);
  }
  for (const bool holds : {true, false}) {
    gate.holds = holds;
    for (const std::string& key : args.request.keys) {
      EXPECT_EQ(Get(key)->error.code, holds ? 0 : api::g_pando_constants.NOT_MASTER) << key;
    }
    const auto reply = CallFor<api::Kv_multiGet_result>("multiGet", args);
    for (const auto& item : reply->success.items) {
      EXPECT_EQ(item.record.found, holds);
      EXPECT_EQ(item.error.code, holds ? 0 : api::g_pando_constants.NOT_MASTER);
      EXPECT_EQ(item.error.master, holds ? "" : "10.0.0.2:7420");
    }
  }
}

}  // namespace
}  // namespace pando
