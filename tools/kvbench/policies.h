// Policies: what the buffer pool's eviction keeps in memory, against others, on synthetic traces of page uses. A model
// of policies only: no pages, no I/O, no inner nodes.
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
  // Uses `page`, loading it when it is not in memory. True: it was there.
  virtual bool Use(uint64_t page) = 0;
};

// s3-fifo as src/buffer_pool has it, lru, clock, sieve, 2q; null for other names.
std::unique_ptr<EvictionPolicy> MakePolicy(std::string_view name, size_t frames);
const std::vector<std::string>& PolicyNames();

struct TraceOptions {
  uint64_t pages = 80'000;
  uint64_t uses = 4'000'000;
  uint64_t seed = 1;
};
// zipfian: theta 0.99, scattered over the pages. zipfian+scan: every tenth use is the next page of an endless scan of
// everything. shifting: zipfian, over other pages after each tenth of the trace. uniform. loop: a quarter of the pages,
// round and round. Empty for other names.
std::vector<uint64_t> MakeTrace(std::string_view name, const TraceOptions& options);
const std::vector<std::string>& TraceNames();

// Shares of uses that find their page in memory, the first half of the trace, which fills it, not counted.
double HitRate(EvictionPolicy* policy, const std::vector<uint64_t>& trace);
// Of the policy that knows the future (Belady's MIN): nothing can be better.
double BestHitRate(const std::vector<uint64_t>& trace, size_t frames);

}  // namespace pando::bench
