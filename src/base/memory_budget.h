// Limits the memory whose size clients control: partly received frames, and requests and replies in
// progress. Such memory is reserved here before it is allocated.
//
//   MemoryBudget   the bytes that all reactors of a node together may hold
//   BudgetAccount  one reactor's share, refilled in chunks so that most requests do not touch the
//                  shared counter
//   MemoryGrant    what one request has reserved from its reactor's account; released when the
//                  request ends
//   ValueRoom      the values that one request may return; reserved where each value is copied, on
//                  any reactor
//
// The few methods that operators and clients need in order to end an overload may exceed the limit
// by a small reserve (MemoryLane::kControl), so that they work when everything else is refused.
//
// Threads: any thread may use MemoryBudget and ValueRoom (relaxed atomics). A BudgetAccount and its
// grants belong to one reactor.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "src/base/check.h"

namespace pando {

enum class MemoryLane : uint8_t { kOrdinary, kControl };

class MemoryBudget {
 public:
  explicit MemoryBudget(int64_t limit_bytes, int64_t control_bytes = 0)
      : limit_(limit_bytes), control_(control_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // Returns false and reserves nothing when the reservation would exceed the limit.
  bool TryReserve(int64_t bytes, MemoryLane lane = MemoryLane::kOrdinary) {
    const int64_t limit = lane == MemoryLane::kControl ? limit_ + control_ : limit_;
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit) return true;
    used_.fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  // Counts bytes that are already allocated, even beyond the limit, because an admitted request
  // must be able to finish.
  void Force(int64_t bytes) { used_.fetch_add(bytes, std::memory_order_relaxed); }
  void Release(int64_t bytes) {
    int64_t before = used_.fetch_sub(bytes, std::memory_order_relaxed);
    DCHECK_GE(before, bytes) << "more memory released than reserved";
  }

  int64_t limit_bytes() const { return limit_; }
  int64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_, control_;
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

  bool TryReserve(int64_t bytes, MemoryLane lane = MemoryLane::kOrdinary) {
    if (!Refill(bytes, lane)) return false;
    Take(bytes);
    return true;
  }
  void Force(int64_t bytes) {
    if (!Refill(bytes, MemoryLane::kOrdinary)) {
      budget_->Force(bytes - spare_);
      spare_ = bytes;
    }
    Take(bytes);
  }
  // Counts bytes that were reserved directly from the budget, as ValueRoom does.
  void Adopt(int64_t bytes) { in_use_ += bytes; }
  void Release(int64_t bytes) {
    DCHECK_LE(bytes, in_use_) << "more memory released than reserved";
    in_use_ -= bytes;
    spare_ += bytes;
    if (spare_ > 2 * kChunkBytes) {
      budget_->Release(spare_ - kChunkBytes);
      spare_ = kChunkBytes;
    }
  }
  // True when more than the limit is in use. Callers should then refuse whatever may be refused.
  bool Exhausted() const { return budget_->used_bytes() > budget_->limit_bytes(); }
  int64_t in_use_bytes() const { return in_use_; }
  MemoryBudget* budget() const { return budget_; }

 private:
  // Raises spare_ to at least `bytes`: by a whole chunk if the budget allows it, otherwise by
  // exactly what is missing.
  bool Refill(int64_t bytes, MemoryLane lane) {
    if (bytes <= spare_) return true;
    int64_t missing = bytes - spare_;
    int64_t chunk = std::max(missing, kChunkBytes);
    if (!budget_->TryReserve(chunk)) {
      if (!budget_->TryReserve(missing, lane)) return false;
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
  int64_t spare_ = 0;  // reserved from the budget, but not in use
  int64_t in_use_ = 0;
};

// Limits the values that one request returns to `limit_bytes`. Code that copies a value reserves
// its bytes first. Each byte counts kCopies times: once as copied from its page, and once as
// encoded into the reply.
class ValueRoom {
 public:
  static constexpr int64_t kCopies = 2;
  enum class Answer : uint8_t {
    kTaken,
    kFull,      // the request's own limit is reached
    kNoMemory,  // the node's memory budget is exhausted
  };

  ValueRoom(MemoryBudget* budget, size_t limit_bytes) : budget_(budget), limit_(static_cast<int64_t>(limit_bytes)) {}
  ValueRoom(const ValueRoom&) = delete;
  ValueRoom& operator=(const ValueRoom&) = delete;
  ~ValueRoom() { budget_->Release(kCopies * taken_.load(std::memory_order_relaxed)); }

  Answer TryTake(size_t value_bytes) {
    const auto bytes = static_cast<int64_t>(value_bytes);
    if (taken_.fetch_add(bytes, std::memory_order_relaxed) + bytes > limit_) {
      taken_.fetch_sub(bytes, std::memory_order_relaxed);
      return Answer::kFull;
    }
    if (budget_->TryReserve(kCopies * bytes)) return Answer::kTaken;
    taken_.fetch_sub(bytes, std::memory_order_relaxed);
    return Answer::kNoMemory;
  }
  size_t limit_bytes() const { return static_cast<size_t>(limit_); }
  size_t taken_bytes() const { return static_cast<size_t>(taken_.load(std::memory_order_relaxed)); }

 private:
  friend class MemoryGrant;
  MemoryBudget* const budget_;
  const int64_t limit_;
  std::atomic<int64_t> taken_{0};
};

class MemoryGrant {
 public:
  MemoryGrant() = default;  // without an account: every TryGrow fails
  explicit MemoryGrant(BudgetAccount* account, MemoryLane lane = MemoryLane::kOrdinary)
      : account_(account), lane_(lane) {}
  MemoryGrant(MemoryGrant&& other) noexcept
      : account_(other.account_), lane_(other.lane_), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryGrant& operator=(MemoryGrant&& other) noexcept {
    if (this == &other) return *this;
    ReleaseAll();
    account_ = other.account_;
    lane_ = other.lane_;
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~MemoryGrant() { ReleaseAll(); }

  bool TryGrow(size_t bytes) {
    if (account_ == nullptr || !account_->TryReserve(static_cast<int64_t>(bytes), lane_)) return false;
    bytes_ += static_cast<int64_t>(bytes);
    return true;
  }
  void Shrink(size_t bytes) {
    account_->Release(static_cast<int64_t>(bytes));
    bytes_ -= static_cast<int64_t>(bytes);
  }
  // Takes over what `room` has reserved for values, so that it stays counted until the reply is
  // encoded.
  void Adopt(ValueRoom* room) {
    const int64_t bytes = ValueRoom::kCopies * room->taken_.exchange(0, std::memory_order_relaxed);
    account_->Adopt(bytes);
    bytes_ += bytes;
  }
  void ReleaseAll() {
    if (bytes_ != 0) account_->Release(std::exchange(bytes_, 0));
  }
  size_t bytes() const { return static_cast<size_t>(bytes_); }

 private:
  BudgetAccount* account_ = nullptr;
  MemoryLane lane_ = MemoryLane::kOrdinary;
  int64_t bytes_ = 0;
};

}  // namespace pando
