// The part of kvadmin check that asks a running node.
#pragma once

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct OnlineCheckOptions {
  int32_t mb_per_s = 0;      // 0: the node's own rate
  bool report_only = false;  // what the last pass found; none is started
  bool quiet = false;
};

// The pass goes on in the node when this is interrupted.
Result<ExitCode> CheckOnline(const Globals& globals, const OnlineCheckOptions& options);

}  // namespace pando::admin
