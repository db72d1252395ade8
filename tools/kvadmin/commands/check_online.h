// kvadmin check --online: lets a running node verify its data on disk, and prints what it found.
//
// Threads: one.
#pragma once

#include <algorithm>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct OnlineCheckOptions {
  int32_t mb_per_s = 0;      // 0: the node's own rate
  bool report_only = false;  // print what the last pass found, and start none
  bool quiet = false;
};

// How many damaged places the reply knows. (An older node does not say it.)
inline int64_t ProblemsOf(const api::ScrubReply& reply) {
  return std::max(reply.findings_total, static_cast<int64_t>(reply.findings.size()));
}

// If this is interrupted, the pass continues in the node.
Result<ExitCode> CheckOnline(const Globals& globals, const OnlineCheckOptions& options);

}  // namespace pando::admin
