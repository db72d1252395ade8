// The space of a partition file: metadata in scattered blocks, full disks, and space returned to
// the file system.
#include <cstring>

#include "tests/unit/partition/partition_file_fixture.h"

namespace pando {
namespace {

using PartitionSpaceTest = PartitionFileTest;

// A fragmented file on a full disk: no two free blocks are adjacent, `pages` single blocks are
// allocated, and every second one of them is dead.
struct Scattered {
  FilePtr file;
  std::vector<Extent> taken;
  size_t dead = 0;
};

Scattered MakeScattered(PartitionFileTest* t, SimDisk* disk, size_t pages) {
  Scattered s;
  s.file = t->Open();
  while (s.taken.size() < pages) {
    s.taken.push_back(t->Allocate(s.file.get(), 1));
    s.file->AdoptExtent(s.taken.back(), 2);
  }
  s.file->EndGeneration(2);
  EXPECT_TRUE(t->Get(s.file->Commit(PartitionFileTest::Content(2, Extent::Of(4, 1)))).ok());
  // Allocates all free blocks, then frees some of them, never two adjacent ones.
  disk->SetCapacity(disk->used_bytes());
  std::vector<Extent> rest;
  for (;;) {
    Result<Extent> e = t->Get(s.file->AllocateForWrite(1));
    if (!e.ok()) break;
    rest.push_back(*e);
  }
  uint64_t last_block = 0;
  for (Extent e : rest) {
    if (e.block() < last_block + 2) continue;
    last_block = e.block();
    s.file->FreeNow(e);
  }
  for (size_t i = 0; i < s.taken.size(); i += 2, ++s.dead) s.file->FreeLater({s.taken[i], 2});
  return s;
}

// D5: the dead list is a chain of one-block pieces. Nothing needs more contiguous space than that.
TEST_F(PartitionSpaceTest, LongDeadListsFitIntoScatteredBlocks) {
  Scattered s = MakeScattered(this, &machine_->disk(), 3000);
  ASSERT_GT(s.dead, 4 * EntriesInPiece(1));
  ASSERT_FALSE(s.file->allocator().free_blocks() < 20);
  s.file->EndGeneration(3);
  const uint64_t promised = s.file->MetadataBlocks(), free_before = s.file->allocator().free_blocks();
  Status status = Get(s.file->Commit(Content(3, Extent::Of(4, 1))));
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_LE(free_before - s.file->allocator().free_blocks(), promised);
  const Superblock sb = s.file->superblock();
  EXPECT_GT(s.file->metadata_pieces().size(), 6u);
  for (Extent piece : s.file->metadata_pieces()) EXPECT_EQ(piece.blocks(), 1u);
  Close(s.file.get());
  // Reads the chain by hand: each piece names the next one with its checksum.
  const std::string file = Contents();
  uint64_t entries = 0, checksum = sb.dead.checksum;
  for (Extent at = sb.dead.location; !at.empty();) {
    const std::string piece = file.substr(at.offset_bytes(), at.size_bytes());
    EXPECT_EQ(HandExtentChecksum(piece, at.block()), checksum);
    entries += LoadLE<uint64_t>(&piece[16]);
    at = LoadLE<Extent>(&piece[0]);
    checksum = LoadLE<uint64_t>(&piece[8]);
  }
  EXPECT_EQ(entries, sb.dead.entries);
  EXPECT_GE(entries, s.dead);
  FilePtr reopened = Open();
  EXPECT_EQ(reopened->dead_of_newest().size(), sb.dead.entries);
  Close(reopened.get());
  // A flipped bit in a piece is reported as damage to that piece.
  for (Extent at = sb.dead.location; !at.empty(); at = LoadLE<Extent>(&file[at.offset_bytes()])) {
    machine_->disk().FlipBit(kPath, at.offset_bytes() + 2000);
    Status refused = OpenError();
    EXPECT_EQ(refused.code(), Code::kCorruption);
    EXPECT_NE(refused.message().find(fmt::format("dead list at offset {}", at.offset_bytes())), std::string::npos)
        << refused.ToString();
    machine_->disk().FlipBit(kPath, at.offset_bytes() + 2000);
  }
}

// Chains that no build writes, with valid checksums.
TEST_F(PartitionSpaceTest, ChainsThatDoNotAddUpAreRefused) {
  TwoCheckpoints();
  const std::string good = Contents();
  const Extent list = LoadLE<Extent>(&good[8192 + 192]);
  struct Case {
    uint64_t offset, value;
  };
  for (const Case& c : {Case{16, 0}, Case{16, 3}, Case{16, 5}, Case{16, 255}, Case{16, ~0ull}, Case{0, list.packed},
                        Case{0, Extent::Of(1 << 20, 1).packed}, Case{0, 5ull << 16}}) {
    std::string bytes = good;
    StoreLE(&bytes[list.offset_bytes() + c.offset], c.value);
    const uint64_t checksum =
        HandExtentChecksum(std::string_view(bytes).substr(list.offset_bytes(), list.size_bytes()), list.block());
    for (uint64_t copy : {8192, 12288}) {
      StoreLE(&bytes[copy + 200], checksum);
      StoreLE(&bytes[copy + 4088], Hash64(std::string_view(bytes).substr(copy, 4088)));
    }
    SetContents(bytes);
    Status status = OpenError();
    EXPECT_EQ(status.code(), Code::kCorruption) << c.offset << " = " << c.value << ": " << status.ToString();
    EXPECT_NE(status.message().find(kPath), std::string::npos) << status.ToString();
  }
}

// A3: power fails at each operation of a checkpoint with scattered chains. The file opens with the
// newest generation or the one before, and everything that either reaches is in use.
TEST_F(PartitionSpaceTest, APowerFailureAtAnyOperationLeavesAWholeChain) {
  Scattered s = MakeScattered(this, &machine_->disk(), 1200);
  Close(s.file.get());
  SetContents(Contents());  // durable, including its name
  const SimDisk image = machine_->disk();
  const size_t pages = s.taken.size();
  uint64_t committed = 0, not_committed = 0;
  for (uint64_t op = 1; op < 200 && !HasFailure(); ++op) {
    machine_->PowerLoss(op);
    machine_->disk() = image;
    machine_->CrashAtDiskOp(0);
    reactor_ = machine_->Boot();
    // With their machines; never destroyed.
    static auto* const abandoned = new std::vector<PartitionFile*>;
    PartitionFile* file = abandoned->emplace_back(Open().release());
    for (size_t i = 0; i < pages; i += 2) file->FreeLater({s.taken[i], 2});
    file->EndGeneration(3);
    machine_->CrashAtDiskOp(machine_->disk_ops() + op);
    const bool ended = kernel_.RunTask(*reactor_, file->Commit(Content(3, Extent::Of(4, 1)))).has_value();
    machine_->PowerLoss(op * 7);
    machine_->CrashAtDiskOp(0);
    reactor_ = machine_->Boot();
    FilePtr reopened = Open(/*read_only=*/true);
    const Generation generation = reopened->superblock().generation;
    (generation == 3 ? committed : not_committed) += 1;
    EXPECT_TRUE(generation == 3 || (generation == 2 && !ended));
    for (Extent e : s.taken) EXPECT_TRUE(reopened->allocator().IsUsed(e.block())) << "at operation " << op;
    Close(reopened.get());
    if (ended) break;
  }
  EXPECT_GT(committed, 0u);
  EXPECT_GE(not_committed, 5u);
}

// -- space is returned to the file system

TEST_F(PartitionSpaceTest, FreeSpaceGoesBackAndIsTakenAgain) {
  FilePtr file = Open();
  std::vector<Extent> pages;
  while (pages.size() < 2000) pages.push_back(Allocate(file.get(), 1));
  const uint64_t used = machine_->disk().used_bytes();
  for (Extent e : pages) file->FreeNow(e);
  EXPECT_EQ(*Get(file->ReleaseSpace(256, 0)), 256u);
  EXPECT_EQ(machine_->disk().used_bytes(), used - 256 * kBlockBytes);
  while (*Get(file->ReleaseSpace(1024, 500)) > 0) {
  }
  const ExtentAllocator& allocator = file->allocator();
  EXPECT_GE(allocator.free_blocks(), 500u);
  EXPECT_LT(allocator.free_blocks(), 600u);
  EXPECT_EQ(machine_->disk().used_bytes(), (allocator.total_blocks() - allocator.hole_blocks()) * kBlockBytes);
  // Others have filled the disk. Only blocks that the file system holds for the file can be
  // allocated, and all of them can.
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  const uint64_t free = allocator.free_blocks();
  EXPECT_EQ(Get(file->EnsureFreeBlocks(free + 1)).code(), Code::kDiskFull);
  EXPECT_TRUE(Get(file->EnsureFreeBlocks(free)).ok());
  machine_->disk().SetCapacity(machine_->disk().used_bytes() + 70 * kBlockBytes);
  EXPECT_TRUE(Get(file->EnsureFreeBlocks(free + 64)).ok()) << "a chunk of a hole must be allocated again";
  machine_->disk().SetCapacity(UINT64_MAX);
  const uint64_t total = allocator.total_blocks();
  EXPECT_TRUE(Get(file->EnsureFreeBlocks(1900)).ok());
  EXPECT_EQ(allocator.total_blocks(), total) << "holes are filled before the file grows";
  Close(file.get());
}

// A file that cannot grow asks others for room, once for each time that the disk has none.
TEST_F(PartitionSpaceTest, OthersMakeRoomOnAFullDisk) {
  FilePtr file = Open();
  SimDisk& disk = machine_->disk();
  disk.SetCapacity(disk.used_bytes());
  int asked = 0;
  uint64_t gives_blocks = 0;
  struct Room {
    static Task<bool> Make(SimDisk* disk, int* asked, const uint64_t* blocks) {
      ++*asked;
      disk->SetCapacity(disk->used_bytes() + *blocks * kBlockBytes);
      co_return *blocks > 0;
    }
  };
  file->set_make_room([&] { return Room::Make(&disk, &asked, &gives_blocks); });
  const uint64_t free = file->allocator().free_blocks();
  EXPECT_EQ(Get(file->EnsureFreeBlocks(free + 1)).code(), Code::kDiskFull);
  EXPECT_EQ(asked, 1);
  gives_blocks = 4;
  EXPECT_TRUE(Get(file->EnsureFreeBlocks(free + 4)).ok());
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(Get(file->EnsureFreeBlocks(free + 100)).code(), Code::kDiskFull);
  EXPECT_EQ(asked, 3);
  Close(file.get());
}

// D4: blocks that are free at a start are allocated only after the file system has been asked for
// their space.
TEST_F(PartitionSpaceTest, AFileWithHolesOpensOnAFullDisk) {
  FilePtr file = Open();
  std::vector<Extent> pages;
  while (pages.size() < 1000) pages.push_back(Allocate(file.get(), 1));
  for (Extent e : pages) file->FreeNow(e);
  while (*Get(file->ReleaseSpace(1024, 0)) > 0) {
  }
  Close(file.get());
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  file = Open();
  const uint64_t held = machine_->disk().used_bytes() / kBlockBytes;
  std::vector<Extent> given;
  for (;;) {
    Result<Extent> e = Get(file->AllocateForWrite(1));
    if (!e.ok()) break;
    given.push_back(*e);
  }
  EXPECT_LE(given.size(), held) << "blocks were allocated for which the disk has no space";
  EXPECT_GT(given.size(), 50u);
  Close(file.get());
}

// D4: a block is never allocated while a hole is being punched there, whatever else happens.
TEST_F(PartitionSpaceTest, HolesAreNotGivenOutWhileTheyAreMade) {
  FilePtr file = Open();
  std::vector<Extent> pages;
  while (pages.size() < 1000) pages.push_back(Allocate(file.get(), 1));
  for (Extent e : pages) file->FreeNow(e);
  struct Writer {
    static Task<void> Release(PartitionFile* f, bool* stop) {
      while (!*stop) {
        Result<uint64_t> released = co_await f->ReleaseSpace(256, 0);
        EXPECT_TRUE(released.ok());
        co_await Sleep(f->file().reactor(), 10 * kMicrosecond);
      }
    }
    static Task<void> Write(PartitionFile* f, bool* stop) {
      AlignedBuffer bytes(kBlockBytes), back(kBlockBytes);
      std::memset(bytes.data(), 'w', kBlockBytes);
      for (int i = 0; i < 300; ++i) {
        Result<Extent> e = co_await f->AllocateForWrite(1);
        EXPECT_TRUE(e.ok());
        EXPECT_TRUE((co_await f->file().Write(bytes.data(), kBlockBytes, e->offset_bytes())).ok());
        EXPECT_TRUE((co_await f->file().Read(back.data(), kBlockBytes, e->offset_bytes())).ok());
        EXPECT_EQ(std::memcmp(bytes.data(), back.data(), kBlockBytes), 0) << "a hole was punched into a page";
        if (i % 3 != 0) f->FreeNow(*e);
      }
      *stop = true;
    }
    static Task<void> Both(PartitionFile* f) {
      bool stop = false;
      TaskGroup tasks;
      tasks.Spawn(Release(f, &stop));
      tasks.Spawn(Write(f, &stop));
      co_await tasks.Drain();
    }
  };
  EXPECT_TRUE(kernel_.RunTask(*reactor_, Writer::Both(file.get())));
  Close(file.get());
}

TEST_F(PartitionSpaceTest, AFileSystemThatTakesNothingBackIsNoHarm) {
  SimOptions options;
  options.refuse_holes = true;
  SimKernel kernel(1, options);
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, CreatePartitionFile(*reactor, FileOptions()))->ok());
  FilePtr file = **kernel.RunTask(*reactor, PartitionFile::Open(*reactor, FileOptions(), false));
  EXPECT_TRUE(kernel.RunTask(*reactor, file->EnsureFreeBlocks(1000))->ok());
  EXPECT_EQ(kernel.RunTask(*reactor, file->ReleaseSpace(64, 0))->code(), Code::kUnsupported);
  const uint64_t total = file->allocator().total_blocks();
  EXPECT_TRUE(kernel.RunTask(*reactor, file->EnsureFreeBlocks(1000))->ok());
  EXPECT_EQ(file->allocator().total_blocks(), total) << "space that could not be returned must be used again";
  EXPECT_TRUE(kernel.RunTask(*reactor, file->Close())->ok());
}

}  // namespace
}  // namespace pando
