// multiGet and writeBatch: a router splits them by the nodes that answer for their keys, sends the parts at once, and
// puts the answers together in the order of the request. What the nodes ask to be tried again is tried again for those
// entries alone, while the budget lasts.
//
// Threads: one reactor.
//
// Invariants
//   BC1  Every entry of a request gets one answer: a result or an error of its own.
//   BC2  Ops on keys of one partition are never split: they go in one part, in the order of the request. So they are
//        isolated as on a node, and a part that is sent again under its name is the same write.
//   BC3  A part without a name is never sent again after a node may have carried it out.
#pragma once

#include "gen-cpp/Kv.h"
#include "src/io/task.h"
#include "src/router/route_keeper.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

using MultiGetCall = RpcCall<api::Kv_multiGet_args, api::Kv_multiGet_result>;
using WriteBatchCall = RpcCall<api::Kv_writeBatch_args, api::Kv_writeBatch_result>;

// Answer the call. All outlive the task.
Task<void> RouteMultiGet(RouteKeeper* keeper, MultiGetCall* call);
Task<void> RouteWriteBatch(RouteKeeper* keeper, WriteBatchCall* call);

}  // namespace pando
