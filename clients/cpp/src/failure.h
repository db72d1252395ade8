// How one try of a call failed. Thrown and caught inside the library; callers see Error.
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "pando/error.h"

namespace pando::client::detail {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

struct Failure {
  ErrorInfo info;
  bool transport = false;  // the connection is of no use any more
};

// `sent`: the server may have the request.
inline Failure transport_failure(std::string message, bool sent) {
  return {{.code = Code::kTransport,
           .message = std::move(message),
           .applied = sent ? Applied::kUnknown : Applied::kNo,
           .retryable = true},
          true};
}

inline Failure closed_failure() {
  return {{.code = Code::kClosed, .message = "the client was closed", .applied = Applied::kNo}, true};
}

// Throws the subclass of Error that belongs to the code.
[[noreturn]] void throw_error(ErrorInfo info, int tries = 0, std::optional<ErrorInfo> cause = std::nullopt);

}  // namespace pando::client::detail
