// Node: a whole storage node in one process: reactors, engines, servers, the HTTP page.
//
// Life: Start opens (or creates) the store, recovers, and serves; Stop finishes requests, checkpoints and closes. Both
// are called on a thread that is no reactor's. When an engine fails, `on_failure` is called from a reactor; the node
// then refuses writes until it is stopped.
//
// Threads: Start, Stop and the destructor belong to the starting thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/io/connection_budget.h"
#include "src/io/file.h"
#include "src/io/reactor_group.h"
#include "src/node/http_server.h"
#include "src/node/kv_backend.h"
#include "src/node/node_options.h"
#include "src/node/shard.h"
#include "src/node/snapshots.h"

namespace pando {

inline constexpr char kServerVersion[] = PANDO_VERSION;

class Node final : private NodeControl {
 public:
  Node(NodeOptions options, std::function<void(const Status&)> on_failure);
  ~Node();  // Stop first

  Status Start();
  // Refuses new work, finishes what runs (bounded by shutdown_timeout_ms), closes engines (with a checkpoint unless one
  // has failed) and threads. Returns the first error.
  Status Stop();

  // One line: addresses, data directory, layout, recovery.
  std::string Describe() const;
  uint16_t port() const { return port_; }
  uint16_t http_port() const { return http_port_; }

 private:
  // Both run on reactor 0.
  Task<Status> StartOnReactor(Reactor& first);
  Task<Status> StopOnReactor(Reactor& first);
  Status ServeHttp(Reactor& first);
  Task<Status> OpenEngines(Reactor& first);
  Task<Status> ListenAll(Reactor& first);
  Task<void> ShardMain(Reactor& reactor);
  // Runs fn(shard) -> Task<Status> on every reactor at once; the first error.
  template <typename Fn>
  Task<Status> OnAllShards(Reactor& caller, Fn fn);
  void OnEngineFailure(const Status& status);

  Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) override;
  Task<Status> CheckpointAll(Reactor& caller) override;
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms) override;
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) override;
  Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) override;
  Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) override;  // node_scrub.cc
  std::string server_version() const override { return kServerVersion; }

  NodeOptions options_;
  const std::function<void(const Status&)> on_failure_;
  MemorySplit memory_;
  StoreInfo store_;
  File lock_;
  Registry registry_;
  NodeHealth health_;
  std::unique_ptr<RpcShared> shared_;
  DescriptorSplit descriptors_;
  std::unique_ptr<ConnectionBudget> sockets_;  // of all reactors
  ConnectionBudget http_sockets_{4 * kMaxHttpConnections};
  std::unique_ptr<ReactorGroup> group_;
  std::vector<Shard*> shards_;            // each made and destroyed on its reactor
  std::unique_ptr<Snapshots> snapshots_;  // lives on reactor 0
  std::vector<WaitQueue*> main_waits_;    // what the reactors' main tasks wait on
  std::unique_ptr<HttpServer> http_;      // lives on reactor 0
  uint16_t port_ = 0, http_port_ = 0;
  Nanos started_ns_ = 0;
  double recovery_seconds_ = 0;
  uint64_t recovered_records_ = 0;
};

}  // namespace pando
