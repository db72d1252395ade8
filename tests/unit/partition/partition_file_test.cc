// The partition file on its own: its bytes, what it refuses, and that nothing reachable from a
// durable root is allocated again.
#include <map>
#include <random>
#include <set>

#include "tests/support/seeds.h"
#include "tests/unit/partition/partition_file_fixture.h"

namespace pando {
namespace {

TEST_F(PartitionFileTest, GoldenNewFile) {
  HandBytes leaf;  // page 1, generation 1, empty
  leaf.Text("PDPG").U8(1).U8(0).U8(0).U8(0).U32(56).U32(4096).U32(0).Zeros(20).U64(1).U64(1).PadTo(4096);
  HandBytes bitmap;  // blocks 0 to 6
  bitmap.U8(0x7f).PadTo(4096);
  HandBytes directory;
  directory.U64(0).U64(0).U64(1).U64(0);  // one piece with one entry
  directory.U64(5).U64(HandExtentChecksum(bitmap.str(), 5)).PadTo(4096);
  HandBytes sb;
  sb.Text("PPANDSB1").U32(2).U32(4096).U64(0).Uuid(0x11, 0x22).Uuid(kHi, kLo);
  sb.U64(1).U64(1).U64(0).U64(0).U64(2).U64(64);
  sb.U64(0x40001).U64(1).U64(HandExtentChecksum(leaf.str(), 4)).Zeros(32);
  sb.U32(0).U32(32768).U64(0x60001).U64(HandExtentChecksum(directory.str(), 6)).U64(1).Zeros(24);
  sb.PadTo(4088).Checksum();
  HandBytes want;
  want.Zeros(8192).Text(sb.str()).Text(sb.str()).Text(leaf.str()).Text(bitmap.str()).Text(directory.str());
  EXPECT_EQ(FirstDifference(want.PadTo(256 << 10).str(), Contents()), "");
}

// With room for a seal: the heap of the empty leaf ends before it.
TEST_F(PartitionFileTest, GoldenNewFileWithRoomForASeal) {
  const std::string path = "/sealed";
  PartitionFileOptions options{path, kNode, kPartition, 4096, 40};
  ASSERT_TRUE(Get(CreatePartitionFile(*reactor_, options)).ok());
  HandBytes leaf;
  leaf.Text("PDPG").U8(1).U8(0).U8(0).U8(0).U32(56).U32(4056).U32(0).Zeros(20).U64(1).U64(1).PadTo(4096);
  const std::string file = machine_->disk().ReadAll(path);
  EXPECT_EQ(FirstDifference(leaf.str(), file.substr(4 * 4096, 4096)), "");
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 16]), 1u);
  EXPECT_EQ(LoadLE<uint32_t>(&file[8192 + 232]), 40u);
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 120]), HandExtentChecksum(leaf.str(), 4));
  // A store without the room must not read it, and the other way round.
  options.seal_bytes = 0;
  EXPECT_EQ(OpenError(options).code(), Code::kCorruption);
  options = FileOptions();
  options.seal_bytes = 40;
  EXPECT_EQ(OpenError(options).code(), Code::kCorruption);
  options.path = path;
  FilePtr opened = *Get(PartitionFile::Open(*reactor_, options, false));
  opened->EndGeneration(2);
  EXPECT_TRUE(Get(opened->Commit(Content(2, Extent::Of(4, 1)))).ok());
  Close(opened.get());
  EXPECT_EQ(LoadLE<uint32_t>(&machine_->disk().ReadAll(path)[232]), 40u) << "checkpoints keep it";
}

TEST_F(PartitionFileTest, GoldenCheckpoint) {
  const Superblock sb = TwoCheckpoints();
  const std::string file = Contents();
  // Slot 1 holds generation 3.
  EXPECT_EQ(FirstDifference(file.substr(8192, 4096), file.substr(12288, 4096)), "");
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 56]), 3u);
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 72]), 30u);
  EXPECT_EQ(LoadLE<uint64_t>(&file[0 + 56]), 2u);
  auto extent_at = [&](uint64_t offset) {
    const uint64_t packed = LoadLE<uint64_t>(&file[offset]);
    return file.substr((packed >> 16) * 4096, (packed & 0xffff) * 4096);
  };
  // The dead list: the page, then the metadata of generation 2, which generation 2's superblock
  // names.
  const std::string dead = extent_at(8192 + 192);
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 200]), HandExtentChecksum(dead, sb.dead.location.block()));
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 208]), 4u);
  const uint64_t old_groups = LoadLE<uint64_t>(&file[168]), old_dead = LoadLE<uint64_t>(&file[192]);
  const uint64_t old_bitmap = LoadLE<uint64_t>(&file[(old_groups >> 16) * 4096 + 32]);
  const uint64_t page = LoadLE<uint64_t>(&dead[32]);
  EXPECT_EQ(page & 0xffff, 2u);
  HandBytes entries;
  entries.U64(0).U64(0).U64(4).U64(0);  // the last piece, with four entries
  entries.U64(page).U64(2).U64(old_groups).U64(2).U64(old_dead).U64(2).U64(old_bitmap << 16 | 1).U64(2);
  EXPECT_EQ(FirstDifference(entries.PadTo(4096).str(), dead), "");
  // The directory, and the bitmap that it names: what generation 3 reaches, plus its dead list.
  const std::string directory = extent_at(8192 + 168);
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 176]), HandExtentChecksum(directory, sb.groups.location.block()));
  EXPECT_EQ(LoadLE<uint64_t>(&file[8192 + 184]), 1u);
  const uint64_t bitmap_block = LoadLE<uint64_t>(&directory[32]);
  const std::string bitmap = file.substr(bitmap_block * 4096, 4096);
  EXPECT_EQ(LoadLE<uint64_t>(&directory[40]), HandExtentChecksum(bitmap, bitmap_block));
  std::set<uint64_t> used = {0, 1, 2, 3, bitmap_block, old_bitmap};
  used.insert(4);  // the first leaf is still the root
  for (uint64_t packed :
       {page, old_groups, old_dead, LoadLE<uint64_t>(&file[8192 + 168]), LoadLE<uint64_t>(&file[8192 + 192])}) {
    for (uint64_t b = packed >> 16; b < (packed >> 16) + (packed & 0xffff); ++b) used.insert(b);
  }
  for (uint64_t b = 0; b < 256; ++b) {
    EXPECT_EQ(static_cast<uint8_t>(bitmap[b / 8]) >> b % 8 & 1, used.contains(b)) << "block " << b;
  }
}

// -- refusals

TEST_F(PartitionFileTest, DamagedMetadataIsNamedWithFileAndOffset) {
  const Superblock sb = TwoCheckpoints();
  const std::string good = Contents();
  const uint64_t bitmap_block = LoadLE<uint64_t>(&good[sb.groups.location.offset_bytes() + 32]);
  struct Case {
    const char* what;
    uint64_t offset;
  };
  for (const Case& c :
       {Case{"group directory", sb.groups.location.offset_bytes()}, Case{"dead list", sb.dead.location.offset_bytes()},
        Case{"allocation bitmap", bitmap_block * 4096}}) {
    for (uint64_t byte : {0, 9, 2000, 4095}) {
      std::string bytes = good;
      bytes[c.offset + byte] ^= 0x10;
      SetContents(bytes);
      Status status = OpenError();
      EXPECT_EQ(status.code(), Code::kCorruption) << c.what << " " << status.ToString();
      const std::string place = fmt::format("{}: {} at offset {} fails its checksum", kPath, c.what, c.offset);
      EXPECT_NE(status.message().find(place), std::string::npos) << status.ToString();
    }
  }
  SetContents(good);
  EXPECT_TRUE(OpenError().ok());
}

TEST_F(PartitionFileTest, ADamagedNewestSlotOpensTheGenerationBefore) {
  TwoCheckpoints();
  machine_->disk().FlipBit(kPath, 8192 + 100);
  FilePtr one_copy = Open(true);
  EXPECT_EQ(one_copy->superblock().generation, 3u);
  EXPECT_EQ(one_copy->older_checkpoint_lsn(), 20u);
  Close(one_copy.get());
  machine_->disk().FlipBit(kPath, 12288 + 100);
  FilePtr before = Open(true);
  EXPECT_EQ(before->superblock().generation, 2u);
  EXPECT_EQ(before->older_checkpoint_lsn(), 0u);
  Close(before.get());
}

TEST_F(PartitionFileTest, TruncatedFilesAreRefused) {
  const std::string good = Contents();
  for (size_t bytes : {0u, 4096u, 16383u}) {
    SetContents(good.substr(0, bytes));
    Status status = OpenError();
    EXPECT_EQ(status.code(), Code::kCorruption) << status.ToString();
    EXPECT_NE(status.message().find(fmt::format("{}: {} bytes long", kPath, bytes)), std::string::npos);
  }
  SetContents(good.substr(0, 63 * 4096));
  Status status = OpenError();
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_NE(status.message().find("truncated to 258048 bytes, but the superblock says 262144"), std::string::npos)
      << status.ToString();
}

TEST_F(PartitionFileTest, AnothersFileIsRefused) {
  PartitionFileOptions options = FileOptions();
  options.partition.lo ^= 1;
  EXPECT_EQ(OpenError(options).code(), Code::kCorruption);
  options = FileOptions();
  options.node.hi ^= 1;
  EXPECT_EQ(OpenError(options).code(), Code::kCorruption);
  options = FileOptions();
  options.page_bytes = 8192;
  EXPECT_EQ(OpenError(options).code(), Code::kCorruption);
  options = FileOptions();
  options.path = "/nothing";
  EXPECT_EQ(OpenError(options).code(), Code::kNotFound);
}

// Intact superblocks with contents that no build writes.
TEST_F(PartitionFileTest, ReferencesOutsideTheFileAreRefused) {
  TwoCheckpoints();
  const std::string good = Contents();
  struct Case {
    uint64_t offset;
    uint64_t value;
    Code code;
  };
  const Case cases[] = {
      {168, 0, Code::kCorruption},               // no group directory
      {168, 0x7fffffff0001, Code::kCorruption},  // after the end of the file
      {168, ~0ull, Code::kCorruption},           //
      {184, 257, Code::kCorruption},             // more entries than the extent holds
      {184, ~0ull, Code::kCorruption},           //
      {192, 0x00ff0002, Code::kCorruption},      // its second block is after the end of the file
      {208, 257, Code::kCorruption},             //
      {96, 257, Code::kCorruption},              // more blocks than the file has
      // A root higher than any tree (the group size is kept)
      {160, 1ull << 47 | 255, Code::kCorruption},
      {160, uint64_t{16384} << 32, Code::kVersion},  // groups of another size
  };
  for (const Case& c : cases) {
    std::string bytes = good;
    for (uint64_t copy : {8192, 12288}) {
      StoreLE(&bytes[copy + c.offset], c.value);
      StoreLE(&bytes[copy + 4088], Hash64(std::string_view(bytes).substr(copy, 4088)));
    }
    SetContents(bytes);
    Status status = OpenError();
    EXPECT_EQ(status.code(), c.code) << "offset " << c.offset << ": " << status.ToString();
    EXPECT_NE(status.message().find(kPath), std::string::npos) << status.ToString();
  }
}

// A dead list with a valid checksum and an extent that must not be freed.
TEST_F(PartitionFileTest, DeadListsThatNameOthersBlocksAreRefused) {
  TwoCheckpoints();
  const std::string good = Contents();
  const Extent list = LoadLE<Extent>(&good[8192 + 192]);
  const uint64_t entries = LoadLE<uint64_t>(&good[8192 + 208]);
  ASSERT_GE(entries, 2u);
  const uint64_t entry_at = list.offset_bytes() + sizeof(MetaPieceHeader);
  const Extent first = LoadLE<DeadExtent>(&good[entry_at]).extent;
  struct Case {
    Extent extent;
    const char* what;
  };
  const Case cases[] = {
      {Extent::Of(200, 24065), "outside the file"},
      {Extent::Of(63, 2), "outside the file"},
      {Extent(), "outside the file"},
      {Extent::Of(2, 1), "belong to the superblocks"},
      {first, "listed twice"},
      {Extent::Of(63, 1), "not in use"},
  };
  for (const Case& c : cases) {
    std::string bytes = good;
    StoreLE(&bytes[entry_at + sizeof(DeadExtent)], DeadExtent{c.extent, 1});
    const std::string_view body = std::string_view(bytes).substr(list.offset_bytes(), list.size_bytes());
    const uint64_t checksum = Hash64(body, ChecksumSeed(FileOptions().partition, list.block()));
    for (uint64_t copy : {8192, 12288}) {
      StoreLE(&bytes[copy + 200], checksum);
      StoreLE(&bytes[copy + 4088], Hash64(std::string_view(bytes).substr(copy, 4088)));
    }
    SetContents(bytes);
    Status status = OpenError();
    EXPECT_EQ(status.code(), Code::kCorruption) << c.what << ": " << status.ToString();
    EXPECT_NE(status.message().find(c.what), std::string::npos) << status.ToString();
    EXPECT_NE(status.message().find(kPath), std::string::npos) << status.ToString();
  }
}

// -- D1 and D2, compared with a simple model

using Blocks = std::set<uint64_t>;

void Add(Blocks* blocks, Extent e) {
  for (uint64_t b = e.block(); b < e.block() + e.blocks(); ++b) blocks->insert(b);
}

// Acts like a tree: allocates extents, frees them, and ends generations.
class Life {
 public:
  Life(PartitionFileTest* test, uint64_t seed)
      : t_(*test), random_(seed), turn_(*test->reactor_, kShortTurn), file_(test->Open(false, &turn_)) {
    Add(&durable_[1], Extent::Of(0, 7));
    durable_[0] = durable_[1];
    live_[Extent::Of(4, 1).packed] = 1;
  }
  ~Life() { t_.Close(file_.get()); }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const uint64_t choice = random_.Below(100);
      if (choice < 40) {
        Take(generation_);
      } else if (choice < 75) {
        GiveUp();
      } else if (choice < 80) {
        waiting_.push_back(t_.Allocate(file_.get(), 1 + random_.Below(5)));
        ExpectNotInUse(waiting_.back());
      } else if (choice < 84 && !waiting_.empty()) {
        file_->FreeNow(waiting_.back());
        waiting_.pop_back();
      } else if (choice < 88) {
        checkpointing_ ? Commit() : EndGeneration();
      } else if (choice < 93) {
        ReleaseOne();
      } else if (choice < 97) {
        t_.Get(HoldNewest(this));
      } else {
        EXPECT_TRUE(t_.Get(file_->ReleaseSpace(64 + random_.Below(512), random_.Below(64))).ok());
      }
    }
    if (checkpointing_) Commit();
    CompareWithTheDisk();
  }

 private:
  void ExpectNotInUse(Extent e) {
    Blocks taken;
    Add(&taken, e);
    for (uint64_t b : taken) {
      EXPECT_FALSE(durable_[0].contains(b)) << "D1: block " << b << " of the newest durable root";
      EXPECT_FALSE(durable_[1].contains(b)) << "D1: block " << b << " of the durable root before";
      EXPECT_FALSE(frozen_blocks_.contains(b)) << "block " << b << " of the generation being written";
      for (const auto& [generation, blocks] : held_) {
        EXPECT_FALSE(blocks.contains(b)) << "block " << b << " of snapshot " << generation;
      }
    }
  }

  void Take(Generation birth) {
    const Extent e = t_.Allocate(file_.get(), 1 + static_cast<uint32_t>(random_.Below(4)));
    ExpectNotInUse(e);
    file_->AdoptExtent(e, birth);
    live_[e.packed] = birth;
  }

  void GiveUp() {
    if (live_.size() < 2) return;
    auto it = live_.begin();
    std::advance(it, static_cast<long>(random_.Below(live_.size())));
    const Extent e{it->first};
    if (e.block() == 4) return;  // the root
    if (it->second == generation_) {
      file_->FreeNow(e);
    } else {
      file_->FreeLater({e, it->second});
    }
    live_.erase(it);
  }

  void EndGeneration() {
    file_->EndGeneration(generation_);
    frozen_ = generation_++;
    checkpointing_ = true;
    // Dirty pages get their locations now.
    for (uint64_t n = random_.Below(6); n > 0; --n) Take(frozen_);
    frozen_blocks_.clear();
    for (const auto& [packed, birth] : live_) Add(&frozen_blocks_, Extent{packed});
    if (random_.Chance(0.4)) {
      file_->HoldGeneration(frozen_);
      held_.emplace(frozen_, frozen_blocks_);
    }
  }

  void Commit() {
    Status status = t_.Get(CommitWhileChanging(this));
    ASSERT_TRUE(status.ok()) << status.ToString();
    checkpointing_ = false;
    durable_[1] = std::move(durable_[0]);
    durable_[0] = newest_tree_ = std::move(frozen_blocks_);
    frozen_blocks_.clear();
    AddMetadata(*file_, &durable_[0]);
    if (random_.Chance(0.3)) CompareWithTheDisk();
  }

  static Task<void> Change(Life* life) {
    for (uint64_t n = life->random_.Below(6); n > 0; --n) {
      co_await Sleep(*life->t_.reactor_, life->random_.Between(0, 400) * kMicrosecond);
      if (life->random_.Chance(0.3)) {
        life->ReleaseOne();
      } else if (life->random_.Chance(0.3)) {
        co_await HoldNewest(life);
      } else if (life->random_.Chance(0.3)) {
        EXPECT_TRUE((co_await life->file_->ReleaseSpace(256, 0)).ok());
      } else {
        life->GiveUp();
      }
    }
  }
  static Task<Status> CommitWhileChanging(Life* life) {
    TaskGroup changes;
    changes.Spawn(Change(life));
    Status status = co_await life->file_->Commit(PartitionFileTest::Content(life->frozen_, Extent::Of(4, 1)));
    co_await changes.Drain();
    co_return status;
  }

  static void AddMetadata(const PartitionFile& file, Blocks* blocks) {
    Add(blocks, Extent::Of(0, 4));
    for (Extent piece : file.metadata_pieces()) Add(blocks, piece);
    for (const GroupEntry& g : file.group_entries()) {
      if (g.block != 0) blocks->insert(g.block);
    }
  }

  void ReleaseOne() {
    if (held_.empty()) return;
    auto it = held_.begin();
    std::advance(it, static_cast<long>(random_.Below(held_.size())));
    file_->ReleaseGeneration(it->first);
    held_.erase(it);
  }

  static Task<bool> HoldNewest(Life* life) {
    const Superblock newest = co_await life->file_->HoldNewest();
    // Commit records a commit that has just ended only after this returns.
    const bool just_committed = newest.generation == life->frozen_ && life->checkpointing_;
    life->held_.emplace(newest.generation, just_committed ? life->frozen_blocks_ : life->newest_tree_);
    co_return just_committed;
  }

  // Checks what a restart finds: the used blocks are exactly those that the newest root and its
  // dead list reach, and they include all blocks that the previous root reaches.
  void CompareWithTheDisk() {
    FilePtr reopened = t_.Open(true);
    Blocks want = durable_[0];
    for (const DeadExtent& d : reopened->dead_of_newest()) {
      Blocks dead;
      Add(&dead, d.extent);
      for (uint64_t b : dead) EXPECT_TRUE(want.insert(b).second) << "block " << b << " is dead and alive";
    }
    for (uint64_t b : durable_[1]) EXPECT_TRUE(want.contains(b)) << "D2: block " << b << " of the root before is free";
    for (uint64_t b = 0; b < reopened->allocator().total_blocks(); ++b) {
      EXPECT_EQ(reopened->allocator().IsUsed(b), want.contains(b)) << "D2: block " << b;
      if (testing::Test::HasFailure()) break;
    }
    t_.Close(reopened.get());
  }

  // So short that every loop that can yield does so all the time.
  static constexpr TurnBudget::Limits kShortTurn{4, 3, 1};

  PartitionFileTest& t_;
  SimRandom random_;
  TurnBudget turn_;
  FilePtr file_;
  Generation generation_ = 2, frozen_ = 0;
  bool checkpointing_ = false;
  // Packed extents of the newest state, with their birth generations.
  std::map<uint64_t, Generation> live_;
  std::vector<Extent> waiting_;  // allocated for a write that has not ended
  Blocks durable_[2];            // of the newest durable root, and of the one before
  Blocks frozen_blocks_;
  Blocks newest_tree_{4};  // of the newest durable root, without its metadata
  std::multimap<Generation, Blocks> held_;
};

TEST_F(PartitionFileTest, NothingInUseIsGivenOutAndNothingIsLost) {
  for (uint64_t seed : Seeds(100)) {
    SCOPED_TRACE(Replay(seed));
    Status made = Get(CreatePartitionFile(*reactor_, FileOptions()));
    ASSERT_TRUE(made.ok()) << made.ToString();
    Life life(this, seed);
    for (int phase = 0; phase < 4; ++phase) life.Run(120);
    if (HasFailure()) return;
  }
}

// A page of the newest generation dies while an older generation is held, and the older one is
// released first.
TEST_F(PartitionFileTest, HoldingTheNewestKeepsWhatDiedSinceItEnded) {
  for (bool during_checkpoint : {false, true}) {
    Status made = Get(CreatePartitionFile(*reactor_, FileOptions()));
    ASSERT_TRUE(made.ok()) << made.ToString();
    FilePtr file = Open();
    Generation generation = 2;
    auto end = [&] { file->EndGeneration(generation); };
    auto commit = [&] { EXPECT_TRUE(Get(file->Commit(Content(generation++, Extent::Of(4, 1)))).ok()); };
    const Extent page = Allocate(file.get(), 2);
    file->AdoptExtent(page, 2);
    end();
    file->HoldGeneration(2);
    commit();
    end();
    commit();
    file->FreeLater({page, 2});
    if (during_checkpoint) end();
    EXPECT_EQ(Get(file->HoldNewest()).generation, 3u);
    file->ReleaseGeneration(2);
    if (!during_checkpoint) end();
    commit();
    for (int i = 0; i < 3; ++i) {
      end();
      commit();
    }
    EXPECT_TRUE(file->allocator().IsUsed(page.block())) << "during a checkpoint: " << during_checkpoint;
    file->ReleaseGeneration(3);
    for (int i = 0; i < 2; ++i) {
      end();
      commit();
    }
    EXPECT_FALSE(file->allocator().IsUsed(page.block()));
    EXPECT_EQ(file->held_blocks(), 0u);
    Close(file.get());
  }
}

// D7: what a snapshot holds is written once, however many checkpoints follow. On disk it is free
// from the next checkpoint on, so a restart finds it free.
TEST_F(PartitionFileTest, HeldExtentsAreListedOnce) {
  constexpr uint64_t kPages = 1000;
  FilePtr file = Open();
  std::vector<Extent> pages;
  for (uint64_t i = 0; i < kPages; ++i) {
    pages.push_back(Allocate(file.get(), 1));
    file->AdoptExtent(pages.back(), 2);
  }
  file->EndGeneration(2);
  file->HoldGeneration(2);
  ASSERT_TRUE(Get(file->Commit(Content(2, Extent::Of(4, 1)))).ok());
  for (Extent page : pages) file->FreeLater({page, 2});
  EXPECT_EQ(file->held_blocks(), kPages);
  EXPECT_GE(file->MetadataBlocks(), MetaBlocksFor(kPages));
  file->EndGeneration(3);
  ASSERT_TRUE(Get(file->Commit(Content(3, Extent::Of(4, 1)))).ok());
  EXPECT_GE(file->superblock().dead.entries, kPages);
  for (Generation generation = 4; generation < 8; ++generation) {
    const uint64_t promised = file->MetadataBlocks();
    EXPECT_LE(promised, 20u);
    const uint64_t used_before = file->allocator().used_blocks();
    file->EndGeneration(generation);
    ASSERT_TRUE(Get(file->Commit(Content(generation, Extent::Of(4, 1)))).ok());
    EXPECT_LE(file->allocator().used_blocks(), used_before + promised);
    EXPECT_LE(file->superblock().dead.entries, 10u) << "generation " << generation;
    FilePtr reopened = Open(true);
    for (Extent page : pages) {
      EXPECT_TRUE(file->allocator().IsUsed(page.block()));
      EXPECT_FALSE(reopened->allocator().IsUsed(page.block())) << "generation " << generation;
    }
    Close(reopened.get());
  }
  file->ReleaseGeneration(2);
  WaitUntilReleased(file.get());
  EXPECT_EQ(file->held_blocks(), 0u);
  for (Extent page : pages) EXPECT_FALSE(file->allocator().IsUsed(page.block()));
  Close(file.get());
}

// A checkpoint that runs out of space has already decided that a held extent is transient. When it
// is released before the next try, it waits on the dead list like any other.
TEST_F(PartitionFileTest, AReleaseBetweenTwoTriesOfACheckpoint) {
  FilePtr file = Open();
  const Extent page = Allocate(file.get(), 2);
  file->AdoptExtent(page, 2);
  file->EndGeneration(2);
  file->HoldGeneration(2);
  ASSERT_TRUE(Get(file->Commit(Content(2, Extent::Of(4, 1)))).ok());
  file->FreeLater({page, 2});
  file->EndGeneration(3);
  ASSERT_TRUE(Get(file->Commit(Content(3, Extent::Of(4, 1)))).ok());
  std::vector<Extent> taken;
  for (;;) {  // take all free blocks; there is no room to grow
    machine_->disk().SetCapacity(machine_->disk().used_bytes());
    Result<Extent> e = Get(file->AllocateForWrite(1));
    if (!e.ok()) break;
    taken.push_back(*e);
  }
  file->EndGeneration(4);
  EXPECT_EQ(Get(file->Commit(Content(4, Extent::Of(4, 1)))).code(), Code::kDiskFull);
  file->ReleaseGeneration(2);
  WaitUntilReleased(file.get());
  EXPECT_TRUE(file->allocator().IsUsed(page.block())) << "D1: the superblock of generation 3 lists it as dead";
  for (Extent e : taken) file->FreeNow(e);
  ASSERT_TRUE(Get(file->Commit(Content(4, Extent::Of(4, 1)))).ok());
  EXPECT_FALSE(file->allocator().IsUsed(page.block()));
  FilePtr reopened = Open(true);
  EXPECT_FALSE(reopened->allocator().IsUsed(page.block()));
  Close(reopened.get());
  Close(file.get());
}

// The engine stops after a commit that failed, but its clients still release their snapshots.
TEST_F(PartitionFileTest, AReleaseAfterAFailedCommitIsHarmless) {
  FilePtr file = Open();
  const Extent page = Allocate(file.get(), 2);
  file->AdoptExtent(page, 2);
  file->EndGeneration(2);
  file->HoldGeneration(2);
  EXPECT_TRUE(Get(file->Commit(Content(2, Extent::Of(4, 1)))).ok());
  file->FreeLater({page, 2});
  file->EndGeneration(3);
  DiskFault fault;
  fault.kind = IoOp::Kind::kWrite;
  fault.path_contains = kPath;
  fault.count = UINT64_MAX;
  fault.error_number = EIO;
  machine_->AddFault(fault);
  EXPECT_EQ(Get(file->Commit(Content(3, Extent::Of(4, 1)))).code(), Code::kIoError);
  file->ReleaseGeneration(2);
  EXPECT_TRUE(file->allocator().IsUsed(page.block()));
  machine_->ClearFaults();
  Close(file.get());
}

// Dead lists of several blocks would need long runs, which a fragmented file does not have. They
// reuse their own blocks.
TEST_F(PartitionFileTest, LongDeadListsDoNotGrowAScatteredFile) {
  constexpr size_t kPages = 4000, kReplaced = 1200;
  FilePtr file = Open();
  std::vector<DeadExtent> pages;
  Generation generation = 2;
  auto add_page = [&] {
    Result<Extent> e = Get(file->AllocateForWrite(1));
    ASSERT_TRUE(e.ok()) << e.status().ToString();
    file->AdoptExtent(*e, generation);
    pages.push_back({*e, generation});
  };
  while (pages.size() < kPages) add_page();
  std::mt19937_64 random(7);
  uint64_t settled_blocks = 0;
  for (int round = 0; round < 20; ++round, ++generation) {
    for (size_t i = 0; i < kReplaced; ++i) {
      std::swap(pages[random() % pages.size()], pages.back());
      if (pages.back().birth == generation) continue;
      file->FreeLater(pages.back());
      pages.pop_back();
      add_page();
    }
    file->EndGeneration(generation);
    ASSERT_TRUE(Get(file->Commit(Content(generation, Extent::Of(4, 1)))).ok());
    if (round == 5) settled_blocks = file->allocator().total_blocks();
    if (round > 5) {
      EXPECT_EQ(file->allocator().total_blocks(), settled_blocks) << "round " << round;
    }
  }
  const uint64_t used = file->allocator().used_blocks();
  Close(file.get());
  FilePtr reopened = Open(true);
  EXPECT_LE(reopened->allocator().used_blocks(), used) << "spare blocks must not be used on disk";
  EXPECT_GE(reopened->allocator().used_blocks(), kPages);
  Close(reopened.get());
}

TEST_F(PartitionFileTest, AFullDiskLeavesTheCheckpointToBeTriedAgain) {
  FilePtr file = Open();
  std::vector<Extent> taken;
  for (;;) {  // take all free blocks; there is no room to grow
    machine_->disk().SetCapacity(machine_->disk().used_bytes());
    Result<Extent> e = Get(file->AllocateForWrite(1));
    if (!e.ok()) {
      EXPECT_EQ(e.code(), Code::kDiskFull) << e.status().ToString();
      break;
    }
    taken.push_back(*e);
  }
  file->EndGeneration(2);
  Status status = Get(file->Commit(Content(2, Extent::Of(4, 1))));
  EXPECT_EQ(status.code(), Code::kDiskFull) << status.ToString();
  EXPECT_EQ(file->superblock().generation, 1u);
  EXPECT_EQ(file->allocator().free_blocks(), 0u) << "the attempt kept or lost blocks";
  for (int i = 0; i < 8; ++i) {
    file->FreeNow(taken.back());
    taken.pop_back();
  }
  status = Get(file->Commit(Content(2, Extent::Of(4, 1))));
  EXPECT_TRUE(status.ok()) << status.ToString();
  Close(file.get());
  FilePtr reopened = Open(true);
  EXPECT_EQ(reopened->superblock().generation, 2u);
  Close(reopened.get());
}

}  // namespace
}  // namespace pando
