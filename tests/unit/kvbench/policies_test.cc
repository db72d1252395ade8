// The simulated eviction policies, on traces small enough to check by hand.
#include "tools/kvbench/policies.h"

#include <gtest/gtest.h>

namespace pando::bench {
namespace {

std::vector<bool> Hits(std::string_view policy, size_t frames, const std::vector<uint64_t>& trace) {
  std::unique_ptr<EvictionPolicy> p = MakePolicy(policy, frames);
  std::vector<bool> hits;
  for (uint64_t page : trace) hits.push_back(p->Use(page));
  return hits;
}

TEST(Policies, KeepWhatFits) {
  const std::vector<uint64_t> trace = {1, 2, 3, 1, 2, 3, 3, 2, 1};
  for (const std::string& name : PolicyNames()) {
    EXPECT_EQ(Hits(name, 3, trace), (std::vector<bool>{false, false, false, true, true, true, true, true, true}))
        << name;
  }
  EXPECT_EQ(MakePolicy("mru", 3), nullptr);
}

TEST(Policies, EvictTheirVictims) {
  // Page 1 was used again, so LRU and the clocks evict page 2 to load page 4.
  for (const char* name : {"lru", "clock", "sieve"}) {
    EXPECT_EQ(Hits(name, 3, {1, 2, 3, 1, 4, 1, 3, 2}),
              (std::vector<bool>{false, false, false, true, false, true, true, false}))
        << name;
  }
  EXPECT_DOUBLE_EQ(BestHitRate({1, 2, 3, 1, 2, 3, 1, 2}, 2), 0.5)
      << "page 1 hits at once, and then every second access";
}

TEST(Policies, NothingBeatsTheBest) {
  TraceOptions options{.pages = 800, .uses = 40'000, .seed = 3};
  for (const std::string& trace_name : TraceNames()) {
    const std::vector<uint64_t> trace = MakeTrace(trace_name, options);
    ASSERT_EQ(trace.size(), options.uses);
    const double best = BestHitRate(trace, 100);
    for (const std::string& name : PolicyNames()) {
      EXPECT_LE(HitRate(MakePolicy(name, 100).get(), trace), best + 1e-9) << name << " on " << trace_name;
    }
  }
  EXPECT_TRUE(MakeTrace("gaussian", options).empty());
}

TEST(Policies, ScansPassThroughS3Fifo) {
  TraceOptions options{.pages = 8000, .uses = 400'000, .seed = 3};
  const std::vector<uint64_t> trace = MakeTrace("zipfian+scan", options);
  EXPECT_GT(HitRate(MakePolicy("s3-fifo", 400).get(), trace), HitRate(MakePolicy("lru", 400).get(), trace) + 0.03);
  const std::vector<uint64_t> loop = MakeTrace("loop", options);
  EXPECT_EQ(HitRate(MakePolicy("lru", 1000).get(), loop), 0.0);
}

}  // namespace
}  // namespace pando::bench
