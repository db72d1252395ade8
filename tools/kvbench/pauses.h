// What the pure part of `kvbench failover` and `kvbench replication` computes: for how long nothing was acknowledged,
// and how a few measured values are spread.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <vector>

namespace pando::bench {

// The longest time without an answer after `event`, until `end`. `answers` are times in ascending order. A pause that
// was already under way when the event came counts from the event.
int64_t LongestPause(const std::vector<int64_t>& answers, int64_t event, int64_t end);
// The time from the event to the first answer after it, at most until `end`.
int64_t FirstAnswerAfter(const std::vector<int64_t>& answers, int64_t event, int64_t end);

struct Spread {
  double p50 = 0, p99 = 0, max = 0;
};
// Of few values a percentile is one of them: the smallest that so many percent do not exceed. 0 when empty.
double PercentileOf(std::vector<double> values, double percent);
Spread SpreadOf(const std::vector<double>& values);

}  // namespace pando::bench
