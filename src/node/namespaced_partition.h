// NamespacedPartition shows one namespace of a partition: its keys are those of requests, and the
// target's are the stored ones (src/model/key_space.h).
//
// Threads: that of the target. Any thread may call newest_change.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "src/model/key_space.h"
#include "src/model/partition.h"

namespace pando {

class NamespacedPartition final : public Partition {
 public:
  NamespacedPartition(KeySpace keys, Partition* target) : keys_(keys), target_(*target) {}

  uint32_t id() const override { return target_.id(); }
  const Uuid& uuid() const override { return target_.uuid(); }

  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    keys_.Store(&key);
    return target_.Get(std::move(key), snapshot, room);
  }
  // What a kOnce remembers of its client belongs to no namespace of requests.
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override;
  Task<Result<ScanPage>> Scan(ScanSpec spec) override;
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override;
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override;
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override;
  Version newest_change() const override { return target_.newest_change(); }

  Task<Status> PrepareCut() override { return target_.PrepareCut(); }
  Task<Result<Version>> HoldWrites() override { return target_.HoldWrites(); }
  Task<Status> Cut(SnapshotInfo snapshot) override { return target_.Cut(snapshot); }
  Task<Status> AbandonCut() override { return target_.AbandonCut(); }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override {
    return target_.RenewSnapshot(id, expires_at_ms);
  }
  Task<Status> ReleaseSnapshot(SnapshotId id) override { return target_.ReleaseSnapshot(id); }
  Task<Result<Version>> HighestVersion() override { return target_.HighestVersion(); }
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override { return target_.CloseAt(mark); }
  // A copy of a partition has all of its namespaces.
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override { return target_.DescribeSnapshot(id); }
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override {
    return target_.ReadPages(id, since, std::move(from), max_bytes);
  }
  Task<Status> Checkpoint() override { return target_.Checkpoint(); }
  PartitionStats stats() const override { return target_.stats(); }

 private:
  const KeySpace keys_;
  Partition& target_;
};

}  // namespace pando
