// Requests for ranges: scan, count, aggregate, splitRange and deleteRange. A router asks each node for all partitions
// of the range that it leads, at once, and merges the answers. It answers only when it has proved that they cover the
// range (CV1); otherwise it looks at the map again, and asks again while the budget lasts. It keeps nothing between
// requests: a cursor holds a key, so it stays valid across restarts of routers, failovers and moves.
//
// A deleteRange may examine more records than its limit if that is less than one for each node. Its count lacks what
// a node has removed whose answer was lost.
//
// Threads: one reactor.
#pragma once

#include "gen-cpp/Kv.h"
#include "src/io/task.h"
#include "src/router/range_nodes.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

using ScanCall = RpcCall<api::Kv_scan_args, api::Kv_scan_result>;
using CountCall = RpcCall<api::Kv_count_args, api::Kv_count_result>;
using AggregateCall = RpcCall<api::Kv_aggregate_args, api::Kv_aggregate_result>;
using SplitRangeCall = RpcCall<api::Kv_splitRange_args, api::Kv_splitRange_result>;
using DeleteRangeCall = RpcCall<api::Kv_deleteRange_args, api::Kv_deleteRange_result>;

// Answer the call. All outlive the task.
Task<void> RouteScan(RangeNodes* nodes, ScanCall* call);
Task<void> RouteCount(RangeNodes* nodes, CountCall* call);
Task<void> RouteAggregate(RangeNodes* nodes, AggregateCall* call);
Task<void> RouteSplitRange(RangeNodes* nodes, SplitRangeCall* call);
Task<void> RouteDeleteRange(RangeNodes* nodes, DeleteRangeCall* call);

}  // namespace pando
