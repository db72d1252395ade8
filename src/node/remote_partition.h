// RemotePartition is a proxy that lets one reactor call a partition of another reactor like its
// own. Each call costs one message there and one back, which move the arguments and the results.
//
// The target is the place of a partition (local_partition.h), which stays when the partition goes: a call
// that is on its way then gets an error.
//
// Threads: belongs to the calling reactor. `target` is called only on its own reactor, except for
// newest_change, which any thread may call.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "src/io/call_on.h"
#include "src/model/partition.h"

namespace pando {

class RemotePartition final : public Partition {
 public:
  RemotePartition(Reactor& origin, int target_reactor, Partition* target)
      : origin_(origin), reactor_(target_reactor), target_(target), id_(target->id()) {}

  uint32_t id() const override { return id_; }
  // Callers ask for DescribeSnapshot, on the partition's reactor.
  const Uuid& uuid() const override { return kUnknown; }

  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    return Forward(&Partition::Get, std::move(key), snapshot, room);
  }
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    return Forward(&Partition::Write, std::move(ops), options);
  }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override { return Forward(&Partition::Scan, std::move(spec)); }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    return Forward(&Partition::Aggregate, std::move(start), std::move(end), at);
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    return Forward(&Partition::KeysAtRanks, std::move(start), std::move(end), std::move(ranks), snapshot);
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    return Forward(&Partition::Changes, after, std::move(prefix), max_changes, max_bytes);
  }
  Version newest_change() const override { return target_->newest_change(); }

  Task<Status> PrepareCut() override { return Forward(&Partition::PrepareCut); }
  Task<Result<Version>> HoldWrites() override { return Forward(&Partition::HoldWrites); }
  Task<Status> Cut(SnapshotInfo snapshot) override { return Forward(&Partition::Cut, snapshot); }
  Task<Status> AbandonCut() override { return Forward(&Partition::AbandonCut); }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override {
    return Forward(&Partition::RenewSnapshot, id, expires_at_ms);
  }
  Task<Status> ReleaseSnapshot(SnapshotId id) override { return Forward(&Partition::ReleaseSnapshot, id); }
  Task<Result<Version>> HighestVersion() override { return Forward(&Partition::HighestVersion); }
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override { return Forward(&Partition::CloseAt, mark); }
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override {
    return Forward(&Partition::DescribeSnapshot, id);
  }
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override {
    return Forward(&Partition::ReadPages, id, since, std::move(from), max_bytes);
  }
  Task<Status> Checkpoint() override { return Forward(&Partition::Checkpoint); }
  // Callers ask the partition itself, on its reactor.
  PartitionStats stats() const override { return {}; }

 private:
  static constexpr Uuid kUnknown{};
  // Calls `method` of the target on its reactor, with arguments that travel there.
  template <typename R, typename Owner, typename... Params>
  Task<R> Forward(Task<R> (Owner::*method)(Params...), std::type_identity_t<Params>... args) {
    auto call = [target = target_, method, packed = std::make_tuple(std::move(args)...)](Reactor&) mutable {
      return std::apply([&](auto&... each) { return (target->*method)(std::move(each)...); }, packed);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }

  Reactor& origin_;
  const int reactor_;
  Partition* const target_;
  const uint32_t id_;
};

}  // namespace pando
