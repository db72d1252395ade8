#include "src/router/range_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "src/base/hash.h"

namespace pando {

Result<RangePlan> PlanRange(const RouteMap& map, const ScanRange& range,
                            const std::function<NodeId(const Route&)>& choose) {
  RangePlan plan;
  std::map<NodeId, std::vector<int32_t>> by_node;
  const auto add = [&](const Route& route) -> Status {
    const NodeId node = choose(route);
    if (node == 0) return Error(Code::kUnavailable, "partition {}: no node is known that serves it", route.partition);
    by_node[node].push_back(static_cast<int32_t>(route.partition));
    return Status();
  };
  if (range.tag) {
    plan.hash = HashId("{" + *range.tag + "}");
    RETURN_IF_ERROR(add(map.RouteOfHash(*plan.hash)));
  } else {
    for (const Route& route : map.routes()) RETURN_IF_ERROR(add(route));
  }
  for (const auto& [node, partitions] : by_node) {
    for (size_t from = 0; from < partitions.size(); from += kMaxShare) {
      const auto begin = partitions.begin() + static_cast<ptrdiff_t>(from);
      const auto count = static_cast<ptrdiff_t>(std::min(kMaxShare, partitions.size() - from));
      plan.shares.push_back({node, {begin, begin + count}});
    }
  }
  return plan;
}

// CV1.
Status CheckCovered(const RangePlan& plan, const std::vector<api::Covered>& covered) {
  if (plan.hash) {
    const auto holds = [&](const api::Covered& c) {
      return static_cast<uint64_t>(c.first_hash) <= *plan.hash && *plan.hash <= static_cast<uint64_t>(c.last_hash);
    };
    if (covered.size() == 1 && holds(covered.front())) return Status();
    return Error(Code::kCorruption, "the answer does not cover the hash {:016x}, where the range is", *plan.hash);
  }
  std::vector<Route> routes;
  for (const api::Covered& c : covered) {
    Route& route = routes.emplace_back();
    route.partition = static_cast<uint32_t>(c.partition);
    route.first_hash = static_cast<uint64_t>(c.first_hash);
    route.last_hash = static_cast<uint64_t>(c.last_hash);
  }
  return CheckCoverage(&routes);
}

Status CheckCovered(const NodeShare& share, const std::vector<api::Covered>& covered) {
  std::set<int32_t> asked(share.partitions.begin(), share.partitions.end());
  for (const api::Covered& c : covered) {
    if (asked.erase(c.partition) == 1) continue;
    return Error(Code::kCorruption, "node {} answered for partition {}, for which it was not asked", share.node,
                 c.partition);
  }
  if (asked.empty()) return Status();
  return Error(Code::kCorruption, "node {} did not answer for partition {}, for which it was asked", share.node,
               *asked.begin());
}

}  // namespace pando
