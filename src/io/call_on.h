// Coroutine helpers on top of Reactor: CallOn runs a task on another reactor, and RunBlocking runs
// a task to completion from ordinary code.
//
//   Adder adder{2, "three"};   // Task<Result<int>> operator()(Reactor& target)
//   Result<int> sum = co_await CallOn(reactor, 1, std::move(adder));
//
// Create the function object as a named local variable first, unless it is trivially destructible:
// g++ 12 destroys a temporary aggregate or closure in a co_await expression twice.
//
// Threads: the function object lives in the awaiter, so it may hold its arguments. It may also be a
// capturing lambda, because the closure outlives the coroutine. It is called on the target's
// thread, where it must not touch any state of the origin except itself. Its result is moved into
// the awaiter, and the origin's thread takes it from there.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "src/io/reactor.h"

namespace pando {

namespace detail {

template <typename T>
struct TaskValue;
template <typename T>
struct TaskValue<Task<T>> {
  using type = T;
};

// A coroutine that has no owner. It starts at once and frees its own frame when it finishes.
struct FireAndForget {
  struct promise_type {
    static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
    static void operator delete(void* frame, size_t bytes) { FreeFrame(frame, bytes); }
    FireAndForget get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }
  };
};

struct Nothing {};
template <typename R>
using Stored = std::conditional_t<std::is_void_v<R>, Nothing, R>;

}  // namespace detail

template <typename Fn>
class CallOnAwaiter final : public RemoteCall {
 public:
  using R = typename detail::TaskValue<std::invoke_result_t<Fn&, Reactor&>>::type;

  CallOnAwaiter(Reactor& origin_reactor, int target_index, Fn fn)
      : origin_(&origin_reactor), target_index_(target_index), fn_(std::move(fn)) {}
  CallOnAwaiter(const CallOnAwaiter&) = delete;
  CallOnAwaiter& operator=(const CallOnAwaiter&) = delete;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter_ = h;
    origin_->CallRemote(target_index_, this);
  }
  R await_resume() {
    if constexpr (!std::is_void_v<R>) return std::move(*result_);
  }

 private:
  void Start() override { RunOnTarget(this); }
  void Finish() override { waiter_.resume(); }
  static detail::FireAndForget RunOnTarget(CallOnAwaiter* call) {
    Reactor* target_reactor = call->target_reactor;
    {
      auto task = call->fn_(*target_reactor);
      if constexpr (std::is_void_v<R>) {
        co_await task;
      } else {
        call->result_.emplace(co_await task);
      }
    }  // frees the task's frame on this thread, before the origin resumes
    target_reactor->Return(call);
  }

  Reactor* origin_;
  const int target_index_;
  Fn fn_;
  std::optional<detail::Stored<R>> result_;
  std::coroutine_handle<> waiter_;
};

// co_await CallOn(reactor, index, fn). Even when `index` is reactor.index(), the call goes through
// the loop (R1).
template <typename Fn>
CallOnAwaiter<std::decay_t<Fn>> CallOn(Reactor& origin, int target_index, Fn&& fn) {
  return CallOnAwaiter<std::decay_t<Fn>>(origin, target_index, std::forward<Fn>(fn));
}

// Runs `reactor`'s loop until `task` is done and returns the task's value. It is for tests and
// command-line tools, and must be called on the reactor's own thread, outside its loop. A call of
// Stop() does not end it early.
template <typename T>
T RunBlocking(Reactor& reactor, Task<T> task) {
  struct Run {
    static detail::FireAndForget Await(Reactor* r, Task<T> t, std::optional<detail::Stored<T>>* result) {
      if constexpr (std::is_void_v<T>) {
        co_await t;
        t = Task<T>();
        result->emplace();
      } else {
        // Order matters: take the value before the frame is freed, and free the frame before
        // `result` tells the caller that the task is done.
        std::optional<T> value(co_await t);
        t = Task<T>();
        result->emplace(*std::move(value));
      }
      r->Stop();
    }
  };
  std::optional<detail::Stored<T>> result;
  Run::Await(&reactor, std::move(task), &result);
  do reactor.Run();
  while (!result);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

}  // namespace pando
