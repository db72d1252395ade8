// DiskWatch: whether the own disk still does what was asked of it. A sync that hangs says nothing by
// itself, so the watch looks, again and again, at what should become durable and at what is.
//
// Threads: that of the partition.
#pragma once

#include <compare>
#include <cstdint>

#include "src/base/ids.h"
#include "src/io/reactor.h"

namespace pando::replication {

struct DiskTimes {
  Nanos stalled_after_ns = kSecond;          // without progress
  Nanos slow_after_ns = 300 * kMillisecond;  // a sync that took so long
  Nanos slow_for_ns = 10 * kSecond;          // makes the disk a slow one for this long
};

class DiskWatch {
 public:
  explicit DiskWatch(const DiskTimes& times) : times_(times) {}

  struct State {
    Lsn durable = 0;
    Epoch promise = 0;  // the stored one
    auto operator<=>(const State&) const = default;
  };
  // Called often. `waits`: something was handed to the disk that `state` does not have yet.
  void Look(const State& state, bool waits, Nanos now_ns) {
    const bool moved = state != state_;
    // After a pause of the whole process, completions wait too; so it must have looked several times.
    const bool long_looked = ++looks_ >= kFewestLooks;
    const Nanos waited = now_ns - since_ns_;
    if (moved && since_ns_ != 0 && long_looked && waited >= times_.slow_after_ns) {
      slow_until_ns_ = now_ns + times_.slow_for_ns;
    }
    if (moved || !waits || since_ns_ == 0) {
      state_ = state;
      since_ns_ = now_ns;
      looks_ = 0;
    }
    stalled_ = waits && !moved && since_ns_ != now_ns && long_looked && waited >= times_.stalled_after_ns;
    now_ns_ = now_ns;
  }
  bool stalled() const { return stalled_; }
  // Another replica should rather be master.
  bool slow() const { return stalled_ || now_ns_ < slow_until_ns_; }

 private:
  static constexpr int kFewestLooks = 5;

  const DiskTimes times_;
  State state_;
  Nanos since_ns_ = 0;  // nothing has moved since, or nothing was waited for then; 0: not looked yet
  Nanos slow_until_ns_ = 0, now_ns_ = 0;
  int looks_ = 0;
  bool stalled_ = false;
};

}  // namespace pando::replication
