// SmallCluster: three nodes of a cluster (cluster_member.h) with one partition, or a few, on simulated machines. A test
// breaks one thing at a time; ClusterWorld is the world with random faults.
//
// Threads: one.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/replication/hosted_replica.h"
#include "src/topology/cluster_init.h"
#include "src/topology/cluster_map.h"
#include "tests/sim/cluster_member.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_topology.h"

namespace pando {

class SmallCluster {
 public:
  static constexpr size_t kNodes = 3;

  explicit SmallCluster(uint64_t seed = 1, uint32_t min_isr = 2, uint32_t partitions = 1)
      : partitions_(partitions), kernel_(seed) {
    for (size_t i = 0; i < kNodes; ++i) machines_.push_back(kernel_.AddMachine(fmt::format("10.0.0.{}", i + 1)));
    members_.resize(kNodes);
    topologies_.resize(kNodes);
    SimReactor& reactor = *kernel_.AddMachine("10.0.1.1")->Boot();
    operators_ = &reactor;
    ClusterPlan plan;
    for (size_t i = 0; i < kNodes; ++i)
      plan.nodes.push_back({.id = static_cast<NodeId>(i + 1), .zone = "", .weight = 1});
    plan.partitions = partitions_;
    plan.replicas = kNodes;
    plan.min_isr = min_isr;
    Topology topology(reactor, std::make_unique<SimTopology>(reactor, &server_));
    auto made = kernel_.RunTask(reactor, CreateCluster(
                                             topology, plan,
                                             [uuids = uint64_t{0}]() mutable {
                                               return Uuid{7, ++uuids};
                                             },
                                             5 * kSecond));
    CHECK((*made).ok()) << (*made).status().ToString();
    CHECK(kernel_.RunTask(reactor, topology.Close())->ok());
    engine_.log_segment_bytes = 256u << 10;
    engine_.log_budget_bytes = 8u << 20;
    engine_.checkpoint_interval_ns = 500 * kMillisecond;
  }
  ~SmallCluster() {
    for (size_t i = 0; i < kNodes; ++i) Crash(i);
  }

  bool drives_splits = true;  // of nodes that start from now on
  EngineOptions& engine_options() { return engine_; }
  // Of what node `i` asks of the topology, until it is started again.
  SimTopologyFaults& topology_faults(size_t i) { return topologies_[i]->faults(); }
  SimKernel& kernel() { return kernel_; }
  SimMachine& machine(size_t i) { return *machines_[i]; }
  ClusterMember& member(size_t i) { return *members_[i]; }
  bool up(size_t i) const { return members_[i] != nullptr; }

  Status Start(size_t i, uint64_t memory_more = 8u << 20) {
    ClusterMemberOptions options;
    options.node = static_cast<NodeId>(i + 1);
    options.drives_splits = drives_splits;
    machines_[i]->Boot();
    options.engine = engine_;
    options.engine.memory_bytes = Engine::MinMemoryBytes(4096, 2 * partitions_, partitions_, true) + memory_more;
    members_[i] = std::make_unique<ClusterMember>(machines_[i], options);
    SimReactor& reactor = members_[i]->reactor();
    auto topology = std::make_unique<SimTopology>(reactor, &server_);
    topologies_[i] = topology.get();
    return *kernel_.RunTask(reactor, members_[i]->Start(std::move(topology)));
  }
  // The first one becomes master.
  bool StartAll() {
    for (size_t i = 0; i < kNodes; ++i) EXPECT_TRUE((Start(i)).ok());
    return RunUntil(
        [this] {
          for (uint32_t p = 0; p < partitions_; ++p) {
            if (record(p).isr.size() != kNodes || master(p) == kNodes) return false;
          }
          return true;
        },
        20 * kSecond);
  }
  void Crash(size_t i) {
    if (!up(i)) return;
    machines_[i]->ProcessCrash(1);
    static auto* kept = new std::vector<std::unique_ptr<ClusterMember>>;  // K3
    kept->push_back(std::move(members_[i]));
  }
  Status Stop(size_t i) {
    Status stopped = *kernel_.RunTask(members_[i]->reactor(), members_[i]->Stop());
    members_[i].reset();
    machines_[i]->ProcessCrash(1);
    return stopped;
  }

  PartitionRecord record(uint32_t partition = 0) const {
    Result<PartitionRecord> record = DecodePartition(server_.entries().at(PartitionKey(partition)));
    CHECK(record.ok()) << record.status().ToString();
    return *std::move(record);
  }
  bool has_record(uint32_t partition) const { return server_.entries().contains(PartitionKey(partition)); }
  // As an operator does it, by hand.
  template <typename Record>
  void Change(const Record& record, const std::string& key) {
    Topology topology(*operators_, std::make_unique<SimTopology>(*operators_, &server_));
    const Revision revision = server_.entries().at(key).revision;
    auto swapped = kernel_.RunTask(*operators_, topology.CompareAndSwap(key, revision, *Encode(record), 5 * kSecond));
    CHECK((*swapped).ok() && (*swapped)->kind == CasOutcome::Kind::kStored);
    CHECK(kernel_.RunTask(*operators_, topology.Close())->ok());
  }
  ClusterRecord cluster() const { return *DecodeCluster(server_.entries().at(std::string(kClusterKey))); }
  bool InSync(size_t i, uint32_t partition = 0) const {
    const PartitionRecord now = record(partition);
    return std::any_of(now.isr.begin(), now.isr.end(), [&](const ReplicaRecord& r) { return r.node == i + 1; });
  }
  const replication::HostedReplica* replica(size_t i, uint32_t partition = 0) const {
    return up(i) && members_[i]->host() != nullptr ? members_[i]->host()->Find(partition) : nullptr;
  }
  const replication::ReplicaCore* core(size_t i, uint32_t partition = 0) const {
    return replica(i, partition) == nullptr ? nullptr : replica(i, partition)->core();
  }
  bool Leads(size_t i, uint32_t partition = 0) const {
    return core(i, partition) != nullptr && core(i, partition)->Serving().has_value();
  }
  // The one that serves with a lease; kNodes: none does.
  size_t master(uint32_t partition = 0) const {
    size_t i = 0;
    while (i < kNodes && !(up(i) && replica(i, partition) != nullptr && replica(i, partition)->Report().leased)) ++i;
    return i;
  }
  Partition* place(size_t i, uint32_t partition = 0) { return members_[i]->place(partition); }
  PartitionStats stats(size_t i) { return members_[i]->engine()->partition(0)->stats(); }

  template <typename T>
  T On(size_t i, Task<T> task) {
    return *kernel_.RunTask(members_[i]->reactor(), std::move(task));
  }
  // At the master, if there is one.
  Code Put(const std::string& key, const std::string& value) {
    const size_t i = master();
    if (i == kNodes) return Code::kUnavailable;
    return On(i, Write(place(i), RecordOp::kPut, key, value)).code();
  }
  Code Remove(const std::string& key) {
    const size_t i = master();
    if (i == kNodes) return Code::kUnavailable;
    return On(i, Write(place(i), RecordOp::kRemove, key, "")).code();
  }
  static Task<Status> Write(Partition* partition, RecordOp op, std::string key, std::string value) {
    std::vector<WriteOp> ops(1);
    ops[0].op = op;
    ops[0].key = std::move(key);
    ops[0].value = std::move(value);
    co_return (co_await partition->Write(std::move(ops), {})).status();
  }
  void Run(Nanos time) { kernel_.RunFor(time); }
  bool RunUntil(const std::function<bool()>& done, Nanos within_ns) {
    const Nanos end_ns = kernel_.now_ns() + within_ns;
    while (kernel_.now_ns() < end_ns) {
      if (done()) return true;
      kernel_.RunFor(5 * kMillisecond);
    }
    return done();
  }

 private:
  const uint32_t partitions_;
  SimKernel kernel_;
  SimTopologyServer server_;
  SimReactor* operators_ = nullptr;
  EngineOptions engine_;
  std::vector<SimMachine*> machines_;
  std::vector<SimTopology*> topologies_;
  std::vector<std::unique_ptr<ClusterMember>> members_;
};

}  // namespace pando
