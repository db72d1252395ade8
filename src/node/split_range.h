// SplitRangeEvenly: a range cut into parts with about equally many records, for jobs that read it in parallel.
//
// Hashing deals the keys of every range evenly to the partitions. Each is asked for the keys at evenly spaced ranks of
// its share; together these are a sorted sample of the range in which every key stands for so many records of its
// partition, and the cuts are where the sum of those passes a part's share. With one partition (a {tag}) the cuts are
// exact; with P, about 1/(kSamplesPerPart sqrt(12 P)) of a part off. The counts returned are exact.
//
// Threads: one reactor; partitions of other reactors come in as proxies (RemotePartition).
#pragma once

#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/task.h"
#include "src/node/scan_range.h"
#include "src/partition/partition.h"

namespace pando {

inline constexpr size_t kMaxSplitParts = 256;
inline constexpr size_t kCountsInFlight = 4;  // parts whose records are counted at once, each in all partitions

struct RangePart {
  std::string start, end;  // "" = open
  RangeAggregates sums;
};

// At most `parts` (2..kMaxSplitParts), in key order and without gaps; one empty part for an empty range. The sample is
// paid for from `memory`, a few keys at a time before they are fetched; kOverloaded when there is none for them.
Task<Result<std::vector<RangePart>>> SplitRangeEvenly(std::vector<Partition*> partitions, ScanRange range, size_t parts,
                                                      SnapshotId snapshot, MemoryGrant* memory);

}  // namespace pando
