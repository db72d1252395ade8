#include "src/router/range_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <utility>

namespace pando {

namespace {

// The routes that have hashes of the slice.
std::span<const Route> RoutesOf(const RouteMap& map, const HashSlice& slice) {
  const std::span<const Route> routes(map.routes());
  const auto is_before = [&](const Route& route) { return route.last_hash < slice.first; };
  const auto is_not_behind = [&](const Route& route) { return route.first_hash <= slice.last; };
  const auto from = std::partition_point(routes.begin(), routes.end(), is_before);
  return {from, std::partition_point(from, routes.end(), is_not_behind)};
}

}  // namespace

size_t MostSharesOf(const RouteMap& map) { return map.nodes().size() + map.routes().size() / kMaxShare; }

size_t PlanCost(const RouteMap& map, const ScanRange& range) {
  // As named in a request, as covered by its reply, and as checked.
  constexpr size_t kPartitionBytes = 2 * sizeof(int32_t) + 3 * sizeof(api::Covered);
  return range.tag || !map.complete() ? kPartitionBytes : RoutesOf(map, range.slice).size() * kPartitionBytes;
}

Result<RangePlan> PlanRange(const RouteMap& map, const ScanRange& range,
                            const std::function<NodeId(const Route&)>& choose) {
  RangePlan plan;
  plan.slice = range.slice;
  std::map<NodeId, std::vector<int32_t>> by_node;
  const auto add = [&](const Route& route) -> Status {
    const NodeId node = choose(route);
    if (node == 0) return Error(Code::kUnavailable, "partition {}: no node is known that serves it", route.partition);
    by_node[node].push_back(static_cast<int32_t>(route.partition));
    return Status();
  };
  if (range.tag) {
    plan.hash = range.tag_hash();
    RETURN_IF_ERROR(add(map.RouteOfHash(*plan.hash)));
  } else {
    for (const Route& route : RoutesOf(map, range.slice)) RETURN_IF_ERROR(add(route));
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

namespace {

// Whether the ranges have every hash of the slice, each once, and none is beside it.
Status CheckSlice(const HashSlice& slice, const std::vector<api::Covered>& covered) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  ranges.reserve(covered.size());
  for (const api::Covered& c : covered) {
    ranges.emplace_back(static_cast<uint64_t>(c.first_hash), static_cast<uint64_t>(c.last_hash));
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t next = slice.first;
  bool ended = false;
  for (const auto& [first, last] : ranges) {
    const bool fits = next == slice.first ? first <= next && last >= next : first == next && last >= first;
    if (ended || !fits) {
      return Error(Code::kCorruption, "the answer does not cover the hashes of the slice once each, from {:016x}",
                   next);
    }
    ended = last >= slice.last;
    next = last + 1;
  }
  if (ended) return Status();
  return Error(Code::kCorruption, "the answer does not cover the hashes {:016x} to {:016x} of the slice", next,
               slice.last);
}

}  // namespace

// CV1.
Status CheckCovered(const RangePlan& plan, const std::vector<api::Covered>& covered) {
  if (plan.hash) {
    const auto holds = [&](const api::Covered& c) {
      return static_cast<uint64_t>(c.first_hash) <= *plan.hash && *plan.hash <= static_cast<uint64_t>(c.last_hash);
    };
    if (covered.size() == 1 && holds(covered.front())) return Status();
    return Error(Code::kCorruption, "the answer does not cover the hash {:016x}, where the range is", *plan.hash);
  }
  return CheckSlice(plan.slice, covered);
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
