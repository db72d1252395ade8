#include "src/io/offload_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <system_error>

#include "src/io/uring_reactor.h"

namespace pando {

OffloadPool::OffloadPool(int threads) : max_threads_(static_cast<size_t>(threads)), working_for_(max_threads_) {
  CHECK_GT(threads, 0);
  // It fails on machines with more than 1024 CPUs. Threads then inherit what their starter may use.
  if (pthread_getaffinity_np(pthread_self(), sizeof cpus_, &cpus_) != 0) CPU_ZERO(&cpus_);
}

OffloadPool::~OffloadPool() {
  {
    std::lock_guard lock(mutex_);
    CHECK(jobs_.empty()) << "OF3: the pool ends before its reactors";
    ending_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void OffloadPool::Run(UringReactor* origin, OffloadCall* call) {
  std::lock_guard lock(mutex_);
  jobs_.push_back({origin, call});
  if (jobs_.size() > idle_threads_ && threads_.size() < max_threads_) StartThread();
  work_.notify_one();
}

void OffloadPool::Leave(UringReactor* origin) {
  std::unique_lock lock(mutex_);
  std::erase_if(jobs_, [origin](const Job& job) { return job.origin == origin; });
  done_.wait(lock, [&] { return std::find(working_for_.begin(), working_for_.end(), origin) == working_for_.end(); });
}

void OffloadPool::StartThread() {
  // The new thread inherits the signal mask.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  try {
    threads_.emplace_back([this, thread = threads_.size()] { ThreadMain(thread); });
  } catch (const std::system_error& error) {  // fewer threads do the work as well, only later
    LOG_IF(FATAL, threads_.empty()) << "cannot start a thread for offloaded work: " << error.what()
                                    << "; raise the limit of threads (ulimit -u, TasksMax= in a systemd unit)";
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void OffloadPool::ThreadMain(size_t thread) {
  pthread_setname_np(pthread_self(), fmt::format("offload-{}", thread).c_str());
  // The thread that started this one may be a reactor that is pinned to one CPU.
  if (CPU_COUNT(&cpus_) > 0) pthread_setaffinity_np(pthread_self(), sizeof cpus_, &cpus_);
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_threads_;
    work_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    --idle_threads_;
    if (jobs_.empty()) return;
    const Job job = jobs_.front();
    jobs_.pop_front();
    working_for_[thread] = job.origin;
    lock.unlock();
    job.call->begun_ns = UringReactor::ReadClockNs();
    job.call->Work();
    job.call->ended_ns = UringReactor::ReadClockNs();
    job.origin->Post(job.call);  // from here on the call belongs to its reactor (OF2)
    lock.lock();
    working_for_[thread] = nullptr;
    done_.notify_all();
  }
}

}  // namespace pando
