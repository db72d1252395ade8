// Coroutine conveniences over a Reactor: run a task on another reactor, run one to its end from ordinary code.
//
//   Adder adder{2, "three"};   // Task<Result<int>> operator()(Reactor& target)
//   Result<int> sum = co_await CallOn(reactor, 1, std::move(adder));
//
// Build the function object as a local first, unless it is trivially destructible: g++ 12 destroys a temporary
// aggregate or closure in a co_await expression twice.
//
// The function object lives in the awaiter, so it may hold its arguments (and be a capturing lambda: the closure
// outlives the coroutine). It is called on the target's thread, where it must not touch anything of the origin's but
// itself; its result is moved back and is taken on the origin's thread.
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

// Starts a coroutine that nobody owns: it ends by itself.
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
    }  // the task's frame is freed on this thread, before the origin may go on
    target_reactor->Return(call);
  }

  Reactor* origin_;
  const int target_index_;
  Fn fn_;
  std::optional<detail::Stored<R>> result_;
  std::coroutine_handle<> waiter_;
};

// co_await CallOn(reactor, index, fn): on `index` == reactor.index() it still goes through the loop (R1).
template <typename Fn>
CallOnAwaiter<std::decay_t<Fn>> CallOn(Reactor& origin, int target_index, Fn&& fn) {
  return CallOnAwaiter<std::decay_t<Fn>>(origin, target_index, std::forward<Fn>(fn));
}

// Runs `reactor`'s loop until `task` is done and returns its value. For tests and command-line tools, on the reactor's
// own thread and outside its loop. A Stop() meanwhile does not cut it short.
template <typename T>
T RunBlocking(Reactor& reactor, Task<T> task) {
  struct Run {
    static detail::FireAndForget Await(Reactor* r, Task<T> t, std::optional<detail::Stored<T>>* result) {
      if constexpr (std::is_void_v<T>) {
        co_await t;
        t = Task<T>();
        result->emplace();
      } else {
        // The value is taken before the frame is freed, and the frame is freed before anybody is told.
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
