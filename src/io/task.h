// Task<T> is a lazy coroutine that belongs to the code that awaits it. TaskGroup owns the tasks
// that no code awaits.
//
// Threads: one reactor.
//
// Invariants
//   T1  A Task starts when it is first awaited (or passed to TaskGroup::Spawn) and runs only on its
//       reactor's thread.
//   T2  A child that finishes without suspending never grows its parent's stack: await_suspend
//       returns bool. (Without optimization, g++ 12 does not turn symmetric transfer into tail
//       calls.)
//   T3  A TaskGroup outlives its tasks: its destructor CHECKs that all have finished.
//
// Pitfalls: do not use capturing lambdas as coroutines (the closure is destroyed first). Do not
// pass parameters by reference unless they outlive the task. Do not write `co_await f({a, b})` with
// a temporary aggregate (g++ 12 rejects it).
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
      // The continuation may destroy `self`, so nothing may be touched after resume().
      if (std::coroutine_handle<> next = self.promise().continuation) next.resume();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  [[noreturn]] void unhandled_exception() noexcept {
    // Pando does not report errors with exceptions. One that gets here is a bug or means that
    // memory is exhausted.
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

// Owns tasks that no code awaits. It belongs to one reactor and is not thread-safe.
class TaskGroup {
 public:
  TaskGroup() = default;
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup() { CHECK_EQ(running_, 0u) << "a TaskGroup was destroyed before its tasks finished"; }

  // Starts `task` at once, on the caller's stack, and runs it up to its first suspension. The task
  // is destroyed when it finishes.
  void Spawn(Task<void> task) {
    ++running_;
    Run(this, std::move(task));
  }
  size_t running() const { return running_; }

  // Suspends until every task has finished. There may be one waiter at a time; it is resumed on the
  // stack of the last task.
  auto Drain() {
    struct Awaiter {
      TaskGroup* group;
      bool await_ready() const { return group->running_ == 0; }
      void await_suspend(std::coroutine_handle<> h) {
        CHECK(!group->drain_waiter_) << "a TaskGroup is already being drained";
        group->drain_waiter_ = h;
      }
      void await_resume() {}
    };
    return Awaiter{this};
  }

 private:
  // A coroutine that frees its own frame at its end. Only Spawn creates one.
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
    task = Task<void>();  // frees the frame before the group's waiter can resume
    if (--group->running_ == 0 && group->drain_waiter_) std::exchange(group->drain_waiter_, {}).resume();
  }

  size_t running_ = 0;
  std::coroutine_handle<> drain_waiter_;
};

}  // namespace pando
