// MemoryBudget: bytes that all reactors together may hold in buffers whose size clients decide (half frames, requests
// and replies in progress).
//
// Threads: any; one relaxed atomic. A reservation may be released on another thread than took it.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/base/check.h"

namespace pando {

class MemoryBudget {
 public:
  explicit MemoryBudget(int64_t limit_bytes) : limit_(limit_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // False, with nothing taken, when the limit would be passed.
  bool TryReserve(int64_t bytes) {
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit_) return true;
    used_.fetch_sub(bytes, std::memory_order_relaxed);
    refusals_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  // Takes bytes that already exist, past the limit if need be: what was admitted must be able to finish.
  void Force(int64_t bytes) { used_.fetch_add(bytes, std::memory_order_relaxed); }
  void Release(int64_t bytes) {
    int64_t before = used_.fetch_sub(bytes, std::memory_order_relaxed);
    DCHECK_GE(before, bytes) << "more memory released than reserved";
  }

  int64_t limit_bytes() const { return limit_; }
  int64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }
  uint64_t refusals_total() const { return refusals_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
  std::atomic<uint64_t> refusals_{0};
};

}  // namespace pando
