// InChildProcess: runs a part of a test in a forked process, so that memory which simulated crashes abandon goes with
// it, and so that several parts can run at once.
//
// The parent must have one thread only. Output of the child reaches the terminal as usual.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace pando {

// True when `part` returned true. False when it returned false or its process died (a failed CHECK, a sanitizer);
// `what` then says how.
bool InChildProcess(const std::function<bool()>& part, std::string* what = nullptr);

// Runs part(first, last) over [0, cases) in children of at most `batch` cases, `jobs` at a time. Returns the first
// message of failure, or "". A failing test prints its own replay command inside `part`.
std::string InBatches(uint64_t cases, uint64_t batch, unsigned jobs,
                      const std::function<bool(uint64_t first, uint64_t last)>& part);

}  // namespace pando
