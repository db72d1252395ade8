// MemoryBudget: bytes that all reactors together may hold in buffers whose size clients decide (half frames, requests
// and replies in progress). BudgetAccount: one reactor's share of it, refilled in chunks, so that a request does not
// touch the shared counter.
//
// Threads: MemoryBudget any (one relaxed atomic); a BudgetAccount belongs to one.
#pragma once

#include <algorithm>
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
    return false;
  }
  // Takes bytes that exist already, past the limit if need be: what was admitted must be able to finish.
  void Force(int64_t bytes) { used_.fetch_add(bytes, std::memory_order_relaxed); }
  void Release(int64_t bytes) {
    int64_t before = used_.fetch_sub(bytes, std::memory_order_relaxed);
    DCHECK_GE(before, bytes) << "more memory released than reserved";
  }

  int64_t limit_bytes() const { return limit_; }
  int64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

class BudgetAccount {
 public:
  static constexpr int64_t kChunkBytes = 256 << 10;

  explicit BudgetAccount(MemoryBudget* budget) : budget_(budget) {}
  BudgetAccount(const BudgetAccount&) = delete;
  BudgetAccount& operator=(const BudgetAccount&) = delete;
  ~BudgetAccount() {
    DCHECK_EQ(in_use_, 0) << "bytes were never released";
    budget_->Release(in_use_ + spare_);
  }

  bool TryReserve(int64_t bytes) {
    if (!Refill(bytes)) return false;
    Take(bytes);
    return true;
  }
  void Force(int64_t bytes) {
    if (!Refill(bytes)) {
      budget_->Force(bytes - spare_);
      spare_ = bytes;
    }
    Take(bytes);
  }
  void Release(int64_t bytes) {
    DCHECK_LE(bytes, in_use_) << "more memory released than reserved";
    in_use_ -= bytes;
    spare_ += bytes;
    if (spare_ > 2 * kChunkBytes) {
      budget_->Release(spare_ - kChunkBytes);
      spare_ = kChunkBytes;
    }
  }
  // True when the budget is overdrawn: what may be refused should be.
  bool Exhausted() const { return budget_->used_bytes() > budget_->limit_bytes(); }
  int64_t in_use_bytes() const { return in_use_; }

 private:
  // Makes spare_ at least `bytes`: by a chunk if there is one, else by what is missing.
  bool Refill(int64_t bytes) {
    if (bytes <= spare_) return true;
    int64_t missing = bytes - spare_;
    int64_t chunk = std::max(missing, kChunkBytes);
    if (!budget_->TryReserve(chunk)) {
      if (!budget_->TryReserve(missing)) return false;
      chunk = missing;
    }
    spare_ += chunk;
    return true;
  }
  void Take(int64_t bytes) {
    spare_ -= bytes;
    in_use_ += bytes;
  }
  MemoryBudget* budget_;
  int64_t spare_ = 0;  // reserved from the budget, not in use here
  int64_t in_use_ = 0;
};

}  // namespace pando
