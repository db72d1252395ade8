// SplitRangeEvenly splits a range into parts with about the same number of records, for jobs that
// read it in parallel.
//
// Hashing distributes the keys of every range evenly over the partitions. Each partition returns
// the keys at evenly spaced ranks of its share. Together, these keys are a sample of the range in
// which each key stands for a known number of records of its partition. Once the sample is sorted,
// the cuts are the keys where the running sum of these numbers reaches the next multiple of a
// part's size.
//
// With one partition (a {tag}) the cuts are exact. With P partitions they are off by about
// 1/(kSamplesPerPart sqrt(12 P)) of a part. The counts returned are always exact.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies (RemotePartition).
#pragma once

#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/kvapi/scan_range.h"
#include "src/model/partition.h"

namespace pando {

inline constexpr size_t kMaxSplitParts = 256;
inline constexpr size_t kCountsInFlight = 4;  // parts counted concurrently, each in all partitions

struct RangePart {
  std::string start, end;  // empty = unbounded
  RangeAggregates sums;
};

// Returns at most `parts` (2..kMaxSplitParts) parts, in key order and without gaps; for an empty
// range, one empty part. Memory for the sample is reserved in `memory`, a few keys at a time,
// before they are fetched; kOverloaded if there is none.
Task<Result<std::vector<RangePart>>> SplitRangeEvenly(std::vector<Partition*> partitions, ScanRange range, size_t parts,
                                                      SnapshotId snapshot, MemoryGrant* memory);

}  // namespace pando
