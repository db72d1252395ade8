#include "tools/kvbench/pauses.h"

#include <algorithm>
#include <cmath>

namespace pando::bench {

int64_t LongestPause(const std::vector<int64_t>& answers, int64_t event, int64_t end) {
  int64_t longest = 0, since = event;
  for (auto at = std::upper_bound(answers.begin(), answers.end(), event); at != answers.end() && *at <= end; ++at) {
    longest = std::max(longest, *at - since);
    since = *at;
  }
  return std::max(longest, end - since);
}

int64_t FirstAnswerAfter(const std::vector<int64_t>& answers, int64_t event, int64_t end) {
  const auto at = std::upper_bound(answers.begin(), answers.end(), event);
  return (at == answers.end() ? end : std::min(*at, end)) - event;
}

double PercentileOf(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::clamp(rank, 1.0, static_cast<double>(values.size()))) - 1];
}

Spread SpreadOf(const std::vector<double>& values) {
  return {PercentileOf(values, 50), PercentileOf(values, 99), PercentileOf(values, 100)};
}

}  // namespace pando::bench
