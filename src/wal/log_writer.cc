// Group commit: staged records form groups, each group is one device write, and durable groups are
// announced in order.
#include <algorithm>
#include <cstring>
#include <functional>
#include <queue>

#include "src/wal/log_impl.h"

namespace pando {
namespace {

// The staging memory that an idle stream keeps for its next appends.
constexpr size_t kKeptStagingBytes = 64u << 10;

}  // namespace

Lsn LogImpl::Append(LogStream* stream, std::string_view records, uint32_t count) {
  CHECK(recovered_ && !options_.read_only && !closing_ && stream->consumer != nullptr)
      << "append to a log that is closed, read-only or not recovered";
  CHECK(count > 0 && !records.empty());
  CHECK_LE(records.size(), LargestBatchRecordBytes(options_.segment_bytes))
      << "a batch does not fit into a segment: raise LogOptions::segment_bytes";
  const Lsn first = stream->next_lsn;
  stream->next_lsn += count;
  if (failed()) return first;
  stream->staged.append(records);
  stream->units.push_back({static_cast<uint32_t>(records.size()), count});
  if (!stream->queued) {
    stream->queued = true;
    stream->group_tag = group_clock_.Join(stream->group_tag);
    staged_streams_.push_back(stream);
  }
  staged_bytes_ += records.size();
  staged_records_ += count;
  counters_.appended_records_total += count;
  counters_.appended_bytes_total += records.size();
  ArmHook();
  return first;
}

// Everything appended during this turn of the reactor goes out together.
void LogImpl::OnTurnEnd() {
  while (MaySubmit() && !HoldBack()) {
    GroupPlan plan = PlanGroup();
    if (!EnsureRoom(plan.bytes)) return;  // PrepareSegment arms the hook again
    hold_.OnSubmit(reactor_.NowNs(), staged_records_);
    SubmitGroup(std::move(plan));
  }
}

bool LogImpl::MaySubmit() const {
  if (failed() || staged_bytes_ == 0 || groups_.size() >= kMaxWritesInFlight) return false;
  return groups_.empty() || staged_bytes_ >= pipeline_bytes_;
}

// Returns true while the next group waits for the writers of the last one (CommitHold).
bool LogImpl::HoldBack() {
  const Nanos until = closing_ || !groups_.empty() ? 0 : hold_.HoldUntil(reactor_.NowNs(), staged_records_);
  if (until == 0) {
    reactor_.CancelTimer(&hold_timer_);
  } else if (!hold_timer_.armed) {
    reactor_.ArmTimer(&hold_timer_, until);
  }
  return until != 0;
}

// Plans a group of as many whole units as it can hold, but at least one.
LogImpl::GroupPlan LogImpl::PlanGroup() const {
  const uint64_t overhead = staged_streams_.size() * (sizeof(BatchHeader) + kBatchAlignment);
  return staged_bytes_ + overhead <= max_group_bytes_ ? PlanOfAll() : PlanByTurns();
}

LogImpl::GroupPlan LogImpl::PlanOfAll() const {
  GroupPlan plan;
  plan.clock = group_clock_;
  plan.parts.reserve(staged_streams_.size());
  for (LogStream* stream : staged_streams_) {
    Group::Part part;
    part.stream = stream;
    part.units = stream->units.size();
    for (const LogStream::Unit& unit : stream->units) {
      part.bytes += unit.bytes;
      part.records += unit.records;
    }
    part.tag = stream->group_tag;
    plan.bytes += BatchBytes(part.bytes);
    plan.parts.push_back(part);
  }
  return plan;
}

// More is staged than one group holds. Streams take turns by bytes; otherwise one stream could keep
// the others out for as long as its load lasts. If the unit whose turn it is does not fit, it ends
// the group and is the first of the next.
LogImpl::GroupPlan LogImpl::PlanByTurns() const {
  GroupPlan plan;
  plan.clock = group_clock_;
  plan.parts.resize(staged_streams_.size());
  // The virtual time at which the next unit of a part ends, and the index of the part.
  using Turn = std::pair<uint64_t, size_t>;
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  for (size_t i = 0; i < plan.parts.size(); ++i) {
    Group::Part& part = plan.parts[i];
    part.stream = staged_streams_[i];
    part.tag = part.stream->group_tag;
    turns.emplace(part.tag + part.stream->units.front().bytes, i);
  }
  while (!turns.empty()) {
    const auto [end, i] = turns.top();
    turns.pop();
    Group::Part& part = plan.parts[i];
    const LogStream::Unit& unit = part.stream->units[part.units];
    const uint64_t before = part.units == 0 ? 0 : BatchBytes(part.bytes);
    const uint64_t total = plan.bytes - before + BatchBytes(part.bytes + unit.bytes);
    if (plan.bytes > 0 && total > max_group_bytes_) break;
    plan.bytes = total;
    part.bytes += unit.bytes;
    part.records += unit.records;
    part.tag = end;
    plan.clock.Serve(end);
    if (++part.units == part.stream->units.size()) continue;
    turns.emplace(part.tag + part.stream->units[part.units].bytes, i);
  }
  std::erase_if(plan.parts, [](const Group::Part& part) { return part.units == 0; });
  return plan;
}

// Makes live_.back() a segment with room for a group of this size and the closing position after it
// (W4). Returns false when a segment must be prepared first: for the group, or for the next recovery
// (L8).
bool LogImpl::EnsureRoom(uint64_t group_bytes) {
  const Segment& active = *live_.back();
  const bool fits = active.head + AlignUp(group_bytes, kBlockBytes) + kClosingBytes <= active.bytes;
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
  if (bytes > max_group_bytes_) return AlignedBuffer(bytes);
  if (free_buffers_.empty()) return AlignedBuffer(max_group_bytes_);
  AlignedBuffer buffer = std::move(free_buffers_.back());
  free_buffers_.pop_back();
  return buffer;
}

BatchHeader LogImpl::NewHeader(uint64_t position) const {
  BatchHeader header{};
  header.segment_number = PositionSegment(position);
  header.position = position;
  header.previous_end = written_end_;
  header.durable_position = announced_end_;
  return header;
}

// Moves the units of one part from its stream into the group's buffer, as one batch. Returns the
// offset for the next batch in the buffer.
uint64_t LogImpl::EncodePart(Group* group, Group::Part* part, bool last, uint64_t at) {
  LogStream* stream = part->stream;
  const uint64_t offset = group->offset + at;
  BatchHeader header = NewHeader(MakePosition(group->segment->number, offset));
  header.flags = (last ? kBatchEndsGroup : 0) | (stream->starts_anew ? kBatchStartsStream : 0);
  header.partition = stream->partition;
  header.epoch = stream->epoch;
  header.record_count = part->records;
  header.first_lsn = stream->written_lsn + 1;
  header.commit_lsn = stream->commit_lsn;
  header.previous_checksum = stream->starts_anew ? 0 : stream->last_checksum;
  const std::string_view records(stream->staged.data() + stream->staged_begin, part->bytes);
  stream->last_checksum = EncodeBatch(header, seed_, records, group->buffer.data() + at);
  stream->starts_anew = false;
  stream->written_lsn += part->records;
  part->last_lsn = stream->written_lsn;
  AddToIndex(group->segment, stream, header.first_lsn, part->last_lsn, offset);

  stream->group_tag = part->tag;
  stream->units.erase(stream->units.begin(), stream->units.begin() + static_cast<ptrdiff_t>(part->units));
  stream->staged_begin += part->bytes;
  if (stream->units.empty()) {
    stream->staged.clear();
    stream->staged_begin = 0;
    if (stream->staged.capacity() > kKeptStagingBytes) std::string().swap(stream->staged);
  } else if (stream->staged_begin > stream->staged.size() / 2) {
    stream->staged.erase(0, stream->staged_begin);
    stream->staged_begin = 0;
  }
  staged_bytes_ -= part->bytes;
  staged_records_ -= part->records;
  return at + BatchBytes(part->bytes);
}

// Removes the streams whose units have all been submitted.
void LogImpl::DequeueStreams() {
  std::erase_if(staged_streams_, [](LogStream* stream) {
    stream->queued = !stream->units.empty();
    return !stream->queued;
  });
}

void LogImpl::AddToIndex(Segment* segment, LogStream* stream, Lsn first, Lsn last, uint64_t offset) {
  for (IndexEntry& entry : segment->index) {
    if (entry.stream != stream) continue;
    entry.last_lsn = std::max(entry.last_lsn, last);
    return;
  }
  segment->index.push_back({stream, first, last, offset});
}

// A plan without parts makes a group that only carries positions.
void LogImpl::SubmitGroup(GroupPlan plan) {
  reactor_.CancelTimer(&idle_timer_);
  groups_.push_back(std::make_unique<Group>());
  Group* group = groups_.back().get();
  Segment& segment = *live_.back();
  group->segment = &segment;
  group->offset = segment.head;
  group->buffer = TakeBuffer(plan.bytes);
  group->parts = std::move(plan.parts);
  group_clock_ = plan.clock;
  group->durable_position = announced_end_;
  group->submitted_ns = reactor_.NowNs();
  if (group->parts.empty()) {
    BatchHeader header = NewHeader(MakePosition(segment.number, group->offset));
    header.flags = kBatchEndsGroup;
    EncodeBatch(header, seed_, {}, group->buffer.data());
    group->bytes = BatchBytes(0);
  } else {
    for (Group::Part& part : group->parts) {
      group->bytes = EncodePart(group, &part, &part == &group->parts.back(), group->bytes);
      group->records += part.records;
    }
  }
  DequeueStreams();
  CHECK_EQ(group->bytes, plan.bytes);
  const uint64_t padded = AlignUp(plan.bytes, kBlockBytes);
  CHECK_LE(segment.head + padded, segment.bytes) << "W4: a group or closing position does not fit into its segment";
  std::memset(group->buffer.data() + plan.bytes, 0, padded - plan.bytes);
  group->end = MakePosition(segment.number, group->offset + plan.bytes);
  written_end_ = group->end;
  if (group->records > 0) records_end_ = group->end;
  segment.head += padded;
  segment.counted_bytes += padded;
  segment.counted_records += group->records;
  live_bytes_ += padded;
  live_records_ += group->records;
  ++segment.in_flight;
  ++counters_.device_writes_total;
  counters_.device_bytes_total += padded;
  WakeSpaceWaiters();  // the staging limit has room again
  tasks_.Spawn(WriteGroup(group));
}

void LogImpl::SubmitClosingPosition() {
  GroupPlan plan;
  plan.bytes = BatchBytes(0);
  plan.clock = group_clock_;
  SubmitGroup(std::move(plan));
}

Task<void> LogImpl::WriteGroup(Group* group) {
  File& file = group->segment->file;
  const uint64_t bytes = AlignUp(group->bytes, kBlockBytes);
  Status status = co_await file.Write(group->buffer.data(), bytes, group->offset, kNoBuffer, data_sync_);
  if (status.ok() && !data_sync_) status = co_await file.Sync();
  OnGroupDone(group, std::move(status));
}

Task<void> LogImpl::CloseFile(File file) {
  Status status = co_await file.Close();
  if (!status.ok()) Fail(std::move(status));
}

void LogImpl::OnGroupDone(Group* group, Status status) {
  group->done = true;
  Segment* segment = group->segment;
  --segment->in_flight;
  if (group->buffer.size() == max_group_bytes_ && free_buffers_.size() < kMaxWritesInFlight) {
    free_buffers_.push_back(std::move(group->buffer));
  }
  group->buffer = AlignedBuffer();
  if (!status.ok()) Fail(std::move(status));
  if (failed()) return;
  if (segment != live_.back().get() && segment->in_flight == 0) {
    tasks_.Spawn(CloseFile(std::move(segment->file)));
  }
  const Nanos took_ns = reactor_.NowNs() - group->submitted_ns;
  const uint64_t records = group->records;
  Announce();  // frees the group
  if (groups_.empty() && !failed()) hold_.OnGroupDone(reactor_.NowNs(), took_ns, records, staged_records_);
  if (staged_bytes_ > 0) ArmHook();
  if (IsIdle()) WhenIdle();
}

void LogImpl::Announce() {
  const uint64_t segment_before = PositionSegment(announced_end_);
  while (!failed() && !groups_.empty() && groups_.front()->done) {
    std::unique_ptr<Group> group = std::move(groups_.front());
    groups_.pop_front();
    CHECK_GT(group->end, announced_end_) << "W1: a group was announced after a later one";
    announced_end_ = group->end;
    NoteDurable(group->end);
    covered_ = group->durable_position;
    for (const Group::Part& part : group->parts) part.stream->durable_lsn = part.last_lsn;
    // The consumers may append, release, or start closing the log.
    for (const Group::Part& part : group->parts) part.stream->consumer->OnDurable(part.last_lsn);
  }
  if (PositionSegment(announced_end_) != segment_before) DropReleasedSegments();
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
  std::vector<LogStream*> registered;
  for (auto& [partition, stream] : streams_) {
    stream->units.clear();
    std::string().swap(stream->staged);
    stream->staged_begin = 0;
    stream->queued = false;
    if (stream->consumer != nullptr) registered.push_back(stream.get());
  }
  // In a fixed order, so that simulations are deterministic.
  std::sort(registered.begin(), registered.end(),
            [](const LogStream* a, const LogStream* b) { return a->partition < b->partition; });
  WakeSpaceWaiters();
  idle_wake_.NotifyAll();
  maintenance_wake_.NotifyAll();
  for (LogStream* stream : registered) stream->consumer->OnLogFailed(failure_);
}

}  // namespace pando
