#include "src/engine/engine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <unordered_map>

#include "src/base/expiry.h"
#include "src/btree/batch_find.h"
#include "src/engine/memory_shares.h"
#include "src/engine/work_list.h"
#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr Nanos kCheckpointTick = 20 * kMillisecond;
// After this long without a successful checkpoint, Close fails writes that wait for a log segment.
constexpr Nanos kClosePatience = 5 * kSecond;
constexpr Nanos kLockInterval = kSecond;  // how often the lock file is checked
constexpr Nanos kSweepInterval = 500 * kMillisecond;
constexpr size_t kBatchChunk = 128;  // lookups prepared together
// How many partitions are opened, or checkpointed before the engine closes, at the same time.
constexpr size_t kAtOnce = 16;

}  // namespace

class Engine::Impl final : public LogReplaySink {
 public:
  Impl(Reactor& reactor, EngineOptions options)
      : reactor_(reactor), options_(std::move(options)), pool_(reactor, PoolOptionsOf(options_)) {
    AddPlaces(options_.store.IdLimit());
    if (!options_.clock) options_.clock = std::make_shared<StoreClock>();
  }

  void AddPlaces(uint32_t ids) {
    if (ids <= by_id_.size()) return;
    by_id_.resize(ids);
    seen_before_.resize(ids);
    while (newest_.size() < ids) newest_.emplace_back(ChangeTail::kOutOfService);
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
    scrubber_ = std::make_unique<Scrubber>(reactor_, &options_.store, log_.get(), options_.scrub);
    releaser_ = std::make_unique<SpaceReleaser>(reactor_, options_.release);
    for (Replica* replica : InService()) {
      scrubber_->Add(replica);
      releaser_->Add(replica);
    }
    tasks_.Spawn(scrubber_->Run());
    tasks_.Spawn(releaser_->Run());
    co_return Status();
  }

  Task<Status> OpenAll() {
    CO_ASSIGN_OR_RETURN(data_dir_, co_await Directory::Open(reactor_, options_.store.data_dir));
    CO_RETURN_IF_ERROR(StillOurs());
    CO_RETURN_IF_ERROR(co_await OpenReplicas());
    LogOptions log_options;
    log_options.directory = options_.store.LogDirectory(options_.reactor_index);
    log_options.node = options_.store.node;
    log_options.segment_bytes = options_.log_segment_bytes;
    log_options.budget_bytes = options_.log_budget_bytes;
    log_options.budget_records = options_.log_budget_records;
    log_options.retained_bytes = options_.log_retained_bytes;
    log_options.reader_ring_bytes = ReaderRingBytes(options_);
    log_options.parent = &data_dir_;
    log_options.may_change = [this] { return StillOurs(); };
    log_options.dropped = options_.store.DroppedInLog(options_.reactor_index);
    for (const Replica* replica : InService()) {
      const PartitionFile& file = replica->partition_file();
      if (file.superblock().log_end <= log_options.required_end) continue;
      log_options.required_end = file.superblock().log_end;
      log_options.required_by = file.options().path;
    }
    CO_RETURN_IF_ERROR(WithAdvice(co_await OpenLog(std::move(log_options))));
    CO_RETURN_IF_ERROR(failure_);
    for (Replica* replica : served_) CO_RETURN_IF_ERROR(co_await replica->FinishReplay());
    for (Replica* replica : served_) replica->Serve(log_.get());
    for (Replica* replica : InService()) work_.Add(replica);
    log_->ReleaseUnknownStreams();
    CO_RETURN_IF_ERROR(co_await MakeLogKnown());
    discards_at_once_ = true;
    for (Replica* replica : served_) {
      if (replica->quarantined()) co_await replica->Discard();
    }
    co_return Status();
  }

  Task<Status> OpenLog(LogOptions options) {
    CO_ASSIGN_OR_RETURN(log_, co_await Log::Open(reactor_, std::move(options)));
    co_return co_await log_->Recover(this);
  }
  // What an operator can do about a log that is damaged or cannot be read.
  Status WithAdvice(Status status) const {
    if (status.code() != Code::kCorruption && status.code() != Code::kIoError) return status;
    return Error(status.code(), "{}. {}", status.message(), LogLossAdvice(options_.store, options_.reactor_index));
  }

  Replica::Options ReplicaOptions(const PartitionInfo& info) {
    Replica::Options options;
    options.info = info;
    options.clock = options_.clock;
    options.change_tail_bytes = ChangeTailBytes(options_);
    options.history_points = HistoryPoints(options_);
    options.on_failure = [this](const Status& s) { OnFailure(s); };
    options.on_quarantine = [this](const QuarantinedPartition& q) { OnQuarantine(q); };
    if (options_.make_gate) options.gate = options_.make_gate(info.id);
    options.on_busy = [this, id = info.id] {
      if (by_id_[id] != nullptr) work_.NoteBusy(static_cast<Replica*>(by_id_[id]));
    };
    options.uncommitted_limits = UncommittedLimitsOf(options_);
    options.max_lanes = options_.max_lanes;
    options.reader_retained_bytes = options_.reader_retained_bytes;
    options.gather_pace = options_.gather_bytes_per_s > 0 ? &gather_pace_ : nullptr;
    options.change_count = &change_count_;
    options.newest_change = &newest_[info.id];
    options.store = &data_dir_;
    options.make_room = [this] { return MakeRoom(); };
    return options;
  }

  // A partition's file cannot grow, because the disk is full.
  Task<bool> MakeRoom() {
    if (!log_) co_return false;
    co_return co_await log_->GiveUpRetained();
  }

  // Those that are not out of service. Valid until the caller suspends (E6).
  std::vector<Replica*> InService() const {
    std::vector<Replica*> found;
    std::copy_if(served_.begin(), served_.end(), std::back_inserter(found),
                 [](const Replica* replica) { return !replica->out_of_service(); });
    return found;
  }
  Replica* Find(uint32_t id) const { return id < by_id_.size() ? static_cast<Replica*>(by_id_[id]) : nullptr; }

  void OnQuarantine(const QuarantinedPartition& quarantined) {
    Replica* replica = Find(quarantined.id);
    if (replica == nullptr && discards_at_once_) return;  // OpenPartition says why
    if (options_.on_quarantine) options_.on_quarantine(quarantined);
    if (replica == nullptr) return;  // it is being opened
    work_.Remove(replica);
    if (discards_at_once_) discards_.Spawn(replica->Discard());
  }

  // Opens this reactor's partitions, several at the same time.
  Task<Status> OpenReplicas() {
    std::vector<PartitionInfo> mine;
    for (const PartitionInfo& info : options_.store.partitions) {
      if (options_.store.ReactorOf(info.id) == options_.reactor_index) mine.push_back(info);
    }
    Status status;
    size_t next = 0;
    TaskGroup tasks;
    for (size_t i = 0; i < std::min(kAtOnce, mine.size()); ++i) tasks.Spawn(OpenNext(&mine, &next, &status));
    co_await tasks.Drain();
    // In the order of IDs, so that simulations are deterministic whatever the disk does.
    for (const PartitionInfo& info : mine) {
      if (by_id_[info.id] != nullptr) served_.push_back(static_cast<Replica*>(by_id_[info.id]));
    }
    co_return status;
  }

  Task<void> OpenNext(const std::vector<PartitionInfo>* mine, size_t* next, Status* status) {
    while (*next < mine->size() && status->ok()) {
      Status opened = co_await OpenReplica((*mine)[(*next)++]);
      if (status->ok()) *status = std::move(opened);
    }
  }

  Task<Status> OpenReplica(PartitionInfo info) {
    Result<std::unique_ptr<Replica>> opened =
        co_await Replica::Open(reactor_, pool_, options_.store, ReplicaOptions(info));
    if (!opened.ok() && Replica::IsDamage(opened.status())) {
      opened = Replica::OpenQuarantined(reactor_, pool_, ReplicaOptions(info), opened.status());
    }
    CO_RETURN_IF_ERROR(opened.status());
    Replica* replica = opened->get();
    by_uuid_[info.uuid] = replica;
    by_id_[info.id] = replica;
    replicas_.push_back(*std::move(opened));
    co_return Status();
  }

  Status CheckMayOpen(uint32_t id) const {
    CHECK(!closing_ && close_began_ns_ == 0) << "a partition is opened while the engine closes";
    CHECK(options_.store.ReactorOf(id) == options_.reactor_index && id < by_id_.size())
        << "partition " << id << " belongs to another reactor";
    RETURN_IF_ERROR(failure_);
    for (const auto& replica : replicas_) {
      if (replica->id() == id) return Error(Code::kAlreadyExists, "partition {} is open already", id);
    }
    if (replicas_.size() + opening_ < most_partitions_) return Status();
    return Error(Code::kOverloaded,
                 "reactor {} has {} partitions, and keeps no memory for another one: drop one, or start the node "
                 "again, which makes room for more as far as --memory_limit_mb allows it",
                 options_.reactor_index, most_partitions_);
  }

  Task<Result<Partition*>> OpenPartition(PartitionInfo info) {
    CO_RETURN_IF_ERROR(CheckMayOpen(info.id));
    ++opening_;
    Replica::Options options = ReplicaOptions(info);
    options.seen_before = std::max(seen_before_[info.id], VersionAtMs(reactor_.WallMs()));
    Result<std::unique_ptr<Replica>> opened =
        co_await Replica::Open(reactor_, pool_, options_.store, std::move(options));
    --opening_;
    CO_RETURN_IF_ERROR(opened.status());
    Replica* replica = opened->get();
    replicas_.push_back(*std::move(opened));
    Status status = co_await Begin(replica);
    if (status.ok()) co_return replica;
    Status ended = co_await End(replica, nullptr);
    LOG_IF(WARNING, !ended.ok()) << ended.ToString();
    co_return status;
  }

  // Lists a replica that is open, after its first checkpoint: nobody finds it before.
  Task<Status> Begin(Replica* replica) {
    CO_RETURN_IF_ERROR(failure_);
    CO_RETURN_IF_ERROR(co_await replica->FinishReplay());
    CO_RETURN_IF_ERROR(failure_);
    if (!replica->quarantined()) {
      replica->Serve(log_.get());
      CO_RETURN_IF_ERROR(co_await MakeLogKnownTo(replica));
    }
    if (replica->quarantined()) co_return replica->failure();
    CO_RETURN_IF_ERROR(failure_);
    by_uuid_[replica->uuid()] = replica;
    by_id_[replica->id()] = replica;
    const auto before = [](const Partition* a, const Partition* b) { return a->id() < b->id(); };
    served_.insert(std::upper_bound(served_.begin(), served_.end(), replica, before), replica);
    partitions_.insert(std::upper_bound(partitions_.begin(), partitions_.end(), replica, before), replica);
    work_.Add(replica);
    scrubber_->Add(replica);
    releaser_->Add(replica);
    co_return Status();
  }

  Task<Status> DropPartition(uint32_t id, std::function<void()> on_gone) {
    CHECK(!closing_ && close_began_ns_ == 0) << "a partition is dropped while the engine closes";
    Replica* replica = Find(id);
    if (replica == nullptr) co_return PartitionNotHere(id);
    CO_RETURN_IF_ERROR(failure_);
    // E6: nobody finds it any more.
    by_uuid_.erase(replica->uuid());
    by_id_[id] = nullptr;
    std::erase(served_, replica);
    std::erase(partitions_, replica);
    work_.Remove(replica);
    if (replica->quarantined() && options_.on_quarantine_end) options_.on_quarantine_end(id);
    co_return co_await End(replica, std::move(on_gone));
  }

  // Nothing of the replica stays.
  Task<Status> End(Replica* replica, std::function<void()> on_gone) {
    replica->Drop();
    CO_RETURN_IF_ERROR(co_await replica->Leave());
    if (on_gone) on_gone();
    scrubber_->Remove(replica);
    releaser_->Remove(replica);
    dropped_.AddCounters(replica->counters());
    seen_before_[replica->id()] = std::max(seen_before_[replica->id()], replica->clock().newest());
    Status closed = co_await replica->Close();
    LOG_IF(WARNING, !closed.ok()) << "partition " << replica->id() << " was dropped, but: " << closed.ToString();
    std::erase_if(replicas_, [replica](const auto& owned) { return owned.get() == replica; });
    co_return Status();
  }

  using Call = std::function<Task<Status>(Replica*)>;
  // Calls `call` for all partitions in service, several at the same time. One that leaves service
  // meanwhile is no error. Begins no more after an error.
  Task<Status> ForEach(Call call) {
    std::vector<uint32_t> ids;
    for (const Replica* replica : InService()) ids.push_back(replica->id());
    Status status;
    size_t next = 0;
    TaskGroup tasks;
    for (size_t i = 0; i < std::min(kAtOnce, ids.size()); ++i) tasks.Spawn(CallNext(&ids, &call, &next, &status));
    co_await tasks.Drain();
    co_return status;
  }
  Task<void> CallNext(const std::vector<uint32_t>* ids, const Call* call, size_t* next, Status* first_error) {
    while (*next < ids->size() && first_error->ok()) {
      Replica* replica = Find((*ids)[(*next)++]);
      if (replica == nullptr || replica->out_of_service()) continue;
      const ActiveCall hold = replica->Hold();  // E6
      Status status = co_await (*call)(replica);
      if (first_error->ok() && !replica->out_of_service()) *first_error = std::move(status);
    }
  }

  // Runs before the first write. A store whose superblocks do not record the log's end would open
  // even without its log.
  Task<Status> MakeLogKnown() {
    return ForEach([](Replica* replica) { return TryMakeLogKnownTo(replica); });
  }

  static Task<Status> MakeLogKnownTo(Replica* replica) {
    if (replica->checkpointer().KnowsLog()) co_return Status();
    co_return co_await replica->Checkpoint();
  }

  static Task<Status> TryMakeLogKnownTo(Replica* replica) {
    Status status = co_await MakeLogKnownTo(replica);
    if (status.code() != Code::kDiskFull) co_return status;
    // Happens only if an older version filled the disk. Checkpoints will try again.
    LOG(WARNING) << "the first checkpoint failed for partition " << replica->id() << ": " << status.ToString();
    co_return Status();
  }

  Task<Status> OnUnits(const RecoveredUnits& units) override {
    if (Replica* replica = FindReplica(units.partition)) co_return co_await replica->Replay(units);
    co_return Error(Code::kCorruption,
                    "{}: the batch at offset {} holds records of partition {}, which this store does not have",
                    units.file, units.offset, units.partition.ToString());
  }
  Task<Status> OnCut(const RecoveredCut& cut) override {
    if (Replica* replica = FindReplica(cut.partition)) co_return replica->OnCut(cut);
    co_return Status();
  }
  Task<Status> OnMark(const StreamMark& mark) override {
    if (Replica* replica = FindReplica(mark.partition)) co_return co_await replica->OnMark(mark);
    co_return Status();
  }
  void OnBroken(const Uuid& partition, const Status& why) override {
    if (Replica* replica = FindReplica(partition)) replica->Quarantine(why);
  }
  Lsn CheckpointOf(const Uuid& partition) const override {
    const Replica* replica = FindReplica(partition);
    return replica == nullptr || replica->out_of_service() ? 0 : replica->partition_file().superblock().checkpoint_lsn;
  }
  Replica* FindReplica(const Uuid& uuid) const {
    const auto found = by_uuid_.find(uuid);
    return found == by_uuid_.end() ? nullptr : found->second;
  }

  // Whether the open directory, wherever it is now, is still the one whose lock this process holds.
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

  // Removes expired records, one partition after another. A sweep that waits for a commit goes on by
  // itself, and does not hold up the other partitions.
  Task<void> SweepLoop() {
    for (Nanos next = 0; !closing_ && failure_.ok();) {
      co_await Sleep(reactor_, kCheckpointTick);  // short, so that closing does not wait long
      if (reactor_.NowNs() < next) continue;
      next = reactor_.NowNs() + kSweepInterval;
      for (const uint32_t id : work_.SweepsDue()) {
        if (closing_ || !failure_.ok()) break;
        Replica* r = Find(id);  // E6
        if (r == nullptr || !r->serving()) continue;
        const ActiveCall hold = r->Hold();  // PL1
        if (!r->upkeep().sweeping() && r->upkeep().ExpiryDue()) r->upkeep().SweepSoon();
        if (!r->waits_for_commit()) co_await r->upkeep().SweepEndsOrStalls();
        work_.NoteSwept(r);
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
      Replica* replica = work_.NextToCheckpoint(PinsLog(), work_.LogIsShort(log_->stats()));
      if (!replica) {
        GiveUpClosing();
        co_await Sleep(reactor_, kCheckpointTick);
        continue;
      }
      const ActiveCall hold = replica->Hold();  // E6
      Status status = co_await replica->Checkpoint();
      ++checkpoints_;
      work_.NoteCheckpoint(replica, status);
      if (!status.ok() && failure_.ok() && !replica->out_of_service()) {
        LOG(WARNING) << "the checkpoint failed for partition " << replica->id() << ": " << status.ToString();
        // A full disk. Other partitions are checkpointed meanwhile, which may free space.
      } else {
        last_success_ns_ = reactor_.NowNs();
      }
    }
  }

  // The partition that should release the oldest part of the log, or null. If it is quarantined,
  // nothing but dropping its units releases them.
  Replica* PinsLog() {
    const LogStats log = log_->stats();
    if (!work_.LogIsLong(log)) return nullptr;
    Replica* replica = FindReplica(log_->OldestPinnedStream());
    if (!replica || !replica->quarantined()) return replica;
    // What may repair the partition is kept until it would stop the others.
    if (log.unreleased_bytes > options_.log_budget_bytes / 4 * 3 ||
        log.unreleased_records > options_.log_budget_records / 4 * 3 || log.waits_for_segment) {
      replica->DropUnits();
      if (options_.on_quarantine) options_.on_quarantine(replica->quarantine());
    }
    return nullptr;
  }

  // Close waits for writes that wait for a log segment. Checkpoints release segments, unless the disk
  // is too full even for that.
  void GiveUpClosing() {
    if (close_began_ns_ == 0 || !log_->stats().waits_for_segment) return;
    if (reactor_.NowNs() - std::max(close_began_ns_, last_success_ns_) < kClosePatience) return;
    log_->Abandon(Error(Code::kDiskFull, "{}: the log was closed while writes were waiting for disk space",
                        options_.store.LogDirectory(options_.reactor_index)));
  }

  Task<Status> CheckpointInService() {
    return ForEach([](Replica* replica) { return replica->Checkpoint(); });
  }

  Task<Status> CheckpointAll() {
    CO_RETURN_IF_ERROR(co_await CheckpointInService());
    for (Replica* replica : served_) {
      if (replica->quarantined()) co_return co_await replica->Checkpoint();  // says why
    }
    co_return Status();
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
      status = co_await CheckpointInService();
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
      work_.Remove(replica.get());
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
        lookups_[i].tree = replica == nullptr || replica->out_of_service() ? nullptr : &replica->tree();
        lookups_[i].key = chunk[i].key;
      }
      BatchFind(pool_, std::span(lookups_).first(chunk.size()));
      for (size_t i = 0; i < chunk.size(); ++i) Answer(lookups_[i], wall_ms, &chunk[i]);
    }
  }

  void BatchWrite(std::span<PointWrite* const> writes) {
    for (size_t from = 0, to = 0; from < writes.size(); from = to) {
      size_t count = 0;
      for (; to < writes.size() && count + 2 <= kBatchChunk; ++to) {
        LookUpLeaf(*writes[to], writes[to]->op.key, &lookups_[count++]);
        if (writes[to]->once) LookUpLeaf(*writes[to], writes[to]->once->key, &lookups_[count++]);
      }
      BatchFind(pool_, std::span(lookups_).first(count));
      // Appending to the log changes no tree, so the leaves stay what they are.
      const BatchLookup* found = lookups_.data();
      for (PointWrite* write : writes.subspan(from, to - from)) {
        Frame* leaf = (found++)->leaf;
        Frame* lane = write->once ? (found++)->leaf : nullptr;
        write->begun = false;
        if (!leaf || (write->once && !lane) || !failure_.ok()) continue;
        static_cast<Replica*>(write->partition)->TryWrite(write, leaf, lane);
      }
    }
  }

  static void LookUpLeaf(const PointWrite& write, std::string_view key, BatchLookup* lookup) {
    auto* replica = static_cast<Replica*>(write.partition);
    *lookup = BatchLookup{};
    lookup->tree = replica == nullptr || replica->out_of_service() ? nullptr : &replica->tree();
    lookup->key = key;
    lookup->leaf_only = true;
  }

  void Answer(const BatchLookup& lookup, int64_t wall_ms, PointRead* read) {
    read->outcome = PointRead::Outcome::kMiss;
    if (!lookup.leaf || !failure_.ok()) return;
    ++batch_uses_;
    const RecordView& r = lookup.record;
    auto* replica = static_cast<Replica*>(read->partition);
    const int64_t now_ms = replica->clock().NowMs(wall_ms);
    if (!lookup.found || HasExpired(r.expires_at_ms, now_ms)) {
      read->outcome = PointRead::Outcome::kNotFound;
      return replica->CountRead();
    }
    if (r.overflow) {
      Frame* value = lookup.tree->FindOverflow(r.overflow_ref);
      if (!value || !read->value) return;  // PartitionReader reads it, and counts that
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
    replica->CountRead();
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
    s.ahead_pages_total = pool.ahead_pages_total;
    s.ahead_reads_total = pool.ahead_reads_total;
    s.damaged_reads_total = pool.damaged_reads_total;
    s.pool_bytes = pool.pages * options_.store.page_bytes;
    if (log_) s.log = log_->stats();
    s.checkpoints_total = checkpoints_;
    s.partitions = served_.size();
    s.max_partitions = most_partitions_;
    s.busy_partitions = work_.busy();
    if (releaser_) s.release = releaser_->stats();
    s.write_waits_total = s.log.append_waits_total;
    s.disk_full_total = dropped_.disk_full_total;
    for (const Replica* r : served_) {
      s.disk_full_total += r->counters().disk_full_total;
      s.quarantined_partitions += r->quarantined();
    }
    return s;
  }

  std::vector<QuarantinedPartition> quarantined(size_t most) const {
    std::vector<QuarantinedPartition> found;
    for (const Replica* r : served_) {
      if (found.size() == most) break;
      if (r->quarantined()) found.push_back(r->quarantine());
    }
    return found;
  }

  Reactor& reactor_;
  EngineOptions options_;
  const uint64_t most_partitions_ = MaxPartitions(options_);
  BufferPool pool_;
  Directory data_dir_;
  std::unique_ptr<Log> log_;
  Pace gather_pace_{options_.gather_bytes_per_s};
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<Partition*> by_id_;
  std::vector<Replica*> served_;
  std::vector<Partition*> partitions_;
  std::unordered_map<Uuid, Replica*, UuidHash> by_uuid_;
  WorkList work_{reactor_, pool_, options_, MaxListedExtents(options_)};
  std::atomic<uint64_t> change_count_ = 0;
  std::deque<std::atomic<Version>> newest_;  // by ID; they stay where they are
  std::vector<Version> seen_before_;         // by ID: the highest of partitions that were dropped
  Status failure_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<SpaceReleaser> releaser_;
  bool closing_ = false;
  // Partitions that are quarantined give up their pages at once. Not while the engine opens, and not at
  // the end, when it does it itself.
  bool discards_at_once_ = false;
  TaskGroup discards_;
  Nanos close_began_ns_ = 0, last_success_ns_ = 0;  // of a checkpoint
  uint64_t checkpoints_ = 0;
  uint64_t batch_uses_ = 0;
  size_t opening_ = 0;                            // calls of OpenPartition whose replica is not in replicas_ yet
  PartitionStats dropped_;                        // counters of the partitions that were dropped
  std::array<BatchLookup, kBatchChunk> lookups_;  // of the running batch, which does not suspend
  TaskGroup tasks_;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Task<Result<std::unique_ptr<Engine>>> Engine::Open(Reactor& reactor, EngineOptions options) {
  CO_RETURN_IF_ERROR(CheckMemory(options));
  auto impl = std::make_unique<Impl>(reactor, std::move(options));
  CO_RETURN_IF_ERROR(co_await impl->Open());
  impl->partitions_.assign(impl->served_.begin(), impl->served_.end());
  co_return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Reactor& Engine::reactor() { return impl_->reactor_; }
const std::shared_ptr<StoreClock>& Engine::clock() const { return impl_->options_.clock; }
Partition* Engine::partition(uint32_t id) { return impl_->Find(id); }
std::span<Partition* const> Engine::partitions() { return impl_->partitions_; }
Status Engine::CheckMayOpen(uint32_t id) const { return impl_->CheckMayOpen(id); }
Task<Result<Partition*>> Engine::OpenPartition(PartitionInfo info) { return impl_->OpenPartition(info); }
Task<Status> Engine::DropPartition(uint32_t id, std::function<void()> on_gone) {
  return impl_->DropPartition(id, std::move(on_gone));
}
void Engine::Quarantine(uint32_t id, const Status& why) {
  if (Replica* replica = impl_->Find(id)) replica->Quarantine(why);
}
LogPosition Engine::log_end() const { return impl_->log_->written_end(); }
std::vector<Uuid> Engine::dropped_in_log() const { return impl_->log_->RemovedPartitions(); }
const PartitionStats& Engine::dropped_counters() const { return impl_->dropped_; }
void Engine::BatchGet(std::span<PointRead> reads) { impl_->BatchGet(reads); }
void Engine::BatchWrite(std::span<PointWrite* const> writes) { impl_->BatchWrite(writes); }
Task<Status> Engine::CheckpointAll() { return impl_->CheckpointAll(); }
void Engine::CheckInvariants() const {
  impl_->log_->CheckInvariants();
  for (const Replica* r : impl_->served_) r->CheckInvariants();
}
EngineStats Engine::stats() const { return impl_->stats(); }
std::vector<QuarantinedPartition> Engine::quarantined(size_t most) const { return impl_->quarantined(most); }
std::optional<QuarantinedPartition> Engine::quarantine(uint32_t id) const {
  const Replica* replica = impl_->Find(id);
  if (replica == nullptr || !replica->quarantined()) return std::nullopt;
  return replica->quarantine();
}
const std::atomic<uint64_t>& Engine::change_count() const { return impl_->change_count_; }
const std::atomic<Version>& Engine::newest_change(uint32_t id) const { return impl_->newest_[id]; }
void Engine::AddPlaces(uint32_t ids) { impl_->AddPlaces(ids); }
Scrubber& Engine::scrubber() { return *impl_->scrubber_; }
const Status& Engine::failure() const { return impl_->failure_; }
void Engine::GiveUpUncommitted() { impl_->GiveUpUncommitted(); }
Task<Status> Engine::Close(bool checkpoint) { return impl_->Close(checkpoint); }

}  // namespace pando
