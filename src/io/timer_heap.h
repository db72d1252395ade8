// TimerHeap: the armed timers of one reactor, as an intrusive binary heap; shared by both reactors so that timers
// order in the same way in production and in simulation.
//
// Threads: one reactor.
//
// Invariants
//   H1  A timer with an earlier deadline fires first; equal deadlines fire in the order they were armed.
//   H2  armed == true exactly while the timer is in the heap, and heap_index is then its place.
#pragma once

#include <vector>

#include "src/io/reactor.h"

namespace pando {

class TimerHeap {
 public:
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  Nanos next_deadline_ns() const { return heap_.front()->deadline_ns; }

  // Arms, or moves a timer that is armed already.
  void Arm(Timer* timer, Nanos deadline_ns);
  void Cancel(Timer* timer);  // no-op when not armed
  // Fires what is due at `now_ns`. A timer armed by a callback waits for the next call even when it is due already,
  // so that a timer that re-arms itself cannot hold the loop. Returns how many fired.
  size_t FireDue(Nanos now_ns);

 private:
  static bool Before(const Timer* a, const Timer* b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->sequence < b->sequence;
  }
  void Place(size_t index, Timer* timer) {
    heap_[index] = timer;
    timer->heap_index = index;
  }
  void SiftUp(size_t index);
  void SiftDown(size_t index);

  std::vector<Timer*> heap_;
  uint64_t next_sequence_ = 0;
};

}  // namespace pando
