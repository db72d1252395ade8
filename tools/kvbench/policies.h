// Policies: compares the hit rate of the buffer pool's eviction policy with that of other policies,
// on synthetic traces of page accesses. It models the policies only; there are no pages, no I/O and
// no inner nodes.
//
// Threads: each object belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pando::bench {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // Accesses `page`, and loads it when it is not in memory. True: it was in memory (a hit).
  virtual bool Use(uint64_t page) = 0;
};

// Names: s3-fifo (as in src/buffer_pool), lru, clock, sieve, 2q. Null for any other name.
std::unique_ptr<EvictionPolicy> MakePolicy(std::string_view name, size_t frames);
const std::vector<std::string>& PolicyNames();

struct TraceOptions {
  uint64_t pages = 80'000;
  uint64_t uses = 4'000'000;
  uint64_t seed = 1;
};
// Returns an empty trace for an unknown name. The names are:
//   zipfian       theta 0.99, scattered over the pages
//   zipfian+scan  the same, but every tenth access is the next page of an endless scan of all pages
//   shifting      zipfian, with other popular pages after each tenth of the trace
//   uniform       all pages with the same probability
//   loop          a quarter of the pages, in a loop
std::vector<uint64_t> MakeTrace(std::string_view name, const TraceOptions& options);
const std::vector<std::string>& TraceNames();

// The fraction of accesses that are hits. The first half of the trace fills the memory and is not
// counted.
double HitRate(EvictionPolicy* policy, const std::vector<uint64_t>& trace);
// The hit rate of the optimal policy, which knows the future (Belady's MIN).
double BestHitRate(const std::vector<uint64_t>& trace, size_t frames);

}  // namespace pando::bench
