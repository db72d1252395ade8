// Patience repeats a read of a long command while it fails because a node or a router is away, or has too much to do,
// also beyond the budget of a call. So an export goes on after a failover or a restart.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>

#include "src/base/result.h"
#include "tools/common/interrupts.h"

namespace pando::admin {

class Patience {
 public:
  // `most_ms`: since the first attempt, which is made in any case.
  explicit Patience(int64_t most_ms) : most_(most_ms) {}

  // `call` returns a Status or a Result, and may be repeated after an error. kAborted after Ctrl-C.
  template <typename Call>
  auto operator()(Call&& call) const -> decltype(call()) {
    const auto give_up = Clock::now() + most_;
    for (;;) {
      auto result = call();
      const Code code = result.code();
      const bool passes = code == Code::kUnavailable || code == Code::kDeadline || code == Code::kOverloaded;
      if (!passes || Clock::now() >= give_up) return result;
      if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kPauseMs = 300;
  const std::chrono::milliseconds most_;
};

}  // namespace pando::admin
