// Offload and the reactor's randomness, against both reactors: results, order, limits, metrics,
// shutdown.
#include "src/io/offload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <latch>
#include <set>
#include <thread>

#include "src/io/sync.h"
#include "tests/unit/io/reactor_harness.h"

namespace pando {
namespace {

template <typename Harness>
class OffloadConformance : public ::testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(OffloadConformance, ReactorImplementations, ReactorNames);

// Owns its input and gives it back: nothing is copied.
struct Reverse {
  std::unique_ptr<std::string> text;
  std::unique_ptr<std::string> operator()() && {
    std::reverse(text->begin(), text->end());
    return std::move(text);
  }
};
struct Note {
  std::shared_ptr<std::atomic<int>> count;
  void operator()() && { ++*count; }
};

Task<void> Results(Reactor& r) {
  Reverse reverse{std::make_unique<std::string>("deflate")};
  const std::string* moved = reverse.text.get();
  std::unique_ptr<std::string> reversed = co_await Offload(r, std::move(reverse));
  EXPECT_EQ(*reversed, "etalfed");
  EXPECT_EQ(reversed.get(), moved);
  auto count = std::make_shared<std::atomic<int>>();
  Note note{count};
  co_await Offload(r, std::move(note));
  EXPECT_EQ(count->load(), 1);
  EXPECT_EQ(r.offload_metrics().wait_ns.count(), 2u);
  EXPECT_EQ(r.offload_metrics().work_ns.count(), 2u);
  EXPECT_EQ(r.offload_metrics().in_pool.value(), 0);
}
TYPED_TEST(OffloadConformance, Results) { this->harness_.Run(Results(this->harness_.reactor())); }

struct Square {
  int n;
  int operator()() const { return n * n; }
};
Task<void> OneSquare(Reactor& r, int n, int* sum, int* most_waiting, bool* finished_inside) {
  *most_waiting = std::max(*most_waiting, static_cast<int>(r.offload_metrics().waiting.value()));
  EXPECT_LE(r.offload_metrics().in_pool.value(), static_cast<int64_t>(kMaxOffloads));
  const int square = co_await Offload(r, Square{n});
  *finished_inside = true;
  *sum += square;
}
// OF1, R1: what exceeds the limit waits at the reactor and gets its turn, and no call finishes
// inside the call that started it.
Task<void> MoreThanTheLimit(Reactor& r) {
  constexpr int kCalls = 10 * static_cast<int>(kMaxOffloads);
  int sum = 0, most_waiting = 0, expected = 0;
  bool finished = false;
  TaskGroup group;
  for (int n = 0; n < kCalls; ++n) {
    group.Spawn(OneSquare(r, n, &sum, &most_waiting, &finished));
    expected += n * n;
  }
  EXPECT_FALSE(finished);
  EXPECT_EQ(most_waiting, kCalls - static_cast<int>(kMaxOffloads) - 1);
  co_await group.Drain();
  EXPECT_EQ(sum, expected);
  EXPECT_EQ(r.offload_metrics().waiting.value(), 0);
  EXPECT_EQ(r.offload_metrics().in_pool.value(), 0);
  EXPECT_EQ(r.offload_metrics().work_ns.count(), static_cast<uint64_t>(kCalls));
}
TYPED_TEST(OffloadConformance, MoreThanTheLimit) { this->harness_.Run(MoreThanTheLimit(this->harness_.reactor())); }

// Two reactors use one pool, and each gets its own results on its own thread.
Task<void> OneOfMany(Reactor& r, int n, int* sum) {
  const int index = r.index();
  *sum += co_await Offload(r, Square{n});
  EXPECT_EQ(r.index(), index);
}
Task<int> SumOfSquares(Reactor& r) {
  TaskGroup group;
  int sum = 0;
  for (int n = 0; n < 100; ++n) group.Spawn(OneOfMany(r, n, &sum));
  co_await group.Drain();
  co_return sum;
}
struct SumThere {
  Task<int> operator()(Reactor& target) { return SumOfSquares(target); }
};
Task<void> Into(Task<int> task, int* result) { *result = co_await task; }
Task<bool> OnBoth(Reactor& r) {
  TaskGroup group;
  int here = 0;
  group.Spawn(Into(SumOfSquares(r), &here));
  const int there = co_await CallOn(r, 1, SumThere{});
  co_await group.Drain();
  EXPECT_EQ(here, 99 * 100 * 199 / 6);
  EXPECT_EQ(there, here);
  co_return true;
}
TYPED_TEST(OffloadConformance, TwoReactorsShareThePool) {
  EXPECT_TRUE(this->harness_.RunOnFirstOfTwo([](Reactor& r) { return OnBoth(r); }));
}

// All bits change, and no value comes twice.
Task<void> Randomness(Reactor& r) {
  std::set<uint64_t> seen;
  uint64_t ones = 0, zeros = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t id = RandomId(r);
    EXPECT_NE(id, 0u);
    EXPECT_TRUE(seen.insert(id).second);
    ones |= id;
    zeros |= ~id;
  }
  EXPECT_EQ(ones, ~uint64_t{0});
  EXPECT_EQ(zeros, ~uint64_t{0});
  std::array<std::byte, 1003> bytes{};  // more than getrandom gives without an interruption
  r.FillRandom(std::span(bytes).first(1000));
  std::array<int, 256> histogram{};
  for (std::byte b : std::span(bytes).first(1000)) ++histogram[std::to_integer<size_t>(b)];
  EXPECT_LT(*std::max_element(histogram.begin(), histogram.end()), 30);
  for (std::byte b : std::span(bytes).last(3)) EXPECT_EQ(b, std::byte{0});
  r.FillRandom({});
  co_return;
}
TYPED_TEST(OffloadConformance, Randomness) { this->harness_.Run(Randomness(this->harness_.reactor())); }

// -- the pool of threads

struct OnAnotherThread {
  std::thread::id reactor;
  std::latch* reactor_went_on;
  bool operator()() const {
    reactor_went_on->wait();  // only the reactor, which must not be waiting for this, counts it down
    return std::this_thread::get_id() != reactor;
  }
};
Task<void> TakeOne(Reactor& r, OnAnotherThread work, int* done) {
  EXPECT_TRUE(co_await Offload(r, work));
  ++*done;
}
Task<void> GoesOn(Reactor& r) {
  std::latch went_on(1);
  int done = 0;
  TaskGroup group;
  for (int i = 0; i < 5; ++i) group.Spawn(TakeOne(r, {std::this_thread::get_id(), &went_on}, &done));
  co_await Sleep(r, kMillisecond);
  EXPECT_EQ(done, 0);
  went_on.count_down();
  co_await group.Drain();
  EXPECT_EQ(done, 5);
}
TEST(OffloadPool, TheReactorGoesOnMeanwhile) {
  auto reactor = MakeUringReactor({});
  ASSERT_TRUE(reactor.ok()) << reactor.status().ToString();
  RunBlocking(**reactor, GoesOn(**reactor));
}

struct InOrder {
  int n;
  std::vector<int>* order;  // only the pool's one thread writes it
  void operator()() const { order->push_back(n); }
};
Task<void> Append(Reactor& r, InOrder work) { co_await Offload(r, work); }
Task<std::vector<int>> Order(Reactor& r) {
  std::vector<int> order;
  TaskGroup group;
  for (int n = 0; n < 100; ++n) group.Spawn(Append(r, {n, &order}));
  co_await group.Drain();
  co_return order;
}
void ExpectAscending(const std::vector<int>& order) {
  EXPECT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}
// OF1: first come, first served, also for those that waited at the reactor.
TEST(OffloadPool, FirstComeFirstServed) {
  OffloadPool pool(1);
  UringOptions options;
  options.offload_pool = &pool;
  auto reactor = MakeUringReactor(options);
  ASSERT_TRUE(reactor.ok()) << reactor.status().ToString();
  ExpectAscending(RunBlocking(**reactor, Order(**reactor)));
}

struct HandCall final : OffloadCall {
  explicit HandCall(std::latch* b = nullptr, std::latch* r = nullptr) : begun(b), release(r) {}
  void Work() override {
    if (begun != nullptr) begun->count_down();
    if (release != nullptr) release->wait();
    worked = true;
  }
  void Finish() override { finished = true; }
  std::latch* const begun;
  std::latch* const release;
  bool worked = false, finished = false;
};
// OF3: a reactor that ends waits for the work that runs, drops the rest, and leaves the pool to
// others.
TEST(OffloadPool, AReactorMayEndBeforeItsWork) {
  OffloadPool pool(1);
  UringOptions options;
  options.offload_pool = &pool;
  auto reactor = MakeUringReactor(options);
  ASSERT_TRUE(reactor.ok()) << reactor.status().ToString();
  std::latch begun(1), release(1);
  HandCall running(&begun, &release);
  std::vector<std::unique_ptr<HandCall>> others;
  (*reactor)->StartOffload(&running);
  for (size_t i = 0; i < 2 * kMaxOffloads; ++i) {
    others.push_back(std::make_unique<HandCall>());
    (*reactor)->StartOffload(others.back().get());
  }
  begun.wait();
  std::thread releaser([&] { release.count_down(); });  // while the reactor is being destroyed, or before
  reactor->reset();
  releaser.join();
  EXPECT_TRUE(running.worked);
  EXPECT_FALSE(running.finished);
  for (auto& call : others) EXPECT_FALSE(call->finished);

  auto next = MakeUringReactor(options);
  ASSERT_TRUE(next.ok()) << next.status().ToString();
  ExpectAscending(RunBlocking(**next, Order(**next)));
}

// -- in the simulation

Task<void> AppendWhenDone(Reactor& r, int n, std::vector<int>* order) {
  co_await Offload(r, Square{n});
  order->push_back(n);
}
Task<std::vector<int>> CompletionOrder(Reactor& r) {
  std::vector<int> order;
  TaskGroup group;
  for (int n = 0; n < 40; ++n) group.Spawn(AppendWhenDone(r, n, &order));
  co_await group.Drain();
  co_return order;
}
struct SimRun {
  std::vector<int> order;
  uint64_t trace = 0, id = 0;
};
SimRun RunInSimulation(uint64_t seed, int threads = 2) {
  SimOptions options;
  options.offload_threads = threads;
  SimKernel kernel(seed, options);
  SimReactor& reactor = *kernel.AddMachine()->Boot();
  SimRun run;
  run.order = *kernel.RunTask(reactor, CompletionOrder(reactor));
  run.trace = kernel.trace_hash();
  run.id = RandomId(reactor);
  return run;
}
// K1: the seed decides how long work takes, and what is random.
TEST(OffloadInSimulation, TheSeedDecides) {
  std::set<std::vector<int>> orders;
  std::set<uint64_t> ids;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const SimRun run = RunInSimulation(seed);
    const SimRun again = RunInSimulation(seed);
    EXPECT_EQ(run.order, again.order);
    EXPECT_EQ(run.trace, again.trace);
    EXPECT_EQ(run.id, again.id);
    orders.insert(run.order);
    ids.insert(run.id);
  }
  EXPECT_GT(orders.size(), 1u);
  EXPECT_EQ(ids.size(), 5u);
  const std::vector<int> alone = RunInSimulation(6, /*threads=*/1).order;
  EXPECT_TRUE(std::is_sorted(alone.begin(), alone.end())) << "OF1: one thread takes work in order";
}

// K3: after a crash no work runs, and nothing comes back.
TEST(OffloadInSimulation, ACrashEndsTheWork) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  SimReactor& reactor = *machine->Boot();
  // The kernel keeps these reachable, as it does everything of a machine that has stopped.
  static HandCall calls[2 * kMaxOffloads];
  for (HandCall& call : calls) reactor.StartOffload(&call);
  machine->PowerLoss(1);
  kernel.RunUntilIdle();
  for (const HandCall& call : calls) EXPECT_FALSE(call.worked || call.finished);
  reactor.StartOffload(&calls[0]);  // does nothing
  SimReactor& again = *machine->Boot();
  EXPECT_EQ(kernel.RunTask(again, CompletionOrder(again))->size(), 40u);
}

struct UsesTheReactor {
  Reactor* reactor;
  void operator()() const { reactor->Schedule({}); }
};
Task<void> Misuse(Reactor& r) { co_await Offload(r, UsesTheReactor{&r}); }
TEST(OffloadInSimulationDeathTest, WorkMayNotUseTheReactor) {
  EXPECT_DEATH(
      {
        SimKernel kernel(1);
        SimReactor& reactor = *kernel.AddMachine()->Boot();
        kernel.RunTask(reactor, Misuse(reactor));
      },
      "offloaded work used the reactor");
}

}  // namespace
}  // namespace pando
