// Router is a complete kvrouter in one process: on each reactor a Thrift server, a map of the cluster and connections
// to its nodes, which share nothing; and an HTTP server for all.
//
// Threads: one thread, not a reactor's, calls Start, Stop and the destructor.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "src/io/connection_budget.h"
#include "src/io/reactor_group.h"
#include "src/metrics/registry.h"
#include "src/router/route_keeper.h"
#include "src/router/router_options.h"
#include "src/router/router_service.h"
#include "src/router/router_status.h"
#include "src/rpc/http_server.h"
#include "src/rpc/rpc_server.h"

namespace pando {

class Router {
 public:
  explicit Router(RouterOptions options);
  ~Router();  // REQUIRES: Stop has returned

  // Listens. It does not wait for the cluster: /readyz answers 503 until every reactor has its map. But it waits a
  // moment for what the nodes of --nodes say, and refuses those of two clusters.
  Status Start();
  // Refuses new requests, waits for running ones up to shutdown_timeout_ms, and ends the threads.
  void Stop();

  std::string Describe() const;  // one line for the log; after Start
  uint16_t port() const { return port_; }

 private:
  // What one reactor has. It is created and destroyed there.
  struct Part {
    std::unique_ptr<RpcServer> server;
    std::unique_ptr<LongWork> long_work;
    std::unique_ptr<RouteKeeper> keeper;
    std::unique_ptr<RouterService> service;
    WaitQueue* leave = nullptr;  // the reactor's main task waits here until Stop
  };
  Task<void> ReactorMain(Reactor& reactor);
  Task<Status> ListenAll(Reactor& first);
  Task<Status> ServeHttp(Reactor& first);
  Task<Status> HearSeeds(Reactor& first);
  // What the status page shows.
  Task<RouterStatus> GatherStatus();
  Task<HttpPage> RenderStatus(std::string (*render)(const RouterStatus&));
  Task<void> StopOnReactor(Reactor& first);
  Task<void> StopPartOn(Reactor* caller, size_t index);
  Task<void> StopPart(Part* part);
  void RegisterMetrics(Part* part, size_t index);

  RouterOptions options_;
  Registry registry_;
  NodeHealth health_;
  std::unique_ptr<RpcShared> shared_;
  std::unique_ptr<LongWork::Shared> long_shared_;
  std::unique_ptr<ConnectionBudgets> budgets_;
  std::unique_ptr<ReactorGroup> group_;
  std::vector<Part> parts_;
  std::shared_ptr<std::atomic<int64_t>> hlc_ = std::make_shared<std::atomic<int64_t>>(0);
  std::shared_ptr<FollowedCluster> cluster_ = std::make_shared<FollowedCluster>();
  std::shared_ptr<WriteStamps> stamps_;  // null: there is no cache
  std::atomic<size_t> without_map_{0};   // reactors
  std::unique_ptr<HttpServer> http_;     // belongs to reactor 0
  RouterRates rates_;                    // the same
  Reactor* first_ = nullptr;             // reactor 0
  Nanos started_ns_ = 0;
  uint16_t port_ = 0, http_port_ = 0;
  bool began_without_map_ = false;
};

}  // namespace pando
