// Which replicas of a partition are left, whether they can elect a master by themselves, and which of them should
// take the partition over if they cannot.
//
// Threads: plain values.
#pragma once

#include <string>
#include <vector>

#include "tools/kvadmin/cluster_view.h"

namespace pando::admin {

// A replica that the topology counts: in the ISR, or evicted from it.
struct Survivor {
  NodeId node = 0;
  std::string state;    // its role, or why it cannot be used
  bool member = false;  // of the ISR: it has all that was acknowledged
  bool able = false;    // it answers, and could be master
  Epoch last_epoch = 0;
  int64_t last_lsn = 0, durable_lsn = 0, commit_lsn = 0;
  int64_t newest_change_ms = 0;  // 0: unknown
};

struct ForcePlan {
  uint32_t partition = 0;
  Epoch epoch = 0;
  uint64_t lineage = 0;
  uint32_t replicas = 0, min_isr = 0;
  NodeId served_by = 0;    // 0: nobody serves it
  bool can_elect = false;  // so many are left that nothing needs to be forced
  std::vector<Survivor> survivors;
  NodeId best = 0;  // 0: none is left
  // Why the topology is not to be trusted: it is older than what the nodes have. Empty: it is not, as far as is known.
  std::string stale;

  const Survivor* Find(NodeId node) const;
  size_t able() const;
};

ForcePlan LookAtSurvivors(const ClusterView& view, const PartitionRecord& record);
// The one to force: `to`, or the best. kUnavailable: it is not to be forced, and why. kInvalidArgument: there is no
// such replica.
Result<Survivor> ChooseForced(const ForcePlan& plan, NodeId to, bool accept_loss);
// What is lost if this one takes over, in a sentence.
std::string LossText(const ForcePlan& plan, const Survivor& chosen);

// What an operator types to force a failover of it.
std::string PartitionName(uint32_t partition);

}  // namespace pando::admin
