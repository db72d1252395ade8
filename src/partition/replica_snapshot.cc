// Replica: snapshots.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {

void Replica::CutSnapshot() {
  BeginCheckpoint();
  Generation generation = tree_->AddSnapshot();
  file_->HoldGeneration(generation);
  snapshots_[generation] = {generation, applied_lsn_, applied_version_, 0};
}

Task<Result<SnapshotInfo>> Replica::OpenSnapshot(Version floor, int64_t ttl_ms) {
  CO_RETURN_IF_ERROR(Refusal());
  ++active_writes_;  // Drain waits for the cut
  Status status = co_await ReserveCheckpoint();
  PendingWrite cut;
  if (status.ok()) {
    last_version_ = std::max(last_version_, floor);
    cut.last_lsn = last_lsn_;
    pending_.push_back(&cut);
    ApplyDurable();
    co_await Applied{&cut};
    status = std::move(cut.status);
    if (!status.ok()) EndCheckpoint();
  }
  if (--active_writes_ == 0) idle_.NotifyAll();
  CO_RETURN_IF_ERROR(status);
  SnapshotInfo& snapshot = snapshots_.rbegin()->second;
  snapshot.expires_at_ms = reactor_.WallMs() + ttl_ms;
  SnapshotInfo result = snapshot;
  // The snapshot is readable already; its pages go to disk behind it.
  tasks_.Spawn(FinishSnapshotCheckpoint());
  co_return result;
}

Task<void> Replica::FinishSnapshotCheckpoint() {
  Status status = co_await FinishCheckpoint();
  LOG_IF(WARNING, !status.ok()) << "partition " << id() << ": checkpoint of a snapshot: " << status.ToString();
  EndCheckpoint();
}

Result<SnapshotInfo> Replica::RenewSnapshot(Generation generation, int64_t ttl_ms) {
  auto found = snapshots_.find(generation);
  if (found == snapshots_.end()) {
    return Error(Code::kNotFound, "partition {}: snapshot {} has expired or was released", id(), generation);
  }
  found->second.expires_at_ms = std::max(found->second.expires_at_ms, reactor_.WallMs() + ttl_ms);
  return found->second;
}

void Replica::ReleaseSnapshot(Generation generation) {
  if (snapshots_.erase(generation) == 0) return;
  tree_->DropSnapshot(generation);
  file_->ReleaseGeneration(generation);
}

void Replica::ExpireSnapshots() {
  int64_t now_ms = reactor_.WallMs();
  for (auto it = snapshots_.begin(); it != snapshots_.end();) {
    Generation generation = it->first;
    // expires_at_ms 0: just cut, its opener has not set it yet.
    bool due = it->second.expires_at_ms != 0 && it->second.expires_at_ms <= now_ms;
    ++it;
    if (due) ReleaseSnapshot(generation);
  }
}

}  // namespace pando
