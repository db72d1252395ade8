// DeleteRange removes the records of a key range, a limited number per call, across several
// partitions.
//
// A call first reads the keys, without their values. It then removes each record that still has the
// version it read, so a record that a client writes in between survives. The server keeps no state
// between calls: the cursor carries all of it.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies (RemotePartition).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/kvapi/scan_range.h"
#include "src/node/kv_backend.h"
#include "src/node/session_call.h"

namespace pando {

// Key bytes per call. The call stops after the key that reaches this.
inline constexpr size_t kDeleteKeyBytes = 256u << 10;
// Memory that a call reserves: its keys as read from the partitions and as sent back to them, with
// their structs.
inline constexpr size_t kDeleteReserveBytes = 8 * kDeleteKeyBytes;

struct DeletedRange {
  size_t removed = 0;
  // Everything in the range up to this key has been visited; empty if nothing was.
  std::string last_key;
  bool exhausted = false;  // the range has no key after last_key
  // A partition's error. It and other partitions may have removed records before.
  Status failure;
  // Whether the last removes of a partition that failed took effect is unknown. Otherwise they did not.
  bool unknown = false;
  std::optional<std::string> first_left;  // the lowest key that was to be removed and may still be there
};

// Examines at most `limit` records. Removes those whose version is at most max_version (0 = any
// version). Stops early, with only some of them removed, once *over is true. No write waits longer than until
// `deadline_ns`. `session`: whose removes they are; null: nobody's.
Task<DeletedRange> DeleteRange(KvBackend* backend, std::vector<Partition*> partitions, ScanRange range, size_t limit,
                               Version max_version, Nanos deadline_ns, const bool* over, WriteOptions options = {},
                               const SessionCall* session = nullptr);

}  // namespace pando
