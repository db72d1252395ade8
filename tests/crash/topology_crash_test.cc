// Crash test of the directory that holds a topology: stops the machine at each disk operation, by power
// loss or by the death of the process, and starts it again. Nothing that a change or a read has reported is
// lost (TS3, TF3), and what was not reported is there as a whole or not at all (TF1).
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "src/topology/file_topology.h"
#include "tests/support/child_process.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 5 * kSecond;
constexpr int kKeys = 2;
constexpr int kClients = 2;
constexpr int kSwaps = 24;  // of each client; more than are kept of a key

std::string KeyOf(int i) { return fmt::format("node/{}", i + 1); }

// What was attempted and reported, over all processes.
struct Known {
  std::map<std::string, std::set<std::string>> attempted;  // values of each key
  std::map<std::string, TopologyEntry> reported;           // the newest one that was stored or read
  int changes = 0;
  void Report(const TopologyEntry& entry) {
    TopologyEntry& newest = reported[entry.key];
    if (entry.revision > newest.revision) newest = entry;
  }
};

// After the machine has stopped, what still runs of its last turn gets errors; nothing comes of them.
Task<void> ExpectStopped(Reactor* reactor, Status status) {
  co_await Sleep(*reactor, 3600 * kSecond);
  LOG(FATAL) << "an error without a crash: " << status.ToString();
}

// Each client has a store of its own, as processes do.
Task<void> Work(Reactor* reactor, Known* known, int client) {
  Result<std::unique_ptr<TopologyStore>> opened = co_await FileTopology::Open(*reactor, "/topology");
  if (!opened.ok()) co_await ExpectStopped(reactor, opened.status());
  std::unique_ptr<TopologyStore> store = *std::move(opened);
  for (int i = 0; i < kSwaps; ++i) {
    const std::string key = KeyOf((i + client) % kKeys);
    Result<TopologyEntry> now = co_await store->Read(key, reactor->NowNs() + kTimeout);
    if (!now.ok()) co_await ExpectStopped(reactor, now.status());
    known->Report(*now);
    const std::string value = fmt::format("client {} change {}", client, known->changes++);
    known->attempted[key].insert(value);
    Result<CasOutcome> outcome = co_await store->CompareAndSwap(key, now->revision, value, reactor->NowNs() + kTimeout);
    if (!outcome.ok()) co_await ExpectStopped(reactor, outcome.status());
    if (outcome->kind == Kind::kStored) known->Report({key, value, outcome->revision});
    if (i % 5 != 0) continue;
    Result<TopologyListing> listing = co_await store->List(reactor->NowNs() + kTimeout);
    if (!listing.ok()) co_await ExpectStopped(reactor, listing.status());
    for (const TopologyEntry& entry : listing->entries) known->Report(entry);
  }
  if (Status closed = co_await store->Close(); !closed.ok()) co_await ExpectStopped(reactor, closed);
}
Task<int> WorkAll(Reactor* reactor, Known* known) {
  TaskGroup group;
  for (int client = 0; client < kClients; ++client) group.Spawn(Work(reactor, known, client));
  co_await group.Drain();
  co_return 0;
}

// What is there is what was reported, or newer, and goes on.
Task<int> Audit(Reactor* reactor, Known* known) {
  Result<std::unique_ptr<TopologyStore>> opened = co_await FileTopology::Open(*reactor, "/topology");
  CHECK(opened.ok()) << opened.status().ToString();
  std::unique_ptr<TopologyStore> store = *std::move(opened);
  Result<TopologyListing> listing = co_await store->List(reactor->NowNs() + kTimeout);
  CHECK(listing.ok()) << listing.status().ToString();
  std::map<std::string, TopologyEntry> found;
  for (const TopologyEntry& entry : listing->entries) found[entry.key] = entry;
  for (const auto& [key, reported] : known->reported) {
    EXPECT_GE(found[key].revision, reported.revision) << key << ": what was reported is lost";
    if (found[key].revision == reported.revision) {
      EXPECT_EQ(found[key], reported);
    }
  }
  for (const auto& [key, entry] : found) {
    if (entry.revision > 0) {
      EXPECT_TRUE(known->attempted[key].contains(entry.value)) << key << ": " << entry.value;
    }
    known->Report(entry);
  }
  CHECK((co_await store->Close()).ok());
  co_return 0;
}

// Returns false if the work was done before the crash.
bool CrashAt(uint64_t op, uint64_t seed) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  machine->disk().WriteAll("/topology/.keep", "");
  Known known;
  SimRandom random(seed);
  SimReactor* reactor = machine->Boot();
  machine->CrashAtDiskOp(op);
  const bool crashed = !kernel.RunTask(*reactor, WorkAll(reactor, &known));
  for (int life = 0; life < 2; ++life) {
    if (random.Chance(0.7)) {
      machine->PowerLoss(seed + life);
    } else {
      machine->ProcessCrash(seed + life);
    }
    machine->CrashAtDiskOp(0);  // it may not have come
    reactor = machine->Boot();
    CHECK(kernel.RunTask(*reactor, Audit(reactor, &known)));
    if (life > 0) break;
    machine->CrashAtDiskOp(machine->disk_ops() + 1 + random.Below(200));  // and once more, later
    (void)kernel.RunTask(*reactor, WorkAll(reactor, &known));
  }
  return crashed;
}

TEST(TopologyCrash, AtEachDiskOperation) {
  // As many operations as the work takes, and a few more seeds for each.
  constexpr uint64_t kCases = 1200;
  const std::string failure = InBatches(kCases, 100, 2, [](uint64_t first, uint64_t last) {
    bool ok = true;
    for (uint64_t i = first; i < last && ok; ++i) {
      (void)CrashAt(1 + i % 600, i + 1);
      ok = !testing::Test::HasFailure();
      if (!ok) fprintf(stderr, "case %lu\n", i);
    }
    return ok;
  });
  EXPECT_EQ(failure, "");
  EXPECT_TRUE(CrashAt(300, 1)) << "the work has fewer operations than the test assumes";
}

}  // namespace
}  // namespace pando
