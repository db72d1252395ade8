#include "src/wal/live_reader.h"

#include <algorithm>
#include <utility>

#include "src/base/codec.h"
#include "src/base/near_end.h"
#include "src/wal/log_impl.h"

namespace pando {
namespace {

constexpr size_t kNowhere = SIZE_MAX;

}  // namespace

LiveReader::LiveReader(LogImpl* log, LogStream* stream, const HistoryPoint& after, uint64_t retention_bytes)
    : log_(log), stream_(stream), position_(after), retention_bytes_(retention_bytes), news_(log->reactor_) {}

LiveReader::~LiveReader() {
  CHECK(!reading_) << "a reader of the log was destroyed while it reads";
  LogImpl* const log = log_;
  if (!log) return;
  log->CloseReader(this);
  if (log->retained_segments_ > 0) log->DropReleasedSegments();
}

Task<Result<LiveReader::Units>> LiveReader::Read(size_t max_bytes, std::string* out) {
  CHECK(!std::exchange(reading_, true)) << "two calls of LiveReader::Read at a time";
  Result<Units> units = TryReadMemory(max_bytes, out);
  const bool none = units.ok() && units->count == 0 && units->needs_bytes == 0;
  if (none && !HasMore()) SetLagging(false);
  if (none && HasMore()) {
    ++log_->reads_;
    SetLagging(true);
    // While the image is loaded, the reader may be superseded, and the partition dropped.
    Result<std::shared_ptr<SegmentImage>> image = co_await FindImage();
    units = image.ok() ? ReadImage(**image, max_bytes, out) : image.TakeStatus();
    if (stopped_) SetLagging(false);
    if (--log_->reads_ == 0) log_->reads_done_.NotifyAll();
  }
  reading_ = false;
  if (log_ && log_->retained_segments_ > 0) log_->DropReleasedSegments();
  co_return std::move(units);
}

Task<void> LiveReader::UntilMore() {
  // Woken when units of the partition are submitted or durable, and whenever Usable changes.
  while (Usable().ok() && !HasMore()) co_await news_.Wait();
}

void LiveReader::Stop() {
  stopped_ = true;
  news_.NotifyAll();
  if (!log_) return;
  SetLagging(false);
  if (log_->retained_segments_ > 0) log_->DropReleasedSegments();
}

// -- whether there is something to read

Status LiveReader::Usable() const {
  if (!log_ || stopped_) return Error(Code::kUnavailable, "the reader of the log was stopped");
  RETURN_IF_ERROR(log_->Refusal());
  if (!stream_) return Error(Code::kUnavailable, "{}: the partition was dropped", log_->options_.directory);
  const Lsn last = stream_->next_lsn - 1;
  const bool diverged = position_.lsn == last && position_.chain != 0 && position_.chain != stream_->chain;
  if (!diverged && position_.lsn <= last && !superseded_) return Status();
  return Error(Code::kAborted,
               "partition {}: LSN {} of epoch {}, with chain {:016x}, is not part of its history, which ends at LSN {} "
               "of epoch {}: align the follower first",
               stream_->partition.ToString(), position_.lsn, position_.epoch, position_.chain, last,
               stream_->last_epoch);
}

// Whether the unit that begins with this LSN at this place is no longer part of the history.
bool LiveReader::Superseded(LogPosition place, Lsn lsn) const {
  const auto& all = stream_->supersessions;
  return std::any_of(all.begin(), all.end(), [&](const auto& s) { return place < s.until && lsn >= s.from; });
}

// The index of the next unit among those in memory.
size_t LiveReader::FindInMemory() const {
  const auto& recent = stream_->recent;
  const auto at = FindNearEnd(recent, position_.lsn + 1, [](const LogStream::Recent& unit) { return unit.first_lsn; });
  return at == recent.end() ? kNowhere : static_cast<size_t>(at - recent.begin());
}

// What is neither in memory nor durable comes when it is durable.
bool LiveReader::HasMore() const { return stream_->durable_lsn > position_.lsn || FindInMemory() != kNowhere; }

KeptLog LiveReader::kept() const {
  KeptLog kept;
  kept.limit_bytes = retention_bytes_;
  kept.complete = Usable().ok();
  if (!kept.complete) return kept;
  kept.bytes = log_->retained_bytes_;
  const bool durable = stream_->durable_lsn > position_.lsn;
  kept.complete = !durable || FindInMemory() != kNowhere || !log_->SegmentsOf(stream_, position_.lsn + 1).empty();
  return kept;
}

Status LiveReader::CheckContinues(Epoch epoch, uint64_t chain_before) const {
  if (epoch >= position_.epoch && (position_.chain == 0 || position_.chain == chain_before)) return Status();
  return Error(Code::kAborted,
               "partition {}: the unit after LSN {} continues chain {:016x} in epoch {}, but the follower has chain "
               "{:016x} of epoch {}: align it first",
               stream_->partition.ToString(), position_.lsn, chain_before, epoch, position_.chain, position_.epoch);
}

// -- reading

void LiveReader::Take(std::string_view unit, const HistoryPoint& end, std::string* out) {
  const size_t begin = out->size();
  out->append(unit);
  StoreLE(out->data() + begin + offsetof(UnitHeader, flags), uint16_t{0});  // they are about this log only
  position_ = end;
}

Result<LiveReader::Units> LiveReader::TryReadMemory(size_t max_bytes, std::string* out) {
  RETURN_IF_ERROR(Usable());
  Units units;
  const size_t first = FindInMemory();
  if (first == kNowhere) return units;
  SetLagging(false);
  const auto& recent = stream_->recent;
  RETURN_IF_ERROR(CheckContinues(recent[first].end.epoch, recent[first].chain_before));
  size_t bytes = 0;
  for (size_t i = first; i < recent.size(); ++i, ++units.count) {
    bytes += recent[i].bytes;
    if (bytes > max_bytes) {
      if (units.count == 0) units.needs_bytes = recent[i].bytes;
      break;
    }
    Take(log_->ring_->At(recent[i].place, recent[i].bytes), recent[i].end, out);
  }
  return units;
}

// The image of a segment that has the next unit.
Task<Result<std::shared_ptr<SegmentImage>>> LiveReader::FindImage() {
  const Lsn next = position_.lsn + 1;
  bool inside = false;
  for (bool again = true; again && !inside;) {
    again = false;
    // Segments may be recycled, and units may be appended again, while an image is loaded.
    for (const uint64_t number : log_->SegmentsOf(stream_, next)) {
      std::shared_ptr<SegmentImage> cached = log_->CachedImage(number);
      if (cached && FindIn(*cached) != kNowhere) co_return std::move(cached);  // it may lack newer units
      Result<std::shared_ptr<SegmentImage>> image = co_await log_->LoadImage(number);
      CO_RETURN_IF_ERROR(Usable());
      again |= !log_->IsLive(number);
      if (!image.ok() && log_->IsLive(number)) co_return image.TakeStatus();
      if (image.ok() && FindIn(**image) != kNowhere) co_return std::move(image);
      inside |= image.ok() && IsInsideUnit(**image);
    }
  }
  if (inside) {
    co_return Error(Code::kAborted, "partition {}: LSN {} is inside a unit of its history: align the follower first",
                    stream_->partition.ToString(), position_.lsn);
  }
  ++log_->counters_.readers_gone_total;
  co_return Error(Code::kNotFound,
                  "partition {}: the log does not hold LSN {} any more: the follower needs a copy of the partition",
                  stream_->partition.ToString(), next);
}

// The index of the next unit in an image.
size_t LiveReader::FindIn(const SegmentImage& image) const {
  const std::vector<SegmentImage::Place>& units = image.UnitsOf(stream_->partition);
  auto is_next = [&](const SegmentImage::Place& place) {
    return place.first_lsn == position_.lsn + 1 && !Superseded(image.PositionOf(place), place.first_lsn);
  };
  const size_t hint = image.number() == image_number_ ? std::min(image_index_, units.size()) : 0;
  auto at = std::find_if(units.begin() + static_cast<ptrdiff_t>(hint), units.end(), is_next);
  if (at == units.end()) at = std::find_if(units.begin(), units.end(), is_next);
  return at == units.end() ? kNowhere : static_cast<size_t>(at - units.begin());
}

// Whether the follower stands inside a unit, so that it has another history.
bool LiveReader::IsInsideUnit(const SegmentImage& image) const {
  const std::vector<SegmentImage::Place>& units = image.UnitsOf(stream_->partition);
  return std::any_of(units.begin(), units.end(), [&](const SegmentImage::Place& place) {
    const Lsn last = place.first_lsn + image.Header(place).record_count - 1;
    return place.first_lsn <= position_.lsn && last > position_.lsn &&
           !Superseded(image.PositionOf(place), place.first_lsn);
  });
}

Result<LiveReader::Units> LiveReader::ReadImage(const SegmentImage& image, size_t max_bytes, std::string* out) {
  RETURN_IF_ERROR(Usable());
  const std::vector<SegmentImage::Place>& places = image.UnitsOf(stream_->partition);
  Units units;
  size_t bytes = 0;
  image_number_ = image.number();
  for (size_t at = FindIn(image); at < places.size(); ++at) {
    const SegmentImage::Place& place = places[at];
    if (place.first_lsn != position_.lsn + 1 || Superseded(image.PositionOf(place), place.first_lsn)) continue;
    const UnitHeader header = image.Header(place);
    RETURN_IF_ERROR(CheckContinues(header.epoch, header.chain_before));
    const std::string_view unit = image.At(place);
    bytes += unit.size();
    if (bytes > max_bytes) {
      if (units.count == 0) units.needs_bytes = unit.size();
      break;
    }
    Take(unit, {header.epoch, place.first_lsn + header.record_count - 1, header.chain_after}, out);
    image_index_ = at + 1;
    ++units.count;
  }
  return units;
}

void LiveReader::SetLagging(bool lagging) {
  if (std::exchange(lagging_, lagging) == lagging) return;
  log_->readers_lagging_ += lagging ? size_t{1} : -size_t{1};
  if (log_->readers_lagging_ == 0) log_->images_.clear();
}

}  // namespace pando
