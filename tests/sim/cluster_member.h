// ClusterMember: one node of a cluster, on the reactor of a simulated machine: the engine, the replicas, the links
// to other nodes, the installer and the services that Node runs in production. Node itself starts threads and an
// io_uring, so its order of starting and stopping is repeated here.
//
// After its machine has crashed, a ClusterMember must not be destroyed (K3 of sim_kernel.h). Keep it somewhere for
// ever.
//
// Threads: that of the simulation.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/file.h"
#include "src/node/installer.h"
#include "src/node/node_cluster.h"
#include "src/node/node_partitions.h"
#include "src/node/reactor_part.h"
#include "src/node/snapshots.h"
#include "src/node/split_driver.h"
#include "tests/support/sim_kernel.h"

namespace pando {

struct ClusterMemberOptions {
  NodeId node = 0;
  uint16_t port = 7420, peer_port = 7500;
  EngineOptions engine;
  replication::Rules rules;
  bool drives_splits = true;  // false: a split that a record orders is left to the test
};

class ClusterMember final : public NodeControl {
 public:
  ClusterMember(SimMachine* machine, ClusterMemberOptions options);

  // After an error, Stop is called nevertheless.
  Task<Status> Start(std::unique_ptr<TopologyStore> topology);
  Task<Status> Stop();

  bool serving() const { return serving_; }
  uint64_t incarnation() const { return incarnation_; }
  SimReactor& reactor() const { return reactor_; }
  // What clients use, as the services do. REQUIRES: serving.
  Partition* place(uint32_t id) const { return part_->place(id); }
  // The same for reads that any replica may answer.
  Partition* replica_place(uint32_t id) const { return part_->ReplicaPlaceOf(id); }
  replication::ReplicaHost* host() const { return part_ ? part_->replica_host() : nullptr; }
  SplitDriver* splits() const { return splits_.get(); }
  Engine* engine() const { return part_ ? part_->engine() : nullptr; }
  // Calls of clients; Stop waits for them.
  TaskGroup& calls() { return calls_; }
  // Why the engine has failed.
  const Status& failure() const { return failure_; }
  const Status& quarantine() const { return quarantine_; }  // the first

 private:
  Task<Status> OpenEngine();
  Task<Status> MakeAssigned();
  Task<Status> Enter();

  Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) override;
  Task<Status> CheckpointAll(Reactor& caller) override;
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms, UnwantedFlag unwanted) override;
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) override;
  Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) override;
  Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) override;
  Task<Result<api::HandoverReply>> Handover(Reactor& caller, uint32_t partition, uint32_t node, Epoch epoch,
                                            Nanos timeout_ns) override;
  Task<Result<OpenedCopy>> OpenCopy(Reactor& caller, uint32_t partition, Uuid replica) override;
  Task<Result<OpenedCopy>> RenewCopy(Reactor& caller, uint32_t partition, Uuid replica, SnapshotToken token) override;
  Task<Result<bool>> ReplaceReplica(Reactor& caller, uint32_t partition, Uuid replica, uint32_t node,
                                    std::optional<Uuid> leaves) override;
  std::string server_version() const override { return "simulated"; }

  SimMachine* const machine_;
  SimReactor& reactor_;
  ClusterMemberOptions options_;
  NodeOptions node_options_;
  StoreInfo store_;
  File lock_;
  Registry registry_;
  RpcShared shared_{64 << 20};
  std::unique_ptr<NodeCluster> cluster_;
  std::unique_ptr<ReactorPart> part_;
  std::vector<ReactorPart*> parts_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<NodePartitions> partitions_;
  std::unique_ptr<ReplicaInstaller> installer_;
  std::unique_ptr<SplitDriver> splits_;
  TaskGroup calls_;
  Status failure_, quarantine_;
  uint64_t incarnation_ = 0;
  bool serving_ = false;
};

}  // namespace pando
