// SimNode: one storage node on the reactors of a simulated machine: the engines, Thrift servers and
// services that Node runs in production. Node itself starts threads and an io_uring per reactor, so
// its order of starting and stopping is repeated here.
//
// After its machine has crashed, a SimNode must not be destroyed (K3 of sim_kernel.h). Keep it
// somewhere for ever.
//
// Threads: that of the simulation.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/file.h"
#include "src/node/node_partitions.h"
#include "src/node/reactor_part.h"
#include "src/node/snapshots.h"
#include "tests/support/sim_kernel.h"

namespace pando {

struct SimNodeOptions {
  uint16_t port = 7420;
  StoreOptions store{.data_dir = "/data", .partitions = 2, .reactors = 1, .page_bytes = 4096};
  EngineOptions engine;
  SimNodeOptions() {
    engine.memory_bytes = 4u << 20;
    engine.log_budget_bytes = 8u << 20;
    engine.log_segment_bytes = 4u << 20;
    engine.checkpoint_interval_ns = kSecond;
  }
};

class SimNode final : public NodeControl {
 public:
  // The machine runs with at least options.store.reactors reactors.
  SimNode(SimMachine* machine, SimNodeOptions options);
  // Start and Stop run on reactor 0.
  Task<Status> Start();
  Task<Status> Stop();

  bool serving() const { return serving_; }
  NodePartitions& partitions() { return *partitions_; }
  // A partition of its engine, or null: call it on the reactor that it belongs to.
  Partition* partition(uint32_t id) const { return parts_[store_.ReactorOf(id)]->engine()->partition(id); }
  void CheckInvariants() const;  // of all engines that are open
  // Why the first engine to fail has failed.
  const Status& failure() const { return failure_; }

 private:
  template <typename Fn>
  Task<Status> OnAllParts(Fn fn);
  Task<Status> OpenEngines();
  Task<Status> Listen();

  Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) override;
  Task<Status> CheckpointAll(Reactor& caller) override;
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms, UnwantedFlag unwanted) override;
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) override;
  Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) override;
  Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) override;
  std::string server_version() const override { return "simulated"; }

  SimMachine* const machine_;
  Reactor& first_;
  SimNodeOptions options_;
  NodeOptions node_options_;
  StoreInfo store_;
  File lock_;
  Registry registry_;
  RpcShared shared_{64 << 20};
  std::vector<std::unique_ptr<ReactorPart>> owned_;
  std::vector<ReactorPart*> parts_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<NodePartitions> partitions_;
  Status failure_;
  bool serving_ = false;
};

}  // namespace pando
