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

// Counts credits. Waiters are woken in order of arrival. A waiter that finds no credit left when it
// resumes waits again at the end of the queue.
class Semaphore {
 public:
  Semaphore(Reactor& reactor, size_t credits) : credits_(credits), queue_(reactor) {}
  Task<void> Acquire() {
    if (credits_ > 0 && waiting_ == 0) {
      --credits_;
      co_return;
    }
    ++waiting_;
    // A waiter must check again after it resumes: another one may have taken the credit.
    do co_await queue_.Wait();
    while (credits_ == 0);
    --waiting_;
    --credits_;
    if (credits_ > 0) queue_.NotifyOne();
  }
  void Release() {
    ++credits_;
    queue_.NotifyOne();
  }
  size_t available() const { return credits_; }

 private:
  size_t credits_;
  size_t waiting_ = 0;
  WaitQueue queue_;
};

}  // namespace pando
