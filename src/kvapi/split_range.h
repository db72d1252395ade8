// SplitRangeEvenly splits a range into parts with about the same number of records, for jobs that
// read it in parallel.
//
// Hashing distributes the keys of every range evenly over the partitions. Each partition returns
// the keys at evenly spaced ranks of its share (SampleRange). Together, these keys are a sample of the range in
// which each key stands for a known number of records of its partition. Once the sample is sorted,
// the cuts are the keys where the running sum of these numbers reaches the next multiple of a
// part's size (SplitBySample).
//
// A router adds up the samples of its nodes, and counts the parts there.
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
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/scan_range.h"
#include "src/model/partition.h"

namespace pando {

inline constexpr size_t kMaxSplitParts = 256;
inline constexpr size_t kSamplesPerPart = 4;  // of each partition, if there are several
inline constexpr size_t kCountsInFlight = 4;  // parts counted concurrently, each in all partitions

struct RangePart {
  std::string start, end;  // empty = unbounded
  RangeAggregates sums;
};

struct SampledKey {
  std::string key;
  uint64_t records = 0;  // of its partition: those after the key before it, up to this one
};

struct RangeSample {
  std::vector<SampledKey> keys;  // of all partitions, in key order
  uint64_t count = 0;            // of the records of the range
};

// Returns at most so many keys of each partition. Memory for them is reserved in `memory`, a few keys at a time,
// before they are fetched; kOverloaded if there is none.
Task<Result<RangeSample>> SampleRange(std::vector<Partition*> partitions, ScanRange range, size_t keys_per_partition,
                                      SnapshotId snapshot, MemoryGrant* memory);

// Cuts the range where the sample says, and counts the parts.
Task<Result<std::vector<RangePart>>> SplitBySample(std::vector<MergeSource> sources, ScanRange range, size_t parts,
                                                   RangeSample sample, SnapshotId snapshot);

// Returns at most `parts` (2..kMaxSplitParts) parts, in key order and without gaps; for an empty
// range, one empty part. `memory`: as in SampleRange.
Task<Result<std::vector<RangePart>>> SplitRangeEvenly(std::vector<Partition*> partitions, ScanRange range, size_t parts,
                                                      SnapshotId snapshot, MemoryGrant* memory);

}  // namespace pando
