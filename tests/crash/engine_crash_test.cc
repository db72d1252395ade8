// Crash test of the engine: stops small seeded workloads at each of their disk operations, by power
// loss or by a crash of the process, recovers, and stops again in the recovery. The workloads
// include checkpoints, recycling, file growth, holes, snapshots, merges, and large values. In half of
// them the gates commit late and supersede, tails are appended again, and in half the server shuts down
// while requests still run.
//
// The oracle, for each partition. Every write puts a marker record that nothing removes, so the
// test knows which writes were recovered:
//   - Every acknowledged write is recovered. A write is recovered as a whole or not at all. A write
//     that was refused as a whole is not there.
//   - The partition's LSN counts exactly the operations of the recovered writes: they are a prefix
//     of its log. (Writes that were refused as a whole leave no trace, so the LSN may count those
//     too.)
//   - Applying the recovered writes to the model, in the order of their versions, gives the
//     recovered records, versions, and expiries, and every acknowledged result, also of conditions
//     and increments.
//   - The page audit finds that every block is owned exactly once.
//   - The engine closes, recovers the same, also after a power loss, and continues.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/child_process.h"
#include "tests/support/engine_harness.h"
#include "tests/support/late_gate.h"
#include "tests/support/partition_model.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/tree_audit.h"

namespace pando::engine_test {
namespace {

constexpr int kWriters = 3;
constexpr uint64_t kCasesPerChild = 8;
constexpr size_t kKeys = 60;
constexpr size_t kMaxBatchBytesHere = 24'000;  // a batch must fit into a log segment

uint64_t Environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// The options that a seed selects.
Setup SetupOf(uint64_t seed) {
  SimRandom random(seed);
  Setup s;
  s.store.page_bytes = 4096;
  s.store.partitions = 1u << random.Below(2);
  s.engine.compression = static_cast<Compression>(random.Below(3));
  s.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 4;
  s.engine.log_segment_bytes = 64u << 10;
  s.engine.log_budget_bytes = 320u << 10;
  s.engine.checkpoint_interval_ns = random.Between(2, 40) * kMillisecond;
  if (seed % 2 == 1) {  // punches holes, and fills them again
    s.engine.release.bytes_per_s = 1u << 30;
    s.engine.release.after_ns = 5 * kMillisecond;
    s.engine.release.min_keep_blocks = 16;
  }
  return s;
}

SimOptions DiskOf(uint64_t seed) {
  SimOptions options;
  options.disk_max_ns = seed % 2 == 0 ? 2 * kMillisecond : 200 * kMicrosecond;
  options.short_transfer_probability = seed % 5 == 0 ? 0.2 : 0;
  return options;
}

struct Batch {
  uint32_t partition = 0;
  std::string marker;
  std::vector<WriteOp> ops;  // the checks, then the put of the marker, then the others
  size_t checks = 0;
  WriteOptions options;
  bool acknowledged = false;
  std::vector<OpResult> results;

  // Whether one operation can refuse the whole batch; there is no marker then.
  bool refusable() const { return checks > 0 || options.all_or_nothing; }
  bool refused() const { return acknowledged && results[checks].outcome == OpOutcome::kBatchRefused; }
};

// The requests to the engine and its answers. It outlives the crash.
struct History {
  std::vector<std::unique_ptr<Batch>> batches;
  bool expiring = false;  // records expire, so the engine adds operations of its own
  // The gates commit late and supersede. The other replicas, as it were, remember what they decided.
  bool late_gates = false;
  bool shuts_down = false;  // while requests run
  std::vector<GateMemory> gates{2};
  int64_t elapsed_ms = 0;  // wall time continues from one boot of the machine to the next
  std::string problem;
  void Fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
  }
};

class Workload {
 public:
  Workload(uint64_t seed, int steps, Reactor* reactor, Engine* engine, History* history)
      : random_(seed), steps_(steps), reactor_(reactor), engine_(engine), history_(history) {}

  Task<void> Run() {
    TaskGroup writers;
    for (int w = 0; w < kWriters; ++w) writers.Spawn(Writer());
    writers.Spawn(Disturb());
    if (history_->shuts_down) {
      co_await Sleep(*reactor_, random_.Between(10, 80) * kMillisecond);
      closing_ = true;
      engine_->GiveUpUncommitted();
    }
    co_await writers.Drain();
  }

 private:
  Task<void> Writer() {
    ++writing_;
    for (int i = 0; i < steps_ && !closing_; ++i) {
      co_await WriteOne();
      engine_->CheckInvariants();
      if (random_.Chance(0.1)) co_await Sleep(*reactor_, random_.Between(0, 15) * kMillisecond);
      if (history_->expiring && random_.Chance(0.05)) co_await Sleep(*reactor_, 300 * kMillisecond);
    }
    --writing_;
  }

  Task<void> WriteOne() {
    history_->batches.push_back(std::make_unique<Batch>());
    Batch* batch = history_->batches.back().get();
    batch->partition = static_cast<uint32_t>(random_.Below(engine_->partitions().size()));
    batch->marker = fmt::format("m/{:05}", history_->batches.size());
    batch->ops.push_back(PutOp(batch->marker, std::string(random_.Below(40), 'm')));
    size_t bytes = 0;
    for (uint64_t n = random_.Below(5); n > 0 && bytes < kMaxBatchBytesHere; --n) {
      batch->ops.push_back(RandomOp());
      bytes += batch->ops.back().value.size();
    }
    if (random_.Chance(0.08)) {  // empties pages, which are then merged
      batch->ops.resize(1);
      const uint64_t from = random_.Below(kKeys);
      for (uint64_t k = from; k < std::min(kKeys, from + 25); ++k) batch->ops.push_back(RemoveOp(Key(k)));
    }
    batch->options.all_or_nothing = random_.Chance(0.3);
    batch->checks = random_.Chance(0.15) ? 1 + random_.Below(2) : 0;
    for (size_t i = 0; i < batch->checks; ++i) batch->ops.insert(batch->ops.begin(), RandomCheck());
    Partition* partition = engine_->partition(batch->partition);
    // A single operation is written as kvnode does it.
    const bool single = batch->ops.size() == 1 && !batch->options.all_or_nothing;
    Task<Result<std::vector<OpResult>>> write =
        single ? WritePoint(engine_, partition, batch->ops.front()) : partition->Write(batch->ops, batch->options);
    Result<std::vector<OpResult>> results = co_await write;
    if (results.ok()) {
      batch->acknowledged = true;
      batch->results = *std::move(results);
    } else if (!MayFail(results.code())) {
      history_->Fail("a write failed: " + results.status().ToString());
    }  // else it may have been superseded, in a batch that the crash may undo
  }

  bool MayFail(Code code) const {
    if (code == Code::kAborted) return history_->late_gates;
    if (code == Code::kOverloaded) return history_->late_gates;  // WQ2: the log is tiny
    return code == Code::kUnavailable && closing_;
  }

  std::string Key(uint64_t n) const { return fmt::format("k/{:03}", n) + std::string(n % 7 == 0 ? 300 : n % 5, 'x'); }

  WriteOp RandomOp() {
    WriteOp op = PutOp(Key(random_.Below(kKeys)), "");
    const uint64_t kind = random_.Below(12);
    if (kind >= 10) {
      op.op = RecordOp::kTouch;
      op.ttl_mode = TtlMode::kClear;
    } else if (kind < 6) {
      const uint64_t size = random_.Below(20);
      op.value.assign(random_.Below(size == 0 ? 20'000 : size < 4 ? 4000 : 300), '\0');
      for (char& c : op.value) c = static_cast<char>(random_.Next());
      if (random_.Chance(0.2)) op.value = std::to_string(random_.Below(1000));
    } else {
      op.op = kind < 8 ? RecordOp::kRemove : RecordOp::kIncrement;
      op.delta = random_.Between(-9, 9);
    }
    if (random_.Chance(0.2)) op.condition.exists = random_.Chance(0.6);
    if (random_.Chance(0.05)) op.condition.value = std::to_string(random_.Below(1000));
    if (op.op != RecordOp::kRemove && random_.Chance(0.2)) {
      op.ttl_mode = TtlMode::kSet;
      op.ttl_ms = history_->expiring ? random_.Between(1, 200) : 3'600'000;
      if (random_.Chance(0.3)) op.expires_at_ms = reactor_->WallMs() + std::exchange(op.ttl_ms, 0);
    }
    op.return_previous = random_.Chance(0.1);
    return op;
  }

  WriteOp RandomCheck() {
    WriteOp op;
    op.op = RecordOp::kCheck;
    op.key = Key(random_.Below(kKeys));
    op.condition.exists = random_.Chance(0.6);
    return op;
  }

  Task<void> Disturb() {
    while (writing_ > 0) {
      Partition* p = engine_->partitions()[random_.Below(engine_->partitions().size())];
      const uint64_t choice = random_.Below(10);
      if (choice == 0) {
        Status status = co_await p->Checkpoint();
        if (!status.ok()) history_->Fail("a checkpoint failed: " + status.ToString());
        static_cast<Replica*>(p)->AppendTailAgain();
      } else if (choice == 1) {
        std::vector<Partition*> partitions(engine_->partitions().begin(), engine_->partitions().end());
        Result<SnapshotInfo> snapshot = co_await CutSnapshot(*reactor_, partitions, reactor_->WallMs() + 10);
        const bool late = history_->late_gates && snapshot.code() == Code::kUnavailable;
        if (!snapshot.ok() && !late && !MayFail(snapshot.code())) {
          history_->Fail("a snapshot failed: " + snapshot.status().ToString());
        }
      } else if (choice < 5) {
        ScanSpec spec;
        spec.reverse = choice == 2;
        Result<ScanPage> page = co_await p->Scan(spec);
        if (!page.ok()) history_->Fail("a scan failed: " + page.status().ToString());
      }
      co_await Sleep(*reactor_, random_.Between(1, 10) * kMillisecond);
    }
  }

  SimRandom random_;
  const int steps_;
  Reactor* reactor_;
  Engine* engine_;
  History* history_;
  int writing_ = 0;
  bool closing_ = false;
};

// Compares the contents of one partition with what the history allows. Returns the first problem,
// or "".
Task<std::string> CheckPartition(Reactor* reactor, Partition* partition, const History* history) {
  PartitionModel held;
  ScanSpec spec;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await partition->Scan(spec);
    if (!page.ok()) co_return "scan: " + page.status().ToString();
    for (const ScanRow& row : page->rows) {
      held.records()[std::string(row.key)] = {std::string(row.value), row.version, row.expires_at_ms};
    }
    over = page->exhausted;
    if (!over) spec.start = std::string(page->rows.back().key) + '\0';
  }
  std::map<Version, const Batch*> recovered;
  // `refused`: of writes that may be in the log without a trace.
  uint64_t operations = 0, refused = 0;
  for (const auto& batch : history->batches) {
    if (batch->partition != partition->id()) continue;
    auto marker = held.records().find(batch->marker);
    if (marker == held.records().end()) {
      if (batch->acknowledged && !batch->refused()) {
        co_return fmt::format("the acknowledged write {} is lost", batch->marker);
      }
      if (batch->refusable()) refused += batch->ops.size();
      continue;
    }
    if (batch->refused()) co_return fmt::format("the write {} was refused, but applied", batch->marker);
    operations += batch->ops.size();
    if (!recovered.emplace(marker->second.version - batch->checks, batch.get()).second) {
      co_return "two writes have the same version";
    }
  }
  const Lsn last = partition->stats().last_lsn;
  const bool exact = !history->expiring && !history->late_gates;  // else there are other records too
  if (last < operations || (exact && last > operations + refused)) {
    co_return fmt::format("recovered up to LSN {}, but the recovered writes have {} operations, the refused ones {}",
                          last, operations, refused);
  }
  PartitionModel model;
  for (const auto& [first, batch] : recovered) {
    std::vector<Version> versions;
    while (versions.size() < batch->ops.size()) versions.push_back(first + versions.size());
    const std::vector<OpResult> want = model.ApplyWrite(batch->ops, batch->options, versions);
    if (want[batch->checks].outcome != OpOutcome::kApplied) {
      co_return fmt::format("the write {} was applied, but should have been refused", batch->marker);
    }
    for (size_t i = 0; batch->acknowledged && i < want.size(); ++i) {
      std::string difference = Difference(want[i], batch->results[i]);
      if (!difference.empty())
        co_return fmt::format("operation {} of {} got a wrong answer: {}", i, batch->marker, difference);
    }
  }
  const int64_t now_ms = reactor->WallMs();
  ScanSpec all;
  all.max_rows = all.max_bytes = SIZE_MAX;
  std::string difference = Difference(model.Scan(all, now_ms), held.Scan(all, now_ms));
  if (!difference.empty()) co_return "recovered records: " + difference;
  Result<RangeAggregates> sum = co_await partition->Aggregate("", "", kNewest);
  if (!sum.ok()) co_return "sums: " + sum.status().ToString();
  if (!history->expiring && *sum != held.Aggregate("", "", now_ms)) co_return "the sums differ from the records";
  co_return std::string();
}

// Late gates commit what recovery found little by little.
Task<void> UntilAllIsCommitted(Reactor* reactor, Partition* partition) {
  for (PartitionStats s = partition->stats(); s.applied_lsn < s.last_lsn; s = partition->stats()) {
    co_await Sleep(*reactor, kMillisecond);
  }
}

Task<std::string> CheckAll(Reactor* reactor, Engine* engine, const History* history) {
  for (Partition* p : engine->partitions()) co_await UntilAllIsCommitted(reactor, p);
  std::vector<Tree*> trees;
  for (Partition* p : engine->partitions()) {
    std::string problem = co_await CheckPartition(reactor, p, history);
    if (!problem.empty()) co_return fmt::format("partition {}: {}", p->id(), problem);
    trees.push_back(&static_cast<Replica*>(p)->tree());
  }
  std::string problem = MemoryAudit(trees, /*idle=*/false).Run();
  co_return problem;
}

// One run of the process: opens (and recovers), compares, executes `steps` steps of work, closes,
// and audits. Returns what went wrong, or "".
Task<std::string> Live(Reactor* reactor, uint64_t seed, int steps, History* history) {
  Setup setup = SetupOf(seed);
  if (history->late_gates) {
    setup.engine.make_gate = [=](uint32_t p) -> std::unique_ptr<CommitGate> {
      LateGate::Options options;
      options.stall_chance = 0.02;
      return std::make_unique<LateGate>(*reactor, &history->gates[p], seed * 10 + p, options);
    };
  }
  auto engine = co_await OpenEngine(*reactor, setup);
  if (!engine.ok()) co_return "open: " + engine.status().ToString();
  std::string problem = co_await CheckAll(reactor, engine->get(), history);
  if (problem.empty() && steps > 0) {
    Workload workload(seed * 1000 + steps, steps, reactor, engine->get(), history);
    co_await workload.Run();
    problem = history->problem;
  }
  Status closed = co_await (*engine)->Close(/*checkpoint=*/seed % 3 == 0);
  if (problem.empty() && !closed.ok()) problem = "close: " + closed.ToString();
  if (problem.empty()) problem = co_await Audit(*reactor, setup.store.data_dir);
  co_return problem;
}

struct Outcome {
  std::optional<std::string> problem;  // nullopt: the machine stopped first
  SimDisk disk;
  uint64_t ops = 0;
};

Outcome BootOn(const SimDisk& image, uint64_t seed, int steps, uint64_t crash_at, uint64_t crash_seed,
               History* history) {
  SimKernel kernel(seed, DiskOf(seed));
  SimMachine* machine = kernel.AddMachine();
  machine->disk() = image;
  machine->SetClockSkewMs(history->elapsed_ms);
  if (crash_at > 0) machine->CrashAtDiskOp(crash_at);
  Outcome outcome;
  const Nanos booted_ns = kernel.now_ns();
  SimReactor* reactor = machine->Boot();
  outcome.problem = kernel.RunTask(*reactor, Live(reactor, seed, steps, history));
  outcome.ops = machine->disk_ops();
  history->elapsed_ms += (kernel.now_ns() - booted_ns) / kMillisecond + 1;
  if (crash_seed % 3 == 2) {
    machine->ProcessCrash(crash_seed);
  } else {
    machine->PowerLoss(crash_seed);
  }
  outcome.disk = machine->disk();
  return outcome;
}

struct CrashCase {
  uint64_t seed = 0;
  int steps = 0;
  uint64_t op = 0;
  uint64_t crash_seed = 0;
  bool in_recovery = false;  // also crash at every operation of the recovery
};

std::unique_ptr<History> NewHistory(uint64_t seed) {
  auto history = std::make_unique<History>();
  history->expiring = seed % 4 == 0;
  history->late_gates = seed % 4 >= 2;
  history->shuts_down = seed % 2 == 1;
  return history;
}

std::string RunCase(const CrashCase& c) {
  // Abandoned coroutines of the crashed process still refer to it, so it is never freed.
  History* history = NewHistory(c.seed).release();
  Outcome crashed = BootOn(SimDisk(), c.seed, c.steps, c.op, c.crash_seed, history);
  if (crashed.problem) return *crashed.problem;  // the workload ended before operation `op`
  if (!history->problem.empty()) return "before the crash: " + history->problem;
  const std::vector<GateMemory> gates = history->gates;

  // Recover, continue to work, lose power after everything is closed, and recover again.
  Outcome whole = BootOn(crashed.disk, c.seed, 2, 0, c.crash_seed * 3, history);
  if (!whole.problem->empty()) return "recovery: " + *whole.problem;
  Outcome again = BootOn(whole.disk, c.seed, 0, 0, 0, history);
  if (!again.problem->empty()) return "second recovery: " + *again.problem;
  if (!c.in_recovery) return "";

  for (uint64_t op = 1;; ++op) {
    History* recovery = NewHistory(c.seed).release();
    recovery->gates = gates;
    Outcome stopped = BootOn(crashed.disk, c.seed, 0, op, c.crash_seed + op, recovery);
    if (stopped.problem && op > 1) return "";
    // The history above continued after the crash, so it has batches that this disk never saw.
    // Repeat the run to get the history up to the crash.
    History* until_crash = NewHistory(c.seed).release();
    Outcome repeat = BootOn(SimDisk(), c.seed, c.steps, c.op, c.crash_seed, until_crash);
    until_crash->gates = recovery->gates;
    Outcome after = BootOn(stopped.disk, c.seed, 0, 0, 0, until_crash);
    if (!after.problem->empty())
      return fmt::format("after a crash at operation {} of the recovery: {}", op, *after.problem);
  }
}

class EngineCrashTest : public testing::Test {
 protected:
  // Crashes the workload of `seed` at every `stride`-th operation, in `ways` different ways.
  void CrashEverywhere(uint64_t seed, int steps, uint64_t ways, uint64_t stride, bool in_recovery) {
    std::unique_ptr<History> calm_history = NewHistory(seed);
    Outcome calm = BootOn(SimDisk(), seed, steps, 0, 0, calm_history.get());
    ASSERT_EQ(*calm.problem, "") << "seed " << seed << ", without a crash";
    const uint64_t only_op = Environment("PANDO_TEST_CRASH_OP", 0);
    const uint64_t cases = calm.ops / stride * ways;
    const std::string failure = InBatches(cases, kCasesPerChild, 2, [&](uint64_t first, uint64_t last) {
      for (uint64_t i = first; i < last; ++i) {
        CrashCase c{seed, steps, 1 + i / ways * stride, seed * 100 + i % ways, in_recovery};
        if (only_op != 0 && c.op != only_op) continue;
        std::string wrong = RunCase(c);
        if (wrong.empty()) continue;
        const auto* test = testing::UnitTest::GetInstance()->current_test_info();
        fprintf(
            stderr,
            "crash at operation %lu of %lu, crash seed %lu: %s\nreplay: PANDO_TEST_SEED=%lu PANDO_TEST_CRASH_OP=%lu "
            "bin/crash_engine_crash --gtest_filter=EngineCrashTest.%s\n",
            c.op, calm.ops, c.crash_seed, wrong.c_str(), seed, c.op, test->name());
        return false;
      }
      return true;
    });
    ASSERT_EQ(failure, "") << "seed " << seed;
  }
};

// C4: the page audit finds each block owned exactly once, wherever the crash was.
// D3: the superblock that a crash leaves refers to nothing that was not flushed.
// E1: the records are compared as soon as the engine is open, so recovery has ended by then.
// E3: after Close, even a power loss takes nothing away.
// P1: the results and the LSN are those of each recovered operation applied once, in order.
// P2: a batch is found as a whole or not at all.
// P3: every write that was acknowledged before the crash is found.
TEST_F(EngineCrashTest, EveryOperation) {
  if (const uint64_t only = Environment("PANDO_TEST_SEED", 0); only != 0) return CrashEverywhere(only, 14, 3, 1, false);
  for (uint64_t seed = 1; seed <= 4 && !HasFailure(); ++seed) CrashEverywhere(seed, 14, 3, 1, false);
  std::random_device device;
  for (uint64_t round = Environment("PANDO_TEST_ROUNDS", 0) / 100; round > 0 && !HasFailure(); --round) {
    CrashEverywhere(1 + device() % 1'000'000, 14, 3, 1, false);
  }
}

TEST_F(EngineCrashTest, EveryOperationOfTheRecovery) {
  if (const uint64_t only = Environment("PANDO_TEST_SEED", 0); only != 0) return CrashEverywhere(only, 10, 1, 1, true);
  for (uint64_t seed = 5; seed <= 7 && !HasFailure(); ++seed) CrashEverywhere(seed, 10, 1, 13, true);
  // Operation 32: the process crashes between renaming store.meta and making that durable, and then
  // the machine loses power.
  CrashEverywhere(11, 10, 1, 31, true);
  std::random_device device;
  for (uint64_t round = Environment("PANDO_TEST_ROUNDS", 0) / 1000; round > 0 && !HasFailure(); --round) {
    CrashEverywhere(1 + device() % 1'000'000, 10, 1, 1, true);
  }
}

}  // namespace
}  // namespace pando::engine_test
