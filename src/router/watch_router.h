// WatchRouter: watch, as a router answers it. The client's position has the version of each partition; each node is
// asked for the changes of the partitions that it leads, and the first answers that have some are the client's.
//
// A node cannot be told that its answer is not wanted any more. So it is asked to wait only for a short time at first,
// and for longer each time that nothing has changed. What a node answers too late is dropped, and it tells the same
// changes again, because the position has not moved.
//
// Threads: one reactor.
//
// Invariants
//   RW1  The position that a reply gives is behind no change of a partition that the client was not told.
//   RW2  A reply says that nothing has changed only after all partitions have said so (CV1).
#pragma once

#include <memory>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/router/range_nodes.h"
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

  // It outlives this object.
  explicit WatchRouter(RangeNodes* nodes) : nodes_(nodes) {}

  Task<void> Watch(WatchCall* call);
  // Waits for what nodes were asked. REQUIRES: no call is running.
  auto Drain() { return tasks_.Drain(); }
  WatchRouterMetrics& metrics() { return metrics_; }

 private:
  struct Watched;
  struct Round;
  Task<void> WatchHere(WatchCall* call);
  Task<void> AskPart(std::shared_ptr<Round> round, size_t index);
  Task<bool> RunRound(WatchCall* call, Watched* watched, int32_t wait_ms);
  void TakeChanges(const Round& round, Watched* watched);

  RangeNodes* const nodes_;
  TaskGroup tasks_;
  WatchRouterMetrics metrics_;
};

}  // namespace pando
