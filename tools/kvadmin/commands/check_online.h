// kvadmin check --online: lets a running node verify its data on disk, and prints what it found.
//
// Threads: one.
#pragma once

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct OnlineCheckOptions {
  int32_t mb_per_s = 0;      // 0: the node's own rate
  bool report_only = false;  // print what the last pass found, and start none
  bool quiet = false;
};

// If this is interrupted, the pass continues in the node.
Result<ExitCode> CheckOnline(const Globals& globals, const OnlineCheckOptions& options);

}  // namespace pando::admin
