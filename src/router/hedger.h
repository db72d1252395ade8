// Hedger: reads at BOUNDED that take longer than usual are sent to a second replica as well, and the first answer is
// the client's (Dean and Barroso, "The Tail at Scale", 2013). It is off unless --hedge_percent is set.
//
// "Longer than usual" is the 95th percentile of what the gets of that node have taken lately. A token bucket limits how
// many requests this adds: every read at BOUNDED earns a part of a token, and a hedge costs one.
//
// Threads: one reactor.
//
// Invariants
//   HG1  Of N reads at BOUNDED, at most N * percent / 100 are sent twice.
//   HG2  A hedge that has lost changes nothing: its answer is dropped.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/router/point_call.h"
#include "src/router/route_keeper.h"
#include "src/rpc/rpc_client.h"
#include "src/rpc/rpc_server.h"

namespace pando {

// Tokens for `percent` of what is counted.
class HedgeBudget {
 public:
  explicit HedgeBudget(double percent) : part_(percent / 100) {}
  void Count() { tokens_ = std::min(tokens_ + part_, kMostTokens); }
  bool TryTake() {
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  static constexpr double kMostTokens = 20;
  const double part_;
  double tokens_ = 0;
};

struct HedgeMetrics {
  Counter sent_total, won_total, no_token_total;
};

class Hedge;

class Hedger {
 public:
  // Without so many gets of a node in the last seconds, it is not known what is usual.
  static constexpr uint64_t kLeastSamples = 50;
  static constexpr Nanos kLeastWaitNs = 500 * kMicrosecond;

  // Both outlive it. `percent`: 0: off.
  Hedger(RpcServer* server, RouteKeeper* keeper, double percent)
      : server_(server), keeper_(keeper), on_(percent > 0), budget_(percent) {}

  // `call` has been sent on `client`, and is about to wait for its answer. Null: it is not hedged. Otherwise End must
  // follow when it has waited.
  std::shared_ptr<Hedge> Begin(PointCall* call, RpcClient* client, Upstream* node);
  void End(Hedge* hedge);
  auto Drain() { return tasks_.Drain(); }
  HedgeMetrics& metrics() { return metrics_; }

 private:
  friend class Hedge;
  Task<void> Send(std::shared_ptr<Hedge> hedge);

  RpcServer* const server_;
  RouteKeeper* const keeper_;
  const bool on_;
  HedgeBudget budget_;
  TaskGroup tasks_;
  HedgeMetrics metrics_;
};

}  // namespace pando
