#include "src/metrics/histogram.h"

#include <algorithm>
#include <cmath>

namespace pando {

uint64_t Histogram::BucketStart(size_t bucket) {
  if (bucket < (size_t{1} << (kSubBucketBits + 1))) return bucket;
  size_t shift = (bucket >> kSubBucketBits) - 1;
  return static_cast<uint64_t>(bucket - (shift << kSubBucketBits)) << shift;
}

void Histogram::Merge(const Histogram& other) {
  if (other.count() == 0) return;
  for (size_t i = 0; i < kBuckets; ++i) {
    uint64_t n = other.buckets_[i].load(std::memory_order_relaxed);
    if (n != 0) Bump(buckets_[i], n);
  }
  Bump(count_, other.count());
  Bump(sum_, other.sum());
  min_.store(std::min(min_.load(std::memory_order_relaxed), other.min_.load(std::memory_order_relaxed)),
             std::memory_order_relaxed);
  max_.store(std::max(max(), other.max()), std::memory_order_relaxed);
}

void Histogram::Reset() {
  for (Cell& cell : buckets_) cell.store(0, std::memory_order_relaxed);
  count_.store(0, std::memory_order_relaxed);
  sum_.store(0, std::memory_order_relaxed);
  min_.store(UINT64_MAX, std::memory_order_relaxed);
  max_.store(0, std::memory_order_relaxed);
}

uint64_t Histogram::Percentile(double percent) const {
  uint64_t total = count();
  if (total == 0) return 0;
  if (percent <= 0) return min();
  auto rank = static_cast<uint64_t>(std::ceil(percent / 100.0 * static_cast<double>(total)));
  if (rank >= total) return max();
  rank = std::max<uint64_t>(rank, 1);
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i].load(std::memory_order_relaxed);
    if (seen < rank) continue;
    uint64_t start = BucketStart(i);
    uint64_t next = i + 1 < kBuckets ? BucketStart(i + 1) : kMaxValue + 1;
    return std::clamp(start + (next - start) / 2, min(), max());
  }
  return max();
}

uint64_t Histogram::CountBelow(uint64_t bound) const {
  if (bound > kMaxValue) return count();
  uint64_t seen = 0;
  for (size_t i = 0, end = BucketOf(bound); i < end; ++i) seen += buckets_[i].load(std::memory_order_relaxed);
  return seen;
}

}  // namespace pando
