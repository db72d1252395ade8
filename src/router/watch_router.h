// WatchRouter: watch, as a router answers it. The client's position has the version of each partition; each node is
// asked for the changes of the partitions that it leads, and the first answers that have some are the client's.
//
// A node cannot be told that its answer is not wanted any more. So it is asked to wait only for a short time at first,
// and for longer each time that nothing has changed. What a node answers too late is dropped, and it tells the same
// changes again, because the position has not moved.
//
// While a partition cannot answer, only its node is asked again, with growing pauses. What other nodes were asked stays
// asked, and what they have answered counts.
//
// Threads: one reactor.
//
// Invariants
//   RW1  The position that a reply gives is behind no change of a partition that the client was not told.
//   RW2  A reply says that nothing has changed only after all partitions have said so (CV1).
//   RW3  Of the calls that may wait, no client has more than twice those that there is still room for.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/router/range_nodes.h"
#include "src/router/range_plan.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

using WatchCall = RpcCall<api::Kv_watch_args, api::Kv_watch_result>;

struct WatchRouterMetrics {
  Gauge waiting;
  Counter refused_total, dropped_total;
};

class WatchRouter {
 public:
  // Calls. All ask each node over one connection, from which the node reads a limited number of requests at a time.
  static constexpr size_t kMaxWaiting = 64;
  static constexpr size_t kShare = 2;

  // It outlives this object.
  explicit WatchRouter(RangeNodes* nodes) : nodes_(nodes) {}

  Task<void> Watch(WatchCall* call);
  // Waits for what nodes were asked. REQUIRES: no call is running.
  auto Drain() { return tasks_.Drain(); }
  WatchRouterMetrics& metrics() { return metrics_; }

 private:
  struct Watched;
  struct Part;
  struct Round;
  Task<void> WatchHere(WatchCall* call);
  Task<void> AskPart(std::shared_ptr<Part> part, std::shared_ptr<WaitQueue> ended, CallTerms terms);
  Task<bool> RunRound(WatchCall* call, Watched* watched, int32_t wait_ms);
  void Ask(WatchCall* call, Watched* watched, const RangePlan& plan, int32_t wait_ms, Round* round);
  void TakeChanges(const Round& round, Watched* watched);

  RangeNodes* const nodes_;
  TaskGroup tasks_;
  std::unordered_map<uint64_t, size_t> waiting_of_;  // by client
  WatchRouterMetrics metrics_;
};

}  // namespace pando
