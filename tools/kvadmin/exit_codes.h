// kvadmin's exit codes. --help documents them, and scripts rely on them.
#pragma once

#include "src/base/result.h"

namespace pando::admin {

enum ExitCode : int {
  kExitOk = 0,
  kExitNo = 1,          // no such record, a false condition, or an unhealthy node
  kExitUsage = 2,       // the command line or the input is invalid
  kExitFailed = 3,      // the server refused or could not be reached, or the local system failed
  kExitCorruption = 4,  // damage was found
  kExitInUse = 5,       // a running node holds the data directory
  kExitRejected = 6,    // load: the server rejected records
};

inline ExitCode ExitCodeOf(const Status& status) {
  switch (status.code()) {
    case Code::kOk: return kExitOk;
    case Code::kInvalidArgument: return kExitUsage;
    case Code::kCorruption: return kExitCorruption;
    case Code::kLocked: return kExitInUse;
    default: return kExitFailed;
  }
}

}  // namespace pando::admin
