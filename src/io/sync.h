// Waiting inside one reactor: WaitQueue works like a condition variable, and Semaphore counts
// credits.
//
// Waiters are resumed through Reactor::Schedule and never inside Notify, so callers are not
// re-entered. It is a bug (CHECK) to destroy either object while a coroutine waits on it.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <deque>

#include "src/base/check.h"
#include "src/io/reactor.h"

namespace pando {

class WaitQueue {
 public:
  explicit WaitQueue(Reactor& reactor) : reactor_(&reactor) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue() { CHECK(waiters_.empty()) << "WaitQueue destroyed with " << waiters_.size() << " waiters"; }

  // co_await queue.Wait() suspends until a Notify call. Callers must re-check their condition in a
  // loop.
  auto Wait() {
    struct Awaiter {
      WaitQueue* queue;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) { queue->waiters_.push_back(h); }
      void await_resume() noexcept {}
    };
    return Awaiter{this};
  }
  void NotifyOne() {
    if (waiters_.empty()) return;
    reactor_->Schedule(waiters_.front());
    waiters_.pop_front();
  }
  void NotifyAll() {
    while (!waiters_.empty()) NotifyOne();
  }
  size_t size() const { return waiters_.size(); }

 private:
  Reactor* reactor_;
  std::deque<std::coroutine_handle<>> waiters_;
};

// Counts credits; first come, first served. A released credit is handed to the longest waiting
// coroutine, so nobody who comes later can take it.
class Semaphore {
 public:
  Semaphore(Reactor& reactor, size_t credits) : credits_(credits), queue_(reactor) {}
  Task<void> Acquire() {
    if (credits_ > 0) {  // then nobody waits
      --credits_;
      co_return;
    }
    co_await queue_.Wait();  // Release hands over its credit
  }
  void Release() {
    if (queue_.size() > 0) return queue_.NotifyOne();
    ++credits_;
  }
  size_t available() const { return credits_; }

 private:
  size_t credits_;
  WaitQueue queue_;
};

}  // namespace pando
