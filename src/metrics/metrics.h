// Counter and Gauge: numbers that one thread writes and any thread may read.
//
// Threads: one writer, the owning reactor. So an update is a plain load and store, never a locked
// instruction. Readers (the metrics page) see a recent value.
#pragma once

#include <atomic>
#include <cstdint>

namespace pando {

// Only grows.
class Counter {
 public:
  void Add(uint64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void Set(int64_t v) { value_.store(v, std::memory_order_relaxed); }
  void Add(int64_t n) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

}  // namespace pando
