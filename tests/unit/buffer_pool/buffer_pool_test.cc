// The buffer pool alone: what stays in memory, what is read from disk, which writes are valid.
#include "src/buffer_pool/buffer_pool.h"

#include <gtest/gtest.h>

#include <memory>

#include "src/base/hash.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

constexpr uint32_t kPage = 4096;
constexpr uint32_t kFrames = BufferPool::kMinFrames;
constexpr uint32_t kReadable = kFrames - 32;  // the rest is reserved for writers
constexpr Uuid kUuid{1, 2};
const char* const kPath = "/pages";

// An owner whose pages are leaves without records, and its store. Page i is stored in block i.
class Owner final : public PageStore, public PageOwner {
 public:
  Owner() : PageOwner(static_cast<PageStore&>(*this)) {}
  // -- PageStore
  File& file() override { return file_; }
  const Uuid& uuid() const override { return kUuid; }
  Task<Result<Extent>> AllocateForWrite(uint32_t blocks) override {
    allocated.push_back(reuse.empty() ? Extent::Of(next_block_, blocks) : reuse);
    next_block_ += blocks;
    co_return allocated.back();
  }
  void FreeNow(Extent extent) override { discarded.push_back(extent); }
  void AdoptExtent(Extent, Generation) override {}
  void OrphanExtent(Extent) override {}
  void FreeLater(DeadExtent) override {}
  void OnIoError(const Status& status) override { io_error = status; }
  // -- PageOwner
  bool PrepareForDisk(const Frame&, char*, ChildRef* ref) override {
    ref->count = 17;
    return ready;
  }
  void OnWriteEnded(Frame&, bool valid) override { valid ? ++valid_writes : ++void_writes; }
  void OnEvict(Frame&) override {}
  Status ValidatePage(const char*, uint32_t) override { return validity; }

  File file_;
  std::vector<Extent> allocated, discarded;
  Extent reuse;  // the next extent to allocate, instead of a new one
  bool ready = true;
  int valid_writes = 0, void_writes = 0;
  Status validity, io_error;

 private:
  uint64_t next_block_ = 100'000;
};

std::string Image(uint64_t i, uint8_t level) {
  std::string page(kPage, '\0'), image(kPage, '\0'), scratch(kPage, '\0');
  PageHeader& h = HeaderOf(page.data());
  h.magic = kPageMagic;
  h.format = kPageFormat;
  h.level = level;
  h.heap_begin = kPage;
  h.page_id = i;
  h.birth = 3;
  EXPECT_EQ(EncodePageImage(page.data(), kPage, Compression::kNone, image.data(), scratch.data()), 1u);
  return image;
}

class BufferPoolTest : public testing::Test {
 public:
  static constexpr uint64_t kPages = 4000;

  BufferPoolTest() {
    std::string bytes;
    for (uint64_t i = 0; i < kPages; ++i) {
      bytes += Image(i, LevelOf(i));
      ChildRef ref;
      ref.location = Extent::Of(i, 1);
      ref.birth = 3;
      ref.checksum = Hash64(std::string_view(bytes).substr(i * kPage), ChecksumSeed(kUuid, i));
      refs_.push_back(ref);
    }
    machine_->disk().WriteAll(kPath, bytes);
    reactor_ = machine_->Boot();
    pool_ = std::make_unique<BufferPool>(
        *reactor_, BufferPoolOptions{.page_bytes = kPage, .memory_bytes = BufferPool::MinMemoryBytes(kPage, 64)});
    EXPECT_EQ(pool_->frame_count(), kFrames);
    Run(OpenFile(this));
    pool_->Start();
  }
  ~BufferPoolTest() override {
    pool_->DropAll(&owner_);
    Run(CloseAll(this));
    pool_.reset();
  }

  static uint8_t LevelOf(uint64_t i) { return i % 1000 == 999 ? 1 : 0; }
  void Run(Task<void> task) { EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task))); }

  static Task<void> OpenFile(BufferPoolTest* t) {
    t->owner_.file_ = *co_await File::Open(*t->reactor_, kPath, File::Mode::kReadWrite, /*direct=*/true);
  }
  static Task<void> CloseAll(BufferPoolTest* t) {
    co_await t->pool_->Stop();
    EXPECT_TRUE((co_await t->owner_.file_.Close()).ok());
  }
  static Task<void> LoadTask(BufferPoolTest* t, uint64_t first, uint64_t last, int touches) {
    for (uint64_t i = first; i < last; ++i) {
      Result<PagePin> pin = Error(Code::kAborted, "not loaded yet");
      while (pin.code() == Code::kAborted) {
        EXPECT_TRUE((co_await t->pool_->WaitForRoom(1)).ok());
        pin = co_await t->pool_->Load(&t->owner_, t->refs_[i], LevelOf(i));
      }
      EXPECT_TRUE(pin.ok()) << pin.status().ToString();
      if (!pin.ok()) co_return;
      EXPECT_EQ(HeaderOf(t->pool_->data(*pin->frame())).page_id, i);
      for (int n = 0; n < touches; ++n) t->pool_->Touch(pin->frame());
    }
  }
  // Loads pages [first, last) and uses each `touches` times. A descent uses a page once after
  // loading it.
  void Load(uint64_t first, uint64_t last, int touches = 1) { Run(LoadTask(this, first, last, touches)); }
  Status LoadOne(ChildRef ref, uint8_t level = 0) {
    struct Body {
      static Task<Status> Load(BufferPoolTest* t, ChildRef ref, uint8_t level) {
        Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, ref, level);
        co_return pin.ok() ? Status() : pin.TakeStatus();
      }
    };
    return *kernel_.RunTask(*reactor_, Body::Load(this, ref, level));
  }

  uint64_t Resident(uint64_t first, uint64_t last) {
    uint64_t n = 0;
    for (uint64_t i = first; i < last; ++i) n += pool_->Lookup(&owner_, refs_[i].location) != nullptr;
    return n;
  }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Owner owner_;
  std::unique_ptr<BufferPool> pool_;
  std::vector<ChildRef> refs_;
};

// -- eviction

TEST_F(BufferPoolTest, AScanLeavesTheHotSetInMemory) {
  Load(0, 100, 2);
  Load(1000, 3900);
  EXPECT_EQ(Resident(0, 100), 100u);
  EXPECT_EQ(pool_->stats().loads_total, 3000u);
}

TEST_F(BufferPoolTest, APageUsedTwiceSurvivesOneUsedOnceDoesNot) {
  Load(0, 10, 1);
  Load(10, 20, 2);
  Load(1000, 1000 + kReadable);
  EXPECT_EQ(Resident(0, 10), 0u);
  EXPECT_EQ(Resident(10, 20), 10u);
}

TEST_F(BufferPoolTest, APageThatComesBackSoonGoesToTheMainQueue) {
  Load(0, 40);
  for (uint64_t i = 1000; Resident(0, 40) > 0; ++i) Load(i, i + 1);
  EXPECT_EQ(pool_->stats().ghost_hits_total, 0u);
  Load(0, 40);
  // The ghost table has one slot per frame. When two ghosts share a slot, it keeps the newer one.
  const uint64_t hits = pool_->stats().ghost_hits_total;
  EXPECT_GE(hits, 30u);
  std::vector<uint64_t> readmitted;
  for (uint64_t i = 0; i < 40; ++i) {
    if (pool_->Lookup(&owner_, refs_[i].location)->queue == Frame::Queue::kMain) readmitted.push_back(i);
  }
  EXPECT_EQ(readmitted.size(), hits);
  Load(2001, 2001 + 3 * kReadable);
  for (uint64_t i : readmitted) EXPECT_EQ(Resident(i, i + 1), 1u) << i;
  EXPECT_EQ(Resident(0, 40), hits);
}

TEST_F(BufferPoolTest, WhatIsNoLongerUsedLeavesTheMainQueue) {
  Load(0, 120, 2);
  Load(200, 320, 2);
  Load(400, 520, 2);
  EXPECT_GE(Resident(400, 520), 110u);
  EXPECT_LE(Resident(0, 120), 10u);
}

TEST_F(BufferPoolTest, InnerPagesSurviveAScan) {
  Load(999, 1000, 0);
  EXPECT_EQ(pool_->Lookup(&owner_, refs_[999].location)->queue, Frame::Queue::kMain);
  Load(1000, 1900);
  EXPECT_EQ(Resident(999, 1000), 1u);
}

TEST_F(BufferPoolTest, PinnedPagesStay) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t) {
      std::vector<PagePin> pins;
      for (uint64_t i = 0; i < 30; ++i) {
        Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, t->refs_[i], 0);
        pins.push_back(*std::move(pin));
      }
      co_await LoadTask(t, 1000, 1000 + 4 * kReadable, 1);
      EXPECT_EQ(t->Resident(0, 30), 30u);
      for (uint64_t i = 0; i < 30; ++i) EXPECT_EQ(HeaderOf(t->pool_->data(*pins[i].frame())).page_id, i);
    }
  };
  Run(Body::Run(this));
  EXPECT_EQ(pool_->pinned_frames(), 0u);
}

// B4: when every frame is pinned, the pool refuses a read instead of taking more memory.
TEST_F(BufferPoolTest, EverythingPinnedIsNoRoomRatherThanADeadlock) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t) {
      std::vector<PagePin> pins;
      for (uint64_t i = 0; i < kReadable; ++i) {
        Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, t->refs_[i], LevelOf(i));
        pins.push_back(*std::move(pin));
      }
      Result<PagePin> refused = co_await t->pool_->Load(&t->owner_, t->refs_[500], 0);
      EXPECT_EQ(refused.code(), Code::kAborted);
      EXPECT_EQ(t->pool_->free_frames(), kFrames - kReadable);
    }
  };
  Run(Body::Run(this));
}

// As many readers of one page as there are frames, while nothing can be evicted. Only one of them
// needs a frame. The others find the page when they retry, and must not keep a wake-up that another
// waiter needs.
TEST_F(BufferPoolTest, EveryReaderOfOnePageIsWokenWhenThereIsRoomAgain) {
  struct Body {
    static Task<void> Read(BufferPoolTest* t, int* done) {
      for (;;) {  // like a descent
        if (t->pool_->Lookup(&t->owner_, t->refs_[500].location)) break;
        Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, t->refs_[500], 0);
        if (pin.ok()) continue;
        EXPECT_EQ(pin.code(), Code::kAborted) << pin.status().ToString();
        EXPECT_TRUE((co_await t->pool_->WaitForRoom(1)).ok());
      }
      ++*done;
    }
    static Task<void> Run(BufferPoolTest* t, int readers, int* done) {
      std::vector<PagePin> pins;
      for (uint64_t i = 0; i < kReadable; ++i) {
        Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, t->refs_[i], LevelOf(i));
        pins.push_back(*std::move(pin));
      }
      TaskGroup group;
      for (int i = 0; i < readers; ++i) group.Spawn(Read(t, done));
      co_await Sleep(*t->reactor_, kMillisecond);
      EXPECT_EQ(*done, 0) << "no reader has room yet";
      pins.resize(kReadable / 2);
      co_await Sleep(*t->reactor_, kSecond);
      EXPECT_EQ(*done, readers) << t->pool_->free_frames() << " frames are free";
      // Wakes the readers whose wake-up was lost, so that a failing test ends.
      for (int i = 0; *done < readers && i < readers; ++i) co_await LoadTask(t, 1000 + i, 1001 + i, 0);
      co_await group.Drain();
    }
  };
  int done = 0;
  Run(Body::Run(this, 100, &done));
  EXPECT_EQ(pool_->stats().failed_loads_total, 0u);
}

// -- loading

TEST_F(BufferPoolTest, SeveralReadersShareOneRead) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t) {
      TaskGroup group;
      for (int i = 0; i < 10; ++i) group.Spawn(LoadTask(t, 7, 8, 1));
      co_await group.Drain();
    }
  };
  Run(Body::Run(this));
  EXPECT_EQ(pool_->stats().loads_total, 1u);
}

TEST_F(BufferPoolTest, PagesThatLieTogetherAreReadTogether) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t, std::vector<uint64_t> pages) {
      TaskGroup group;
      std::vector<ChildRef> refs;
      for (const uint64_t i : pages) refs.push_back(t->refs_[i]);
      t->pool_->LoadAhead(&t->owner_, refs, /*most_pages=*/100, &group);
      for (const uint64_t i : pages) {
        const Frame* frame = t->pool_->LookupAny(&t->owner_, t->refs_[i].location);
        EXPECT_NE(frame, nullptr) << "page " << i << " is neither in memory nor being read";
      }
      co_await group.Drain();
    }
  };
  machine_->disk().FlipBit(kPath, 13 * kPage + 4000);
  // Page 18 follows after a gap of 2 blocks, page 22 after one of 3.
  Run(Body::Run(this, {15, 10, 12, 13, 11, 18, 22}));
  EXPECT_EQ(pool_->stats().ahead_reads_total, 2u);
  EXPECT_EQ(pool_->stats().ahead_pages_total, 7u);
  EXPECT_EQ(Resident(0, 100), 6u) << "all but the damaged page";
  const uint64_t loads = pool_->stats().loads_total;
  for (const uint64_t i : {10, 11, 12, 15, 18, 22}) Load(i, i + 1);
  EXPECT_EQ(pool_->stats().loads_total, loads);
  EXPECT_EQ(LoadOne(refs_[13]).code(), Code::kCorruption);
  Run(Body::Run(this, {10, 11, 12}));
  EXPECT_EQ(pool_->stats().loads_total, loads + 1) << "what is in memory is not read again";
}

// A read takes along what lies beside the pages that are needed soon, but no more than it may. What is covered ends
// before the first page that is neither in memory nor being read.
TEST_F(BufferPoolTest, ReadingAheadTellsHowFarItGot) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t, size_t most_pages, BufferPool::StartedReads* started) {
      TaskGroup group;
      // Needed in this order: two near page 100, two near page 200, four more near page 100, one near page 300.
      std::vector<ChildRef> refs;
      for (const uint64_t i : {100, 101, 200, 201, 102, 103, 104, 105, 300}) refs.push_back(t->refs_[i]);
      *started = t->pool_->LoadAhead(&t->owner_, refs, most_pages, &group);
      co_await group.Drain();
    }
  };
  BufferPool::StartedReads started;
  Run(Body::Run(this, 8, &started));  // both groups fit
  EXPECT_EQ(started.pages, 8u);
  EXPECT_EQ(started.reads, 2u);
  EXPECT_EQ(started.covered, 8u) << "all but page 300";
  Run(Body::Run(this, 8, &started));  // as many are in memory, but a few may always be read
  EXPECT_EQ(started.pages, 1u);
  EXPECT_EQ(started.covered, 9u);
}

TEST_F(BufferPoolTest, AGroupThatIsTooLargeIsReadInPart) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t, BufferPool::StartedReads* started) {
      TaskGroup group;
      std::vector<ChildRef> refs = {t->refs_[110]};
      for (uint64_t i = 100; i < 110; ++i) refs.push_back(t->refs_[i]);
      *started = t->pool_->LoadAhead(&t->owner_, refs, /*most_pages=*/8, &group);
      co_await group.Drain();
    }
  };
  BufferPool::StartedReads started;
  Run(Body::Run(this, &started));
  EXPECT_EQ(started.pages, 8u);
  EXPECT_EQ(Resident(110, 111), 1u) << "what is needed first";
  EXPECT_EQ(started.covered, 1u) << "page 100 is neither in memory nor being read";
}

TEST_F(BufferPoolTest, AFailedReadOfSeveralPagesIsNoDamage) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t, std::vector<ChildRef> refs) {
      TaskGroup group;
      t->pool_->LoadAhead(&t->owner_, refs, /*most_pages=*/100, &group);
      co_await group.Drain();
    }
  };
  ChildRef beyond = refs_[kPages - 1];  // past the end of the file, so that the whole read fails
  beyond.location = Extent::Of(kPages, 1);
  Run(Body::Run(this, {refs_[kPages - 2], beyond}));
  EXPECT_EQ(pool_->stats().damaged_reads_total, 0u);
  EXPECT_TRUE(LoadOne(refs_[kPages - 2], LevelOf(kPages - 2)).ok());
}

// The reads in flight, and what scans may claim, are limited.
TEST_F(BufferPoolTest, ReadingAheadTakesAPartOfThePool) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t) {
      TaskGroup group;
      t->pool_->LoadAhead(&t->owner_, std::vector<ChildRef>(t->refs_.begin() + 1, t->refs_.begin() + 900),
                          /*most_pages=*/900, &group);
      co_await group.Drain();
    }
  };
  Run(Body::Run(this));
  EXPECT_GT(pool_->stats().ahead_pages_total, 0u);
  EXPECT_LE(pool_->stats().ahead_pages_total, kFrames / 10);
  ReadAheadClaim one(pool_.get()), two(pool_.get());
  EXPECT_EQ(one.Resize(10), 10u);
  EXPECT_EQ(two.Resize(1000), kFrames / 10 - 10);
  EXPECT_EQ(one.Resize(15), 10u) << "nothing is left";
  two.Resize(0);
  EXPECT_EQ(one.Resize(15), 15u);
}

// B5: a page that fails its checksum is not returned, however often it is read.
TEST_F(BufferPoolTest, DamageIsReportedWithItsPlaceAndNeverReturned) {
  machine_->disk().FlipBit(kPath, 5 * kPage + 4000);
  Status status = LoadOne(refs_[5]);
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_NE(status.message().find("/pages: page at offset 20480"), std::string::npos) << status.ToString();
  EXPECT_EQ(pool_->Lookup(&owner_, refs_[5].location), nullptr);
  EXPECT_EQ(LoadOne(refs_[5]).code(), Code::kCorruption);
  EXPECT_TRUE(LoadOne(refs_[6]).ok());
  machine_->disk().FlipBit(kPath, 5 * kPage + 4000);  // repairs the page
  EXPECT_TRUE(LoadOne(refs_[5]).ok());
}

TEST_F(BufferPoolTest, APageInAnothersPlaceIsRefused) {
  // An intact image of another page of the same file, as a misdirected write leaves it.
  std::string bytes = machine_->disk().ReadAll(kPath);
  bytes.replace(8 * kPage, kPage, bytes.substr(9 * kPage, kPage));
  machine_->disk().WriteAll(kPath, bytes);
  EXPECT_EQ(LoadOne(refs_[8]).code(), Code::kCorruption);
  ChildRef moved = refs_[8];  // even if the reference has the checksum of that image
  moved.checksum = refs_[9].checksum;
  EXPECT_EQ(LoadOne(moved).code(), Code::kCorruption);
}

TEST_F(BufferPoolTest, AnIntactPageOfAnotherLevelOrGenerationIsRefused) {
  EXPECT_EQ(LoadOne(refs_[5], 1).code(), Code::kCorruption);
  ChildRef older = refs_[5];
  older.birth = 2;
  EXPECT_EQ(LoadOne(older).code(), Code::kCorruption);
  owner_.validity = Error(Code::kCorruption, "the owner does not like it");
  Status status = LoadOne(refs_[5]);
  EXPECT_NE(status.message().find("the owner does not like it"), std::string::npos) << status.ToString();
  owner_.validity = Status();
  EXPECT_TRUE(LoadOne(refs_[5]).ok());
}

// The page is intact, so a backup would not help.
TEST_F(BufferPoolTest, APageOfAnUnknownVersionIsNotDamage) {
  for (const bool format : {true, false}) {
    std::string image = Image(5, 0);
    if (format) {
      HeaderOf(image.data()).format = kPageFormat + 1;
    } else {
      HeaderOf(image.data()).compression = static_cast<Compression>(77);
    }
    std::string all = machine_->disk().ReadAll(kPath);
    machine_->disk().WriteAll(kPath, all.replace(5 * kPage, kPage, image));
    ChildRef ref = refs_[5];
    ref.checksum = Hash64(image, ChecksumSeed(kUuid, 5));
    const Status status = LoadOne(ref);
    EXPECT_EQ(status.code(), Code::kVersion) << status.ToString();
    EXPECT_NE(status.message().find("use the version that wrote it"), std::string::npos) << status.ToString();
    EXPECT_EQ(status.message().find("backup"), std::string::npos) << status.ToString();
  }
}

TEST_F(BufferPoolTest, AReferenceToNoPageIsRefused) {
  ChildRef nothing;
  EXPECT_EQ(LoadOne(nothing).code(), Code::kCorruption);
  ChildRef large = refs_[5];
  large.location = Extent::Of(5, 2);
  EXPECT_EQ(LoadOne(large).code(), Code::kCorruption);
  ChildRef behind = refs_[5];
  behind.location = Extent::Of(kPages + 5, 1);
  EXPECT_EQ(LoadOne(behind).code(), Code::kCorruption);
}

TEST_F(BufferPoolTest, AFailedReadIsOneCallersError) {
  machine_->AddFault(
      {.kind = IoOp::Kind::kRead, .path_contains = kPath, .first_byte = 5 * kPage, .last_byte = 6 * kPage - 1});
  Status status = LoadOne(refs_[5]);
  EXPECT_EQ(status.code(), Code::kIoError) << status.ToString();
  EXPECT_NE(status.message().find(kPath), std::string::npos) << status.ToString();
  EXPECT_TRUE(LoadOne(refs_[6]).ok());
  EXPECT_TRUE(LoadOne(refs_[5]).ok());
  EXPECT_EQ(pool_->stats().failed_loads_total, 1u);
}

// -- writing

// Writes a new page. `change` happens while the write is in flight.
Task<void> WriteWhile(BufferPool* pool, Owner* owner, void (*change)(BufferPool*, Frame*), Status* result) {
  EXPECT_TRUE((co_await pool->EnsureFree(1)).ok());
  Frame* frame = pool->NewPage(owner, 0);
  std::string image = Image(77, 0);
  std::memcpy(pool->data(*frame), image.data(), kPage);
  frame->page_id = 77;
  frame->birth = 3;
  struct Body {
    static Task<void> Write(BufferPool* pool, Frame* frame, Status* result) {
      *result = co_await pool->WriteBack(frame);
    }
  };
  TaskGroup writes;
  writes.Spawn(Body::Write(pool, frame, result));
  EXPECT_TRUE(frame->writing);
  if (change) change(pool, frame);
  co_await writes.Drain();
}

// B2: a page is written where its owner allocates space for this write, and is found there.
TEST_F(BufferPoolTest, AWriteGivesThePageItsPlace) {
  Status status;
  Run(WriteWhile(pool_.get(), &owner_, nullptr, &status));
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(owner_.valid_writes, 1);
  ASSERT_EQ(owner_.allocated.size(), 1u);
  Frame* frame = pool_->Lookup(&owner_, owner_.allocated[0]);
  ASSERT_NE(frame, nullptr);
  EXPECT_FALSE(frame->dirty);
  EXPECT_EQ(frame->disk.location, owner_.allocated[0]);
  EXPECT_EQ(frame->disk.birth, 3u);
  EXPECT_EQ(frame->disk.count, 17u);
  EXPECT_EQ(frame->disk.checksum, Hash64(Image(77, 0), ChecksumSeed(kUuid, owner_.allocated[0].block())));
  const ChildRef written = frame->disk;
  pool_->DropAll(&owner_);
  EXPECT_TRUE(LoadOne(written).ok());
}

// B3: a write does not count if its page changed meanwhile, and its extent is given back.
TEST_F(BufferPoolTest, AWriteWhosePageChangedIsVoid) {
  Status status;
  Run(WriteWhile(
      pool_.get(), &owner_, [](BufferPool*, Frame* f) { ++f->modifications; }, &status));
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(owner_.valid_writes, 0);
  EXPECT_EQ(owner_.void_writes, 1);
  EXPECT_EQ(owner_.discarded, owner_.allocated);
  EXPECT_EQ(pool_->stats().void_writes_total, 1u);
  EXPECT_EQ(pool_->stats().dirty_pages, 1u);
}

TEST_F(BufferPoolTest, APageDroppedWhileItIsWrittenGoesAfterTheWrite) {
  Status status;
  Run(WriteWhile(
      pool_.get(), &owner_,
      [](BufferPool* pool, Frame* f) {
        const size_t free = pool->free_frames();
        pool->Drop(f);
        EXPECT_EQ(pool->free_frames(), free) << "freed while the kernel was writing it";
      },
      &status));
  EXPECT_EQ(owner_.valid_writes, 0);
  EXPECT_EQ(owner_.discarded, owner_.allocated);
  EXPECT_EQ(pool_->free_frames(), kFrames);
}

TEST_F(BufferPoolTest, AFailedWriteLeavesThePageDirtyAndIsTold) {
  machine_->AddFault({.kind = IoOp::Kind::kWrite, .path_contains = kPath});
  Status status;
  Run(WriteWhile(pool_.get(), &owner_, nullptr, &status));
  EXPECT_EQ(status.code(), Code::kIoError);
  EXPECT_EQ(owner_.io_error.code(), Code::kIoError);
  EXPECT_EQ(owner_.valid_writes, 0);
  EXPECT_EQ(owner_.discarded, owner_.allocated);
  EXPECT_EQ(pool_->stats().dirty_pages, 1u);
}

// B6: a reader of an old snapshot may have loaded the content of an extent before the extent was
// freed and allocated again.
TEST_F(BufferPoolTest, WhatIsWrittenToAPlaceReplacesWhatWasReadFromIt) {
  Load(5, 6, /*touches=*/3);
  Frame* old = pool_->Lookup(&owner_, refs_[5].location);
  ASSERT_NE(old, nullptr);
  PagePin reader = pool_->Pin(old);  // a reader still uses the page
  owner_.reuse = refs_[5].location;
  Status status;
  Run(WriteWhile(pool_.get(), &owner_, nullptr, &status));
  EXPECT_TRUE(status.ok()) << status.ToString();
  Frame* written = pool_->Lookup(&owner_, refs_[5].location);
  ASSERT_NE(written, nullptr);
  EXPECT_EQ(written->page_id, 77u);
  EXPECT_EQ(HeaderOf(pool_->data(*old)).page_id, 5u) << "freed while a reader held a pin";
  pool_->Drop(written);
  EXPECT_EQ(pool_->Lookup(&owner_, refs_[5].location), nullptr) << "the old page reappeared";
  reader.Release();
  EXPECT_EQ(pool_->free_frames(), kFrames);
}

TEST_F(BufferPoolTest, AReadOfAPlaceThatIsWrittenMeanwhileIsVoid) {
  struct Body {
    static Task<void> Load(BufferPoolTest* t, Status* status) {
      Result<PagePin> pin = co_await t->pool_->Load(&t->owner_, t->refs_[5], 0);
      if (!pin.ok()) *status = pin.TakeStatus();
    }
    static Task<void> Both(BufferPoolTest* t, Status* loaded) {
      TaskGroup loads;
      loads.Spawn(Load(t, loaded));
      EXPECT_TRUE((co_await t->pool_->EnsureFree(1)).ok());
      EXPECT_EQ(t->pool_->Lookup(&t->owner_, t->refs_[5].location), nullptr) << "the read is in flight";
      Frame* value = t->pool_->NewOverflow(&t->owner_, t->refs_[5].location, std::string(kPage, 'v'), 3);
      co_await loads.Drain();
      EXPECT_EQ(t->pool_->Lookup(&t->owner_, t->refs_[5].location), value);
      t->pool_->Drop(value);
      EXPECT_EQ(t->pool_->LookupAny(&t->owner_, t->refs_[5].location), nullptr);
    }
  };
  Status loaded;
  Run(Body::Both(this, &loaded));
  EXPECT_EQ(loaded.code(), Code::kAborted) << loaded.ToString();
  EXPECT_EQ(pool_->free_frames(), kFrames);
}

// Nothing that is dirty becomes clean any more, so nobody may wait for that, and nothing is written.
TEST_F(BufferPoolTest, AFailedPoolEndsAllWaits) {
  struct Body {
    static Task<void> NeedMany(BufferPool* pool, std::vector<Code>* codes) {
      codes->push_back((co_await pool->EnsureFree(kFrames / 2)).code());
    }
    static Task<void> NeedOne(BufferPool* pool, size_t frames, std::vector<Code>* codes) {
      codes->push_back((co_await pool->WaitForRoom(frames)).code());
    }
    static Task<void> All(BufferPoolTest* t) {
      BufferPool& pool = *t->pool_;
      t->owner_.ready = false;  // no page can be written
      while (pool.free_frames() > 0) pool.NewPage(&t->owner_, 0);
      std::vector<Code> codes;
      TaskGroup tasks;
      for (int i = 0; i < 3; ++i) {
        tasks.Spawn(NeedMany(&pool, &codes));
        tasks.Spawn(NeedOne(&pool, 1, &codes));
        tasks.Spawn(NeedOne(&pool, 2, &codes));
      }
      co_await Sleep(*t->reactor_, 20 * kMillisecond);
      EXPECT_TRUE(codes.empty());
      pool.Fail(Error(Code::kIoError, "the disk is broken"));
      co_await tasks.Drain();
      EXPECT_EQ(codes, std::vector<Code>(9, Code::kIoError));
      co_await Sleep(*t->reactor_, 20 * kMillisecond);
      const int tried = t->owner_.void_writes;
      co_await Sleep(*t->reactor_, 20 * kMillisecond);
      EXPECT_EQ(t->owner_.void_writes, tried) << "the cleaner goes on";
      EXPECT_EQ((co_await pool.EnsureFree(1)).code(), Code::kIoError);
      EXPECT_EQ((co_await pool.WaitForRoom(1)).code(), Code::kIoError);
    }
  };
  Run(Body::All(this));
}

// -- overflow values

TEST_F(BufferPoolTest, ValuesOfSeveralPagesComeBackWhole) {
  struct Body {
    static Task<void> Run(BufferPoolTest* t, size_t bytes, uint64_t block) {
      BufferPool& pool = *t->pool_;
      std::string value(bytes, '\0'), copy;
      for (size_t i = 0; i < bytes; ++i) value[i] = static_cast<char>(i * 31 + i / 4096);
      const Extent at = Extent::Of(block, static_cast<uint32_t>((bytes + 4095) / 4096));
      EXPECT_TRUE((co_await pool.EnsureFree(pool.FramesFor(static_cast<uint32_t>(bytes)))).ok());
      Frame* frame = pool.NewOverflow(&t->owner_, at, value, 3);
      EXPECT_TRUE((co_await pool.WriteBack(frame)).ok());
      const uint64_t checksum = frame->disk.checksum;
      std::string padded = value;
      padded.resize(at.size_bytes(), '\0');
      EXPECT_EQ(checksum, Hash64(padded, ChecksumSeed(kUuid, block)));
      pool.DropAll(&t->owner_);
      Result<PagePin> pin = co_await pool.LoadOverflow(&t->owner_, at, checksum, static_cast<uint32_t>(bytes));
      EXPECT_TRUE(pin.ok()) << pin.status().ToString();
      if (!pin.ok()) co_return;
      pool.CopyOverflow(*pin->frame(), &copy);
      EXPECT_TRUE(copy == value) << bytes;
      pin->Release();
      pool.DropAll(&t->owner_);
      EXPECT_EQ(pool.free_frames(), kFrames);
      Result<PagePin> shorter = co_await pool.LoadOverflow(&t->owner_, at, checksum, 1 << 20);
      EXPECT_EQ(shorter.code(), Code::kCorruption) << "the length does not match the extent";
      t->machine_->disk().FlipBit(kPath, at.offset_bytes() + at.size_bytes() - 1);
      Result<PagePin> damaged = co_await pool.LoadOverflow(&t->owner_, at, checksum, static_cast<uint32_t>(bytes));
      EXPECT_EQ(damaged.code(), Code::kCorruption);
      EXPECT_NE(damaged.status().message().find(std::to_string(at.offset_bytes())), std::string::npos);
    }
  };
  uint64_t block = 200'000;
  for (size_t bytes : {1u, 4095u, 4096u, 4097u, 20'000u, 300'000u}) Run(Body::Run(this, bytes, block += 1000));
}

}  // namespace
}  // namespace pando
