// PartitionReader: answers reads of the newest state and of snapshots: records, scans, aggregates,
// differences, changes, and the pages of a snapshot.
//
// Threads: one reactor.
//
// Invariants
//   PR1  No read holds a position in the tree across a suspension. It continues from a key, and
//        looks its snapshot up again.
#pragma once

#include <string>
#include <vector>

#include "src/model/partition.h"
#include "src/partition/checkpointer.h"
#include "src/partition/gatherer.h"
#include "src/partition/snapshot_table.h"

namespace pando {

class PartitionReader {
 public:
  PartitionReader(PartitionState& state, Checkpointer& checkpointer, SnapshotTable& snapshots, Gatherer& gatherer)
      : state_(state), checkpointer_(checkpointer), snapshots_(snapshots), gatherer_(gatherer) {}

  // See Partition.
  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room);
  Task<Result<ScanPage>> Scan(ScanSpec spec);  // partition_scan.cc
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at);
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot);
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes);
  // partition_pages.cc
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id);
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes);

 private:
  class Scanner;
  class PageCopier;

  // A null pin means that the snapshot is gone.
  Task<Result<PagePin>> FetchLeaf(ReadView view, std::string key, bool before);
  // Copies an overflow value that is not resident. A valid reference always names the same value,
  // so this returns the value that `ref` named when it was read from the record. kAborted: look the
  // record up again.
  Task<Status> ReadOverflow(SnapshotId snapshot, OverflowRef ref, uint32_t value_bytes, std::string* out);
  Status TakeRoom(Frame* leaf, std::string_view key, int64_t now_ms, ValueRoom* room, size_t* taken_bytes);
  Task<Result<ScanPage>> ScanChanges(ScanSpec spec);
  Task<Status> WaitUntilOnDisk(SnapshotId id);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  SnapshotTable& snapshots_;
  Gatherer& gatherer_;
};

}  // namespace pando
