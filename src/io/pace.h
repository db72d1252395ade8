// Pace: when work may go on that is not to take more than so many bytes per second.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/io/reactor.h"

namespace pando {

class Pace {
 public:
  // A pause of the work is made up for as far as it was not longer than this.
  static constexpr Nanos kMadeUpNs = kSecond / 2;

  // 0: as fast as possible.
  explicit Pace(uint64_t bytes_per_s) : bytes_per_s_(bytes_per_s) {}

  void Took(uint64_t bytes, Nanos now_ns) {
    if (bytes_per_s_ == 0) return;
    const double seconds = static_cast<double>(bytes) / static_cast<double>(bytes_per_s_);
    due_ns_ = std::max(due_ns_, now_ns - kMadeUpNs) + static_cast<Nanos>(seconds * static_cast<double>(kSecond));
  }
  // Not before this.
  Nanos due_ns() const { return due_ns_; }

 private:
  const uint64_t bytes_per_s_;
  Nanos due_ns_ = 0;
};

}  // namespace pando
