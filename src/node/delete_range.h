// DeleteRange: one call's worth of a range's records removed, over several partitions.
//
// The keys are read first, without their values; then each is removed if it still has the version that was read. So a
// record that somebody writes in between survives. Nothing is kept between calls but what the cursor carries.
//
// Threads: one reactor; partitions of other reactors come in as proxies (RemotePartition).
#pragma once

#include <string>
#include <vector>

#include "src/io/task.h"
#include "src/node/kv_backend.h"
#include "src/node/scan_range.h"

namespace pando {

inline constexpr size_t kDeleteKeyBytes = 256u << 10;  // of keys, in one call; the key that reaches it is the last
// What a call may take: its keys as read from every partition and as handed back to them, with the structs around them.
inline constexpr size_t kDeleteReserveBytes = 8 * kDeleteKeyBytes;

struct DeletedRange {
  size_t removed = 0;
  std::string last_key;    // of those looked at; empty when there was none
  bool exhausted = false;  // the range has no key after it
  Status failure;          // of a partition; others may have removed their records
  bool wrote = false;      // something was sent to a partition
};

// Looks at no more than `limit` records and removes those of them with at most max_version (0 = all).
Task<DeletedRange> DeleteRange(KvBackend* backend, std::vector<Partition*> partitions, ScanRange range, size_t limit,
                               Version max_version);

}  // namespace pando
