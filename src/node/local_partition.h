// LocalPartition is the place of a partition on its reactor: it passes calls on to the partition that the
// node holds with this ID, or answers that there is none. Partitions come and go, and their places stay.
// Reads of the newest state of a replica of several count only under its lease (ReadGate).
// So whoever keeps a LocalPartition, or a proxy of it, may go on using it at any time.
//
// Threads: its reactor. Any thread may call newest_change.
#pragma once

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "src/model/partition.h"
#include "src/model/read_gate.h"
#include "src/partition/change_tail.h"
#include "src/partition/store.h"

namespace pando {

class LocalPartition final : public Partition {
 public:
  // `*held` is the partition, or null; both pointers outlive this object. `newest` is what newest_change
  // answers (Engine::newest_change).
  // `gate`: of reads of the newest state; null: they are always answered.
  LocalPartition(uint32_t id, Partition* const* held, const std::atomic<Version>* newest,
                 const ReadGate* gate = nullptr)
      : id_(id), held_(*held), newest_(*newest), gate_(gate) {}

  uint32_t id() const override { return id_; }
  // Nil: the node does not hold the partition.
  const Uuid& uuid() const override { return held_ ? held_->uuid() : kNone; }

  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    if (!held_) return NotHere<Result<ReadResult>>();
    return UnderLease(snapshot, held_->Get(std::move(key), snapshot, room));
  }
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    if (!held_) return NotHere<Result<std::vector<OpResult>>>();
    return held_->Write(std::move(ops), options);
  }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override {
    if (!held_) return NotHere<Result<ScanPage>>();
    const SnapshotId snapshot = spec.snapshot;
    return UnderLease(snapshot, held_->Scan(std::move(spec)));
  }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    if (!held_) return NotHere<Result<RangeAggregates>>();
    return UnderLease(at.snapshot, held_->Aggregate(std::move(start), std::move(end), at));
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    if (!held_) return NotHere<Result<std::vector<std::string>>>();
    return UnderLease(snapshot, held_->KeysAtRanks(std::move(start), std::move(end), std::move(ranks), snapshot));
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    if (!held_) return NotHere<Result<ChangePage>>();
    return UnderLease(kNewest, held_->Changes(after, std::move(prefix), max_changes, max_bytes));
  }
  Version newest_change() const override { return newest_.load(std::memory_order_acquire); }

  Task<Status> PrepareCut() override { return held_ ? held_->PrepareCut() : NotHere<Status>(); }
  Task<Result<Version>> HoldWrites() override { return held_ ? held_->HoldWrites() : NotHere<Result<Version>>(); }
  Task<Status> Cut(SnapshotInfo snapshot) override { return held_ ? held_->Cut(snapshot) : NotHere<Status>(); }
  Task<Status> AbandonCut() override { return held_ ? held_->AbandonCut() : NotHere<Status>(); }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override {
    return held_ ? held_->RenewSnapshot(id, expires_at_ms) : NotHere<Status>();
  }
  Task<Status> ReleaseSnapshot(SnapshotId id) override {
    return held_ ? held_->ReleaseSnapshot(id) : NotHere<Status>();
  }
  Task<Result<Version>> HighestVersion() override {
    return held_ ? held_->HighestVersion() : NotHere<Result<Version>>();
  }
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override {
    return held_ ? held_->CloseAt(mark) : NotHere<Result<SessionPoint>>();
  }
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override {
    return held_ ? held_->DescribeSnapshot(id) : NotHere<Result<SnapshotRoot>>();
  }
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override {
    if (!held_) return NotHere<Result<PageBatch>>();
    return held_->ReadPages(id, since, std::move(from), max_bytes);
  }
  Task<Status> Checkpoint() override { return held_ ? held_->Checkpoint() : NotHere<Status>(); }
  PartitionStats stats() const override { return held_ ? held_->stats() : PartitionStats(); }

 private:
  static constexpr Uuid kNone{};
  template <typename R>
  Task<R> NotHere() const {
    return Refuse<R>(id_);
  }
  template <typename R>
  static Task<R> Refuse(uint32_t id) {
    co_return PartitionNotHere(id);
  }

  // A read of the newest state, which has not begun.
  template <typename T>
  Task<Result<T>> UnderLease(SnapshotId snapshot, Task<Result<T>> read) const {
    if (gate_ == nullptr || snapshot != kNewest) return read;
    return CheckLease(gate_, id_, std::move(read));
  }
  template <typename T>
  static Task<Result<T>> CheckLease(const ReadGate* gate, uint32_t id, Task<Result<T>> read) {
    CO_ASSIGN_OR_RETURN(const Mastership mastership, gate->Begin(id));
    Result<T> result = co_await read;
    CO_RETURN_IF_ERROR(gate->Check(id, mastership));
    co_return result;
  }

  const uint32_t id_;
  Partition* const& held_;
  const std::atomic<Version>& newest_;
  const ReadGate* const gate_;
};

}  // namespace pando
