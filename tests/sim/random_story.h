// RandomStory writes a story from a seed: clients work on a node while faults come and go, several
// at a time. ShrinkStory leaves out what a failure does not need.
//
// Threads: plain functions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/story.h"

namespace pando {

// A story of one node, `a`, that keeps what it acknowledges whatever happens. Faults that lose
// acknowledged writes by right (a disk that lies, a restored image) do not occur in it. All faults
// end, the node runs, and the clients stop in the end.
std::string RandomStory(uint64_t seed);

// Leaves out statements as long as `fails` returns true for the rest, which it is asked at most
// `most_runs` times. Returns the shortest story that failed.
std::vector<Statement> ShrinkStory(std::vector<Statement> story, int most_runs,
                                   const std::function<bool(const std::vector<Statement>&)>& fails);

}  // namespace pando
