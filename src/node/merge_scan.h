// MergeScan: one sorted page of rows out of several partitions.
//
// Each partition is first asked for its expected share of the page, with room for chance; one that runs dry before the
// page is full is asked for twice as much. What is fetched and not given out is bounded by the shares and thrown away:
// the next page starts from the cursor.
//
// Threads: one reactor; partitions of other reactors come in as proxies (RemotePartition).
#pragma once

#include <span>
#include <vector>

#include "src/io/task.h"
#include "src/node/scan_range.h"
#include "src/partition/partition.h"

namespace pando {

struct MergeScanSpec {
  ScanRange range;
  SnapshotId snapshot = 0, since = 0;  // as in ScanSpec
  bool keys_only = false;
  size_t max_rows = kMaxScanRows;
  size_t max_bytes = kMaxScanBytes;  // keys + values; the row that reaches it is the last (always at least one)
};

// The share of `total` rows or bytes that one of `partitions` is asked for first: total/P + 3 sqrt(total/P * unit),
// where `unit` is the size of the pieces that chance deals out (1 for rows).
size_t FirstShare(size_t total, size_t partitions, size_t unit);

// One sorted page. `exhausted` of the result: nothing is left in the range.
Task<Result<ScanPage>> MergeScan(std::vector<Partition*> partitions, MergeScanSpec spec);

// Of the range, over all partitions.
Task<Result<RangeAggregates>> MergeAggregates(std::vector<Partition*> partitions, ScanRange range, SnapshotId snapshot);

}  // namespace pando
