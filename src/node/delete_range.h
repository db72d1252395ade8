// DeleteRange removes the records of a key range, a limited number per call, across several
// partitions.
//
// A call first reads the keys, without their values. It then removes each record that still has the
// version it read, so a record that a client writes in between survives. The server keeps no state
// between calls: the cursor carries all of it.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies (RemotePartition).
#pragma once

#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/kvapi/scan_range.h"
#include "src/node/kv_backend.h"

namespace pando {

// Key bytes per call. The call stops after the key that reaches this.
inline constexpr size_t kDeleteKeyBytes = 256u << 10;
// Memory that a call reserves: its keys as read from the partitions and as sent back to them, with
// their structs.
inline constexpr size_t kDeleteReserveBytes = 8 * kDeleteKeyBytes;

struct DeletedRange {
  size_t removed = 0;
  std::string last_key;    // the last key examined; empty if the call examined none
  bool exhausted = false;  // the range has no key after last_key
  Status failure;          // a partition's error; other partitions may have removed their records
  bool wrote = false;      // at least one write was sent to a partition
};

// Examines at most `limit` records. Removes those whose version is at most max_version (0 = any
// version). Stops early, with only some of them removed, once *over is true.
Task<DeletedRange> DeleteRange(KvBackend* backend, std::vector<Partition*> partitions, ScanRange range, size_t limit,
                               Version max_version, const bool* over);

}  // namespace pando
