// LateGate: commits late, a part at a time, and begins higher epochs that supersede what it has not
// committed, as the gate of a replicated partition may.
//
// Threads: one reactor.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "src/io/reactor.h"
#include "src/model/commit_gate.h"
#include "tests/support/sim_random.h"

namespace pando {

// What the gates of one partition have decided, over all of its processes. In a cluster the other
// replicas know it.
struct GateMemory {
  Lsn committed_lsn = 0;
  Epoch epoch = 0;
  uint64_t commits = 0, superseding_epochs = 0;
};

class LateGate final : public CommitGate, private Timer {
 public:
  struct Options {
    Nanos max_delay_ns = 2 * kMillisecond;
    double epoch_chance = 0.03;  // that a decision is a new epoch
    // That it decides nothing for a long time, as if too few replicas answered.
    double stall_chance = 0.005;
    Nanos max_stall_ns = 6 * kSecond;
  };
  LateGate(Reactor& reactor, GateMemory* memory, uint64_t seed, Options options)
      : reactor_(reactor), memory_(*memory), random_(seed), options_(options) {
    on_fire = [](Timer* timer) { static_cast<LateGate*>(timer)->Decide(); };
  }
  ~LateGate() override { reactor_.CancelTimer(this); }

  Start OnRecovered(const RecoveredLog& log) override {
    EXPECT_GE(log.durable_lsn, memory_.committed_lsn) << "what was committed is lost";
    const Lsn least = std::max(log.committed_lsn, memory_.committed_lsn);
    memory_.committed_lsn = random_.Chance(0.5) ? least : log.durable_lsn;
    memory_.epoch = std::max(log.epoch, memory_.epoch) + 1;
    durable_lsn_ = log.durable_lsn;
    return {memory_.epoch, memory_.committed_lsn};
  }
  void OnServing(GatedPartition* partition) override {
    partition_ = partition;
    if (memory_.committed_lsn < durable_lsn_) DecideLater();
  }
  void OnDurable(Lsn up_to) override {
    durable_lsn_ = up_to;
    if (!armed) DecideLater();
  }
  void OnClosed() override { reactor_.CancelTimer(this); }

 private:
  void DecideLater() {
    reactor_.ArmTimer(this, reactor_.NowNs() + static_cast<Nanos>(random_.Below(options_.max_delay_ns)));
  }
  void Decide() {
    if (!std::exchange(stalled_, false) && random_.Chance(options_.stall_chance)) {
      stalled_ = true;
      reactor_.ArmTimer(this, reactor_.NowNs() + static_cast<Nanos>(random_.Below(options_.max_stall_ns)));
      return;
    }
    const Lsn lsn = partition_->UnitEndBefore(
        random_.Between(static_cast<int64_t>(memory_.committed_lsn), static_cast<int64_t>(durable_lsn_)));
    if (random_.Chance(options_.epoch_chance)) {
      memory_.superseding_epochs += lsn < durable_lsn_;
      durable_lsn_ = std::min(durable_lsn_, lsn);
      partition_->BeginEpoch(++memory_.epoch, lsn);
    } else if (lsn > memory_.committed_lsn) {
      ++memory_.commits;
      memory_.committed_lsn = lsn;
      partition_->Commit(lsn);
    }
    if (memory_.committed_lsn < durable_lsn_ && !armed) DecideLater();
  }

  Reactor& reactor_;
  GateMemory& memory_;
  SimRandom random_;
  const Options options_;
  GatedPartition* partition_ = nullptr;
  Lsn durable_lsn_ = 0;
  bool stalled_ = false;  // by the last decision
};

}  // namespace pando
