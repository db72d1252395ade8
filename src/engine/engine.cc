#include "src/engine/engine.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "src/base/expiry.h"
#include "src/btree/batch_find.h"
#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr Nanos kCheckpointTick = 20 * kMillisecond;
constexpr Nanos kCheckpointRetry = kSecond;  // of a partition whose last checkpoint failed
// After this long without a successful checkpoint, Close fails writes that wait for a log segment.
constexpr Nanos kClosePatience = 5 * kSecond;
constexpr Nanos kLockInterval = kSecond;  // how often the lock file is checked
constexpr Nanos kSweepInterval = 500 * kMillisecond;
constexpr Nanos kSweepLook = kMillisecond;  // whether a sweep has ended
// The log's group buffers, which count towards the engine's memory.
constexpr uint64_t kLogBufferBytes = 6u << 20;
// Memory for the changes kept for watchers, over all partitions: at most this share of the engine's
// memory.
constexpr uint64_t kChangeTailShare = 64;
constexpr uint64_t kMaxChangeTailBytes = 32u << 20;
// Memory for the lists of extents that died: this share of the engine's memory. While a checkpoint
// lists an extent, it takes up to this many bytes: its entry, a copy, and one in the encoded list.
constexpr uint64_t kListShare = 16;
constexpr uint64_t kListedExtentBytes = 64;
constexpr size_t kBatchChunk = 128;  // lookups prepared together
// Once replay dirties more pages than the pool holds, each replayed record costs a page read and a
// page write. A longer log would then save little, because most pages were already written to make
// room. Checkpoint at that point, so that recovery is faster.
constexpr uint64_t kLogRecordsPerPoolPage = 4;
// Space that pages free becomes reusable two checkpoints later. It may grow to this share of the
// space in use.
constexpr uint64_t kPendingFreeShare = 8;
// It may not exceed 8 GiB either: each of its pages is an entry of the dead list, in memory and at
// every checkpoint.
constexpr uint64_t kMaxPendingBlocks = 1u << 21;

}  // namespace

class Engine::Impl final : public LogReplaySink {
 public:
  Impl(Reactor& reactor, EngineOptions options)
      : reactor_(reactor), options_(std::move(options)), pool_(reactor, PoolOptions(options_)) {}

  static BufferPoolOptions PoolOptions(const EngineOptions& options) {
    BufferPoolOptions pool;
    pool.page_bytes = options.store.page_bytes;
    pool.seal_bytes = options.store.seal_bytes;
    pool.compression = options.compression;
    // E2: the pool leaves out what the rest of the engine needs, up to a quarter of the memory.
    const uint64_t others = kLogBufferBytes + kScrubBufferBytes + ChangeTailBytes(options) * PartitionsOf(options) +
                            options.memory_bytes / kListShare;
    pool.memory_bytes = options.memory_bytes - std::min(others, options.memory_bytes / 4);
    return pool;
  }

  static uint64_t PartitionsOf(const EngineOptions& options) {
    return (options.store.partitions.size() + options.store.reactors - 1) / options.store.reactors;
  }
  // For one partition.
  static uint64_t ChangeTailBytes(const EngineOptions& options) {
    const uint64_t all = std::min(options.memory_bytes / kChangeTailShare, kMaxChangeTailBytes);
    return std::max<uint64_t>(all / std::max<uint64_t>(PartitionsOf(options), 1), ChangeTail::kMinBytes);
  }

  // WQ2, for one partition. All tails together stay within a quarter of the log's budget, so that the
  // rest goes on even if nothing can be committed.
  static UncommittedLimits LimitsOf(const EngineOptions& options) {
    const uint64_t tails = 4 * std::max<uint64_t>(PartitionsOf(options), 1);
    UncommittedLimits limits;
    limits.bytes = std::min(limits.bytes, options.log_budget_bytes / tails);
    limits.records = std::min(limits.records, options.log_budget_records / tails);
    return limits;
  }

  // The most extents that all lists together may have. Those that snapshots retain may take three
  // quarters of it, those that wait for checkpoints the rest.
  uint64_t MaxListed() const { return options_.memory_bytes / kListShare / kListedExtentBytes; }

  static Status CheckMemory(const EngineOptions& options) {
    const BufferPoolOptions pool = PoolOptions(options);
    const uint64_t needed = BufferPool::MinMemoryBytes(pool.page_bytes, pool.write_buffers);
    if (pool.memory_bytes >= needed) return Status();
    return Error(Code::kInvalidArgument,
                 "one reactor's engine has {} bytes of memory; with pages of {} bytes it needs at least {} bytes: "
                 "raise --memory_limit_mb",
                 options.memory_bytes, pool.page_bytes, needed / 3 * 4);
  }

  Task<Status> Open() {
    pool_.Start();
    Status status = co_await OpenAll();
    if (!status.ok()) {
      // Close what was opened. The first error is the one to report.
      Status closed = co_await Shut();
      LOG_IF(WARNING, !closed.ok()) << "after a failed open: " << closed.ToString();
      co_return status;
    }
    tasks_.Spawn(CheckpointLoop());
    tasks_.Spawn(SweepLoop());
    scrubber_ = std::make_unique<Scrubber>(reactor_, &options_.store, served_, log_.get(), options_.scrub);
    tasks_.Spawn(scrubber_->Run());
    releaser_ = std::make_unique<SpaceReleaser>(reactor_, served_, options_.release);
    tasks_.Spawn(releaser_->Run());
    co_return Status();
  }

  Task<Status> OpenAll() {
    CO_ASSIGN_OR_RETURN(data_dir_, co_await Directory::Open(reactor_, options_.store.data_dir));
    CO_RETURN_IF_ERROR(StillOurs());
    for (const PartitionInfo& info : options_.store.partitions) {
      if (options_.store.ReactorOf(info.id) != options_.reactor_index) continue;
      CO_ASSIGN_OR_RETURN(std::unique_ptr<Replica> replica, co_await OpenReplica(info));
      by_uuid_[info.uuid] = replica.get();
      by_id_.resize(options_.store.partitions.size());
      by_id_[info.id] = replica.get();
      served_.push_back(replica.get());
      replicas_.push_back(std::move(replica));
    }
    LogOptions log_options;
    log_options.directory = options_.store.LogDirectory(options_.reactor_index);
    log_options.node = options_.store.node;
    log_options.segment_bytes = options_.log_segment_bytes;
    log_options.budget_bytes = options_.log_budget_bytes;
    log_options.budget_records = options_.log_budget_records;
    log_options.parent = &data_dir_;
    log_options.may_change = [this] { return StillOurs(); };
    log_options.accept_lost = options_.accept_lost_log;
    for (Replica* replica : served_) {
      if (replica->quarantined()) continue;
      const PartitionFile& file = replica->partition_file();
      if (file.superblock().log_end <= log_options.required_end) continue;
      log_options.required_end = file.superblock().log_end;
      log_options.required_by = file.options().path;
    }
    CO_ASSIGN_OR_RETURN(log_, co_await Log::Open(reactor_, log_options));
    CO_RETURN_IF_ERROR(co_await log_->Recover(this));
    CO_RETURN_IF_ERROR(failure_);
    for (auto& replica : replicas_) CO_RETURN_IF_ERROR(co_await replica->FinishReplay());
    for (auto& replica : replicas_) replica->Serve(log_.get());
    log_->ReleaseUnknownStreams();
    CO_RETURN_IF_ERROR(co_await MakeLogKnown());
    discards_at_once_ = true;
    for (Replica* replica : served_) {
      if (replica->quarantined()) co_await replica->Discard();
    }
    co_return Status();
  }

  Replica::Options ReplicaOptions(const PartitionInfo& info) {
    Replica::Options options;
    options.info = info;
    options.change_tail_bytes = ChangeTailBytes(options_);
    options.on_failure = [this](const Status& s) { OnFailure(s); };
    options.on_quarantine = [this, id = info.id] { OnQuarantine(id); };
    if (options_.make_gate) options.gate = options_.make_gate(info.id);
    options.uncommitted_limits = LimitsOf(options_);
    options.store = &data_dir_;
    return options;
  }

  Task<Result<std::unique_ptr<Replica>>> OpenReplica(PartitionInfo info) {
    Result<std::unique_ptr<Replica>> opened =
        co_await Replica::Open(reactor_, pool_, options_.store, ReplicaOptions(info));
    if (opened.ok() || !Replica::IsDamage(opened.status())) co_return opened;
    co_return Replica::OpenQuarantined(reactor_, pool_, ReplicaOptions(info), opened.status());
  }

  void OnQuarantine(uint32_t id) {
    if (options_.on_quarantine) options_.on_quarantine(id);
    if (discards_at_once_) discards_.Spawn(static_cast<Replica*>(by_id_[id])->Discard());
  }

  // Runs before the first write. A store whose superblocks do not record the log's end would open
  // even without its log.
  Task<Status> MakeLogKnown() {
    for (Replica* replica : served_) {
      if (replica->quarantined() || replica->checkpointer().KnowsLog()) continue;
      Status status = co_await replica->Checkpoint();
      if (replica->quarantined()) continue;
      if (status.code() != Code::kDiskFull) CO_RETURN_IF_ERROR(status);
      // Happens only if an older version filled the disk. Checkpoints will try again.
      LOG_IF(WARNING, !status.ok()) << "the first checkpoint failed for partition " << replica->id() << ": "
                                    << status.ToString();
    }
    co_return Status();
  }

  Task<Status> OnUnits(const RecoveredUnits& units) override {
    auto found = by_uuid_.find(units.partition);
    if (found == by_uuid_.end()) {
      co_return Error(Code::kCorruption,
                      "{}: the batch at offset {} holds records of partition {}, which this store does not have",
                      units.file, units.offset, units.partition.ToString());
    }
    co_return co_await found->second->Replay(units);
  }

  Task<Status> OnMark(const StreamMark& mark) override {
    auto found = by_uuid_.find(mark.partition);
    if (found == by_uuid_.end()) co_return Status();
    co_return co_await found->second->OnMark(mark);
  }

  void OnBroken(const Uuid& partition, const Status& why) override {
    auto found = by_uuid_.find(partition);
    if (found != by_uuid_.end()) found->second->Quarantine(why);
  }

  // Whether the open directory is still the one whose lock this process holds, even if it was
  // moved.
  Status StillOurs() const {
    if (!options_.lock) return Status();
    Result<FileIdentity> now = data_dir_.Identify(kLockName);
    if (now.ok() && *now == *options_.lock) return Status();
    return Error(
        Code::kLocked,
        "{}: the lock file is not the one that this process locked: it was removed or replaced while the store "
        "was open ({}). Another process may have opened the store, so this one stops",
        data_dir_.path(), now.ok() ? "there is another one" : now.status().message());
  }

  void OnFailure(const Status& status) {
    if (!failure_.ok()) return;
    failure_ = status;
    LOG(ERROR) << "the storage engine stops: " << status.ToString();
    // E4: whoever waits for room in the log or in the pool must learn that none will come.
    if (log_) log_->Abandon(status);
    pool_.Fail(status);
    for (auto& replica : replicas_) replica->Stop(status);
    if (scrubber_) scrubber_->Stop();
    if (releaser_) releaser_->Stop();
    if (options_.on_failure) options_.on_failure(status);
  }

  bool MayCheckpoint(const Replica* r) const {
    auto failed = failed_checkpoints_.find(r);
    const bool failed_lately =
        failed != failed_checkpoints_.end() && reactor_.NowNs() - failed->second < kCheckpointRetry;
    return !r->quarantined() && r->checkpointer().Needed() && !failed_lately;
  }

  // Returns the partition to checkpoint next, or null if there is none. If much log is retained, or
  // the log waits for a segment, it is the one that pins the oldest log. If much space waits to be
  // freed, it is the one that would free the most. Otherwise it is the one whose last checkpoint is
  // longest ago, if that is too long.
  Replica* NextToCheckpoint() {
    LogStats log = log_->stats();
    const uint64_t enough_records =
        std::min<uint64_t>(options_.log_budget_records / 2, kLogRecordsPerPoolPage * pool_.frame_count());
    if (log.unreleased_bytes > options_.log_budget_bytes / 2 || log.unreleased_records > enough_records ||
        log.waits_for_segment) {
      auto found = by_uuid_.find(log_->OldestPinnedStream());
      if (found != by_uuid_.end() && MayCheckpoint(found->second)) return found->second;
      // Checkpoints cannot release what is not committed. It is copied only when the log needs the
      // room, not for the sake of a quick recovery: it would be copied for ever.
      const bool short_of_room = log.unreleased_bytes > options_.log_budget_bytes / 2 ||
                                 log.unreleased_records > options_.log_budget_records / 2 || log.waits_for_segment;
      if (short_of_room && found != by_uuid_.end()) MakeRoomInLog(found->second, log);
    }
    if (Replica* replica = MostPendingFree()) return replica;
    Replica* oldest = nullptr;
    for (Replica* r : served_) {
      if (!MayCheckpoint(r) || reactor_.NowNs() - r->checkpointer().last_ns() < options_.checkpoint_interval_ns)
        continue;
      if (!oldest || r->checkpointer().last_ns() < oldest->checkpointer().last_ns()) oldest = r;
    }
    return oldest;
  }

  // The partition pins the oldest log, and no checkpoint can release it.
  void MakeRoomInLog(Replica* replica, const LogStats& log) {
    if (!replica->quarantined()) {
      if (!replica->checkpointer().Needed()) replica->AppendTailAgain();
      return;
    }
    // What may repair the partition is kept until it would stop the others.
    if (log.unreleased_bytes > options_.log_budget_bytes / 4 * 3 ||
        log.unreleased_records > options_.log_budget_records / 4 * 3 || log.waits_for_segment) {
      replica->DropUnits();
    }
  }

  // If the data fits into memory, a page that is rewritten many times between two checkpoints is
  // written only once. That is worth letting space wait, up to the size of the pool.
  Replica* MostPendingFree() {
    uint64_t pending = 0, used = 0;
    Replica* most = nullptr;
    for (Replica* r : served_) {
      if (r->quarantined()) continue;
      const PartitionFile& file = r->partition_file();
      pending += file.pending_free_blocks();
      used += file.allocator().used_blocks();
      if (!MayCheckpoint(r)) continue;
      if (!most || file.pending_free_blocks() > most->partition_file().pending_free_blocks()) most = r;
    }
    const uint64_t pool_blocks = uint64_t{pool_.frame_count()} * pool_.page_bytes() / kBlockBytes;
    // An extent has at least one block.
    const uint64_t limit = std::min(kMaxPendingBlocks, MaxListed() / 4);
    return pending > std::min(std::max(pool_blocks, used / kPendingFreeShare), limit) ? most : nullptr;
  }

  // Releases the snapshots whose time is over, and the oldest one early if they retain too much. A
  // snapshot belongs to all partitions, so it is released in all of them.
  void ExpireSnapshots() {
    uint64_t held = 0;
    const SnapshotInfo* oldest = nullptr;
    for (Replica* r : served_) {
      if (r->quarantined()) continue;
      r->snapshots().ReleaseExpired();
      // What an earlier release frees may be enough.
      if (r->partition_file().releasing_generations()) return;
      held += r->partition_file().held_extents();
      const SnapshotInfo* snapshot = r->snapshots().Oldest();
      if (snapshot && (!oldest || snapshot->version < oldest->version)) oldest = snapshot;
    }
    const uint64_t limit = std::min(options_.max_held_extents, MaxListed() / 4 * 3);
    if (held <= limit || !oldest) return;
    const SnapshotInfo released = *oldest;
    LOG(WARNING) << "the snapshot that was opened " << (reactor_.WallMs() - VersionMs(released.version)) / 1000
                 << " s ago is released early: snapshots retain " << held << " replaced pages and values on reactor "
                 << options_.reactor_index << ", where the limit is " << limit
                 << ". Close snapshots sooner, or raise --memory_limit_mb";
    for (Replica* r : served_) {
      if (!r->quarantined()) r->snapshots().ReleaseIfOpen(released.id);
    }
  }

  // Removes expired records, one partition after another. A sweep that waits for a commit goes on by
  // itself, and does not hold up the other partitions.
  Task<void> SweepLoop() {
    for (Nanos next = 0; !closing_ && failure_.ok();) {
      co_await Sleep(reactor_, kCheckpointTick);  // short, so that closing does not wait long
      if (reactor_.NowNs() < next) continue;
      next = reactor_.NowNs() + kSweepInterval;
      for (Replica* r : served_) {
        if (closing_ || !failure_.ok() || r->quarantined()) continue;
        if (r->upkeep().sweeping() || !r->upkeep().ExpiryDue()) continue;
        r->upkeep().SweepSoon();
        while (r->upkeep().sweeping() && !r->waits_for_commit()) co_await Sleep(reactor_, kSweepLook);
      }
    }
  }

  Task<void> CheckpointLoop() {
    Nanos next_look = 0;
    while (!closing_ && failure_.ok()) {
      if (reactor_.NowNs() >= next_look) {
        next_look = reactor_.NowNs() + kLockInterval;
        if (Status status = StillOurs(); !status.ok()) {
          OnFailure(status);
          break;
        }
      }
      ExpireSnapshots();
      Replica* replica = NextToCheckpoint();
      if (!replica) {
        GiveUpClosing();
        co_await Sleep(reactor_, kCheckpointTick);
        continue;
      }
      Status status = co_await replica->Checkpoint();
      ++checkpoints_;
      failed_checkpoints_.erase(replica);
      if (!status.ok() && failure_.ok() && !replica->quarantined()) {
        LOG(WARNING) << "the checkpoint failed for partition " << replica->id() << ": " << status.ToString();
        // A full disk. Other partitions are checkpointed meanwhile, which may free space.
        failed_checkpoints_[replica] = reactor_.NowNs();
      } else {
        last_success_ns_ = reactor_.NowNs();
      }
    }
  }

  // Close waits for writes that wait for a log segment. Checkpoints release segments, unless the disk
  // is too full even for that.
  void GiveUpClosing() {
    if (close_began_ns_ == 0 || !log_->stats().waits_for_segment) return;
    if (reactor_.NowNs() - std::max(close_began_ns_, last_success_ns_) < kClosePatience) return;
    log_->Abandon(Error(Code::kDiskFull, "{}: the log was closed while writes were waiting for disk space",
                        options_.store.LogDirectory(options_.reactor_index)));
  }

  Task<Status> CheckpointAll() {
    Status first;
    for (Replica* r : served_) {
      Status status = co_await r->Checkpoint();
      if (first.ok()) first = std::move(status);
      if (!first.ok() && !r->quarantined()) break;
    }
    co_return first;
  }

  void GiveUpUncommitted() {
    for (auto& replica : replicas_) replica->BeginDrain();
  }

  Task<Status> Close(bool checkpoint) {
    GiveUpUncommitted();  // a cut in one partition may wait for another
    if (scrubber_) scrubber_->Stop();
    if (releaser_) releaser_->Stop();
    close_began_ns_ = reactor_.NowNs();
    // Running writes may wait for room in the log, which checkpoints make. The checkpoint loop
    // therefore runs until they are done.
    for (auto& replica : replicas_) co_await replica->Drain();
    closing_ = true;
    co_await tasks_.Drain();
    Status status;
    // Checkpoint twice: the log is needed back to the older of the two superblock slots.
    for (int round = 0; checkpoint && round < 2 && status.ok() && failure_.ok(); ++round) {
      for (Replica* r : served_) {
        status = co_await r->Checkpoint();
        if (r->quarantined()) status = Status();
        if (!status.ok()) break;
      }
    }
    Status shut = co_await Shut();
    co_return status.ok() ? std::move(shut) : std::move(status);
  }

  Task<Status> Shut() {
    closing_ = true;
    GiveUpUncommitted();
    Status status;
    for (auto& replica : replicas_) co_await replica->Drain();
    // A partition that is quarantined from here on gives up its pages when it is closed.
    discards_at_once_ = false;
    co_await discards_.Drain();
    co_await pool_.Stop();
    if (log_) status = co_await log_->Close();
    for (auto& replica : replicas_) {
      Status closed = co_await replica->Close();
      if (status.ok()) status = std::move(closed);
    }
    Status closed = co_await data_dir_.Close();
    co_return status.ok() ? std::move(closed) : std::move(status);
  }

  void BatchGet(std::span<PointRead> reads) {
    const int64_t wall_ms = reactor_.WallMs();
    for (size_t from = 0; from < reads.size(); from += kBatchChunk) {
      std::span<PointRead> chunk = reads.subspan(from, std::min(kBatchChunk, reads.size() - from));
      for (size_t i = 0; i < chunk.size(); ++i) {
        auto* replica = static_cast<Replica*>(chunk[i].partition);
        lookups_[i] = BatchLookup{};
        lookups_[i].tree = replica->quarantined() ? nullptr : &replica->tree();
        lookups_[i].key = chunk[i].key;
      }
      BatchFind(pool_, std::span(lookups_).first(chunk.size()));
      for (size_t i = 0; i < chunk.size(); ++i) Answer(lookups_[i], wall_ms, &chunk[i]);
    }
  }

  void BatchWrite(std::span<PointWrite* const> writes) {
    for (size_t from = 0; from < writes.size(); from += kBatchChunk) {
      const auto chunk = writes.subspan(from, std::min(kBatchChunk, writes.size() - from));
      for (size_t i = 0; i < chunk.size(); ++i) {
        auto* replica = static_cast<Replica*>(chunk[i]->partition);
        lookups_[i] = BatchLookup{};
        lookups_[i].tree = replica->quarantined() ? nullptr : &replica->tree();
        lookups_[i].key = chunk[i]->op.key;
        lookups_[i].leaf_only = true;
      }
      BatchFind(pool_, std::span(lookups_).first(chunk.size()));
      // Appending to the log changes no tree, so the leaves stay what they are.
      for (size_t i = 0; i < chunk.size(); ++i) {
        chunk[i]->begun = false;
        if (!lookups_[i].leaf || !failure_.ok()) continue;
        static_cast<Replica*>(chunk[i]->partition)->TryWrite(chunk[i], lookups_[i].leaf);
      }
    }
  }

  void Answer(const BatchLookup& lookup, int64_t wall_ms, PointRead* read) {
    read->outcome = PointRead::Outcome::kMiss;
    if (!lookup.leaf || !failure_.ok()) return;
    ++batch_uses_;
    const RecordView& r = lookup.record;
    const int64_t now_ms = static_cast<Replica*>(read->partition)->clock().NowMs(wall_ms);
    if (!lookup.found || HasExpired(r.expires_at_ms, now_ms)) {
      read->outcome = PointRead::Outcome::kNotFound;
      return;
    }
    if (r.overflow) {
      Frame* value = lookup.tree->FindOverflow(r.overflow_ref);
      if (!value || !read->value) return;
      pool_.Touch(value);
      pool_.CopyOverflow(*value, read->value);
    } else if (read->value) {
      read->value->assign(r.value);
    } else {
      read->in_place = r.value;
    }
    read->version = r.version;
    read->expires_at_ms = r.expires_at_ms;
    read->outcome = PointRead::Outcome::kFound;
  }

  EngineStats stats() const {
    EngineStats s;
    BufferPoolStats pool = pool_.stats();
    s.pool_pages = pool.pages;
    s.pool_free_pages = pool.free_pages;
    s.pool_dirty_pages = pool.dirty_pages;
    s.pool_misses_total = pool.loads_total;
    // A load is a use but not a hit. (Loading an inner page does not count as a use, so the sum
    // could become negative.)
    const uint64_t uses = batch_uses_ + pool.uses_total;
    s.pool_hits_total = uses - std::min(uses, pool.loads_total);
    s.pool_evictions_total = pool.evictions_total;
    s.pool_writes_total = pool.writes_total;
    s.pool_bytes = pool.pages * options_.store.page_bytes;
    if (log_) s.log = log_->stats();
    s.checkpoints_total = checkpoints_;
    if (releaser_) s.release = releaser_->stats();
    s.write_waits_total = s.log.append_waits_total;
    for (const Replica* r : served_) {
      s.disk_full_total += r->stats().disk_full_total;
      s.quarantined_partitions += r->quarantined();
    }
    return s;
  }

  std::vector<QuarantinedPartition> quarantined() const {
    std::vector<QuarantinedPartition> found;
    for (const Replica* r : served_) {
      if (r->quarantined()) found.push_back({r->id(), r->failure()});
    }
    return found;
  }

  Reactor& reactor_;
  EngineOptions options_;
  BufferPool pool_;
  Directory data_dir_;
  std::unique_ptr<Log> log_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<Partition*> by_id_;
  std::vector<Replica*> served_;
  std::vector<Partition*> partitions_;
  std::unordered_map<Uuid, Replica*, UuidHash> by_uuid_;
  Status failure_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<SpaceReleaser> releaser_;
  bool closing_ = false;
  // Partitions that are quarantined give up their pages at once. Not while the engine opens, and not at
  // the end, when it does it itself.
  bool discards_at_once_ = false;
  TaskGroup discards_;
  std::unordered_map<const Replica*, Nanos> failed_checkpoints_;  // when the last one failed
  Nanos close_began_ns_ = 0, last_success_ns_ = 0;                // of a checkpoint
  uint64_t checkpoints_ = 0;
  uint64_t batch_uses_ = 0;
  std::array<BatchLookup, kBatchChunk> lookups_;  // of the running batch, which does not suspend
  TaskGroup tasks_;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Task<Result<std::unique_ptr<Engine>>> Engine::Open(Reactor& reactor, EngineOptions options) {
  CO_RETURN_IF_ERROR(Impl::CheckMemory(options));
  auto impl = std::make_unique<Impl>(reactor, std::move(options));
  CO_RETURN_IF_ERROR(co_await impl->Open());
  impl->partitions_.assign(impl->served_.begin(), impl->served_.end());
  co_return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Reactor& Engine::reactor() { return impl_->reactor_; }
Partition* Engine::partition(uint32_t id) { return id < impl_->by_id_.size() ? impl_->by_id_[id] : nullptr; }
std::span<Partition* const> Engine::partitions() { return impl_->partitions_; }
void Engine::BatchGet(std::span<PointRead> reads) { impl_->BatchGet(reads); }
void Engine::BatchWrite(std::span<PointWrite* const> writes) { impl_->BatchWrite(writes); }
Task<Status> Engine::CheckpointAll() { return impl_->CheckpointAll(); }
void Engine::CheckInvariants() const {
  impl_->log_->CheckInvariants();
  for (const Replica* r : impl_->served_) r->CheckInvariants();
}
EngineStats Engine::stats() const { return impl_->stats(); }
std::vector<QuarantinedPartition> Engine::quarantined() const { return impl_->quarantined(); }
Scrubber& Engine::scrubber() { return *impl_->scrubber_; }
const Status& Engine::failure() const { return impl_->failure_; }
void Engine::GiveUpUncommitted() { impl_->GiveUpUncommitted(); }
Task<Status> Engine::Close(bool checkpoint) { return impl_->Close(checkpoint); }

}  // namespace pando
