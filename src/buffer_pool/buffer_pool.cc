#include "src/buffer_pool/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr uint64_t kMinRegionBytes = 2u << 20;  // a huge page
constexpr uint8_t kMaxHeat = 3;
constexpr uint32_t kUnitsPerFreed = 4;  // of freeing a frame, in units of the turn's budget
constexpr uint8_t kInnerHeat = 2;       // inner pages start in the main queue with two second chances

size_t DescriptorBytes() { return sizeof(Frame) + 3 * sizeof(FrameId) + sizeof(uint32_t); }

}  // namespace

uint64_t BufferPool::MinMemoryBytes(uint32_t page_bytes, uint32_t write_buffers) {
  return kMinFrames * (page_bytes + DescriptorBytes()) + uint64_t{write_buffers} * page_bytes;
}

uint64_t BufferPool::FrameBytes(uint32_t page_bytes) { return page_bytes + DescriptorBytes(); }

BufferPool::BufferPool(Reactor& reactor, BufferPoolOptions options)
    : reactor_(reactor),
      page_bytes_(options.page_bytes),
      usable_bytes_(UsablePageBytes(options.page_bytes, options.seal_bytes)),
      compression_(options.compression),
      gather_turn_(reactor, 1),
      load_done_(reactor),
      load_frame_freed_(reactor),
      write_frame_freed_(reactor),
      buffer_freed_(reactor),
      write_done_(reactor),
      clean_wanted_(reactor) {
  CHECK(page_bytes_ >= kMinPageBytes && page_bytes_ <= kMaxPageBytes && (page_bytes_ & (page_bytes_ - 1)) == 0)
      << "page size " << page_bytes_;
  uint64_t write_area_bytes = uint64_t{options.write_buffers} * page_bytes_;
  CHECK_GT(options.memory_bytes, write_area_bytes);
  uint64_t count = (options.memory_bytes - write_area_bytes) / (page_bytes_ + DescriptorBytes());
  CHECK_GE(count, kMinFrames) << "a buffer pool of " << options.memory_bytes << " bytes is smaller than MinMemoryBytes";
  arena_bytes_ = count * page_bytes_ + write_area_bytes;
  // One mapping: frames, then write buffers. Each region of it is registered with the kernel at its
  // first use.
  void* memory =
      mmap(nullptr, arena_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK_NE(memory, MAP_FAILED) << "cannot map " << arena_bytes_ << " bytes for the buffer pool";
  madvise(memory, arena_bytes_, MADV_HUGEPAGE);  // a hint, for fewer TLB misses in descents
  arena_ = static_cast<char*>(memory);
  write_area_ = arena_ + count * page_bytes_;
  for (uint32_t i = options.write_buffers; i-- > 0;) write_buffers_.push_back(write_area_ + size_t{i} * page_bytes_);
  scratch_.resize(2 * page_bytes_);
  gap_ = AlignedBuffer(kMaxGapBlocks * kBlockBytes);
  frames_.resize(count);
  for (uint32_t i = 0; i < count; ++i) frames_[i].id = i;
  free_.reserve(count);
  for (uint32_t i = static_cast<uint32_t>(count); i-- > 0;) free_.push_back(i);
  size_t buckets = 64;
  while (buckets < count) buckets *= 2;
  map_.assign(buckets, kNoFrame);
  ghosts_.assign(buckets, 0);
  low_water_ = std::max<size_t>(kWriterReserve * 2, count / 100);
  high_water_ = low_water_ + std::max<size_t>(16, low_water_ / 2);

  std::vector<iovec> regions;
  region_bytes_ = kMinRegionBytes;
  while (arena_bytes_ / region_bytes_ >= kMaxBufferRegions) region_bytes_ *= 2;
  for (size_t at = 0; at < arena_bytes_; at += region_bytes_) {
    regions.push_back({arena_ + at, std::min<size_t>(region_bytes_, arena_bytes_ - at)});
  }
  registered_base_ = reactor_.RegisterBuffers(regions);
}

BufferPool::~BufferPool() {
  CHECK_EQ(writes_in_flight_, 0u);
  munmap(arena_, arena_bytes_);
}

void BufferPool::Start() { tasks_.Spawn(Clean()); }

Task<void> BufferPool::Stop() {
  stopping_ = true;
  clean_wanted_.NotifyAll();
  write_done_.NotifyAll();
  while (writes_in_flight_ > 0) co_await write_done_.Wait();
  co_await tasks_.Drain();
}

void BufferPool::Fail(const Status& status) {
  if (!failure_.ok()) return;
  failure_ = status;
  WakeWaiters();
}

void BufferPool::WakeWaiters() {
  clean_wanted_.NotifyAll();
  load_frame_freed_.NotifyAll();
  write_frame_freed_.NotifyAll();
}

int BufferPool::BufferIndexOf(const char* memory) const {
  if (registered_base_ == kNoBuffer) return kNoBuffer;
  return registered_base_ + static_cast<int>(static_cast<size_t>(memory - arena_) / region_bytes_);
}

// -- frames ---------------------------------------------------------------------------------------

Frame* BufferPool::TakeFree() {
  CHECK(!free_.empty()) << "C5: no free frame: the caller did not call EnsureFree";
  Frame* frame = &frames_[free_.back()];
  free_.pop_back();
  if (free_.size() < low_water_) clean_wanted_.NotifyOne();
  return frame;
}

void BufferPool::FreeNow(Frame* frame) {
  CHECK(frame->pins == 0 && !frame->writing && frame->frame_children == 0 && !frame->in_map);
  CHECK_EQ(frame->dirty_list, 0xff) << "a freed frame is on a dirty list";
  for (FrameId piece = frame->next_piece; piece != kNoFrame;) {
    Frame& f = frames_[piece];
    piece = std::exchange(f.next_piece, kNoFrame);
    f = Frame{.id = f.id};
    free_.push_back(f.id);
  }
  Unlink(frame);
  *frame = Frame{.id = frame->id};
  free_.push_back(frame->id);
  write_frame_freed_.NotifyAll();
  if (free_.size() > kWriterReserve) load_frame_freed_.NotifyOne();
}

Frame* BufferPool::NewPage(PageOwner* owner, uint8_t level) {
  Frame* frame = TakeFree();
  frame->state = Frame::State::kResident;
  frame->owner = owner;
  frame->level = level;
  frame->dirty = true;
  ++stats_.dirty_pages;
  PushHead(main_, Frame::Queue::kMain, frame);
  return frame;
}

Task<Status> BufferPool::EnsureFree(size_t frames, const PageOwner* owner) {
  CHECK_LE(frames, frames_.size() / 2) << "EnsureFree asked for more than half of the pool";
  while (free_.size() < frames) {
    if (EvictSome()) continue;
    if (!failure_.ok()) co_return failure_;
    if (owner && !owner->store().condemned().ok()) co_return owner->store().condemned();
    WantFree(frames);
    // No page can be evicted now: wait for the cleaner, the end of a write, an unpin, or Fail.
    co_await write_frame_freed_.Wait();
  }
  co_return Status();
}

// Asks the cleaner for this many free frames, even if that is more than it keeps by itself.
void BufferPool::WantFree(size_t frames) {
  wanted_frames_ = std::max(wanted_frames_, frames);
  clean_wanted_.NotifyOne();
}

void BufferPool::Drop(Frame* frame, bool discard_extent) {
  CHECK(!frame->doomed);
  if (frame->in_map) MapErase(frame);
  if (frame->dirty) {
    frame->dirty = false;
    --stats_.dirty_pages;
  }
  frame->attached = false;
  frame->doomed = true;
  frame->discard_extent = discard_extent;
  ++frame->modifications;  // voids a write in flight
  FinishDoomed(frame);
}

void BufferPool::FinishDoomed(Frame* frame) {
  if (frame->pins > 0 || frame->writing) return;
  if (frame->discard_extent) frame->owner->store().FreeNow(frame->disk.location);
  FreeNow(frame);
}

void BufferPool::Unpinned(Frame* frame) {
  if (frame->doomed) FinishDoomed(frame);
}

void BufferPool::Touch(Frame* frame) {
  ++stats_.uses_total;
  uint8_t& heat = HeatOf(*frame);
  if (heat < kMaxHeat) ++heat;
}

void BufferPool::MarkDirty(Frame* frame) {
  CHECK(!frame->dirty && frame->state == Frame::State::kResident);
  if (frame->in_map) MapErase(frame);
  frame->dirty = true;
  ++stats_.dirty_pages;
}

BufferPoolStats BufferPool::stats() const {
  BufferPoolStats s = stats_;
  s.pages = frames_.size();
  s.free_pages = free_.size();
  return s;
}

// -- eviction -------------------------------------------------------------------------------------

void BufferPool::PushHead(Fifo& fifo, Frame::Queue queue, Frame* frame) {
  CHECK(frame->queue == Frame::Queue::kNone);
  frame->queue = queue;
  frame->queue_prev = kNoFrame;
  frame->queue_next = fifo.head;
  if (fifo.head != kNoFrame) frames_[fifo.head].queue_prev = frame->id;
  fifo.head = frame->id;
  if (fifo.tail == kNoFrame) fifo.tail = frame->id;
  fifo.frames += FramesOf(*frame);
}

void BufferPool::Unlink(Frame* frame) {
  if (frame->queue == Frame::Queue::kNone) return;
  Fifo& fifo = frame->queue == Frame::Queue::kSmall ? small_ : main_;
  if (frame->queue_prev != kNoFrame)
    frames_[frame->queue_prev].queue_next = frame->queue_next;
  else
    fifo.head = frame->queue_next;
  if (frame->queue_next != kNoFrame)
    frames_[frame->queue_next].queue_prev = frame->queue_prev;
  else
    fifo.tail = frame->queue_prev;
  fifo.frames -= FramesOf(*frame);
  frame->queue = Frame::Queue::kNone;
  frame->queue_prev = frame->queue_next = kNoFrame;
}

uint64_t BufferPool::Fingerprint(const PageOwner* owner, Extent location) const {
  uint64_t words[2] = {owner->store().uuid().lo, location.packed};
  return Hash64({reinterpret_cast<const char*>(words), sizeof(words)});
}

bool BufferPool::TakeGhost(uint64_t fingerprint) {
  uint32_t& slot = ghosts_[fingerprint & (ghosts_.size() - 1)];
  if (slot != static_cast<uint32_t>(fingerprint >> 32 | 1)) return false;
  slot = 0;
  ++stats_.ghost_hits_total;
  return true;
}

void BufferPool::AddGhost(uint64_t fingerprint) {
  ghosts_[fingerprint & (ghosts_.size() - 1)] = static_cast<uint32_t>(fingerprint >> 32 | 1);
}

void BufferPool::Enqueue(Frame* frame, uint64_t fingerprint) {
  bool inner = !frame->overflow && frame->level > 0;
  HeatOf(*frame) = inner ? kInnerHeat : 0;
  if (inner || TakeGhost(fingerprint)) {
    PushHead(main_, Frame::Queue::kMain, frame);
  } else {
    PushHead(small_, Frame::Queue::kSmall, frame);
  }
}

bool BufferPool::Evictable(const Frame& frame) const {
  return frame.state == Frame::State::kResident && !frame.dirty && !frame.writing && !frame.doomed && frame.pins == 0 &&
         frame.frame_children == 0 && !(frame.attached && frame.parent == kNoFrame);
}

void BufferPool::Evict(Frame* frame) {
  if (frame->attached) frame->owner->OnEvict(*frame);
  MapErase(frame);
  ++stats_.evictions_total;
  FreeNow(frame);
}

bool BufferPool::EvictStep() {
  // Evict from the main queue while the small queue is at its target size or below, unless a whole
  // round of the main queue was refused.
  bool from_small = small_.frames > 0 && (small_.frames > frames_.size() / 10 || main_refused_ >= main_.frames);
  Fifo& fifo = from_small ? small_ : main_;
  if (fifo.frames == 0) return false;
  Frame* frame = &frames_[fifo.tail];
  Unlink(frame);
  uint8_t& heat = HeatOf(*frame);
  // The first use of a page is the access that loaded it. Only a second use shows reuse.
  bool keep = from_small ? heat > 1 : heat > 0;
  if (keep) {
    heat = from_small ? 0 : heat - 1;
    PushHead(main_, Frame::Queue::kMain, frame);
    return false;
  }
  if (Evictable(*frame)) {
    if (from_small) AddGhost(Fingerprint(frame->owner, frame->disk.location));
    if (!from_small) main_refused_ = 0;
    Evict(frame);
    return true;
  }
  if (!from_small) ++main_refused_;
  PushHead(main_, Frame::Queue::kMain, frame);
  // An inner page is written early only if it is attached and has no children in memory, so that
  // all its children are known by extent.
  bool writable = (frame->overflow || frame->level == 0 || frame->attached) && frame->dirty && !frame->writing &&
                  !frame->doomed && frame->frame_children == 0 && frame->pins == 0 &&
                  !(frame->attached && frame->parent == kNoFrame);
  const bool may_write = evicting_writes_ < write_buffers_.capacity() / 2 && !stopping_ && failure_.ok() &&
                         frame->owner->store().condemned().ok();
  if (writable && may_write) tasks_.Spawn(EvictByWriting(frame));
  return false;
}

bool BufferPool::EvictSome() {
  for (size_t step = 0; step < 64; ++step) {
    if (EvictStep()) return true;
  }
  return false;
}

Task<void> BufferPool::EvictByWriting(Frame* frame) {
  ++evicting_writes_;
  uint64_t page_id = frame->page_id;
  Status status = co_await WriteBack(frame);
  --evicting_writes_;
  // If the page was not used since it was chosen, evict it now. The frame may hold another page by
  // now.
  if (status.ok() && frame->page_id == page_id && Evictable(*frame) && HeatOf(*frame) == 0) Evict(frame);
  clean_wanted_.NotifyOne();
}

Task<void> BufferPool::Clean() {
  constexpr uint32_t kEvictionUnits = 8;
  TurnSlice slice(turn_);
  size_t fruitless = 0;
  while (!stopping_ && failure_.ok()) {
    if (free_.size() >= std::max(high_water_, wanted_frames_)) {
      fruitless = 0;
      wanted_frames_ = 0;  // waiters have been woken; those that need more ask again
      co_await clean_wanted_.Wait();
      continue;
    }
    if (EvictSome()) {
      fruitless = 0;
      if (slice.Spend(kEvictionUnits)) co_await Yield(reactor_);
    } else if (++fruitless * 64 > 4 * frames_.size()) {
      // Every page was refused. Wait for a write to end, or for pins to be released, instead of
      // spinning.
      fruitless = 0;
      if (writes_in_flight_ > 0) {
        co_await write_done_.Wait();
      } else {
        co_await Sleep(reactor_, kMillisecond);
      }
    } else {
      co_await Yield(reactor_);
    }
  }
}

// -- the map from extents to frames ---------------------------------------------------------------

size_t BufferPool::Bucket(const PageOwner* owner, Extent location) const {
  return Fingerprint(owner, location) >> 7 & (map_.size() - 1);
}

void BufferPool::MapInsert(Frame* frame) {
  CHECK(!frame->in_map && !frame->disk.location.empty());
  FrameId& bucket = map_[Bucket(frame->owner, frame->disk.location)];
  frame->map_next = bucket;
  bucket = frame->id;
  frame->in_map = true;
}

// For a page or value written to an extent that had been freed before. A reader of a snapshot that
// has since been dropped may have loaded, or may still be reading, the old content of the extent.
void BufferPool::MapReplace(Frame* frame) {
  while (Frame* old = LookupAny(frame->owner, frame->disk.location)) {
    CHECK(!old->dirty && !old->attached && old->frame_children == 0)
        << "B2: page " << frame->page_id << " was written over page " << old->page_id << ", which is in use";
    Drop(old);
  }
  MapInsert(frame);
}

void BufferPool::MapErase(Frame* frame) {
  CHECK(frame->in_map);
  FrameId* at = &map_[Bucket(frame->owner, frame->disk.location)];
  while (*at != frame->id) at = &frames_[*at].map_next;
  *at = frame->map_next;
  frame->map_next = kNoFrame;
  frame->in_map = false;
}

Frame* BufferPool::LookupAny(PageOwner* owner, Extent location) {
  for (FrameId id = map_[Bucket(owner, location)]; id != kNoFrame; id = frames_[id].map_next) {
    Frame& frame = frames_[id];
    if (frame.disk.location == location && frame.owner == owner) return &frame;
  }
  return nullptr;
}

Frame* BufferPool::Lookup(PageOwner* owner, Extent location) {
  Frame* frame = LookupAny(owner, location);
  return frame && frame->state == Frame::State::kResident ? frame : nullptr;
}

void BufferPool::DropOwned(Frame* frame) {
  CHECK(frame->pins == 0 && !frame->writing && frame->state == Frame::State::kResident)
      << "frame " << frame->id << " of " << frame->owner->store().file().path() << " is in use";
  if (frame->in_map) MapErase(frame);
  if (frame->dirty) --stats_.dirty_pages;
  frame->frame_children = 0;
  frame->dirty_list = 0xff;
  FreeNow(frame);
}

void BufferPool::DropAll(PageOwner* owner) {
  for (Frame& frame : frames_) {
    if (frame.owner == owner) DropOwned(&frame);
  }
}

Task<void> BufferPool::DropAllInTurns(PageOwner* owner) {
  TurnSlice slice(turn_);
  for (Frame& frame : frames_) {
    const bool owned = frame.owner == owner;
    if (owned) DropOwned(&frame);
    if (slice.Spend(owned ? kUnitsPerFreed : 1)) co_await Yield(reactor_);
  }
}

}  // namespace pando
