// TurnQueues holds what a reactor runs within a turn: coroutines that are ready, and hooks for the
// end of the turn. Both reactors use it. The queues keep their memory, so that a reactor in steady
// state allocates nothing.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <utility>
#include <vector>

#include "src/io/reactor.h"

namespace pando {

class TurnQueues {
 public:
  void Schedule(std::coroutine_handle<> h) { ready_.push_back(h); }
  void ArmHook(TurnHook* hook) {
    if (hook->armed) return;
    hook->armed = true;
    hooks_.push_back(hook);
  }
  bool empty() const { return ready_.empty() && hooks_.empty(); }

  // Resumes, in order, the coroutines that were ready when it was called. Coroutines that these
  // schedule wait for the next call.
  void RunReady() {
    running_.swap(ready_);
    for (std::coroutine_handle<> h : running_) h.resume();
    running_.clear();
  }
  void RunHooks() {
    running_hooks_.swap(hooks_);
    for (TurnHook* hook : running_hooks_) {
      hook->armed = false;
      hook->OnTurnEnd();
    }
    running_hooks_.clear();
  }

 private:
  std::vector<std::coroutine_handle<>> ready_, running_;
  std::vector<TurnHook*> hooks_, running_hooks_;
};

}  // namespace pando
