// kvadmin check --backup: reads a backup, and those that it is based on, as a restore would.
#pragma once

#include <string>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

Result<ExitCode> RunBackupCheck(const Globals& globals, const std::string& directory, bool quiet);

}  // namespace pando::admin
