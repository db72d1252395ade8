// The engine's contract. The same tests run on the simulated kernel and on io_uring.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "src/io/call_on.h"
#include "src/io/uring_reactor.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

// A machine whose process can be restarted any number of times on the same files.
class Host {
 public:
  virtual ~Host() = default;
  virtual void Restart() = 0;  // starts a new process with a new reactor
  virtual void Run(Task<void> (*body)(Reactor&, Setup)) = 0;
  Setup setup;
};

class SimHost final : public Host {
 public:
  void Restart() override {
    if (machine_->running()) machine_->ProcessCrash(1);
    machine_->Boot();
  }
  void Run(Task<void> (*body)(Reactor&, Setup)) override {
    EXPECT_TRUE(kernel_.RunTask(*machine_->reactor(), body(*machine_->reactor(), setup)));
  }

 private:
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

class UringHost final : public Host {
 public:
  UringHost() {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    setup.store.data_dir = directory_ + "/data";
  }
  ~UringHost() override {
    reactor_.reset();
    std::filesystem::remove_all(directory_);
  }
  static Status Refusal() { return MakeUringReactor({}).TakeStatus(); }
  void Restart() override {
    reactor_.reset();
    reactor_ = *MakeUringReactor({});
  }
  void Run(Task<void> (*body)(Reactor&, Setup)) override { RunBlocking(*reactor_, body(*reactor_, setup)); }

 private:
  std::string directory_ = std::filesystem::current_path() / "engine_test_XXXXXX";
  std::unique_ptr<Reactor> reactor_;
};

std::string Key(int i) { return fmt::format("key-{:06}", i); }
std::string Value(int i, size_t bytes) {
  std::string value = fmt::format("value {} ", i);
  while (value.size() < bytes) value.push_back(static_cast<char>('a' + (value.size() * 7 + i) % 26));
  return value;
}

Task<void> ExpectRecords(Partition* p, int from, int to, int step, size_t bytes) {
  for (int i = from; i < to; ++i) {
    Result<ReadResult> got = co_await p->Get(Key(i), kNewest, nullptr);
    EXPECT_TRUE(got.ok()) << got.status().ToString();
    if (!got.ok()) co_return;
    EXPECT_EQ(got->found, i % step == 0) << Key(i);
    EXPECT_EQ(got->value, got->found ? Value(i, bytes) : "");
  }
}

constexpr int kKeys = 3000;

Task<void> FillAndThin(Reactor& reactor, Setup setup) {
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  for (Partition* p : (*engine)->partitions()) {
    for (int i = 0; i < kKeys; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i, 100)));
    co_await ExpectRecords(p, 0, kKeys, 1, 100);
    for (int i = 0; i < kKeys; ++i) {
      if (i % 3 == 0) continue;
      EXPECT_OK(co_await Remove(p, Key(i)));
    }
    Result<RangeAggregates> sum = co_await p->Aggregate("", "", kNewest);
    EXPECT_OK(sum.status());
    EXPECT_EQ(sum->count, kKeys / 3);
    EXPECT_EQ(sum->bytes, kKeys / 3 * (Key(0).size() + Value(0, 100).size()));
    ScanSpec spec;
    spec.start = Key(10);
    spec.end = Key(30);
    Result<ScanPage> page = co_await p->Scan(spec);
    EXPECT_OK(page.status());
    EXPECT_EQ(page->rows.size(), 6u);
    EXPECT_TRUE(page->exhausted);
    EXPECT_EQ(page->rows.front().key, Key(12));
    EXPECT_EQ(page->rows.back().key, Key(27));
    spec.reverse = true;
    spec.max_rows = 2;
    page = co_await p->Scan(spec);
    EXPECT_OK(page.status());
    EXPECT_EQ(page->rows.size(), 2u);
    EXPECT_EQ(page->rows.front().key, Key(27));
  }
  EXPECT_OK(co_await (*engine)->CheckpointAll());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// Opens the store, verifies what FillAndThin left, writes, removes, and closes.
template <bool kCheckpoint>
Task<void> ReopenAndUse(Reactor& reactor, Setup setup) {
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  for (Partition* p : (*engine)->partitions()) {
    co_await ExpectRecords(p, 0, kKeys, 3, 100);
    EXPECT_OK(co_await Put(p, "big", Value(1, 200'000)));
    Result<ReadResult> got = co_await p->Get("big", kNewest, nullptr);
    EXPECT_OK(got.status());
    EXPECT_EQ(got->value, Value(1, 200'000));
    EXPECT_OK(co_await Remove(p, "big"));
  }
  EXPECT_OK(co_await (*engine)->Close(kCheckpoint));
}

Task<void> ExpectSound(Reactor& reactor, Setup setup) {
  std::string problem = co_await Audit(reactor, setup.store.data_dir);
  EXPECT_EQ(problem, "");
}

void LifeOfAStore(Host* host) {
  for (auto body : {FillAndThin, ExpectSound, ReopenAndUse<false>, ExpectSound, ReopenAndUse<true>, ExpectSound,
                    ReopenAndUse<false>, ExpectSound}) {
    host->Restart();
    host->Run(body);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Engine, LifeOfAStoreSimulated) {
  SimHost host;
  LifeOfAStore(&host);
}

TEST(Engine, LifeOfAStoreOnUring) {
  if (Status refused = UringHost::Refusal(); !refused.ok()) GTEST_SKIP() << refused.ToString();
  UringHost host;
  LifeOfAStore(&host);
}

// Settings with little memory and no other reason to checkpoint.
Setup SmallPool(uint32_t partitions, uint64_t log_segment_bytes) {
  Setup setup;
  setup.store.partitions = partitions;
  setup.engine.memory_bytes = 2u << 20;
  setup.engine.log_segment_bytes = log_segment_bytes;
  setup.engine.log_budget_bytes = 64u << 20;
  setup.engine.checkpoint_interval_ns = 3600 * kSecond;
  return setup;
}

// Recovery would need one read for each record whose page is no longer in memory, so the engine
// keeps the log short.
Task<void> KeepsLittleLog(Reactor& reactor, Setup setup) {
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  const uint64_t pages = (*engine)->stats().pool_pages;
  uint64_t most = 0, written = 0;
  for (uint64_t i = 0; i < 40 * pages; ++i, ++written) {
    EXPECT_OK(co_await Put((*engine)->partition(i % 2), Key(static_cast<int>(i % 1000)), Value(1, 10)));
    most = std::max(most, (*engine)->stats().log.unreleased_records);
  }
  EXPECT_LT(most, written / 3) << "of " << written << " records; the pool has " << pages << " pages";
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

TEST(Engine, KeepsNoMoreLogThanThePoolCanReplay) {
  SimHost host;
  host.setup = SmallPool(/*partitions=*/2, /*log_segment_bytes=*/64u << 10);
  host.Restart();
  host.Run(KeepsLittleLog);
}

// The log that followers may need is kept up to a limit, and given back if there is none.
Task<void> ReleasesLog(Reactor& reactor, Setup setup) {
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  for (int i = 0; i < 3000; ++i) EXPECT_OK(co_await Put((*engine)->partition(0), Key(i % 100), Value(i, 300)));
  for (int i = 0; i < 2; ++i) EXPECT_OK(co_await (*engine)->CheckpointAll());
  const uint64_t limit = setup.engine.log_retained_bytes, kept = (*engine)->stats().log.retained_bytes;
  EXPECT_LE(kept, limit);
  EXPECT_GE(kept, limit / 2);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

TEST(Engine, RetainsLogForFollowers) {
  for (const uint64_t limit : {uint64_t{0}, uint64_t{512} << 10}) {
    SimHost host;
    host.setup = SmallPool(/*partitions=*/1, /*log_segment_bytes=*/64u << 10);
    host.setup.engine.log_retained_bytes = limit;
    host.Restart();
    host.Run(ReleasesLog);
  }
}

// Repeatedly overwrites eight times the pool's memory. The space that waits to be freed stays a
// fraction of the data.
Task<void> GivesSpaceBack(Reactor& reactor, Setup setup) {
  constexpr int kRecords = 8000;
  auto engine = co_await OpenEngine(reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  Partition* p = (*engine)->partition(0);
  for (int i = 0; i < kRecords; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i, 1000)));
  const uint64_t loaded = p->stats().used_bytes;
  uint64_t most = 0;
  for (int i = 0; i < 4 * kRecords; ++i) {
    const int n = i * 7919 % kRecords;  // every record once per round, neighbors far apart in time
    EXPECT_OK(co_await Put(p, Key(n), Value(n + 1, 1000)));
    most = std::max(most, p->stats().pending_free_bytes);
  }
  EXPECT_LT(most, loaded / 4) << "of " << loaded << " bytes, " << p->stats().file_bytes << " in the file";
  EXPECT_LT(p->stats().file_bytes, 2 * loaded);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

TEST(Engine, OverwritesDoNotGrowTheFile) {
  SimHost host;
  host.setup = SmallPool(/*partitions=*/1, /*log_segment_bytes=*/1u << 20);
  host.Restart();
  host.Run(GivesSpaceBack);
}

}  // namespace
}  // namespace pando::engine_test
