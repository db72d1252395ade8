// Forwarder: requests that name one key. It reads the context and the key, and passes everything else on, in both
// directions, as the bytes that they are.
//
// A request goes to the master of its key's partition, or, for reads at BOUNDED and SESSION, to any replica in sync.
// What the node asks to be tried again is tried again while the request's budget lasts (retry.h). A write that was
// sent, and whose answer was lost, is sent again only if it has a name: then it is applied once. Without a name the
// client learns that the outcome is unknown.
//
// Threads: one reactor.
//
// Invariants
//   FW1  A request is answered once, and not later than its budget and kGraceNs.
//   FW2  A write without a name is never sent again after it may have reached a node.
//   FW3  The budget that a node gets is what is left of the request's, or less than the router waits for it. So a node
//        that is too slow says so itself, and is not taken for one that is silent.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gen-cpp/pando_types.h"
#include "src/io/task.h"
#include "src/metrics/histogram.h"
#include "src/metrics/metrics.h"
#include "src/router/get_sharing.h"
#include "src/router/hedger.h"
#include "src/router/point_call.h"
#include "src/router/point_request.h"
#include "src/router/read_cache.h"
#include "src/router/retry.h"
#include "src/router/route_keeper.h"
#include "src/rpc/rpc_server.h"

namespace pando {

struct ForwarderMetrics {
  Counter requests_total, retries_total, misrouted_total, gave_up_total, unknown_total, shared_total;
  Histogram latency_ns;  // of requests that were answered
};

struct PointOptions {
  double hedge_percent = 0;                       // of reads at BOUNDED; 0: none
  size_t cache_bytes = 0;                         // of this reactor; 0: no cache
  std::shared_ptr<WriteStamps> stamps = nullptr;  // of all reactors; null: no reactor has a cache
};

class Forwarder {
 public:
  static constexpr Nanos kGraceNs = 100 * kMillisecond;

  // Both outlive it.
  Forwarder(RpcServer* server, RouteKeeper* keeper, const PointOptions& options);

  void OnRequest(const RpcRequest& request, const PointMethod& method);
  // Waits until every request has been answered. REQUIRES: none comes any more.
  Task<void> Drain();
  ForwarderMetrics& metrics() { return metrics_; }
  ReadCache* cache() { return cache_.get(); }  // null: there is none
  HedgeMetrics& hedge_metrics() { return hedger_.metrics(); }

 private:
  // Answers from the cache, if that is allowed and there is an answer.
  bool AnswerFromCache(PointCall* call, const PointRequestView& view);
  Task<void> Run(std::unique_ptr<PointCall> call);
  void End(PointCall* call);
  // Sends what has waited for this call, and what shared it if it was not answered.
  void GoOn(PointCall* call);
  // One try: sends the request to a node and waits for the answer. Why it may be tried again; the last error is in
  // the call.
  Task<RetryCause> Try(PointCall* call);
  std::shared_ptr<Upstream> Choose(PointCall* call);
  Status SendTo(Upstream::Link* link, PointCall* call, Nanos budget_ns);
  RetryCause JudgeLost(PointCall* call, const Status& status);
  RetryCause JudgeError(PointCall* call, const std::string& address);  // with which the node there has answered
  void NoteMisrouted(PointCall* call);

  RpcServer* const server_;
  RouteKeeper* const keeper_;
  TaskGroup tasks_;
  ForwarderMetrics metrics_;
  GetSharing sharing_;
  Hedger hedger_;
  const std::shared_ptr<WriteStamps> stamps_;
  std::unique_ptr<ReadCache> cache_;
};

}  // namespace pando
