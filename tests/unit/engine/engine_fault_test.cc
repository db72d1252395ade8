// The engine on a failing disk: reads and writes that end with EIO, a full disk, and bits that flip
// at rest. Acknowledged writes are there after the next start. Damage is reported with its location
// and never served.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "src/io/call_on.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

std::string Key(uint64_t i) { return fmt::format("key-{:05}", i * 7919 % 100'000); }

std::string Value(uint64_t i, size_t bytes) {
  std::string value = fmt::format("value {} ", i);
  while (value.size() < bytes) value.push_back(static_cast<char>('a' + (value.size() * 7 + i) % 26));
  value.resize(bytes);
  return value;
}

using Records = std::map<std::string, std::string>;

// The writes and their outcomes. A key whose last write has an unknown outcome may have either
// value.
struct Ledger {
  Records acknowledged;
  std::map<std::string, std::set<std::string>> unknown;  // "" = no record
  std::string problem;

  void Fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
  }
  void Note(const WriteOp& op, const Status& status) {
    const std::string value = op.op == RecordOp::kPut ? op.value : "";
    if (status.ok()) {
      if (op.op == RecordOp::kPut) acknowledged[op.key] = value;
      if (op.op == RecordOp::kRemove) acknowledged.erase(op.key);
    } else if (status.code() == Code::kAborted) {
      unknown[op.key].insert(value);
    }
  }
  // What a start found is the truth from then on.
  void Settle(const Records& found) {
    acknowledged = found;
    unknown.clear();
  }
};

Task<Status> ReadEverything(Partition* partition, Records* out) {
  ScanSpec spec;
  for (bool over = false; !over;) {
    Result<ScanPage> page = co_await partition->Scan(spec);
    CO_RETURN_IF_ERROR(page.status());
    for (const ScanRow& row : page->rows) (*out)[std::string(row.key)] = row.value;
    over = page->exhausted;
    if (!over) spec.start = std::string(page->rows.back().key) + '\0';
  }
  co_return Status();
}

// Returns "" if the ledger allows these records.
std::string Compare(const Ledger& ledger, const Records& found) {
  auto allows = [&](const std::string& key, const std::string& value) {
    auto unknown = ledger.unknown.find(key);
    if (unknown != ledger.unknown.end() && unknown->second.contains(value)) return true;
    auto acknowledged = ledger.acknowledged.find(key);
    return value == (acknowledged == ledger.acknowledged.end() ? "" : acknowledged->second);
  };
  for (const auto& [key, value] : found) {
    if (!allows(key, value)) return fmt::format("{} holds {} bytes that nobody acknowledged", key, value.size());
  }
  for (const auto& [key, value] : ledger.acknowledged) {
    if (!found.contains(key) && !allows(key, "")) return fmt::format("the acknowledged {} is lost", key);
  }
  return "";
}

// Opens the store, compares it with the ledger, closes it, and audits it.
Task<std::string> OpenAndCompare(Reactor* reactor, Setup setup, Ledger* ledger, bool checkpoint) {
  auto engine = co_await OpenEngine(*reactor, setup);
  if (!engine.ok()) co_return "open: " + engine.status().ToString();
  Records found;
  Status status = co_await ReadEverything((*engine)->partition(0), &found);
  std::string problem = status.ok() ? Compare(*ledger, found) : "scan: " + status.ToString();
  Status written = co_await Put((*engine)->partition(0), "after", "all");
  if (problem.empty() && !written.ok()) problem = "a write after the restart: " + written.ToString();
  found["after"] = "all";
  Status closed = co_await (*engine)->Close(checkpoint);
  if (problem.empty() && !closed.ok()) problem = "close: " + closed.ToString();
  if (problem.empty()) problem = co_await Audit(*reactor, setup.store.data_dir);
  ledger->Settle(found);
  co_return problem;
}

class EngineFaultTest : public testing::Test {
 public:
  EngineFaultTest() {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = 1;
    setup_.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 3 / 2;
    setup_.engine.log_segment_bytes = 128u << 10;
    setup_.engine.log_budget_bytes = 1u << 20;
  }
  // Starts a new process. Each engine needs one, because its reactor can register memory only once.
  void Boot() {
    if (machine_->running()) machine_->ProcessCrash(1);
    reactor_ = machine_->Boot();
  }
  void Run(Task<void> task) { EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task))); }
  std::string DataPath() const { return "/data/partition-00000/data"; }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Ledger ledger_;
};

// A store that is larger than its pool.
constexpr uint64_t kManyKeys = 3000;

Task<void> FillStore(EngineFaultTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  for (uint64_t i = 0; i < kManyKeys;) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 0; n < 10; ++n, ++i) ops.push_back(PutOp(Key(i), Value(i, i % 100 == 0 ? 9000 : 400)));
    Status status = co_await Write((*engine)->partition(0), ops);
    EXPECT_OK(status);
    for (const WriteOp& op : ops) t->ledger_.Note(op, status);
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// -- reads that fail

// Returns the reference to a leaf that is not in memory, and a key in it.
Task<ChildRef> FindMissingLeaf(Partition* partition, std::string* key) {
  Tree& tree = static_cast<Replica*>(partition)->tree();
  for (uint64_t i = 1; i < kManyKeys; ++i) {
    ChildRef missing;
    uint8_t level = 0;
    *key = Key(i);
    if (i % 100 != 0 && !tree.FindLeaf(*key, &missing, &level) && level == 0) co_return missing;
    Result<ReadResult> got = co_await partition->Get(Key(i), kNewest, nullptr);  // loads inner pages
    EXPECT_OK(got.status());
  }
  ADD_FAILURE() << "every leaf is in memory";
  co_return ChildRef();
}

Task<void> ReadAroundABadLeaf(EngineFaultTest* t, Code code) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  std::string bad_key;
  ChildRef leaf = co_await FindMissingLeaf(p, &bad_key);
  const uint64_t offset = leaf.location.offset_bytes();
  if (code == Code::kIoError) {
    for (const IoOp::Kind kind : {IoOp::Kind::kRead, IoOp::Kind::kReadv}) {
      DiskFault fault;
      fault.kind = kind;
      fault.path_contains = t->DataPath();
      fault.first_byte = fault.last_byte = offset;
      fault.count = UINT64_MAX;
      t->machine_->AddFault(fault);
    }
  } else {
    t->machine_->disk().FlipBit(t->DataPath(), offset + 300, 3);
  }
  auto expect_refused = [&](const Status& status, std::string_view what) {
    EXPECT_EQ(status.code(), code) << what << ": " << status.ToString();
    EXPECT_NE(status.message().find(t->DataPath()), std::string::npos) << status.ToString();
    EXPECT_NE(status.message().find(std::to_string(offset)), std::string::npos) << status.ToString();
  };
  Result<ReadResult> got = co_await p->Get(bad_key, kNewest, nullptr);
  expect_refused(got.status(), "get");
  expect_refused(co_await Put(p, bad_key, "new"), "put");
  Records records;
  expect_refused(co_await ReadEverything(p, &records), "scan");
  uint64_t refused = 0;
  for (uint64_t i = 0; i < kManyKeys; ++i) {
    got = co_await p->Get(Key(i), kNewest, nullptr);
    refused += !got.ok();
    if (!got.ok()) continue;
    EXPECT_EQ(got->value, t->ledger_.acknowledged[Key(i)]);
  }
  EXPECT_GE(refused, 1u);
  EXPECT_LE(refused, leaf.count) << "more than one page's keys";
  EXPECT_OK((*engine)->failure());
  EXPECT_OK(co_await Put(p, "another", "page"));
  // The disk works again.
  if (code == Code::kIoError) {
    t->machine_->ClearFaults();
  } else {
    t->machine_->disk().FlipBit(t->DataPath(), offset + 300, 3);
  }
  got = co_await p->Get(bad_key, kNewest, nullptr);
  EXPECT_OK(got.status());
  EXPECT_EQ(got->value, t->ledger_.acknowledged[bad_key]) << "a refused write took effect";
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
  EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
}

TEST_F(EngineFaultTest, AFailedReadIsTheErrorOfItsRequestsOnly) {
  Boot();
  Run(FillStore(this));
  Boot();
  Run(ReadAroundABadLeaf(this, Code::kIoError));
}

TEST_F(EngineFaultTest, AFlippedBitOfAPageIsTheErrorOfItsRequestsOnly) {
  Boot();
  Run(FillStore(this));
  Boot();
  Run(ReadAroundABadLeaf(this, Code::kCorruption));
}

// -- writes of the data file fail while others wait

// Everything that waits for the engine must end when the file fails, even without a deadline.
struct Waiting {
  EngineFaultTest* t = nullptr;
  std::unique_ptr<Engine> engine;
  std::map<Code, uint64_t> codes;  // of the writes
  bool closed = false;

  static detail::FireAndForget Detach(Task<void> task) { co_await task; }
  void FailWrites(int error_number) {
    t->machine_->ClearFaults();
    for (IoOp::Kind kind : {IoOp::Kind::kWrite, IoOp::Kind::kWritev}) {
      DiskFault fault;
      fault.kind = kind;
      fault.path_contains = t->DataPath();
      fault.count = UINT64_MAX;
      fault.error_number = error_number;
      t->machine_->AddFault(fault);
    }
  }
  Task<void> Open() {
    auto opened = co_await OpenEngine(*t->reactor_, t->setup_);
    EXPECT_OK(opened.status());
    if (opened.ok()) engine = *std::move(opened);
  }
  Task<void> WriteOne(std::vector<WriteOp> ops) {
    Status status = co_await Write(engine->partition(0), std::move(ops));
    ++codes[status.code()];
  }
  Task<void> Close() {
    EXPECT_OK(co_await engine->Close(/*checkpoint=*/false));
    engine.reset();
    closed = true;
  }

  // More than the log's budget is written at once, so many writers wait for a checkpoint.
  Task<void> FillTheLog() {
    co_await Open();
    if (!engine) co_return;
    FailWrites(EIO);
    TaskGroup writers;
    for (uint64_t i = 0; i < 400; ++i) writers.Spawn(WriteOne(std::vector<WriteOp>(1, PutOp(Key(i), Value(i, 8000)))));
    EXPECT_GT(engine->stats().log.append_waits_total, 100u);
    co_await writers.Drain();
    co_await Close();
  }

  Task<void> ReadOne(std::string key) {
    // Either answer is right: the read may end before the failure.
    Result<ReadResult> got = co_await engine->partition(0)->Get(std::move(key), kNewest, nullptr);
    (void)got.ok();
  }
  // While the disk is full, no dirty page can be written. Writers of large values and readers
  // therefore wait for frames. Then the disk fails.
  Task<void> FillThePool() {
    co_await Open();
    if (!engine) co_return;
    FailWrites(ENOSPC);
    const uint64_t enough = engine->stats().pool_pages / 4 * 3;
    for (uint64_t i = 0; engine->stats().pool_dirty_pages < enough && i < 10'000; ++i) {
      EXPECT_OK(co_await Put(engine->partition(0), Key(i * 37 % kManyKeys), Value(i, 400)));
    }
    EXPECT_GE(engine->stats().pool_dirty_pages, enough);
    TaskGroup tasks;
    for (uint64_t i = 0; i < 16; ++i) tasks.Spawn(WriteOne(std::vector<WriteOp>(1, PutOp(Key(i), Value(i, 120'000)))));
    for (uint64_t i = 0; i < 100; ++i) tasks.Spawn(ReadOne(Key(i * 11 % kManyKeys)));
    co_await Sleep(*t->reactor_, 60 * kMillisecond);
    EXPECT_OK(engine->failure());
    EXPECT_GT(tasks.running(), 10u) << "nobody waits";
    FailWrites(EIO);
    co_await tasks.Drain();
    co_await Close();
  }
};

// E4: writes that wait for room in the log end when the partition is quarantined, and so does Close.
TEST_F(EngineFaultTest, AFailedDataFileEndsTheWaitForTheLog) {
  Boot();
  auto waiting = std::make_unique<Waiting>();
  waiting->t = this;
  Waiting::Detach(waiting->FillTheLog());
  kernel_.RunUntil([&] { return waiting->closed; }, kernel_.now_ns() + 5 * kSecond);
  ASSERT_TRUE(waiting->closed || !waiting.release()) << "writes wait for room in the log for ever";
  EXPECT_GT(waiting->codes[Code::kOk], 0u);
  EXPECT_GT(waiting->codes[Code::kUnavailable], 100u);
}

// E4: requests that wait for room in the pool end when the partition is quarantined, and so does Close.
TEST_F(EngineFaultTest, AFailedDataFileEndsTheWaitForFrames) {
  Boot();
  Run(FillStore(this));
  setup_.engine.log_budget_bytes = 64u << 20;
  Boot();
  auto waiting = std::make_unique<Waiting>();
  waiting->t = this;
  Waiting::Detach(waiting->FillThePool());
  kernel_.RunUntil([&] { return waiting->closed; }, kernel_.now_ns() + 5 * kSecond);
  ASSERT_TRUE(waiting->closed || !waiting.release()) << "writes wait for frames for ever";
  EXPECT_GT(waiting->codes[Code::kAborted], 0u) << "no write waited";
}

// -- any operation fails, at any moment

struct Faulty {
  SimReactor* reactor = nullptr;
  Setup setup;
  Ledger* ledger = nullptr;
  Engine* engine = nullptr;
  // The log has failed, or the partition is quarantined.
  bool Failed() const { return !engine->failure().ok() || engine->stats().quarantined_partitions > 0; }
};

// A writer does not share its keys, so its knowledge of them is exact.
Task<void> WriterUnderFaults(Faulty* f, uint64_t id, uint64_t seed) {
  SimRandom random(seed * 100 + id);
  for (int i = 0; i < 12; ++i) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
      const std::string key = fmt::format("w{}/{:02}", id, random.Below(20));
      if (random.Chance(0.2)) {
        ops.push_back(RemoveOp(key));
      } else {
        ops.push_back(PutOp(key, Value(random.Next() % 1000, 10 + random.Below(random.Chance(0.1) ? 9000 : 500))));
      }
    }
    Status status = co_await Write(f->engine->partition(0), ops);
    for (const WriteOp& op : ops) f->ledger->Note(op, status);
    if (status.ok()) continue;
    // Writes after a failure are refused, and the error says why.
    if (f->Failed()) {
      Status again = co_await Put(f->engine->partition(0), "x", "y");
      if (again.code() != Code::kUnavailable || (again.message().find("stopped: ") == std::string::npos &&
                                                 again.message().find("quarantined") == std::string::npos)) {
        f->ledger->Fail("a stopped engine answered " + again.ToString());
      }
    }
    co_return;
  }
}

Task<void> LifeUnderFaults(Faulty* f, uint64_t seed, bool checkpoint) {
  auto engine = co_await OpenEngine(*f->reactor, f->setup);
  if (!engine.ok()) {
    if (engine.code() != Code::kIoError) f->ledger->Fail("open failed with " + engine.status().ToString());
    co_return;
  }
  f->engine = engine->get();
  for (uint64_t round = 0; round < 2; ++round) {
    TaskGroup writers;
    for (uint64_t id = 0; id < 3; ++id) writers.Spawn(WriterUnderFaults(f, id, seed * 10 + round));
    co_await writers.Drain();
    if (Partition* other = f->engine->partition(1)) {  // E5: it is not concerned
      Status written = co_await Put(other, fmt::format("{}", round), "v");
      if (!written.ok()) f->ledger->Fail("the other partition does not serve: " + written.ToString());
    }
    Status status = co_await f->engine->CheckpointAll();
    if (!status.ok() && !f->Failed()) {
      f->ledger->Fail("a checkpoint failed and the engine goes on: " + status.ToString());
    }
  }
  Status closed = co_await f->engine->Close(checkpoint);
  (void)closed.ok();  // only what the next start finds matters
}

// Runs with operation number `skip` on files of `path` ending with EIO. Returns "" or what went
// wrong. *struck: there was such an operation.
std::string RunWithFault(uint64_t seed, const std::string& path, uint64_t skip, bool* struck) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  Ledger ledger;
  auto f = std::make_unique<Faulty>();
  f->setup.store.partitions = path.find("partition") == std::string::npos ? 1 : 2;
  f->setup.engine.log_segment_bytes = 128u << 10;
  f->setup.engine.log_budget_bytes = 1u << 20;
  f->ledger = &ledger;
  DiskFault fault;
  fault.path_contains = path;
  fault.skip = skip;
  machine->AddFault(fault);
  for (uint64_t life = 0; life < 2; ++life) {
    if (life > 0) machine->ProcessCrash(1);
    f->reactor = machine->Boot();
    if (!kernel.RunTask(*f->reactor, LifeUnderFaults(f.get(), seed * 2 + life, life == 0))) return "it stopped";
  }
  *struck = machine->faults_struck() > 0;
  if (!ledger.problem.empty()) return ledger.problem;
  machine->ClearFaults();
  for (int start = 0; start < 3; ++start) {
    if ((skip + start) % 2 == 0) {
      machine->PowerLoss(skip + start);
    } else {
      machine->ProcessCrash(skip + start);
    }
    f->reactor = machine->Boot();
    std::string problem = *kernel.RunTask(*f->reactor, OpenAndCompare(f->reactor, f->setup, &ledger, start == 0));
    if (!problem.empty()) return fmt::format("start {} after the fault: {}", start + 1, problem);
  }
  return "";
}

void SweepFaults(const std::string& path, uint64_t stride) {
  for (uint64_t seed : Seeds(3)) {
    SCOPED_TRACE(Replay(seed));
    bool struck = true;
    for (uint64_t skip = seed % stride; struck; skip += stride) {
      const std::string problem = RunWithFault(seed, path, skip, &struck);
      ASSERT_EQ(problem, "") << "operation " << skip << " on " << path << " failed";
      ASSERT_LT(skip, 5000u);
    }
  }
}

TEST_F(EngineFaultTest, AnyFailedOperationOnTheLog) { SweepFaults("/wal-0", 5); }
TEST_F(EngineFaultTest, AnyFailedOperationOnAPartition) { SweepFaults("/partition-00000", 3); }

// -- a full disk

Task<void> FillTheDisk(EngineFaultTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  // Let the log take what it needs before the disk becomes small.
  for (uint64_t i = 0; i < 200; ++i) EXPECT_OK(co_await Put(p, "warm", Value(i, 8000)));
  t->machine_->disk().SetCapacity(t->machine_->disk().used_bytes() + (6u << 20));
  Status full;
  uint64_t keys = 0;
  for (; full.ok() && keys < 100'000; ++keys) {
    full = co_await Put(p, Key(keys), Value(keys, 700));
    if (full.ok()) t->ledger_.acknowledged[Key(keys)] = Value(keys, 700);
  }
  EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
  EXPECT_NE(full.message().find(t->DataPath()), std::string::npos) << full.ToString();
  EXPECT_GT(keys, 2000u);
  EXPECT_OK((*engine)->failure());
  for (uint64_t i = 0; i + 1 < keys; i += 7) {
    Result<ReadResult> got = co_await p->Get(Key(i), kNewest, nullptr);
    EXPECT_OK(got.status());
    EXPECT_EQ(got->value, Value(i, 700));
  }
  // Deletes work and free space.
  for (uint64_t i = 0; i + 1 < keys; ++i) {
    if (i % 4 == 0) continue;
    EXPECT_OK(co_await Remove(p, Key(i)));
    t->ledger_.acknowledged.erase(Key(i));
    if (testing::Test::HasFailure()) break;
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK((*engine)->failure());
    EXPECT_OK(co_await (*engine)->CheckpointAll());
    EXPECT_OK(co_await Put(p, "warm", Value(static_cast<uint64_t>(i), 100)));
  }
  t->ledger_.acknowledged["warm"] = Value(2, 100);
  for (uint64_t i = 0; i < keys / 2; ++i) {
    EXPECT_OK(co_await Put(p, fmt::format("more-{:05}", i), Value(i, 700)));
    t->ledger_.acknowledged[fmt::format("more-{:05}", i)] = Value(i, 700);
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST_F(EngineFaultTest, AFullDiskRefusesPutsAndServesTheRest) {
  Boot();
  Run(FillTheDisk(this));
  machine_->PowerLoss(3);
  Boot();
  EXPECT_EQ(*kernel_.RunTask(*reactor_, OpenAndCompare(reactor_, setup_, &ledger_, false)), "");
}

// -- bits that flip at rest

// Takes checkpoints in between. The end of the log is not in the tree yet.
Task<void> MakeSmallStore(EngineFaultTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  for (uint64_t i = 0; i < 900; ++i) {
    WriteOp op = PutOp(Key(i % 400), Value(i, i % 150 == 0 ? 9000 : 200));
    Status status = co_await Write(p, std::vector<WriteOp>(1, op));
    EXPECT_OK(status);
    t->ledger_.Note(op, status);
    if (i % 400 != 399) continue;
    EXPECT_OK(co_await (*engine)->CheckpointAll());
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

TEST_F(EngineFaultTest, WithoutItsNewestSuperblockAPartitionComesBackFromTheOneBeforeAndTheLog) {
  Boot();
  Run(MakeSmallStore(this));
  machine_->PowerLoss(1);
  const SimDisk image = machine_->disk();
  const std::string data = image.ReadAll(DataPath());
  const uint64_t in_slot[2] = {LoadLE<uint64_t>(&data[56]), LoadLE<uint64_t>(&data[8192 + 56])};
  const uint64_t newest = in_slot[1] > in_slot[0] ? 8192 : 0;
  // One damaged copy at a time, then both copies of the newest slot.
  for (const std::vector<uint64_t>& offsets :
       {std::vector<uint64_t>{0}, {4096}, {8192}, {12288}, {newest, newest + 4096}}) {
    machine_->disk() = image;
    for (uint64_t offset : offsets) machine_->disk().FlipBit(DataPath(), offset + 1000);
    Boot();
    Ledger ledger = ledger_;
    EXPECT_EQ(*kernel_.RunTask(*reactor_, OpenAndCompare(reactor_, setup_, &ledger, true)), "");
    machine_->PowerLoss(2);
  }
  machine_->disk() = image;
  for (uint64_t offset : {0, 4096, 8192, 12288}) machine_->disk().FlipBit(DataPath(), offset + 1000);
  Boot();
  const std::string refused = *kernel_.RunTask(*reactor_, OpenAndCompare(reactor_, setup_, &ledger_, true));
  EXPECT_NE(refused.find("quarantined: " + DataPath() + ": no valid superblock"), std::string::npos) << refused;
}

// Opens the store and reads everything. Each read must return the right records or an error that
// says what is damaged.
Task<std::string> ReadDamaged(Reactor* reactor, Setup setup, const Ledger* ledger, bool* reported) {
  auto engine = co_await OpenEngine(*reactor, setup);
  auto check = [&](const Status& status) {
    *reported = true;
    const bool place =
        status.message().find("/data/") != std::string::npos && status.message().find("offset") != std::string::npos;
    const bool damage = status.code() == Code::kCorruption || status.message().find("quarantined") != std::string::npos;
    return damage && place ? "" : "an error without its place: " + status.ToString();
  };
  if (!engine.ok()) co_return check(engine.status());
  Records found;
  Status status = co_await ReadEverything((*engine)->partition(0), &found);
  std::string problem = status.ok() ? Compare(*ledger, found) : check(status);
  Status closed = co_await (*engine)->Close(/*checkpoint=*/false);
  if (problem.empty() && !closed.ok()) problem = "close: " + closed.ToString();
  co_return problem;
}

TEST_F(EngineFaultTest, FlippedBitsAreReportedAndNeverServed) {
  Boot();
  Run(MakeSmallStore(this));
  machine_->PowerLoss(1);
  const SimDisk image = machine_->disk();
  const uint64_t blocks = image.ReadAll(DataPath()).size() / 4096;
  std::vector<std::string> segments;
  for (const std::string& file : image.AllFiles()) {
    if (file.ends_with(".wal")) segments.push_back(file);
  }
  for (uint64_t seed : Seeds(2)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    uint64_t reported = 0, in_log = 0, in_data = 0;
    for (int i = 0; i < 150 && !HasFailure(); ++i) {
      const bool log = random.Chance(0.4);
      const std::string& path = log ? segments[random.Below(segments.size())] : DataPath();
      const uint64_t offset = random.Below(log ? 64u << 10 : blocks * 4096);
      machine_->disk() = image;
      machine_->disk().FlipBit(path, offset, static_cast<unsigned>(random.Below(8)));
      Boot();
      bool damage = false;
      EXPECT_EQ(*kernel_.RunTask(*reactor_, ReadDamaged(reactor_, setup_, &ledger_, &damage)), "")
          << "bit flipped in " << path << " at offset " << offset;
      reported += damage;
      (log ? in_log : in_data) += damage;
      machine_->PowerLoss(1);
    }
    // Most bytes of the data file are free or dead. Most bytes of a log are not.
    EXPECT_GT(in_log, 0u);
    EXPECT_GT(in_data, 0u);
    EXPECT_EQ(reported, in_log + in_data);
  }
}

// Metadata that is damaged when the engine starts: the partition is quarantined and the location named.
TEST_F(EngineFaultTest, DamagedMetadataIsNamed) {
  Boot();
  Run(MakeSmallStore(this));
  machine_->PowerLoss(1);
  const SimDisk image = machine_->disk();
  const std::string data = image.ReadAll(DataPath());
  const uint64_t sb = LoadLE<uint64_t>(&data[8192 + 56]) > LoadLE<uint64_t>(&data[56]) ? 8192 : 0;
  const uint64_t directory = LoadLE<Extent>(&data[sb + 168]).offset_bytes();
  const uint64_t dead_list = LoadLE<Extent>(&data[sb + 192]).offset_bytes();
  const uint64_t bitmap = LoadLE<uint64_t>(&data[directory + sizeof(MetaPieceHeader)]) * 4096;
  const uint64_t root = LoadLE<Extent>(&data[sb + 104]).offset_bytes();
  for (uint64_t offset : {directory, dead_list, bitmap, root}) {
    machine_->disk() = image;
    machine_->disk().FlipBit(DataPath(), offset + 77, 5);
    Boot();
    const std::string refused = *kernel_.RunTask(*reactor_, OpenAndCompare(reactor_, setup_, &ledger_, true));
    EXPECT_NE(refused.find("quarantined: " + DataPath()), std::string::npos) << refused;
    EXPECT_NE(refused.find(fmt::format("offset {}", offset)), std::string::npos) << refused;
    machine_->PowerLoss(2);
  }
}

}  // namespace
}  // namespace pando::engine_test
