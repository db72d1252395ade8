#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr Nanos kDiskFullNotice = 60 * kSecond;  // how long a refused write shows in stats()

}  // namespace

Replica::Replica(Reactor& reactor, BufferPool& pool, Options options)
    : change_tail_bytes_(options.change_tail_bytes),
      seen_before_(options.seen_before),
      reader_retained_bytes_(options.reader_retained_bytes),
      drained_(reactor),
      discarded_(reactor),
      on_quarantine_(std::move(options.on_quarantine)),
      state_(reactor, pool, options.info, std::move(options.clock), options.history_points),
      gatherer_(state_, checkpointer_, admission_, options.gather_pace) {
  state_.on_failure = std::move(options.on_failure);
  state_.on_damage = [this](const Status& why) { Quarantine(why); };
  state_.on_busy = std::move(options.on_busy);
  state_.changes.CountIn(options.change_count);
  if (options.newest_change) state_.changes.PublishIn(options.newest_change);
  state_.gate = options.gate ? std::move(options.gate) : std::make_unique<CommitAtOnce>();
  state_.uncommitted_limits = options.uncommitted_limits;
  state_.max_lanes = options.max_lanes;
}

Task<Result<std::unique_ptr<Replica>>> Replica::Open(Reactor& reactor, BufferPool& pool, const StoreInfo& store,
                                                     Options options) {
  CHECK_EQ(pool.usable_bytes(), UsablePageBytes(store.page_bytes, store.seal_bytes)) << "a pool for another store";
  const Directory* directory = options.store;
  std::function<Task<bool>()> make_room = std::move(options.make_room);
  std::unique_ptr<Replica> self(new Replica(reactor, pool, std::move(options)));
  PartitionState& state = self->state_;
  PartitionFileOptions file_options{store.PartitionFilePath(self->id()),
                                    store.node,
                                    self->uuid(),
                                    store.page_bytes,
                                    store.seal_bytes,
                                    directory,
                                    store.PartitionName(self->id()) + "/data",
                                    &pool.turn()};
  CO_ASSIGN_OR_RETURN(state.file, co_await PartitionFile::Open(reactor, file_options, /*read_only=*/false));
  const Superblock sb = state.file->superblock();
  state.namespaced = store.namespaced;
  state.file->set_on_io_error(state.on_damage);
  state.file->set_make_room(std::move(make_room));
  state.tree = std::make_unique<Tree>(pool, *state.file);
  Status status =
      co_await state.tree->OpenRoot(sb.root, static_cast<uint8_t>(sb.root_level), sb.generation + 1, sb.next_page_id);
  if (!status.ok()) {
    co_await self->Drain();
    Status closed = co_await self->Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return status;
  }
  state.epoch = state.applied_epoch = sb.epoch;
  state.last_lsn = state.durable_lsn = state.committed_lsn = state.applied_lsn = sb.checkpoint_lsn;
  state.last_chain = state.applied_chain = sb.chain;
  state.floor_version = sb.last_version;
  state.history.Begin({sb.epoch, sb.checkpoint_lsn, sb.chain});
  self->upkeep_.Begin(sb);
  co_return self;
}

std::unique_ptr<Replica> Replica::OpenQuarantined(Reactor& reactor, BufferPool& pool, Options options,
                                                  const Status& why) {
  std::unique_ptr<Replica> self(new Replica(reactor, pool, std::move(options)));
  self->Quarantine(why);
  return self;
}

Status Replica::Judge(Status status) {
  // The write-back of a page may have failed, so that whoever waited for its frame was refused.
  if (quarantined()) return Status();
  if (status.ok() || !IsDamage(status)) return status;
  Quarantine(status);
  return Status();
}

Task<Status> Replica::Replay(RecoveredUnits found) {
  if (quarantined()) co_return Status();
  co_return Judge(co_await recovery_.Replay(std::move(found)));
}

Status Replica::OnCut(const RecoveredCut& cut) {
  if (quarantined()) return Status();
  return Judge(recovery_.OnCut(cut));
}

Task<Status> Replica::OnMark(StreamMark mark) {
  if (quarantined()) co_return Status();
  co_return Judge(co_await recovery_.OnMark(mark));
}

Task<Status> Replica::FinishReplay() {
  if (quarantined()) co_return Status();
  co_return Judge(co_await recovery_.Finish(&pipeline_));
}

void Replica::Quarantine(const Status& why) {
  if (state_.failed() || state_.phase() == Phase::kClosed) return;
  state_.Quarantine(why);
  quarantined_ms_ = state_.reactor.WallMs();
  const QuarantinedPartition quarantined = quarantine();
  quarantined.Log();
  Condemn();
  if (on_quarantine_) on_quarantine_(quarantined);
}

QuarantinedPartition Replica::quarantine() const {
  const PartitionInfo& info = state_.info;
  return {info.id, info.first_hash, info.last_hash, quarantined_ms_, state_.failure(), units_dropped_};
}

void Replica::Condemn() {
  if (state_.file) state_.file->Condemn(state_.Refusal());
  state_.pool.WakeWaiters();
  pipeline_.OnOutOfService();
  state_.changes.Close();
}

Task<void> Replica::Discard() {
  CHECK(out_of_service()) << "PH3: partition " << id() << " still serves";
  // It may be dropped while it is discarded because it is quarantined.
  while (discarding_) co_await discarded_.Wait();
  discarding_ = true;
  // The caller may be in the middle of a write of the file.
  co_await Yield(state_.reactor);
  co_await Drain();
  recovery_.Forget();
  snapshots_.Forget();
  if (state_.tree) {
    // Reads of the file go on, so it stays open.
    co_await state_.pool.DrainWrites(state_.tree.get());
    co_await state_.tree->AbandonInTurns();
  }
  discarding_ = false;
  discarded_.NotifyAll();
}

void Replica::Drop() {
  state_.Drop();
  LOG(INFO) << "partition " << id() << " (" << uuid().ToString() << ") is dropped";
  // Before the writes in the queue are answered: the log no longer reads their records. And whoever waits for
  // room in the log may wait for what it holds of this partition.
  if (state_.stream) {
    state_.log->EndStream(state_.stream, state_.Refusal());
  } else if (state_.log) {
    state_.log->DropUnits(uuid());
  }
  Condemn();
}

Task<Status> Replica::Leave() {
  if (state_.phase() == Phase::kFailed) co_return state_.Refusal();
  CHECK(state_.phase() == Phase::kDropped) << "PH4: partition " << id() << " leaves the log, but serves";
  co_await Discard();
  if (state_.stream) {
    // The log still announces what is on its way to the disk.
    co_await state_.log->UntilAnnounced(state_.stream);
    state_.log->RemoveStream(std::exchange(state_.stream, nullptr));
  } else if (state_.log) {
    state_.log->ForgetUnits(uuid());
  }
  state_.log = nullptr;
  co_return Status();
}

Task<Status> Replica::Checkpoint() {
  const ActiveCall call(&state_);
  co_return co_await checkpointer_.Checkpoint();
}

void Replica::DropUnits() {
  CHECK(quarantined()) << "PH3: the log of partition " << id() << " is still needed";
  units_dropped_ = true;
  quarantine().Log();
  if (state_.log) state_.log->DropUnits(uuid());
}

void Replica::Serve(Log* log) {
  if (quarantined()) {
    state_.log = log;
    log->KeepUnits(uuid());
    return;
  }
  state_.Enter(Phase::kServing);
  state_.log = log;
  const Version given = std::max({state_.applied_version, state_.floor_version, seen_before_});
  state_.clock.Follow(std::max(state_.clock.newest(), given));
  state_.changes.Begin(state_.applied_version, change_tail_bytes_, given);
  state_.stream = log->AddStream(uuid(), state_.epoch, state_.last_lsn + 1, state_.last_chain, this);
  log->SetCommit(state_.stream, state_.committed_lsn, state_.clock.newest());
  log->Release(state_.stream, state_.file->older_checkpoint_lsn());
  state_.gate->OnServing(this);
}

void Replica::BeginDrain() {
  if (state_.works()) state_.Enter(Phase::kDraining);
  pipeline_.GiveUpUncommitted();
}

Task<void> Replica::Drain() {
  BeginDrain();
  while (draining_) co_await drained_.Wait();  // both Discard and the engine drain
  draining_ = true;
  while (state_.active_calls > 0 || checkpointer_.running()) {
    if (checkpointer_.running()) {
      co_await checkpointer_.WaitForEnd();
    } else {
      co_await state_.idle.Wait();
    }
  }
  co_await state_.tasks.Drain();
  pipeline_.CloseGate();
  draining_ = false;
  drained_.NotifyAll();
}

Task<Status> Replica::Close() {
  state_.Enter(Phase::kClosed);
  if (state_.tree) state_.tree->Abandon();
  if (!state_.file) co_return Status();
  co_return co_await state_.file->Close();
}

void Replica::OnLogFailed(const Status& status) {
  pipeline_.Fail(status);  // also what a quarantined partition has on its way to the disk
  if (state_.on_failure) state_.on_failure(status);
}

Task<Result<Version>> Replica::HighestVersion() { return marks_.Highest(); }

Task<Status> Replica::RenewSnapshot(SnapshotId id, int64_t expires_at_ms) {
  CO_ASSIGN_OR_RETURN(const SnapshotInfo* snapshot, snapshots_.Find(id));
  if (!snapshot->of_cluster) co_return snapshots_.Renew(id, expires_at_ms);
  co_return co_await marks_.SetLease(id, expires_at_ms);
}

Task<Status> Replica::ReleaseSnapshot(SnapshotId id) {
  CO_ASSIGN_OR_RETURN(const SnapshotInfo* snapshot, snapshots_.Find(id));
  if (!snapshot->of_cluster) co_return snapshots_.Release(id);
  co_return co_await marks_.SetLease(id, std::nullopt);
}

PartitionStats Replica::stats() const {
  PartitionStats s = state_.stats;
  s.last_lsn = state_.last_lsn;
  s.durable_lsn = state_.durable_lsn;
  s.committed_lsn = state_.committed_lsn;
  s.applied_lsn = state_.applied_lsn;
  s.epoch = state_.epoch;
  s.uncommitted_bytes = pipeline_.uncommitted_bytes();
  s.pending_writes = pipeline_.size();
  if (!state_.file || !state_.tree) return s;  // it could not be opened
  const ExtentAllocator& allocator = state_.file->allocator();
  s.generation = state_.tree->generation();
  s.checkpoint_lsn = state_.file->superblock().checkpoint_lsn;
  s.file_bytes = allocator.total_blocks() * kBlockBytes;
  s.hole_bytes = allocator.hole_blocks() * kBlockBytes;
  s.used_bytes = allocator.used_blocks() * kBlockBytes;
  s.pending_free_bytes = state_.file->pending_free_blocks() * kBlockBytes;
  s.snapshots = snapshots_.size();
  s.cluster_snapshots = snapshots_.of_cluster();
  s.cluster_snapshots_end_ms = snapshots_.ClusterEndMs();
  s.snapshot_pinned_bytes = state_.file->held_blocks() * kBlockBytes;
  s.dirty_pages = state_.tree->dirty_pages();
  s.changes_kept = state_.changes.size();
  s.checkpoint_running = checkpointer_.running();
  s.disk_full = state_.disk_full_ns != 0 && state_.reactor.NowNs() - state_.disk_full_ns < kDiskFullNotice;
  return s;
}

}  // namespace pando
