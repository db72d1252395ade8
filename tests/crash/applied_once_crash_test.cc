// LN1 over crashes: clients add 1 to a counter, and send each addition again, with the same name,
// until it is acknowledged, over a crash at each disk operation. In the end the counter says how many
// additions there were, and no two of them were told the same number.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/child_process.h"
#include "tests/support/engine_harness.h"
#include "tests/support/late_gate.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr int kClients = 3;
constexpr uint64_t kAdditions = 12;  // of each client
constexpr uint64_t kCasesPerChild = 20;

// What the clients know, over all processes of the node.
struct Clients {
  uint64_t sent[kClients] = {};  // the sequence of the last addition; it may be in progress
  uint64_t acknowledged[kClients] = {};
  std::set<int64_t> numbers;  // that acknowledgements named
  GateMemory gate;
  bool late_gate = false;
  std::string problem;
};

engine_test::Setup SmallSetup() {
  engine_test::Setup setup;
  setup.store.partitions = 1;
  setup.engine.log_budget_bytes = 1u << 20;
  setup.engine.log_segment_bytes = 64u << 10;
  return setup;
}

Task<Result<OpResult>> Add(Engine* engine, int client, uint64_t sequence) {
  WriteOp once;
  once.op = RecordOp::kOnce;
  once.key = fmt::format(
      "\xff\xff\xff\xff"
      "client {}",
      client);
  once.sequence = sequence;
  once.first_sent_ms = std::max<int64_t>(engine->reactor().WallMs(), 1);
  if (sequence % 2 == 0) {
    AwaitedWrite write(engine->reactor());
    write.partition = engine->partition(0);
    write.once = &once;
    write.op = IncrementOp("n", 1);
    PointWrite* const batch[] = {&write};
    engine->BatchWrite(batch);
    while (write.begun && !write.over) co_await write.done.Wait();
    if (write.begun) {
      CO_RETURN_IF_ERROR(write.status);
      co_return std::move(write.result);
    }
  }
  std::vector<WriteOp> ops;
  ops.push_back(std::move(once));
  ops.push_back(IncrementOp("n", 1));
  CO_ASSIGN_OR_RETURN(std::vector<OpResult> results,
                      co_await engine->partition(0)->Write(std::move(ops), WriteOptions()));
  co_return std::move(results.back());
}

Task<void> RunClient(Reactor* reactor, Engine* engine, int client, Clients* clients) {
  uint64_t& sent = clients->sent[client];
  uint64_t& acknowledged = clients->acknowledged[client];
  while (acknowledged < kAdditions && clients->problem.empty()) {
    sent = acknowledged + 1;
    const Result<OpResult> result = co_await Add(engine, client, sent);
    if (!result.ok()) {
      const bool expected =
          clients->late_gate && (result.code() == Code::kAborted || result.code() == Code::kOverloaded);
      if (!expected) clients->problem = "an addition failed: " + result.status().ToString();
      co_await Sleep(*reactor, kMillisecond);
      continue;
    }
    if (!clients->numbers.insert(result->number).second) {
      clients->problem = fmt::format("two additions were told the number {}", result->number);
    }
    acknowledged = sent;
    if (sent % 5 == 0) {
      if (Status status = co_await engine->partition(0)->Checkpoint(); !status.ok())
        clients->problem = status.ToString();
    }
  }
}

Task<void> Live(Reactor* reactor, Clients* clients, uint64_t seed) {
  engine_test::Setup setup = SmallSetup();
  if (clients->late_gate) {
    setup.engine.make_gate = [=](uint32_t) -> std::unique_ptr<CommitGate> {
      LateGate::Options options;
      options.epoch_chance = 0.2;
      return std::make_unique<LateGate>(*reactor, &clients->gate, seed, options);
    };
  }
  Result<std::unique_ptr<Engine>> engine = co_await OpenEngine(*reactor, setup);
  if (!engine.ok()) {
    clients->problem = "open: " + engine.status().ToString();
    co_return;
  }
  TaskGroup tasks;
  for (int i = 0; i < kClients; ++i) tasks.Spawn(RunClient(reactor, engine->get(), i, clients));
  co_await tasks.Drain();
  const Result<ReadResult> read = co_await (*engine)->partition(0)->Get("n", kNewest, nullptr);
  if (clients->problem.empty() && (!read.ok() || read->value != std::to_string(kClients * kAdditions))) {
    clients->problem = fmt::format("the counter is {} after {} additions", read.ok() ? read->value : "unreadable",
                                   kClients * kAdditions);
  }
  const Status closed = co_await (*engine)->Close(/*checkpoint=*/true);
  if (clients->problem.empty() && !closed.ok()) clients->problem = "close: " + closed.ToString();
}

// Runs the node until it stops at the disk operation `crash_at` (0: until the clients are done).
// Returns the number of disk operations.
uint64_t Boot(SimDisk* disk, Clients* clients, uint64_t seed, uint64_t crash_at) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  machine->disk() = std::move(*disk);
  if (crash_at > 0) machine->CrashAtDiskOp(crash_at);
  SimReactor* reactor = machine->Boot();
  const bool ended = kernel.RunTask(*reactor, Live(reactor, clients, seed)).has_value();
  if (!ended && crash_at == 0) clients->problem = "the node did not end";
  const uint64_t ops = machine->disk_ops();
  if (seed % 2 == 0) {
    machine->PowerLoss(seed);
  } else {
    machine->ProcessCrash(seed);
  }
  *disk = std::move(machine->disk());
  return ops;
}

std::string RunCase(uint64_t crash_at, bool late_gate) {
  // Abandoned coroutines refer to it, so it is never freed.
  auto* clients = new Clients();
  clients->late_gate = late_gate;
  SimDisk disk;
  const uint64_t seed = 2 * crash_at + (crash_at / 2) % 2;
  Boot(&disk, clients, seed, crash_at);
  Boot(&disk, clients, seed + 1, 1 + crash_at * 7 % 60);
  Boot(&disk, clients, seed + 2, 0);
  return clients->problem;
}

class AppliedOnceCrashTest : public testing::TestWithParam<bool> {};

TEST_P(AppliedOnceCrashTest, EveryOperation) {
  const bool late_gate = GetParam();
  auto calm = std::make_unique<Clients>();
  calm->late_gate = late_gate;
  SimDisk disk;
  const uint64_t ops = Boot(&disk, calm.get(), 1, 0);
  ASSERT_EQ(calm->problem, "");
  const char* const only = std::getenv("PANDO_TEST_CRASH_OP");
  const std::string failure = InBatches(ops, kCasesPerChild, 2, [&](uint64_t first, uint64_t last) {
    for (uint64_t op = first + 1; op <= last; ++op) {
      if (only && op != std::strtoull(only, nullptr, 10)) continue;
      const std::string wrong = RunCase(op, late_gate);
      if (wrong.empty()) continue;
      fprintf(stderr,
              "crash at operation %lu of %lu: %s\nreplay: PANDO_TEST_CRASH_OP=%lu bin/crash_applied_once_crash "
              "--gtest_filter=*EveryOperation/%d\n",
              op, ops, wrong.c_str(), op, late_gate ? 1 : 0);
      return false;
    }
    return true;
  });
  EXPECT_EQ(failure, "");
}

INSTANTIATE_TEST_SUITE_P(Gates, AppliedOnceCrashTest, testing::Bool());

}  // namespace
}  // namespace pando::engine_test
