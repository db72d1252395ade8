// MergeScan: one sorted page of rows out of several partitions.
//
// Each partition is first asked for its expected share of the page, with room for chance; one that runs dry before the
// page is full is asked for twice as much. What is fetched and not given out is bounded by the shares and thrown away:
// the next page starts from the cursor.
//
// Memory: what all partitions hand over together, the page included, never passes MergeScanSpec::held_bytes. A row that
// does not fit into its partition's part of that comes without its value at first, which is read when it is the row's
// turn. Only the first row of a page may take more, and what it takes is reserved before it is read.
//
// Threads: one reactor; partitions of other reactors come in as proxies (RemotePartition).
#pragma once

#include <span>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/node/scan_range.h"
#include "src/partition/partition.h"

namespace pando {

struct MergeScanSpec {
  ScanRange range;
  SnapshotId snapshot = 0, since = 0;          // as in ScanSpec
  bool keys_only = false, sizes_only = false;  // as in ScanSpec
  size_t max_rows = kMaxScanRows;
  size_t max_bytes = kMaxScanBytes;  // keys + values; the page has no more, unless its first row alone has
  size_t held_bytes = SIZE_MAX;      // keys + values, of rows fetched and not thrown away, at any time
  MemoryGrant* memory = nullptr;     // grows when the first row needs more; null: without asking
};

// What a scan holds until its reply is sent, by its limits: what was fetched, and what is encoded.
struct ScanCost {
  size_t held_bytes = 0;   // for MergeScanSpec
  size_t total_bytes = 0;  // to be reserved
};
ScanCost CostOfScan(size_t partitions, size_t max_rows, size_t max_bytes);
// Calls under way to a partition each: at most so many of one request, and what each takes.
inline constexpr size_t kFanOutCalls = 64;
inline constexpr size_t kFanOutBytes = 4096;
// What a request takes that asks so many partitions.
size_t FanOutCost(size_t partitions);

// The share of `total` rows or bytes that one of `partitions` is asked for first: total/P + 3 sqrt(total/P * unit),
// where `unit` is the size of the pieces that chance deals out (1 for rows).
size_t FirstShare(size_t total, size_t partitions, size_t unit);

// One sorted page. `exhausted` of the result: nothing is left in the range. kOverloaded: no memory for its first row.
Task<Result<ScanPage>> MergeScan(std::vector<Partition*> partitions, MergeScanSpec spec);

// Of the range, over all partitions.
Task<Result<RangeAggregates>> MergeAggregates(std::vector<Partition*> partitions, ScanRange range, SnapshotId snapshot);

}  // namespace pando
