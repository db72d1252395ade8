// The engine on a disk that fails: errors of single reads, of the log, of a checkpoint's sync, no space, flipped bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using ::testing::HasSubstr;

constexpr size_t kValueBytes = 300;
constexpr char kDataOfPartition0[] = "/data/partition-00000/data";

std::string Key(int i) { return fmt::format("key-{:06}", i); }
std::string Value(int i) {
  return fmt::format("value {} ", i) + std::string(kValueBytes, static_cast<char>('a' + i % 26));
}

class EngineFaultTest : public testing::Test {
 protected:
  EngineFaultTest() {
    setup_.store.partitions = 1;
    setup_.engine.log_segment_bytes = 1u << 20;
  }
  // Runs `body` in a process of its own on what the disk holds.
  template <typename Body>
  void Run(Body body) {
    if (machine_->running()) machine_->ProcessCrash(1);
    SimReactor* reactor = machine_->Boot();
    ASSERT_TRUE(kernel_.RunTask(*reactor, body(reactor)));
  }
  Task<std::unique_ptr<Engine>> Open(Reactor* reactor) {
    auto engine = co_await OpenEngine(*reactor, setup_);
    EXPECT_OK(engine.status());
    co_return engine.ok() ? *std::move(engine) : nullptr;
  }
  Task<void> Fill(Reactor* reactor, int records, bool checkpoint) {
    std::unique_ptr<Engine> engine = co_await Open(reactor);
    if (!engine) co_return;
    for (int i = 0; i < records; ++i) EXPECT_OK(co_await Put(engine->partition(0), Key(i), Value(i)));
    EXPECT_OK(co_await engine->Close(checkpoint));
  }
  // All of [0, records) are there and right.
  Task<void> ExpectAll(Partition* p, int records) {
    for (int i = 0; i < records; ++i) {
      Result<ReadResult> got = co_await p->Get(Key(i));
      EXPECT_OK(got.status());
      if (!got.ok()) co_return;
      EXPECT_TRUE(got->found && got->value == Value(i)) << Key(i);
    }
  }
  void ExpectSoundAndComplete(int records) {
    Run([this, records](Reactor* reactor) -> Task<void> {
      std::unique_ptr<Engine> engine = co_await Open(reactor);
      if (!engine) co_return;
      co_await ExpectAll(engine->partition(0), records);
      EXPECT_OK(co_await engine->Close(true));
      std::string problem = co_await Audit(*reactor, setup_.store.data_dir);
      EXPECT_EQ(problem, "");
    });
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

TEST_F(EngineFaultTest, AFailedReadFailsThatRequestOnly) {
  constexpr int kRecords = 20'000;  // more than the pool holds
  Run([this](Reactor* reactor) { return Fill(reactor, kRecords, true); });
  Run([this](Reactor* reactor) -> Task<void> {
    std::unique_ptr<Engine> engine = co_await Open(reactor);
    if (!engine) co_return;
    DiskFault fault;
    fault.kind = IoOp::Kind::kRead;
    fault.path_contains = kDataOfPartition0;
    fault.skip = 50;
    machine_->AddFault(fault);
    int failed = 0;
    for (int i = 0; i < kRecords; ++i) {
      Result<ReadResult> got = co_await engine->partition(0)->Get(Key(i));
      if (got.ok()) continue;
      ++failed;
      EXPECT_EQ(got.code(), Code::kIoError);
      EXPECT_THAT(got.status().message(), HasSubstr(kDataOfPartition0));
      Result<ReadResult> again = co_await engine->partition(0)->Get(Key(i));
      EXPECT_OK(again.status());
    }
    EXPECT_EQ(failed, 1);
    EXPECT_OK(engine->failure());
    EXPECT_OK(co_await engine->Close(true));
  });
}

// After `fault` a write or checkpoint fails and the engine stops; a new process finds everything acknowledged.
TEST_F(EngineFaultTest, AFailedLogOrCheckpointStopsTheEngineAndLosesNothing) {
  DiskFault log_write, data_write, data_sync;
  log_write.kind = IoOp::Kind::kWrite;
  log_write.path_contains = "/data/wal-0";
  data_write.kind = IoOp::Kind::kWrite;
  data_write.path_contains = kDataOfPartition0;
  data_sync.kind = IoOp::Kind::kSync;
  data_sync.path_contains = kDataOfPartition0;
  int acknowledged = 0;
  for (DiskFault fault : {log_write, data_write, data_sync}) {
    fault.skip = 2;
    Run([&](Reactor* reactor) -> Task<void> {
      std::unique_ptr<Engine> engine = co_await Open(reactor);
      if (!engine) co_return;
      machine_->AddFault(fault);
      Status failure;
      for (int more = 0; more < 3000 && failure.ok(); ++more) {
        failure = co_await Put(engine->partition(0), Key(acknowledged), Value(acknowledged));
        if (failure.ok()) ++acknowledged;
        if (failure.ok() && more % 500 == 499) failure = co_await engine->CheckpointAll();
      }
      EXPECT_FALSE(failure.ok());
      EXPECT_FALSE(engine->failure().ok());
      EXPECT_THAT(engine->failure().message(), HasSubstr(fault.path_contains));
      Status refused = co_await Put(engine->partition(0), "late", "x");
      EXPECT_FALSE(refused.ok()) << "a write was acknowledged after the disk had failed";
      Status closed = co_await engine->Close(false);
      (void)closed.ok();
    });
    machine_->ClearFaults();
    machine_->PowerLoss(7);
    ExpectSoundAndComplete(acknowledged);
  }
  EXPECT_GT(acknowledged, 0);
}

TEST_F(EngineFaultTest, AFullDiskRefusesWritesServesReadsAndComesBack) {
  Run([this](Reactor* reactor) -> Task<void> {
    std::unique_ptr<Engine> engine = co_await Open(reactor);
    if (!engine) co_return;
    Partition* p = engine->partition(0);
    int records = 0;
    // Every segment of the log exists before the disk is made small.
    for (; records < 30'000; ++records) EXPECT_OK(co_await Put(p, Key(records), Value(records)));
    EXPECT_OK(co_await engine->CheckpointAll());
    machine_->disk().SetCapacity(machine_->disk().used_bytes() + (2u << 20));
    Status full;
    for (int more = 0; more < 60'000 && full.ok(); ++more) {
      full = co_await Put(p, Key(records), Value(records));
      if (full.ok()) ++records;
    }
    EXPECT_EQ(full.code(), Code::kDiskFull) << full.ToString();
    EXPECT_OK(engine->failure());
    co_await ExpectAll(p, records);
    for (int i = records / 2; i < records; ++i) EXPECT_OK(co_await Remove(p, Key(i)));
    for (int round = 0; round < 3; ++round) EXPECT_OK(co_await engine->CheckpointAll());
    for (int i = records / 2; i < records / 2 + 500; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i)));
    co_await ExpectAll(p, records / 2 + 500);
    EXPECT_OK(co_await engine->Close(true));
    std::string problem = co_await Audit(*reactor, setup_.store.data_dir);
    EXPECT_EQ(problem, "");
  });
}

// With one bit flipped anywhere, the store opens or says which file is damaged, and no request is answered wrong.
TEST_F(EngineFaultTest, AFlippedBitIsReportedAndNeverServed) {
  constexpr int kRecords = 400;
  for (bool checkpoint : {true, false}) {
    Run([&](Reactor* reactor) { return Fill(reactor, kRecords, checkpoint); });
    machine_->ProcessCrash(1);
    const SimDisk whole = machine_->disk();
    const std::string path = checkpoint ? kDataOfPartition0 : "/data/wal-0/segment-00000000000000000001.wal";
    ASSERT_TRUE(whole.Exists(path)) << path;
    int reported = 0;
    for (uint64_t block = 0; block < 80; ++block) {
      machine_->disk() = whole;
      machine_->disk().FlipBit(path, block * 4096 + 50 + block % 60);
      Run([&](Reactor* reactor) -> Task<void> {
        bool damage_seen = false;
        auto engine = co_await OpenEngine(*reactor, setup_);
        if (!engine.ok()) {
          damage_seen = true;
          EXPECT_EQ(engine.code(), Code::kCorruption) << engine.status().ToString();
          EXPECT_THAT(engine.status().message(), HasSubstr(path));
        } else {
          for (int i = 0; i < kRecords; ++i) {
            Result<ReadResult> got = co_await (*engine)->partition(0)->Get(Key(i));
            if (got.ok()) {
              EXPECT_TRUE(got->found && got->value == Value(i)) << "block " << block << ", " << Key(i);
              continue;
            }
            damage_seen = true;
            EXPECT_EQ(got.code(), Code::kCorruption);
            EXPECT_THAT(got.status().message(), HasSubstr(path));
          }
          EXPECT_OK(co_await (*engine)->Close(false));
        }
        reported += damage_seen;
      });
    }
    EXPECT_GT(reported, 20) << path;
    machine_->ProcessCrash(1);
    machine_->disk() = SimDisk();
  }
}

}  // namespace
}  // namespace pando::engine_test
