// BufferPool: the page memory of one reactor, shared by its partitions.
//
// A fixed number of page-sized frames in one registered arena. Pages are read into them with
// O_DIRECT. Dirty pages are written to new extents, never over old ones. Eviction uses S3-FIFO
// (Yang et al., SOSP'23): a small probationary FIFO, a main FIFO with second chances, and a ghost
// table. A scan therefore passes through the small queue and leaves the main queue alone. Inner
// pages go straight to the main queue.
//
// Threads: one reactor. A Frame* stays valid for the life of the pool, but the content of a frame
// may change at any suspension: hold a PagePin, or descend again.
//
// Invariants
//   B1  A frame is evicted only when it is clean, unpinned, not being written, and has no children
//       attached as frames.
//   B2  A dirty page is never written over an extent in use. The owner allocates a new extent for
//       every write.
//   B3  A write is valid only if the page did not change while it was in flight. Otherwise its
//       extent is given back.
//   B4  The constructor takes all memory: frames, descriptors and write buffers. Nothing grows.
//   B5  A page that fails its checksum is never returned.
//   B6  At most one frame is found under an extent. A page written there replaces any frame that
//       was read from there before.
//   B7  Nothing is written to a store that is condemned. Its dirty frames stay until its owner drops
//       them, and whoever waits for frames in order to change its pages gets the error.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/buffer_pool/frame.h"
#include "src/buffer_pool/page.h"
#include "src/buffer_pool/page_store.h"
#include "src/io/file.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/turn_budget.h"

namespace pando {

// The owner of pages: the tree of a partition, as the pool sees it.
class PageOwner {
 public:
  explicit PageOwner(PageStore& store) : store_(store) {}
  PageOwner(const PageOwner&) = delete;
  PageOwner& operator=(const PageOwner&) = delete;

  // Where its pages are stored. An extent whose write was void (B3) or failed goes back there with
  // FreeNow.
  PageStore& store() const { return store_; }
  // Turns `page`, a copy of the page of `frame`, into its stored form, in which children are disk
  // references. Fills in the aggregates of `ref`. Returns false when a child is not on disk: a
  // child was changed while the write waited to start.
  virtual bool PrepareForDisk(const Frame& frame, char* page, ChildRef* ref) = 0;
  // Fills in where some siblings of `frame` are stored, the closest ones first, and returns their number. Where its
  // image goes depends on them (PageStore::AllocateNear).
  virtual size_t NeighborsOf(const Frame& frame, std::span<Extent> neighbors) {
    (void)frame, (void)neighbors;
    return 0;
  }
  // A write of `frame` has ended. `valid`: frame.disk now describes the page on disk and the frame
  // is clean. Otherwise the frame is as dirty as before, or doomed.
  virtual void OnWriteEnded(Frame& frame, bool valid) = 0;
  // `frame` (attached, clean) is about to leave memory. Store its disk reference in its parent.
  virtual void OnEvict(Frame& frame) = 0;
  // Checks the structure of a page just read whose checksum is correct: every offset must lie
  // inside the page.
  virtual Status ValidatePage(const char* page, uint32_t usable_bytes) = 0;

  size_t writes_in_flight = 0;  // of its frames; only the pool uses it

 protected:
  ~PageOwner() = default;

 private:
  PageStore& store_;
};

// Keeps the page of a frame in memory and in that frame. Move-only. Only the pool creates pins.
class PagePin {
 public:
  PagePin() = default;
  PagePin(PagePin&& other) noexcept : pool_(other.pool_), frame_(std::exchange(other.frame_, nullptr)) {}
  PagePin& operator=(PagePin&& other) noexcept {
    if (this != &other) {
      Release();
      pool_ = other.pool_;
      frame_ = std::exchange(other.frame_, nullptr);
    }
    return *this;
  }
  ~PagePin() { Release(); }
  void Release();
  Frame* frame() const { return frame_; }
  explicit operator bool() const { return frame_ != nullptr; }

 private:
  friend class BufferPool;
  PagePin(class BufferPool* pool, Frame* frame);
  class BufferPool* pool_ = nullptr;
  Frame* frame_ = nullptr;
};

struct BufferPoolOptions {
  uint32_t page_bytes = kDefaultPageBytes;
  uint32_t seal_bytes = 0;            // left free at the end of every extent (page.h)
  uint64_t memory_bytes = 64u << 20;  // covers everything listed in B4
  uint32_t write_buffers = 64;        // also the most page writes in flight
  Compression compression = Compression::kNone;
};

// How far ahead a scan may read. All scans of a pool share a tenth of its frames, which is the size of the small queue,
// so that it keeps what they have read ahead until they use it.
class ReadAheadClaim {
 public:
  explicit ReadAheadClaim(class BufferPool* pool) : pool_(*pool) {}
  ReadAheadClaim(const ReadAheadClaim&) = delete;
  ReadAheadClaim& operator=(const ReadAheadClaim&) = delete;
  ~ReadAheadClaim() { Resize(0); }
  // Claims up to `frames` frames in place of those that it has, and returns how many it got.
  size_t Resize(size_t frames);

 private:
  class BufferPool& pool_;
  size_t frames_ = 0;
};

struct BufferPoolStats {
  uint64_t pages = 0, free_pages = 0, dirty_pages = 0;
  uint64_t uses_total = 0, loads_total = 0, load_waits_total = 0, failed_loads_total = 0, evictions_total = 0,
           writes_total = 0, void_writes_total = 0;
  uint64_t read_bytes_total = 0, written_bytes_total = 0, ghost_hits_total = 0;
  uint64_t ahead_pages_total = 0, ahead_reads_total = 0;  // of LoadAhead: pages, and the reads that fetched them
  uint64_t damaged_reads_total = 0;                       // of pages and values that could not be read, or fail a check
};

class BufferPool {
 public:
  // With fewer frames than this, EnsureFree cannot promise what the tree needs.
  static constexpr size_t kMinFrames = 256;
  static uint64_t MinMemoryBytes(uint32_t page_bytes, uint32_t write_buffers);
  static uint64_t FrameBytes(uint32_t page_bytes);  // of memory, with what describes it

  BufferPool(Reactor& reactor, BufferPoolOptions options);  // memory_bytes >= MinMemoryBytes
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  void Start();       // starts the background cleaner
  Task<void> Stop();  // stops the cleaner and waits for all writes
  // The disk has failed, so no page that is dirty will become clean any more. Nothing else is
  // written, and whoever waits for frames gets this error.
  void Fail(const Status& status);
  // B7: call when a store was condemned, so that those who wait for frames look again.
  void WakeWaiters();

  uint32_t page_bytes() const { return page_bytes_; }  // of a frame
  // Of a page or of the extent of a value, without the room for a seal.
  uint32_t usable_bytes() const { return usable_bytes_; }
  uint64_t BlocksFor(uint64_t value_bytes) const { return BlocksForValue(value_bytes, page_bytes_ - usable_bytes_); }
  uint32_t frame_count() const { return static_cast<uint32_t>(frames_.size()); }
  // Reads nothing of the frame, which may not be in the processor's cache.
  char* data(const Frame& frame) const { return data(static_cast<FrameId>(&frame - frames_.data())); }
  char* data(FrameId id) const { return arena_ + size_t{id} * page_bytes_; }
  Frame& frame(FrameId id) { return frames_[id]; }
  Reactor& reactor() { return reactor_; }
  // The turn budget shared by all loops over pages and records of this reactor.
  TurnBudget& turn() { return turn_; }

  // -- frames
  size_t free_frames() const { return free_.size(); }
  // A frame for a new page: dirty, resident, unattached. EnsureFree must have promised the frame.
  Frame* NewPage(PageOwner* owner, uint8_t level);
  // Suspends until `frames` frames are free (at most frame_count()/2). For writers: the promise
  // holds until their next suspension. An error means that the pool has failed, or that the store of
  // `owner` is condemned; there is no promise.
  Task<Status> EnsureFree(size_t frames, const PageOwner* owner = nullptr);
  // Frees a frame: at once, or when its pins are released and its write has ended (until then it is
  // `doomed`). With `discard_extent`, its extent goes back to the owner once no write to it can be
  // in flight.
  void Drop(Frame* frame, bool discard_extent = false);
  PagePin Pin(Frame* frame) { return PagePin(this, frame); }
  // Without those that are read ahead.
  size_t pinned_frames() const { return pinned_frames_ - reading_ahead_frames_; }
  // Held by a task that gathers more than a few pins and waits for frames meanwhile. Two such tasks
  // could deadlock.
  Semaphore& gather_turn() { return gather_turn_; }
  void Touch(Frame* frame);  // records a use, for eviction

  // Frees all frames of an owner that is being closed. None of them may be pinned or under I/O. The pool may
  // have millions of frames: DropAllInTurns looks at them in several turns. Meanwhile it may evict some, as
  // ever, so that OnEvict must not rely on other frames of the owner.
  void DropAll(PageOwner* owner);
  Task<void> DropAllInTurns(PageOwner* owner);

  // -- loading
  // The clean frame that holds the page stored at `location`, or null. Does not count as a use.
  Frame* Lookup(PageOwner* owner, Extent location);
  // The same, but also returns a frame whose read is still in flight.
  Frame* LookupAny(PageOwner* owner, Extent location);
  // Reads and verifies the page that `ref` names. Concurrent callers share one read. kCorruption
  // names the file and the offset. kAborted: there is no room, or the shared read failed. In that
  // case release all pins, call WaitForRoom and descend again: by then, `ref` may name nothing or
  // another page.
  Task<Result<PagePin>> Load(PageOwner* owner, ChildRef ref, uint8_t level);
  // Whether LoadAhead may now begin enough reads to be worth looking for leaves.
  bool MayReadAhead() const {
    const size_t frames_left = frames_.size() / kReadAheadDivisor - reading_ahead_frames_;
    return reads_ahead_ + kFewReads <= kMaxReadsAhead && frames_left >= kFewReads;
  }
  struct StartedReads {
    size_t covered = 0;           // so many of the list, from its front, are in memory or being read
    size_t pages = 0, reads = 0;  // that were started
  };
  // Starts to read leaves that will probably be needed, the first of the list first, in tasks of `tasks`, and does not
  // wait. Those that lie close together on disk are read in one I/O, also if some of them are needed much later.
  // Afterwards no more than `most_pages` of the list are in memory or being read, or a few more if as many were before.
  // Reads no more than the pool has room for, and has no more than kMaxReadsAhead under way, so that others' I/O does
  // not wait behind them. Errors surface when the page is loaded.
  StartedReads LoadAhead(PageOwner* owner, const std::vector<ChildRef>& leaves, size_t most_pages, TaskGroup* tasks);
  // Suspends until a load of `frames` frames has room. The caller should hold no pins here, or all
  // waiters may wait forever. An error means that there is no room, and that the pool has failed or
  // the store of `owner` is condemned.
  Task<Status> WaitForRoom(size_t frames, const PageOwner* owner = nullptr);
  // Returns whether a load has room, after evicting what it can.
  bool MakeRoom(size_t frames);

  // -- overflow values. A value is one extent on disk and a chain of frames in memory.
  // Creates a new, dirty value to be stored at `location`. EnsureFree(FramesFor(bytes)) must have
  // promised the frames.
  Frame* NewOverflow(PageOwner* owner, Extent location, std::string_view value, Generation birth);
  // kAborted: as for Load, or the value was superseded while it was read. Look the record up again.
  Task<Result<PagePin>> LoadOverflow(PageOwner* owner, Extent location, uint64_t checksum, uint32_t value_bytes);
  void CopyOverflow(const Frame& first, std::string* out) const;
  uint32_t FramesFor(uint32_t value_bytes) const {
    return (value_bytes + (page_bytes_ - usable_bytes_) + page_bytes_ - 1) / page_bytes_;
  }

  // -- writing
  void MarkDirty(Frame* frame);  // clean -> dirty; Lookup no longer finds it
  // Writes a dirty page or value. Returns once it is on the device, though not flushed. If the
  // frame changed meanwhile (B3), it is still dirty. Does nothing when the frame is clean or
  // already being written.
  Task<Status> WriteBack(Frame* frame);
  // Suspends until no write of this owner is in flight.
  Task<void> DrainWrites(PageOwner* owner);

  BufferPoolStats stats() const;

 private:
  friend class PagePin;
  friend class ReadAheadClaim;
  // Frames that only writers may use, so that applying a committed record never waits for a read.
  static constexpr size_t kWriterReserve = 32;
  // Reading so many blocks takes about as long as another read (docs/BENCHMARKS.md).
  static constexpr uint32_t kMaxGapBlocks = 2;
  // Claims for reading ahead, and pages that are being read ahead, take at most this part of all frames each.
  static constexpr size_t kReadAheadDivisor = 10;
  static constexpr size_t kMaxReadsAhead = 64, kFewReads = 8;
  struct Fifo {
    FrameId head = kNoFrame, tail = kNoFrame;
    size_t frames = 0;  // including all pieces of overflow values
  };

  Frame* TakeFree();
  void WantFree(size_t frames);
  void FreeNow(Frame* frame);
  void DropOwned(Frame* frame);
  void Unpinned(Frame* frame);
  void FinishDoomed(Frame* frame);
  bool Evictable(const Frame& frame) const;
  void Evict(Frame* frame);
  // One step of S3-FIFO. Returns true when a frame was freed. Starts write-backs of dirty victims,
  // up to a limit.
  bool EvictStep();
  bool EvictSome();  // takes up to 64 steps, until one frees a frame
  Task<void> EvictByWriting(Frame* frame);
  Task<void> Clean();
  uint8_t& HeatOf(Frame& frame) { return frame.overflow ? frame.heat : HeaderOf(data(frame)).heat; }

  uint32_t FramesOf(const Frame& frame) const { return frame.overflow ? FramesFor(frame.value_bytes) : 1; }
  void PushHead(Fifo& fifo, Frame::Queue queue, Frame* frame);
  void Unlink(Frame* frame);
  void Enqueue(Frame* frame, uint64_t fingerprint);
  bool TakeGhost(uint64_t fingerprint);
  void AddGhost(uint64_t fingerprint);
  uint64_t Fingerprint(const PageOwner* owner, Extent location) const;

  void MapInsert(Frame* frame);
  void MapReplace(Frame* frame);
  void MapErase(Frame* frame);
  size_t Bucket(const PageOwner* owner, Extent location) const;

  Frame* StartLoading(PageOwner* owner, const ChildRef& ref);
  Task<Result<PagePin>> JoinLoad(PagePin pin);
  Status FinishLoad(Frame* frame, uint8_t level);
  // `ahead`: nobody has asked for the page yet, so a failure is not counted as damage. The extent may be another page's
  // by now.
  Result<PagePin> EndLoad(PagePin pin, uint8_t level, Status status, bool ahead = false);
  Result<PagePin> FailLoad(PagePin pin, Status status, bool ahead = false);
  Task<void> ReadTogether(std::vector<PagePin> pins);
  void NoteDamage(const Status& status);
  Task<Status> ReadPieces(Frame* first);
  Frame* TakePieces(uint32_t value_bytes);
  uint64_t ChecksumPieces(const Frame& first) const;
  Task<Status> WritePage(Frame* frame);
  Task<Status> WriteOverflow(Frame* frame);
  std::vector<iovec> PieceVectors(const Frame& first);
  Task<Status> WriteImage(Frame* frame, char* image, bool* current);
  void FinishWrite(Frame* frame, Status* status, bool current);
  int BufferIndexOf(const char* memory) const;

  Reactor& reactor_;
  TurnBudget turn_{reactor_};
  const uint32_t page_bytes_;
  const uint32_t usable_bytes_;
  const Compression compression_;
  char* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  uint64_t region_bytes_ = 0;  // size of the pieces of the arena registered with the kernel
  std::vector<Frame> frames_;
  std::vector<FrameId> free_;
  std::vector<FrameId> map_;  // hash buckets
  char* write_area_ = nullptr;
  AlignedBuffer gap_;  // receives the blocks between the pages that are read together
  size_t ahead_claimed_frames_ = 0;
  size_t reads_ahead_ = 0;           // in flight
  size_t reading_ahead_frames_ = 0;  // of LoadAhead, in flight
  std::vector<char*> write_buffers_;
  std::vector<char> scratch_;
  int registered_base_ = kNoBuffer;

  Fifo small_, main_;
  size_t main_refused_ = 0;       // main-queue victims refused since one was last evicted
  std::vector<uint32_t> ghosts_;  // direct-mapped fingerprints; 0 = none
  size_t low_water_ = 0, high_water_ = 0;
  size_t wanted_frames_ = 0;  // the most frames that any waiter needs
  size_t pinned_frames_ = 0;
  Semaphore gather_turn_;

  WaitQueue load_done_;
  WaitQueue load_frame_freed_;   // readers in WaitForRoom that need one frame
  WaitQueue write_frame_freed_;  // writers in EnsureFree, and readers that need many frames
  WaitQueue buffer_freed_;
  WaitQueue write_done_;
  WaitQueue clean_wanted_;
  size_t writes_in_flight_ = 0;
  size_t evicting_writes_ = 0;
  bool stopping_ = false;
  Status failure_;
  Nanos next_damage_line_ns_ = 0;  // when a damaged read may be logged again
  uint64_t damage_said_ = 0;       // damaged_reads_total at the last such line
  TaskGroup tasks_;
  BufferPoolStats stats_;
};

inline PagePin::PagePin(BufferPool* pool, Frame* frame) : pool_(pool), frame_(frame) {
  if (++frame->pins == 1) ++pool->pinned_frames_;
}

inline size_t ReadAheadClaim::Resize(size_t frames) {
  pool_.ahead_claimed_frames_ -= frames_;
  const size_t most = pool_.frames_.size() / BufferPool::kReadAheadDivisor;
  frames_ = std::min(frames, most - std::min(most, pool_.ahead_claimed_frames_));
  pool_.ahead_claimed_frames_ += frames_;
  return frames_;
}

inline void PagePin::Release() {
  if (!frame_) return;
  Frame* frame = std::exchange(frame_, nullptr);
  if (--frame->pins > 0) return;
  --pool_->pinned_frames_;
  pool_->Unpinned(frame);
}

}  // namespace pando
