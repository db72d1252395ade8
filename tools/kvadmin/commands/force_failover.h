// kvadmin failover --force.
#pragma once

#include <string>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct ForceOptions {
  std::string place, confirm;
  uint32_t partition = 0;
  uint32_t node = 0;  // 0: the best
  bool accept_loss = false, dry_run = false;
};

Result<ExitCode> RunForceFailover(const Globals& globals, const ForceOptions& options);

}  // namespace pando::admin
