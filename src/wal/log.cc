#include "src/wal/log.h"

#include <algorithm>

#include "src/wal/log_impl.h"
#include "src/wal/log_reader.h"

namespace pando {
namespace {

Status ValidateOptions(const LogOptions& options) {
  if (options.segment_bytes < kMinSegmentBytes || options.segment_bytes > kMaxSegmentBytes ||
      options.segment_bytes % kBlockBytes != 0) {
    return Error(Code::kInvalidArgument,
                 "the log segment size {} is invalid: it must be a multiple of {} between {} and {} bytes",
                 options.segment_bytes, kBlockBytes, kMinSegmentBytes, kMaxSegmentBytes);
  }
  if (options.max_batch_bytes < kBlockBytes) {
    return Error(Code::kInvalidArgument, "the log batch size {} is invalid: it must be at least {} bytes",
                 options.max_batch_bytes, kBlockBytes);
  }
  return {};
}

uint64_t BatchLimit(const LogOptions& options) {
  return std::min(AlignUp(options.max_batch_bytes, kBlockBytes),
                  options.segment_bytes - kFirstGroupOffset - kClosingBytes);
}

}  // namespace

Task<Result<std::unique_ptr<Log>>> Log::Open(Reactor& reactor, LogOptions options) {
  CO_RETURN_IF_ERROR(ValidateOptions(options));
  auto log = std::make_unique<LogImpl>(reactor, std::move(options));
  CO_RETURN_IF_ERROR(co_await log->OpenDirectory());
  co_return std::unique_ptr<Log>(std::move(log));
}

Task<Status> LogImpl::OpenDirectory() {
  const std::string& path = options_.directory;
  // The directory is not created where it must already exist: an empty directory would hide the
  // loss.
  const bool create = !options_.read_only && options_.required_end == 0;
  const std::string name = path.substr(path.find_last_of('/') + 1);
  Directory opened_parent;
  const Directory* parent = options_.parent;
  if (parent == nullptr) {
    CO_ASSIGN_OR_RETURN(opened_parent, co_await Directory::Open(reactor_, ParentDirectory(path)));
    parent = &opened_parent;
  }
  Status status;
  if (create) status = co_await parent->MakeDirectory(name);
  if (create && status.ok()) status = co_await parent->Sync();
  if (status.ok()) {
    Result<Directory> opened = co_await parent->OpenDirectory(name);
    status = opened.status();
    if (opened.ok()) directory_ = *std::move(opened);
  }
  Status closed = co_await opened_parent.Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  files_.Use(&directory_);
  if (status.code() != Code::kNotFound || options_.required_end == 0) co_return status;
  co_return LostLog(path, 0, options_.required_end, options_.required_by);
}

LogImpl::LogImpl(Reactor& reactor, LogOptions options)
    : reactor_(reactor),
      options_(std::move(options)),
      seed_(LogChecksumSeed(options_.node)),
      max_batch_bytes_(BatchLimit(options_)),
      pipeline_bytes_(max_batch_bytes_ / kPipelineDivisor),
      files_(options_.node, options_.segment_bytes, options_.may_change),
      maintained_(reactor),
      maintenance_wake_(reactor),
      idle_wake_(reactor),
      announced_(reactor),
      image_load_(reactor, 1),
      reads_done_(reactor) {
  skipped_until_.insert(options_.dropped.begin(), options_.dropped.end());
  idle_timer_.log = retry_timer_.log = hold_timer_.log = this;
  idle_timer_.on_fire = [](Timer* t) {
    LogImpl* log = static_cast<LogTimer*>(t)->log;
    if (log->IsIdle() && log->NeedsClosingPosition()) log->SubmitClosingPosition();
  };
  hold_timer_.on_fire = [](Timer* t) { static_cast<LogTimer*>(t)->log->ArmHook(); };
  retry_timer_.on_fire = [](Timer* t) { static_cast<LogTimer*>(t)->log->maintenance_wake_.NotifyAll(); };
}

LogImpl::~LogImpl() {
  for (LiveReader* reader : std::vector<LiveReader*>(readers_)) CloseReader(reader);
  CHECK(granted_records_ == 0) << options_.directory << ": a LogSpace is still held";
  CHECK(!TurnHook::armed && !idle_timer_.armed && !retry_timer_.armed && !hold_timer_.armed && batches_.empty())
      << options_.directory << ": the log must be closed before it is destroyed";
}

LogStream* LogImpl::StreamOf(const Uuid& partition) {
  auto& stream = streams_[partition];
  if (!stream) {
    stream = std::make_unique<LogStream>();
    stream->partition = partition;
  }
  return stream.get();
}

LogStream* LogImpl::AddStream(const Uuid& partition, Epoch epoch, Lsn next_lsn, uint64_t chain, LogConsumer* consumer) {
  CHECK(recovered_) << "AddStream was called before Recover";
  CHECK(!partition.IsNil() && next_lsn > 0 && consumer != nullptr);
  LogStream* stream = StreamOf(partition);
  CHECK(stream->consumer == nullptr) << "partition " << partition.ToString() << " is already registered";
  stream->consumer = consumer;
  // `next_lsn` and `chain` are what the last unit recovered has left. If the owner continues
  // elsewhere (nothing was recovered, or the log was lost), its next unit says so.
  const bool holds_units = stream->written_lsn != 0;
  stream->starts_anew = stream->next_lsn != next_lsn || stream->chain != chain || !holds_units;
  stream->moved = stream->starts_anew && holds_units;
  stream->epoch = std::max(stream->epoch, epoch);
  if (stream->starts_anew) stream->last_epoch = 0;
  stream->next_lsn = next_lsn;
  stream->chain = chain;
  stream->released_lsn = std::min(stream->released_lsn, next_lsn - 1);
  stream->commit_lsn = stream->stated_commit_lsn = std::min(stream->commit_lsn, next_lsn - 1);
  stream->written_lsn = stream->durable_lsn = next_lsn - 1;
  if (stream->moved) NoteSuperseded(stream, next_lsn, kNotWritten);
  if (!options_.read_only) MarkDue(stream);
  return stream;
}

bool LogImpl::IsAnnounced(const LogStream* stream) const {
  const auto has_part = [stream](const auto& batch) {
    return std::any_of(batch->parts.begin(), batch->parts.end(), [&](const auto& p) { return p.stream == stream; });
  };
  return stream->units.empty() && std::none_of(batches_.begin(), batches_.end(), has_part);
}

Task<void> LogImpl::UntilAnnounced(LogStream* stream) {
  while (!failed() && !IsAnnounced(stream)) co_await announced_.Wait();
}

void LogImpl::EndStream(LogStream* stream, const Status& why) {
  CHECK(!stream->ended) << "a stream ended twice";
  stream->ended = true;
  for (const LogStream::Staged& staged : stream->units) {
    staged_bytes_ -= staged.bytes();
    staged_records_ -= staged.records_and_cuts();
  }
  stream->units.clear();
  stream->again_staged = 0;
  DequeueStreams();
  if (staged_bytes_ == 0) short_of_segments_ = false;  // no batch waits
  std::erase(due_marks_, stream);
  stream->mark_due = false;
  while (!stream->space_waiters.empty()) GiveUpWaiting(stream->space_waiters.front(), why);
  DropReleasedSegments();
  WakeSpaceWaiters();  // others may have been waiting behind these
  if (IsIdle()) WhenIdle();
}

void LogImpl::RemoveStream(LogStream* stream) {
  CHECK(failed() || IsAnnounced(stream)) << "a stream was removed before its units were announced";
  CHECK(stream->space_waiters.empty()) << "a stream was removed while a writer waits for room in the log";
  DetachReaders(stream);
  std::erase(due_marks_, stream);
  std::erase(staged_streams_, stream);
  for (auto& segment : live_) {
    std::erase_if(segment->index, [&](const IndexEntry& entry) { return entry.stream == stream; });
  }
  removed_[stream->partition] = written_end_;  // a batch in flight may have a mark of it
  streams_.erase(Uuid(stream->partition));
  DropReleasedSegments();
}

void LogImpl::ForgetUnits(const Uuid& partition) {
  const auto found = streams_.find(partition);
  if (found == streams_.end()) return;  // the log holds nothing of it
  CHECK(found->second->consumer == nullptr) << "partition " << partition.ToString() << " is registered";
  RemoveStream(found->second.get());
}

std::vector<Uuid> LogImpl::RemovedPartitions() {
  // L12. The old name of a segment that is being recycled may come back after a crash.
  uint64_t oldest = files_.has_aside() || live_.empty() ? 0 : live_.front()->number;
  for (const Discarded& discarded : recycle_queue_) oldest = std::min(oldest, discarded.number);
  std::erase_if(removed_, [oldest](const auto& r) { return PositionSegment(r.second) < oldest; });
  std::vector<Uuid> partitions;
  for (const auto& [partition, until] : removed_) partitions.push_back(partition);
  std::sort(partitions.begin(), partitions.end());
  return partitions;
}

void LogImpl::ReleaseUnknownStreams() {
  std::vector<LogStream*> unknown;
  for (auto& [partition, stream] : streams_) {
    if (stream->consumer == nullptr && !stream->kept) unknown.push_back(stream.get());
  }
  for (LogStream* stream : unknown) RemoveStream(stream);
}

void LogImpl::KeepUnits(const Uuid& partition) {
  const auto found = streams_.find(partition);
  if (found == streams_.end()) return;  // the log holds nothing of it
  CHECK(found->second->consumer == nullptr) << "partition " << partition.ToString() << " is registered";
  found->second->kept = true;
}

void LogImpl::DropUnits(const Uuid& partition) {
  const auto found = streams_.find(partition);
  if (found == streams_.end()) return;
  LogStream* stream = found->second.get();
  Lsn last = stream->durable_lsn;
  if (stream->consumer == nullptr) {
    // Its units may be broken, so their LSNs say little.
    for (const auto& segment : live_) {
      for (const IndexEntry& entry : segment->index) {
        if (entry.stream == stream) last = std::max(last, entry.last_lsn);
      }
    }
    stream->durable_lsn = last;
  }
  Release(stream, last);
}

// -- budgets

// Whether `bytes` of one more record may be staged in addition to the records held and those
// granted but not staged yet.
bool LogImpl::Fits(uint64_t bytes) const {
  const uint64_t held_bytes = live_bytes_ + staged_bytes_ + granted_bytes_;
  const uint64_t held_records = live_records_ + staged_records_ + granted_records_;
  // A record larger than a whole limit passes when nothing else is held.
  if (held_bytes > 0 && held_bytes + bytes > options_.budget_bytes) return false;
  if (held_records > 0 && held_records + 1 > options_.budget_records) return false;
  // Do not count space granted earlier: its writers may be waiting for pages, and must not hold up
  // the others here.
  const uint64_t staging = staged_bytes_ + woken_bytes_;
  return staging == 0 || staging + bytes <= kMaxStagedBytes;
}

bool LogImpl::HasSpace(size_t bytes) const { return !failed() && !closing_ && waiting_streams_.empty() && Fits(bytes); }

bool LogImpl::HalfUsed() const {
  const uint64_t held_bytes = live_bytes_ + staged_bytes_ + granted_bytes_;
  const uint64_t held_records = live_records_ + staged_records_ + granted_records_;
  return held_bytes > options_.budget_bytes / 2 || held_records > options_.budget_records / 2;
}

Status LogImpl::Refusal() const {
  if (failed()) return Error(Code::kUnavailable, "the log has failed: {}", failure_.message());
  if (closing_) return Error(Code::kUnavailable, "{}: the log is closing", options_.directory);
  return {};
}

Task<Result<LogSpace>> LogImpl::WaitForSpace(LogStream* stream, size_t bytes, Nanos deadline_ns) {
  CHECK(!stream->ended) << "a write of a partition that was dropped waits for room";
  CO_RETURN_IF_ERROR(Refusal());
  if (HasSpace(bytes)) {
    granted_bytes_ += bytes;
    ++granted_records_;
    co_return LogSpace(this, bytes);
  }
  ++counters_.append_waits_total;
  SpaceAwaiter awaiter;
  awaiter.bytes = bytes;
  awaiter.log = this;
  awaiter.stream = stream;
  awaiter.give_up_ns = deadline_ns;
  co_await awaiter;
  CO_RETURN_IF_ERROR(awaiter.refusal);
  woken_bytes_ -= bytes;
  LogSpace space(this, bytes);
  CO_RETURN_IF_ERROR(Refusal());
  co_return std::move(space);
}

void LogImpl::AddSpaceWaiter(SpaceWaiter* waiter) {
  LogStream* stream = waiter->stream;
  if (stream->space_waiters.empty()) {
    stream->space_tag = space_clock_.Join(stream->space_tag);
    waiting_streams_.push_back(stream);
  }
  stream->space_waiters.push_back(waiter);
}

// Then call WakeSpaceWaiters: others may have been waiting behind this one.
void LogImpl::GiveUpWaiting(SpaceWaiter* waiter, Status why) {
  LogStream* stream = waiter->stream;
  std::erase(stream->space_waiters, waiter);
  if (stream->space_waiters.empty()) std::erase(waiting_streams_, stream);
  waiter->refusal = std::move(why);
  reactor_.CancelTimer(waiter);
  reactor_.Schedule(waiter->waiter);
}

void LogImpl::GiveUpLate(SpaceWaiter* waiter) {
  GiveUpWaiting(waiter,
                Error(Code::kDeadline,
                      "the deadline of the write passed while it waited for room in the log; nothing was changed"));
  WakeSpaceWaiters();
}

LogStream* LogImpl::NextToAdmit() const {
  LogStream* next = nullptr;
  uint64_t next_end = 0;
  for (LogStream* stream : waiting_streams_) {
    const uint64_t end = stream->space_tag + stream->space_waiters.front()->bytes;
    if (next != nullptr && end >= next_end) continue;
    next = stream;
    next_end = end;
  }
  return next;
}

// Admits waiters while they fit; streams take turns. A waiter that does not fit is not overtaken,
// or it would wait forever.
void LogImpl::WakeSpaceWaiters() {
  const bool all = failed() || closing_;
  while (!waiting_streams_.empty()) {
    LogStream* stream = NextToAdmit();
    SpaceWaiter* first = stream->space_waiters.front();
    if (!all && !Fits(first->bytes)) return;
    stream->space_tag += first->bytes;
    space_clock_.Serve(stream->space_tag);
    stream->space_waiters.pop_front();
    if (stream->space_waiters.empty()) std::erase(waiting_streams_, stream);
    granted_bytes_ += first->bytes;
    ++granted_records_;
    woken_bytes_ += first->bytes;
    reactor_.CancelTimer(first);
    reactor_.Schedule(first->waiter);
  }
}

// A writer that was admitted but appends nothing must wake the next one. Possibly nothing else
// will.
void LogImpl::GiveBack(size_t bytes) {
  granted_bytes_ -= bytes;
  --granted_records_;
  WakeSpaceWaiters();
}

// -- release

void LogImpl::SetCommit(LogStream* stream, Lsn commit_lsn, Version hlc) {
  CHECK_LE(commit_lsn, stream->durable_lsn) << "a record was committed before it was durable";
  stream->hlc = std::max(stream->hlc, hlc);
  if (commit_lsn <= stream->commit_lsn) return;
  stream->commit_lsn = commit_lsn;
  MarkSoon(stream);
}

void LogImpl::Release(LogStream* stream, Lsn lsn) {
  CHECK_LE(lsn, stream->durable_lsn) << "a record was released before it was durable";
  if (lsn <= stream->released_lsn) return;
  stream->released_lsn = lsn;
  MarkSoon(stream);
  DropReleasedSegments();
}

// Like MarkDue; if no other batch comes, the closing one will carry the mark.
void LogImpl::MarkSoon(LogStream* stream) {
  if (options_.read_only) return;
  MarkDue(stream);
  if (IsIdle()) WhenIdle();
}

void LogImpl::DropReleasedSegments() {
  if (failed()) return;
  // What pinned the segment before mostly still does.
  auto pinned = [](Segment& s) {
    if (s.in_flight > 0) return true;
    for (size_t i = 0; i < s.index.size(); ++i) {
      const size_t at = (s.pinned_at + i) % s.index.size();
      if (!s.index[at].pinned()) continue;
      s.pinned_at = at;
      return true;
    }
    return false;
  };
  // At the front, the segments that recovery does not need any more. They no longer count, but one
  // stays if groups are still written to it or if it holds the end of the log (L6).
  size_t released = retained_segments_;
  for (; released < live_.size() && !pinned(*live_[released]); ++released) {
    Segment& segment = *live_[released];
    live_bytes_ -= std::exchange(segment.counted_bytes, 0);
    live_records_ -= std::exchange(segment.counted_records, 0);
    if (released + 1 == live_.size() || segment.number >= PositionSegment(announced_end_)) break;
  }
  RetainOrRecycle(released);
  WakeSpaceWaiters();
  // TakeSegment may have refused because of what was pinned until now.
  if (short_of_segments_ && staged_bytes_ > 0) ArmHook();
}

Uuid LogImpl::OldestPinnedStream() const {
  for (const auto& segment : live_) {
    const IndexEntry* oldest = nullptr;
    for (const IndexEntry& entry : segment->index) {
      if (entry.pinned() && (oldest == nullptr || entry.offset < oldest->offset)) oldest = &entry;
    }
    if (oldest != nullptr) return oldest->stream->partition;
  }
  return {};
}

std::vector<DurableSegment> LogImpl::DurableSegments() const {
  std::vector<DurableSegment> durable;
  for (size_t i = 0; i < live_.size(); ++i) {
    const Segment& s = *live_[i];
    if (s.durable_end == 0) continue;
    durable.push_back({s.number, s.path, &directory_, s.bytes, s.durable_end, i < retained_segments_});
  }
  return durable;
}

bool LogImpl::IsLive(uint64_t segment_number) const {
  return std::any_of(live_.begin(), live_.end(), [&](const auto& s) { return s->number == segment_number; });
}

uint64_t LogImpl::MaxSpares() const {
  // All files together stay within the budget, but one spare is always allowed in addition to the
  // one for the next recovery.
  const uint64_t files = options_.budget_bytes / options_.segment_bytes;
  const uint64_t live = live_.size() - retained_segments_;
  return std::max<uint64_t>(1 + kKeptForRecovery, files > live ? files - live : 0);
}

// The number of segments to keep prepared. New segments are zeroed before a burst of writes needs
// them; recycled segments need no zeroing.
size_t LogImpl::PreparedAhead() const { return std::min<uint64_t>(kPreparedAhead, MaxSpares()); }

LogStats LogImpl::stats() const {
  LogStats stats = counters_;
  stats.unreleased_bytes = live_bytes_ + staged_bytes_;
  stats.unreleased_records = live_records_ + staged_records_;
  stats.segments = live_.size();
  stats.data_sync_writes = data_sync_;
  stats.readers = readers_.size();
  stats.retained_bytes = retained_bytes_;
  stats.waits_for_segment = short_of_segments_ && disk_full_reported_ && !failed();
  return stats;
}

// -- closing

Task<Status> LogImpl::Close() {
  closing_ = true;
  WakeSpaceWaiters();
  co_await UntilReadersRest();
  co_await UntilIdle();
  while (recovered_ && !options_.read_only && !live_.empty() && NeedsClosingPosition()) {
    SubmitClosingPosition();
    co_await UntilIdle();
  }
  stopping_ = true;
  reactor_.CancelTimer(&idle_timer_);
  reactor_.CancelTimer(&retry_timer_);
  reactor_.CancelTimer(&hold_timer_);
  maintenance_wake_.NotifyAll();
  co_await tasks_.Drain();
  batches_.clear();
  // The hook is still queued in the reactor: let it run before its owner is destroyed.
  while (TurnHook::armed) co_await Yield(reactor_);
  // The last tasks may have armed these again.
  reactor_.CancelTimer(&idle_timer_);
  reactor_.CancelTimer(&retry_timer_);
  reactor_.CancelTimer(&hold_timer_);
  Status closed = co_await CloseFiles();
  co_return failed() ? failure_ : closed;
}

Task<void> LogImpl::UntilIdle() {
  while (!failed() && !IsIdle()) {
    if (disk_full_ && batches_.empty()) {
      Fail(Error(Code::kDiskFull, "{}: the log was closed while writes were waiting for disk space",
                 options_.directory));
      co_return;
    }
    // Woken when the log is idle, has failed, or has run out of disk space.
    co_await idle_wake_.Wait();
  }
}

Task<Status> LogImpl::CloseFiles() {
  Status first;
  for (auto& segment : live_) {
    if (!segment->file.is_open()) continue;
    Status status = co_await segment->file.Close();
    if (first.ok()) first = std::move(status);
  }
  for (Prepared& prepared : prepared_) {
    Status status = co_await prepared.file.Close();
    if (first.ok()) first = std::move(status);
  }
  prepared_.clear();
  Status status = co_await directory_.Close();
  if (first.ok()) first = std::move(status);
  co_return first;
}

}  // namespace pando
