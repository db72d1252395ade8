// CommitHold: decides when a group commit waits a moment for more records.
//
// Writers that wait for their own acknowledgment before they write again (closed loop) split into
// two halves: one in the batch being flushed, one staged after it. Every record then waits for two
// flushes. Holding the next batch back until the writers of the last batch have written again
// merges the two flushes into one. That pays only if the writers come back sooner than a flush
// takes. A hold therefore lasts a fraction of the measured flush time, and a score records whether
// holds pay.
//
// Threads: one reactor. It has no clock and no timer; its owner has both.
//
// Invariants
//   Q1  No hold is longer than half the mean flush, and none starts unless a batch has just ended.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/io/reactor.h"

namespace pando {

class CommitHold {
 public:
  // A batch of `records` records was flushed in `took_ns`, and nothing is in flight. `staged`
  // records wait.
  void OnBatchDone(Nanos now_ns, Nanos took_ns, uint64_t records, uint64_t staged) {
    mean_flush_ns_ = mean_flush_ns_ == 0 ? took_ns : mean_flush_ns_ + (took_ns - mean_flush_ns_) / 8;
    target_records_ = records + staged;
    const bool probe = ++batches_ % kProbeInterval == 0;
    until_ns_ = score_ > 0 || probe ? now_ns + mean_flush_ns_ / 2 : now_ns;
  }

  // The time until which to hold back a batch of `staged` records; 0 = submit it now.
  Nanos HoldUntil(Nanos now_ns, uint64_t staged) const {
    return now_ns < until_ns_ && staged < target_records_ ? until_ns_ : 0;
  }

  // A batch of `staged` records is being submitted.
  void OnSubmit(Nanos now_ns, uint64_t staged) {
    if (until_ns_ == 0) return;
    const bool paid = now_ns < until_ns_ ? staged >= target_records_ : staged * 4 >= target_records_ * 3;
    score_ = std::clamp(score_ + (paid ? 1 : -1), 0, kMaxScore);
    until_ns_ = 0;
  }

 private:
  static constexpr int kMaxScore = 8;
  // While holds do not pay, one batch out of this many is held to test again.
  static constexpr uint64_t kProbeInterval = 64;

  Nanos mean_flush_ns_ = 0;
  Nanos until_ns_ = 0;
  uint64_t target_records_ = 0;
  uint64_t batches_ = 0;
  int score_ = kMaxScore / 2;
};

}  // namespace pando
