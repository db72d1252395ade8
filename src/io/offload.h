// Offload runs a function that would keep the reactor's thread busy for long (over 100 us: the
// compression of many pages, a hash of a large input, a key derivation) on a thread of a small pool
// that the process shares, and resumes on the reactor that asked.
//
//   Compress compress{std::move(bytes)};   // std::string operator()() &&
//   std::string packed = co_await Offload(reactor, std::move(compress));
//
// Create the function object as a named local variable first, unless it is trivially destructible
// (see call_on.h).
//
// Shorter work is not worth the two changes of thread, each of which can take as long as the
// scheduler likes when the machine is busy. Work that is longer than some milliseconds keeps others
// waiting for the pool, so it should be divided.
//
// Threads: the function runs on a thread of the pool, and must own everything it touches. It may
// not use the reactor, nor coroutines, nor anything that belongs to a reactor. It is moved into the
// awaiter, its result is moved out, and both live in the frame of the coroutine that awaits. All
// other methods belong to the reactor's thread.
//
// Invariants
//   OF1  A reactor has at most kMaxOffloads calls in the pool at a time. Further ones wait at their
//        reactor, first come, first served. So a reactor that floods the pool delays itself, and
//        the calls of others only by what kMaxOffloads calls take. A call that waits holds no
//        memory besides its coroutine's, which its caller has admitted. (It does not run in place:
//        that would stop the reactor for all, just when there is most to do.)
//   OF2  The pool does not touch a call after it has sent it back.
//   OF3  A reactor is not destroyed while the pool works for it. Work that has not begun then is
//        dropped, as are the coroutines that wait for it. Whoever wants results drains its
//        TaskGroup first.
#pragma once

#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

#include "src/io/call_on.h"
#include "src/io/reactor.h"
#include "src/metrics/histogram.h"
#include "src/metrics/metrics.h"

namespace pando {

inline constexpr size_t kMaxOffloads = 16;

struct OffloadMetrics {
  Gauge waiting;      // calls that wait at their reactor (OF1)
  Gauge in_pool;      // calls that wait or run in the pool
  Histogram wait_ns;  // from the call to the start of its work
  Histogram work_ns;  // the work itself
};

class OffloadPort;

// A call on its way through the pool. It comes back as a message that has no Return.
struct OffloadCall : RemoteCall {
  virtual void Work() = 0;  // runs on a thread of the pool
  void Start() final;       // back on the reactor; calls Finish()

  OffloadPort* port = nullptr;
  Nanos asked_ns = 0, begun_ns = 0, ended_ns = 0;  // the pool sets the last two

 protected:
  ~OffloadCall() = default;
};

// One reactor's end of the pool.
class OffloadPort {
 public:
  // Gets call->Work() done on another thread, then has the reactor's loop run call->Start().
  struct Workers {
    virtual void RunWork(OffloadCall* call) = 0;

   protected:
    ~Workers() = default;
  };
  OffloadPort(Reactor* reactor, Workers* workers) : reactor_(reactor), workers_(workers) {}

  void Add(OffloadCall* call);
  void OnWorkDone(OffloadCall* call);
  const OffloadMetrics& metrics() const { return metrics_; }

 private:
  void Publish();

  Reactor* const reactor_;
  Workers* const workers_;
  RemoteCall* first_waiting_ = nullptr;
  RemoteCall* last_waiting_ = nullptr;
  size_t waiting_ = 0, in_pool_ = 0;
  OffloadMetrics metrics_;
};

inline void OffloadCall::Start() { port->OnWorkDone(this); }

template <typename Fn>
class OffloadAwaiter final : public OffloadCall {
 public:
  using R = std::invoke_result_t<Fn&&>;
  static_assert(!std::is_reference_v<R>, "the result must be owned");

  OffloadAwaiter(Reactor& reactor, Fn fn) : reactor_(&reactor), fn_(std::move(fn)) {}
  OffloadAwaiter(const OffloadAwaiter&) = delete;
  OffloadAwaiter& operator=(const OffloadAwaiter&) = delete;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter_ = h;
    reactor_->StartOffload(this);
  }
  R await_resume() {
    if constexpr (!std::is_void_v<R>) return *std::move(result_);
  }

 private:
  void Work() override {
    if constexpr (std::is_void_v<R>) {
      std::move(fn_)();
    } else {
      result_.emplace(std::move(fn_)());
    }
  }
  void Finish() override { waiter_.resume(); }

  Reactor* reactor_;
  Fn fn_;
  std::optional<detail::Stored<R>> result_;
  std::coroutine_handle<> waiter_;
};

// co_await Offload(reactor, fn) returns fn() of another thread.
template <typename Fn>
OffloadAwaiter<std::decay_t<Fn>> Offload(Reactor& reactor, Fn&& fn) {
  return OffloadAwaiter<std::decay_t<Fn>>(reactor, std::forward<Fn>(fn));
}

}  // namespace pando
