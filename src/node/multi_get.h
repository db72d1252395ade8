// MultiGet over a node's partitions: grouped by reactor, each group read where its partitions live.
//
// Threads: one reactor calls; the groups run on their own reactors.
#pragma once

#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/node/kv_backend.h"

namespace pando {

struct MultiGetResult {
  ReadResult record;
  Status status;
};

// One result per key, in order. A value that would push the sum of all values past `max_bytes` is kOverloaded.
Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           size_t max_bytes);

}  // namespace pando
