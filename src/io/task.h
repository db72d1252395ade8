// Task<T>: a lazy coroutine owned by whoever awaits it. TaskGroup: owns the tasks nobody awaits.
//
// Invariants
//   T1  A Task starts when it is first awaited (or given to TaskGroup::Spawn) and runs on its reactor's thread only.
//   T2  A child that finishes without suspending never grows the stack of its parent: await_suspend returns bool
//       (g++ 12 without optimisation does not turn symmetric transfer into tail calls).
//   T3  A TaskGroup outlives its tasks: its destructor CHECKs that all have finished.
//
// Hazards, so that nobody relearns them: no capturing lambda coroutines (the closure dies first), no reference
// parameters that do not outlive the task, no `co_await f({a, b})` with a temporary aggregate (g++ 12 rejects it).
#pragma once

#include <coroutine>
#include <cstdint>
#include <exception>
#include <optional>
#include <utility>

#include "src/base/check.h"
#include "src/base/result.h"
#include "src/io/frame_allocator.h"

namespace pando {

namespace detail {

struct PromiseBase {
  std::coroutine_handle<> continuation;

  static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
  static void operator delete(void* frame, size_t bytes) { FreeFrame(frame, bytes); }

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename P>
    void await_suspend(std::coroutine_handle<P> self) noexcept {
      // The continuation may destroy `self`: nothing may be touched after resume().
      if (std::coroutine_handle<> next = self.promise().continuation) next.resume();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  [[noreturn]] void unhandled_exception() noexcept {
    // Exceptions are not how Pando reports errors: one that gets here is a bug or an exhausted heap.
    LOG(FATAL) << "unhandled exception in a coroutine";
    std::terminate();
  }
};

}  // namespace detail

template <typename T = void>
class [[nodiscard]] Task {
 public:
  struct promise_type : detail::PromiseBase {
    std::optional<T> value;
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    template <typename U>
    void return_value(U&& v) {
      value.emplace(std::forward<U>(v));
    }
  };

  Task() = default;
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> parent) {
    handle_.resume();
    if (handle_.done()) return false;
    handle_.promise().continuation = parent;
    return true;
  }
  T await_resume() { return std::move(*handle_.promise().value); }

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

template <>
class [[nodiscard]] Task<void> {
 public:
  struct promise_type : detail::PromiseBase {
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    void return_void() {}
  };

  Task() = default;
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> parent) {
    handle_.resume();
    if (handle_.done()) return false;
    handle_.promise().continuation = parent;
    return true;
  }
  void await_resume() {}

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

// Owns tasks that nobody awaits. Not thread safe: one reactor.
class TaskGroup {
 public:
  TaskGroup() = default;
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup() { CHECK_EQ(running_, 0u) << "a TaskGroup must be drained before it is destroyed"; }

  // Starts `task` now, on this stack, up to its first suspension. It is destroyed when it finishes.
  void Spawn(Task<void> task) {
    ++running_;
    Run(this, std::move(task));
  }
  size_t running() const { return running_; }

  // Suspends until every task has finished. One waiter at a time; it is resumed on the stack of the last task.
  auto Drain() {
    struct Awaiter {
      TaskGroup* group;
      bool await_ready() const { return group->running_ == 0; }
      void await_suspend(std::coroutine_handle<> h) {
        CHECK(!group->drain_waiter_) << "two waiters drain one TaskGroup";
        group->drain_waiter_ = h;
      }
      void await_resume() {}
    };
    return Awaiter{this};
  }

 private:
  // A coroutine that frees itself at its end; only ever made by Spawn.
  struct Detached {
    struct promise_type {
      static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
      static void operator delete(void* frame, size_t bytes) { FreeFrame(frame, bytes); }
      Detached get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }
    };
  };
  static Detached Run(TaskGroup* group, Task<void> task) {
    co_await task;
    task = Task<void>();  // frees the frame before the group may be told that all is drained
    if (--group->running_ == 0 && group->drain_waiter_) std::exchange(group->drain_waiter_, {}).resume();
  }

  size_t running_ = 0;
  std::coroutine_handle<> drain_waiter_;
};

}  // namespace pando
