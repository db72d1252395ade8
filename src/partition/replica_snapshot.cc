// Replica: snapshots.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

// A cut fails when the log has made nothing durable for this long.
constexpr Nanos kCutPatience = 5 * kSecond;

}  // namespace

// -- cutting

// Takes a cut out of the queue again if the log does not move on. The log may be waiting for a
// segment that only a checkpoint releases, and a waiting cut keeps checkpoints from beginning.
struct Replica::WaitingCut : Timer {
  Replica* replica = nullptr;
  PendingWrite* pending = nullptr;
  Lsn durable_lsn = 0;

  void Arm() {
    durable_lsn = replica->durable_lsn_;
    replica->reactor_.ArmTimer(this, replica->reactor_.NowNs() + kCutPatience);
  }
  void Look() {
    if (pending->done || pending->last_lsn <= replica->durable_lsn_) return;  // it waits no longer for the log
    if (replica->durable_lsn_ != durable_lsn) return Arm();
    std::erase(replica->pending_, pending);
    replica->Finish(pending, Error(Code::kUnavailable,
                                   "partition {}: the log has made no write durable for {} s, so no snapshot was "
                                   "opened: the disk is full or does not answer; try again later",
                                   replica->id(), kCutPatience / kSecond));
  }
};

Task<Status> Replica::PrepareCut() {
  CO_RETURN_IF_ERROR(Refusal());
  ++active_writes_;  // Drain waits for the cut
  Status status = co_await ReserveCheckpoint();
  if (--active_writes_ == 0) idle_.NotifyAll();
  co_return status;
}

Task<Result<Version>> Replica::HoldWrites() {
  CHECK(checkpoint_running_ && !writes_held_) << "writes are held once, after PrepareCut";
  writes_held_ = true;
  // What has expired by now is expired in the snapshot too.
  co_return std::max(last_version_, VersionAtMs(NowMs()));
}

Task<Status> Replica::Cut(SnapshotInfo snapshot) {
  CHECK(writes_held_) << "a cut without HoldWrites";
  CHECK_GT(snapshot.version, last_version_);
  writes_held_ = false;
  writes_resumed_.NotifyAll();
  if (!failure_.ok()) {
    EndCheckpoint();
    co_return Refusal();
  }
  GiveVersion(snapshot.version);
  PendingWrite cut;
  cut.cut = snapshot;
  cut.last_lsn = last_lsn_;
  pending_.push_back(&cut);
  ApplyDurable();
  WaitingCut waiting;
  waiting.replica = this;
  waiting.pending = &cut;
  waiting.on_fire = [](Timer* t) { static_cast<WaitingCut*>(t)->Look(); };
  if (!cut.done) waiting.Arm();
  // Resumes once every write that was appended before the cut has been applied, or on failure, or
  // when the log does not move on.
  co_await Applied{&cut};
  reactor_.CancelTimer(&waiting);
  if (cut.status.ok()) {
    tasks_.Spawn(FinishSnapshotCheckpoint());
  } else {
    EndCheckpoint();
  }
  co_return std::move(cut.status);
}

Task<Status> Replica::AbandonCut() {
  writes_held_ = false;
  writes_resumed_.NotifyAll();
  EndCheckpoint();
  co_return Status();
}

void Replica::TakeCut(SnapshotInfo snapshot) {
  cut_version_ = snapshot.version;
  BeginCheckpoint();
  snapshot.generation = tree_->AddSnapshot();
  snapshot.lsn = applied_lsn_;
  snapshot.applied_version = applied_version_;
  file_->HoldGeneration(snapshot.generation);
  CHECK(snapshots_.emplace(snapshot.id, snapshot).second) << "a snapshot's id was given twice";
}

Task<void> Replica::FinishSnapshotCheckpoint() {
  Status status = co_await FinishCheckpoint();
  LOG_IF(WARNING, !status.ok()) << "partition " << id()
                                << ": the checkpoint of a snapshot failed: " << status.ToString();
  EndCheckpoint();
}

// -- reading

Status Replica::SnapshotGone() const {
  return Error(Code::kSnapshotGone, "partition {}: the snapshot has expired or was released: open another", id());
}

Result<Replica::View> Replica::ViewOf(SnapshotId snapshot) const {
  if (snapshot == 0) return View{0, NowMs()};
  auto found = snapshots_.find(snapshot);
  if (found == snapshots_.end()) return SnapshotGone();
  return View{found->second.generation, VersionMs(found->second.version)};
}

Task<Result<PagePin>> Replica::FetchLeafIn(View view, std::string key, bool before) {
  if (view.generation != 0) co_return co_await tree_->FetchSnapshotLeaf(view.generation, std::move(key), before);
  if (before) co_return co_await tree_->FetchLeafBefore(std::move(key));
  co_return co_await tree_->FetchLeaf(std::move(key));
}

// -- releasing

Task<Status> Replica::RenewSnapshot(SnapshotId id, int64_t expires_at_ms) {
  auto found = snapshots_.find(id);
  if (found == snapshots_.end()) co_return SnapshotGone();
  found->second.expires_at_ms = std::max(found->second.expires_at_ms, expires_at_ms);
  co_return Status();
}

Task<Status> Replica::ReleaseSnapshot(SnapshotId id) {
  if (!snapshots_.contains(id)) co_return SnapshotGone();
  DropSnapshot(id);
  co_return Status();
}

void Replica::DropSnapshot(SnapshotId id) {
  auto found = snapshots_.find(id);
  const Generation generation = found->second.generation;
  snapshots_.erase(found);
  tree_->DropSnapshot(generation);
  file_->ReleaseGeneration(generation);
}

void Replica::ExpireSnapshots() {
  const int64_t now_ms = reactor_.WallMs();
  for (auto it = snapshots_.begin(); it != snapshots_.end();) {
    const SnapshotInfo snapshot = (it++)->second;
    if (snapshot.expires_at_ms <= now_ms) DropSnapshot(snapshot.id);
  }
}

const SnapshotInfo* Replica::OldestSnapshot() const {
  auto oldest = std::min_element(snapshots_.begin(), snapshots_.end(), [](const auto& a, const auto& b) {
    return a.second.generation < b.second.generation;
  });
  return oldest == snapshots_.end() ? nullptr : &oldest->second;
}

}  // namespace pando
