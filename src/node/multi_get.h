// MultiGet over a node's partitions: grouped by reactor, each group read where its partitions live.
//
// Threads: one reactor calls; the groups run on their own reactors.
#pragma once

#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/node/kv_backend.h"

namespace pando {

struct MultiGetResult {
  ReadResult record;
  Status status;
};

// One result per key, in order, from a snapshot (0 = the newest state). The bytes of a value are taken from `values`
// before it is copied, on whatever reactor; a value for which it has no room is kOverloaded.
Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           SnapshotId snapshot, ValueRoom* values);

}  // namespace pando
