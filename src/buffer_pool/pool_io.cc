// BufferPool's reads and writes.
#include <algorithm>
#include <cstring>
#include <utility>

#include "src/base/hash.h"
#include "src/buffer_pool/buffer_pool.h"
#include "src/buffer_pool/extent_allocator.h"

namespace pando {
namespace {

constexpr Nanos kDamageLineNs = 10 * kSecond;  // between log lines about damaged reads
// Pages with no more blocks between them are read in one I/O, which then takes no longer than two. A read has at most
// kMaxTogetherBlocks: larger ones are no faster.
constexpr uint32_t kMaxTogetherBlocks = 64;
constexpr uint32_t kLoadBytesPerUnit = 64;  // cost of a page decompressed and checked, in units of the turn budget

}  // namespace

// -- loading --------------------------------------------------------------------------------------

bool BufferPool::MakeRoom(size_t frames) {
  while (free_.size() < frames + kWriterReserve) {
    if (!EvictSome()) return false;
  }
  return true;
}

Task<Status> BufferPool::WaitForRoom(size_t frames, const PageOwner* owner) {
  while (!MakeRoom(frames)) {
    if (!failure_.ok()) co_return failure_;
    if (owner && !owner->store().condemned().ok()) co_return owner->store().condemned();
    WantFree(frames + kWriterReserve);
    ++stats_.load_waits_total;
    // Waiters that need one frame are woken one at a time. The few that need many check again
    // whenever a frame is freed.
    if (frames == 1) {
      co_await load_frame_freed_.Wait();
    } else {
      co_await write_frame_freed_.Wait();
    }
  }
  // The caller may no longer need a frame, because another task may have read its page meanwhile.
  // So it passes the wake-up on while there is room. The next waiter resumes only after the caller
  // has taken its frame, if it takes one.
  if (free_.size() > kWriterReserve) load_frame_freed_.NotifyOne();
  co_return Status();
}

Frame* BufferPool::StartLoading(PageOwner* owner, const ChildRef& ref) {
  Frame* frame = TakeFree();
  frame->state = Frame::State::kLoading;
  frame->owner = owner;
  frame->disk = ref;
  frame->last_place = ref.location;
  frame->birth = ref.birth;
  MapInsert(frame);
  ++stats_.loads_total;
  stats_.read_bytes_total += ref.location.size_bytes();
  return frame;
}

// Waits for another caller's load of the frame that `pin` holds, if it is still in flight.
Task<Result<PagePin>> BufferPool::JoinLoad(PagePin pin) {
  while (pin.frame()->state == Frame::State::kLoading && !pin.frame()->doomed) co_await load_done_.Wait();
  // The page was superseded while it was read, or the read failed. A caller that retries gets the
  // reason.
  if (pin.frame()->doomed)
    co_return Error(Code::kAborted, "a read of the page that another request had started failed or was superseded");
  co_return pin;
}

Result<PagePin> BufferPool::FailLoad(PagePin pin, Status status, bool ahead) {
  Frame* frame = pin.frame();
  if (frame->doomed) {
    // The frame was dropped while it was read, so the result of the read does not matter.
    load_done_.NotifyAll();
    return Error(Code::kAborted, "the page or value was superseded while it was read");
  }
  MapErase(frame);
  frame->doomed = true;
  load_done_.NotifyAll();
  ++stats_.failed_loads_total;
  if (!ahead && (status.code() == Code::kCorruption || status.code() == Code::kIoError)) NoteDamage(status);
  return status;
}

// Whoever asks for a damaged page gets the error. The log says it too, but not for every request.
void BufferPool::NoteDamage(const Status& status) {
  ++stats_.damaged_reads_total;
  const Nanos now = reactor_.NowNs();
  if (now < next_damage_line_ns_) return;
  next_damage_line_ns_ = now + kDamageLineNs;
  const uint64_t unsaid = stats_.damaged_reads_total - std::exchange(damage_said_, stats_.damaged_reads_total) - 1;
  LOG(ERROR) << "a read failed: " << status.ToString()
             << (unsaid == 0 ? "" : fmt::format(" ({} other reads failed since the last such line)", unsaid));
}

Status BufferPool::FinishLoad(Frame* frame, uint8_t level) {
  const Extent at = frame->disk.location;
  auto corrupt = [&](std::string_view what) {
    return Error(Code::kCorruption, "{}: page at offset {} ({} bytes): {}; restore it from a backup or a replica",
                 frame->owner->store().file().path(), at.offset_bytes(), at.size_bytes(), what);
  };
  char* page = data(*frame);
  uint64_t checksum = Hash64({page, at.size_bytes()}, ChecksumSeed(frame->owner->store().uuid(), at.block()));
  if (checksum != frame->disk.checksum) return corrupt("checksum mismatch");
  Status decoded = DecodePageImage(page, usable_bytes_, at.blocks(), scratch_.data());
  if (decoded.code() == Code::kVersion) {
    return Error(Code::kVersion, "{}: page at offset {} ({} bytes): {}; use the version that wrote it",
                 frame->owner->store().file().path(), at.offset_bytes(), at.size_bytes(), decoded.message());
  }
  if (!decoded.ok()) return corrupt(decoded.message());
  const PageHeader& header = HeaderOf(page);
  if (header.level != level)
    return corrupt(fmt::format("its level is {}, but its parent says {}", header.level, level));
  if (header.birth != frame->disk.birth) {
    return corrupt(fmt::format("its generation is {}, but its parent says {}", header.birth, frame->disk.birth));
  }
  if (Status s = frame->owner->ValidatePage(page, usable_bytes_); !s.ok()) return corrupt(s.message());
  frame->level = header.level;
  frame->page_id = header.page_id;
  return Status();
}

Task<Result<PagePin>> BufferPool::Load(PageOwner* owner, ChildRef ref, uint8_t level) {
  if (Frame* found = LookupAny(owner, ref.location)) co_return co_await JoinLoad(Pin(found));
  if (ref.location.size_bytes() > page_bytes_ || ref.location.empty()) {
    Status status =
        Error(Code::kCorruption,
              "{}: a page reference has an extent of {} bytes at offset {}, but a page has at most {}; "
              "restore the data from a backup or a replica",
              owner->store().file().path(), ref.location.size_bytes(), ref.location.offset_bytes(), page_bytes_);
    NoteDamage(status);
    co_return status;
  }
  if (!MakeRoom(1)) co_return Error(Code::kAborted, "the buffer pool has no free frame for the page");
  PagePin pin = Pin(StartLoading(owner, ref));
  Frame* frame = pin.frame();
  char* page = data(*frame);
  Status status = co_await owner->store().file().Read(page, ref.location.size_bytes(), ref.location.offset_bytes(),
                                                      BufferIndexOf(page));
  co_return EndLoad(std::move(pin), level, std::move(status));
}

// The read of the frame has ended with `status`.
Result<PagePin> BufferPool::EndLoad(PagePin pin, uint8_t level, Status status, bool ahead) {
  Frame* frame = pin.frame();
  if (status.ok() && !frame->doomed) status = FinishLoad(frame, level);
  if (!status.ok() || frame->doomed) return FailLoad(std::move(pin), std::move(status), ahead);
  frame->state = Frame::State::kResident;
  Enqueue(frame, Fingerprint(frame->owner, frame->disk.location));
  load_done_.NotifyAll();
  return pin;
}

namespace {

// A leaf that is to be read ahead. `order`: when it will be needed.
struct Wanted {
  ChildRef ref;
  uint32_t order = 0;
};

// Some of a list of leaves: those read together.
struct Together {
  size_t first = 0, end = 0;
  uint32_t soonest = UINT32_MAX;  // the lowest order
  size_t pages() const { return end - first; }
};

// Sorts the leaves by place, and returns which of them to read together, those that are needed soonest first.
std::vector<Together> GroupByPlace(std::vector<Wanted>* leaves, uint32_t max_gap_blocks) {
  std::sort(leaves->begin(), leaves->end(),
            [](const Wanted& a, const Wanted& b) { return a.ref.location.packed < b.ref.location.packed; });
  std::vector<Together> groups;
  uint64_t begin = 0, end = 0;  // of the last group, in blocks
  for (size_t i = 0; i < leaves->size(); ++i) {
    const Extent place = (*leaves)[i].ref.location;
    // A damaged parent may name overlapping extents.
    const bool beside = place.block() >= end && place.block() - end <= max_gap_blocks &&
                        place.block() + place.blocks() - begin <= kMaxTogetherBlocks;
    if (i == 0 || !beside) {
      groups.push_back({i, i});
      begin = place.block();
    }
    end = place.block() + place.blocks();
    groups.back().end = i + 1;
    groups.back().soonest = std::min(groups.back().soonest, (*leaves)[i].order);
  }
  std::sort(groups.begin(), groups.end(), [](const Together& a, const Together& b) { return a.soonest < b.soonest; });
  return groups;
}

// Leaves so many pages of the group, among them the one that is needed soonest. Returns when the first of those that it
// takes out is needed.
uint32_t LimitTo(size_t pages, const std::vector<Wanted>& leaves, Together* group) {
  if (group->pages() <= pages) return UINT32_MAX;
  const Together whole = *group;
  size_t soonest = whole.first;
  while (leaves[soonest].order != whole.soonest) ++soonest;
  group->first = std::min(soonest, whole.end - pages);
  group->end = group->first + pages;
  uint32_t taken_out = UINT32_MAX;
  for (size_t i = whole.first; i < whole.end; ++i) {
    if (i < group->first || i >= group->end) taken_out = std::min(taken_out, leaves[i].order);
  }
  return taken_out;
}

}  // namespace

BufferPool::StartedReads BufferPool::LoadAhead(PageOwner* owner, const std::vector<ChildRef>& leaves, size_t most_pages,
                                               TaskGroup* tasks) {
  std::vector<Wanted> unread;
  size_t in_memory = 0;
  for (size_t i = 0; i < leaves.size(); ++i) {
    const Extent location = leaves[i].location;
    if (location.empty() || location.size_bytes() > page_bytes_) continue;
    if (const Frame* found = LookupAny(owner, location)) {
      // Those in the main queue do not need what others leave of the small one.
      if (found->state == Frame::State::kLoading || found->queue == Frame::Queue::kSmall) ++in_memory;
    } else {
      unread.push_back({leaves[i], static_cast<uint32_t>(i)});
    }
  }
  StartedReads started;
  started.covered = leaves.size();
  const size_t wanted = std::max(most_pages - std::min(most_pages, in_memory), kFewReads);
  const size_t room = std::min(wanted, frames_.size() / kReadAheadDivisor - reading_ahead_frames_);
  for (Together group : GroupByPlace(&unread, kMaxGapBlocks)) {
    const uint32_t taken_out = LimitTo(room - started.pages, unread, &group);
    started.covered = std::min<size_t>(started.covered, taken_out);
    const size_t pages = group.pages();
    if (pages == 0 || reads_ahead_ == kMaxReadsAhead || !MakeRoom(pages)) {
      // What is needed before this group is in the groups before.
      started.covered = std::min<size_t>(started.covered, group.soonest);
      break;
    }
    std::vector<PagePin> pins;
    pins.reserve(pages);
    for (size_t i = group.first; i < group.end; ++i) pins.push_back(Pin(StartLoading(owner, unread[i].ref)));
    reading_ahead_frames_ += pages;
    ++reads_ahead_;
    started.pages += pages;
    ++started.reads;
    tasks->Spawn(ReadTogether(std::move(pins)));
  }
  stats_.ahead_pages_total += started.pages;
  stats_.ahead_reads_total += started.reads;
  return started;
}

// Reads pages that lie one after the other, with gaps.
Task<void> BufferPool::ReadTogether(std::vector<PagePin> pins) {
  File& file = pins.front().frame()->owner->store().file();
  const uint64_t first_block = pins.front().frame()->disk.location.block();
  std::vector<iovec> vectors;
  uint64_t at = first_block;
  for (const PagePin& pin : pins) {
    const Extent place = pin.frame()->disk.location;
    if (place.block() > at) vectors.push_back({gap_.data(), (place.block() - at) * kBlockBytes});
    vectors.push_back({data(*pin.frame()), place.size_bytes()});
    at = place.block() + place.blocks();
  }
  Status status;
  if (vectors.size() == 1) {
    char* page = static_cast<char*>(vectors[0].iov_base);
    status = co_await file.Read(page, vectors[0].iov_len, first_block * kBlockBytes, BufferIndexOf(page));
  } else {
    status = co_await file.ReadVector(vectors, first_block * kBlockBytes);
  }
  reading_ahead_frames_ -= pins.size();
  --reads_ahead_;
  // Only one of the pages, or a gap, may be damaged. Whoever needs a page reads it alone.
  if (!status.ok()) status = Error(Code::kAborted, "{}", status.message());
  TurnSlice slice(turn_);
  for (PagePin& pin : pins) {
    const Result<PagePin> loaded = EndLoad(std::move(pin), /*level=*/0, status, /*ahead=*/true);
    (void)loaded.ok();  // the error surfaces when the page is loaded
    if (slice.Spend(page_bytes_ / kLoadBytesPerUnit)) co_await Yield(reactor_);
  }
}

// -- overflow values ------------------------------------------------------------------------------

// Returns the first frame of a chain with room for a value. The caller sets its state.
Frame* BufferPool::TakePieces(uint32_t value_bytes) {
  Frame* first = TakeFree();
  Frame* last = first;
  for (uint32_t n = FramesFor(value_bytes); n > 1; --n) {
    Frame* piece = TakeFree();
    piece->state = Frame::State::kPiece;
    last->next_piece = piece->id;
    last = piece;
  }
  first->overflow = true;
  first->value_bytes = value_bytes;
  return first;
}

std::vector<iovec> BufferPool::PieceVectors(const Frame& first) {
  std::vector<iovec> vectors;
  size_t left = first.disk.location.size_bytes();
  for (FrameId id = first.id; id != kNoFrame && left > 0; id = frames_[id].next_piece) {
    size_t n = std::min<size_t>(left, page_bytes_);
    vectors.push_back({data(id), n});
    left -= n;
  }
  CHECK_EQ(left, 0u) << "the frames of an overflow value do not cover its extent";
  return vectors;
}

uint64_t BufferPool::ChecksumPieces(const Frame& first) const {
  Hasher64 hasher(ChecksumSeed(first.owner->store().uuid(), first.disk.location.block()));
  size_t left = first.disk.location.size_bytes();
  for (FrameId id = first.id; id != kNoFrame; id = frames_[id].next_piece) {
    size_t n = std::min<size_t>(left, page_bytes_);
    hasher.Update({data(id), n});
    left -= n;
  }
  return hasher.Finish();
}

Frame* BufferPool::NewOverflow(PageOwner* owner, Extent location, std::string_view value, Generation birth) {
  Frame* first = TakePieces(static_cast<uint32_t>(value.size()));
  first->state = Frame::State::kResident;
  first->owner = owner;
  first->birth = birth;
  first->disk.location = location;
  first->disk.birth = birth;
  first->dirty = true;
  ++stats_.dirty_pages;
  for (FrameId id = first->id; id != kNoFrame; id = frames_[id].next_piece) {
    size_t n = std::min<size_t>(value.size(), page_bytes_);
    std::memcpy(data(id), value.data(), n);
    std::memset(data(id) + n, 0, page_bytes_ - n);
    value.remove_prefix(n);
  }
  first->disk.checksum = ChecksumPieces(*first);
  MapReplace(first);
  Enqueue(first, Fingerprint(owner, location));
  return first;
}

Task<Result<PagePin>> BufferPool::LoadOverflow(PageOwner* owner, Extent location, uint64_t checksum,
                                               uint32_t value_bytes) {
  if (Frame* found = LookupAny(owner, location)) co_return co_await JoinLoad(Pin(found));
  if (location.empty() || value_bytes == 0 || BlocksFor(value_bytes) != location.blocks()) {
    co_return Error(
        Code::kCorruption,
        "{}: a value of {} bytes has an extent of {} bytes at offset {}; restore the data from a backup or a replica",
        owner->store().file().path(), value_bytes, location.size_bytes(), location.offset_bytes());
  }
  if (FramesFor(value_bytes) > frames_.size() / 2) {
    co_return Error(Code::kOverloaded,
                    "{}: a value of {} bytes needs {} pages of memory, but the buffer pool has {} and allows half of "
                    "them for one value; raise --memory_limit_mb",
                    owner->store().file().path(), value_bytes, FramesFor(value_bytes), frames_.size());
  }
  if (!MakeRoom(FramesFor(value_bytes)))
    co_return Error(Code::kAborted, "the buffer pool has too few free frames for the value");
  Frame* first = TakePieces(value_bytes);
  first->state = Frame::State::kLoading;
  first->owner = owner;
  first->disk.location = location;
  first->disk.checksum = checksum;
  MapInsert(first);
  ++stats_.loads_total;
  stats_.read_bytes_total += location.size_bytes();
  PagePin pin = Pin(first);
  std::vector<iovec> vectors = PieceVectors(*first);
  Status status = co_await owner->store().file().ReadVector(vectors, location.offset_bytes());
  if (status.ok() && !first->doomed && ChecksumPieces(*first) != checksum) {
    status = Error(Code::kCorruption,
                   "{}: value at offset {} ({} bytes): checksum mismatch; restore it from a backup "
                   "or a replica",
                   owner->store().file().path(), location.offset_bytes(), location.size_bytes());
  }
  if (!status.ok() || first->doomed) co_return FailLoad(std::move(pin), std::move(status));
  first->state = Frame::State::kResident;
  Enqueue(first, Fingerprint(owner, location));
  load_done_.NotifyAll();
  co_return pin;
}

void BufferPool::CopyOverflow(const Frame& first, std::string* out) const {
  out->clear();
  out->reserve(first.value_bytes);
  for (FrameId id = first.id; id != kNoFrame; id = frames_[id].next_piece) {
    out->append(data(id), std::min<size_t>(page_bytes_, first.value_bytes - out->size()));
  }
}

// -- writing --------------------------------------------------------------------------------------

Task<Status> BufferPool::WriteBack(Frame* frame) {
  if (!frame->dirty || frame->writing || frame->doomed) co_return Status();
  if (!frame->owner->store().condemned().ok()) co_return frame->owner->store().condemned();  // B7
  PageOwner* const owner = frame->owner;  // the frame may be free at the end
  frame->writing = true;
  ++writes_in_flight_;
  ++owner->writes_in_flight;
  Status status;  // no ?: operator here: g++ 12 destroys its temporary twice
  if (frame->overflow) {
    status = co_await WriteOverflow(frame);
  } else {
    status = co_await WritePage(frame);
  }
  --writes_in_flight_;
  --owner->writes_in_flight;
  write_done_.NotifyAll();
  co_return status;
}

// Ends a write. `current`: what was written is what the frame still holds.
void BufferPool::FinishWrite(Frame* frame, Status* status, bool current) {
  bool valid = status->ok() && current && !frame->doomed;
  frame->writing = false;
  if (valid) {
    main_refused_ = 0;
    frame->dirty = false;
    --stats_.dirty_pages;
  } else if (status->ok()) {
    ++stats_.void_writes_total;
  }
  if (!status->ok() && status->code() != Code::kDiskFull) frame->owner->store().OnIoError(*status);
  bool doomed = frame->doomed;
  frame->owner->OnWriteEnded(*frame, valid);  // may drop the frame, which then is already free
  if (doomed) FinishDoomed(frame);
}

Task<Status> BufferPool::WritePage(Frame* frame) {
  // All write buffers are in use: the number of writes in flight is limited.
  while (write_buffers_.empty()) co_await buffer_freed_.Wait();
  char* image = write_buffers_.back();
  write_buffers_.pop_back();
  Status status;
  bool current = false;
  if (!frame->doomed) status = co_await WriteImage(frame, image, &current);
  write_buffers_.push_back(image);
  buffer_freed_.NotifyOne();
  FinishWrite(frame, &status, current);
  co_return status;
}

// Writes the page as it is now. *current: the page is still unchanged at the end, and `disk` is its
// new reference.
Task<Status> BufferPool::WriteImage(Frame* frame, char* image, bool* current) {
  PageOwner* owner = frame->owner;
  const uint64_t modifications = frame->modifications;
  ChildRef ref;
  char* copy = scratch_.data();
  std::memcpy(copy, data(*frame), page_bytes_);
  if (!owner->PrepareForDisk(*frame, copy, &ref)) co_return Status();
  uint32_t blocks = EncodePageImage(copy, usable_bytes_, compression_, image, scratch_.data() + page_bytes_);
  Extent neighbors[ExtentAllocator::kMaxNeighbors];
  const std::span<const Extent> near(neighbors, owner->NeighborsOf(*frame, neighbors));
  CO_ASSIGN_OR_RETURN(Extent extent, co_await owner->store().AllocateNear(blocks, frame->last_place, near));
  frame->last_place = extent;  // before it is written: its neighbors may be written meanwhile
  ref.location = extent;
  ref.birth = frame->birth;
  ref.checksum = Hash64({image, extent.size_bytes()}, ChecksumSeed(owner->store().uuid(), extent.block()));
  Status status =
      co_await owner->store().file().Write(image, extent.size_bytes(), extent.offset_bytes(), BufferIndexOf(image));
  ++stats_.writes_total;
  stats_.written_bytes_total += extent.size_bytes();
  *current = status.ok() && frame->modifications == modifications && !frame->doomed;
  if (*current) {
    frame->disk = ref;
    MapReplace(frame);
  } else {
    owner->store().FreeNow(extent);
  }
  co_return status;
}

Task<Status> BufferPool::WriteOverflow(Frame* frame) {
  uint64_t modifications = frame->modifications;
  std::vector<iovec> vectors = PieceVectors(*frame);
  Status status = co_await frame->owner->store().file().WriteVector(vectors, frame->disk.location.offset_bytes());
  ++stats_.writes_total;
  stats_.written_bytes_total += frame->disk.location.size_bytes();
  FinishWrite(frame, &status, frame->modifications == modifications);
  co_return status;
}

Task<void> BufferPool::DrainWrites(PageOwner* owner) {
  while (owner->writes_in_flight > 0) co_await write_done_.Wait();
}

}  // namespace pando
