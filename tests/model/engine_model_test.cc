// Model test of the engine: compares it with a std::map. Several writers work concurrently on
// disjoint key ranges of the same partitions. Small pools force eviction and early write-back, disk
// latencies are random, checkpoints and snapshots run meanwhile, and the engine restarts between
// phases. In half of the runs the writes are committed late, sometimes not for seconds, some are
// superseded, and tails are appended again meanwhile. After each phase the test compares everything,
// and audits the memory and the disk.
//
// A run that fails prints the command that replays it. PANDO_SEED is the only seed to run;
// PANDO_TEST_ROUNDS is the number of seeds, if that is more than kRuns; PANDO_STEPS is the number of
// operations of each writer in each round.
#include <gtest/gtest.h>

#include <cstdlib>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/late_gate.h"
#include "tests/support/partition_model.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/tree_audit.h"

namespace pando::engine_test {
namespace {

constexpr uint64_t kRuns = 24;
constexpr Nanos kIdleWithinNs = 10 * kSecond;
constexpr int kPhases = 6;
constexpr int64_t kHeldMs = 24 * 3'600'000;  // longer than a phase takes
constexpr Nanos kStuckNs = 600 * kSecond;
constexpr Nanos kStalledSleep = 500 * kMillisecond;  // of tasks that repeat until the writers are done
// No operation takes this long, so the test always knows whether a record has expired.
constexpr int64_t kTtlMarginMs = 20'000;

uint64_t Environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// The options that a seed selects.
struct Shape {
  Setup setup;
  SimOptions disk;
  int writers = 0;
  int steps = 0;
  size_t keys = 0;  // for each writer and partition
  int key_style = 0;
  size_t max_value = 0;
  // The gates of the partitions commit late, and begin epochs that supersede writes.
  bool late_gates = false;
};

Shape ShapeOf(uint64_t seed) {
  SimRandom random(seed);
  Shape s;
  s.setup.store.page_bytes = 4096u << random.Below(3);
  s.setup.store.partitions = 1u << random.Below(3);
  s.setup.engine.compression = static_cast<Compression>(random.Below(3));
  const uint64_t least =
      Engine::MinMemoryBytes(s.setup.store.page_bytes, s.setup.store.partitions, s.setup.store.partitions);
  s.setup.engine.memory_bytes = least + 4096 + random.Below(3) * least;
  s.setup.engine.log_segment_bytes = 4u << 20;
  s.setup.engine.log_budget_bytes = random.Chance(0.5) ? 12u << 20 : 64u << 20;
  s.setup.engine.checkpoint_interval_ns = random.Between(50, 5000) * kMillisecond;
  s.disk.disk_max_ns = random.Chance(0.3) ? 5 * kMillisecond : 200 * kMicrosecond;
  s.disk.short_transfer_probability = random.Chance(0.3) ? 0.1 : 0;
  s.writers = 1 + static_cast<int>(random.Below(6));
  s.steps = static_cast<int>(Environment("PANDO_STEPS", 150));
  s.keys = 20 + random.Below(1500);
  s.key_style = static_cast<int>(random.Below(4));
  s.late_gates = random.Chance(0.5);
  s.max_value = random.Chance(0.3) ? 1u << 20 : random.Chance(0.5) ? 40'000 : 800;
  return s;
}

// The keys of one writer in one partition, and their expected contents.
struct Region {
  Partition* partition = nullptr;
  uint32_t partition_id = 0;
  std::string first, end;  // all keys lie in [first, end)
  PartitionModel model;
};

struct Run {
  uint64_t seed = 0;
  Shape shape;
  SimMachine* machine = nullptr;
  Reactor* reactor = nullptr;
  Engine* engine = nullptr;
  std::vector<std::vector<Region>> writers;
  std::string problem;
  int writing = 0;
  uint64_t progress = 0;  // number of operations that have finished
  uint64_t refused = 0, superseded = 0;
  std::vector<GateMemory> gates;  // by partition

  void Fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
  }
  bool failed() const { return !problem.empty(); }
};

class Writer {
 public:
  Writer(Run* run, std::vector<Region>* regions, uint64_t seed)
      : run_(run),
        shape_(run->shape),
        regions_(*regions),
        random_(seed),
        max_key_(MaxKeyBytes(shape_.setup.store.page_bytes)) {}

  Task<void> Work() {
    for (int i = 0; i < shape_.steps && !run_->failed(); ++i) {
      run_->engine->CheckInvariants();
      region_ = &regions_[random_.Below(regions_.size())];
      const uint64_t choice = random_.Below(100);
      if (choice < 45)
        co_await RandomBatch();
      else if (choice < 62)
        co_await GetOne();
      else if (choice < 72)
        GetTogether();
      else if (choice < 82)
        co_await ScanSome();
      else if (choice < 88)
        co_await CountSome();
      else if (choice < 94)
        co_await RemoveRange();
      else
        co_await Sleep(*run_->reactor, random_.Between(1, 30) * kMillisecond);
      ++run_->progress;
    }
  }

  // Scans each region as a whole, in a random direction.
  Task<void> CompareAll() {
    for (size_t i = 0; i < regions_.size() && !run_->failed(); ++i) {
      region_ = &regions_[i];
      ScanSpec spec;
      spec.reverse = random_.Chance(0.5);
      spec.start = region_->first;
      spec.end = region_->end;
      co_await CompareScan(spec, region_->model);
    }
  }

  // Does the same in a snapshot, and some single reads and sums. `models` are the models of the
  // regions at the moment of the snapshot.
  Task<void> CompareSnapshot(SnapshotInfo snapshot, const std::vector<PartitionModel>& models) {
    const int64_t now_ms = VersionMs(snapshot.version);
    for (size_t i = 0; i < regions_.size() && !run_->failed(); ++i) {
      region_ = &regions_[i];
      ScanSpec spec;
      spec.snapshot = snapshot.id;
      spec.reverse = random_.Chance(0.5);
      spec.start = region_->first;
      spec.end = region_->end;
      if (random_.Chance(0.5)) spec.max_rows = 1 + random_.Below(50);
      co_await CompareScan(spec, models[i], now_ms);
      for (int reads = 0; reads < 3 && !run_->failed(); ++reads) {
        const std::string key = RandomKey();
        Result<ReadResult> got = co_await region_->partition->Get(key, snapshot.id, nullptr);
        if (!got.ok()) co_return Fail("a get in a snapshot failed", got.status().ToString());
        const ReadResult want = models[i].Read(key, now_ms);
        if (got->found != want.found || got->value != want.value || got->version != want.version) {
          co_return Fail("get in a snapshot", "another value or version");
        }
      }
      const std::string start = RandomKey(), end = RandomKey();
      Result<RangeAggregates> sum = co_await region_->partition->Aggregate(start, end, snapshot.id);
      if (!sum.ok()) co_return Fail("an aggregate of a snapshot failed", sum.status().ToString());
      const RangeAggregates want = start < end ? models[i].Aggregate(start, end, now_ms) : RangeAggregates();
      if (*sum != want) Fail("snapshot aggregate", fmt::format("{} where {} were expected", Text(*sum), Text(want)));
    }
  }

 private:
  void Fail(std::string_view what, const std::string& detail) {
    run_->Fail(fmt::format("{} in partition {}, region '{}': {}", what, region_->partition_id, region_->first, detail));
  }
  int64_t WallMs() const { return run_->reactor->WallMs(); }

  std::string KeyOf(uint64_t n) const {
    std::string key = region_->first;
    SimRandom bytes(n * 977 + 5);
    switch (shape_.key_style) {
      case 0: return key + fmt::format("{:08}", n);
      case 1:  // few bytes from a small alphabet: many keys are prefixes of others
        for (uint64_t left = bytes.Below(10); left > 0; --left) key.push_back("\0\x01\xff\x61"[bytes.Below(4)]);
        return key;
      case 2: {  // a long common prefix, up to the longest key
        key.append(max_key_ - 40, 'p');
        key += fmt::format("{:04}", n);
        key.append(bytes.Below(max_key_ - key.size() + 1), '\0');
        return key;
      }
      default: {  // groups of three that share a long random prefix, so that separators are long
        SimRandom group(n / 3);
        for (size_t left = std::min<size_t>(max_key_ - 2, 40 + group.Below(max_key_)); key.size() < left;) {
          key.push_back(static_cast<char>(group.Next()));
        }
        key.push_back(static_cast<char>('a' + n % 3));
        return key;
      }
    }
  }
  std::string RandomKey() { return KeyOf(random_.Below(shape_.keys)); }

  std::string RandomValue() {
    size_t bytes = random_.Below(120);
    const uint64_t choice = random_.Below(100);
    if (choice >= 70) bytes = random_.Below(shape_.setup.store.page_bytes / 3);
    if (choice >= 92) bytes = random_.Below(5 * shape_.setup.store.page_bytes);
    if (choice >= 98) bytes = random_.Below(shape_.max_value + 1);
    std::string value(std::min(bytes, shape_.max_value), '\0');
    const char* letters = random_.Chance(0.5) ? "ab" : nullptr;  // half of the values compress
    for (char& c : value) c = letters ? letters[random_.Below(2)] : static_cast<char>(random_.Next());
    return value;
  }

  // Some conditions hold and some do not. (The wrong version is one that no operation of the same
  // batch can get.)
  Condition RandomCondition(const std::string& key) {
    const ReadResult now = region_->model.Read(key, WallMs());
    Condition condition;
    const uint64_t which = random_.Below(3);
    if (which == 0) condition.exists = random_.Chance(0.7) == now.found;
    if (which == 1) condition.version = random_.Chance(0.7) ? now.version : now.version + (Version{1} << 50);
    if (which == 2) condition.value = random_.Chance(0.7) ? now.value : now.value + "x";
    return condition;
  }

  void RandomTtl(WriteOp* op) {
    op->ttl_mode = random_.Chance(0.8) ? TtlMode::kSet : TtlMode::kClear;
    if (op->ttl_mode == TtlMode::kClear) return;
    const int64_t ttl_ms = random_.Between(kTtlMarginMs, 4 * kTtlMarginMs);
    if (random_.Chance(0.5)) {
      op->ttl_ms = ttl_ms;
    } else {
      op->expires_at_ms = WallMs() + (random_.Chance(0.1) ? -ttl_ms : ttl_ms);
    }
  }

  WriteOp RandomOp() {
    WriteOp op;
    op.key = RandomKey();
    const uint64_t kind = random_.Below(12);
    if (kind < 6) op.value = random_.Chance(0.1) ? std::to_string(random_.Between(-50, 50)) : RandomValue();
    if (kind >= 6) op.op = kind < 8 ? RecordOp::kRemove : kind < 10 ? RecordOp::kIncrement : RecordOp::kTouch;
    op.delta = random_.Chance(0.05) ? INT64_MAX : random_.Between(-5, 5);
    if (op.op == RecordOp::kTouch || (op.op != RecordOp::kRemove && random_.Chance(0.15))) RandomTtl(&op);
    if (random_.Chance(0.2)) op.condition = RandomCondition(op.key);
    op.return_previous = random_.Chance(0.15);
    return op;
  }

  WriteOp RandomCheck() {
    WriteOp op;
    op.op = RecordOp::kCheck;
    op.key = RandomKey();
    op.condition = RandomCondition(op.key);
    return op;
  }

  Task<void> RandomBatch() {
    std::vector<WriteOp> ops(random_.Chance(0.6) ? 1 : 1 + random_.Below(random_.Chance(0.1) ? 60 : 8));
    for (WriteOp& op : ops) op = RandomOp();
    if (ops.size() > 1 && random_.Chance(0.3)) {
      // Several operations on each of a few keys: the results of later ones depend on the earlier
      // ones.
      for (size_t i = 1; i < ops.size(); ++i) {
        if (random_.Chance(0.6)) ops[i].key = ops[random_.Below(i)].key;
        if (random_.Chance(0.3)) ops[i].condition = RandomCondition(ops[i].key);
      }
    }
    WriteOptions options;
    options.all_or_nothing = random_.Chance(0.4);
    if (random_.Chance(0.2)) {
      std::vector<WriteOp> checks(1 + random_.Below(3));
      for (WriteOp& op : checks) op = RandomCheck();
      ops.insert(ops.begin(), checks.begin(), checks.end());
    }
    co_await WriteAndCompare(std::move(ops), options);
  }

  // Waits until no record of the range can expire during the next operation.
  Task<void> AwaitNoExpiry(const std::string& start, const std::string& end) {
    while (region_->model.ExpiresWithin(start, end, WallMs() - 1, WallMs() + kTtlMarginMs / 2)) {
      co_await Sleep(*run_->reactor, kTtlMarginMs / 2 * kMillisecond);
    }
  }

  // A single operation is written in either of the two ways that an engine has.
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) {
    const bool single = ops.size() == 1 && !options.all_or_nothing && ops[0].op != RecordOp::kCheck;
    if (single && random_.Chance(0.5)) return WritePoint(run_->engine, region_->partition, std::move(ops[0]));
    return region_->partition->Write(std::move(ops), options);
  }

  Task<void> WriteAndCompare(std::vector<WriteOp> ops, WriteOptions options) {
    for (const WriteOp& op : ops) co_await AwaitNoExpiry(op.key, op.key + '\0');
    const int64_t now_ms = WallMs();
    Result<std::vector<OpResult>> results = co_await Write(ops, options);
    if (!results.ok()) {
      // The only refusal that is always allowed: the write needs more pages at once than this small pool
      // has.
      // A superseded one has left no trace: no process of this test crashes. While nothing is
      // committed, the tail may reach its limit (WQ2).
      if (results.code() == Code::kInvalidArgument || (shape_.late_gates && results.code() == Code::kOverloaded))
        ++run_->refused;
      else if (shape_.late_gates && results.code() == Code::kAborted)
        ++run_->superseded;
      else
        Fail("a write failed", results.status().ToString());
      co_return;
    }
    if (results->size() != ops.size()) co_return Fail("a write", "the number of results is not that of the operations");
    Version& last = last_version_[region_->partition_id];
    std::vector<Version> versions;
    for (const OpResult& got : *results) {
      const bool applied = got.outcome == OpOutcome::kApplied;
      if (applied && got.version <= last) Fail("P5", "versions are not ascending");
      if (applied) last = got.version;
      // An operation that got no version: use the current time with a version that no record has,
      // so that no condition holds by accident.
      versions.push_back(applied ? got.version : VersionAtMs(now_ms) + 0xffff - versions.size());
    }
    const std::vector<OpResult> want = region_->model.ApplyWrite(ops, options, versions);
    for (size_t i = 0; i < ops.size(); ++i) {
      std::string difference = Difference(want[i], (*results)[i]);
      if (!difference.empty()) Fail(fmt::format("operation {} of {}", i, ops.size()), difference);
    }
  }

  Task<void> GetOne() {
    const std::string key = random_.Chance(0.9) ? RandomKey() : region_->first + "no such key";
    co_await AwaitNoExpiry(key, key + '\0');
    Result<ReadResult> got = co_await region_->partition->Get(key, kNewest, nullptr);
    if (!got.ok()) co_return Fail("a read failed", got.status().ToString());
    std::string difference = Difference(region_->model.Read(key, WallMs()), *got);
    if (!difference.empty()) Fail("get", difference);
  }

  void GetTogether() {
    const size_t n = 1 + random_.Below(40);
    const bool copy = random_.Chance(0.5);
    std::vector<std::string> keys, values(n);
    for (size_t i = 0; i < n; ++i) keys.push_back(RandomKey());
    std::vector<PointRead> reads(n);
    for (size_t i = 0; i < n; ++i) {
      reads[i].partition = region_->partition;
      reads[i].key = keys[i];
      if (copy) reads[i].value = &values[i];
    }
    run_->engine->BatchGet(reads);
    for (size_t i = 0; i < n; ++i) {
      const ReadResult want = region_->model.Read(keys[i], WallMs());
      const PointRead& got = reads[i];
      if (got.outcome == PointRead::Outcome::kMiss) continue;
      if ((got.outcome == PointRead::Outcome::kFound) != want.found) return Fail("batched get", "found differs");
      if (!want.found) continue;
      if ((copy ? std::string_view(values[i]) : got.in_place) != want.value || got.version != want.version ||
          got.expires_at_ms != want.expires_at_ms) {
        return Fail("batched get", "another value or version");
      }
    }
  }

  // Compares the changes from one snapshot to another, or to now; no writer runs meanwhile.
 public:
  Task<void> CompareChanges(const SnapshotInfo& since, const std::vector<PartitionModel>& older,
                            const SnapshotInfo* snapshot, const std::vector<PartitionModel>* newer) {
    for (size_t i = 0; i < regions_.size() && !run_->failed(); ++i) {
      region_ = &regions_[i];
      ScanSpec spec;
      spec.since = since.id;
      spec.snapshot = snapshot ? snapshot->id : 0;
      spec.start = region_->first;
      spec.end = region_->end;
      if (random_.Chance(0.5)) spec.max_rows = 1 + random_.Below(50);
      if (random_.Chance(0.5)) spec.max_bytes = 1 + random_.Below(50'000);
      const PartitionModel& now = newer ? (*newer)[i] : region_->model;
      const int64_t from_ms = WallMs();
      std::map<std::string, HeldRow> got;
      for (bool over = false; !over;) {
        Result<ScanPage> page = co_await region_->partition->Scan(spec);
        if (!page.ok()) co_return Fail("a scan of changes failed", page.status().ToString());
        for (const ScanRow& row : page->rows) {
          if (!got.empty() && row.key <= got.rbegin()->first) co_return Fail("changes", "not in key order");
          got[std::string(row.key)] = {std::string(row.value), row.version, row.expires_at_ms, row.removed};
        }
        over = page->exhausted;
        if (!over) spec.start = page->rows.back().key;
        spec.start_exclusive = true;
      }
      if (!snapshot && now.ExpiresWithin(region_->first, region_->end, from_ms - 1, WallMs())) continue;
      const int64_t now_ms = snapshot ? VersionMs(snapshot->version) : WallMs();
      const std::string difference = older[i].Changes(now, now_ms, got);
      if (!difference.empty()) co_return Fail("changes", difference);
    }
  }

 private:
  // Scans the whole range page by page, as a client does.
  Task<void> CompareScan(ScanSpec spec, const PartitionModel& model, std::optional<int64_t> snapshot_ms = {}) {
    for (bool over = false; !over && !run_->failed();) {
      const int64_t from_ms = WallMs();
      Result<ScanPage> got = co_await region_->partition->Scan(spec);
      if (!got.ok()) co_return Fail("a scan failed", got.status().ToString());
      if (!snapshot_ms && model.ExpiresWithin(region_->first, region_->end, from_ms - 1, WallMs())) co_return;
      const ScanPage want = model.Scan(spec, snapshot_ms.value_or(WallMs()));
      std::string difference = Difference(want, *got);
      if (!difference.empty()) co_return Fail(spec.reverse ? "reverse scan" : "scan", difference);
      if (want.exhausted != got->exhausted) co_return Fail("scan", "exhausted differs");
      over = got->exhausted || got->rows.empty();
      if (over) co_return;
      if (spec.reverse) {
        spec.end = got->rows.back().key;
        spec.end_inclusive = false;
      } else {
        spec.start = got->rows.back().key;
        spec.start_exclusive = true;
      }
    }
  }

  Task<void> ScanSome() {
    ScanSpec spec;
    spec.start = random_.Chance(0.3) ? region_->first : RandomKey();
    spec.end = random_.Chance(0.3) ? region_->end : RandomKey();
    spec.start_exclusive = random_.Chance(0.3);
    spec.end_inclusive = spec.end != region_->end && random_.Chance(0.3);
    spec.reverse = random_.Chance(0.5);
    spec.keys_only = random_.Chance(0.2);
    if (random_.Chance(0.7)) spec.max_rows = 1 + random_.Below(50);
    if (random_.Chance(0.3)) spec.max_bytes = 1 + random_.Below(5000);
    co_await CompareScan(spec, region_->model);
  }

  Task<void> CountSome() {
    const std::string start = random_.Chance(0.4) ? region_->first : RandomKey();
    const std::string end = random_.Chance(0.4) ? region_->end : RandomKey();
    const int64_t from_ms = WallMs();
    Result<RangeAggregates> got = co_await region_->partition->Aggregate(start, end, kNewest);
    if (!got.ok()) co_return Fail("an aggregate failed", got.status().ToString());
    if (region_->model.ExpiresWithin(region_->first, region_->end, from_ms - 1, WallMs())) co_return;
    const RangeAggregates want = start < end ? region_->model.Aggregate(start, end, WallMs()) : RangeAggregates();
    if (*got != want) Fail("aggregate", fmt::format("{} where {} were expected", Text(*got), Text(want)));
  }

  Task<void> RemoveRange() {
    std::string at = RandomKey();
    for (size_t left = random_.Below(80); left > 0 && !run_->failed();) {
      std::vector<WriteOp> ops;
      const auto& records = region_->model.records();
      for (auto it = records.lower_bound(at); it != records.end() && ops.size() < std::min<size_t>(left, 16); ++it) {
        ops.push_back(RemoveOp(it->first));
      }
      if (ops.empty()) co_return;
      left -= ops.size();
      at = ops.back().key;
      co_await WriteAndCompare(std::move(ops), WriteOptions());
    }
  }

  Run* run_;
  const Shape& shape_;
  std::vector<Region>& regions_;
  SimRandom random_;
  const size_t max_key_;
  Region* region_ = nullptr;
  std::map<uint32_t, Version> last_version_;
};

Task<void> WriterTask(Run* run, int index, uint64_t seed) {
  {
    Writer writer(run, &run->writers[index], seed);
    co_await writer.Work();
  }
  --run->writing;
}

std::vector<Tree*> TreesOf(Engine* engine) {
  std::vector<Tree*> trees;
  for (Partition* p : engine->partitions()) trees.push_back(&static_cast<Replica*>(p)->tree());
  return trees;
}

std::vector<Partition*> PartitionsOf(Run* run) {
  return {run->engine->partitions().begin(), run->engine->partitions().end()};
}

// Opens a snapshot, whatever the gates do.
Task<Result<SnapshotInfo>> Cut(Run* run, int64_t held_ms) {
  for (;;) {
    Result<SnapshotInfo> cut = co_await CutSnapshot(*run->reactor, PartitionsOf(run), run->reactor->WallMs() + held_ms);
    if (!run->shape.late_gates || cut.code() != Code::kUnavailable || run->failed()) co_return cut;
  }
}

// Takes checkpoints and short snapshots and audits the memory while the writers work.
Task<void> Disturb(Run* run, uint64_t seed) {
  SimRandom random(seed);
  uint64_t progress = run->progress;
  Nanos progress_ns = run->reactor->NowNs();
  while (run->writing > 0 && !run->failed()) {
    const bool stalled = std::exchange(progress, run->progress) == run->progress;
    if (!stalled) progress_ns = run->reactor->NowNs();
    if (run->reactor->NowNs() - progress_ns > kStuckNs) {
      run->Fail("stuck: no operation has finished for 600 s; " + DescribePool(TreesOf(run->engine)[0]->pool()));
      // End the run with the machine's next disk operation, which is the sync below.
      run->machine->CrashAtDiskOp(run->machine->disk_ops() + 1);
      Status ignored = co_await SyncDirectory(*run->reactor, run->shape.setup.store.data_dir);
    }
    if (random.Chance(0.1)) {
      Partition* p = run->engine->partitions()[random.Below(run->engine->partitions().size())];
      Status status = co_await p->Checkpoint();
      if (!status.ok()) run->Fail("a checkpoint failed: " + status.ToString());
    }
    if (random.Chance(0.1)) {
      Partition* p = run->engine->partitions()[random.Below(run->engine->partitions().size())];
      static_cast<Replica*>(p)->AppendTailAgain();
    }
    if (random.Chance(0.05)) {
      Result<SnapshotInfo> cut = co_await Cut(run, /*held_ms=*/1);
      if (!cut.ok()) run->Fail("a snapshot under load failed: " + cut.status().ToString());
    }
    if (random.Chance(0.3)) {
      std::string problem = MemoryAudit(TreesOf(run->engine), /*idle=*/false).Run();
      if (!problem.empty()) run->Fail("in memory: " + problem);
    }
    co_await Sleep(*run->reactor, stalled ? kStalledSleep : random.Between(1, 20) * kMillisecond);
  }
}

Task<void> CompareEverything(Run* run) {
  for (size_t w = 0; w < run->writers.size(); ++w) {
    Writer writer(run, &run->writers[w], w);
    co_await writer.CompareAll();
  }
}

// While nothing else runs: compares aggregates, takes a checkpoint, audits the memory, and audits
// the files block by block.
Task<void> AuditIdle(Run* run) {
  for (Partition* p : run->engine->partitions()) {
    RangeAggregates want;
    const int64_t now_ms = run->reactor->WallMs();
    for (auto& regions : run->writers) {
      for (Region& r : regions) want.Add(r.partition == p ? r.model.Aggregate("", "", now_ms) : RangeAggregates());
    }
    Result<RangeAggregates> got = co_await p->Aggregate("", "", kNewest);
    bool sure = run->reactor->WallMs() == now_ms;
    if (!got.ok())
      run->Fail("an aggregate failed: " + got.status().ToString());
    else if (sure && *got != want)
      run->Fail(fmt::format("partition {} holds {}, not {}", p->id(), Text(*got), Text(want)));
  }
  // What a late gate commits now would be checkpointed while the files are audited.
  for (Partition* p : run->engine->partitions()) {
    while (p->stats().applied_lsn < p->stats().last_lsn) co_await Sleep(*run->reactor, kMillisecond);
  }
  Status status = co_await run->engine->CheckpointAll();
  if (!status.ok()) run->Fail("a checkpoint failed: " + status.ToString());
  // The engine goes on by itself: it sweeps expired records and merges emptied leaves. Its pins are
  // gone soon. What is never released still shows.
  std::string problem;
  const Nanos idle_by_ns = run->reactor->NowNs() + kIdleWithinNs;
  do {
    co_await Sleep(*run->reactor, 100 * kMillisecond);
    problem = MemoryAudit(TreesOf(run->engine), /*idle=*/true).Run();
  } while (!problem.empty() && run->reactor->NowNs() < idle_by_ns);
  if (!problem.empty()) run->Fail("in memory, idle: " + problem);
  // The audit reads the files one after the other. A checkpoint in between, of records that were
  // swept, would make them contradict each other; it then looks again.
  Result<CheckReport> report = co_await CheckStore(*run->reactor, run->shape.setup.store.data_dir);
  for (uint64_t before = 0;
       report.ok() && !report->problems.empty() && before != run->engine->stats().checkpoints_total;) {
    before = run->engine->stats().checkpoints_total;
    report = co_await CheckStore(*run->reactor, run->shape.setup.store.data_dir);
  }
  if (!report.ok()) co_return run->Fail("the page audit failed: " + report.status().ToString());
  for (const CheckProblem& p : report->problems) {
    run->Fail(fmt::format("page audit: {} at {}: {}", p.file, p.offset_bytes, p.what));
  }
}

// A snapshot, and the expected contents at its moment, by writer and region.
struct Held {
  SnapshotInfo snapshot;
  std::vector<std::vector<PartitionModel>> models;
};

// Takes a snapshot; no writer runs meanwhile.
Task<void> Hold(Run* run, std::vector<Held>* held) {
  Result<SnapshotInfo> cut = co_await Cut(run, kHeldMs);
  if (!cut.ok()) co_return run->Fail("a snapshot failed: " + cut.status().ToString());
  Held& h = held->emplace_back();
  h.snapshot = *cut;
  for (const auto& regions : run->writers) {
    std::vector<PartitionModel>& models = h.models.emplace_back();
    for (const Region& r : regions) models.push_back(r.model);
  }
}

Task<void> CompareHeld(Run* run, const Held* held, uint64_t seed) {
  for (size_t w = 0; w < run->writers.size(); ++w) {
    Writer writer(run, &run->writers[w], seed + w);
    co_await writer.CompareSnapshot(held->snapshot, held->models[w]);
  }
}

// Compares the changes from each snapshot to the last one, and from the last one to now.
Task<void> CompareChanges(Run* run, const std::vector<Held>* held, uint64_t seed) {
  for (size_t w = 0; w < run->writers.size(); ++w) {
    Writer writer(run, &run->writers[w], seed + w);
    for (size_t i = 0; i < held->size(); ++i) {
      const Held& since = (*held)[i];
      const Held* next = i + 1 < held->size() ? &held->back() : nullptr;
      co_await writer.CompareChanges(since.snapshot, since.models[w], next ? &next->snapshot : nullptr,
                                     next ? &next->models[w] : nullptr);
    }
  }
}

// Checks that snapshots read the same while the writers change everything.
Task<void> ReadHeld(Run* run, const std::vector<Held>* held, uint64_t seed) {
  while (run->writing > 0 && !run->failed()) {
    const uint64_t progress = run->progress;
    for (const Held& h : *held) co_await CompareHeld(run, &h, ++seed);
    co_await Sleep(*run->reactor, 5 * kMillisecond);
    if (run->progress == progress) co_await Sleep(*run->reactor, kStalledSleep);
  }
}

Task<void> LetGo(Run* run, std::vector<Held>* held, size_t index) {
  const SnapshotId id = (*held)[index].snapshot.id;
  held->erase(held->begin() + static_cast<ptrdiff_t>(index));
  Status status = co_await ReleaseSnapshot(PartitionsOf(run), id);
  if (!status.ok()) run->Fail("a snapshot could not be released: " + status.ToString());
  ScanSpec spec;
  spec.snapshot = id;
  Result<ScanPage> page = co_await run->engine->partitions()[0]->Scan(spec);
  if (page.code() != Code::kSnapshotGone) run->Fail("a scan of a released snapshot did not fail with kSnapshotGone");
}

Task<void> Phase(Reactor* reactor, Run* run, int phase) {
  SimRandom random(run->seed * 100 + phase);
  run->reactor = reactor;
  Setup setup = run->shape.setup;
  if (run->shape.late_gates) {
    setup.engine.make_gate = [run, phase](uint32_t p) -> std::unique_ptr<CommitGate> {
      return std::make_unique<LateGate>(*run->reactor, &run->gates[p], run->seed * 1000 + phase * 100 + p,
                                        LateGate::Options());
    };
  }
  auto opened = co_await OpenEngine(*reactor, setup);
  if (!opened.ok()) co_return run->Fail("open failed: " + opened.status().ToString());
  std::unique_ptr<Engine> engine = *std::move(opened);
  run->engine = engine.get();
  for (auto& regions : run->writers) {
    for (Region& r : regions) r.partition = engine->partition(r.partition_id);
  }
  co_await CompareEverything(run);
  std::vector<Held> held;
  for (int round = 0; round < 3 && !run->failed(); ++round) {
    TaskGroup tasks;
    run->writing = static_cast<int>(run->writers.size());
    for (size_t w = 0; w < run->writers.size(); ++w) tasks.Spawn(WriterTask(run, static_cast<int>(w), random.Next()));
    tasks.Spawn(Disturb(run, random.Next()));
    if (!held.empty()) tasks.Spawn(ReadHeld(run, &held, random.Next()));
    co_await tasks.Drain();
    if (run->failed()) break;
    co_await CompareEverything(run);
    for (const Held& h : held) co_await CompareHeld(run, &h, random.Next());
    co_await CompareChanges(run, &held, random.Next());
    if (random.Chance(0.7)) co_await AuditIdle(run);
    while (!held.empty() && random.Chance(0.5)) co_await LetGo(run, &held, random.Below(held.size()));
    while (random.Chance(0.6) && !run->failed()) co_await Hold(run, &held);
  }
  Status closed = co_await engine->Close(/*checkpoint=*/random.Chance(0.5));
  if (!closed.ok()) run->Fail("close failed: " + closed.ToString());
  std::string problem = co_await Audit(*reactor, run->shape.setup.store.data_dir);
  if (!problem.empty()) run->Fail("page audit after closing: " + problem);
}

std::string RunSeed(uint64_t seed) {
  Run run;
  run.seed = seed;
  run.shape = ShapeOf(seed);
  run.gates.resize(run.shape.setup.store.partitions);
  run.writers.resize(run.shape.writers);
  for (size_t w = 0; w < run.writers.size(); ++w) {
    for (uint32_t p = 0; p < run.shape.setup.store.partitions; ++p) {
      Region region;
      region.partition_id = p;
      region.first = std::string(1, static_cast<char>('A' + w));
      region.end = std::string(1, static_cast<char>('A' + w + 1));
      run.writers[w].push_back(region);
    }
  }
  SimKernel kernel(seed, run.shape.disk);
  SimMachine* machine = kernel.AddMachine();
  run.machine = machine;
  for (int phase = 0; phase < kPhases && !run.failed(); ++phase) {
    SimReactor* reactor = machine->Boot();
    if (!kernel.RunTask(*reactor, Phase(reactor, &run, phase))) run.Fail("the machine stopped");
    machine->ProcessCrash(seed);
  }
  return run.problem;
}

TEST(EngineModel, RandomOperations) {
  const uint64_t first = Environment("PANDO_SEED", 1);
  const uint64_t runs = std::getenv("PANDO_SEED") ? 1 : std::max(kRuns, Environment("PANDO_TEST_ROUNDS", 0));
  for (uint64_t seed = first; seed < first + runs; ++seed) {
    SCOPED_TRACE(fmt::format("replay: PANDO_SEED={} PANDO_STEPS={} bin/model_engine_model", seed,
                             Environment("PANDO_STEPS", 150)));
    std::string problem = RunSeed(seed);
    ASSERT_EQ(problem, "");
  }
}

}  // namespace
}  // namespace pando::engine_test
