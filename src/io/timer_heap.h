// TimerHeap holds the armed timers of one reactor as an intrusive binary heap. Both reactors use
// it, so that timers fire in the same order in production and in simulation.
//
// Threads: one reactor.
//
// Invariants
//   H1  A timer with an earlier deadline fires first; timers with equal deadlines fire in the order
//       in which they were armed.
//   H2  `armed` is true exactly while the timer is in the heap, and heap_index is then its place in
//       the heap.
#pragma once

#include <vector>

#include "src/io/reactor.h"

namespace pando {

class TimerHeap {
 public:
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  Nanos next_deadline_ns() const { return heap_.front()->deadline_ns; }

  // Arms the timer, or moves it to the new deadline if it is already armed.
  void Arm(Timer* timer, Nanos deadline_ns);
  void Cancel(Timer* timer);  // does nothing if it is not armed
  // Fires the timers that are due at `now_ns` and returns how many fired. A timer that a callback
  // arms waits for the next call even if it is already due, so that a timer that re-arms itself
  // cannot block the loop.
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
