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

// One result per key, in order. The values' bytes are taken from `values` before they are copied, on whatever reactor;
// one that it has no room for is kOverloaded.
Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           ValueRoom* values);

}  // namespace pando
