// MergeScan merges rows of several partitions into one sorted page.
//
// It first asks each partition for its expected share of the page plus a margin for chance. When a
// partition's rows run out before the page is full, it asks that partition for twice as many. Rows
// that were fetched but not returned are discarded, because the next page starts from the cursor;
// the shares bound this waste.
//
// Memory: the rows that all partitions have returned, including those in the page, are limited to
// MergeScanSpec::held_bytes. A row that does not fit into its partition's part of that first comes
// without its value; the value is read when the row's turn comes. Two cases may exceed held_bytes,
// and MergeScan reserves more memory for them: the first row of a page, before its value is read,
// and keys that came without their values.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies (RemotePartition).
#pragma once

#include <span>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/kvapi/scan_range.h"
#include "src/model/partition.h"

namespace pando {

struct MergeScanSpec {
  ScanRange range;
  SnapshotId snapshot = 0, since = 0;          // as in ScanSpec
  bool keys_only = false, sizes_only = false;  // as in ScanSpec
  size_t max_rows = kMaxScanRows;
  size_t max_bytes = kMaxScanBytes;  // keys + values; only a page of one row may exceed it
  size_t held_bytes = SIZE_MAX;      // keys + values of all rows held at any time
  MemoryGrant* memory = nullptr;     // grows for a large first row; null = no accounting
};

// The memory that a scan with given limits holds until its reply is sent: its fetched rows and its
// encoded reply.
struct ScanCost {
  size_t held_bytes = 0;   // for MergeScanSpec::held_bytes
  size_t total_bytes = 0;  // the amount to reserve
};
ScanCost CostOfScan(size_t partitions, size_t max_rows, size_t max_bytes);
// The maximum number of concurrent partition calls of one request, and the memory that each of them
// takes.
inline constexpr size_t kFanOutCalls = 64;
inline constexpr size_t kFanOutBytes = 4096;
// The memory that a request takes to call `partitions` partitions.
size_t FanOutCost(size_t partitions);

// The share of `total` rows or bytes to ask each of P partitions for first:
//   total/P + 3 sqrt(total/P * unit)
// `unit` is the size of the pieces that hashing distributes at random (1 for rows).
size_t FirstShare(size_t total, size_t partitions, size_t unit);

// Returns one sorted page; its `exhausted` says that nothing is left in the range. kOverloaded if
// there is no memory for the first row.
Task<Result<ScanPage>> MergeScan(std::vector<Partition*> partitions, MergeScanSpec spec);

// Returns the sums of the range over all partitions.
Task<Result<RangeAggregates>> MergeAggregates(std::vector<Partition*> partitions, ScanRange range, SnapshotId snapshot);

}  // namespace pando
