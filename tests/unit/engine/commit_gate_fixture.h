// The fixture for tests of commit gates: an engine on a simulated machine, with gates that do what the
// test says. Each body runs in a process of its own, which then crashes or closes.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "src/io/sync.h"
#include "src/io/timed_wait.h"
#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {

// Does what the test says, and nothing by itself.
class ManualGate final : public CommitGate {
 public:
  Start OnRecovered(const RecoveredLog& log) override {
    recovered = log;
    return {leads ? log.epoch + 1 : log.epoch, log.committed_lsn};
  }
  void OnServing(GatedPartition* p) override { partition = p; }
  void OnDurable(Lsn up_to) override {
    EXPECT_FALSE(closed) << "called after OnClosed";
    durable_lsn = up_to;
    if (commits) partition->Commit(up_to);
  }
  void OnClosed() override {
    EXPECT_FALSE(closed) << "told twice";
    closed = true;
  }
  Status MayWrite(WriteLevel, Epoch seen) override {
    if (seen > partition->epoch()) return Error(Code::kNotMaster, "the session has seen a later master");
    return leads ? Status() : Error(Code::kNotMaster, "another node is master");
  }
  Status CheckDisks(uint64_t bytes) override {
    return bytes <= room ? Status() : Error(Code::kDiskFull, "the disk of a follower is full");
  }
  Status MayMark() const override { return may_mark; }
  bool Leads() const override { return leads; }
  void OnAppended() override { ++appended; }
  bool HoldsWrites() const override { return held != nullptr; }
  Task<Status> UntilMayWrite(WriteLevel level, Epoch seen, Nanos deadline_ns) override {
    WaitQueue* queue = held;
    co_await WaitUntil(*reactor, *queue, deadline_ns, [this] { return held == nullptr; });
    co_return MayWrite(level, seen);
  }
  bool frozen() const override { return is_frozen; }
  bool HasFollowers() const override { return followers; }
  Task<Status> UntilOnAll(Lsn lsn, Nanos) override {
    asked_on_all = lsn;
    co_return on_all;
  }

  RecoveredLog recovered;
  GatedPartition* partition = nullptr;
  Lsn durable_lsn = 0;
  bool closed = false;
  bool commits = false;  // at once
  bool leads = true;
  Status may_mark;
  uint64_t room = UINT64_MAX;
  uint64_t appended = 0;  // calls of OnAppended
  // -- levels, and a handover that holds writes
  bool followers = false, is_frozen = false;
  Reactor* reactor = nullptr;
  WaitQueue* held = nullptr;  // where writes wait; null: they do not
  Lsn asked_on_all = 0;
  Status on_all;
};

// A write that nobody waits for yet.
struct Pending {
  Code code = Code::kNotFound;
  bool done = false;
};

inline Task<void> PutLater(Partition* partition, std::string key, std::string value, Pending* pending) {
  const Status status = co_await Put(partition, std::move(key), std::move(value));
  pending->code = status.code();
  pending->done = true;
}

inline Task<void> UntilDurable(Reactor* reactor, Partition* partition) {
  // The write may not be appended yet, so one turn passes first.
  do {
    co_await Sleep(*reactor, kMillisecond);
  } while (partition->stats().durable_lsn < partition->stats().last_lsn);
}

inline Task<std::string> ValueOf(Partition* partition, std::string key) {
  Result<ReadResult> got = co_await partition->Get(std::move(key), kNewest, nullptr);
  EXPECT_OK(got.status());
  co_return got.ok() && got->found ? got->value : "none";
}

class CommitGateTest : public testing::Test {
 public:
  using Body = Task<void> (*)(CommitGateTest* t);
  // Runs `body` in a process of its own, which then crashes or closes.
  void Run(Body body, bool close = false) {
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WithEngine(this, body, close)));
    if (power_loss_) {
      machine_->PowerLoss(1);
    } else {
      machine_->ProcessCrash(1);
    }
  }
  // As Run, but the engine does not open, and the error is returned.
  Status RunRefused() {
    reactor_ = machine_->Boot();
    std::optional<Status> opened = kernel_.RunTask(*reactor_, OpenOnly(this));
    machine_->ProcessCrash(1);
    return *opened;
  }
  static Task<Status> OpenOnly(CommitGateTest* t) {
    auto engine = co_await OpenEngine(*t->reactor_, t->SetupWithGates());
    if (!engine.ok()) co_return engine.TakeStatus();
    co_return co_await (*engine)->Close(false);
  }
  engine_test::Setup SetupWithGates() {
    engine_test::Setup setup = setup_;
    setup.engine.make_gate = [this](uint32_t partition) -> std::unique_ptr<CommitGate> {
      if (!gated_.contains(partition)) return nullptr;
      auto gate = std::make_unique<ManualGate>();
      gate->leads = leads_;
      gates_[partition] = gate.get();
      if (partition == *gated_.begin()) gate_ = gate.get();
      return gate;
    };
    return setup;
  }

  static Task<void> WithEngine(CommitGateTest* t, Body body, bool close) {
    auto engine = co_await OpenEngine(*t->reactor_, t->SetupWithGates());
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    t->engine_ = engine->get();
    t->p_ = (*engine)->partition(*t->gated_.begin());
    t->r_ = static_cast<Replica*>(t->p_);
    t->tasks_ = new TaskGroup;
    abandoned_.push_back(t->tasks_);
    co_await body(t);
    if (close) EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
    // Otherwise the process crashes here. What it waits for refers to its memory, which stays.
    if (!close) abandoned_.push_back(engine->release());
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Engine* engine_ = nullptr;
  Partition* p_ = nullptr;  // the one with the gate
  Replica* r_ = nullptr;    // the same
  ManualGate* gate_ = nullptr;
  std::set<uint32_t> gated_{0};  // the partitions with gates
  std::map<uint32_t, ManualGate*> gates_;
  bool power_loss_ = false;  // else the process crashes
  bool leads_ = true;        // ManualGate::leads, at the start
  TaskGroup* tasks_ = nullptr;
  Pending a_, b_, c_;
  static std::vector<void*>& abandoned_;  // never destroyed
};

inline std::vector<void*>& CommitGateTest::abandoned_ = *new std::vector<void*>;

}  // namespace pando::engine_test
