// ConnectionBudget limits how many accepted connections the listeners that share it may hold open
// at the same time.
//
// A listener takes a place before it accepts a connection, and the place is given back after the
// connection's descriptor is closed. A flood of connections therefore cannot use up the descriptors
// that the log, files and peers need. While no place is free, connections wait in the listener's
// backlog.
//
// ConnectionBudgets has one for each kind of listener, so that clients cannot take the places of
// peers, nor the other way round.
//
// Threads: any (relaxed atomics).
//
// Invariants
//   S5  An accepted connection holds a place in its listener's budget from before the accept until
//       its descriptor is closed. The budget is that of the listener's kind.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/base/check.h"
#include "src/io/reactor.h"

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

class ConnectionBudgets {
 public:
  struct Limits {
    int64_t clients = 0, peers = 0, http = 0;
  };
  explicit ConnectionBudgets(const Limits& limits)
      : clients_(limits.clients), peers_(limits.peers), http_(limits.http) {}

  ConnectionBudget& of(ListenerKind kind) {
    switch (kind) {
      case ListenerKind::kClient: return clients_;
      case ListenerKind::kPeer: return peers_;
      case ListenerKind::kHttp: return http_;
    }
    LOG(FATAL) << "there is no listener of kind " << static_cast<int>(kind);
    __builtin_unreachable();
  }

 private:
  ConnectionBudget clients_, peers_, http_;
};

}  // namespace pando
