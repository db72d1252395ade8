// ReadKeys implements multiGet: it groups the keys by reactor, and each group is read on the
// reactor that owns its partitions.
//
// Threads: called on one reactor. Each group runs on its own reactor.
#pragma once

#include <map>
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

struct MultiGetFrom {
  SnapshotId snapshot = kNewest;
  bool any_replica = false;  // the replicas here have what the read asks for; it needs no lease
  const std::map<uint32_t, Status>* refused = nullptr;  // partitions that are not read, and why; outlives the call
};

// Returns one result per key, in order. The bytes of each
// value are taken from `values` before the value is copied, on any reactor. A value for which there
// is no room gets kOverloaded.
Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           MultiGetFrom from, ValueRoom* values);

}  // namespace pando
