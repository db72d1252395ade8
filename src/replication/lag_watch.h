// LagWatch: how long a follower takes to have what its master has, apart from the way there and back. A disk that is
// merely slow shows here: it never lags for long, but each commit waits for it.
//
// Threads: that of the partition.
#pragma once

#include <algorithm>

#include "src/base/ids.h"
#include "src/io/reactor.h"

namespace pando::replication {

class LagWatch {
 public:
  // The master's own log is durable up to there, and the follower has acknowledged so much.
  void OnDurable(Lsn durable, Lsn acked, Nanos now_ns) {
    if (mark_lsn_ != 0 || durable <= seen_lsn_) return;
    seen_lsn_ = durable;
    if (acked >= durable) return NoteLag(0, now_ns);
    mark_lsn_ = durable;
    mark_ns_ = now_ns;
  }
  void OnAcked(Lsn acked, Nanos now_ns) {
    if (mark_lsn_ == 0 || acked < mark_lsn_) return;
    mark_lsn_ = 0;
    NoteLag(now_ns - mark_ns_, now_ns);
  }
  // A heartbeat and its answer, which wait for no disk.
  void NoteRoundTrip(Nanos round_trip_ns) { Mix(&round_trip_ns_, round_trip_ns); }
  // 0 unless something was written lately.
  Nanos Lag(Nanos now_ns) const {
    return now_ns - noted_ns_ > kFreshNs ? 0 : std::max<Nanos>(lag_ns_ - round_trip_ns_, 0);
  }

  // `others`: the greatest lag of the other members that a commit waits for.
  void Compare(Nanos others_ns, Nanos now_ns) {
    if (Lag(now_ns) <= kTimes * others_ns + kAtLeastNs) {
      far_since_ns_ = 0;
    } else if (far_since_ns_ == 0) {
      far_since_ns_ = now_ns;
    }
  }
  bool is_far() const { return far_since_ns_ != 0; }
  bool IsFarFor(Nanos time_ns, Nanos now_ns) const { return is_far() && now_ns - far_since_ns_ >= time_ns; }

 private:
  static constexpr int kTimes = 3;
  static constexpr Nanos kAtLeastNs = kMillisecond;
  static constexpr Nanos kFreshNs = 200 * kMillisecond;
  void NoteLag(Nanos lag_ns, Nanos now_ns) {
    Mix(&lag_ns_, lag_ns);
    noted_ns_ = now_ns;
  }
  // A mean in which the newest counts an eighth.
  static void Mix(Nanos* mean_ns, Nanos newest_ns) {
    *mean_ns = *mean_ns == 0 ? newest_ns : *mean_ns + (newest_ns - *mean_ns) / 8;
  }

  Lsn seen_lsn_ = 0, mark_lsn_ = 0;  // what was compared last; what the follower lacked at mark_ns_, 0: nothing
  Nanos mark_ns_ = 0;
  Nanos lag_ns_ = 0, round_trip_ns_ = 0, noted_ns_ = 0;
  Nanos far_since_ns_ = 0;  // 0: it is not far beyond the others
};

}  // namespace pando::replication
