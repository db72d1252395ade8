// RouterService: the Kv service of a router, on one reactor. Clients speak to it as to a node.
//
// Threads: one reactor.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/io/task.h"
#include "src/metrics/histogram.h"
#include "src/router/batch_calls.h"
#include "src/router/forwarder.h"
#include "src/router/range_nodes.h"
#include "src/router/range_requests.h"
#include "src/router/route_keeper.h"
#include "src/router/snapshots.h"
#include "src/router/watch_router.h"
#include "src/rpc/rpc_dispatch.h"
#include "src/rpc/rpc_server.h"

namespace pando {

class RouterService final : public RpcService {
 public:
  // Both outlive the service.
  RouterService(RpcServer* server, RouteKeeper* keeper, const PointOptions& options = {});

  void OnRequest(const RpcRequest& request) override;
  MemoryLane LaneOf(std::string_view method) const override;
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}
  // Waits until every running call has ended. REQUIRES: new requests are already refused.
  Task<void> Drain();

  struct MethodMetrics {
    std::string_view name;
    Counter requests_total;
    Histogram latency_ns;
  };
  const std::vector<std::unique_ptr<MethodMetrics>>& method_metrics() const { return metrics_; }
  Forwarder& forwarder() { return forwarder_; }
  WatchRouter& watches() { return watches_; }

 private:
  template <typename Args, typename Reply>
  using Call = RpcCall<Args, Reply>;
  struct Method {
    std::string_view name;
    void (*start)(RouterService* service, const RpcRequest& request, size_t index);
    MemoryLane lane = MemoryLane::kOrdinary;
  };
  static const Method kMethods[];
  static const size_t kMethodCount;
  template <auto Handler>
  static void StartAny(RouterService* service, const RpcRequest& request, size_t index);
  template <auto Handler, typename Args, typename Reply>
  void Start(Task<void> (RouterService::*handler)(Call<Args, Reply>*), const RpcRequest& request, size_t index);

  Task<void> Hello(Call<api::Kv_hello_args, api::Kv_hello_result>* call);
  Task<void> MultiGet(MultiGetCall* call) { return RouteMultiGet(keeper_, call); }
  Task<void> WriteBatch(WriteBatchCall* call);
  Task<void> Scan(ScanCall* call) { return RouteScan(&nodes_, call); }
  Task<void> Count(CountCall* call) { return RouteCount(&nodes_, call); }
  Task<void> Aggregate(AggregateCall* call) { return RouteAggregate(&nodes_, call); }
  Task<void> SplitRange(SplitRangeCall* call) { return RouteSplitRange(&nodes_, call); }
  Task<void> DeleteRange(DeleteRangeCall* call);
  Task<void> Watch(WatchCall* call) { return watches_.Watch(call); }
  Task<void> OpenSnapshot(OpenSnapshotCall* call) { return RouteOpenSnapshot(keeper_, call); }
  Task<void> RenewSnapshot(RenewSnapshotCall* call) { return RouteRenewSnapshot(keeper_, call); }
  Task<void> ReleaseSnapshot(ReleaseSnapshotCall* call) { return RouteReleaseSnapshot(keeper_, call); }

  RpcServer* const server_;
  RouteKeeper* const keeper_;
  const std::shared_ptr<WriteStamps> stamps_;  // null: there is no cache
  RoutedNodes nodes_;
  WatchRouter watches_;
  TaskGroup tasks_;
  std::vector<std::unique_ptr<MethodMetrics>> metrics_;  // by index of kMethods
  Forwarder forwarder_;
};

}  // namespace pando
