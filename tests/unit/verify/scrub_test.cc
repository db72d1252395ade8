// The scrubber. A bit that flips anywhere is found, with file and offset, while the engine serves
// requests. Nothing intact is ever reported, whatever happens at the same time. The scrubber keeps
// to its rate and ends with the engine.
#include "src/verify/scrub.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "src/wal/log_format.h"
#include "tests/support/engine_harness.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

constexpr uint64_t kFast = 1ull << 40;  // bytes/s: no limit that a test could reach
constexpr uint64_t kBigKeyEvery = 100;  // one value in this many has its own extent

std::string Key(uint64_t i) { return fmt::format("key-{:05}", i * 7919 % 100'000); }

std::string Value(uint64_t i, size_t bytes) {
  std::string value = fmt::format("value {} ", i);
  while (value.size() < bytes) value.push_back(static_cast<char>('a' + (value.size() * 7 + i) % 26));
  value.resize(bytes);
  return value;
}

class ScrubTest : public testing::Test {
 public:
  ScrubTest() {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = 1;
    setup_.engine.compression = Compression::kNone;  // so that values can be found in the files
    setup_.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) * 3 / 2;
    setup_.engine.log_segment_bytes = 128u << 10;
    setup_.engine.log_budget_bytes = 64u << 20;
    setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  }
  void Run(Task<void> task) {
    if (machine_->running()) machine_->ProcessCrash(1);
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task)));
  }
  const std::string data_path_ = "/data/partition-00000/data";
  SimDisk& disk() { return machine_->disk(); }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
};

Task<void> UntilIdle(Reactor* reactor, Scrubber* scrubber) {
  while (scrubber->report().running) co_await Sleep(*reactor, kMillisecond);
}

Task<void> OnePass(Reactor* reactor, Scrubber* scrubber, uint64_t bytes_per_s = kFast) {
  const uint64_t finished = scrubber->report().passes_finished;
  scrubber->StartPass(bytes_per_s);
  EXPECT_TRUE(scrubber->report().running);
  co_await UntilIdle(reactor, scrubber);
  EXPECT_EQ(scrubber->report().passes_finished, finished + 1);
}

std::string Describe(const ScrubReport& report) {
  std::string text = fmt::format("{} findings", report.findings.size());
  for (const ScrubFinding& f : report.findings) {
    text += fmt::format("; {} at {}: {}", f.problem.file, f.problem.offset_bytes, f.problem.what);
  }
  return text;
}

// -- where things are on disk

struct Place {
  std::string name, file;
  uint64_t offset = 0;       // of the damaged thing, as it must be reported
  uint64_t flip_offset = 0;  // of the byte that changes
  std::string says;          // part of the finding
};

constexpr uint32_t kUsableBytes = UsablePageBytes(4096, kSealBytes);

void AddTreePlaces(const SimDisk& disk, const std::string& path, ChildRef ref, std::map<std::string, Place>* places) {
  const std::string file = disk.ReadAll(path);
  std::string page = file.substr(ref.location.offset_bytes(), ref.location.size_bytes());
  page.resize(4096);
  std::vector<char> scratch(4096);
  ASSERT_TRUE(DecodePageImage(page.data(), kUsableBytes, ref.location.blocks(), scratch.data()).ok());
  TreeNode node(page.data(), kUsableBytes);
  const uint64_t at = ref.location.offset_bytes();
  const bool leaf = node.leaf();
  (*places)[leaf ? "leaf" : "inner page"] = {"", path, at, at + 60, leaf ? "leaf: checksum" : "inner page: checksum"};
  for (uint32_t i = 0; i < node.count(); ++i) {
    if (!leaf) {
      AddTreePlaces(disk, path, node.LoadChild(i), places);
    } else if (RecordView r = node.Record(i); r.overflow) {
      const uint64_t value_at = r.overflow_ref.location.offset_bytes();
      (*places)["overflow value"] = {"", path, value_at, value_at + 5000, "the value of key '" + node.Key(i) + "'"};
    }
  }
}

void AddLogPlaces(const SimDisk& disk, std::map<std::string, Place>* places) {
  for (const std::string& path : disk.AllFiles()) {
    if (!path.ends_with(".wal")) continue;
    const std::string file = disk.ReadAll(path);
    SegmentHeader header;
    ASSERT_EQ(DecodeSegmentHeader(file, &header), HeaderState::kValid);
    const uint64_t seed = LogChecksumSeed(header.node);
    uint64_t batches = 0;
    for (uint64_t at = kFirstGroupOffset;;) {
      BatchView batch;
      if (DecodeBatch(file, header.segment_number, at, seed, &batch) != BatchState::kValid) break;
      const uint64_t end = at + BatchBytes(batch.header);
      const uint64_t middle = at + BatchOverhead(batch.header) + batch.header.payload_bytes / 2;
      if (++batches == 3) (*places)["WAL batch"] = {"", path, at, middle, "log: a durable batch was written here"};
      if (batches == 2)
        (*places)["WAL batch header"] = {"", path, at, at + 30, "log: a durable batch was written here"};
      if (batches == 3) (*places)["WAL segment header"] = {"", path, 0, 500, "log: the segment header"};
      at = batch.header.flags & kBatchEndsGroup ? AlignUp(end, kBlockBytes) : end;
    }
  }
}

std::vector<Place> FindPlaces(const SimDisk& disk, const std::string& path) {
  const std::string file = disk.ReadAll(path);
  std::map<std::string, Place> places;
  uint64_t newest = 0;
  for (uint64_t copy = 0; copy < 4; ++copy) {
    const uint64_t at = copy * kBlockBytes;
    places[fmt::format("superblock copy {}", copy)] = {"", path, at, at + 3000, "superblock copy: checksum"};
    if (LoadLE<uint64_t>(&file[at + 56]) > LoadLE<uint64_t>(&file[newest + 56])) newest = at;
  }
  Superblock sb;
  EXPECT_TRUE(ParseSuperblock(std::string_view(file).substr(newest, kBlockBytes), &sb).ok());
  auto add = [&](const std::string& name, Extent extent) {
    places[name] = {"", path, extent.offset_bytes(), extent.offset_bytes() + 4000, name};
  };
  add("group directory", sb.groups.location);
  add("dead list", sb.dead.location);
  add("allocation bitmap",
      Extent::Of(LoadLE<uint64_t>(&file[sb.groups.location.offset_bytes() + sizeof(MetaPieceHeader)]), 1));
  AddTreePlaces(disk, path, sb.root, &places);
  AddLogPlaces(disk, &places);
  std::vector<Place> all;
  for (auto& [name, place] : places) {
    place.name = name;
    all.push_back(place);
  }
  return all;
}

constexpr uint64_t kKeys = 2500;

// Takes several checkpoints and leaves log after the last one.
Task<void> Fill(Engine* engine) {
  for (uint64_t i = 0; i < kKeys + kKeys / 2;) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 0; n < 10; ++n, ++i) {
      const uint64_t k = i % kKeys;
      ops.push_back(PutOp(Key(k), Value(k, k % kBigKeyEvery == 0 ? 9000 : 300)));
    }
    EXPECT_OK(co_await Write(engine->partition(0), std::move(ops)));
    if (i % 1000 == 0) EXPECT_OK(co_await engine->CheckpointAll());
  }
}

void ExpectFound(const ScrubReport& report, const Place& place) {
  EXPECT_EQ(report.findings.size(), 1u) << Describe(report);
  for (const ScrubFinding& f : report.findings) {
    EXPECT_EQ(f.problem.file, place.file);
    EXPECT_EQ(f.problem.offset_bytes, place.offset);
    EXPECT_NE(f.problem.what.find(place.says), std::string::npos) << f.problem.what;
    EXPECT_FALSE(f.problem.advice.empty());
  }
}

// The offline checker finds the same. One damaged copy of a superblock is a note.
Task<void> FlipAndCheck(ScrubTest* t, std::vector<Place> places) {
  for (const Place& place : places) {
    SCOPED_TRACE(place.name);
    t->disk().FlipBit(place.file, place.flip_offset);
    Result<CheckReport> report = co_await CheckStore(*t->reactor_, "/data");
    t->disk().FlipBit(place.file, place.flip_offset);
    EXPECT_OK(report.status());
    if (!report.ok()) co_return;
    const bool note = place.name.starts_with("superblock");
    EXPECT_EQ(report->problems_total, note ? 0u : 1u);
    for (const CheckProblem& p : note ? report->notes : report->problems) {
      if (place.name.starts_with("WAL")) {
        EXPECT_NE(p.what.find(place.file), std::string::npos) << p.what;
        EXPECT_NE(p.what.find(fmt::format("offset {}", place.offset)), std::string::npos) << p.what;
      } else {
        EXPECT_EQ(p.file, place.file);
        EXPECT_EQ(p.offset_bytes, place.offset) << p.what;
        EXPECT_NE(p.what.find(place.says), std::string::npos) << p.what;
      }
    }
    EXPECT_EQ(report->notes.size(), note ? 1u : 0u);
  }
  // Damage to both slots, which no power failure causes.
  t->disk().FlipBit(t->data_path_, 0);
  t->disk().FlipBit(t->data_path_, 3 * kBlockBytes);
  Result<CheckReport> report = co_await CheckStore(*t->reactor_, "/data");
  t->disk().FlipBit(t->data_path_, 0);
  t->disk().FlipBit(t->data_path_, 3 * kBlockBytes);
  EXPECT_OK(report.status());
  EXPECT_EQ(report.ok() ? report->problems_total : 0, 2u);
}

Task<void> FlipAndScrub(ScrubTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  co_await Sleep(*t->reactor_, kSecond);
  Scrubber* scrubber = &(*engine)->scrubber();
  co_await OnePass(t->reactor_, scrubber);
  EXPECT_EQ(Describe(scrubber->report()), "0 findings");
  // Checkpoints may have released the whole log by now.
  for (uint64_t k = 0; k < 50; ++k) EXPECT_OK(co_await Put(engine->get()->partition(0), Key(k), Value(k, 300)));
  co_await Sleep(*t->reactor_, kSecond);  // a checkpoint that this made due moves what it writes
  for (uint64_t k = 0; k < 5; ++k) EXPECT_OK(co_await Put(engine->get()->partition(0), Key(k), Value(k, 300)));
  std::vector<Place> places = FindPlaces(t->disk(), t->data_path_);
  EXPECT_EQ(places.size(), 13u);
  for (const Place& place : places) {
    SCOPED_TRACE(place.name);
    for (unsigned bit : {0u, 5u}) {
      t->disk().FlipBit(place.file, place.flip_offset, bit);
      co_await OnePass(t->reactor_, scrubber);
      ExpectFound(scrubber->report(), place);
      t->disk().FlipBit(place.file, place.flip_offset, bit);
    }
    co_await OnePass(t->reactor_, scrubber);
    EXPECT_EQ(Describe(scrubber->report()), "0 findings") << "the bit is flipped back";
  }
  EXPECT_OK((*engine)->failure());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
  co_await FlipAndCheck(t, std::move(places));
}

TEST_F(ScrubTest, AFlippedBitAnywhereIsFoundWithFileAndOffset) { Run(FlipAndScrub(this)); }

// -- a pass does not affect the engine

Task<void> ScrubBesideThePool(ScrubTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  // Checkpoints that this made due would move the places and count as writes.
  co_await Sleep(*t->reactor_, kSecond);
  Partition* p = (*engine)->partition(0);
  Scrubber* scrubber = &(*engine)->scrubber();
  std::vector<Place> places = FindPlaces(t->disk(), t->data_path_);
  for (const Place& place : places) {
    if (place.name == "leaf" || place.name == "overflow value") t->disk().FlipBit(place.file, place.flip_offset);
  }
  const EngineStats before = (*engine)->stats();
  co_await OnePass(t->reactor_, scrubber);
  const EngineStats after = (*engine)->stats();
  EXPECT_EQ(scrubber->report().findings.size(), 2u) << Describe(scrubber->report());
  EXPECT_EQ(after.pool_misses_total, before.pool_misses_total) << "the pass read through the pool";
  EXPECT_EQ(after.pool_evictions_total, before.pool_evictions_total);
  EXPECT_EQ(after.pool_writes_total, before.pool_writes_total);
  EXPECT_EQ(after.checkpoints_total, before.checkpoints_total);
  EXPECT_EQ(p->stats().snapshot_pinned_bytes, 0u) << "a held generation was not released";
  // Intact data is served, damaged data is refused, and nothing else happens.
  uint64_t refused = 0;
  for (uint64_t k = 0; k < kKeys; ++k) {
    Result<ReadResult> got = co_await p->Get(Key(k), kNewest, nullptr);
    if (got.ok()) {
      EXPECT_EQ(got->value, Value(k, k % kBigKeyEvery == 0 ? 9000 : 300));
    } else {
      ++refused;
      EXPECT_EQ(got.code(), Code::kCorruption) << got.status().ToString();
      EXPECT_NE(got.status().message().find(t->data_path_), std::string::npos) << got.status().ToString();
    }
  }
  EXPECT_GE(refused, 1u);
  EXPECT_LE(refused, 20u) << "more than one leaf's keys and one value";
  EXPECT_OK((*engine)->failure());
  EXPECT_OK(co_await Put(p, Key(1), "it takes writes"));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// U1: a pass finds the damage on the disk, and neither reads nor writes through the pool.
TEST_F(ScrubTest, LeavesThePoolAloneAndTheNodeServesWhatIsSound) { Run(ScrubBesideThePool(this)); }

void AddLeaves(const SimDisk& disk, const std::string& path, ChildRef ref, std::vector<uint64_t>* offsets) {
  const std::string file = disk.ReadAll(path);
  std::string page = file.substr(ref.location.offset_bytes(), ref.location.size_bytes());
  page.resize(4096);
  std::vector<char> scratch(4096);
  ASSERT_TRUE(DecodePageImage(page.data(), kUsableBytes, ref.location.blocks(), scratch.data()).ok());
  TreeNode node(page.data(), kUsableBytes);
  if (node.leaf()) return offsets->push_back(ref.location.offset_bytes());
  for (uint32_t i = 0; i < node.count(); ++i) AddLeaves(disk, path, node.LoadChild(i), offsets);
}

// Every leaf is damaged. All are counted, some are named, and a later pass forgets them.
Task<void> ScrubADestroyedTree(ScrubTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  EXPECT_OK(co_await (*engine)->CheckpointAll());
  Scrubber* scrubber = &(*engine)->scrubber();
  std::vector<uint64_t> leaves;
  const Replica* replica = static_cast<Replica*>((*engine)->partition(0));
  AddLeaves(t->disk(), t->data_path_, replica->partition_file().superblock().root, &leaves);
  EXPECT_GT(leaves.size(), 150u);
  for (uint64_t offset : leaves) t->disk().FlipBit(t->data_path_, offset + 70);
  co_await OnePass(t->reactor_, scrubber);
  EXPECT_EQ(scrubber->report().findings.size(), Scrubber::kMaxFindings);
  EXPECT_EQ(scrubber->report().findings_total, leaves.size());
  for (uint64_t offset : leaves) t->disk().FlipBit(t->data_path_, offset + 70);
  co_await OnePass(t->reactor_, scrubber);
  EXPECT_EQ(Describe(scrubber->report()), "0 findings");
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// U4: a pass remembers a bounded number of findings, however much is damaged.
TEST_F(ScrubTest, NamesABoundedNumberOfPlaces) { Run(ScrubADestroyedTree(this)); }

// -- the rate

Task<void> ScrubSlowly(ScrubTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  Scrubber* scrubber = &(*engine)->scrubber();
  constexpr uint64_t kRate = 64u << 10;
  constexpr Nanos kWindow = 500 * kMillisecond;
  // The most that one read may take: a value, or the log's window.
  constexpr uint64_t kLargestRead = 512u << 10, kLargestTreeRead = 12u << 10;
  scrubber->StartPass(kRate);
  co_await Sleep(*t->reactor_, 20 * kMillisecond);
  const Nanos start = t->reactor_->NowNs();
  uint64_t windows = 0;
  for (uint64_t last = scrubber->report().bytes; scrubber->report().running; ++windows) {
    co_await Sleep(*t->reactor_, kWindow);
    const uint64_t read = scrubber->report().bytes - last;
    last += read;
    const uint64_t largest = scrubber->report().batches > 0 || read > kRate ? kLargestRead : kLargestTreeRead;
    EXPECT_LE(read, kRate / 2 + largest) << "window " << windows;
    const double seconds = static_cast<double>(t->reactor_->NowNs() - start) / kSecond;
    EXPECT_LE(static_cast<double>(last), kRate * (seconds + 0.1) + kLargestRead);
  }
  const double seconds = static_cast<double>(t->reactor_->NowNs() - start) / kSecond;
  const double expected = static_cast<double>(scrubber->report().bytes) / kRate;
  EXPECT_GT(windows, 20u);
  EXPECT_GT(seconds, expected - static_cast<double>(kLargestRead) / kRate - 0.1);
  EXPECT_LT(seconds, expected * 1.05 + 1);
  EXPECT_EQ(Describe(scrubber->report()), "0 findings");
  EXPECT_EQ(scrubber->report().passes_finished, 1u);
  // The pass took several slices, which did not read everything again.
  EXPECT_LT(static_cast<double>(scrubber->report().bytes),
            1.1 * static_cast<double>(scrubber->report().expected_bytes));
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// U3: in no part of a pass do the reads exceed the rate by more than one read.
TEST_F(ScrubTest, KeepsToItsRate) { Run(ScrubSlowly(this)); }

Task<void> CloseDuringAPass(ScrubTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  (*engine)->scrubber().StartPass(4096);
  co_await Sleep(*t->reactor_, 15 * kSecond);
  EXPECT_TRUE((*engine)->scrubber().report().running);
  const Nanos start = t->reactor_->NowNs();
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  EXPECT_LT(t->reactor_->NowNs() - start, 100 * kMillisecond);
}

TEST_F(ScrubTest, EndsPromptlyWhenTheEngineCloses) { Run(CloseDuringAPass(this)); }

Task<void> BackgroundPasses(ScrubTest* t) {
  t->setup_.engine.scrub.bytes_per_s = 4u << 20;
  t->setup_.engine.scrub.interval_ns = 60 * kSecond;
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await Fill(engine->get());
  Scrubber* scrubber = &(*engine)->scrubber();
  co_await Sleep(*t->reactor_, 330 * kSecond);
  EXPECT_EQ(scrubber->report().passes_finished, 5u);
  // A requested pass is replaced by one that is twice as fast.
  scrubber->StartPass(4096);
  co_await Sleep(*t->reactor_, 10 * kSecond);
  co_await OnePass(t->reactor_, scrubber);
  EXPECT_EQ(scrubber->report().passes_started, 7u);
  EXPECT_EQ(scrubber->report().passes_finished, 6u);
  // Asking again and again does not keep it from ending.
  scrubber->StartPass(1u << 20);
  for (int i = 0; i < 500 && scrubber->report().passes_finished == 6; ++i) {
    co_await Sleep(*t->reactor_, 20 * kMillisecond);
    scrubber->StartPass(1u << 20);
  }
  EXPECT_EQ(scrubber->report().passes_finished, 7u);
  EXPECT_LE(scrubber->report().passes_started, 9u);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

TEST_F(ScrubTest, PassesBeginByTheIntervalOrWhenAskedFor) { Run(BackgroundPasses(this)); }

// -- no false alarms

struct Load {
  SimReactor* reactor = nullptr;
  Engine* engine = nullptr;
  uint64_t seed = 0;
  bool over = false;
};

Task<void> WriteAtRandom(Load* load, uint64_t id) {
  SimRandom random(load->seed * 100 + id);
  const std::span<Partition* const> partitions = load->engine->partitions();
  while (!load->over) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 1 + random.Below(8); n > 0; --n) {
      const uint64_t k = random.Below(600);
      if (random.Chance(0.3)) {
        ops.push_back(RemoveOp(Key(k)));
      } else {
        ops.push_back(PutOp(Key(k), Value(random.Next() % 1000, random.Chance(0.05) ? 9000 : 10 + random.Below(700))));
      }
    }
    Status status = co_await Write(partitions[random.Below(partitions.size())], std::move(ops));
    EXPECT_OK(status);
    if (!status.ok()) co_return;
    if (random.Chance(0.05)) co_await Sleep(*load->reactor, random.Between(1, 200) * kMillisecond);
  }
}

Task<void> CheckpointAtRandom(Load* load) {
  SimRandom random(load->seed * 100 + 50);
  while (!load->over) {
    co_await Sleep(*load->reactor, random.Between(0, random.Chance(0.5) ? 5 : 500) * kMillisecond);
    EXPECT_OK(co_await load->engine->CheckpointAll());
  }
}

Task<void> SnapshotAtRandom(Load* load) {
  SimRandom random(load->seed * 100 + 60);
  std::vector<std::pair<std::vector<Partition*>, SnapshotId>> held;
  const std::span<Partition* const> partitions = load->engine->partitions();
  while (!load->over) {
    co_await Sleep(*load->reactor, random.Between(1, 800) * kMillisecond);
    if (held.size() < 3 && random.Chance(0.6)) {
      std::vector<Partition*> one{partitions[random.Below(partitions.size())]};
      Result<SnapshotInfo> opened = co_await CutSnapshot(*load->reactor, one, load->reactor->WallMs() + 3'600'000);
      EXPECT_OK(opened.status());
      if (!opened.ok()) co_return;
      held.emplace_back(std::move(one), opened->id);
    } else if (!held.empty()) {
      const size_t i = random.Below(held.size());
      EXPECT_OK(co_await ReleaseSnapshot(held[i].first, held[i].second));
      held.erase(held.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  for (auto& [one, id] : held) EXPECT_OK(co_await ReleaseSnapshot(one, id));
}

Task<void> ScrubUnderLoad(Load* load, Setup setup, std::string* problem) {
  SimRandom random(load->seed);
  auto engine = co_await OpenEngine(*load->reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  load->engine = engine->get();
  TaskGroup tasks;
  for (uint64_t id = 0; id < 3; ++id) tasks.Spawn(WriteAtRandom(load, id));
  tasks.Spawn(CheckpointAtRandom(load));
  tasks.Spawn(SnapshotAtRandom(load));
  Scrubber* scrubber = &load->engine->scrubber();
  for (int pass = 0; pass < 12 && problem->empty(); ++pass) {
    // The rates range from much faster than the writers to so slow that a tree takes several
    // slices.
    const uint64_t rates[] = {kFast, 8u << 20, 512u << 10, 48u << 10};
    scrubber->StartPass(rates[random.Below(pass < 4 ? 4 : 3)]);
    co_await UntilIdle(load->reactor, scrubber);
    if (scrubber->report().findings_total > 0) *problem = Describe(scrubber->report());
    if (scrubber->report().pages == 0) *problem = "a pass that read nothing";
  }
  load->over = true;
  co_await tasks.Drain();
  for (Partition* p : load->engine->partitions()) {
    // What a released snapshot held becomes free in the background.
    for (int i = 0; i < 1000 && p->stats().snapshot_pinned_bytes > 0; ++i) {
      co_await Sleep(*load->reactor, kMillisecond);
    }
    if (p->stats().snapshot_pinned_bytes > 0 && problem->empty()) *problem = "something is still held";
  }
  Status closed = co_await load->engine->Close(random.Chance(0.5));
  if (!closed.ok() && problem->empty()) *problem = closed.ToString();
  std::string audit = co_await Audit(*load->reactor, setup.store.data_dir);
  if (problem->empty()) *problem = std::move(audit);
}

// U2: nothing that changes on disk while a pass reads it becomes a finding.
TEST_F(ScrubTest, NoFalseAlarmsUnderLoad) {
  for (uint64_t seed : Seeds(8)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed * 77);
    SimOptions options;
    if (random.Chance(0.5)) options.disk_max_ns = 5 * kMillisecond;
    if (random.Chance(0.3)) options.short_transfer_probability = 0.1;
    SimKernel kernel(seed, options);
    SimMachine* machine = kernel.AddMachine();
    engine_test::Setup setup = setup_;
    setup.store.partitions = 2;
    setup.engine.compression = static_cast<Compression>(random.Below(3));
    setup.engine.log_budget_bytes = 2u << 20;
    setup.engine.checkpoint_interval_ns = 2 * kSecond;
    Load load;
    load.reactor = machine->Boot();
    load.seed = seed;
    std::string problem;
    EXPECT_TRUE(kernel.RunTask(*load.reactor, ScrubUnderLoad(&load, setup, &problem)));
    ASSERT_EQ(problem, "");
  }
}

Task<void> ChangeAndCheckpoint(Load* load) {
  for (uint64_t i = 0; !load->over; ++i) {
    EXPECT_OK(co_await Put(load->engine->partition(0), Key(i % 20), Value(i, 100)));
    EXPECT_OK(co_await load->engine->CheckpointAll());
  }
}

// Most of the time the disk contains half a checkpoint.
Task<void> ScrubAmongCheckpoints(Load* load, Setup setup, std::string* problem) {
  auto engine = co_await OpenEngine(*load->reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  load->engine = engine->get();
  TaskGroup tasks;
  tasks.Spawn(ChangeAndCheckpoint(load));
  Scrubber* scrubber = &load->engine->scrubber();
  uint64_t skipped = 0;
  for (int pass = 0; pass < 300 && problem->empty(); ++pass) {
    co_await OnePass(load->reactor, scrubber);
    if (scrubber->report().findings_total > 0) *problem = Describe(scrubber->report());
    skipped += scrubber->report().skipped;
  }
  EXPECT_LT(skipped, 10u);
  load->over = true;
  co_await tasks.Drain();
  EXPECT_OK(co_await load->engine->Close(/*checkpoint=*/true));
}

TEST_F(ScrubTest, NoFalseAlarmsWhileCheckpointsFollowEachOther) {
  for (uint64_t seed : Seeds(3)) {
    SCOPED_TRACE(Replay(seed));
    SimOptions options;
    options.disk_max_ns = 5 * kMillisecond;
    options.short_transfer_probability = 0.5;
    SimKernel kernel(seed, options);
    Load load;
    load.reactor = kernel.AddMachine()->Boot();
    std::string problem;
    EXPECT_TRUE(kernel.RunTask(*load.reactor, ScrubAmongCheckpoints(&load, setup_, &problem)));
    ASSERT_EQ(problem, "");
  }
}

}  // namespace
}  // namespace pando::engine_test
