// Histogram: log-linear (HDR style) counts of non-negative integers, usually nanoseconds, in fixed
// memory of 18 KiB.
//
// Values below 128 are exact. Above that, each power of two is divided into 64 equal buckets, and a
// percentile is the middle of its bucket, which is within 0.8 % of the true value. Values above
// kMaxValue count as kMaxValue (min, max, and sum stay exact).
//
// Threads: one writer (Record, Merge into this histogram, Reset). Any thread may read meanwhile. It
// sees recent values, but not all of them from the same instant.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace pando {

class Histogram {
 public:
  static constexpr unsigned kSubBucketBits = 6;  // 64 buckets per power of two
  static constexpr unsigned kMaxBits = 41;       // 2^41 ns = 36 minutes
  static constexpr uint64_t kMaxValue = (uint64_t{1} << kMaxBits) - 1;
  static constexpr size_t kBuckets = size_t{kMaxBits - kSubBucketBits + 1} << kSubBucketBits;

  Histogram() { Reset(); }
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  void Record(uint64_t value, uint64_t times = 1) {
    if (times == 0) return;
    Bump(buckets_[BucketOf(value)], times);
    Bump(count_, times);
    Bump(sum_, value * times);
    if (value < min_.load(std::memory_order_relaxed)) min_.store(value, std::memory_order_relaxed);
    if (value > max_.load(std::memory_order_relaxed)) max_.store(value, std::memory_order_relaxed);
  }
  void Merge(const Histogram& other);  // adds all of `other`
  void Reset();

  uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  uint64_t sum() const { return sum_.load(std::memory_order_relaxed); }
  uint64_t min() const { return count() == 0 ? 0 : min_.load(std::memory_order_relaxed); }
  uint64_t max() const { return max_.load(std::memory_order_relaxed); }
  double mean() const { return count() == 0 ? 0 : static_cast<double>(sum()) / static_cast<double>(count()); }

  // The smallest recorded value (to bucket precision) that at least `percent` of all values do not
  // exceed; 0 when empty. Percentile(0) is exactly the minimum, Percentile(100) the maximum.
  uint64_t Percentile(double percent) const;
  // The number of values below `bound`; exact when `bound` is a bucket boundary, as every power of
  // two is.
  uint64_t CountBelow(uint64_t bound) const;

  static size_t BucketOf(uint64_t value) {
    if (value > kMaxValue) value = kMaxValue;
    if (value < (uint64_t{1} << (kSubBucketBits + 1))) return static_cast<size_t>(value);
    unsigned shift = static_cast<unsigned>(std::bit_width(value)) - (kSubBucketBits + 1);
    return (static_cast<size_t>(shift) << kSubBucketBits) + static_cast<size_t>(value >> shift);
  }
  static uint64_t BucketStart(size_t bucket);  // smallest value of the bucket

 private:
  using Cell = std::atomic<uint64_t>;
  static void Bump(Cell& cell, uint64_t n) {
    cell.store(cell.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }

  Cell count_, sum_, min_, max_;
  std::array<Cell, kBuckets> buckets_;
};

}  // namespace pando
