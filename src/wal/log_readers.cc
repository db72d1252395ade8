// What the log keeps for those who read it while it is written: the units in memory, images of
// segments, and segments that are released (LiveReader).
#include <algorithm>

#include "src/wal/log_impl.h"

namespace pando {

Result<std::unique_ptr<LiveReader>> LogImpl::OpenReader(LogStream* stream, const HistoryPoint& after,
                                                        uint64_t retention_bytes) {
  CHECK(stream->consumer != nullptr) << "a reader of a partition that is not registered";
  RETURN_IF_ERROR(Refusal());
  if (!ring_) {
    const auto bytes = static_cast<int64_t>(options_.reader_ring_bytes);
    if (options_.reader_memory && !options_.reader_memory->TryReserve(bytes)) {
      return Error(Code::kOverloaded, "{}: there is no memory for a reader of the log; try again", options_.directory);
    }
    ring_ = std::make_unique<UnitRing>(options_.reader_ring_bytes);
  }
  auto reader = std::make_unique<LiveReader>(this, stream, after, retention_bytes);
  stream->readers.push_back(reader.get());
  readers_.push_back(reader.get());
  return reader;
}

void LogImpl::CloseReader(LiveReader* reader) {
  if (LogStream* stream = reader->stream_) {
    std::erase(stream->readers, reader);
    if (stream->readers.empty()) stream->recent.clear();
  }
  reader->SetLagging(false);
  reader->log_ = nullptr;
  reader->stream_ = nullptr;
  std::erase(readers_, reader);
  if (readers_.empty()) {
    ring_.reset();
    ring_owners_.clear();
    images_.clear();
    if (options_.reader_memory) options_.reader_memory->Release(static_cast<int64_t>(options_.reader_ring_bytes));
  }
}

// The partition is dropped. Its readers stay, and return errors.
void LogImpl::DetachReaders(LogStream* stream) {
  for (LiveReader* reader : stream->readers) {
    reader->stream_ = nullptr;
    reader->news_.NotifyAll();
  }
  stream->readers.clear();
  for (auto& [owner, place] : ring_owners_) {
    if (owner == stream) owner = nullptr;
  }
}

void LogImpl::WakeReaders(LogStream* stream) {
  for (LiveReader* reader : stream->readers) reader->news_.NotifyAll();
}

void LogImpl::WakeAllReaders() {
  for (auto& [partition, stream] : streams_) WakeReaders(stream.get());
}

Task<void> LogImpl::UntilReadersRest() {
  WakeAllReaders();
  while (reads_ > 0) co_await reads_done_.Wait();  // woken by the last call of Read
}

// -- units in memory

// A unit was put into a batch.
void LogImpl::Remember(LogStream* stream, const WriteUnit& unit, std::string_view encoded) {
  const std::optional<uint64_t> place = ring_->Add(encoded);
  while (!ring_owners_.empty() && !ring_->Holds(ring_owners_.front().second)) {
    const auto [owner, old] = ring_owners_.front();
    ring_owners_.pop_front();
    if (owner && !owner->recent.empty() && owner->recent.front().place == old) owner->recent.pop_front();
  }
  if (!place) return stream->recent.clear();  // no gaps
  ring_owners_.emplace_back(stream, *place);
  LogStream::Recent recent;
  recent.end = {unit.epoch, unit.last_lsn(), unit.chain_after};
  recent.first_lsn = unit.first_lsn;
  recent.chain_before = unit.chain_before;
  recent.place = *place;
  recent.bytes = encoded.size();
  stream->recent.push_back(recent);
}

// The units from `from` on that lie before the batch at `until` are superseded, and all that lie anywhere if
// it is not written yet.
void LogImpl::NoteSuperseded(LogStream* stream, Lsn from, LogPosition until) {
  while (!stream->recent.empty() && stream->recent.back().first_lsn >= from) stream->recent.pop_back();
  auto& all = stream->supersessions;
  std::erase_if(all, [&](const LogStream::Supersession& s) { return s.from >= from; });  // included in the new one
  all.push_back({from, until});
  for (LiveReader* reader : stream->readers) reader->superseded_ |= reader->position_.lsn >= from;
  WakeReaders(stream);
}

// The batch that supersedes something of the stream is written now.
void LogImpl::NoteWritten(LogStream* stream, LogPosition batch) {
  for (LogStream::Supersession& s : stream->supersessions) {
    if (s.until == kNotWritten) s.until = batch;
  }
}

// -- images of segments

// The segments that may hold this LSN of a stream.
std::vector<uint64_t> LogImpl::SegmentsOf(const LogStream* stream, Lsn lsn) const {
  std::vector<uint64_t> numbers;
  for (const auto& segment : live_) {
    for (const IndexEntry& entry : segment->index) {
      const bool lies = entry.stream == stream && entry.lies_first <= lsn && lsn <= entry.lies_last;
      if (lies && (numbers.empty() || numbers.back() != segment->number)) numbers.push_back(segment->number);
    }
  }
  return numbers;
}

// The image of a segment, if it is in memory. It may lack what was written since it was loaded.
std::shared_ptr<SegmentImage> LogImpl::CachedImage(uint64_t number) {
  const auto at = std::find_if(images_.begin(), images_.end(), [&](const auto& i) { return i->number() == number; });
  if (at == images_.end()) return nullptr;
  std::rotate(at, at + 1, images_.end());
  return images_.back();
}

// The image of a segment with all that is durable in it.
Task<Result<std::shared_ptr<SegmentImage>>> LogImpl::LoadImage(uint64_t number) {
  co_await image_load_.Acquire();
  Result<std::shared_ptr<SegmentImage>> image = CachedImage(number);
  const Status refusal = Refusal();
  const std::vector<DurableSegment> segments = DurableSegments();
  const auto at = std::find_if(segments.begin(), segments.end(), [&](const auto& s) { return s.number == number; });
  const bool current = *image && at != segments.end() && (*image)->durable_end() == at->durable_end;
  if (!refusal.ok()) {
    image = refusal;
  } else if (!current && at == segments.end()) {
    image = Error(Code::kNotFound, "{}: segment {} is not part of the log", options_.directory, number);
  } else if (!current) {
    *image = nullptr;
    std::erase_if(images_, [&](const auto& i) { return i->number() == number; });
    if (images_.size() == kMaxImages) images_.erase(images_.begin());
    ++counters_.reader_segments_read_total;
    Result<std::unique_ptr<SegmentImage>> loaded =
        co_await SegmentImage::Load(*at, options_.node, options_.reader_memory);
    if (loaded.ok()) {
      *image = *std::move(loaded);
      images_.push_back(*image);
    } else {
      image = loaded.TakeStatus();
    }
  }
  image_load_.Release();
  co_return std::move(image);
}

// -- released segments

// Whether a reader still needs a released segment, and may have `released_bytes` kept.
bool LogImpl::HeldByReader(const Segment& segment, uint64_t released_bytes) const {
  for (const IndexEntry& entry : segment.index) {
    for (const LiveReader* reader : entry.stream->readers) {
      const bool needs = !reader->stopped_ && !reader->superseded_ && reader->position_.lsn < entry.lies_last;
      if (needs && released_bytes <= reader->retention_bytes_) return true;
    }
  }
  return false;
}

// The first `released` segments are not needed for recovery. Recycles them, except those that are
// kept for readers (LR2). Segments leave only from the front (W2).
void LogImpl::RetainOrRecycle(size_t released) {
  const bool retain = !disk_full_ && !giving_up_ && !options_.read_only;
  auto kept = [&](uint64_t bytes) {
    return retain && (bytes <= options_.retained_bytes || HeldByReader(*live_.front(), bytes));
  };
  uint64_t bytes = 0;
  for (size_t i = 0; i < released; ++i) bytes += live_[i]->bytes;
  bool recycled = false;
  for (; released > 0 && !kept(bytes); --released) {
    Segment& front = *live_.front();
    CHECK(!front.file.is_open()) << "W2: a segment left the log while groups could still be written to it";
    recycle_queue_.push_back({front.number, front.bytes, giving_up_});
    given_up_ += giving_up_;
    bytes -= front.bytes;
    for (const IndexEntry& entry : front.index) {
      std::erase_if(entry.stream->supersessions,
                    [&](const auto& s) { return PositionSegment(s.until) <= front.number; });
    }
    live_.pop_front();
    recycled = true;
  }
  retained_bytes_ = bytes;
  retained_segments_ = released;
  if (recycled && !options_.read_only) maintenance_wake_.NotifyAll();
}

Task<bool> LogImpl::GiveUpRetained() {
  if (!begun_ || stopping_ || failed()) co_return false;
  giving_up_ = true;
  RetainOrRecycle(retained_segments_);
  giving_up_ = false;
  const uint64_t before = given_back_;
  while (given_up_ > 0 && !stopping_ && !failed()) {
    co_await maintained_.Wait();
    if (disk_full_) break;  // it waits for room itself
  }
  co_return given_back_ != before;
}

}  // namespace pando
