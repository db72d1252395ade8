// kvadmin's exit codes, documented in its --help; scripts rely on them.
#pragma once

#include "src/base/result.h"

namespace pando::admin {

enum ExitCode : int {
  kExitOk = 0,
  kExitNo = 1,          // the answer is no: no such record, the condition did not hold, the node's verdict is not ok
  kExitUsage = 2,       // the command line or the input breaks a rule
  kExitFailed = 3,      // the server refused, could not be reached or failed; or the local system did
  kExitCorruption = 4,  // damage was found
  kExitInUse = 5,       // a running node holds the data directory
  kExitRejected = 6,    // load: records were rejected
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
