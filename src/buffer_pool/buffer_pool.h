// BufferPool: the page memory of one reactor, shared by its partitions.
//
// A fixed number of page-sized frames in one registered arena; O_DIRECT reads into them; write-back of dirty pages to
// new places; eviction by S3-FIFO (Yang et al., SOSP'23): a small probationary FIFO, a main FIFO with second chances,
// and a ghost table, so that a scan passes through the small queue and leaves the main one alone. Inner pages go
// straight to the main queue.
//
// Threads: one reactor. Frame* stay valid for the pool's life, but what a frame holds may change at any suspension:
// hold a PagePin, or descend again.
//
// Invariants
//   B1  A frame is evicted only when clean, unpinned, not being written, and without children held as frames.
//   B2  A dirty page is never written over an extent in use: the owner allocates a new one for every write.
//   B3  A write counts only if the page did not change while it was in flight; otherwise its extent is given back.
//   B4  Memory is what the constructor took: frames, descriptors and write buffers; nothing grows.
//   B5  A page that fails its checksum is never returned.
//   B6  At most one frame is found under a place: what is written there takes it from what was read there before.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/buffer_pool/frame.h"
#include "src/buffer_pool/page.h"
#include "src/io/file.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/turn_budget.h"

namespace pando {

// A partition's tree, as the pool sees it.
class PageOwner {
 public:
  virtual File& file() = 0;
  virtual const Uuid& uuid() const = 0;
  // Blocks for a page about to be written, growing the file when it must. kDiskFull.
  virtual Task<Result<Extent>> AllocateForWrite(uint32_t blocks) = 0;
  // An extent from AllocateForWrite whose write was void (B3) or failed.
  virtual void DiscardExtent(Extent extent) = 0;
  // Turns `page`, a copy of the page of `frame`, into what is stored: children as disk references. Fills in the
  // aggregates of `ref`. False: not now, a child is not on disk (one was changed while the write waited for its turn).
  virtual bool PrepareForDisk(const Frame& frame, char* page, ChildRef* ref) = 0;
  // A write of `frame` ended. `valid`: frame.disk is now its form on the device, and it is clean. Else it is as dirty
  // as before (or doomed).
  virtual void OnWriteEnded(Frame& frame, bool valid) = 0;
  // `frame` (attached, clean) is about to leave memory: put its disk reference into its parent.
  virtual void OnEvict(Frame& frame) = 0;
  // Checks the structure of a page just read, whose checksum is right: every offset inside the page.
  virtual Status ValidatePage(const char* page, uint32_t page_bytes) = 0;
  // A write failed for good. (Failed reads and damage are told to who asked.)
  virtual void OnIoError(const Status& status) = 0;

 protected:
  ~PageOwner() = default;
};

// Keeps a frame's page in memory and its frame in place. Move-only; only the pool makes them.
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
  uint64_t memory_bytes = 64u << 20;  // everything of B4
  uint32_t write_buffers = 64;        // = writes in flight at most
  Compression compression = Compression::kNone;
};

struct BufferPoolStats {
  uint64_t pages = 0, free_pages = 0, dirty_pages = 0;
  uint64_t uses_total = 0, loads_total = 0, load_waits_total = 0, failed_loads_total = 0, evictions_total = 0,
           writes_total = 0, void_writes_total = 0;
  uint64_t read_bytes_total = 0, written_bytes_total = 0, ghost_hits_total = 0;
};

class BufferPool {
 public:
  // Fewer frames than this cannot promise EnsureFree what the tree needs.
  static constexpr size_t kMinFrames = 256;
  static uint64_t MinMemoryBytes(uint32_t page_bytes, uint32_t write_buffers);

  BufferPool(Reactor& reactor, BufferPoolOptions options);  // with at least MinMemoryBytes
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  void Start();       // the background cleaner
  Task<void> Stop();  // drains it and all writes

  uint32_t page_bytes() const { return page_bytes_; }
  uint32_t frame_count() const { return static_cast<uint32_t>(frames_.size()); }
  char* data(const Frame& frame) const { return arena_ + size_t{frame.id} * page_bytes_; }
  char* data(FrameId id) const { return arena_ + size_t{id} * page_bytes_; }
  Frame& frame(FrameId id) { return frames_[id]; }
  Reactor& reactor() { return reactor_; }
  // Shared by all loops over pages and records of this reactor.
  TurnBudget& turn() { return turn_; }

  // -- frames
  size_t free_frames() const { return free_.size(); }
  // A frame for a new page. EnsureFree must have promised it. Dirty, resident, unattached.
  Frame* NewPage(PageOwner* owner, uint8_t level);
  // Suspends until `frames` are free (at most frame_count()/2). For writers: they apply without suspending after it.
  Task<void> EnsureFree(size_t frames);
  // Gives a frame back: at once, or when its pins and its write are done (then it is `doomed`).
  // With `discard_extent`, its extent goes back to the owner once no write to it can be in flight.
  void Drop(Frame* frame, bool discard_extent = false);
  PagePin Pin(Frame* frame) { return PagePin(this, frame); }
  size_t pinned_frames() const { return pinned_frames_; }
  // Held by the one that gathers more than a few pins and waits for frames meanwhile; two could wait for each other.
  Semaphore& gather_turn() { return gather_turn_; }
  void Touch(Frame* frame);  // a use, for eviction

  // Forgets everything of an owner that is being closed; none of it may be pinned or under I/O.
  void DropAll(PageOwner* owner);

  // -- loading
  // The frame that holds the page stored at `location`, clean, or null. Does not touch.
  Frame* Lookup(PageOwner* owner, Extent location);
  // The same, also when its read is still in flight.
  Frame* LookupAny(PageOwner* owner, Extent location);
  // Reads and verifies the page `ref` names; several callers share one read. kCorruption names file and offset.
  // kAborted: there is no room, or a read that was shared failed. Then WaitForRoom, without pins, and descend again:
  // by then `ref` may name nothing, or something else.
  Task<Result<PagePin>> Load(PageOwner* owner, ChildRef ref, uint8_t level);
  // Suspends until a load of `frames` frames has room; whoever waits here should hold no pins, or all may wait for
  // ever.
  Task<void> WaitForRoom(size_t frames);
  // Whether a load has room; evicts what it may to make it so.
  bool MakeRoom(size_t frames);

  // -- overflow values: one extent, a chain of frames. kAborted from LoadOverflow: as of Load, or the value was
  // superseded while it was read; look the record up again.
  // A new value; `location` is its place. EnsureFree(FramesFor(bytes)) must have promised the frames. Dirty.
  Frame* NewOverflow(PageOwner* owner, Extent location, std::string_view value, Generation birth);
  Task<Result<PagePin>> LoadOverflow(PageOwner* owner, Extent location, uint64_t checksum, uint32_t value_bytes);
  void CopyOverflow(const Frame& first, std::string* out) const;
  uint32_t FramesFor(uint32_t value_bytes) const { return (value_bytes + page_bytes_ - 1) / page_bytes_; }

  // -- writing
  void MarkDirty(Frame* frame);  // clean -> dirty; leaves the map
  // Writes a dirty page or value; returns once it is on the device (not flushed). The frame may have changed
  // meanwhile (B3): then it is still dirty. Does nothing when it is clean or being written.
  Task<Status> WriteBack(Frame* frame);
  // Suspends until no write of this owner is in flight.
  Task<void> DrainWrites(PageOwner* owner);

  BufferPoolStats stats() const;

 private:
  friend class PagePin;
  // Frames that readers leave to writers, so that applying a committed record never waits for a read.
  static constexpr size_t kWriterReserve = 32;
  struct Fifo {
    FrameId head = kNoFrame, tail = kNoFrame;
    size_t frames = 0;  // with the further pieces of values
  };

  Frame* TakeFree();
  void WantFree(size_t frames);
  void FreeNow(Frame* frame);
  void Unpinned(Frame* frame);
  void FinishDoomed(Frame* frame);
  bool Evictable(const Frame& frame) const;
  void Evict(Frame* frame);
  // One step of S3-FIFO; true when a frame was freed. Starts write-backs of dirty victims within their bound.
  bool EvictStep();
  bool EvictSome();  // steps until one frame is freed or a bounded number of victims was refused
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
  Result<PagePin> FailLoad(PagePin pin, Status status);
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
  const Compression compression_;
  char* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  uint64_t region_bytes_ = 0;  // of the arena, as registered with the kernel
  std::vector<Frame> frames_;
  std::vector<FrameId> free_;
  std::vector<FrameId> map_;  // hash buckets
  char* write_area_ = nullptr;
  std::vector<char*> write_buffers_;
  std::vector<char> scratch_;
  int registered_base_ = kNoBuffer;

  Fifo small_, main_;
  size_t main_refused_ = 0;       // victims from the main queue since the last that could go
  std::vector<uint32_t> ghosts_;  // direct-mapped fingerprints; 0 = none
  size_t low_water_ = 0, high_water_ = 0;
  size_t wanted_frames_ = 0;  // the most that a waiter needs
  size_t pinned_frames_ = 0;
  Semaphore gather_turn_;

  WaitQueue load_done_;
  WaitQueue load_frame_freed_;   // readers that wait for a frame
  WaitQueue write_frame_freed_;  // writers in EnsureFree: served before readers
  WaitQueue buffer_freed_;
  WaitQueue write_done_;
  WaitQueue clean_wanted_;
  size_t writes_in_flight_ = 0;
  size_t evicting_writes_ = 0;
  bool stopping_ = false;
  TaskGroup tasks_;
  BufferPoolStats stats_;
};

inline PagePin::PagePin(BufferPool* pool, Frame* frame) : pool_(pool), frame_(frame) {
  if (++frame->pins == 1) ++pool->pinned_frames_;
}

inline void PagePin::Release() {
  if (!frame_) return;
  Frame* frame = std::exchange(frame_, nullptr);
  if (--frame->pins > 0) return;
  --pool_->pinned_frames_;
  pool_->Unpinned(frame);
}

}  // namespace pando
