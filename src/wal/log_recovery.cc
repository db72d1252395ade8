// Recovery: reads the log, cuts its torn tail with a cut batch in a fresh segment, and keeps
// segments prepared.
#include <algorithm>
#include <cstring>

#include "src/wal/log_impl.h"
#include "src/wal/log_reader.h"
#include "src/wal/log_suffix.h"
#include "src/wal/stream_history.h"

namespace pando {
namespace {

constexpr int kProbeWrites = 8;  // of each kind
constexpr size_t kZeroWriteBytes = 512u << 10;
constexpr LogPosition kNoPosition = ~LogPosition{0};  // LogOptions::dropped: of a partition that is gone

}  // namespace

// A crash at any point leaves a directory that the next recovery reads to the same end: nothing of
// the old log changes until the cut is durable, and the number of the fresh segment was never used
// before.
Task<Status> LogImpl::Recover(LogReplaySink* sink) {
  CHECK(!recovered_) << "Recover is called once";
  if (!options_.read_only) CO_RETURN_IF_ERROR(co_await files_.RemoveLeftover());
  LogReader::Options reading;
  reading.directory = options_.directory;
  reading.open_directory = &directory_;
  reading.node = options_.node;
  reading.sync = !options_.read_only;
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> reader, co_await ReadAndReplay(std::move(reading), sink));
  CO_RETURN_IF_ERROR(JudgeEnd(*reader));
  if (reader->torn()) {
    LOG(WARNING) << options_.directory << ": the log ends with unfinished writes of the last run ("
                 << reader->end_reason() << "); they are discarded, and none of them was acknowledged";
  }
  recovered_ = true;
  if (options_.read_only) co_return Status();

  if (!reader->segments().empty()) next_number_ = reader->segments().back().number + 1;
  for (const LogPosition before : {options_.required_end, options_.begin_after}) {
    if (before != 0) next_number_ = std::max(next_number_, PositionSegment(before) + 1);
  }
  // L13: also when the log that the positions were taken from is lost. The position may lie within a segment,
  // and then a segment of that number would begin before it.
  for (const auto& [partition, until] : options_.dropped) {
    if (until == kNoPosition) continue;
    next_number_ = std::max(next_number_, PositionSegment(until) + (PositionOffset(until) > 0));
  }
  CO_RETURN_IF_ERROR(co_await BeginFirstSegment(*reader));
  begun_ = true;
  DropReleasedSegments();
  CO_RETURN_IF_ERROR(co_await PrepareForNextRecovery());
  tasks_.Spawn(MaintainSegments());
  co_return Status();
}

// Without the segments that are kept for readers only, if one of them is damaged (LR2).
Task<Result<std::unique_ptr<LogReader>>> LogImpl::ReadAndReplay(LogReader::Options reading, LogReplaySink* sink) {
  Result<std::unique_ptr<LogReader>> reader = co_await OpenAndReplay(reading, sink);
  if (reader.code() != Code::kCorruption) co_return reader;
  auto means_nothing = [this](const Uuid& partition, const LogEntry& entry) { return MeansNothing(partition, entry); };
  CO_ASSIGN_OR_RETURN(reading.first_segment,
                      co_await FindSufficientSuffix(reactor_, reading, reader.status(), std::move(means_nothing)));
  LOG(WARNING)
      << options_.directory << ": the log before " << SegmentFileName(reading.first_segment)
      << " is dropped, because it is damaged. Nothing is lost, because it was kept only for readers of the log: "
      << reader.status().message();
  // All of what was replayed so far is in the checkpoints, so the sink has ignored it.
  live_.clear();
  streams_.clear();
  live_bytes_ = live_records_ = 0;
  co_return co_await OpenAndReplay(std::move(reading), sink);
}

Task<Result<std::unique_ptr<LogReader>>> LogImpl::OpenAndReplay(LogReader::Options reading, LogReplaySink* sink) {
  CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(reactor_, std::move(reading)));
  CO_RETURN_IF_ERROR(co_await Replay(reader.get(), sink));
  co_return std::move(reader);
}

Status LogImpl::JudgeEnd(const LogReader& reader) const {
  if (reader.end() >= options_.required_end) return {};
  return LostLog(options_.directory, reader.end(), options_.required_end, options_.required_by);
}

struct LogImpl::Replaying {
  LogReplaySink* sink = nullptr;
  StreamHistory history;
};

Task<Status> LogImpl::Replay(LogReader* reader, LogReplaySink* sink) {
  Replaying replaying;
  replaying.sink = sink;
  LogEntry entry;
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
    if (!more) break;
    if (live_.empty() || live_.back()->number != entry.segment->number) {
      live_.push_back(std::make_unique<Segment>());
      live_.back()->number = entry.segment->number;
      live_.back()->path = entry.segment->path;
      live_.back()->bytes = entry.segment->bytes;
    }
    Segment& segment = *live_.back();
    segment.durable_end = PositionOffset(entry.end);
    if (entry.header.record_count > 0) {
      const uint64_t used = AlignUp(PositionOffset(entry.end), kBlockBytes) - kFirstGroupOffset;
      live_bytes_ += used - std::exchange(segment.counted_bytes, used);
      live_records_ += entry.header.record_count;
      segment.counted_records += entry.header.record_count;
    }
    CO_RETURN_IF_ERROR(co_await ReplayBatch(entry, &replaying));
  }
  for (const Uuid& partition : replaying.history.Partitions()) {
    if (replaying.history.AcceptEnd(partition, sink->CheckpointOf(partition))) continue;
    BreakStream(partition, fmt::format("{}: at the end of the log", live_.back()->path), &replaying);
  }
  // What is known of each partition goes into the first batch of the next segment (L9).
  for (const auto& [partition, mark] : replaying.history.marks()) {
    LogStream* stream = StreamOf(partition);
    stream->commit_lsn = stream->stated_commit_lsn = mark.commit_lsn;
    stream->released_lsn = mark.released_lsn;
    stream->hlc = std::max(stream->hlc, mark.hlc);
    stream->epoch = std::max(stream->epoch, mark.epoch);
    // Of a broken partition, the log goes on to state the most that any mark has stated.
    const bool known = replaying.history.Find(partition) != nullptr && !replaying.history.broken(partition);
    if (known || mark.durable_lsn < stream->durable_lsn) continue;
    stream->durable_lsn = mark.durable_lsn;  // all its records have been released
    stream->next_lsn = mark.durable_lsn + 1;
  }
  co_return Status();
}

// Delivers units of one partition that follow each other together, so that it can read the pages
// they need together.
Task<Status> LogImpl::ReplayBatch(const LogEntry& entry, Replaying* replaying) {
  struct Item {
    Uuid partition;
    WriteUnit unit;  // a view into the entry, which stays until the next one is read
    uint16_t flags = 0;
    std::optional<StreamMark> mark;
    std::optional<StreamCut> cut;
  };
  std::vector<Item> items;
  ForEachItem(
      entry.header, entry.payload,
      [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
        if (!MeansNothing(partition, entry)) items.push_back({partition, unit, flags, std::nullopt, std::nullopt});
        return true;
      },
      [&](const StreamMark& mark) {
        items.push_back({mark.partition, {}, 0, mark, std::nullopt});
        return true;
      },
      [&](const StreamCut& cut) {
        if (!MeansNothing(cut.partition, entry)) items.push_back({cut.partition, {}, 0, std::nullopt, cut});
        return true;
      });
  for (size_t i = 0; i < items.size();) {
    if (items[i].mark) {
      const StreamMark mark = *items[i++].mark;
      const bool forgotten = MeansNothing(mark.partition, entry);
      Status status;
      if (forgotten) status = co_await FollowForgotten(mark, replaying->sink);
      if (!forgotten) status = co_await ReplayMark(mark, replaying);
      CO_RETURN_IF_ERROR(std::move(status));
      continue;
    }
    if (items[i].cut) {
      CO_RETURN_IF_ERROR(co_await ReplayCut(*items[i++].cut, entry, replaying));
      continue;
    }
    RecoveredUnits run;
    run.partition = items[i].partition;
    run.old_format = !HasUnits(entry.header);
    run.file = entry.segment->path;
    run.offset = entry.offset;
    for (; i < items.size(); ++i) {
      const Item& item = items[i];
      if (item.mark || item.cut || item.partition != run.partition) break;
      if (!run.units.empty() && (item.flags & kUnitStartsAnew || item.unit.epoch != run.units.back().epoch)) break;
      const auto verdict = replaying->history.Accept(run.partition, item.unit, item.flags, !run.old_format);
      if (verdict == StreamHistory::Verdict::kSupersedes) {
        if (!run.units.empty()) CO_RETURN_IF_ERROR(co_await replaying->sink->OnUnits(run));
        run.units.clear();
        run.starts_anew = false;
        const StreamCut cut{run.partition, {0, item.unit.first_lsn - 1, item.unit.chain_before}};
        CO_RETURN_IF_ERROR(co_await EndAt(cut, entry, replaying));
      }
      AcceptUnit(item.unit, item.flags, verdict, entry, replaying, &run);
    }
    if (run.units.empty() || replaying->history.broken(run.partition)) continue;
    CO_RETURN_IF_ERROR(co_await replaying->sink->OnUnits(run));
  }
  co_return Status();
}

// Whether what the batch holds of the partition is of one that was dropped.
bool LogImpl::MeansNothing(const Uuid& partition, const LogEntry& entry) {
  if (skipped_until_.empty()) return false;
  const auto found = skipped_until_.find(partition);
  if (found == skipped_until_.end() || entry.end > found->second) return false;
  removed_[partition] = entry.end;
  return true;
}

// L13: versions were seen by clients, and must not come again.
Task<Status> LogImpl::FollowForgotten(StreamMark mark, LogReplaySink* sink) {
  if (skipped_until_[mark.partition] == kNoPosition) co_return Status();
  LogStream* stream = StreamOf(mark.partition);
  stream->hlc = std::max(stream->hlc, mark.hlc);
  stream->epoch = std::max(stream->epoch, mark.epoch);
  StreamMark seen;
  seen.partition = mark.partition;
  seen.epoch = mark.epoch;
  seen.hlc = mark.hlc;
  co_return co_await sink->OnMark(seen);
}

// Whether the history of a partition that the store holds begins after this position.
bool LogImpl::IsBeforeHistory(LogPosition end) const {
  return std::any_of(options_.dropped.begin(), options_.dropped.end(),
                     [end](const auto& d) { return d.second != kNoPosition && end < d.second; });
}

Task<Status> LogImpl::ReplayMark(StreamMark mark, Replaying* replaying) {
  if (!replaying->history.Accept(mark)) co_return Status();
  co_return co_await replaying->sink->OnMark(mark);
}

Task<Status> LogImpl::ReplayCut(StreamCut cut, const LogEntry& entry, Replaying* replaying) {
  const auto verdict = replaying->history.Accept(cut);
  if (verdict == StreamHistory::Verdict::kIgnored) co_return Status();
  if (verdict == StreamHistory::Verdict::kBroken) {
    BreakStream(cut.partition, fmt::format("{}: offset {}", entry.segment->path, entry.offset), replaying);
    co_return Status();
  }
  co_return co_await EndAt(cut, entry, replaying);
}

// The batch says that the history ends there.
Task<Status> LogImpl::EndAt(StreamCut cut, const LogEntry& entry, Replaying* replaying) {
  LogStream* stream = StreamOf(cut.partition);
  const LogPosition position = MakePosition(entry.segment->number, entry.offset);
  stream->written_lsn = stream->durable_lsn = cut.after.lsn;
  stream->next_lsn = cut.after.lsn + 1;
  stream->chain = cut.after.chain;
  stream->last_epoch = cut.after.epoch;
  stream->indexed_in = 0;  // a new entry begins
  CutIndex(stream, position, cut.after.lsn + 1);
  NoteSuperseded(stream, cut.after.lsn + 1, position);
  const RecoveredCut found{cut.partition, cut.after, entry.segment->path, entry.offset};
  co_return co_await replaying->sink->OnCut(found);
}

// Adds the unit to `run`, unless it is known already or breaks its partition.
void LogImpl::AcceptUnit(const WriteUnit& unit, uint16_t flags, StreamHistory::Verdict verdict, const LogEntry& entry,
                         Replaying* replaying, RecoveredUnits* run) {
  LogStream* stream = StreamOf(run->partition);
  Segment* segment = live_.back().get();
  // Also what is broken: it may be needed to repair the partition.
  AddToIndex(segment, stream, unit.first_lsn, unit.last_lsn(), entry.offset);
  if (verdict == StreamHistory::Verdict::kIgnored) return;
  if (verdict == StreamHistory::Verdict::kBroken) {
    return BreakStream(run->partition, fmt::format("{}: offset {}", entry.segment->path, entry.offset), replaying);
  }
  if (verdict == StreamHistory::Verdict::kRepeats) {
    return MoveIndex(stream, segment->number, unit.first_lsn, unit.last_lsn());
  }
  if (verdict == StreamHistory::Verdict::kFills) return run->units.push_back(unit);
  stream->written_lsn = stream->durable_lsn = unit.last_lsn();
  stream->next_lsn = unit.last_lsn() + 1;
  stream->chain = unit.chain_after;
  stream->last_epoch = unit.epoch;
  stream->epoch = std::max(stream->epoch, unit.epoch);
  run->starts_anew |= (flags & kUnitStartsAnew) != 0;
  run->units.push_back(unit);
}

void LogImpl::BreakStream(const Uuid& partition, std::string_view where, Replaying* replaying) {
  replaying->sink->OnBroken(partition,
                            Error(Code::kCorruption, "{}: {}; restore the partition from a replica or a backup", where,
                                  replaying->history.wrong()));
}

// Makes live_.back() a segment that new batches can be written to, with the torn tail cut.
Task<Status> LogImpl::BeginFirstSegment(const LogReader& reader) {
  Result<uint64_t> taken = co_await PutFirstSegmentAside(reader);
  if (taken.code() == Code::kDiskFull && MayContinueLastSegment(reader)) {
    CO_RETURN_IF_ERROR(co_await ContinueLastSegment(reader));
    DiscardDeadSegments(reader, /*taken=*/0);
    co_return Status();
  }
  CO_RETURN_IF_ERROR(taken.status());
  CO_ASSIGN_OR_RETURN(File first, co_await files_.Publish(next_number_));
  AddLiveSegment(next_number_++, std::move(first));
  CO_RETURN_IF_ERROR(co_await ProbeSyncMode(&live_.back()->file));
  CO_RETURN_IF_ERROR(co_await WriteCut(live_.back().get(), reader.records_end()));
  DiscardDeadSegments(reader, *taken);
  co_return Status();
}

// Uses a file that is not part of the log if there is one, so that recovery needs no space on a
// full disk. Dead segments are as good as spare ones: without their batches, which were never
// announced or are cut already, the log ends at the same place. Returns the number that the file
// had, or 0 for a new file.
Task<Result<uint64_t>> LogImpl::PutFirstSegmentAside(const LogReader& reader) {
  for (const LogSegmentInfo::Use use : {LogSegmentInfo::Use::kSpare, LogSegmentInfo::Use::kDead}) {
    for (const LogSegmentInfo& segment : reader.segments()) {
      if (segment.use != use || segment.bytes != options_.segment_bytes) continue;
      CO_RETURN_IF_ERROR(co_await files_.TakeAside(SegmentFileName(segment.number)));
      co_return segment.number;
    }
  }
  CO_RETURN_IF_ERROR(co_await files_.Create());
  co_return uint64_t{0};
}

// Whether the last segment holds only positions, and nothing of a torn tail lies behind it. It is
// then one that an earlier recovery began, on a disk that was full already.
bool LogImpl::MayContinueLastSegment(const LogReader& reader) const {
  if (live_.empty() || reader.end() < options_.required_end) return false;
  if (IsBeforeHistory(reader.end())) return false;  // L13
  const Segment& last = *live_.back();
  if (last.number != PositionSegment(reader.end()) || last.number <= PositionSegment(reader.records_end())) {
    return false;
  }
  if (last.bytes != options_.segment_bytes || PositionOffset(reader.end()) > last.bytes / 2) return false;
  return std::none_of(reader.segments().begin(), reader.segments().end(), [&](const LogSegmentInfo& segment) {
    return segment.number > last.number && segment.use == LogSegmentInfo::Use::kDead;
  });
}

// Zeros durably what follows the end, which cuts the torn tail as a cut batch would. What the log
// holds stays as it is.
Task<Status> LogImpl::ContinueLastSegment(const LogReader& reader) {
  Segment& segment = *live_.back();
  LOG(WARNING) << options_.directory << ": there is no disk space for a new log segment; writes wait until a "
               << "checkpoint releases one";
  CO_ASSIGN_OR_RETURN(segment.file,
                      co_await directory_.OpenFile(SegmentFileName(segment.number), File::Mode::kReadWrite, true));
  segment.head = AlignUp(PositionOffset(reader.end()), kBlockBytes);
  AlignedBuffer zeros(std::min<uint64_t>(kZeroWriteBytes, segment.bytes));
  for (uint64_t at = segment.head; at < segment.bytes; at += zeros.size()) {
    const uint64_t bytes = std::min<uint64_t>(zeros.size(), segment.bytes - at);
    CO_RETURN_IF_ERROR(co_await segment.file.Write(zeros.data(), bytes, at));
  }
  CO_RETURN_IF_ERROR(co_await segment.file.Sync());
  CO_RETURN_IF_ERROR(co_await ProbeSyncMode(&segment.file));
  written_end_ = announced_end_ = reader.end();
  records_end_ = covered_ = reader.records_end();
  last_checksum_ = reader.last_checksum();
  segment.counted_bytes += segment.head - kFirstGroupOffset;
  live_bytes_ += segment.head - kFirstGroupOffset;
  co_return Status();
}

// Prepares a segment before records are accepted (L8). On a full disk records wait until
// MaintainSegments has one.
Task<Status> LogImpl::PrepareForNextRecovery() {
  while (prepared_.size() < kKeptForRecovery) {
    Status status = co_await PrepareSegment();
    if (status.code() == Code::kDiskFull || status.code() == Code::kOverloaded) co_return Status();
    CO_RETURN_IF_ERROR(std::move(status));
  }
  co_return Status();
}

void LogImpl::AddLiveSegment(uint64_t number, File file) {
  live_.push_back(std::make_unique<Segment>());
  Segment& segment = *live_.back();
  segment.number = number;
  segment.path = file.path();
  segment.bytes = options_.segment_bytes;
  segment.file = std::move(file);
  for (auto& [partition, stream] : streams_) MarkDue(stream.get());  // L9
}

Task<Result<Nanos>> LogImpl::TimeWrite(File* file, const AlignedBuffer& block, uint64_t offset, bool data_sync) {
  co_await Yield(reactor_);  // the clock is read only once per turn: start with a fresh reading
  const Nanos start = reactor_.NowNs();
  CO_RETURN_IF_ERROR(co_await file->Write(block.data(), kBlockBytes, offset, kNoBuffer, data_sync));
  if (!data_sync) CO_RETURN_IF_ERROR(co_await file->Sync());
  co_return reactor_.NowNs() - start;
}

// Writes zeros to the end of the fresh segment, whose content is zero or stale, alternating between
// the two ways, and chooses by the medians, so that one write on a busy machine does not decide. A
// separate sync costs a second operation and a kernel thread, so it must be clearly faster to be
// chosen.
Task<Status> LogImpl::ProbeSyncMode(File* file) {
  data_sync_ = options_.sync_mode != LogOptions::SyncMode::kWriteThenSync;
  const uint64_t span = uint64_t{2 * kProbeWrites} * kBlockBytes;
  if (options_.sync_mode != LogOptions::SyncMode::kProbe || options_.segment_bytes < 4 * span) co_return Status();
  AlignedBuffer block(kBlockBytes);
  std::vector<Nanos> times[2];
  for (int i = 0; i < 2 * kProbeWrites; ++i) {
    const uint64_t offset = options_.segment_bytes - span + static_cast<uint64_t>(i) * kBlockBytes;
    CO_ASSIGN_OR_RETURN(const Nanos took, co_await TimeWrite(file, block, offset, i % 2 == 1));
    times[i % 2].push_back(took);
  }
  for (auto& each : times) std::nth_element(each.begin(), each.begin() + kProbeWrites / 2, each.end());
  const Nanos with_sync = times[0][kProbeWrites / 2], data_sync = times[1][kProbeWrites / 2];
  data_sync_ = data_sync <= 2 * with_sync;
  LOG(INFO) << options_.directory << ": a 4-KiB write + fdatasync takes " << with_sync / kMicrosecond
            << " us, with RWF_DSYNC " << data_sync / kMicrosecond << " us; using "
            << (data_sync_ ? "RWF_DSYNC" : "write + fdatasync");
  co_return Status();
}

// The first batch of the fresh segment: it cuts the log before it at `end`, and has all marks (L9).
Task<Status> LogImpl::WriteCut(Segment* segment, LogPosition end) {
  written_end_ = records_end_ = announced_end_ = covered_ = end;
  last_checksum_ = 0;
  const size_t marks = MarksThatFit(0);
  const uint64_t bytes = BatchBytes(marks * kMarkBytes), padded = AlignUp(bytes, kBlockBytes);
  AlignedBuffer buffer(padded);
  std::memset(buffer.data(), 0, padded);
  EncodeMarks(marks, buffer.data() + kBatchOverhead);
  BatchHeader header = NewHeader(MakePosition(segment->number, segment->head));
  header.flags |= kBatchCut;
  last_checksum_ = SealBatch(header, seed_, marks * kMarkBytes, buffer.data());
  CO_RETURN_IF_ERROR(co_await segment->file.Write(buffer.data(), padded, segment->head, kNoBuffer, data_sync_));
  if (!data_sync_) CO_RETURN_IF_ERROR(co_await segment->file.Sync());
  written_end_ = announced_end_ = MakePosition(segment->number, segment->head + bytes);
  NoteDurable(end);  // everything after `end` is cut
  NoteDurable(announced_end_);
  segment->head += padded;
  segment->counted_bytes += padded;
  live_bytes_ += padded;
  co_return Status();
}

// Queues the segments that are no longer part of the log: dead and spare ones, and those after the
// last record, which hold only positions. `taken` is the one that PutFirstSegmentAside used.
void LogImpl::DiscardDeadSegments(const LogReader& reader, uint64_t taken) {
  CHECK(recycle_queue_.empty()) << "W3: a released segment would be recycled before a dead one";
  const uint64_t last = PositionSegment(reader.records_end());
  const Segment* first = live_.back().get();
  std::erase_if(live_, [&](const auto& s) { return s->number > last && s.get() != first; });
  for (const LogSegmentInfo& segment : reader.segments()) {
    if (segment.use == LogSegmentInfo::Use::kData && segment.number <= last) continue;
    if (segment.number == taken || segment.number == first->number) continue;
    recycle_queue_.push_back({segment.number, segment.bytes, /*given_up=*/false});
  }
}

bool LogImpl::NeedsSegmentWork() const {
  return files_.has_aside() || !recycle_queue_.empty() || prepared_.size() < PreparedAhead();
}

// Keeps PreparedAhead segments prepared, and reuses or removes discarded ones.
Task<void> LogImpl::MaintainSegments() {
  while (!stopping_ && !failed()) {
    if (disk_full_ || !NeedsSegmentWork()) {
      // Woken when a segment is used or released, by the retry timer, and at the end.
      co_await maintenance_wake_.Wait();
      disk_full_ = false;
      continue;
    }
    const bool creates = !files_.has_aside() && recycle_queue_.empty();
    Status status = co_await PrepareSegment();
    maintained_.NotifyAll();
    if (status.ok()) {
      disk_full_reported_ = false;
    } else if (status.code() != Code::kDiskFull && status.code() != Code::kOverloaded) {
      Fail(std::move(status));
    } else {
      disk_full_ = true;
      if (retained_segments_ > 0) DropReleasedSegments();  // LR2
      // A segment released meanwhile can be recycled without new space.
      if (creates && !recycle_queue_.empty()) {
        disk_full_ = false;
        continue;
      }
      LOG_IF(WARNING, !std::exchange(disk_full_reported_, true))
          << options_.directory
          << ": cannot prepare the next log segment now and will retry; writes may have to wait: " << status.message();
      if (staged_bytes_ > 0) ArmHook();  // TakeSegment may use the last segment now
      reactor_.CancelTimer(&retry_timer_);
      reactor_.ArmTimer(&retry_timer_, reactor_.NowNs() + kDiskFullRetryNs);
      idle_wake_.NotifyAll();  // closing cannot wait for space
    }
  }
  maintained_.NotifyAll();
}

// One step; it may be repeated after kDiskFull. A discarded segment stays first in the queue until
// it has left the log. If a later one left before it, the log would have a hole.
Task<Status> LogImpl::PrepareSegment() {
  if (!files_.has_aside()) {
    if (recycle_queue_.empty()) {
      CO_RETURN_IF_ERROR(co_await files_.Create());
    } else {
      const Discarded discarded = recycle_queue_.front();
      const bool useful =
          !discarded.given_up && discarded.bytes == options_.segment_bytes && prepared_.size() < MaxSpares();
      if (!useful) {
        CO_RETURN_IF_ERROR(co_await files_.Remove(SegmentFileName(discarded.number)));
        recycle_queue_.pop_front();
        if (discarded.given_up) --given_up_, ++given_back_;
        co_return Status();
      }
      CO_RETURN_IF_ERROR(co_await files_.TakeAside(SegmentFileName(discarded.number)));
      recycle_queue_.pop_front();
    }
  }
  CO_ASSIGN_OR_RETURN(File file, co_await files_.Publish(next_number_));
  prepared_.push_back({next_number_++, std::move(file)});
  if (staged_bytes_ > 0) ArmHook();
  co_return Status();
}

}  // namespace pando
