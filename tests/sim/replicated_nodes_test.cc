// Whole clusters of the production code of a replicated node (cluster_world.h), with faults of everything around
// it: what clients see is linearizable, and after the faults all replicas are in sync and equal. And with rules of
// src/replication/rules.h broken one by one, which must be noticed.
//
// PANDO_TEST_SEED runs one seed, and tells its story. PANDO_TEST_ROUNDS is the number of seeds, PANDO_TEST_OPERATIONS
// that of the clients' operations that are judged: so many seeds run. PANDO_TEST_MUTANT is the name of the only mutant.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>

#include "tests/sim/cluster_world.h"
#include "tests/support/child_process.h"
#include "tests/support/replay_simulation.h"

namespace pando {
namespace {

using replication::Rules;

constexpr uint64_t kSeeds = 40;
constexpr uint64_t kMutantSeeds = 400;     // at most, of which each mutant is tried at those of its plot
constexpr uint64_t kSeedsPerProcess = 10;  // crashed processes stay allocated
constexpr unsigned kJobs = 2;

// What the processes that run seeds tell the one that has started them.
struct Shared {
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  ClusterCounts counts;
  uint64_t seed = 0;  // the first that found something
  char wrong[2000] = {};

  static Shared* Make() {
    void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    PCHECK(memory != MAP_FAILED) << "mmap";
    return new (memory) Shared;
  }
  void Note(uint64_t of_seed, const std::string& what) {
    if (wrong[0] != 0 || what.empty()) return;
    seed = of_seed;
    std::strncpy(wrong, what.c_str(), sizeof(wrong) - 1);
  }
  void Add(const ClusterCounts& more) {
    while (busy.test_and_set()) sched_yield();
    counts.Add(more);
    busy.clear();
  }
};
Shared* shared = Shared::Make();

const ClusterWorld* running = nullptr;
uint64_t running_seed = 0;
const char* running_mutant = nullptr;  // its name

// The story is told while it happens.
bool Tells() { return std::getenv("PANDO_TEST_SEED") != nullptr && std::getenv("PANDO_TEST_ROUNDS") == nullptr; }

void TellOf(uint64_t seed, const ClusterWorld& world, const std::string& wrong) {
  const std::string mutant = running_mutant == nullptr ? "" : fmt::format(" --mutant '{}'", running_mutant);
  fprintf(stderr, "%s\nseed %lu: %s\nreplay: %s%s\n", Tells() ? "" : world.Story().c_str(), seed, wrong.c_str(),
          ReplayOfSimulation("nodes", seed).c_str(), mutant.c_str());
}

// A failed CHECK ends the process: first its message and the story.
class LastWords final : public google::LogSink {
 public:
  void send(google::LogSeverity severity, const char*, const char* file, int line, const google::LogMessageTime&,
            const char* message, size_t length) override {
    if (severity == google::GLOG_FATAL)
      text_ = fmt::format("CHECK: {}:{} {}", file, line, std::string(message, length));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_ = "CHECK: the process was aborted";
};
LastWords last_words;

void OnAbort(int) {
  if (running == nullptr) return;
  shared->Note(running_seed, last_words.text());
  if (running_mutant == nullptr || Tells()) TellOf(running_seed, *running, last_words.text());
  running = nullptr;
}

// `counts`, if given, gets what has happened.
std::string RunSeed(uint64_t seed, const ClusterOptions& options, ClusterCounts* counts = nullptr) {
  FLAGS_minloglevel = std::getenv("PANDO_TEST_LOG") ? 0 : 3;
  FLAGS_logtostderr = true;
  google::AddLogSink(&last_words);
  std::signal(SIGABRT, OnAbort);
  ClusterWorld world(seed, options);
  running = &world;
  running_seed = seed;
  std::string wrong = world.Run();
  running = nullptr;
  google::RemoveLogSink(&last_words);
  if (counts != nullptr) counts->Add(world.counts());
  shared->Note(seed, wrong);
  if (!wrong.empty() && (running_mutant == nullptr || Tells())) TellOf(seed, world, wrong);
  if (Tells() || std::getenv("PANDO_TEST_VERBOSE")) fprintf(stderr, "seed %lu: %s\n", seed, world.Summary().c_str());
  return wrong;
}

uint64_t Number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

void PrintCounts(const ClusterCounts& c) {
  std::cout << fmt::format(
      "{} seeds, {} events; {} operations judged, {} done, {} refused, {} of unknown outcome; {} faults, {} crashes, "
      "{} power "
      "losses, {} disks lost, {} images put back, {} handovers, {} copies wanted; {} histories too wide to judge\n",
      c.seeds, c.events, c.judged, c.done, c.refused, c.unknown, c.faults, c.crashes, c.power_losses, c.lost_disks,
      c.images_restored, c.handovers, c.installs, c.too_wide);
  std::cout << fmt::format(
      "{} reads and {} writes reached an old master, {} requests a paused node; {} late notices of a death, {} "
      "promises "
      "before a power loss, {} tails superseded; {} looks at the invariants\nplots that came to their end:",
      c.reads_at_old_master, c.writes_at_old_master, c.sent_while_paused, c.late_notices, c.promises_before_power_loss,
      c.tails_superseded, c.audits);
  for (uint32_t i = 1; i < kPlots; ++i) std::cout << fmt::format(" {} {},", c.plots[i], NameOf(static_cast<Plot>(i)));
  std::cout << "\n";
}

TEST(ReplicatedNodes, KeepTheirPromisesUnderFaults) {
  const uint64_t begin = Number("PANDO_TEST_SEED", 1);
  const uint64_t seeds = Tells() ? 1 : Number("PANDO_TEST_ROUNDS", kSeeds);
  const uint64_t operations = Number("PANDO_TEST_OPERATIONS", 0);
  const ClusterCounts& c = shared->counts;
  uint64_t first_seed = begin;
  std::string failure;
  do {
    failure = InBatches(seeds, kSeedsPerProcess, kJobs, [&](uint64_t first, uint64_t last) {
      for (uint64_t seed = first_seed + first; seed < first_seed + last; ++seed) {
        ClusterCounts counts;
        const bool ok = RunSeed(seed, {.tells = Tells()}, &counts).empty();
        shared->Add(counts);
        if (!ok) return false;
      }
      return true;
    });
    first_seed += seeds;
    if (operations > 0)
      std::cout << fmt::format("{} seeds, {} operations\n", first_seed - begin, c.judged) << std::flush;
  } while (failure.empty() && c.judged < operations);
  PrintCounts(c);
  ASSERT_EQ(failure, "") << shared->wrong;
  if (c.seeds < kSeeds) return;
  // The simulation is worth something only if things happen in it.
  const uint64_t of_a_kind = c.seeds / 10;
  EXPECT_GT(c.done, 500 * c.seeds);
  EXPECT_GT(c.faults, 5 * c.seeds);
  EXPECT_GT(c.crashes, c.seeds);
  EXPECT_GT(c.handovers, c.seeds / 20);
  EXPECT_GT(c.installs, c.seeds / 20);
  EXPECT_GT(c.reads_at_old_master, 2 * c.seeds);
  EXPECT_GT(c.writes_at_old_master, c.seeds / 4);
  EXPECT_GT(c.sent_while_paused, c.seeds / 4);
  EXPECT_GT(c.images_restored + c.lost_disks, c.seeds / 20);
  for (uint32_t i = 1; i < kPlots; ++i) EXPECT_GE(c.plots[i], of_a_kind / 3) << NameOf(static_cast<Plot>(i));
  EXPECT_LE(c.too_wide, 1 + c.seeds / 50);
}

struct Mutant {
  const char* name;
  std::vector<bool Rules::*> rules;  // that are broken
  Plot plot;                         // that tempts it: it is tried at the seeds of this plot
  const char* killed_by;             // the names of the violations that count
};

const Mutant kMutants[] = {
    {"answer reads without a lease", {&Rules::reads_ask_for_lease}, Plot::kCutMaster, "history"},
    {"write for a session that knows a later master", {&Rules::session_finds_master}, Plot::kCutMaster, "SESSION"},
    {"acknowledge an append before its sync", {&Rules::durable_is_synced}, Plot::kPowerLoss, "ALL I8 I3 I5 history"},
    {"apply before the commit", {&Rules::apply_waits_for_commit}, Plot::kLongTail, "I3 I5 history CHECK"},
    {"tell of a promise before it is stored", {&Rules::stored_promise_is_stored}, Plot::kForgottenPromise, "I1"},
    {"state a commit before the own disk has it", {&Rules::own_disk_counts}, Plot::kLongTail, "I5 CHECK"},
    {"replay past the watermark", {&Rules::apply_to_watermark_only}, Plot::kLongTail, "I3 I5"},
    {"believe a death notice of another process",
     {&Rules::notice_names_incarnation, &Rules::hello_is_of_newest_process},
     Plot::kLateNotice,
     "I7 history"},
    {"keep UUIDs whatever the start counter says", {&Rules::identity_is_judged}, Plot::kOldImage, "I3 I5 history"},
};

bool IsNamed(const std::string& violation, const char* names) {
  return fmt::format(" {} ", names).find(fmt::format(" {} ", violation)) != std::string::npos;
}

// A broken rule may show itself by other violations at some seeds, but must do so by its own.
TEST(ReplicatedNodes, Mutants) {
  if (std::getenv("PANDO_TEST_OPERATIONS") != nullptr) GTEST_SKIP() << "only operations are asked for";
  const char* only = std::getenv("PANDO_TEST_MUTANT");
  const uint64_t seeds = std::max(Number("PANDO_TEST_ROUNDS", kMutantSeeds), kMutantSeeds);
  std::cout << fmt::format("{:50} {:>6}  {}\n", "rule broken in whole nodes", "seed", "violated");
  for (const Mutant& mutant : kMutants) {
    if (only != nullptr && std::string(mutant.name) != only) continue;
    Rules rules;
    for (const auto rule : mutant.rules) rules.*rule = false;
    running_mutant = mutant.name;
    std::string wrong;
    bool killed = false;
    for (uint64_t seed = 1; seed <= seeds && !killed; ++seed) {
      if (Tells() ? seed != Number("PANDO_TEST_SEED", 0) : ClusterWorld::PlotOf(seed) != mutant.plot) continue;
      shared->seed = shared->wrong[0] = 0;
      const bool ok = InChildProcess([&] { return RunSeed(seed, {.tells = Tells(), .rules = rules}).empty(); });
      if (!ok) shared->Note(seed, "killed: the process has ended");
      if (shared->wrong[0] == 0) continue;
      wrong = shared->wrong;
      killed = IsNamed(ClusterWorld::ViolationOf(wrong), mutant.killed_by);
    }
    running_mutant = nullptr;
    std::cout << fmt::format("{:50} {:>6}  {}\n", mutant.name, wrong.empty() ? "-" : std::to_string(shared->seed),
                             wrong.substr(0, wrong.find('\n')));
    if (Tells()) continue;
    EXPECT_TRUE(killed) << "survives what should notice it: " << mutant.name << ": " << wrong;
  }
}

// It must not make every write slow for longer than two seconds (Leader::CompareLags).
TEST(ReplicatedNodes, ASlowDiskIsNotWaitedForLong) {
  if (Tells() || std::getenv("PANDO_TEST_OPERATIONS") != nullptr) GTEST_SKIP() << "another test is asked for";
  for (const uint64_t seed : {1, 3}) {
    shared->wrong[0] = 0;
    EXPECT_TRUE(InChildProcess([seed] {
      FLAGS_minloglevel = 3;
      ClusterWorld world(seed, {});
      ClusterWorld::SlowDisk slow;
      std::string wrong = world.RunWithSlowDisk(&slow);
      if (wrong.empty() && slow.after_p99_ns > 2 * slow.before_p99_ns) wrong = "writes are still slow";
      if (wrong.empty() && slow.before_p99_ns == 0) wrong = "nothing was written";
      std::cout << fmt::format("seed {}: p99 {} us, at first {} us, after 2 s {} us\n", seed,
                               slow.before_p99_ns / kMicrosecond, slow.slow_p99_ns / kMicrosecond,
                               slow.after_p99_ns / kMicrosecond)
                << std::flush;
      shared->Note(seed, wrong);
      return wrong.empty();
    })) << "seed "
        << seed << ": " << shared->wrong;
  }
}

TEST(ReplicatedNodes, AreDeterministic) {
  uint64_t hashes[2] = {};
  for (uint64_t& hash : hashes) {
    ASSERT_TRUE(InChildProcess([] {
      FLAGS_minloglevel = 3;
      ClusterWorld world(5, {});
      const std::string wrong = world.Run();
      shared->seed = world.trace_hash();
      return wrong.empty();
    }));
    hash = shared->seed;
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

// A planned handover holds writes, and none of them has an unknown outcome.
TEST(ReplicatedNodes, HandOverWithoutDoubt) {
  constexpr uint64_t kCalmSeeds = 20;
  const char* only = std::getenv("PANDO_TEST_SEED");
  const uint64_t begin = only ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t seeds = only ? 1 : kCalmSeeds;
  // A handover is short, so few writes are held. Nothing crashes, so one process is enough for all.
  const std::string failure = InBatches(seeds, kCalmSeeds, kJobs, [&](uint64_t first, uint64_t last) {
    ClusterCounts counts;
    for (uint64_t seed = begin + first; seed < begin + last; ++seed) {
      if (!RunSeed(seed, {.tells = only != nullptr, .calm = true}, &counts).empty()) return false;
    }
    std::cout << counts.handovers << " handovers held " << counts.held << " writes\n" << std::flush;
    return counts.held > 0 || only != nullptr;
  });
  EXPECT_EQ(failure, "");
}

}  // namespace
}  // namespace pando
