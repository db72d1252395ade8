// OffloadPool is the threads that Offload's work runs on. Its reactors are UringReactors; the
// simulated kernel has a pool of its own.
//
// A thread is started when there is work for it for the first time, so a process that offloads
// nothing has none. The threads run on the CPUs that the creator of the pool may use, even if the
// reactors are pinned, and leave all signals to other threads.
//
// Threads: any. Run and Leave are called by reactors.
#pragma once

#include <sched.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "src/io/offload.h"

namespace pando {

class UringReactor;

class OffloadPool {
 public:
  static constexpr int kDefaultThreads = 2;

  explicit OffloadPool(int threads = kDefaultThreads);
  OffloadPool(const OffloadPool&) = delete;
  OffloadPool& operator=(const OffloadPool&) = delete;
  ~OffloadPool();  // REQUIRES: every reactor that has called Run has called Leave

  // Runs call->Work() on a thread of the pool, in the order of the calls, and posts the call to
  // `origin`.
  void Run(UringReactor* origin, OffloadCall* call);
  // Drops the work of `origin` that has not begun, and blocks until nothing runs for it (OF3).
  void Leave(UringReactor* origin);

 private:
  struct Job {
    UringReactor* origin = nullptr;
    OffloadCall* call = nullptr;
  };
  void StartThread();
  void ThreadMain(size_t thread);

  const size_t max_threads_;
  cpu_set_t cpus_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job> jobs_;
  std::vector<UringReactor*> working_for_;  // per thread; null: it waits for work
  size_t idle_threads_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pando
