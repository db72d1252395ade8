// How far the followers of a cluster of Pando are behind, and how they catch up.
//
// Threads: each function is called by the main thread and has a thread of its own while it runs, which asks the nodes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "src/base/result.h"
#include "tools/kvbench/cluster.h"
#include "tools/kvbench/pauses.h"
#include "tools/kvbench/runner.h"

namespace pando::bench {

// From when the master has committed and applied, and may thus have acknowledged, until a follower has applied the
// same, in milliseconds. Both are asked over the network: a figure includes one call to each.
struct Lag {
  Measurement load;
  Spread ms;
  size_t samples = 0;
};
// Node 0 leads all partitions, and `load` runs at its rate.
Result<Lag> MeasureLag(Cluster* cluster, const RunSettings& load);

struct CatchUpOptions {
  ClusterOptions cluster;
  RunSettings load;             // the rate of the foreground; its records are what must be copied
  double limit_mb_per_s = 16;   // --install_mb_per_s, in MiB
  uint64_t missed_mb = 300;     // written while the follower is down
  uint64_t log_budget_mb = 64;  // of each node
};
struct CatchUp {
  Measurement before, during;          // the foreground
  double copied_mb = 0, copied_s = 0;  // pages, MiB
  double level_s = 0;                  // from the start of the follower until it has all
};
// Stops a follower, writes more than the log keeps, and starts it, while clients write.
Result<CatchUp> MeasureCatchUp(const CatchUpOptions& options);

}  // namespace pando::bench
