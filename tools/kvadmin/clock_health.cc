#include "tools/kvadmin/clock_health.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "src/partition/partition_clock.h"

namespace pando::admin {

namespace {

// Two clocks that differ by more are not synchronized.
constexpr int64_t kMaxSkewMs = 3000;
// A node refuses the mark of a snapshot that is further ahead of its clock.
constexpr int64_t kMaxLeadMs = 2 * PartitionClock::kMaxLeadMs;
constexpr int64_t kCatchUp = 64;  // of which the time of a partition loses one while it is ahead

std::string DurationText(int64_t ms) {
  const double seconds = static_cast<double>(ms) / 1000;
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 2 * 3600) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.0f} h", seconds / 3600);
}

struct Clock {
  NodeId node = 0;
  int64_t ahead_ms = 0, error_ms = 0;  // of this process's clock
};

// The clock in the middle is taken for right: most are.
Clock MiddleOf(std::vector<Clock> clocks) {
  const auto middle = clocks.begin() + static_cast<ptrdiff_t>((clocks.size() - 1) / 2);
  std::nth_element(clocks.begin(), middle, clocks.end(), [](const auto& a, const auto& b) {
    return std::pair(a.ahead_ms, a.node) < std::pair(b.ahead_ms, b.node);
  });
  return *middle;
}

}  // namespace

ClockHealth JudgeClocks(const ClusterView& view) {
  ClockHealth h;
  std::vector<Clock> clocks;
  for (const auto& [id, node] : view.nodes) {
    if (node.status.ok() && node.reply.clock_ms != 0) clocks.push_back({id, node.clock_ahead_ms, node.clock_error_ms});
  }
  if (clocks.empty()) return h;
  const Clock right = MiddleOf(clocks);
  std::vector<NodeId> wrong;
  for (const Clock& c : clocks) {
    const int64_t ahead_ms = c.ahead_ms - right.ahead_ms;
    if (std::abs(ahead_ms) <= kMaxSkewMs + c.error_ms + right.error_ms) continue;
    wrong.push_back(c.node);
    h.troubles[c.node] = fmt::format("its clock is {} {} that of node {}", DurationText(std::abs(ahead_ms)),
                                     ahead_ms > 0 ? "ahead of" : "behind", right.node);
    h.causes.push_back(fmt::format("node {}: {}", view.NameOf(c.node), h.troubles[c.node]));
  }
  int64_t lead_ms = 0;
  NodeId leads = 0;
  for (const auto& [id, node] : view.nodes) {
    if (!node.status.ok() || node.reply.clock_ms == 0) continue;
    // At least so much: how long the answer took is not known to be the clock's.
    const int64_t of_node_ms =
        node.reply.versions_ms - node.reply.clock_ms + node.clock_ahead_ms - node.clock_error_ms - right.ahead_ms;
    if (of_node_ms > lead_ms) lead_ms = of_node_ms, leads = id;
  }
  const bool versions_ahead = lead_ms > kMaxLeadMs + right.error_ms;
  if (versions_ahead) {
    h.causes.push_back(fmt::format(
        "versions are {} ahead of the clocks (on node {}), so snapshots of the cluster, and what needs one, "
        "such as a verified export, are refused",
        DurationText(lead_ms), leads));
  }
  if (!wrong.empty()) {
    h.next = fmt::format("set the clock of {}, and let NTP keep the clocks of all nodes", NamedNodes(wrong));
  } else if (versions_ahead) {
    h.must_wait = true;
    h.next = fmt::format(
        "the clocks agree now, so wait for about {}: the versions come back to the clocks by one second in 64. kvadmin "
        "export --latest works meanwhile (see \"A clock that was ahead\" in OPERATING)",
        DurationText((lead_ms - kMaxLeadMs) * kCatchUp));
  }
  return h;
}

}  // namespace pando::admin
