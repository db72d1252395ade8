// Controller gives the replicas of nodes that stay away to other nodes. Each node runs one; the one that holds the key
// `controller` of the topology decides.
//
// The key is no lease: it keeps the nodes from all doing the same at once, and nothing is wrong if two do for a moment.
// Whatever is decided is asked of the partitions' masters, as an operator asks it (kvadmin replica), and they change it
// by compare-and-swap. What to do next is read from the topology each time, so a new holder goes on where another one
// was.
//
// Threads: reactor 0.
//
// Invariants
//   CO1  A node decides only for kHoldNs after the beginning of its last write to the key that was stored; others take
//        the key only after it has not changed for longer, each by its own clock.
//   CO2  A node is replaced only after this one has not reached it for the whole time, by this one's clock, and only
//        for partitions whose masters have taken it out of the ISR.
//   CO3  What is planned keeps RL1 to RL3 (src/topology/replacement.h).
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/cluster_types.h"
#include "src/metrics/registry.h"
#include "src/node/kv_backend.h"
#include "src/node/master_calls.h"
#include "src/node/node_cluster.h"
#include "src/node/reactor_part.h"
#include "src/topology/replacement.h"

namespace pando {

class Controller {
 public:
  // All pointers outlive this object. `links`: of reactor 0. `replace_after_ns`: 0 = never, unless the topology says
  // otherwise; then kReplaceAfterNs. `balances`: the key is wanted in any case, for the Balancer.
  Controller(Reactor& reactor, NodeCluster* cluster, replication::PeerLinks* links, NodeControl* self,
             Registry* registry, Nanos replace_after_ns, bool balances);
  ~Controller();  // REQUIRES: Stop has returned

  // Once the node has joined.
  void Start();
  Task<void> Stop();

  api::ControllerStatus status() const;

  static constexpr Nanos kReplaceAfterNs = 1800 * kSecond;

  // CO1. Whether this node holds the key.
  bool MayDecide() const;
  // Replicas of these partitions move because of the Balancer: it removes what is one too many.
  void LeaveSurplusOf(std::set<uint32_t> partitions) { moving_ = std::move(partitions); }

 private:
  static constexpr Nanos kTickNs = 500 * kMillisecond, kRenewNs = 2 * kSecond, kHoldNs = 8 * kSecond;
  static constexpr Nanos kTakeAfterNs = 10 * kSecond;
  static constexpr Nanos kTopologyNs = 2 * kSecond;
  static constexpr size_t kMovesAtOnce = 4;

  Task<void> Run();
  // How long a node must be away; 0: none is replaced.
  Nanos ReplaceAfter() const;
  void LookAtNodes();
  void LookAtPartitions();
  void LookAtKey();
  Task<void> TakeOrRenew();
  Task<void> Decide();
  Task<void> CarryOut(ReplacementStep step);
  Task<Status> Ask(const ReplacementStep& step);

  Reactor& reactor_;
  NodeCluster& cluster_;
  replication::PeerLinks& links_;
  MasterCalls masters_;
  Registry* const registry_;
  const Nanos replace_after_ns_;
  const bool balances_;
  std::map<NodeId, Nanos> away_since_ns_;
  std::set<uint32_t> moving_;                   // LeaveSurplusOf
  std::map<uint32_t, Nanos> surplus_since_ns_;  // partitions with more replicas in sync than there should be
  Revision key_revision_ = 0;
  Nanos key_changed_ns_ = 0;  // when this node saw that
  Nanos held_ns_ = 0;         // when the last write began that was stored; 0: none
  Nanos next_write_ns_ = 0;
  std::map<uint32_t, BegunReplacement> begun_;
  std::map<uint32_t, std::string> told_;  // the last decision of each partition, so that one line says it
  std::vector<std::string> plans_;
  bool stopping_ = false, stopped_ = true;
  Gauge holds_, away_;
  Counter added_total_, removed_total_, refused_total_;
  TaskGroup tasks_;
};

}  // namespace pando
