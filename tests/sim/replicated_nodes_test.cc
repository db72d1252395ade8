// Whole clusters of the production code of a replicated node (cluster_world.h), with faults of everything around
// it: what clients see is linearizable, and after the faults all replicas are in sync and equal.
//
// PANDO_TEST_SEED runs one seed, and tells its story; PANDO_TEST_ROUNDS is the number of seeds.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "tests/sim/cluster_world.h"
#include "tests/support/child_process.h"
#include "tests/support/seeds.h"

namespace pando {
namespace {

constexpr uint64_t kSeeds = 200;
constexpr uint64_t kSeedsPerProcess = 10;  // crashed processes stay allocated
constexpr unsigned kJobs = 2;

const ClusterWorld* running = nullptr;
uint64_t running_seed = 0;

void TellOf(uint64_t seed, const ClusterWorld& world, const std::string& wrong) {
  fprintf(stderr, "%s\nseed %lu: %s\nreplay: PANDO_TEST_SEED=%lu bin/sim_replicated_nodes\n", world.Story().c_str(),
          seed, wrong.c_str(), seed);
}

// A failed CHECK ends the process: the story first.
void OnAbort(int) {
  if (running != nullptr) TellOf(running_seed, *running, "the process was aborted");
  running = nullptr;
}

// `held` gets the number of writes that a handover has held.
std::string RunSeed(uint64_t seed, bool tells, bool calm = false, uint64_t* held = nullptr) {
  FLAGS_minloglevel = std::getenv("PANDO_TEST_LOG") ? 0 : 3;
  FLAGS_logtostderr = true;
  std::signal(SIGABRT, OnAbort);
  ClusterWorld world(seed, tells, calm);
  running = &world;
  running_seed = seed;
  std::string wrong = world.Run();
  running = nullptr;
  if (!wrong.empty()) TellOf(seed, world, wrong);
  if (tells || std::getenv("PANDO_TEST_VERBOSE")) fprintf(stderr, "seed %lu: %s\n", seed, world.Summary().c_str());
  if (held != nullptr) *held += world.counts().held;
  return wrong;
}

TEST(ReplicatedNodes, KeepTheirPromisesUnderFaults) {
  const char* only = std::getenv("PANDO_TEST_SEED");
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t seeds = rounds ? std::strtoull(rounds, nullptr, 10) : kSeeds;
  const uint64_t begin = only ? std::strtoull(only, nullptr, 10) : 1;
  const bool one = only && !rounds;
  const std::string failure = InBatches(one ? 1 : seeds, kSeedsPerProcess, kJobs, [&](uint64_t first, uint64_t last) {
    for (uint64_t seed = begin + first; seed < begin + last; ++seed) {
      if (!RunSeed(seed, one).empty()) return false;
    }
    return true;
  });
  EXPECT_EQ(failure, "");
}

// A planned handover holds writes, and none of them has an unknown outcome.
TEST(ReplicatedNodes, HandOverWithoutDoubt) {
  constexpr uint64_t kCalmSeeds = 20;
  const char* only = std::getenv("PANDO_TEST_SEED");
  const uint64_t begin = only ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t seeds = only ? 1 : kCalmSeeds;
  const std::string failure = InBatches(seeds, kSeedsPerProcess, kJobs, [&](uint64_t first, uint64_t last) {
    uint64_t held = 0;
    for (uint64_t seed = begin + first; seed < begin + last; ++seed) {
      if (!RunSeed(seed, only != nullptr, /*calm=*/true, &held).empty()) return false;
    }
    return held > 0 || only != nullptr;
  });
  EXPECT_EQ(failure, "");
}

}  // namespace
}  // namespace pando
