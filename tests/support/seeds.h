// The seeds of randomized unit tests, and the command that replays one seed (in the build
// directory).
//
//   for (uint64_t seed : Seeds(20)) { SCOPED_TRACE(Replay(seed)); ... }
#pragma once

#include <errno.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace pando {

// Returns 1..count, or only PANDO_TEST_SEED if that is set.
inline std::vector<uint64_t> Seeds(uint64_t count) {
  if (const char* only = std::getenv("PANDO_TEST_SEED")) return {std::strtoull(only, nullptr, 10)};
  std::vector<uint64_t> seeds;
  for (uint64_t seed = 1; seed <= count; ++seed) seeds.push_back(seed);
  return seeds;
}

inline std::string Replay(uint64_t seed) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  return fmt::format("replay: PANDO_TEST_SEED={} bin/{} --gtest_filter={}.{}", seed, program_invocation_short_name,
                     test->test_suite_name(), test->name());
}

}  // namespace pando
