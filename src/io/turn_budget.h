// TurnBudget keeps the turns of a reactor short. A loop whose length depends on data counts its
// work and yields when it has used its share of the turn, so that replies, timers and other
// requests never wait for the whole loop.
//
// One unit is roughly the cost of looking at one record, some tens of nanoseconds. All loops of a
// reactor share a turn of `turn` units. A loop that runs alone may use `long_slice` units of it.
// When many loops run, each still gets `short_slice` units, so that all of them make progress.
//
// Threads: one reactor.
#pragma once

#include <cstdint>

#include "src/io/reactor.h"

namespace pando {

class TurnBudget {
 public:
  // In units.
  struct Limits {
    uint32_t turn = 8192, long_slice = 4096, short_slice = 512;
  };

  explicit TurnBudget(Reactor& reactor) : TurnBudget(reactor, Limits()) {}
  TurnBudget(Reactor& reactor, Limits limits) : reactor_(&reactor), limits_(limits) {}

 private:
  friend class TurnSlice;
  // The clock is read once per turn (R3), so a new time means a new turn.
  void Add(uint32_t units) {
    const Nanos now_ns = reactor_->NowNs();
    if (now_ns != turn_ns_) {
      turn_ns_ = now_ns;
      spent_ = 0;
    }
    spent_ += units;
  }

  Reactor* reactor_;
  const Limits limits_;
  Nanos turn_ns_ = -1;
  uint32_t spent_ = 0;
};

// One loop's share of each turn. The share starts again in each new turn.
class TurnSlice {
 public:
  explicit TurnSlice(TurnBudget& budget) : budget_(&budget) {}

  // Counts work that was done. Returns true when the loop has done enough for this turn: it must
  // then co_await Yield(reactor), without holding a position in a tree or a list across the
  // suspension. One step may exceed the slice, so each step should itself be bounded.
  bool Spend(uint32_t units) {
    budget_->Add(units);
    if (budget_->turn_ns_ != turn_ns_) {
      turn_ns_ = budget_->turn_ns_;
      spent_ = 0;
    }
    spent_ += units;
    const TurnBudget::Limits& limits = budget_->limits_;
    return spent_ >= limits.long_slice || (spent_ >= limits.short_slice && budget_->spent_ >= limits.turn);
  }

 private:
  TurnBudget* budget_;
  Nanos turn_ns_ = -1;
  uint32_t spent_ = 0;
};

}  // namespace pando
