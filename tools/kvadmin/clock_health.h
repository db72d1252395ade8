// JudgeClocks: whether the clocks of a cluster's nodes agree, and whether the versions that they give are near them.
//
// Versions follow the clocks and never go back. So a clock that is ahead, even for a moment, leaves versions behind
// that are ahead, and snapshots of the cluster are refused until the clocks have nearly come up to them.
//
// Threads: plain values.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/kvadmin/cluster_view.h"

namespace pando::admin {

struct ClockHealth {
  std::map<NodeId, std::string> troubles;  // of a node, in short; others are well, or do not say their time
  std::vector<std::string> causes;         // in a sentence; empty: all is well
  // What to do; empty: nothing. `must_wait`: only waiting helps.
  std::string next;
  bool must_wait = false;
};

ClockHealth JudgeClocks(const ClusterView& view);

}  // namespace pando::admin
