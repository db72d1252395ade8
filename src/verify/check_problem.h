// CheckProblem: one damaged place on disk, as reported by the checker and the scrubber.
//
// Threads: a value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace pando {

struct CheckProblem {
  std::string file;
  uint64_t offset_bytes = 0;
  std::string what;                                  // what is wrong and what that means
  std::string advice;                                // what to do about it
  std::optional<uint32_t> partition = std::nullopt;  // that is concerned; not set: a whole log
};

}  // namespace pando
