// MergeScan merges rows of several partitions into one sorted page. On a node its sources are partitions; in a router
// they are nodes, each of which merges the partitions that it is asked for.
//
// It first asks each source for its expected share of the page plus a margin for chance. When a
// source's rows run out before the page is full, it asks that source for twice as many. Rows
// that were fetched but not returned are discarded, because the next page starts from the cursor;
// the shares bound this waste.
//
// A scan of one slice of the hashes may find that a source has looked at as many records as it may without having found
// enough rows. The source is asked again when that key's turn has come, until all sources together have looked at
// MergeScanSpec::max_examined records. Then the page ends there, even if it has no row.
//
// Memory: the rows that all sources have returned, including those in the page, are limited to
// MergeScanSpec::held_bytes. A row that does not fit into its source's part of that first comes
// without its value; the value is read when the row's turn comes. Two cases may exceed held_bytes,
// and MergeScan reserves more memory for them: the first row of a page, before its value is read,
// and keys that came without their values.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies (RemotePartition). Sources outlive the call.
#pragma once

#include <optional>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/kvapi/scan_range.h"
#include "src/model/partition.h"

namespace pando {

struct MergeSource {
  RangeReads* reads = nullptr;
  size_t partitions = 1;  // that it reads: its share of the range
  bool filtered = false;  // it may have keys that are not in the slice
};
// For which each partition is a source.
std::vector<MergeSource> SourcesOf(const std::vector<Partition*>& partitions);

struct MergeScanSpec {
  ScanRange range;
  SnapshotId snapshot = 0, since = 0;          // as in ScanSpec
  bool keys_only = false, sizes_only = false;  // as in ScanSpec
  size_t max_rows = kMaxScanRows;
  size_t max_bytes = kMaxScanBytes;  // keys + values; only a page of one row may exceed it
  size_t held_bytes = SIZE_MAX;      // keys + values of all rows held at any time
  size_t max_examined = 0;           // records that filtered sources may look at before the page ends
  MemoryGrant* memory = nullptr;     // grows for a large first row; null = no accounting

  // What to ask a source for the first page. The limits are those of the whole.
  ScanSpec ForSource() const;
};

// What a row has in a frame besides its key and value, at most: the heads of all fields, and the numbers.
inline constexpr size_t kFrameRowBytes = 64;
// The memory that a scan with given limits holds until its reply is sent: its fetched rows and its
// encoded reply.
struct ScanCost {
  size_t held_bytes = 0;   // for MergeScanSpec::held_bytes
  size_t total_bytes = 0;  // the amount to reserve
};
ScanCost CostOfScan(size_t sources, size_t max_rows, size_t max_bytes);
// Reserves in `memory` what a page takes, and sets what of it the scan may hold. It reserves no more than its share of
// `limit_bytes`, the memory of all requests, so that many scans can run concurrently. When memory is short, the page is
// made shorter; a cursor says where it ended. Nor does it reserve more than `most_bytes`. Nothing, or the memory that
// even the shortest page would need.
std::optional<size_t> ReservePage(MergeScanSpec* spec, size_t sources, size_t limit_bytes, MemoryGrant* memory,
                                  size_t most_bytes = SIZE_MAX);
// For MergeScanSpec::max_examined on a node.
inline constexpr size_t kMaxExaminedRecords = 64u << 10;
// The maximum number of concurrent calls of sources of one request, and the memory that each of them
// takes.
inline constexpr size_t kFanOutCalls = 64;
inline constexpr size_t kFanOutBytes = 4096;
// The memory that a request takes to call so many sources.
size_t FanOutCost(size_t sources);

// The share of `total` rows or bytes to ask a source first that has `own` of P partitions. With m = total * own / P:
//   m + 3 sqrt(m * unit)
// `unit` is the size of the pieces that hashing distributes at random (1 for rows).
size_t FirstShare(size_t total, size_t partitions, size_t unit, size_t own = 1);

// Returns one sorted page; its `exhausted` says that nothing is left in the range. kOverloaded if
// there is no memory for the first row.
Task<Result<ScanPage>> MergeScan(std::vector<MergeSource> sources, MergeScanSpec spec);

// Returns the sums of the range over all sources.
Task<Result<RangeAggregates>> MergeAggregates(std::vector<MergeSource> sources, ScanRange range, SnapshotId snapshot);

}  // namespace pando
