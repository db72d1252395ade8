// AggregateHeldReplica: what a replica holds in a range of keys, as far as it has applied its log. It asks for no
// lease, so the answer proves nothing about the partition; two replicas that have applied the same must give the same.
//
// Threads: the reactor of the partition.
#pragma once

#include "gen-cpp/cluster_types.h"
#include "src/base/result.h"
#include "src/io/task.h"

namespace pando {

class ReactorPart;

// REQUIRES: the partition, if the node holds it, belongs to the part's reactor. kUnavailable: it does not hold it, or
// it is out of service.
Task<Result<api::AggregateReplicaReply>> AggregateHeldReplica(ReactorPart* part, api::AggregateReplicaRequest request);

}  // namespace pando
