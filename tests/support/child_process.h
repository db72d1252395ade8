// InChildProcess: runs a part of a test in a forked process. The memory that simulated crashes
// abandon disappears with that process, and several parts can run at the same time.
//
// Threads: the parent must have only one. The output of the child reaches the terminal as usual.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace pando {

// Returns true if `part` returned true. Returns false if `part` returned false or its process died
// (a failed CHECK, a sanitizer); `what` then says how.
bool InChildProcess(const std::function<bool()>& part, std::string* what = nullptr);

// Runs part(first, last) over [0, cases) in child processes, `jobs` at a time, each with at most
// `batch` cases. Returns the first failure message, or "". A failing `part` prints its own replay
// command.
std::string InBatches(uint64_t cases, uint64_t batch, unsigned jobs,
                      const std::function<bool(uint64_t first, uint64_t last)>& part);

}  // namespace pando
