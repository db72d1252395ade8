// Group commit: staged units form batches, each batch is one device write, and durable batches are
// announced in order.
#include <algorithm>
#include <cstring>
#include <functional>
#include <queue>

#include "src/wal/log_impl.h"

namespace pando {
// -- staging

void LogImpl::Append(LogStream* stream, const WriteUnit& unit) {
  CHECK(recovered_ && !options_.read_only && !closing_ && stream->consumer != nullptr)
      << "append to a log that is closed, read-only or not recovered";
  CHECK(!stream->ended) << "append to a stream that has ended";
  CHECK(unit.record_count > 0 && !unit.records.empty());
  CHECK_LE(unit.records.size(), LargestUnitRecordBytes(options_.segment_bytes))
      << "a unit does not fit into a segment: raise LogOptions::segment_bytes";
  if (unit.first_lsn != stream->next_lsn) {
    CHECK(unit.first_lsn < stream->next_lsn && unit.epoch > stream->last_epoch)
        << "WU2: LSN " << unit.first_lsn << " of epoch " << unit.epoch << " follows LSN " << stream->next_lsn - 1;
    Cut(stream, {0, unit.first_lsn - 1, unit.chain_before});
  }
  CHECK_EQ(unit.chain_before, stream->chain) << "WU2: a unit that does not continue its partition";
  CHECK_GE(unit.epoch, stream->last_epoch) << "WU2: the epochs of a history never fall";
  LogStream::Staged staged;
  staged.unit = unit;
  stream->epoch = std::max(stream->epoch, unit.epoch);
  stream->last_epoch = unit.epoch;
  stream->next_lsn = unit.last_lsn() + 1;
  stream->chain = unit.chain_after;
  counters_.appended_records_total += unit.record_count;
  counters_.appended_bytes_total += unit.records.size();
  if (!failed()) Stage(stream, std::move(staged));
}

void LogImpl::AppendAgain(LogStream* stream, const WriteUnit& unit, std::function<void()> on_done) {
  CHECK(unit.last_lsn() <= stream->durable_lsn && unit.first_lsn > stream->released_lsn)
      << "L10: only what is durable and still needed is appended again";
  if (failed()) return;
  LogStream::Staged staged;
  staged.unit = unit;
  staged.records = std::make_unique<std::string>(unit.records);
  staged.unit.records = *staged.records;
  staged.flags = kUnitAgain;
  staged.on_done = std::move(on_done);
  ++stream->again_staged;
  Stage(stream, std::move(staged));
}

void LogImpl::Stage(LogStream* stream, LogStream::Staged staged) {
  staged_bytes_ += staged.bytes();
  staged_records_ += staged.records_and_cuts();
  stream->units.push_back(std::move(staged));
  if (!stream->queued) {
    stream->queued = true;
    stream->batch_tag = batch_clock_.Join(stream->batch_tag);
    staged_streams_.push_back(stream);
  }
  ArmHook();
}

void LogImpl::Cut(LogStream* stream, const HistoryPoint& after) {
  CHECK(recovered_ && !options_.read_only && !closing_ && stream->consumer != nullptr && !stream->ended)
      << "a cut in a log that is closed, read-only or not recovered, or of a stream that has ended";
  CHECK_LT(after.lsn, stream->next_lsn) << "WU2: a cut after what was never appended";
  CHECK_GE(after.lsn, std::max(stream->commit_lsn, stream->released_lsn)) << "WU2: a committed unit would be cut off";
  if (after.lsn + 1 == stream->next_lsn) {
    CHECK_EQ(after.chain, stream->chain) << "WU2: a cut that is not a point of the history";
    return;
  }
  // The disk may hold something of it, unless it was all staged.
  const bool states = UnstageAfter(stream, after.lsn) || stream->written_lsn > after.lsn;
  for (auto& batch : batches_) {
    for (Batch::Part& part : batch->parts) {
      if (part.stream == stream) part.last_lsn = std::min(part.last_lsn, after.lsn);
    }
  }
  stream->written_lsn = std::min(stream->written_lsn, after.lsn);
  stream->durable_lsn = std::min(stream->durable_lsn, after.lsn);
  stream->next_lsn = after.lsn + 1;
  stream->chain = after.chain;
  stream->last_epoch = after.epoch;
  if (!states) return;
  NoteSuperseded(stream, after.lsn + 1, kNotWritten);
  // If the next unit starts anew, it says all there is to say.
  if (stream->starts_anew || failed()) return;
  LogStream::Staged staged;
  staged.cut = after;
  Stage(stream, std::move(staged));
  MarkDue(stream);
}

// Removes what is in no batch yet and ends after `lsn`. Returns whether a cut was among it.
bool LogImpl::UnstageAfter(LogStream* stream, Lsn lsn) {
  bool has_cut = false;
  std::erase_if(stream->units, [&](const LogStream::Staged& staged) {
    const bool goes = staged.cut ? staged.cut->lsn >= lsn : staged.unit.last_lsn() > lsn;
    if (!goes) return false;
    CHECK(staged.cut || staged.unit.first_lsn > lsn) << "WU2: a part of a unit would be cut off";
    has_cut |= staged.cut.has_value();
    staged_bytes_ -= staged.bytes();
    staged_records_ -= staged.records_and_cuts();
    if (staged.again()) UnstageAgain(stream);
    return true;
  });
  DequeueStreams();
  return has_cut;
}

// -- batches

// Everything appended during this turn of the reactor goes out together.
void LogImpl::OnTurnEnd() {
  while (MaySubmit() && !HoldBack()) {
    BatchPlan plan = PlanBatch();
    if (!EnsureRoom(BatchBytes(plan.bytes))) return;  // PrepareSegment arms the hook again
    hold_.OnSubmit(reactor_.NowNs(), staged_records_);
    SubmitBatch(std::move(plan));
  }
}

bool LogImpl::MaySubmit() const {
  if (failed() || staged_bytes_ == 0 || batches_.size() >= kMaxWritesInFlight) return false;
  return batches_.empty() || staged_bytes_ >= pipeline_bytes_;
}

// Returns true while the next group waits for the writers of the last one (CommitHold).
bool LogImpl::HoldBack() {
  const Nanos until = closing_ || !batches_.empty() ? 0 : hold_.HoldUntil(reactor_.NowNs(), staged_records_);
  if (until == 0) {
    reactor_.CancelTimer(&hold_timer_);
  } else if (!hold_timer_.armed) {
    reactor_.ArmTimer(&hold_timer_, until);
  }
  return until != 0;
}

// Plans a batch of as many whole units as it can hold, but at least one.
LogImpl::BatchPlan LogImpl::PlanBatch() const {
  return BatchBytes(staged_bytes_) <= max_batch_bytes_ ? PlanOfAll() : PlanByTurns();
}

LogImpl::BatchPlan LogImpl::PlanOfAll() const {
  BatchPlan plan;
  plan.clock = batch_clock_;
  plan.parts.reserve(staged_streams_.size());
  for (LogStream* stream : staged_streams_) {
    Batch::Part part;
    part.stream = stream;
    part.units = stream->units.size();
    for (const LogStream::Staged& staged : stream->units) {
      part.bytes += staged.bytes();
      part.records += staged.records_and_cuts();
    }
    part.tag = stream->batch_tag;
    plan.bytes += part.bytes;
    plan.parts.push_back(std::move(part));
  }
  return plan;
}

// More is staged than one batch holds. Streams take turns by bytes; otherwise one stream could keep
// the others out for as long as its load lasts. If the unit whose turn it is does not fit, it ends
// the batch and is the first of the next.
LogImpl::BatchPlan LogImpl::PlanByTurns() const {
  BatchPlan plan;
  plan.clock = batch_clock_;
  plan.parts.resize(staged_streams_.size());
  // The virtual time at which the next unit of a part ends, and the index of the part.
  using Turn = std::pair<uint64_t, size_t>;
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  for (size_t i = 0; i < plan.parts.size(); ++i) {
    Batch::Part& part = plan.parts[i];
    part.stream = staged_streams_[i];
    part.tag = part.stream->batch_tag;
    turns.emplace(part.tag + part.stream->units.front().bytes(), i);
  }
  while (!turns.empty()) {
    const auto [end, i] = turns.top();
    turns.pop();
    Batch::Part& part = plan.parts[i];
    const LogStream::Staged& staged = part.stream->units[part.units];
    if (plan.bytes > 0 && BatchBytes(plan.bytes + staged.bytes()) > max_batch_bytes_) break;
    plan.bytes += staged.bytes();
    part.bytes += staged.bytes();
    part.records += staged.records_and_cuts();
    part.tag = end;
    plan.clock.Serve(end);
    if (++part.units == part.stream->units.size()) continue;
    turns.emplace(part.tag + part.stream->units[part.units].bytes(), i);
  }
  std::erase_if(plan.parts, [](const Batch::Part& part) { return part.units == 0; });
  return plan;
}

// Makes live_.back() a segment with room for a batch of this size and the closing position after it
// (W4). Returns false when a segment must be prepared first: for the batch, or for the next recovery
// (L8).
bool LogImpl::EnsureRoom(uint64_t batch_bytes) {
  const Segment& active = *live_.back();
  const bool fits = active.head + AlignUp(batch_bytes, kBlockBytes) + kClosingBytes <= active.bytes;
  short_of_segments_ = (!fits && !TakeSegment()) || prepared_.empty();
  return !short_of_segments_;
}

// Makes the next prepared segment live_.back(). Returns false when none can be used.
bool LogImpl::TakeSegment() {
  Segment& active = *live_.back();
  const bool last = prepared_.size() <= kKeptForRecovery;
  if (last) {
    // The log may consist of a single segment, which is full and released, but holds its end (L6).
    // On a full disk, only moving the end to another segment lets it be recycled. No record is
    // written to the other segment until then.
    auto pinned = [](const auto& s) {
      return std::any_of(s->index.begin(), s->index.end(), [](const IndexEntry& e) { return e.pinned(); });
    };
    if (prepared_.empty() || !disk_full_reported_ || std::any_of(live_.begin(), live_.end(), pinned)) return false;
  }
  if (active.in_flight == 0) tasks_.Spawn(CloseFile(std::move(active.file)));
  Prepared next = std::move(prepared_.front());
  prepared_.pop_front();
  AddLiveSegment(next.number, std::move(next.file));
  if (last) SubmitClosingPosition();
  maintenance_wake_.NotifyAll();
  return true;
}

AlignedBuffer LogImpl::TakeBuffer(uint64_t bytes) {
  if (bytes > max_batch_bytes_) return AlignedBuffer(bytes);
  if (free_buffers_.empty()) return AlignedBuffer(max_batch_bytes_);
  AlignedBuffer buffer = std::move(free_buffers_.back());
  free_buffers_.pop_back();
  return buffer;
}

BatchHeader LogImpl::NewHeader(uint64_t position) const {
  BatchHeader header{};
  header.flags = kBatchEndsGroup;
  header.segment_number = PositionSegment(position);
  header.position = position;
  header.previous_end = written_end_;
  header.durable_position = announced_end_;
  header.previous_checksum = last_checksum_;
  return header;
}

// Moves the units and cuts of one part from its stream into the batch's buffer. Returns their end. What a cut
// removes never comes before it in the same batch, because Cut has unstaged it.
char* LogImpl::EncodePart(Batch* batch, Batch::Part* part, char* out) {
  LogStream* stream = part->stream;
  const LogPosition position = MakePosition(batch->segment->number, batch->offset);
  Lsn first = 0, last = 0;  // of the new units
  for (size_t i = 0; i < part->units; ++i) {
    LogStream::Staged& staged = stream->units.front();
    const WriteUnit& unit = staged.unit;
    if (staged.cut) {
      out = EncodeCut({stream->partition, *staged.cut}, out);
      NoteWritten(stream, position);
      part->moved.push_back({staged.cut->lsn + 1, 0, {}});
      stream->indexed_in = 0;  // a new entry begins
      stream->units.pop_front();
      continue;
    }
    if (!staged.again() && std::exchange(stream->starts_anew, false)) {
      staged.flags |= kUnitStartsAnew;
      NoteWritten(stream, position);
    }
    char* const encoded = out;
    out = EncodeUnit(stream->partition, unit, staged.flags, out);
    if (staged.again()) {
      AddToIndex(batch->segment, stream, unit.first_lsn, unit.last_lsn(), batch->offset);
      part->moved.push_back({unit.first_lsn, unit.last_lsn(), std::move(staged.on_done)});
      UnstageAgain(stream);
    } else {
      if (!stream->readers.empty()) Remember(stream, unit, {encoded, static_cast<size_t>(out - encoded)});
      first = first == 0 ? unit.first_lsn : std::min(first, unit.first_lsn);
      last = std::max(last, unit.last_lsn());
      part->last_lsn = stream->written_lsn = unit.last_lsn();
      stream->moved = false;
    }
    stream->units.pop_front();
  }
  WakeReaders(stream);
  if (first != 0) AddToIndex(batch->segment, stream, first, last, batch->offset);
  stream->batch_tag = part->tag;
  staged_bytes_ -= part->bytes;
  staged_records_ -= part->records;
  return out;
}

// -- marks (L9)

void LogImpl::MarkDue(LogStream* stream) {
  if (stream->mark_due || stream->ended || failed()) return;
  stream->mark_due = true;
  due_marks_.push_back(stream);
}

// How many marks the next batch has room for, after its units. They may exceed max_batch_bytes_, but
// not the segment. The others follow in the next batch.
size_t LogImpl::MarksThatFit(uint64_t payload_bytes) const {
  const Segment& active = *live_.back();
  const uint64_t closing = payload_bytes > 0 ? kClosingBytes : 0;
  const uint64_t room = active.bytes - active.head - closing;
  const uint64_t units = BatchBytes(payload_bytes);
  return room <= units ? 0 : std::min<size_t>(due_marks_.size(), (room - units) / kMarkBytes);
}

char* LogImpl::EncodeMarks(size_t count, char* out) {
  for (size_t i = 0; i < count; ++i) {
    LogStream* stream = due_marks_.front();
    due_marks_.pop_front();
    stream->mark_due = false;
    out = EncodeMark(MarkOf(stream), out);
  }
  return out;
}

// L11: one unit fewer waits to be appended again.
void LogImpl::UnstageAgain(LogStream* stream) {
  CHECK_GT(stream->again_staged, 0u) << "L11: more units were appended again than staged";
  if (--stream->again_staged == 0 && stream->stated_commit_lsn != stream->commit_lsn) MarkDue(stream);
}

StreamMark LogImpl::MarkOf(LogStream* stream) {
  if (stream->again_staged == 0) stream->stated_commit_lsn = stream->commit_lsn;
  StreamMark mark{stream->partition,   stream->epoch,        stream->stated_commit_lsn,
                  stream->durable_lsn, stream->released_lsn, stream->hlc};
  if (stream->moved) mark.commit_lsn = mark.durable_lsn = 0;
  return mark;
}

// Removes the streams whose units have all been submitted.
void LogImpl::DequeueStreams() {
  std::erase_if(staged_streams_, [](LogStream* stream) {
    stream->queued = !stream->units.empty();
    return !stream->queued;
  });
}

void LogImpl::AddToIndex(Segment* segment, LogStream* stream, Lsn first, Lsn last, uint64_t offset) {
  // The segments of a stream ascend, so its first entry in a segment is not searched for, nor is the first after
  // a cut.
  std::vector<IndexEntry>& index = segment->index;
  if (std::exchange(stream->indexed_in, segment->number) != segment->number) {
    stream->indexed_at = index.size();
    index.push_back({stream, first, last, offset, first, last});
    return;
  }
  if (stream->indexed_at >= index.size() || index[stream->indexed_at].stream != stream) {
    // Streams before it were removed.
    const auto at = std::find_if(index.rbegin(), index.rend(), [&](const IndexEntry& e) { return e.stream == stream; });
    CHECK(at != index.rend()) << "a stream is not in the index of its segment";
    stream->indexed_at = static_cast<size_t>(index.rend() - at) - 1;
  }
  IndexEntry& entry = index[stream->indexed_at];
  const bool empty = entry.first_lsn > entry.last_lsn;
  entry.first_lsn = empty ? first : std::min(entry.first_lsn, first);
  entry.last_lsn = empty ? last : std::max(entry.last_lsn, last);
  entry.lies_first = std::min(entry.lies_first, first);
  entry.lies_last = std::max(entry.lies_last, last);
}

// A plan without parts makes a batch that only carries positions and marks.
void LogImpl::SubmitBatch(BatchPlan plan) {
  reactor_.CancelTimer(&idle_timer_);
  batches_.push_back(std::make_unique<Batch>());
  Batch* batch = batches_.back().get();
  Segment& segment = *live_.back();
  const size_t marks = MarksThatFit(plan.bytes);
  const uint64_t payload_bytes = plan.bytes + marks * kMarkBytes;
  batch->segment = &segment;
  batch->offset = segment.head;
  batch->bytes = BatchBytes(payload_bytes);
  batch->buffer = TakeBuffer(batch->bytes);
  batch->parts = std::move(plan.parts);
  batch_clock_ = plan.clock;
  batch->durable_position = announced_end_;
  batch->submitted_ns = reactor_.NowNs();
  char* const begin = batch->buffer.data();
  char* out = begin + kBatchOverhead;
  for (Batch::Part& part : batch->parts) {
    out = EncodePart(batch, &part, out);
    batch->records += part.records;
  }
  DequeueStreams();
  out = EncodeMarks(marks, out);
  CHECK_EQ(static_cast<uint64_t>(out - begin), kBatchOverhead + payload_bytes);
  BatchHeader header = NewHeader(MakePosition(segment.number, batch->offset));
  header.record_count = static_cast<uint32_t>(batch->records);
  last_checksum_ = SealBatch(header, seed_, payload_bytes, begin);
  const uint64_t padded = AlignUp(batch->bytes, kBlockBytes);
  CHECK_LE(segment.head + padded, segment.bytes) << "W4: a batch or closing position does not fit into its segment";
  std::memset(begin + batch->bytes, 0, padded - batch->bytes);
  batch->end = MakePosition(segment.number, batch->offset + batch->bytes);
  written_end_ = batch->end;
  if (batch->records > 0) records_end_ = batch->end;
  segment.head += padded;
  segment.counted_bytes += padded;
  segment.counted_records += batch->records;
  live_bytes_ += padded;
  live_records_ += batch->records;
  ++segment.in_flight;
  ++counters_.device_writes_total;
  counters_.device_bytes_total += padded;
  WakeSpaceWaiters();  // the staging limit has room again
  tasks_.Spawn(WriteBatch(batch));
}

void LogImpl::SubmitClosingPosition() {
  BatchPlan plan;
  plan.clock = batch_clock_;
  SubmitBatch(std::move(plan));
}

Task<void> LogImpl::WriteBatch(Batch* batch) {
  File& file = batch->segment->file;
  const uint64_t bytes = AlignUp(batch->bytes, kBlockBytes);
  Status status = co_await file.Write(batch->buffer.data(), bytes, batch->offset, kNoBuffer, data_sync_);
  if (status.ok() && !data_sync_) status = co_await file.Sync();
  OnBatchDone(batch, std::move(status));
}

Task<void> LogImpl::CloseFile(File file) {
  Status status = co_await file.Close();
  if (!status.ok()) Fail(std::move(status));
}

void LogImpl::OnBatchDone(Batch* batch, Status status) {
  batch->done = true;
  Segment* segment = batch->segment;
  --segment->in_flight;
  if (batch->buffer.size() == max_batch_bytes_ && free_buffers_.size() < kMaxWritesInFlight) {
    free_buffers_.push_back(std::move(batch->buffer));
  }
  batch->buffer = AlignedBuffer();
  if (!status.ok()) Fail(std::move(status));
  if (failed()) return;
  if (segment != live_.back().get() && segment->in_flight == 0) {
    tasks_.Spawn(CloseFile(std::move(segment->file)));
  }
  const Nanos took_ns = reactor_.NowNs() - batch->submitted_ns;
  const uint64_t records = batch->records;
  Announce();  // frees the batch
  if (batches_.empty() && !failed()) hold_.OnBatchDone(reactor_.NowNs(), took_ns, records, staged_records_);
  if (staged_bytes_ > 0) ArmHook();
  if (IsIdle()) WhenIdle();
}

void LogImpl::Announce() {
  const uint64_t segment_before = PositionSegment(announced_end_);
  bool moved = false;  // something is needed no longer
  while (!failed() && !batches_.empty() && batches_.front()->done) {
    std::unique_ptr<Batch> batch = std::move(batches_.front());
    batches_.pop_front();
    CHECK_GT(batch->end, announced_end_) << "W1: a batch was announced after a later one";
    announced_end_ = batch->end;
    NoteDurable(batch->end);
    covered_ = batch->durable_position;
    for (Batch::Part& part : batch->parts) {
      moved |= !part.moved.empty() || part.stream->ended;
      ApplyMoved(*batch, part);
      if (part.last_lsn <= part.stream->durable_lsn) part.last_lsn = 0;  // superseded meanwhile
      if (part.last_lsn == 0) continue;
      part.stream->durable_lsn = part.last_lsn;
      MarkDue(part.stream);
      WakeReaders(part.stream);
    }
    // The consumers may append, release, or start closing the log.
    for (const Batch::Part& part : batch->parts) {
      if (part.last_lsn != 0) part.stream->consumer->OnDurable(part.last_lsn);
      for (const Moved& each : part.moved) {
        if (each.on_done) each.on_done();
      }
    }
  }
  announced_.NotifyAll();
  if (moved || PositionSegment(announced_end_) != segment_before) DropReleasedSegments();
}

// L10: the batch that cuts units off, or has them again, is durable.
void LogImpl::ApplyMoved(const Batch& batch, const Batch::Part& part) {
  for (const Moved& moved : part.moved) {
    if (moved.last_lsn == 0) {
      CutIndex(part.stream, MakePosition(batch.segment->number, batch.offset), moved.first_lsn);
    } else {
      MoveIndex(part.stream, batch.segment->number, moved.first_lsn, moved.last_lsn);
    }
  }
}

// The units of `stream` from `first` to `last` lie in segment `number` now.
void LogImpl::MoveIndex(LogStream* stream, uint64_t number, Lsn first, Lsn last) {
  for (auto& segment : live_) {
    if (segment->number >= number) return;
    for (IndexEntry& entry : segment->index) {
      if (entry.stream != stream || entry.last_lsn < first) continue;
      if (first <= std::max(entry.first_lsn, stream->released_lsn + 1)) {
        entry.first_lsn = std::max(entry.first_lsn, last + 1);
      } else if (entry.last_lsn <= last) {
        entry.last_lsn = first - 1;
      }
    }
  }
}

// The units of `stream` from `first` on that lie before the batch at `cut` are not needed any more.
void LogImpl::CutIndex(LogStream* stream, LogPosition cut, Lsn first) {
  for (auto& segment : live_) {
    for (IndexEntry& entry : segment->index) {
      const bool before = MakePosition(segment->number, entry.offset) < cut;
      if (entry.stream == stream && before) entry.last_lsn = std::min(entry.last_lsn, first - 1);
    }
  }
}

void LogImpl::NoteDurable(LogPosition end) {
  for (auto segment = live_.rbegin(); segment != live_.rend(); ++segment) {
    if ((*segment)->number != PositionSegment(end)) continue;
    (*segment)->durable_end = PositionOffset(end);
    return;
  }
}

void LogImpl::WhenIdle() {
  if (NeedsClosingPosition() && !closing_) {
    reactor_.CancelTimer(&idle_timer_);
    reactor_.ArmTimer(&idle_timer_, reactor_.NowNs() + kIdleCloseNs);
  }
  idle_wake_.NotifyAll();
}

void LogImpl::Fail(Status status) {
  if (failed()) return;
  failure_ = std::move(status);
  LOG(ERROR) << options_.directory << ": the log has failed; no more writes are acknowledged: " << failure_.ToString();
  staged_bytes_ = staged_records_ = 0;
  staged_streams_.clear();
  due_marks_.clear();
  std::vector<LogStream*> registered;
  for (auto& [partition, stream] : streams_) {
    stream->units.clear();
    stream->queued = stream->mark_due = false;
    stream->again_staged = 0;
    if (stream->consumer != nullptr) registered.push_back(stream.get());
  }
  // In a fixed order, so that simulations are deterministic.
  std::sort(registered.begin(), registered.end(),
            [](const LogStream* a, const LogStream* b) { return a->partition < b->partition; });
  WakeSpaceWaiters();
  WakeAllReaders();
  idle_wake_.NotifyAll();
  announced_.NotifyAll();
  maintenance_wake_.NotifyAll();
  for (LogStream* stream : registered) stream->consumer->OnLogFailed(failure_);
}

}  // namespace pando
