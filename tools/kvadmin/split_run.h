// RunSplit: has partitions split, or gives splits up, and waits for that.
//
// kvadmin writes nothing into the topology. It asks the master of each partition, whose node then does everything, and
// looks at the cluster again and again. Nothing is remembered but what was asked for, so the same command goes on after
// an interruption.
//
// Threads: one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

struct SplitOptions {
  std::string place;
  std::vector<std::string> partitions;  // their numbers
  bool all = false;                     // instead
  uint32_t to = 0;                      // with `all`: so many partitions are to serve afterwards; 0: each is split
  uint32_t mb_per_s = 0;                // 0: without a limit
  bool has_rate = false;                // a split that runs takes this rate
  bool abort = false, no_wait = false, dry_run = false;
  int64_t timeout_s = 3600;
};

// The partitions that `all` splits: those that are being split, and of the others those with the widest ranges, as many
// as are wanted. kInvalidArgument: `to` is more than that gives.
Result<std::vector<uint32_t>> AllToSplit(const ClusterMap& map, uint32_t to);

enum class SplitState : uint8_t { kLeft, kRunning, kOpening, kDone };
// Of a partition that serves, or did once. REQUIRES: it is no half that is being built or was given up.
SplitState SplitStateOf(const ClusterMap& map, uint32_t partition);

Result<ExitCode> RunSplit(const Globals& globals, const SplitOptions& options);

}  // namespace pando::admin
