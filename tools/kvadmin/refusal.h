// RefusalOf: what a node has refused of a change that a command asked for.
//
// Threads: plain values.
#pragma once

#include <string_view>

#include "src/base/result.h"

namespace pando::admin {

// A node answers BAD_REQUEST if a change does not fit the partition as it is by now. The command line was right: the
// cluster is not as it was when the command looked at it, as when somebody else changes it too. That is kUnavailable,
// and the error does not speak of a bad request. Other results stay as they are.
inline Status RefusalOf(const Status& status) {
  if (status.code() != Code::kInvalidArgument) return status;
  std::string_view why = status.message();
  constexpr std::string_view kRefused = "the server refused (BAD_REQUEST): ";
  if (why.starts_with(kRefused)) why.remove_prefix(kRefused.size());
  return Error(Code::kUnavailable, "the node refused: {}", why);
}

}  // namespace pando::admin
