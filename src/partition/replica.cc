// Replica: opening, reads, the write path, and checkpoints. replica_apply.cc applies durable
// writes, replica_scan.cc has scans, and replica_replay.cc has recovery.
#include "src/partition/replica.h"

#include <algorithm>

namespace pando {
namespace {

// Writes pin the pages they will need in up to 1/8 of the pool.
constexpr uint64_t kPinnedShare = 8;
constexpr size_t kCheckpointWrites = 32;  // page writes in flight
constexpr Generation kGenerationsToMerge = 4;
constexpr Nanos kDiskFullNotice = 60 * kSecond;  // how long a refused write shows in stats()
constexpr Nanos kFramesRetry = kMillisecond;

}  // namespace

Replica::Replica(Reactor& reactor, BufferPool& pool, Options options)
    : reactor_(reactor),
      pool_(pool),
      options_(std::move(options)),
      idle_(reactor),
      checkpoint_done_(reactor),
      writes_resumed_(reactor) {}

Replica::~Replica() = default;

Task<Result<std::unique_ptr<Replica>>> Replica::Open(Reactor& reactor, BufferPool& pool, StoreInfo store,
                                                     Options options) {
  std::unique_ptr<Replica> self(new Replica(reactor, pool, std::move(options)));
  PartitionFileOptions file_options{
      store.PartitionDirectory(self->id()) + "/data", store.node,  self->uuid(), store.page_bytes, self->options_.store,
      store.PartitionName(self->id()) + "/data",      &pool.turn()};
  CO_ASSIGN_OR_RETURN(self->file_, co_await PartitionFile::Open(reactor, file_options, /*read_only=*/false));
  const Superblock sb = self->file_->superblock();
  self->file_->set_on_io_error(self->options_.on_failure);
  self->tree_ = std::make_unique<Tree>(pool, *self->file_);
  Status status =
      co_await self->tree_->OpenRoot(sb.root, static_cast<uint8_t>(sb.root_level), sb.generation + 1, sb.next_page_id);
  if (!status.ok()) {
    self->tree_->Abandon();
    Status closed = co_await self->file_->Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return status;
  }
  self->epoch_ = sb.epoch;
  self->last_lsn_ = self->durable_lsn_ = self->applied_lsn_ = sb.checkpoint_lsn;
  self->last_version_ = self->applied_version_ = sb.last_version;
  self->last_checkpoint_ns_ = reactor.NowNs();
  self->next_expiry_ms_ = sb.root.earliest_expiry_ms;
  // Includes the leaves that an earlier process had not merged when it ended. A merge may be
  // delayed by a generation or two.
  self->merged_through_ = sb.generation - std::min<Generation>(sb.generation, kGenerationsToMerge);
  co_return self;
}

void Replica::Serve(Log* log) {
  log_ = log;
  GiveVersion(last_version_);
  changes_.Begin(applied_version_, options_.change_tail_bytes);
  stream_ = log->AddStream(uuid(), epoch_, last_lsn_ + 1, this);
  log->SetCommit(stream_, applied_lsn_);
  log->Release(stream_, file_->older_checkpoint_lsn());
}

Task<void> Replica::Drain() {
  draining_ = true;
  while (active_writes_ > 0 || checkpoint_running_) {
    if (checkpoint_running_) {
      co_await checkpoint_done_.Wait();
    } else {
      co_await idle_.Wait();
    }
  }
  co_await tasks_.Drain();
}

Task<Status> Replica::Close() {
  tree_->Abandon();
  co_return co_await file_->Close();
}

Status Replica::Refusal() const {
  if (!failure_.ok()) return Error(Code::kUnavailable, "partition {} stopped: {}", id(), failure_.message());
  if (draining_) return Error(Code::kUnavailable, "partition {} is closing", id());
  return Status();
}

PartitionStats Replica::stats() const {
  PartitionStats s = stats_;
  s.generation = tree_->generation();
  s.last_lsn = last_lsn_;
  s.applied_lsn = applied_lsn_;
  s.checkpoint_lsn = file_->superblock().checkpoint_lsn;
  s.file_bytes = file_->allocator().total_blocks() * kBlockBytes;
  s.hole_bytes = file_->allocator().hole_blocks() * kBlockBytes;
  s.used_bytes = file_->allocator().used_blocks() * kBlockBytes;
  s.pending_free_bytes = file_->pending_free_blocks() * kBlockBytes;
  s.snapshots = snapshots_.size();
  s.snapshot_pinned_bytes = file_->held_blocks() * kBlockBytes;
  s.dirty_pages = tree_->dirty_pages();
  s.changes_kept = changes_.size();
  s.pending_writes = pending_.size();
  s.checkpoint_running = checkpoint_running_;
  s.disk_full = disk_full_ns_ != 0 && reactor_.NowNs() - disk_full_ns_ < kDiskFullNotice;
  return s;
}

// -- reads

// Copies the record of `key` out of a resident leaf. Returns false if its value is an overflow
// value that is not resident. *unread is then the record, and the rest of *out is filled in.
bool Replica::ReadResident(Frame* leaf, std::string_view key, int64_t now_ms, ReadResult* out, RecordView* unread) {
  *out = ReadResult{};
  std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, key);
  if (!found) return true;
  const RecordView& r = found->record;
  if (r.expires_at_ms != 0 && r.expires_at_ms <= now_ms) return true;
  out->found = true;
  out->version = r.version;
  out->expires_at_ms = r.expires_at_ms;
  if (!r.overflow) {
    out->value = r.value;
    return true;
  }
  if (Frame* value = tree_->FindOverflow(r.overflow_ref)) {
    pool_.Touch(value);
    pool_.CopyOverflow(*value, &out->value);
    return true;
  }
  *unread = r;
  return false;
}

// Copies an overflow value that is not resident. A valid reference always names the same value, so
// this returns the value that `ref` named when it was read from the record. kAborted: look the
// record up again.
Task<Status> Replica::ReadOverflow(SnapshotId snapshot, OverflowRef ref, uint32_t value_bytes, std::string* out) {
  Result<PagePin> value = co_await tree_->FetchOverflow(ref, value_bytes);
  // If the snapshot is gone, the bytes may be another value's.
  CO_RETURN_IF_ERROR(ViewOf(snapshot).status());
  if (!value.ok()) co_return value.TakeStatus();
  pool_.CopyOverflow(*value->frame(), out);
  co_return Status();
}

// Reserves room for the value that Get is about to copy. `taken_bytes` is what an earlier attempt
// of the same Get has reserved.
Status Replica::TakeRoom(Frame* leaf, std::string_view key, int64_t now_ms, ValueRoom* room, size_t* taken_bytes) {
  std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, key);
  if (!found || (found->record.expires_at_ms != 0 && found->record.expires_at_ms <= now_ms)) return Status();
  const size_t bytes = found->record.overflow ? found->record.value_bytes : found->record.value.size();
  if (bytes <= *taken_bytes) return Status();
  const ValueRoom::Answer answer = room->TryTake(bytes - *taken_bytes);
  if (answer != ValueRoom::Answer::kTaken) return NoRoom(answer, *room, bytes);
  *taken_bytes = bytes;
  return Status();
}

Task<Result<ReadResult>> Replica::Get(std::string key, SnapshotId snapshot, ValueRoom* room) {
  ++stats_.reads_total;
  size_t taken_bytes = 0;
  for (;;) {
    if (!failure_.ok()) co_return Refusal();
    CO_ASSIGN_OR_RETURN(View view, ViewOf(snapshot));
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await FetchLeafIn(view, key, /*before=*/false));
    if (!leaf) co_return SnapshotGone();
    if (room) CO_RETURN_IF_ERROR(TakeRoom(leaf.frame(), key, view.now_ms, room, &taken_bytes));
    ReadResult result;
    RecordView unread;
    if (ReadResident(leaf.frame(), key, view.now_ms, &result, &unread)) co_return result;
    leaf.Release();
    Status status = co_await ReadOverflow(snapshot, unread.overflow_ref, unread.value_bytes, &result.value);
    if (status.ok()) co_return result;
    if (status.code() != Code::kAborted) co_return status;
  }
}

Task<Result<ChangePage>> Replica::Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) {
  if (!failure_.ok()) co_return Refusal();
  co_return changes_.After(after, prefix, max_changes, max_bytes, applied_version_);
}

Task<Result<RangeAggregates>> Replica::Aggregate(std::string start, std::string end, SnapshotId snapshot) {
  ++stats_.scans_total;
  CO_ASSIGN_OR_RETURN(View view, ViewOf(snapshot));
  CO_ASSIGN_OR_RETURN(Aggregates sum, co_await tree_->Aggregate(view.generation, start, end, view.now_ms));
  co_return RangeAggregates{sum.count, sum.bytes, sum.content_hash};
}

Task<Result<std::vector<std::string>>> Replica::KeysAtRanks(std::string start, std::string end,
                                                            std::vector<uint64_t> ranks, SnapshotId snapshot) {
  CO_ASSIGN_OR_RETURN(View view, ViewOf(snapshot));
  co_return co_await tree_->KeysAtRanks(view.generation, std::move(start), std::move(end), std::move(ranks));
}

// -- the write path

// Frames for new values, for splits, and for the clones of one leaf. Tree::ClonesNeeded counts
// further clones.
size_t Replica::FramesFor(const std::vector<WriteOp>& ops) const {
  size_t frames = kFramesPerUpdate;
  for (const WriteOp& op : ops) {
    frames += tree_->NewPagesFor(op.key.size());
    if (op.op == RecordOp::kPut && tree_->NeedsOverflow(op.key.size(), op.value.size())) {
      frames += pool_.FramesFor(static_cast<uint32_t>(op.value.size()));
    }
  }
  return frames;
}

// Waits for room in the log and on the disk, or refuses the write before anything has happened.
Task<Status> Replica::Admit(PendingWrite* pending, LogSpace* log_space) {
  const std::vector<WriteOp>& ops = *pending->ops;
  CHECK(!ops.empty() && ops.size() <= kMaxBatchOps);
  bool only_removes = true, checks_may_come = true;
  uint64_t blocks = 0;
  size_t log_bytes = 0;
  for (const WriteOp& op : ops) {
    CHECK(!op.key.empty() && op.key.size() <= MaxKeyBytes(pool_.page_bytes()) && op.value.size() <= kMaxValueBytes);
    CHECK(op.ttl_mode != TtlMode::kSet || (op.ttl_ms > 0) != (op.expires_at_ms > 0)) << "no expiry, or two";
    CHECK(op.op != RecordOp::kTouch || op.ttl_mode != TtlMode::kKeep) << "a touch that changes nothing";
    CHECK(op.op != RecordOp::kCheck || (checks_may_come && !op.condition.empty())) << "an empty check, or a late one";
    checks_may_come &= op.op == RecordOp::kCheck;
    only_removes &= op.op == RecordOp::kRemove || op.op == RecordOp::kExpire || op.op == RecordOp::kCheck;
    log_bytes += op.key.size() + op.value.size() + (op.condition.value ? op.condition.value->size() : 0) + 64;
    blocks += BlocksFor(op.op, op.key.size(), op.value.size());
  }
  // A write is applied without suspending. All of its leaves must be in memory, and each may be
  // cloned together with its ancestors.
  if (ops.size() > pool_.frame_count() / kFramesPerOp || FramesFor(ops) > pool_.frame_count() / 4) {
    // The batch will never fit, so the error is not kOverloaded.
    co_return Error(Code::kInvalidArgument,
                    "a batch of {} operations may change {} pages and add {} new ones; with {} pages of memory a batch "
                    "may change at most {} and add at most {}: send smaller batches or raise --memory_limit_mb",
                    ops.size(), 2 * ops.size(), FramesFor(ops), pool_.frame_count(), pool_.frame_count() / 8,
                    pool_.frame_count() / 4);
  }
  const Nanos deadline_ns = pending->options.control ? pending->options.control->deadline_ns : 0;
  CO_ASSIGN_OR_RETURN(*log_space, co_await log_->WaitForSpace(stream_, log_bytes, deadline_ns));
  Status status = co_await AdmitBlocks(blocks, only_removes, &pending->admitted_blocks);
  if (status.code() == Code::kDiskFull) {
    ++stats_.disk_full_total;
    disk_full_ns_ = reactor_.NowNs();
  } else if (status.ok() && !only_removes) {
    disk_full_ns_ = 0;
  }
  co_return status;
}

std::vector<std::string> Replica::KeysOf(const std::vector<WriteOp>& ops) {
  std::vector<std::string> keys;
  keys.reserve(ops.size());
  for (const WriteOp& op : ops) keys.emplace_back(op.key);
  return keys;
}

// Loads the pages that the write touches and pins them as far as the pool allows. Allocates extents
// for large values.
Task<Status> Replica::FetchForWrite(PendingWrite* pending) {
  const std::vector<WriteOp>& ops = *pending->ops;
  pending->extents.resize(ops.size());
  // Pages that cannot be pinned would be evicted again before they are needed. MakeReady reads them
  // then.
  auto may_pin = [this] { return pool_.pinned_frames() < pool_.frame_count() / kPinnedShare; };
  if (ops.size() > 1 && may_pin()) co_await tree_->FetchAhead(KeysOf(ops));
  for (size_t i = 0; i < ops.size(); ++i) {
    const WriteOp& op = ops[i];
    if (ops.size() == 1 || may_pin()) {
      CO_ASSIGN_OR_RETURN(PagePin pin, co_await tree_->FetchLeaf(op.key));
      if (may_pin()) pending->pins.push_back(std::move(pin));
    }
    if (op.op == RecordOp::kPut && tree_->NeedsOverflow(op.key.size(), op.value.size())) {
      uint32_t blocks = static_cast<uint32_t>((op.value.size() + kBlockBytes - 1) / kBlockBytes);
      CO_ASSIGN_OR_RETURN(pending->extents[i], co_await file_->AllocateForWrite(blocks));
      TakeAdmitted(blocks, &pending->admitted_blocks);
    }
  }
  co_return Status();
}

// Makes `version` the newest one. The clock that NowMs falls back on continues from it if the
// version is ahead of that clock.
void Replica::GiveVersion(Version version) {
  last_version_ = version;
  if (VersionMs(version) <= RunningMs()) return;
  clock_ms_ = VersionMs(version);
  clock_ns_ = reactor_.NowNs();
}

// Assigns versions to the records and appends them to the log.
void Replica::Stage(PendingWrite* pending) {
  std::string encoded;
  std::vector<WriteOp>& ops = *pending->ops;
  for (size_t i = 0; i < ops.size(); ++i) {
    WriteOp& op = ops[i];
    GiveVersion(std::max(last_version_ + 1, VersionAtMs(NowMs())));
    pending->versions.push_back(last_version_);
    LogRecord record;
    record.op = op.op;
    record.continues = i + 1 < ops.size();
    record.all_or_nothing = pending->options.all_or_nothing;
    record.version = last_version_;
    record.ttl_mode = op.ttl_mode;
    if (op.ttl_mode == TtlMode::kSet && op.ttl_ms > 0) op.expires_at_ms = VersionMs(last_version_) + op.ttl_ms;
    record.expires_at_ms = op.expires_at_ms;
    record.delta = op.delta;
    record.key = op.key;
    record.value = op.value;
    record.condition.version = op.condition.version;
    record.condition.exists = op.condition.exists;
    if (op.condition.value) record.condition.value = *op.condition.value;
    EncodeRecord(record, &encoded);
  }
  Lsn first = log_->Append(stream_, encoded, static_cast<uint32_t>(ops.size()));
  CHECK_EQ(first, last_lsn_ + 1);
  last_lsn_ += ops.size();
  pending->last_lsn = last_lsn_;
  pending_.push_back(pending);
}

// The last point at which a write can be withdrawn.
Status Replica::BeginAppend(WriteControl* control) const {
  if (!failure_.ok()) return Refusal();
  if (!control) return Status();
  const bool late = control->deadline_ns != 0 && reactor_.NowNs() >= control->deadline_ns;
  if ((late && control->Withdraw()) || !control->BeginAppend()) {
    return Error(Code::kDeadline, "the deadline passed while the write waited for admission; nothing was changed");
  }
  return Status();
}

Task<Result<std::vector<OpResult>>> Replica::Write(std::vector<WriteOp> ops, WriteOptions options) {
  CO_RETURN_IF_ERROR(Refusal());
  ++active_writes_;
  ++stats_.writes_total;
  PendingWrite pending;
  pending.ops = &ops;
  pending.options = options;
  LogSpace log_space;
  // Both calls may wait for a long time. BeginAppend checks whether the partition has stopped or
  // the write was withdrawn meanwhile.
  Status status = co_await Admit(&pending, &log_space);
  if (status.ok()) status = co_await FetchForWrite(&pending);
  // A snapshot is being cut: no write may be appended meanwhile.
  while (status.ok() && writes_held_ && failure_.ok()) co_await writes_resumed_.Wait();
  if (status.ok()) status = BeginAppend(options.control);
  if (status.ok()) {
    Stage(&pending);
    log_space.Drop();  // from here on its records count themselves
    // Finish resumes this task once the write has been applied or has failed.
    co_await Applied{&pending};
    status = std::move(pending.status);
  } else {
    for (Extent extent : pending.extents) {
      if (!extent.empty()) file_->FreeNow(extent);
    }
    log_space.Drop();  // for other writes that wait
  }
  pending.pins.clear();
  // What it changed counts as dirty now.
  TakeAdmitted(pending.admitted_blocks, &pending.admitted_blocks);
  if (--active_writes_ == 0) idle_.NotifyAll();
  if (!status.ok()) co_return status;
  co_return std::move(pending.results);
}

void Replica::Finish(PendingWrite* pending, Status status) {
  pending->status = std::move(status);
  pending->done = true;
  if (pending->waiter) reactor_.Schedule(pending->waiter);
}

void Replica::OnDurable(Lsn up_to) {
  CHECK(up_to >= durable_lsn_ && up_to <= last_lsn_)
      << "P4: LSN " << up_to << " became durable after " << durable_lsn_ << ", but the last one is " << last_lsn_;
  durable_lsn_ = up_to;
  ApplyDurable();
}

void Replica::OnLogFailed(const Status& status) {
  FailPending(status);
  if (options_.on_failure) options_.on_failure(status);
}

void Replica::FailPending(const Status& status) {
  if (failure_.ok()) failure_ = status;
  for (PendingWrite* pending : std::exchange(pending_, {})) {
    if (pending != preparing_) FailOne(pending);
  }
}

void Replica::FailOne(PendingWrite* pending) {
  Finish(pending, Error(Code::kAborted,
                        "partition {} stopped before the write was acknowledged; whether it took "
                        "effect is unknown: {}",
                        id(), failure_.message()));
}

// Applies durable writes in order. Continues in a task of its own if a page must be waited for or
// if this turn has done enough work.
void Replica::ApplyDurable() {
  while (!applying_slowly_ && !pending_.empty() && pending_.front()->last_lsn <= durable_lsn_) {
    if (apply_slice_.Spend(0) || !ReadyToApply(pending_.front())) {
      applying_slowly_ = true;
      tasks_.Spawn(ApplySlowly());
      return;
    }
    Apply(pending_.front());
  }
}

Task<void> Replica::ApplySlowly() {
  while (!pending_.empty() && pending_.front()->last_lsn <= durable_lsn_) {
    PendingWrite* pending = pending_.front();
    if (apply_slice_.Spend(0)) {
      co_await Yield(reactor_);
      continue;  // the partition may have stopped meanwhile
    }
    if (ReadyToApply(pending)) {
      Apply(pending);
      continue;
    }
    preparing_ = pending;
    // Two writes that both gather pins and wait for frames could deadlock.
    co_await pool_.gather_turn().Acquire();
    Status status = co_await MakeReady(pending);
    preparing_ = nullptr;
    // The next task resumes from the event loop, after the code below.
    pool_.gather_turn().Release();
    // Stopped: FailPending skipped this write, whose operations MakeReady was reading.
    if (!failure_.ok()) {
      FailOne(pending);
      break;
    }
    if (!status.ok()) {
      FailPending(status);
      if (options_.on_failure) options_.on_failure(status);
      break;
    }
    if (ReadyToApply(pending)) {
      Apply(pending);
      continue;
    }
    // Half of the pool is free, and the write needs more than that, because it would clone many
    // pages that the running checkpoint has not written yet. Their number falls as the checkpoint
    // writes them, and nothing else makes them dirty meanwhile. The pins are released because other
    // partitions may wait in the same way.
    pending->pins.clear();
    co_await Sleep(reactor_, kFramesRetry);
  }
  applying_slowly_ = false;
}

// Whether everything that the write needs is in memory, so that it can be applied without
// suspending.
bool Replica::ReadyToApply(PendingWrite* pending) {
  if (!pending->ops) return true;
  const std::vector<WriteOp>& ops = *pending->ops;
  const size_t frames = FramesFor(ops);
  if (pool_.free_frames() < frames) return false;
  std::vector<Frame*> leaves(tree_->checkpointing() && ops.size() > 1 ? ops.size() : 0);
  ChildRef missing;
  uint8_t level = 0;
  for (size_t i = 0; i < ops.size(); ++i) {
    Frame* leaf = tree_->FindLeaf(ops[i].key, &missing, &level);
    if (!leaf) return false;
    if (!leaves.empty() && ops[i].op != RecordOp::kCheck) leaves[i] = leaf;
    if (!NeedsCurrentValue(ops[i])) continue;
    std::optional<FoundRecord> found = tree_->FindInLeaf(leaf, ops[i].key);
    if (!found || !found->record.overflow || tree_->FindOverflow(found->record.overflow_ref)) continue;
    if (pending->found.empty() || pending->found[i].location != found->record.overflow_ref.location) return false;
  }
  return pool_.free_frames() >= frames + tree_->ClonesNeeded(leaves);
}

// Reads the leaves of the write after `pending` while `pending` is made ready and applied. It reads
// ahead for only one write: in a small pool the leaves of several writes would evict each other
// before they are used.
void Replica::FetchForNext(const PendingWrite* pending) {
  if (fetching_ahead_ || pending_.size() < 2 || pending_.front() != pending) return;
  const PendingWrite* next = pending_[1];
  if (!next->ops || next->pins.size() == next->ops->size()) return;
  fetching_ahead_ = true;
  tasks_.Spawn(FetchAhead(KeysOf(*next->ops)));
}

Task<void> Replica::FetchAhead(std::vector<std::string> keys) {
  co_await tree_->FetchAhead(std::move(keys));
  fetching_ahead_ = false;
}

// Only the partition's next write is ever in here, and nothing is applied meanwhile. Its records
// therefore stay as they are found.
Task<Status> Replica::MakeReady(PendingWrite* pending) {
  if (!pending->ops) co_return Status();
  const std::vector<WriteOp>& ops = *pending->ops;
  pending->pins.clear();
  pending->found.resize(ops.size());
  if (ops.size() > 1) co_await tree_->FetchAhead(KeysOf(ops));
  FetchForNext(pending);
  std::vector<Frame*> leaves;
  for (size_t i = 0; i < ops.size(); ++i) {
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await tree_->FetchLeaf(ops[i].key));
    leaves.push_back(leaf.frame());
    pending->pins.push_back(std::move(leaf));
    if (!NeedsCurrentValue(ops[i])) continue;
    std::optional<FoundRecord> found = tree_->FindInLeaf(leaves.back(), ops[i].key);
    if (!found || !found->record.overflow || pending->found[i].location == found->record.overflow_ref.location)
      continue;
    CO_RETURN_IF_ERROR(co_await ReadFound(pending, i, found->record.overflow_ref, found->record.value_bytes));
  }
  // Only in replay: admission allows less, but the log may have been written with more memory.
  if (FramesFor(ops) > pool_.frame_count() / 2) {
    co_return Error(Code::kInvalidArgument,
                    "partition {}: the log holds a write that needs {} pages of memory, but the buffer pool has {} and "
                    "allows half of them for one write; raise --memory_limit_mb and start again, nothing is lost",
                    id(), FramesFor(ops), pool_.frame_count());
  }
  size_t frames = FramesFor(ops) + tree_->ClonesNeeded(leaves);
  // Frees frames for the new pages and the clones.
  co_return co_await pool_.EnsureFree(std::min(frames, size_t{pool_.frame_count()} / 2));
}

Task<Status> Replica::ReadFound(PendingWrite* pending, size_t index, OverflowRef ref, uint32_t value_bytes) {
  std::string bytes;
  Status status;
  do status = co_await ReadOverflow(/*snapshot=*/0, ref, value_bytes, &bytes);
  while (status.code() == Code::kAborted && failure_.ok());  // the pool had no room
  CO_RETURN_IF_ERROR(status);
  const Condition& condition = (*pending->ops)[index].condition;
  FoundValue& found = pending->found[index];
  found.location = ref.location;
  found.equal = condition.value && *condition.value == bytes;
  if (pending->reply_bytes + bytes.size() <= kMaxBatchBytes) {
    pending->reply_bytes += bytes.size();
    found.bytes = std::move(bytes);
  }
  co_return Status();
}

// -- checkpoints

// Waits for a running checkpoint, completes one that had run out of space, and reserves the next
// one.
Task<Status> Replica::ReserveCheckpoint() {
  while (checkpoint_running_) co_await checkpoint_done_.Wait();
  if (!failure_.ok()) co_return Refusal();
  checkpoint_running_ = true;
  if (!tree_->checkpointing()) co_return Status();
  Status status = co_await FinishCheckpoint();
  if (!status.ok()) EndCheckpoint();
  co_return status;
}

void Replica::EndCheckpoint() {
  checkpoint_running_ = false;
  checkpoint_done_.NotifyAll();
}

Task<Status> Replica::Checkpoint() {
  CO_RETURN_IF_ERROR(co_await ReserveCheckpoint());
  Status status;
  if (NeedsCheckpoint()) {
    BeginCheckpoint();
    status = co_await FinishCheckpoint();
  }
  EndCheckpoint();
  co_return status;
}

// Ends the generation. The checkpoint will contain what has been applied so far.
void Replica::BeginCheckpoint() {
  frozen_ = Superblock{};
  frozen_.generation = tree_->generation();
  frozen_.epoch = epoch_;
  frozen_.checkpoint_lsn = applied_lsn_;
  // Later writes have higher versions than an opened snapshot, also after a restart.
  frozen_.last_version = std::max(applied_version_, cut_version_);
  tree_->EndGeneration();
  file_->EndGeneration(frozen_.generation);
  if (checkpoints_to_free_ > 0) --checkpoints_to_free_;
  MergeOldSoon();
}

Task<Status> Replica::FinishCheckpoint() {
  // Reads and writes continue meanwhile. Writes belong to the next generation and leave the frozen
  // pages as they are.
  CO_ASSIGN_OR_RETURN(FrozenRoot root, co_await tree_->WriteFrozen(kCheckpointWrites, nullptr));
  Superblock content = frozen_;
  CHECK_EQ(content.generation, root.generation);
  content.next_page_id = tree_->next_page_id();
  content.root = root.ref;
  content.root_level = root.level;
  content.log_end = log_ ? log_->durable_end() : file_->superblock().log_end;
  CO_RETURN_IF_ERROR(co_await file_->Commit(content));
  co_await tree_->FinishCheckpoint();
  if (log_) log_->Release(stream_, file_->older_checkpoint_lsn());
  last_checkpoint_ns_ = reactor_.NowNs();
  ++stats_.checkpoints_total;
  MergeOldSoon();
  co_return Status();
}

}  // namespace pando
