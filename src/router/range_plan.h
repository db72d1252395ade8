// RangePlan: which node a router asks for which partitions of a range, and whether the answers covered it.
//
// Threads: plain values.
//
// Invariants
//   CV1  An answer for a range was read in partitions whose ranges of hashes have together every hash of the slice that
//        was asked for (without slices: the whole hash space), each hash once; or, if all keys of the range have one
//        tag, in the partition of that tag. What the nodes say of their ranges counts, not the map.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "gen-cpp/routing_types.h"
#include "src/base/result.h"
#include "src/kvapi/scan_range.h"
#include "src/router/route_map.h"

namespace pando {

// A request to a node names no more; a node with more gets several. Its lists must fit into a request.
inline constexpr size_t kMaxShare = 1024;

// How many shares a plan has at most.
size_t MostSharesOf(const RouteMap& map);
// The memory that the lists of its partitions take: as they are asked for, answered for and checked.
size_t PlanCost(const RouteMap& map, const ScanRange& range);

struct NodeShare {
  NodeId node = 0;
  std::vector<int32_t> partitions;
};

struct RangePlan {
  std::vector<NodeShare> shares;
  // Of the tag that all keys of the range have.
  std::optional<uint64_t> hash;
  HashSlice slice;
};

// `choose` says which node to ask for a partition; 0: none can be. kUnavailable names such a partition.
// REQUIRES: the map is complete.
Result<RangePlan> PlanRange(const RouteMap& map, const ScanRange& range,
                            const std::function<NodeId(const Route&)>& choose);

// Whether these are the answers to a plan (CV1). kCorruption says where they are not.
Status CheckCovered(const RangePlan& plan, const std::vector<api::Covered>& covered);

// Whether one answer is for these partitions, and for nothing else.
Status CheckCovered(const NodeShare& share, const std::vector<api::Covered>& covered);

}  // namespace pando
