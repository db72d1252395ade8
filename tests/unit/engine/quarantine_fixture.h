// A fixture for tests of quarantined partitions: a store of two partitions on one reactor, the even
// records in partition 0, whose files the tests damage, and the odd ones in partition 1.
//
// Threads: those of the simulation.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "src/base/codec.h"
#include "src/engine/snapshot_cut.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {

inline constexpr int kRecords = 400;

inline std::string Key(int i) { return fmt::format("key-{:04}", i); }
inline std::string Value(int i) { return fmt::format("value {} ", i) + std::string(300, 'v'); }
inline std::string DataPath(int partition) { return fmt::format("/data/partition-{:05}/data", partition); }

class QuarantineTest : public testing::Test {
 public:
  using Body = Task<void> (*)(QuarantineTest* t);
  QuarantineTest() {
    FLAGS_minloglevel = 3;
    setup_.engine.log_segment_bytes = 128u << 10;
    setup_.engine.log_budget_bytes = 2u << 20;
    setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  }
  // Runs `body` with an open engine, in a process of its own, which then closes it.
  void Run(Body body) {
    reactor_ = machine_->Boot();
    std::optional<Status> ran = kernel_.RunTask(*reactor_, WithEngine(this, body));
    EXPECT_TRUE(ran.has_value());
    machine_->PowerLoss(1);
  }
  static Task<Status> WithEngine(QuarantineTest* t, Body body) {
    engine_test::Setup setup = t->setup_;
    t->quarantined_ = 0;
    t->told_.clear();
    setup.engine.on_quarantine = [t](const QuarantinedPartition& q) {
      t->quarantined_ += t->told_.empty();
      t->told_.push_back(q.ToString());
    };
    auto engine = co_await OpenEngine(*t->reactor_, setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return engine.TakeStatus();
    t->engine_ = engine->get();
    co_await body(t);
    EXPECT_OK((*engine)->failure());
    EXPECT_EQ((*engine)->stats().quarantined_partitions, static_cast<uint64_t>(t->quarantined_));
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/t->checkpoint_));
    co_return Status();
  }
  std::string Check() {
    reactor_ = machine_->Boot();
    std::optional<std::string> problem = kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->PowerLoss(1);
    return *problem;
  }
  // All problems, one a line.
  std::string Problems() {
    reactor_ = machine_->Boot();
    Result<CheckReport> report = *kernel_.RunTask(*reactor_, CheckStore(*reactor_, "/data"));
    machine_->PowerLoss(1);
    EXPECT_OK(report.status());
    std::string all;
    for (const CheckProblem& p : report->problems) {
      all += fmt::format("{}{} at {}: {}\n", p.partition ? fmt::format("[{}] ", *p.partition) : "", p.file,
                         p.offset_bytes, p.what);
    }
    return all;
  }
  StoreInfo Info() {
    reactor_ = machine_->Boot();
    Result<StoreInfo> info = *kernel_.RunTask(*reactor_, LoadStore(*reactor_, "/data"));
    EXPECT_OK(info.status());
    machine_->PowerLoss(1);
    return *std::move(info);
  }

  void FailWrites() {
    for (IoOp::Kind kind : {IoOp::Kind::kWrite, IoOp::Kind::kWritev}) {
      DiskFault fault;
      fault.kind = kind;
      fault.path_contains = DataPath(0);
      fault.count = UINT64_MAX;
      fault.error_number = EIO;
      machine_->AddFault(fault);
    }
  }

  // -- bodies
  static Task<void> Fill(QuarantineTest* t) {
    for (int i = 0; i < kRecords; ++i) {
      EXPECT_OK(co_await Put(t->engine_->partition(static_cast<uint32_t>(i) % 2), Key(i), Value(i)));
      if (i == kRecords / 2) EXPECT_OK(co_await t->engine_->CheckpointAll());
    }
  }
  static Task<void> FindAll(QuarantineTest* t) {
    EXPECT_EQ(t->quarantined_, 0);
    for (int i = 0; i < kRecords; ++i) co_await Find(t, i);
    EXPECT_OK(co_await Put(t->engine_->partition(0), "after", "all"));
  }
  static Task<void> Find(QuarantineTest* t, int i) {
    Result<ReadResult> got =
        co_await t->engine_->partition(static_cast<uint32_t>(i) % 2)->Get(Key(i), kNewest, nullptr);
    EXPECT_OK(got.status());
    EXPECT_EQ(got.ok() ? got->value : "", Value(i));
  }
  // Partition 0 refuses everything and says why; partition 1 serves.
  static Task<void> ExpectQuarantine(QuarantineTest* t) {
    EXPECT_EQ(t->quarantined_, 1);
    Partition* p = t->engine_->partition(0);
    auto expect = [&](const Status& status, const char* what) {
      EXPECT_EQ(status.code(), Code::kUnavailable) << what << ": " << status.ToString();
      EXPECT_THAT(status.message(),
                  testing::AllOf(testing::HasSubstr("partition 0 is quarantined"), testing::HasSubstr(t->says_)))
          << what;
    };
    expect((co_await p->Get(Key(0), kNewest, nullptr)).status(), "get");
    expect(co_await Put(p, Key(0), "x"), "put");
    ScanSpec spec;
    expect((co_await p->Scan(spec)).status(), "scan");
    spec.max_rows = 0;
    expect((co_await p->Scan(spec)).status(), "an empty scan");
    expect((co_await p->Aggregate("", "", kNewest)).status(), "count");
    expect((co_await p->KeysAtRanks("", "", std::vector<uint64_t>(1, 0), kNewest)).status(), "split");
    expect((co_await p->Changes(0, "", 10, 1000)).status(), "watch");
    EXPECT_EQ(p->newest_change(), UINT64_MAX) << "watchers must look";
    expect((co_await p->DescribeSnapshot(7)).status(), "snapshot");
    expect(co_await p->Checkpoint(), "checkpoint");
    expect(co_await t->engine_->CheckpointAll(), "checkpoint of all");
    std::vector<Partition*> all(t->engine_->partitions().begin(), t->engine_->partitions().end());
    expect((co_await CutSnapshot(*t->reactor_, all, INT64_MAX)).status(), "a snapshot of all");
    std::vector<PointRead> reads(2);
    std::vector<std::string> keys;
    for (int i = 0; i < 2; ++i) keys.push_back(Key(i));
    for (uint32_t i = 0; i < 2; ++i) reads[i].partition = all[i], reads[i].key = keys[i];
    t->engine_->BatchGet(reads);
    EXPECT_EQ(reads[0].outcome, PointRead::Outcome::kMiss);
    EXPECT_NE(reads[1].outcome, PointRead::Outcome::kNotFound);
    const std::vector<QuarantinedPartition> found = t->engine_->quarantined();
    EXPECT_TRUE(found.size() == 1 && found.front().id == 0);
    EXPECT_THAT(found.empty() ? "" : found.front().why.message(), testing::HasSubstr(t->says_));
    for (int i = 1; i < kRecords; i += 2) co_await Find(t, i);
    EXPECT_OK(co_await Put(all[1], "other", "value"));
    EXPECT_OK(co_await all[1]->Checkpoint());
    co_await Sleep(*t->reactor_, kSecond);  // the engine's policies see it
  }
  // Writes much more to the other partition than the log holds.
  static Task<void> FillTheLog(QuarantineTest* t) {
    co_await ExpectQuarantine(t);
    for (int i = 0; i < 600; ++i) {
      EXPECT_OK(co_await Put(t->engine_->partition(1), fmt::format("much-{}", i % 20), std::string(9000, 'm')));
    }
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  // Damages the root of the newest tree of partition 0. Returns the sound file.
  std::string DamageRoot() {
    const std::string sound = machine_->disk().ReadAll(DataPath(0));
    std::string damaged = sound;
    const uint64_t newest = LoadLE<uint64_t>(&sound[8192 + 56]) > LoadLE<uint64_t>(&sound[56]) ? 8192 : 0;
    damaged[LoadLE<Extent>(&sound[newest + 104]).offset_bytes() + 77] ^= 32;
    machine_->disk().WriteAll(DataPath(0), damaged);
    says_ = DataPath(0);
    return sound;
  }
  // Damages all superblocks of partition 0. Returns the sound file.
  std::string DamageSuperblocks() {
    const std::string sound = machine_->disk().ReadAll(DataPath(0));
    std::string damaged = sound;
    for (size_t copy = 0; copy < 4; ++copy) damaged[copy * 4096 + 1000] ^= 1;
    machine_->disk().WriteAll(DataPath(0), damaged);
    says_ = DataPath(0) + ": no valid superblock";
    return sound;
  }

  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Engine* engine_ = nullptr;
  std::string says_;  // every refusal
  int quarantined_ = 0;
  std::vector<std::string> told_;  // by on_quarantine
  bool checkpoint_ = false;
};

}  // namespace pando::engine_test
