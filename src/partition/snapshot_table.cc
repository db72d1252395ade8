#include "src/partition/snapshot_table.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "src/partition/write_pipeline.h"

namespace pando {
namespace {

// A cut fails when nothing that it waits for has become durable, committed or visible for this long.
constexpr Nanos kCutPatience = 5 * kSecond;

}  // namespace

// -- cutting

// A cut in the queue of writes. It is taken out again if what it waits for does not move on, because a
// waiting cut keeps checkpoints from beginning. The log may wait for a segment, and a committed value
// for space on the disk, that only a checkpoint releases. A gate that has lost its quorum may wait for
// ever.
class SnapshotTable::Waiting final : public QueueMark, private Timer {
 public:
  Waiting(SnapshotTable* table, SnapshotInfo snapshot) : table_(*table), snapshot_(snapshot) {
    on_fire = [](Timer* t) { static_cast<Waiting*>(t)->Look(); };
  }
  void Arm() {
    waits_for_ = WaitsFor();
    table_.state_.reactor.ArmTimer(this, table_.state_.reactor.NowNs() + kCutPatience);
  }
  void Disarm() { table_.state_.reactor.CancelTimer(this); }

 private:
  void OnReached() override { table_.Take(snapshot_); }
  void Look() {
    const PartitionState& state = table_.state_;
    if (done) return;
    if (WaitsFor() != waits_for_) return Arm();
    std::string_view why = "durable: the disk is full or does not answer";
    if (last_lsn <= state.durable_lsn) why = "committed: too few replicas acknowledge the writes";
    if (last_lsn <= state.committed_lsn) why = "visible: the disk is full or slow";
    table_.pipeline_.Withdraw(
        this, Error(Code::kUnavailable,
                    "partition {}: no snapshot was opened, because for {} s no write has become {}; try again later",
                    state.id(), kCutPatience / kSecond, why));
  }
  // What has come so far of that for which the cut waits. Later writes do not count.
  std::array<Lsn, 3> WaitsFor() const {
    const PartitionState& state = table_.state_;
    return {std::min(state.durable_lsn, last_lsn), state.committed_lsn, state.applied_lsn};
  }

  SnapshotTable& table_;
  const SnapshotInfo snapshot_;
  std::array<Lsn, 3> waits_for_{};
};

// A cut gives a version to the partition, which only its master may do (CG3).
Status SnapshotTable::MayCut() const {
  RETURN_IF_ERROR(state_.Refusal());
  if (state_.gate->Leads()) return Status();
  // That says who is, if it is known.
  Status refusal = state_.gate->MayWrite(WriteLevel::kQuorum, 0);
  if (refusal.code() == Code::kNotMaster) return refusal;
  return Error(Code::kNotMaster, "partition {}: this node is not its master, and snapshots are opened at the master",
               state_.id());
}

Task<Status> SnapshotTable::PrepareCut() {
  CO_RETURN_IF_ERROR(MayCut());
  const ActiveCall call(&state_);
  co_return co_await checkpointer_.Reserve();
}

Task<Result<Version>> SnapshotTable::HoldWrites() {
  CHECK(checkpointer_.running()) << "writes are held after PrepareCut";
  CO_RETURN_IF_ERROR(MayCut());
  pipeline_.HoldWrites();
  // What has expired by now is expired in the snapshot too.
  co_return std::max(state_.clock.newest(), VersionAtMs(state_.clock.NowMs()));
}

Task<Status> SnapshotTable::Cut(SnapshotInfo snapshot) {
  const ActiveCall call(&state_);
  pipeline_.ResumeWrites();
  if (snapshot.is_copy) co_return CutCopy(snapshot);
  // The start of an epoch is not held back, and it has a version.
  const bool late = snapshot.version <= state_.clock.newest();
  if (state_.failed() || !state_.gate->Leads() || late || mark_waits_) {
    checkpointer_.End();
    CO_RETURN_IF_ERROR(MayCut());
    if (mark_waits_) co_return GaveWay();
    co_return Error(Code::kUnavailable,
                    "partition {}: an epoch began while the snapshot was being opened; open another", state_.id());
  }
  state_.clock.Follow(snapshot.version);
  Waiting waiting(this, snapshot);
  waiting_ = &waiting;
  pipeline_.Enqueue(&waiting);
  if (!waiting.done) waiting.Arm();
  // Resumes once every write that was appended before the cut has been applied, or on failure, or
  // when the log does not move on.
  co_await QueueEntry::Left{&waiting};
  waiting.Disarm();
  waiting_ = nullptr;
  if (!waiting.status.ok()) {
    checkpointer_.End();
    co_return std::move(waiting.status);
  }
  state_.tasks.Spawn(WriteSnapshot());
  Status shown = state_.gate->MayShowSnapshot();
  if (!shown.ok()) CO_RETURN_IF_ERROR(Release(snapshot.id));
  co_return shown;
}

Status SnapshotTable::GaveWay() const {
  return Error(Code::kUnavailable,
               "partition {}: no snapshot was opened, because one of the whole cluster is being taken; try again",
               state_.id());
}

void SnapshotTable::BeginMark() {
  mark_waits_ = true;
  if (waiting_ && !waiting_->done) pipeline_.Withdraw(waiting_, GaveWay());
}

void SnapshotTable::TakeReserved(const SnapshotInfo& snapshot) {
  Take(snapshot);
  state_.tasks.Spawn(WriteSnapshot());
}

// What is not committed yet is none of its business: whoever gets the copy reads it from the log. So a master that
// can commit nothing can give one, and it says nothing of the versions that the partition gives.
Status SnapshotTable::CutCopy(const SnapshotInfo& copy) {
  Status status = MayCut();
  if (!status.ok()) {
    checkpointer_.End();
    return status;
  }
  TakeReserved(copy);
  return status;
}

Task<Status> SnapshotTable::AbandonCut() {
  if (pipeline_.holds_writes()) pipeline_.ResumeWrites();
  checkpointer_.End();
  co_return Status();
}

void SnapshotTable::Take(SnapshotInfo snapshot) {
  snapshot.applied_version = state_.newest_in_tree();
  if (!snapshot.is_copy) state_.floor_version = std::max(state_.floor_version, snapshot.version);
  state_.NoteBusy();
  checkpointer_.Begin();
  snapshot.generation = state_.tree->AddSnapshot();
  snapshot.lsn = state_.applied_lsn;
  snapshot.epoch = state_.applied_epoch;
  snapshot.chain = state_.applied_chain;
  state_.file->HoldGeneration(snapshot.generation);
  CHECK(snapshots_.emplace(snapshot.id, snapshot).second) << "ST1: a snapshot's id was given twice";
  of_cluster_ += snapshot.of_cluster;
}

Task<void> SnapshotTable::WriteSnapshot() {
  Status status = co_await checkpointer_.Finish();
  LOG_IF(WARNING, !status.ok()) << "partition " << state_.id()
                                << ": the checkpoint of a snapshot failed: " << status.ToString();
  checkpointer_.End();
}

// -- reading

Status SnapshotTable::Gone(SnapshotId id) const {
  if (std::find(ended_.begin(), ended_.end(), id) != ended_.end()) {
    return Error(Code::kSnapshotGone, "partition {}: the snapshot has expired or was released: open another",
                 state_.id());
  }
  return Error(Code::kSnapshotGone,
               "partition {}: the replica that was asked does not have the snapshot. It is younger than the snapshot, "
               "because the partition was moved or its node was restarted or repaired since; or the snapshot ended "
               "long ago. Open another",
               state_.id());
}

Result<const SnapshotInfo*> SnapshotTable::Find(SnapshotId id) const {
  const auto found = snapshots_.find(id);
  if (found == snapshots_.end()) return Gone(id);
  return &found->second;
}

Result<ReadView> SnapshotTable::ViewOf(SnapshotId id) const {
  if (id == kNewest) return ReadView{0, state_.clock.NowMs()};
  ASSIGN_OR_RETURN(const SnapshotInfo* snapshot, Find(id));
  return ReadView{snapshot->generation, VersionMs(snapshot->version)};
}

const SnapshotInfo* SnapshotTable::Oldest() const {
  auto oldest = std::min_element(snapshots_.begin(), snapshots_.end(), [](const auto& a, const auto& b) {
    return a.second.generation < b.second.generation;
  });
  return oldest == snapshots_.end() ? nullptr : &oldest->second;
}

int64_t SnapshotTable::ClusterEndMs() const {
  int64_t end_ms = 0;
  for (const auto& [id, snapshot] : snapshots_) {
    if (snapshot.of_cluster) end_ms = std::max(end_ms, snapshot.expires_at_ms);
  }
  return end_ms;
}

// -- releasing

Status SnapshotTable::Renew(SnapshotId id, int64_t expires_at_ms) {
  const auto found = snapshots_.find(id);
  if (found == snapshots_.end()) return Gone(id);
  found->second.expires_at_ms = std::max(found->second.expires_at_ms, expires_at_ms);
  return Status();
}

Status SnapshotTable::Release(SnapshotId id) {
  if (!snapshots_.contains(id)) return Gone(id);
  ReleaseIfOpen(id);
  return Status();
}

void SnapshotTable::ReleaseIfOpen(SnapshotId id) {
  const auto found = snapshots_.find(id);
  if (found == snapshots_.end()) return;
  const Generation generation = found->second.generation;
  of_cluster_ -= found->second.of_cluster;
  snapshots_.erase(found);
  ended_.push_back(id);
  if (ended_.size() > kMaxEnded) ended_.pop_front();
  state_.tree->DropSnapshot(generation);
  state_.file->ReleaseGeneration(generation);
}

void SnapshotTable::ReleaseOldestOfCluster() {
  const SnapshotInfo* oldest = nullptr;
  for (const auto& [id, snapshot] : snapshots_) {
    if (snapshot.of_cluster && (!oldest || snapshot.generation < oldest->generation)) oldest = &snapshot;
  }
  CHECK(oldest != nullptr) << "CM4: there is no snapshot of the cluster";
  ReleaseIfOpen(oldest->id);
}

void SnapshotTable::ReleaseExpired() {
  const int64_t now_ms = state_.reactor.WallMs();
  for (auto it = snapshots_.begin(); it != snapshots_.end();) {
    const SnapshotInfo snapshot = (it++)->second;
    if (snapshot.expires_at_ms <= now_ms) ReleaseIfOpen(snapshot.id);
  }
}

}  // namespace pando
