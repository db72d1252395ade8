// ReadKeys implements multiGet: it groups the keys by reactor, and each group is read on the
// reactor that owns its partitions.
//
// Threads: called on one reactor. Each group runs on its own reactor.
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

// Returns one result per key, in order, from a snapshot (0 = the newest state). The bytes of each
// value are taken from `values` before the value is copied, on any reactor. A value for which there
// is no room gets kOverloaded.
Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           SnapshotId snapshot, ValueRoom* values);

}  // namespace pando
