// Balancer measures the traffic of the nodes of a cluster, moves masterships and replicas off nodes that have too much
// of it, and publishes how many nodes are wanted. What is moved says src/topology/load_plan.h.
//
// Each node runs one. The one that holds the key `controller` (CO1, src/node/controller.h) asks all others what they
// have done, every few seconds, and decides; the others ask it how many nodes are wanted, so that any node can tell.
//
// A replica moves in steps, each of which follows from the topology: the master gets another replica; once that is in
// sync, it becomes master if the old one is; then the old one is removed. If the new one is not in sync for kGiveUpNs,
// or its node is not reached before it is, it is taken back. Another holder goes on with none of the moves that this
// one has begun, except that a replica that is one too many for kSurplusNs is removed.
//
// Operators, the Controller and splits come first (BA3). A move whose partition is being split waits.
//
// Threads: reactor 0.
//
// Invariants
//   BA1  Only the holder of the key decides, and only while it has measured every active node that it reaches, and
//        reaches more than two thirds of them.
//   BA2  With kLog, nothing is asked of any master.
//   BA3  While anybody else moves replicas, or a node that drains holds some, no replica begins to move, and only
//        partitions that are settled move at all.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "src/io/sync.h"
#include "src/metrics/registry.h"
#include "src/node/controller.h"
#include "src/node/master_calls.h"
#include "src/node/node_cluster.h"
#include "src/node/node_options.h"
#include "src/node/traffic.h"
#include "src/rpc/http_server.h"
#include "src/topology/load_plan.h"

namespace pando {

class Balancer {
 public:
  // All pointers outlive this object. `links`: of reactor 0.
  Balancer(Reactor& reactor, NodeCluster* cluster, replication::PeerLinks* links, NodeControl* self,
           Controller* controller, Registry* registry, const NodeOptions& options);
  ~Balancer();  // REQUIRES: Stop has returned

  void Start();
  Task<void> Stop();

  // For ControllerStatus; 0: unknown.
  uint32_t wanted_nodes() const;
  // What /wanted_nodes shows: a JSON object.
  HttpPage Page() const;

 private:
  static constexpr Nanos kRoundNs = 5 * kSecond, kStaleNs = 60 * kSecond, kSurplusNs = 300 * kSecond;
  static constexpr Nanos kSeenNs = 30 * kSecond, kGiveUpNs = 7200 * kSecond;
  static constexpr size_t kCopiesAtOnce = 4, kMeasuredAtOnce = 8;

  struct Begun {
    NodeId from = 0, to = 0;
    Nanos since_ns = 0;
  };

  Task<void> Run();
  Task<void> Measure();
  Task<void> MeasureNode(NodeId node, Semaphore* calls);
  Task<void> Decide();
  Task<void> AskHolder();
  std::set<NodeId> Reached() const;
  std::set<uint32_t> Moving() const;
  void Forget();
  void Publish(const LoadInput& input);
  LoadPlan Plan(LoadInput input);
  Task<void> Carry(LoadMove move);
  Task<void> GoOn();
  Task<Status> NextStep(uint32_t partition, Begun move);
  Task<void> Trim();
  void NoteOutcome(uint32_t partition, const Status& status);
  int64_t NowMs() const { return reactor_.NowNs() / kMillisecond; }

  Reactor& reactor_;
  NodeCluster& cluster_;
  replication::PeerLinks& links_;
  MasterCalls masters_;
  Controller& controller_;
  Registry* const registry_;
  const AutoBalance mode_;
  const double target_busy_;
  TrafficMeter meter_;
  LoadHistory history_;
  std::map<uint32_t, Begun> begun_;  // replicas that move; at most kCopiesAtOnce
  std::map<uint32_t, Nanos> surplus_since_ns_;
  // What is known of the decision: by this node, or by `decided_by_`.
  uint32_t wanted_ = 0;
  NodeId decided_by_ = 0;
  Nanos decided_ns_ = 0;
  std::optional<LoadInput> shown_;  // of this node's last decision
  LoadPlan shown_plan_;
  bool stopping_ = false, stopped_ = true;
  Gauge wanted_gauge_, hot_gauge_;
  Counter planned_total_, moves_total_, failed_total_;
  TaskGroup tasks_;
};

}  // namespace pando
