// PartitionClock: the time by which a partition decides expiry and from which it derives versions,
// so that readers and writers agree on what has expired. StoreClock: the furthest of these times.
//
// A partition's time never goes backwards (P6). If the wall clock is set back, the time continues
// from the newest version, slightly slower than real time, so that the wall clock catches up. The
// times of partitions then differ, because each continues from a version of its own. What a client
// says about the time concerns any of them, so hello answers the furthest one.
//
// Threads: a PartitionClock belongs to one reactor. A StoreClock is for those of all reactors.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "src/base/ids.h"
#include "src/io/reactor.h"

namespace pando {

// How far a time runs in what the boot clock shows.
class SlowTime {
 public:
  static int64_t NowMs(const Reactor& reactor) {
    const int64_t boot_ms = reactor.NowNs() / kMillisecond;
    return boot_ms - boot_ms / kCatchUp;
  }

 private:
  static constexpr int64_t kCatchUp = 64;
};

class StoreClock {
 public:
  // The time of the partition that is furthest ahead.
  int64_t NowMs(const Reactor& reactor) const {
    return std::max(reactor.WallMs(), lead_ms_.load(std::memory_order_relaxed) + SlowTime::NowMs(reactor));
  }
  // The time of a partition is ahead of SlowTime by this much.
  void Note(int64_t lead_ms) {
    int64_t furthest_ms = lead_ms_.load(std::memory_order_relaxed);
    while (furthest_ms < lead_ms && !lead_ms_.compare_exchange_weak(furthest_ms, lead_ms, std::memory_order_relaxed)) {
    }
  }

 private:
  std::atomic<int64_t> lead_ms_ = 0;
};

class PartitionClock {
 public:
  // A version that comes from elsewhere may be so far ahead of the wall clock here, and no further: otherwise one clock
  // that is wrong, or whoever asks for it, would let records expire everywhere before their time.
  static constexpr int64_t kMaxLeadMs = 5000;

  PartitionClock(Reactor& reactor, std::shared_ptr<StoreClock> store) : reactor_(reactor), store_(std::move(store)) {}

  int64_t NowMs() const { return NowMs(reactor_.WallMs()); }
  int64_t NowMs(int64_t wall_ms) const { return std::max(wall_ms, RunningMs()); }
  const StoreClock& store() const { return *store_; }
  // The newest version given to a record or a snapshot.
  Version newest() const { return newest_; }
  // A version for the next record: newer than all before, and at or after the current time.
  Version Give() {
    Follow(std::max(newest_ + 1, VersionAtMs(NowMs())));
    return newest_;
  }
  // `version`, which is above the newest one (CHECKed).
  Version GiveThis(Version version) {
    CHECK_GT(version, newest_) << "P5, CM1: a version is given that is not above all earlier ones";
    Follow(version);
    return version;
  }
  // The lowest version that Give returns once See(seen) has been called.
  Version Next(Version seen) const {
    const Version allowed = std::min(seen, VersionAtMs(reactor_.WallMs() + kMaxLeadMs));
    return std::max(std::max(newest_, allowed) + 1, VersionAtMs(NowMs()));
  }
  // Whether a version that comes from elsewhere is not too far ahead of the time here.
  bool MayFollow(Version version) const { return version <= VersionAtMs(reactor_.WallMs() + kMaxLeadMs); }
  // The same for that of a mark. What clients have seen can lead the time here by kMaxLeadMs, and marks are above it.
  bool MayMark(Version version) const { return version <= VersionAtMs(reactor_.WallMs() + 2 * kMaxLeadMs); }
  // CM5: later versions are above this one. False: it is too far ahead, and they are only as high as they may be.
  bool See(Version seen) {
    if (seen <= newest_) return true;
    const bool may = MayFollow(seen);
    Follow(std::max(newest_, may ? seen : VersionAtMs(reactor_.WallMs() + kMaxLeadMs)));
    return may;
  }
  // Makes `version` the newest one. The time continues from it if it is ahead.
  void Follow(Version version) {
    newest_ = version;
    if (VersionMs(version) <= RunningMs()) return;
    lead_ms_ = VersionMs(version) - SlowTime::NowMs(reactor_);
    store_->Note(lead_ms_);
  }

 private:
  int64_t RunningMs() const { return lead_ms_ + SlowTime::NowMs(reactor_); }

  Reactor& reactor_;
  const std::shared_ptr<StoreClock> store_;
  Version newest_ = 0;
  int64_t lead_ms_ = 0;
};

}  // namespace pando
