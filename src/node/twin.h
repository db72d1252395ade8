// A node of a cluster is one process at a time. Before a process takes the number of a node, it asks where that node
// listened last, whether another one is the node still: somebody may have started a second machine with the same
// --node_id, or with a copy of a directory. Whoever asks holds the lock of its directory, so nobody who answers is an
// earlier life of this directory.
//
// The question is a hello that names the node itself as its sender. Every build refuses that, and it refuses it as an
// unknown node only if it is of the cluster and is the node that the hello is for.
//
// Threads: one reactor.
#pragma once

#include "src/base/memory_budget.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/topology/cluster_map.h"

namespace pando {

// How long the answer is waited for. A refused connection is an answer; a machine that cannot be reached costs this.
inline constexpr Nanos kTwinAnswerNs = kSecond;

// kInvalidArgument: another process is the node of `record`, as the topology has it. The message says where, and what
// to do. OK: none has answered in time. `memory` is for the answer, and outlives the task.
Task<Status> CheckNoTwin(Reactor& reactor, Uuid cluster_id, NodeRecord record, MemoryBudget* memory);

}  // namespace pando
