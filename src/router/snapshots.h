// openSnapshot, renewSnapshot and releaseSnapshot: a router coordinates snapshots of the whole cluster
// (docs/REPLICATION.md, "Snapshots of the cluster"; thrift/snapshots.thrift).
//
// It keeps nothing about them: the token names them at every router and every replica, and nodes let them expire.
//
// Threads: one reactor.
//
// Invariants
//   RS1  A snapshot is given out only once every partition has confirmed it, at one version.
//   RS2  What was prepared and is not given out is released, or expires.
#pragma once

#include "gen-cpp/ClusterSnapshots.h"
#include "gen-cpp/Kv.h"
#include "src/io/task.h"
#include "src/router/route_keeper.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

using OpenSnapshotCall = RpcCall<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>;
using RenewSnapshotCall = RpcCall<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>;
using ReleaseSnapshotCall = RpcCall<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>;

// Answer the call. All outlive the task.
Task<void> RouteOpenSnapshot(RouteKeeper* keeper, OpenSnapshotCall* call);
Task<void> RouteRenewSnapshot(RouteKeeper* keeper, RenewSnapshotCall* call);
Task<void> RouteReleaseSnapshot(RouteKeeper* keeper, ReleaseSnapshotCall* call);

}  // namespace pando
