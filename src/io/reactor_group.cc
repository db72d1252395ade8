#include "src/io/reactor_group.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <cerrno>

namespace pando {

// Shared by Start and the threads until it is known whether all reactors could be created.
struct ReactorGroup::StartState {
  explicit StartState(int count) : outcomes(count), made(count) {}
  std::vector<Status> outcomes;  // one per reactor, written by its thread before `made`
  std::latch made;
  std::latch decided{1};
  bool go = false;  // Start writes it before it counts down `decided`
};

ReactorGroup::ReactorGroup(ReactorGroupOptions options)
    : options_(std::move(options)),
      mesh_(std::make_unique<RemoteMesh>(options_.reactors)),
      reactors_(options_.reactors, nullptr),
      loops_ended_(options_.reactors) {}

Status ReactorGroup::PinThread(int index) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return ErrnoError(errno, "read the CPU affinity");
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != index) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (int rc = pthread_setaffinity_np(pthread_self(), sizeof one, &one)) return ErrnoError(rc, "pin to CPU {}", cpu);
    return {};
  }
  return Error(Code::kInvalidArgument,
               "cannot pin {} reactors: this process may run on only {} CPUs; use fewer reactors or do not pin",
               options_.reactors, seen);
}

detail::FireAndForget ReactorGroup::RunMain(ReactorGroup* group, Reactor* reactor) {
  co_await Yield(*reactor);  // so that the main task starts on the loop
  {
    Task<void> task = group->main_(*reactor);
    co_await task;
  }
  if (--group->mains_running_ == 0) group->Stop();
}

Result<std::unique_ptr<ReactorGroup>> ReactorGroup::Start(ReactorGroupOptions options, Main main) {
  std::unique_ptr<ReactorGroup> group(new ReactorGroup(std::move(options)));
  group->main_ = std::move(main);
  const int count = group->options_.reactors;
  group->mains_running_ = count;

  auto start = std::make_shared<StartState>(count);
  // A new thread inherits its creator's signal mask. The signals that ask the process to stop are
  // for the thread that calls Start, so they are blocked in reactor threads and never interrupt a
  // turn.
  sigset_t stops, before;
  sigemptyset(&stops);
  for (int s : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&stops, s);
  pthread_sigmask(SIG_BLOCK, &stops, &before);
  for (int i = 0; i < count; ++i) {
    group->threads_.emplace_back([g = group.get(), start, i] { g->ThreadMain(i, *start); });
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  start->made.wait();
  Status failure;
  for (Status& outcome : start->outcomes) {
    if (!outcome.ok() && failure.ok()) failure = std::move(outcome);
  }
  start->go = failure.ok();
  start->decided.count_down();
  if (!failure.ok()) {
    group->Join();
    return failure;
  }
  return group;
}

void ReactorGroup::ThreadMain(int index, StartState& start) {
  pthread_setname_np(pthread_self(), fmt::format("reactor-{}", index).c_str());
  std::unique_ptr<Reactor> reactor;
  Status& outcome = start.outcomes[index];
  if (options_.pin_threads) outcome = PinThread(index);
  if (outcome.ok()) {
    UringOptions uring = options_.uring;
    uring.index = index;
    uring.mesh = mesh_.get();
    uring.offload_pool = &offload_pool_;
    Result<std::unique_ptr<Reactor>> made = MakeUringReactor(uring);
    if (made.ok()) {
      reactor = *std::move(made);
      reactors_[index] = static_cast<UringReactor*>(reactor.get());
    } else {
      outcome = made.TakeStatus();
    }
  }
  start.made.count_down();
  start.decided.wait();
  if (start.go) {
    if (main_) RunMain(this, reactor.get());
    reactor->Run();
  }
  loops_ended_.arrive_and_wait();  // until all loops have ended, others may ring this doorbell
  std::lock_guard lock(mutex_);
  reactors_[index] = nullptr;
  reactor.reset();
}

ReactorGroup::~ReactorGroup() {
  if (threads_.empty()) return;
  Stop();
  Join();
}

void ReactorGroup::Stop() {
  std::lock_guard lock(mutex_);
  for (UringReactor* reactor : reactors_) {
    if (reactor) reactor->Stop();
  }
}

void ReactorGroup::Post(int index, RemoteCall* call) {
  std::lock_guard lock(mutex_);
  CHECK(reactors_.at(index)) << "reactor " << index << " has ended";
  reactors_[index]->Post(call);
}

void ReactorGroup::Join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace pando
