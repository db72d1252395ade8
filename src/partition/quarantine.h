// QuarantinedPartition: what everyone is told about a partition that is quarantined: the log, status,
// the health page, the scrub report and the metrics say the same.
//
// Threads: a value.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"

namespace pando {

struct QuarantinedPartition {
  uint32_t id = 0;
  uint64_t first_hash = 0, last_hash = 0;  // of the keys that are not served
  int64_t since_ms = 0;                    // Unix time
  Status why;
  bool units_dropped = false;  // the log no longer holds what the file lacks

  // The partition does without this replica, as an operator has said. Nothing is wrong with it.
  bool given_up() const { return why.code() == Code::kAborted; }
  // What an operator does about it.
  std::string_view Advice() const;
  // "partition 3 (hash 30… to 3f…) has been quarantined since …: why"
  std::string What() const;
  // All of it, in one line.
  std::string ToString() const;
  // As an error, unless it was given up.
  void Log() const;
};

}  // namespace pando
