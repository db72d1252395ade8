// ReactorGroup: N reactors, each on its own thread, connected by a RemoteMesh. What kvnode runs on.
//
// Threads: the group belongs to the thread that started it (not a reactor's). Stop, Post and RunOn may be called from
// any thread that is not a reactor's.
//
// Life: Start returns once every reactor exists and has started its main task. The loops run until Stop, or until all
// main tasks have returned. A graceful end is: tell the main tasks to finish (RunOn or Post), then Join.
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
  UringOptions uring;        // index and mesh are filled in
  bool pin_threads = false;  // reactor i to the i-th CPU this process may run on; refused when there are fewer
};

class ReactorGroup {
 public:
  // Called on each reactor's thread; its task runs on that reactor. May be null: the loops then run until Stop.
  using Main = std::function<Task<void>(Reactor&)>;

  // kUnsupported as MakeUringReactor says; kInvalidArgument for pinning without enough CPUs. All or nothing.
  static Result<std::unique_ptr<ReactorGroup>> Start(ReactorGroupOptions options, Main main);
  ~ReactorGroup();  // Stop and Join

  int size() const { return static_cast<int>(reactors_.size()); }
  // Ends the loops where they are; tasks that have not finished are abandoned (their frames leak).
  void Stop();
  // Waits for the loops to end.
  void Join();

  // Starts `call` on reactor `index`; Finish() follows there too.
  void Post(int index, RemoteCall* call);

  // Runs `fn(Reactor&) -> Task<R>` on reactor `index` and blocks this (non-reactor) thread until it is done. The loops
  // must still be running.
  template <typename Fn>
  auto RunOn(int index, Fn fn) {
    using R = typename detail::TaskValue<std::invoke_result_t<Fn&, Reactor&>>::type;
    struct Call final : RemoteCall {
      explicit Call(Fn f) : fn(std::move(f)) {}
      void Start() override { Await(this); }
      void Finish() override {
        std::promise<void> last = std::move(done);  // the waiter may destroy this call before set_value returns
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
  std::mutex mutex_;                     // guards what reactors_ points to, once the threads run
  std::vector<UringReactor*> reactors_;  // made and destroyed by their threads; null outside their lives
  std::vector<std::thread> threads_;
  std::atomic<int> mains_running_{0};
  std::latch loops_ended_;  // reactors are destroyed only once no loop can ring their doorbells
};

}  // namespace pando
