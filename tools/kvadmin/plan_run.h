// RunPlan carries a plan of moves out, or takes back what one has begun.
//
// Each turn looks at the cluster, judges from its topology how far every partition has come (JudgePlanned), reads what
// is wanted (FILE.state), and takes at most one step of each partition that is under way, with the same ReplicaChange
// as kvadmin replica move. Nothing is kept from one turn to the next but who was told what. So whoever is killed at any
// step leaves what the next one goes on with.
//
//   run     up to `parallel` partitions are under way; when all are done, masters are balanced
//   pause   what has begun is finished, and nothing begins
//   abort   nothing begins; a new replica that is not in sync is removed again, and one that is takes its place
//
// Threads: one.
#pragma once

#include <string>

#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/plan_file.h"

namespace pando::admin {

enum class PlanVerb : uint8_t { kApply, kResume, kAbort };

struct RunOptions {
  std::string place, path;
  uint32_t parallel = 4;
  int64_t timeout_s = 3600;  // without any progress, or until another kvadmin has let the plan go
  bool dry_run = false;
};

Result<ExitCode> RunPlan(const Globals& globals, const RunOptions& options, PlanVerb verb);

}  // namespace pando::admin
