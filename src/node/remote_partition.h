// RemotePartition is a proxy that lets one reactor call a partition of another reactor like its
// own. Each call costs one message there and one back, which move the arguments and the results.
//
// Threads: belongs to the calling reactor. `target` is called only on its own reactor, except for
// newest_change, which any thread may call.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "src/io/call_on.h"
#include "src/model/partition.h"

namespace pando {

class RemotePartition final : public Partition {
 public:
  RemotePartition(Reactor& origin, int target_reactor, Partition* target)
      : origin_(origin), reactor_(target_reactor), target_(target), id_(target->id()), uuid_(target->uuid()) {}

  uint32_t id() const override { return id_; }
  const Uuid& uuid() const override { return uuid_; }

  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    auto call = [target = target_, k = std::move(key), snapshot, room](Reactor&) mutable {
      return target->Get(std::move(k), snapshot, room);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    auto call = [target = target_, o = std::move(ops), options](Reactor&) mutable {
      return target->Write(std::move(o), options);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override {
    auto call = [target = target_, s = std::move(spec)](Reactor&) mutable { return target->Scan(std::move(s)); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, SnapshotId snapshot) override {
    auto call = [target = target_, s = std::move(start), e = std::move(end), snapshot](Reactor&) mutable {
      return target->Aggregate(std::move(s), std::move(e), snapshot);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    auto call = [target = target_, s = std::move(start), e = std::move(end), r = std::move(ranks),
                 snapshot](Reactor&) mutable {
      return target->KeysAtRanks(std::move(s), std::move(e), std::move(r), snapshot);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    auto call = [target = target_, after, p = std::move(prefix), max_changes, max_bytes](Reactor&) mutable {
      return target->Changes(after, std::move(p), max_changes, max_bytes);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Version newest_change() const override { return target_->newest_change(); }
  Task<Status> PrepareCut() override {
    auto call = [target = target_](Reactor&) { return target->PrepareCut(); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<Version>> HoldWrites() override {
    auto call = [target = target_](Reactor&) { return target->HoldWrites(); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Status> Cut(SnapshotInfo snapshot) override {
    auto call = [target = target_, snapshot](Reactor&) { return target->Cut(snapshot); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Status> AbandonCut() override {
    auto call = [target = target_](Reactor&) { return target->AbandonCut(); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override {
    auto call = [target = target_, id, expires_at_ms](Reactor&) { return target->RenewSnapshot(id, expires_at_ms); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Status> ReleaseSnapshot(SnapshotId id) override {
    auto call = [target = target_, id](Reactor&) { return target->ReleaseSnapshot(id); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override {
    auto call = [target = target_, id](Reactor&) { return target->DescribeSnapshot(id); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override {
    auto call = [target = target_, id, since, f = std::move(from), max_bytes](Reactor&) mutable {
      return target->ReadPages(id, since, std::move(f), max_bytes);
    };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  Task<Status> Checkpoint() override {
    auto call = [target = target_](Reactor&) { return target->Checkpoint(); };
    co_return co_await CallOn(origin_, reactor_, std::move(call));
  }
  // Callers ask the partition itself, on its reactor.
  PartitionStats stats() const override { return {}; }

 private:
  Reactor& origin_;
  const int reactor_;
  Partition* const target_;
  const uint32_t id_;
  const Uuid uuid_;
};

}  // namespace pando
