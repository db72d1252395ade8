// ReactorGroup runs N reactors, each on its own thread, connected by a RemoteMesh. kvnode runs on
// one.
//
// Threads: the group belongs to the thread that started it, which must not be a reactor's thread.
// Stop, Post and RunOn may be called from any thread that is not a reactor's.
//
// Lifecycle: Start returns once every reactor exists, or has failed to start. The loops run until
// Stop is called or all main tasks have returned. To shut down gracefully, tell the main tasks to
// finish (with RunOn or Post), then call Join.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "src/io/call_on.h"
#include "src/io/uring_reactor.h"

namespace pando {

struct ReactorGroupOptions {
  int reactors = 1;
  UringOptions uring;        // the group fills in index, mesh and offload_pool
  bool pin_threads = false;  // pins reactor i to the i-th CPU that this process may run on
};

class ReactorGroup {
 public:
  // Called on each reactor's thread; its task runs on that reactor. If it is null, the loops run
  // until Stop.
  using Main = std::function<Task<void>(Reactor&)>;

  // Starts all reactors or none. Returns kUnsupported as MakeUringReactor does, and
  // kInvalidArgument when threads are to be pinned but the process has too few CPUs.
  static Result<std::unique_ptr<ReactorGroup>> Start(ReactorGroupOptions options, Main main);
  ~ReactorGroup();  // calls Stop and Join

  int size() const { return static_cast<int>(reactors_.size()); }
  // Ends the loops at once. Tasks that have not finished are abandoned, and their frames leak.
  void Stop();
  // Waits for the loops to end.
  void Join();

  // Runs call->Start() on reactor `index`. Finish() later runs on that reactor too.
  void Post(int index, RemoteCall* call);

  // Runs `fn(Reactor&) -> Task<R>` on reactor `index` and blocks the calling thread until it is
  // done. The loops must still be running.
  template <typename Fn>
  auto RunOn(int index, Fn fn) {
    using R = typename detail::TaskValue<std::invoke_result_t<Fn&, Reactor&>>::type;
    struct Call final : RemoteCall {
      explicit Call(Fn f) : fn(std::move(f)) {}
      void Start() override { Await(this); }
      void Finish() override {
        std::promise<void> last = std::move(done);  // the waiter may destroy `this`
        last.set_value();
      }
      static detail::FireAndForget Await(Call* call) {
        Reactor* reactor = call->target_reactor;
        {
          auto task = call->fn(*reactor);
          if constexpr (std::is_void_v<R>) {
            co_await task;
          } else {
            call->result.emplace(co_await task);
          }
        }
        reactor->Return(call);
      }
      Fn fn;
      std::optional<detail::Stored<R>> result;
      std::promise<void> done;
    };
    auto call = std::make_unique<Call>(std::move(fn));
    std::future<void> done = call->done.get_future();
    Post(index, call.get());
    done.get();
    if constexpr (!std::is_void_v<R>) return *std::move(call->result);
  }

 private:
  struct StartState;
  explicit ReactorGroup(ReactorGroupOptions options);
  void ThreadMain(int index, StartState& start);
  Status PinThread(int index);
  static detail::FireAndForget RunMain(ReactorGroup* group, Reactor* reactor);

  ReactorGroupOptions options_;
  Main main_;
  std::unique_ptr<RemoteMesh> mesh_;
  OffloadPool offload_pool_;             // created by the thread that starts the group, so unpinned
  std::mutex mutex_;                     // guards the targets of reactors_ once the threads run
  std::vector<UringReactor*> reactors_;  // each created and destroyed by its thread
  std::vector<std::thread> threads_;
  std::atomic<int> mains_running_{0};
  std::latch loops_ended_;  // no reactor is destroyed while a loop may ring its doorbell
};

}  // namespace pando
