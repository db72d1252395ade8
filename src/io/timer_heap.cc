#include "src/io/timer_heap.h"

namespace pando {

void TimerHeap::Arm(Timer* timer, Nanos deadline_ns) {
  Cancel(timer);
  timer->deadline_ns = deadline_ns;
  timer->sequence = next_sequence_++;
  timer->armed = true;
  heap_.push_back(timer);
  timer->heap_index = heap_.size() - 1;
  SiftUp(timer->heap_index);
}

void TimerHeap::Cancel(Timer* timer) {
  if (!timer->armed) return;
  size_t index = timer->heap_index;
  CHECK(index < heap_.size() && heap_[index] == timer) << "H2: a Timer was copied or moved while armed";
  timer->armed = false;
  Timer* last = heap_.back();
  heap_.pop_back();
  if (last == timer) return;
  Place(index, last);
  SiftUp(index);
  SiftDown(last->heap_index);
}

size_t TimerHeap::FireDue(Nanos now_ns) {
  const uint64_t end_sequence = next_sequence_;
  size_t fired = 0;
  while (!heap_.empty() && heap_.front()->deadline_ns <= now_ns && heap_.front()->sequence < end_sequence) {
    Timer* timer = heap_.front();
    Cancel(timer);
    ++fired;
    timer->on_fire(timer);
  }
  return fired;
}

void TimerHeap::SiftUp(size_t index) {
  Timer* timer = heap_[index];
  while (index > 0) {
    size_t parent = (index - 1) / 2;
    if (!Before(timer, heap_[parent])) break;
    Place(index, heap_[parent]);
    index = parent;
  }
  Place(index, timer);
}

void TimerHeap::SiftDown(size_t index) {
  Timer* timer = heap_[index];
  for (size_t child; (child = 2 * index + 1) < heap_.size(); index = child) {
    if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
    if (!Before(heap_[child], timer)) break;
    Place(index, heap_[child]);
  }
  Place(index, timer);
}

}  // namespace pando
