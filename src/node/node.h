// Node is a complete storage node in one process: its reactors, engines, Thrift servers and HTTP
// server.
//
// Start opens or creates the store, recovers it, and begins to serve. Stop finishes the running
// requests, checkpoints, and closes the store. When an engine fails, the node calls `on_failure`
// from a reactor and refuses writes until it is stopped. When another process has become the node (NC3), it calls
// `on_displaced`, and serves nothing until it is stopped.
//
// Threads: one thread, not a reactor's, calls Start, Stop and the destructor.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/io/connection_budget.h"
#include "src/io/file.h"
#include "src/io/reactor_group.h"
#include "src/node/balancer.h"
#include "src/node/controller.h"
#include "src/node/installer.h"
#include "src/node/kv_backend.h"
#include "src/node/node_cluster.h"
#include "src/node/node_options.h"
#include "src/node/node_partitions.h"
#include "src/node/reactor_part.h"
#include "src/node/snapshots.h"
#include "src/node/split_driver.h"
#include "src/rpc/http_server.h"

namespace pando {

inline constexpr char kServerVersion[] = PANDO_VERSION;

class Node final : private NodeControl {
 public:
  Node(NodeOptions options, std::function<void(const Status&)> on_failure,
       std::function<void(const Status&)> on_displaced);
  ~Node();  // REQUIRES: Stop has returned

  Status Start();
  // Refuses new requests, waits for running ones up to shutdown_timeout_ms, closes the engines
  // (with a checkpoint unless an engine has failed) and ends the threads. Returns the first error.
  Status Stop();

  // Returns one line for the log: addresses, data directory, layout and recovery.
  std::string Describe() const;
  uint16_t port() const { return port_; }
  uint16_t http_port() const { return http_port_; }

 private:
  // Both run on reactor 0.
  Task<Status> StartOnReactor(Reactor& first);
  Task<Status> StopOnReactor(Reactor& first);
  Task<Status> ServeHttp(Reactor& first);
  Task<HttpPage> WantedNodesPage() const;
  Task<Status> ChangeReactorsIfNeeded(Reactor& first);
  Task<Status> OpenEngines(Reactor& first);
  Task<Status> ListenAll(Reactor& first);
  // Of a node of a cluster.
  Task<Status> OpenCluster(Reactor& first);
  Task<Status> JoinHosts(Reactor& first);
  Task<Status> MakeAssigned();
  Task<Status> EnterCluster(Reactor& first);
  void AddMetrics();
  Task<void> ReactorMain(Reactor& reactor);
  // Runs fn(reactor, part) -> Task<Status> on every reactor concurrently. Returns the first error.
  template <typename Fn>
  Task<Status> OnAllReactors(Reactor& caller, Fn fn);
  void OnEngineFailure(const Status& status);
  void OnDisplaced(const Status& status);

  Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) override;
  Task<Status> CheckpointAll(Reactor& caller) override;
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms, UnwantedFlag unwanted) override;
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) override;
  Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) override;
  // node_scrub.cc
  Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) override;
  std::string server_version() const override { return kServerVersion; }
  // cluster_control.cc
  Task<Result<api::ReplicasReply>> Replicas(Reactor& caller) override;
  Task<Result<api::TopologyReply>> KnownTopology(Reactor& caller) override;
  Task<Result<api::HandoverReply>> Handover(Reactor& caller, uint32_t partition, uint32_t node, Epoch epoch,
                                            Nanos timeout_ns) override;
  Task<Result<api::ForceFailoverReply>> ForceFailover(Reactor& caller, api::ForceFailoverRequest request) override;
  Task<Result<bool>> SetMinIsr(Reactor& caller, uint32_t partition, uint32_t min_isr) override;
  Task<Result<OpenedCopy>> OpenCopy(Reactor& caller, uint32_t partition, Uuid replica) override;
  Task<Result<OpenedCopy>> RenewCopy(Reactor& caller, uint32_t partition, Uuid replica, SnapshotToken token) override;
  Task<Result<bool>> ReplaceReplica(Reactor& caller, uint32_t partition, Uuid replica, uint32_t node,
                                    std::optional<Uuid> leaves) override;
  Task<Result<api::AddReplicaReply>> AddReplica(Reactor& caller, uint32_t partition, uint32_t node,
                                                bool replaces) override;
  Task<Result<bool>> RemoveReplica(Reactor& caller, uint32_t partition, Uuid replica, bool replaced) override;
  Task<Result<api::AggregateReplicaReply>> AggregateReplica(Reactor& caller,
                                                            api::AggregateReplicaRequest request) override;
  Task<api::NodeTraffic> Traffic(Reactor& caller);
  Task<Result<api::SplitPartitionReply>> SplitPartition(Reactor& caller, api::SplitPartitionRequest request) override;
  Task<Status> CheckTopologyAnswers(Reactor& caller, uint32_t partition);
  Task<Result<KeptLog>> KeepLogFor(Reactor& caller, uint32_t partition, Uuid replica, bool anew);

  NodeOptions options_;
  const std::function<void(const Status&)> on_failure_, on_displaced_;
  MemorySplit memory_;
  StoreInfo store_;  // as it was when the node started
  File lock_;
  Registry registry_;
  NodeHealth health_;
  std::unique_ptr<RpcShared> shared_;
  DescriptorSplit descriptors_;
  std::unique_ptr<ConnectionBudgets> budgets_;  // shared by all reactors
  std::unique_ptr<ReactorGroup> group_;
  std::vector<ReactorPart*> parts_;              // each is created and destroyed on its reactor
  std::unique_ptr<NodeCluster> cluster_;         // belongs to reactor 0; null: this node is alone
  NodeIdentity membership_;                      // set before the node serves
  std::unique_ptr<Snapshots> snapshots_;         // belongs to reactor 0
  std::unique_ptr<NodePartitions> partitions_;   // belongs to reactor 0
  std::unique_ptr<ReplicaInstaller> installer_;  // belongs to reactor 0; null: this node is alone
  std::unique_ptr<Controller> controller_;       // the same
  std::unique_ptr<Balancer> balancer_;           // the same; null also with --auto_balance=off
  std::unique_ptr<SplitDriver> splits_;          // the same
  std::vector<WaitQueue*> main_waits_;           // each reactor's main task waits here until Stop
  std::unique_ptr<HttpServer> http_;             // belongs to reactor 0
  uint16_t port_ = 0, http_port_ = 0;
  Nanos started_ns_ = 0;
  double recovery_seconds_ = 0;
  uint64_t recovered_records_ = 0;
};

}  // namespace pando
