// Waiting inside one reactor: WaitQueue works like a condition variable, and Semaphore counts
// credits.
//
// Waiters are resumed through Reactor::Schedule and never inside Notify, so callers are not
// re-entered. It is a bug (CHECK) to destroy either object while a coroutine waits on it.
//
// Threads: one reactor.
#pragma once

#include <coroutine>

#include "src/base/check.h"
#include "src/io/reactor.h"

namespace pando {

class WaitQueue {
 public:
  explicit WaitQueue(Reactor& reactor) : reactor_(&reactor) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue() { CHECK(first_ == nullptr) << "WaitQueue destroyed with " << waiting_ << " waiters"; }

 private:
  // Lives in the frame of the coroutine that waits, so waiting allocates nothing.
  struct Waiter {
    WaitQueue* queue;
    std::coroutine_handle<> handle = nullptr;
    Waiter* next = nullptr;

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      handle = h;
      queue->Append(this);
    }
    void await_resume() noexcept {}
  };

 public:
  // co_await queue.Wait() suspends until a Notify call. Callers must re-check their condition in a
  // loop.
  Waiter Wait() { return Waiter{this}; }
  void NotifyOne() {
    if (first_ == nullptr) return;
    Waiter* resumed = first_;
    first_ = resumed->next;
    --waiting_;
    reactor_->Schedule(resumed->handle);
  }
  void NotifyAll() {
    while (first_ != nullptr) NotifyOne();
  }
  size_t size() const { return waiting_; }

 private:
  void Append(Waiter* waiter) {
    (first_ != nullptr ? last_->next : first_) = waiter;
    last_ = waiter;
    ++waiting_;
  }

  Reactor* reactor_;
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;  // undefined while first_ is null
  size_t waiting_ = 0;
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
