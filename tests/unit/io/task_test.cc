#include "src/io/task.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/io/sync.h"
#include "src/io/timer_heap.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

Task<int> Ready(int v) { co_return v; }
Task<int> ReadyTwice(int v) {
  const int a = co_await Ready(v);
  const int b = co_await Ready(a);
  co_return b;
}
Task<long> LoopOfReadyAwaits(int n) {
  long sum = 0;
  for (int i = 0; i < n; ++i) sum += co_await ReadyTwice(1);
  co_return sum;
}
Task<void> Store(Task<long> task, long* into) { *into = co_await task; }

// T2. With symmetric transfer and without optimization, g++ 12 would overflow the stack here after
// about ten thousand rounds.
TEST(Task, TwoMillionReadyAwaitsDoNotGrowTheStack) {
  TaskGroup group;
  long sum = 0;
  group.Spawn(Store(LoopOfReadyAwaits(2'000'000), &sum));
  EXPECT_EQ(group.running(), 0u);
  EXPECT_EQ(sum, 2'000'000);
}

struct Gate {
  std::coroutine_handle<> waiter;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) { waiter = h; }
  void await_resume() noexcept {}
  void Open() { std::exchange(waiter, {}).resume(); }
};
Task<std::string> Through(Gate* gate, std::string text) {
  co_await *gate;
  co_return text + "!";
}
Task<void> Append(Gate* gate, std::string text, std::string* log) { *log += co_await Through(gate, std::move(text)); }
Task<void> DrainThen(TaskGroup* group, bool* done) {
  co_await group->Drain();
  *done = true;
}

// T1: when Spawn returns, the task has started, and so has the task that it awaits. Otherwise no
// task would wait at a gate.
TEST(TaskGroup, DrainWaitsForAll) {
  TaskGroup group, outer;
  Gate a, b;
  std::string log;
  group.Spawn(Append(&a, "a", &log));
  group.Spawn(Append(&b, "b", &log));
  bool done = false;
  outer.Spawn(DrainThen(&group, &done));
  EXPECT_EQ(group.running(), 2u);
  b.Open();
  EXPECT_FALSE(done);
  EXPECT_EQ(log, "b!");
  a.Open();
  EXPECT_TRUE(done);
  EXPECT_EQ(log, "b!a!");
  bool again = false;
  outer.Spawn(DrainThen(&group, &again));  // nothing is running, so this finishes at once
  EXPECT_TRUE(again);
}

// T3: a TaskGroup must not be destroyed before its tasks have finished.
TEST(TaskGroupDeathTest, DestroyedWhileRunning) {
  EXPECT_DEATH(
      {
        Gate gate;
        std::string log;
        TaskGroup group;
        group.Spawn(Append(&gate, "a", &log));
      },
      "destroyed before its tasks finished");
}

// T1: a task that nobody awaits or spawns never starts.
TEST(Task, AbandonedBeforeItStartedFreesItsArguments) {
  { Task<int> never = Ready(1); }
  Gate gate;
  std::string log;
  // LeakSanitizer checks that the argument is freed.
  { Task<void> never = Append(&gate, std::string(1000, 'x'), &log); }
  EXPECT_EQ(log, "");
  EXPECT_FALSE(gate.waiter);
}

Task<void> WaitAndNote(WaitQueue* queue, int n, std::vector<int>* log) {
  co_await queue->Wait();
  log->push_back(n);
}
Task<void> WaitQueueScript(Reactor& r, std::vector<int>* log) {
  WaitQueue queue(r);
  TaskGroup group;
  for (int i = 0; i < 4; ++i) group.Spawn(WaitAndNote(&queue, i, log));
  EXPECT_EQ(queue.size(), 4u);
  queue.NotifyOne();
  EXPECT_TRUE(log->empty()) << "resumed inside Notify";
  co_await Yield(r);
  EXPECT_EQ(*log, (std::vector<int>{0}));
  queue.NotifyAll();
  co_await group.Drain();
}
TEST(WaitQueue, FirstComeFirstServedFromTheLoop) {
  SimKernel kernel(1);
  std::vector<int> log;
  SimReactor& reactor = *kernel.AddMachine()->Boot();
  RunBlocking(reactor, WaitQueueScript(reactor, &log));
  EXPECT_EQ(log, (std::vector<int>{0, 1, 2, 3}));
}

struct SemaphoreState {
  size_t held = 0, most = 0;
  std::vector<int> order;
};
Task<void> Hold(Reactor& r, Semaphore* semaphore, SemaphoreState* state, int n) {
  co_await semaphore->Acquire();
  state->order.push_back(n);
  state->most = std::max(state->most, ++state->held);
  co_await Sleep(r, (n % 5) * kMillisecond);
  --state->held;
  semaphore->Release();
}
Task<void> SemaphoreScript(Reactor& r, SemaphoreState* state) {
  Semaphore semaphore(r, 3);
  TaskGroup group;
  for (int i = 0; i < 100; ++i) group.Spawn(Hold(r, &semaphore, state, i));
  co_await group.Drain();
  EXPECT_EQ(semaphore.available(), 3u);
}
TEST(Semaphore, BoundsHoldersAndServesInOrder) {
  SimKernel kernel(2);
  SemaphoreState state;
  SimReactor& reactor = *kernel.AddMachine()->Boot();
  RunBlocking(reactor, SemaphoreScript(reactor, &state));
  EXPECT_EQ(state.most, 3u);
  ASSERT_EQ(state.order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(state.order[i], i);
}

Task<void> TakeCredit(Semaphore* semaphore, SemaphoreState* state, int n) {
  co_await semaphore->Acquire();
  state->order.push_back(n);
}

Task<void> ReleaseTwiceInATurn(Reactor& r, SemaphoreState* state) {
  Semaphore semaphore(r, 3);
  for (int i = 0; i < 3; ++i) co_await semaphore.Acquire();
  TaskGroup group;
  for (int i = 0; i < 6; ++i) group.Spawn(TakeCredit(&semaphore, state, i));
  for (int turn = 0; turn < 2; ++turn) {
    for (int i = 0; i < 3; ++i) semaphore.Release();
    // A latecomer in the same turn must not take a credit that was handed to a waiter.
    group.Spawn(TakeCredit(&semaphore, state, 6 + turn));
    co_await Sleep(r, kMillisecond);
  }
  for (int i = 0; i < 2; ++i) semaphore.Release();
  co_await group.Drain();
}

TEST(Semaphore, CreditsReleasedInOneTurnGoToTheLongestWaiting) {
  SimKernel kernel(2);
  SemaphoreState state;
  SimReactor& reactor = *kernel.AddMachine()->Boot();
  RunBlocking(reactor, ReleaseTwiceInATurn(reactor, &state));
  EXPECT_EQ(state.order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

// H1, H2: compares the heap with a plain sorted list.
TEST(TimerHeap, RandomOperationsAgreeWithAModel) {
  const uint64_t seed = 77;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  SimRandom random(seed);
  struct Noting : Timer {
    int number = 0;
    std::vector<int>* fired = nullptr;
  };
  std::vector<int> fired;
  std::vector<Noting> timers(200);
  struct Armed {
    Nanos deadline;
    uint64_t sequence;
  };
  std::map<int, Armed> model;
  TimerHeap heap;
  uint64_t sequence = 0;
  for (int i = 0; i < 200; ++i) {
    timers[i].number = i;
    timers[i].fired = &fired;
    timers[i].on_fire = [](Timer* t) { static_cast<Noting*>(t)->fired->push_back(static_cast<Noting*>(t)->number); };
  }
  Nanos now = 0;
  for (int step = 0; step < 20000; ++step) {
    const int i = static_cast<int>(random.Below(200));
    switch (random.Below(8)) {
      case 0:
        heap.Cancel(&timers[i]);
        model.erase(i);
        break;
      case 1: {
        now += static_cast<Nanos>(random.Below(20));
        fired.clear();
        heap.FireDue(now);
        std::vector<std::pair<std::pair<Nanos, uint64_t>, int>> due;
        for (auto& [n, armed] : model) {
          if (armed.deadline <= now) due.push_back({{armed.deadline, armed.sequence}, n});
        }
        std::sort(due.begin(), due.end());
        std::vector<int> expected;
        for (auto& [key, n] : due) {
          expected.push_back(n);
          model.erase(n);
        }
        ASSERT_EQ(fired, expected) << "step " << step;
        break;
      }
      default: {
        const Nanos deadline = now + static_cast<Nanos>(random.Below(100));
        heap.Arm(&timers[i], deadline);
        model[i] = {deadline, sequence++};
      }
    }
    ASSERT_EQ(heap.size(), model.size());
  }
}

}  // namespace
}  // namespace pando
