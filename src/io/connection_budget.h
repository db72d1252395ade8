// ConnectionBudget limits how many accepted connections the listeners that share it may hold open
// at the same time.
//
// A listener takes a place before it accepts a connection, and the place is given back after the
// connection's descriptor is closed. A flood of connections therefore cannot use up the descriptors
// that the log, files and peers need. While no place is free, connections wait in the listener's
// backlog.
//
// Threads: any (one relaxed atomic).
//
// Invariants
//   S5  An accepted connection holds a place in its listener's budget from before the accept until
//       its descriptor is closed.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/base/check.h"

namespace pando {

class ConnectionBudget {
 public:
  explicit ConnectionBudget(int64_t limit) : limit_(limit) {}
  ConnectionBudget(const ConnectionBudget&) = delete;
  ConnectionBudget& operator=(const ConnectionBudget&) = delete;

  bool TryTake() {
    if (in_use_.fetch_add(1, std::memory_order_relaxed) < limit_) return true;
    in_use_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  void GiveBack() {
    int64_t before = in_use_.fetch_sub(1, std::memory_order_relaxed);
    DCHECK_GT(before, 0) << "a place in a ConnectionBudget was given back twice";
  }
  int64_t limit() const { return limit_; }
  int64_t in_use() const { return in_use_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> in_use_{0};
};

}  // namespace pando
