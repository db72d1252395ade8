// Recovery: reads the log, cuts its torn tail with a cut batch in a fresh segment, and keeps
// segments prepared.
#include <algorithm>

#include "src/wal/log_impl.h"
#include "src/wal/log_reader.h"

namespace pando {
namespace {

constexpr int kProbeWrites = 8;  // of each kind

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
  CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(reactor_, std::move(reading)));
  CO_RETURN_IF_ERROR(co_await Replay(reader.get(), sink));
  CO_RETURN_IF_ERROR(JudgeEnd(*reader));
  if (reader->torn()) {
    LOG(WARNING) << options_.directory << ": the log ends with unfinished writes of the last run ("
                 << reader->end_reason() << "); they are discarded, and none of them was acknowledged";
  }
  recovered_ = true;
  if (options_.read_only) co_return Status();

  if (!reader->segments().empty()) next_number_ = reader->segments().back().number + 1;
  next_number_ = std::max(next_number_, PositionSegment(options_.required_end) + 1);
  CO_RETURN_IF_ERROR(co_await PutFirstSegmentAside(*reader));
  CO_ASSIGN_OR_RETURN(File first, co_await files_.Publish(next_number_));
  AddLiveSegment(next_number_++, std::move(first));
  CO_RETURN_IF_ERROR(co_await ProbeSyncMode(&live_.back()->file));
  CO_RETURN_IF_ERROR(co_await WriteCut(live_.back().get(), reader->last_records_end()));
  DiscardDeadSegments(*reader);
  DropReleasedSegments();
  tasks_.Spawn(MaintainSegments());
  co_return Status();
}

Status LogImpl::JudgeEnd(const LogReader& reader) const {
  if (reader.end() >= options_.required_end) return {};
  Status lost = LostLog(options_.directory, reader.end(), options_.required_end, options_.required_by);
  if (!options_.accept_lost) return lost;
  LOG(ERROR) << "continuing without the lost writes, as --accept_lost_log requests: " << lost.message();
  return {};
}

Task<Status> LogImpl::Replay(LogReader* reader, LogReplaySink* sink) {
  LogEntry entry;
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
    if (!more) co_return Status();
    if (live_.empty() || live_.back()->number != entry.segment->number) {
      live_.push_back(std::make_unique<Segment>());
      live_.back()->number = entry.segment->number;
      live_.back()->path = entry.segment->path;
      live_.back()->bytes = entry.segment->bytes;
    }
    live_.back()->durable_end = PositionOffset(entry.end);
    const BatchHeader& header = entry.header;
    if (header.record_count == 0) continue;
    Segment& segment = *live_.back();
    const uint64_t used = AlignUp(PositionOffset(entry.end), kBlockBytes) - kFirstGroupOffset;
    live_bytes_ += used - std::exchange(segment.counted_bytes, used);
    live_records_ += header.record_count;
    segment.counted_records += header.record_count;
    LogStream* stream = StreamOf(header.partition);
    stream->durable_lsn = header.first_lsn + header.record_count - 1;
    stream->last_checksum = header.checksum;
    stream->commit_lsn = header.commit_lsn;
    AddToIndex(&segment, stream, header.first_lsn, stream->durable_lsn, entry.offset);

    RecoveredBatch batch;
    batch.partition = header.partition;
    batch.epoch = header.epoch;
    batch.first_lsn = header.first_lsn;
    batch.record_count = header.record_count;
    batch.commit_lsn = header.commit_lsn;
    batch.records = entry.records;
    batch.file = entry.segment->path;
    batch.offset = entry.offset;
    CO_RETURN_IF_ERROR(co_await sink->OnBatch(batch));
  }
}

// Uses a spare if there is one, so that recovery needs no space on a full disk.
Task<Status> LogImpl::PutFirstSegmentAside(const LogReader& reader) {
  for (const LogSegmentInfo& segment : reader.segments()) {
    if (segment.use != LogSegmentInfo::Use::kSpare || segment.bytes != options_.segment_bytes) continue;
    co_return co_await files_.TakeAside(SegmentFileName(segment.number));
  }
  co_return co_await files_.Create();
}

void LogImpl::AddLiveSegment(uint64_t number, File file) {
  live_.push_back(std::make_unique<Segment>());
  Segment& segment = *live_.back();
  segment.number = number;
  segment.path = file.path();
  segment.bytes = options_.segment_bytes;
  segment.file = std::move(file);
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

Task<Status> LogImpl::WriteCut(Segment* segment, LogPosition end) {
  written_end_ = records_end_ = announced_end_ = covered_ = end;
  AlignedBuffer block(kBlockBytes);
  BatchHeader header = NewHeader(MakePosition(segment->number, segment->head));
  header.flags = kBatchCut | kBatchEndsGroup;
  EncodeBatch(header, seed_, {}, block.data());
  CO_RETURN_IF_ERROR(co_await segment->file.Write(block.data(), kBlockBytes, segment->head, kNoBuffer, data_sync_));
  if (!data_sync_) CO_RETURN_IF_ERROR(co_await segment->file.Sync());
  written_end_ = announced_end_ = MakePosition(segment->number, segment->head + BatchBytes(0));
  NoteDurable(end);  // everything after `end` is cut
  NoteDurable(announced_end_);
  segment->head += kBlockBytes;
  segment->counted_bytes += kBlockBytes;
  live_bytes_ += kBlockBytes;
  co_return Status();
}

// Queues the segments that are no longer part of the log: dead and spare ones, and those after the
// last record, which hold only positions.
void LogImpl::DiscardDeadSegments(const LogReader& reader) {
  const uint64_t last = PositionSegment(reader.last_records_end());
  const Segment* fresh = live_.back().get();
  std::erase_if(live_, [&](const auto& s) { return s->number > last && s.get() != fresh; });
  bool first_segment_taken = false;
  for (const LogSegmentInfo& segment : reader.segments()) {
    if (segment.use == LogSegmentInfo::Use::kData && segment.number <= last) continue;
    // PutFirstSegmentAside took the first spare of the right size.
    const bool fits = segment.use == LogSegmentInfo::Use::kSpare && segment.bytes == options_.segment_bytes;
    if (fits && !std::exchange(first_segment_taken, true)) continue;
    recycle_queue_.push_back({SegmentFileName(segment.number), segment.bytes});
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
    if (status.ok()) {
      disk_full_reported_ = false;
    } else if (status.code() != Code::kDiskFull && status.code() != Code::kOverloaded) {
      Fail(std::move(status));
    } else if (!creates || recycle_queue_.empty()) {
      // Otherwise go on: a segment released meanwhile can be recycled without new space.
      LOG_IF(WARNING, !std::exchange(disk_full_reported_, true))
          << options_.directory
          << ": cannot prepare the next log segment now and will retry; writes may have to wait: " << status.message();
      disk_full_ = true;
      reactor_.CancelTimer(&retry_timer_);
      reactor_.ArmTimer(&retry_timer_, reactor_.NowNs() + kDiskFullRetryNs);
      idle_wake_.NotifyAll();  // closing cannot wait for space
    }
  }
}

// One step; it may be repeated after kDiskFull. A discarded segment stays first in the queue until
// it has left the log. If a later one left before it, the log would have a hole.
Task<Status> LogImpl::PrepareSegment() {
  if (!files_.has_aside()) {
    if (recycle_queue_.empty()) {
      CO_RETURN_IF_ERROR(co_await files_.Create());
    } else {
      const Discarded discarded = recycle_queue_.front();
      const bool useful = discarded.bytes == options_.segment_bytes && prepared_.size() < MaxSpares();
      if (!useful) {
        CO_RETURN_IF_ERROR(co_await files_.Remove(discarded.name));
        recycle_queue_.pop_front();
        co_return Status();
      }
      CO_RETURN_IF_ERROR(co_await files_.TakeAside(discarded.name));
      recycle_queue_.pop_front();
    }
  }
  CO_ASSIGN_OR_RETURN(File file, co_await files_.Publish(next_number_));
  prepared_.push_back({next_number_++, std::move(file)});
  if (staged_bytes_ > 0) ArmHook();
  co_return Status();
}

}  // namespace pando
