// Model test of replicas: two stores hold a replica each of one partition. One of them leads and takes
// random writes of all kinds; what its log has is read from it and given to the other. Commits come late
// and in batches. Leadership changes, with tails that are kept or superseded; either store restarts or
// crashes; wall clocks jump; checkpoints and sweeps of expired records run meanwhile. The two stores are on
// machines of their own, and differ in their memory and their compression.
//
// I12: whenever both have applied the same unit, both hold the same records, expired ones and lanes too.
//
// A run that fails prints the command that replays it. PANDO_SEED is the only seed to run;
// PANDO_TEST_ROUNDS is the number of seeds.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <optional>

#include "src/partition/partition_file.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

constexpr uint64_t kRuns = 16;
constexpr int kRounds = 14;
constexpr int kWriters = 6;
constexpr Uuid kPartition{0x1234, 0x5678};
constexpr Nanos kStuckNs = 300 * kSecond;

uint64_t Environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// Does what the run says.
class RoleGate final : public CommitGate {
 public:
  explicit RoleGate(const bool* leads) : leads_(leads) {}
  Start OnRecovered(const RecoveredLog& log) override {
    recovered = log;
    return {log.epoch, log.committed_lsn};
  }
  void OnServing(GatedPartition* p) override { partition = p; }
  void OnDurable(Lsn) override {}
  void OnClosed() override { partition = nullptr; }
  Status MayWrite(WriteLevel, Epoch) override {
    return *leads_ ? Status() : Error(Code::kNotMaster, "the other one leads");
  }
  bool Leads() const override { return *leads_; }
  void OnAppended() override {
    EXPECT_TRUE(*leads_) << "CG3: a replica that follows has appended a write of its own";
    ++appended;
  }

  RecoveredLog recovered;
  GatedPartition* partition = nullptr;
  uint64_t appended = 0;

 private:
  const bool* leads_;
};

std::vector<void*>& Abandoned() {
  static auto& abandoned = *new std::vector<void*>;  // never destroyed
  return abandoned;
}

struct Store {
  Setup setup;
  SimMachine* machine = nullptr;
  Reactor* reactor = nullptr;
  std::unique_ptr<Engine> engine;
  RoleGate* gate = nullptr;
  bool leads = false;
  GatedPartition* log() const { return gate->partition; }
  Replica* replica() const { return static_cast<Replica*>(engine->partition(0)); }
};

struct World {
  uint64_t seed = 0;
  SimRandom random{0};
  Reactor* reactor = nullptr;  // of the test itself
  std::array<Store, 2> stores;
  int master = 0;
  Epoch epoch = 0;
  Lsn committed_lsn = 0;  // that both have, durably
  std::string problem;
  // While the writers run
  bool serving = false;    // the master may be used
  bool stopping = false;   // the writers end
  int generation = 0;      // of writers; those that wait for a crashed machine never end
  int writing = 0;         // of this generation
  bool feeding = false;    // Feed and CommitLater go on
  bool committing = true;  // CommitLater commits
  // What has happened.
  uint64_t crashes = 0, written = 0, units_fed = 0, superseded = 0, swept = 0, compared = 0, repeated = 0;

  Store& leader() { return stores[master]; }
  Store& follower() { return stores[1 - master]; }
  void Fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
  }
  bool failed() const { return !problem.empty(); }
};

// -- writers

class Writer {
 public:
  Writer(World* world, int index) : world_(*world), index_(index), random_(world->random.Next()) {}

  Task<void> Work() {
    const int generation = world_.generation;
    while (!world_.stopping && !world_.failed() && world_.generation == generation) {
      co_await Sleep(*world_.reactor, random_.Between(0, 3) * kMillisecond);
      if (world_.serving && world_.generation == generation) co_await WriteOne();
    }
    world_.writing -= world_.generation == generation;
  }

 private:
  std::string RandomKey() { return fmt::format("k{:04}", random_.Below(random_.Chance(0.5) ? 30 : 2000)); }
  std::string RandomValue() {
    const uint64_t choice = random_.Below(100);
    const size_t bytes = choice < 60 ? random_.Below(100) : choice < 95 ? random_.Below(2000) : random_.Below(60'000);
    return std::string(bytes, static_cast<char>('a' + random_.Below(26)));
  }
  WriteOp RandomOp() {
    WriteOp op;
    op.key = RandomKey();
    constexpr RecordOp kOps[] = {RecordOp::kPut,    RecordOp::kPut,       RecordOp::kPut,
                                 RecordOp::kRemove, RecordOp::kIncrement, RecordOp::kTouch};
    op.op = kOps[random_.Below(std::size(kOps))];
    if (op.op == RecordOp::kPut) op.value = random_.Chance(0.2) ? "7" : RandomValue();
    op.delta = random_.Between(-5, 5);
    if (op.op == RecordOp::kTouch || (op.op != RecordOp::kRemove && random_.Chance(0.3))) {
      op.ttl_mode = random_.Chance(0.8) ? TtlMode::kSet : TtlMode::kClear;
      if (op.ttl_mode == TtlMode::kSet) op.ttl_ms = random_.Between(1, 3000);
    }
    if (random_.Chance(0.2)) op.condition.exists = random_.Chance(0.7);
    if (random_.Chance(0.05)) op.condition.value = "7";
    op.return_previous = random_.Chance(0.1);
    return op;
  }
  // The name of the write in the lane of this writer; sometimes that of the one before.
  WriteOp RandomName() {
    WriteOp once;
    once.op = RecordOp::kOnce;
    once.key = kLaneKeys.Stored(fmt::format("writer {}", index_));
    sequence_ += random_.Chance(0.8);
    once.sequence = std::max<uint64_t>(sequence_, 1);
    once.first_sent_ms = world_.leader().engine->clock()->NowMs(*world_.leader().reactor);
    return once;
  }

  Task<void> WriteOne() {
    Engine* engine = world_.leader().engine.get();
    Partition* partition = engine->partition(0);
    Result<std::vector<OpResult>> results = std::vector<OpResult>();
    if (random_.Chance(0.4)) {
      results = co_await WritePoint(engine, partition, RandomOp());
    } else {
      std::vector<WriteOp> ops;
      if (random_.Chance(0.3)) ops.push_back(RandomName());
      for (uint64_t checks = random_.Chance(0.2) ? random_.Below(3) : 0; checks > 0; --checks) {
        WriteOp& check = ops.emplace_back();
        check.op = RecordOp::kCheck;
        check.key = RandomKey();
        check.condition.exists = random_.Chance(0.5);
      }
      for (uint64_t n = 1 + random_.Below(random_.Chance(0.8) ? 3 : 12); n > 0; --n) ops.push_back(RandomOp());
      WriteOptions options;
      options.all_or_nothing = random_.Chance(0.3);
      results = co_await partition->Write(std::move(ops), options);
    }
    switch (results.code()) {
      case Code::kOk: ++world_.written; break;
      case Code::kAborted: ++world_.superseded; break;
      // Nothing was written, or of a write that was sent again it is not known what came of it.
      case Code::kNotMaster:
      case Code::kOverloaded:
      case Code::kUnavailable: break;
      case Code::kInvalidArgument: ++world_.repeated; break;
      default: world_.Fail("a write failed: " + results.status().ToString());
    }
  }

  World& world_;
  const int index_;
  SimRandom random_;
  uint64_t sequence_ = 0;
};

Task<void> WriteTask(World* world, int index) {
  Writer writer(world, index);
  co_await writer.Work();
}

// -- what a shell does: feeds the follower, and commits

Task<Status> FeedSome(World* world, LiveReader* reader) {
  std::string units;
  const size_t max_bytes = 1 + world->random.Below(200'000);
  CO_ASSIGN_OR_RETURN(LiveReader::Units read, co_await reader->Read(max_bytes, &units));
  if (read.needs_bytes > 0) {
    CO_ASSIGN_OR_RETURN(read, co_await reader->Read(read.needs_bytes, &units));
  }
  GatedPartition* to = world->follower().log();
  CO_ASSIGN_OR_RETURN(const LogSpace room,
                      co_await to->WaitForRoom(units.size(), world->follower().reactor->NowNs() + kSecond));
  PayloadReader payload(units);
  while (world->feeding && payload.Next() == PayloadReader::Item::kUnit) {
    const HistoryPoint before = to->end();
    Status status;
    while (world->feeding) {
      status = to->AppendUnit(payload.unit);
      if (status.code() != Code::kOverloaded) break;
      EXPECT_EQ(to->end().lsn, before.lsn);
      co_await Sleep(*world->reactor, kMillisecond);
    }
    CO_RETURN_IF_ERROR(status);
    ++world->units_fed;
  }
  co_return Status();
}

Task<void> Feed(World* world) {
  Result<std::unique_ptr<LiveReader>> reader = world->leader().log()->OpenReader(world->follower().log()->end());
  if (!reader.ok()) co_return world->Fail("no reader: " + reader.status().ToString());
  while (world->feeding && !world->failed()) {
    const Status status = co_await FeedSome(world, reader->get());
    if (!status.ok() && status.code() != Code::kDeadline && status.code() != Code::kOverloaded) {
      world->Fail("the follower could not be fed: " + status.ToString());
    }
    world->leader().engine->CheckInvariants();
    world->follower().engine->CheckInvariants();
    co_await Sleep(*world->reactor, world->random.Between(0, 4) * kMillisecond);
  }
}

void CommitTo(GatedPartition* log, Lsn lsn) { log->Commit(std::min(lsn, log->durable().lsn)); }

// A unit is committed once both have it, durably. The follower learns that later.
Task<void> CommitLater(World* world) {
  while (world->feeding && !world->failed()) {
    co_await Sleep(*world->reactor, world->random.Between(0, 6) * kMillisecond);
    if (!world->committing) continue;
    GatedPartition* leader = world->leader().log();
    GatedPartition* follower = world->follower().log();
    const Lsn both = std::min(leader->durable().lsn, follower->durable().lsn);
    world->committed_lsn = std::max(world->committed_lsn, leader->UnitEndBefore(both));
    const std::optional<HistoryPoint> a = leader->PointAt(world->committed_lsn);
    const std::optional<HistoryPoint> b = follower->PointAt(world->committed_lsn);
    if (!a || !b || a->chain != b->chain || a->epoch != b->epoch) world->Fail("I4: the histories differ");
    CommitTo(leader, world->committed_lsn);
    if (world->random.Chance(0.5)) CommitTo(follower, world->committed_lsn);
  }
}

Task<void> Disturb(World* world) {
  while (world->feeding && !world->failed()) {
    co_await Sleep(*world->reactor, world->random.Between(1, 200) * kMillisecond);
    Store& store = world->stores[world->random.Below(2)];
    if (world->random.Chance(0.3)) {
      const Status status = co_await store.replica()->Checkpoint();
      if (!status.ok()) world->Fail("a checkpoint failed: " + status.ToString());
    } else if (world->random.Chance(0.2)) {
      store.replica()->AppendTailAgain();
    } else if (world->random.Chance(0.1)) {
      store.machine->JumpWallClock(world->random.Between(-5000, 5000));
    }
  }
}

// -- comparing

std::string TextOf(const Aggregates& a) { return fmt::format("{} records, hash {:016x}", a.count, a.content_hash); }

// Nothing is committed meanwhile, so nothing is applied once both have come so far.
Task<void> Compare(World* world) {
  const bool committing = std::exchange(world->committing, false);
  const Nanos by_ns = world->reactor->NowNs() + kStuckNs;
  std::array<Aggregates, 2> found;
  for (size_t i = 0; i < 2 && !world->failed(); ++i) {
    Store& store = world->stores[i];
    CommitTo(store.log(), world->committed_lsn);
    while (store.log()->applied_lsn() < world->committed_lsn && world->reactor->NowNs() < by_ns) {
      co_await Sleep(*world->reactor, kMillisecond);
      CommitTo(store.log(), world->committed_lsn);
    }
    if (store.log()->applied_lsn() != world->committed_lsn) {
      co_return world->Fail(fmt::format("store {} has applied LSN {}, and {} is committed", i,
                                        store.log()->applied_lsn(), world->committed_lsn));
    }
    // Nothing has expired at time 0.
    Result<Aggregates> all = co_await store.replica()->tree().Aggregate(/*view=*/0, "", "", /*now_ms=*/0);
    if (!all.ok()) co_return world->Fail("an aggregate failed: " + all.status().ToString());
    found[i] = *all;
  }
  if (world->failed()) co_return;
  ++world->compared;
  if (found[0].count != found[1].count || found[0].content_hash != found[1].content_hash) {
    world->Fail(fmt::format("I12: at LSN {} one replica holds {}, and the other {}", world->committed_lsn,
                            TextOf(found[0]), TextOf(found[1])));
  }
  const std::optional<HistoryPoint> a = world->stores[0].log()->PointAt(world->committed_lsn);
  if (!a || world->stores[0].log()->EpochEnd(a->epoch).lsn < a->lsn) world->Fail("UH1: the end of an epoch is wrong");
  world->committing = committing;
}

// -- changes of the roles

// The follower's log is made a part of the leader's. What is committed is in both.
void Align(World* world) {
  GatedPartition* leader = world->leader().log();
  GatedPartition* follower = world->follower().log();
  HistoryPoint end = follower->end();
  while (end.lsn > world->committed_lsn) {
    const std::optional<HistoryPoint> own = leader->PointAt(end.lsn);
    if (own && own->chain == end.chain) break;
    // The unit before.
    Lsn lsn = end.lsn - 1;
    while (!follower->PointAt(lsn)) --lsn;
    end = *follower->PointAt(lsn);
  }
  const std::optional<HistoryPoint> own = leader->PointAt(end.lsn);
  if (!own || own->chain != end.chain || own->epoch != end.epoch) {
    return world->Fail(fmt::format("I4: the logs have nothing in common up to LSN {}, which is committed", end.lsn));
  }
  follower->Supersede(end);
  if (follower->end().lsn != end.lsn || follower->durable().lsn > end.lsn) world->Fail("Supersede left something");
}

void Lead(World* world, int master) {
  world->master = master;
  world->follower().leads = false;
  world->leader().leads = true;
  GatedPartition* log = world->leader().log();
  world->epoch = std::max(world->epoch, log->epoch()) + 1;
  log->BeginEpoch(world->epoch, log->end().lsn);
  if (log->end().epoch != world->epoch || log->EpochEnd(world->epoch - 1).lsn + 1 != log->end().lsn) {
    world->Fail("the new epoch does not begin after the history");
  }
  Align(world);
}

Task<void> CreateStore(World* world, int index) {
  Store& store = world->stores[index];
  const auto there = co_await LoadStore(*store.reactor, store.setup.store.data_dir);
  if (there.ok()) co_return;
  MakePartitionFile make = [&store](uint32_t, PartitionFileOptions options) {
    return CreatePartitionFile(*store.reactor, std::move(options));
  };
  std::vector<Uuid> uuids{kPartition};
  const auto made = co_await CreateStoreOf(*store.reactor, store.setup.store, uuids, make);
  if (!made.ok()) world->Fail("create failed: " + made.status().ToString());
}

Task<void> OpenStoreOf(World* world, int index) {
  Store& store = world->stores[index];
  store.reactor = store.machine->Boot();
  co_await CreateStore(world, index);
  store.leads = false;
  store.setup.engine.make_gate = [&store](uint32_t) -> std::unique_ptr<CommitGate> {
    auto gate = std::make_unique<RoleGate>(&store.leads);
    store.gate = gate.get();
    return gate;
  };
  auto engine = co_await OpenEngine(*store.reactor, store.setup);
  if (!engine.ok()) co_return world->Fail("open failed: " + engine.status().ToString());
  store.engine = *std::move(engine);
  if (store.gate->recovered.committed_lsn > world->committed_lsn)
    world->Fail("CG1: recovery knows too much as committed");
  if (store.gate->recovered.durable_lsn < world->committed_lsn) world->Fail("I8: what was durable is lost");
  if (!world->failed() && store.log()->durable().lsn != store.gate->recovered.durable_lsn)
    world->Fail("durable differs");
}

Task<void> CloseStore(World* world, int index) {
  Store& store = world->stores[index];
  world->swept += store.replica()->stats().expired_total;
  const Status closed = co_await store.engine->Close(/*checkpoint=*/world->random.Chance(0.5));
  if (!closed.ok()) world->Fail("close failed: " + closed.ToString());
  store.engine.reset();
  if (world->random.Chance(0.3)) {
    const std::string wrong = co_await Audit(*store.reactor, store.setup.store.data_dir);
    if (!wrong.empty()) world->Fail("audit: " + wrong);
  }
  store.machine->ProcessCrash(world->random.Next());
}

void Crash(World* world, int index) {
  Store& store = world->stores[index];
  ++world->crashes;
  world->swept += store.replica()->stats().expired_total;
  if (world->random.Chance(0.5)) {
    store.machine->PowerLoss(world->random.Next());
  } else {
    store.machine->ProcessCrash(world->random.Next());
  }
  Abandoned().push_back(store.engine.release());  // what waits for it refers to it
}

// -- the run

Task<void> Round(World* world) {
  world->serving = world->feeding = true;
  world->committing = world->random.Chance(0.9);
  TaskGroup tasks;
  tasks.Spawn(Feed(world));
  tasks.Spawn(CommitLater(world));
  tasks.Spawn(Disturb(world));
  for (int pauses = 0; pauses < 3 && !world->failed(); ++pauses) {
    co_await Sleep(*world->reactor, world->random.Between(5, 800) * kMillisecond);
    if (world->random.Chance(0.5)) co_await Compare(world);
  }
  world->feeding = false;
  co_await tasks.Drain();
}

void StartWriters(World* world) {
  // A task that waits for a crashed machine never ends, and its group is never destroyed.
  auto* writers = new TaskGroup;
  Abandoned().push_back(writers);
  ++world->generation;
  world->writing = kWriters;
  for (int i = 0; i < kWriters; ++i) writers->Spawn(WriteTask(world, i));
}

Task<void> RestartOne(World* world) {
  const int index = static_cast<int>(world->random.Below(2));
  const bool crash = world->random.Chance(0.5);
  if (crash) {
    Crash(world, index);
  } else {
    co_await CloseStore(world, index);
  }
  co_await OpenStoreOf(world, index);
  if (crash && !world->failed()) StartWriters(world);
}

// Everything that was appended is committed, and both stores close.
Task<void> End(World* world) {
  world->stopping = world->feeding = world->committing = world->serving = true;
  TaskGroup tasks;
  tasks.Spawn(Feed(world));
  tasks.Spawn(CommitLater(world));
  const Nanos by_ns = world->reactor->NowNs() + kStuckNs;
  while (!world->failed() && (world->writing > 0 || world->committed_lsn < world->leader().log()->end().lsn)) {
    co_await Sleep(*world->reactor, kMillisecond);
    if (world->reactor->NowNs() > by_ns) world->Fail("stuck: the rest is not committed");
  }
  if (!world->failed()) co_await Compare(world);
  world->feeding = false;
  co_await tasks.Drain();
  for (int i = 0; i < 2 && !world->failed(); ++i) co_await CloseStore(world, i);
}

Task<void> Play(World* world) {
  for (int i = 0; i < 2 && !world->failed(); ++i) co_await OpenStoreOf(world, i);
  if (world->failed()) co_return;
  Lead(world, 0);
  StartWriters(world);
  for (int round = 0; round < kRounds && !world->failed(); ++round) {
    co_await Round(world);
    const uint64_t what = world->random.Below(4);
    if (world->failed() || what == 0) continue;
    world->serving = false;
    if (what < 3) co_await RestartOne(world);
    if (!world->failed()) Lead(world, static_cast<int>(world->random.Below(2)));
  }
  if (!world->failed()) co_await End(world);
}

void Shape(World* world) {
  for (size_t i = 0; i < 2; ++i) {
    Setup& setup = world->stores[i].setup;
    setup.store.partitions = 1;
    setup.store.namespaced = true;  // lanes are apart from other records
    // What one of them writes at once, the other must be able to apply at once.
    setup.engine.memory_bytes = (10u << 20) + world->random.Below(4u << 20);
    setup.engine.compression = static_cast<Compression>(world->random.Below(3));
    setup.engine.checkpoint_interval_ns = world->random.Between(50, 5000) * kMillisecond;
  }
}

std::string RunSeed(uint64_t seed, World* world) {
  world->seed = seed;
  world->random = SimRandom(seed);
  Shape(world);
  SimOptions options;
  options.disk_max_ns = world->random.Chance(0.3) ? 5 * kMillisecond : 200 * kMicrosecond;
  SimKernel kernel(seed, options);
  world->stores[0].machine = kernel.AddMachine("10.0.0.1");
  world->stores[1].machine = kernel.AddMachine("10.0.0.2");
  SimReactor* reactor = kernel.AddMachine("10.0.0.3")->Boot();
  world->reactor = reactor;
  if (!kernel.RunTask(*reactor, Play(world))) world->Fail("the machine stopped");
  for (Store& store : world->stores) Abandoned().push_back(store.engine.release());
  return world->problem;
}

TEST(ReplicaModel, EqualHistoriesHaveEqualContents) {
  const uint64_t first = Environment("PANDO_SEED", 1);
  const uint64_t runs = std::getenv("PANDO_SEED") ? 1 : std::max(kRuns, Environment("PANDO_TEST_ROUNDS", 0));
  uint64_t crashes = 0, superseded = 0, swept = 0, compared = 0, repeated = 0;
  for (uint64_t seed = first; seed < first + runs; ++seed) {
    SCOPED_TRACE(fmt::format("replay: PANDO_SEED={} bin/model_replica_model", seed));
    auto world = std::make_unique<World>();
    ASSERT_EQ(RunSeed(seed, world.get()), "");
    EXPECT_GT(world->written, 0u);
    EXPECT_GT(world->units_fed, 0u);
    crashes += world->crashes;
    superseded += world->superseded;
    swept += world->swept;
    compared += world->compared;
    repeated += world->repeated;
  }
  if (runs < kRuns) return;
  EXPECT_GT(crashes, 0u);
  EXPECT_GT(superseded, 0u);
  EXPECT_GT(swept, 0u);
  EXPECT_GT(compared, 4 * runs);
  EXPECT_GT(repeated, 0u);
}

}  // namespace
}  // namespace pando::engine_test
