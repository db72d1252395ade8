// TurnBudget: keeps the turns of a reactor short. A loop whose length depends on data counts its work and yields when
// it has had its share of the turn, so that replies, timers and other requests never wait for the whole of it.
//
// A unit is about what looking at one record costs, some tens of nanoseconds. All loops of a reactor share a turn: one
// alone may use kLongSlice units of it; when many run, each still gets kShortSlice, so that all of them advance.
//
// Threads: one reactor.
#pragma once

#include <cstdint>

#include "src/io/reactor.h"

namespace pando {

class TurnBudget {
 public:
  static constexpr uint32_t kTurn = 8192, kLongSlice = 4096, kShortSlice = 512;

  explicit TurnBudget(Reactor& reactor) : reactor_(&reactor) {}

 private:
  friend class TurnSlice;
  // The clock is read once a turn (R3), so its time tells one turn from the next.
  void Add(uint32_t units) {
    const Nanos now_ns = reactor_->NowNs();
    if (now_ns != turn_ns_) {
      turn_ns_ = now_ns;
      spent_ = 0;
    }
    spent_ += units;
  }

  Reactor* reactor_;
  Nanos turn_ns_ = -1;
  uint32_t spent_ = 0;
};

// One loop's share of each turn. After a suspension of any kind it begins anew.
class TurnSlice {
 public:
  explicit TurnSlice(TurnBudget& budget) : budget_(&budget) {}

  // Counts work that was done. True: enough for this turn, co_await Yield(reactor) with no place in a tree or a list
  // held. A step may exceed the slice: it should be bounded by itself.
  bool Spend(uint32_t units) {
    budget_->Add(units);
    if (budget_->turn_ns_ != turn_ns_) {
      turn_ns_ = budget_->turn_ns_;
      spent_ = 0;
    }
    spent_ += units;
    return spent_ >= TurnBudget::kLongSlice ||
           (spent_ >= TurnBudget::kShortSlice && budget_->spent_ >= TurnBudget::kTurn);
  }

 private:
  TurnBudget* budget_;
  Nanos turn_ns_ = -1;
  uint32_t spent_ = 0;
};

}  // namespace pando
