#include "src/buffer_pool/extent_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

constexpr uint64_t kGroup = ExtentAllocator::kGroupBlocks;

// A model with one flag per block: whether the block is in use.
class Model {
 public:
  void Grow(uint64_t blocks) { used_.resize(blocks, false); }
  uint64_t size() const { return used_.size(); }
  bool used(uint64_t block) const { return block >= used_.size() || used_[block]; }
  uint64_t free_blocks() const { return free_ = static_cast<uint64_t>(std::count(used_.begin(), used_.end(), false)); }

  // Flips the state of all blocks of the extent. Returns "" if they all had the other state before.
  std::string Set(Extent e, bool used) {
    if (e.block() / kGroup != (e.block() + e.blocks() - 1) / kGroup) return "an extent across two groups";
    for (uint64_t b = e.block(); b < e.block() + e.blocks(); ++b) {
      if (b >= used_.size()) return fmt::format("block {} lies past the end of the file", b);
      if (used_[b] == used) return fmt::format("block {} was {} already", b, used ? "in use" : "free");
      used_[b] = used;
    }
    return "";
  }

  // The longest run of free blocks within one group.
  uint32_t LongestRun() const {
    uint32_t longest = 0, run = 0;
    for (uint64_t b = 0; b < used_.size(); ++b) {
      run = used_[b] ? 0 : b % kGroup == 0 ? 1 : run + 1;
      longest = std::max(longest, run);
    }
    return longest;
  }

 private:
  std::vector<bool> used_;
  mutable uint64_t free_ = 0;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), blocks_(1 + random_.Below(2 * kGroup)), allocator_(blocks_) {
    model_.Grow(blocks_);
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const uint64_t choice = random_.Below(100);
      if (choice < (filling_ ? 70 : 30)) {
        random_.Chance(0.5) ? Allocate() : AllocateNear();
      } else if (choice < 97) {
        Free();
      } else if (choice == 97) {
        Grow();
      } else if (choice == 98) {
        Reload();
      } else {
        filling_ = !filling_;
      }
      if (i % 256 == 0) Compare();
    }
    Compare();
  }

 private:
  uint32_t RandomLength() {
    const uint64_t choice = random_.Below(100);
    if (choice < 70) return 1 + static_cast<uint32_t>(random_.Below(4));
    if (choice < 97) return 1 + static_cast<uint32_t>(random_.Below(300));
    return 1 + static_cast<uint32_t>(random_.Below(kMaxExtentBlocks));
  }

  void Allocate() {
    const uint32_t blocks = RandomLength();
    std::optional<Extent> got = allocator_.Allocate(blocks);
    if (!got) {
      EXPECT_LT(model_.LongestRun(), blocks) << "a run was not found";
      return;
    }
    EXPECT_EQ(got->blocks(), blocks);
    EXPECT_EQ(model_.Set(*got, true), "");
    EXPECT_TRUE(allocator_.group_changed(static_cast<uint32_t>(got->block() / kGroup)));
    live_.push_back(*got);
  }

  // Beside extents of which some may be free by now.
  void AllocateNear() {
    std::vector<Extent> near(random_.Below(ExtentAllocator::kMaxNeighbors + 2));
    const uint64_t around = random_.Below(blocks_ + 100);
    for (Extent& place : near) place = Extent::Of(around + random_.Below(200), 1);
    const Extent last = random_.Chance(0.5) ? Extent::Of(around, 1) : Extent{};
    const uint32_t blocks = 1 + static_cast<uint32_t>(random_.Below(random_.Chance(0.9) ? 4 : 80));
    const std::optional<Extent> got = allocator_.AllocateNear(blocks, last, near);
    if (!got) return;  // Allocate may still find a place
    EXPECT_EQ(got->blocks(), blocks);
    EXPECT_EQ(model_.Set(*got, true), "");
    EXPECT_TRUE(allocator_.group_changed(static_cast<uint32_t>(got->block() / kGroup)));
    live_.push_back(*got);
  }

  void Free() {
    if (live_.empty()) return;
    std::swap(live_[random_.Below(live_.size())], live_.back());
    const Extent e = live_.back();
    live_.pop_back();
    allocator_.ClearChanged(static_cast<uint32_t>(e.block() / kGroup));
    allocator_.Free(e);
    EXPECT_TRUE(allocator_.group_changed(static_cast<uint32_t>(e.block() / kGroup)));
    EXPECT_EQ(model_.Set(e, false), "");
  }

  void Grow() {
    if (blocks_ > 5 * kGroup / 2) return;
    blocks_ += random_.Chance(0.5) ? random_.Below(100) : random_.Below(kGroup / 2);
    allocator_.Grow(blocks_);
    model_.Grow(blocks_);
  }

  // Simulates a restart: a new allocator from the bitmaps, whose bits past the end of the file mean
  // nothing.
  void Reload() {
    ExtentAllocator loaded(blocks_);
    for (uint32_t g = 0; g < allocator_.group_count(); ++g) {
      std::string bitmap(kBlockBytes, '\0');
      allocator_.EncodeGroup(g, bitmap.data());
      for (uint64_t b = blocks_; b < (g + 1) * kGroup; ++b) {
        if (b < g * kGroup || random_.Chance(0.5)) continue;
        bitmap[b % kGroup / 8] = static_cast<char>(bitmap[b % kGroup / 8] | 1 << b % 8);
      }
      loaded.LoadGroup(g, bitmap.data());
      EXPECT_FALSE(loaded.group_changed(g));
    }
    allocator_ = std::move(loaded);
  }

  void Compare() {
    EXPECT_EQ(allocator_.total_blocks(), model_.size());
    EXPECT_EQ(allocator_.free_blocks(), model_.free_blocks());
    EXPECT_EQ(allocator_.used_blocks(), model_.size() - model_.free_blocks());
    uint64_t wrong = 0;
    for (uint32_t g = 0; g < allocator_.group_count(); ++g) {
      std::string bitmap(kBlockBytes, '\0');
      allocator_.EncodeGroup(g, bitmap.data());
      for (uint64_t b = 0; b < kGroup; ++b) {
        const bool bit = (static_cast<uint8_t>(bitmap[b / 8]) >> b % 8 & 1) != 0;
        const bool want = model_.used(g * kGroup + b);
        const bool stored = want && g * kGroup + b < blocks_;  // blocks past the end are stored as free
        wrong += bit != stored || allocator_.IsUsed(g * kGroup + b) != want;
      }
    }
    EXPECT_EQ(wrong, 0u) << "blocks differ from the model";
  }

  SimRandom random_;
  uint64_t blocks_;
  ExtentAllocator allocator_;
  Model model_;
  std::vector<Extent> live_;
  bool filling_ = true;
};

// A1: what is allocated was free in the model too, and is in use from then on.
TEST(ExtentAllocator, LikeThePlainModel) {
  for (uint64_t seed : Seeds(12)) {
    SCOPED_TRACE(Replay(seed));
    Simulation(seed).Run(4000);
    if (HasFailure()) return;
  }
}

TEST(ExtentAllocator, TheLastRunIsFoundWhereverTheSearchStands) {
  ExtentAllocator allocator(2 * kGroup);
  std::vector<Extent> all;
  while (auto e = allocator.Allocate(64)) all.push_back(*e);
  EXPECT_EQ(all.size(), 2 * kGroup / 64);
  EXPECT_EQ(allocator.free_blocks(), 0u);
  SimRandom random(3);
  for (int i = 0; i < 200; ++i) {
    // The halves of two neighboring extents make one whole run, at any distance from the cursor.
    const Extent e = all[random.Below(all.size() - 1)];
    if (e.block() % kGroup + 128 > kGroup) continue;
    allocator.Free(Extent::Of(e.block() + 32, 64));
    auto found = allocator.Allocate(64);
    ASSERT_TRUE(found.has_value()) << "block " << e.block();
    ASSERT_EQ(found->block(), e.block() + 32);
    ASSERT_EQ(allocator.Allocate(1), std::nullopt);
  }
}

TEST(ExtentAllocator, NoRunCrossesAGroup) {
  ExtentAllocator allocator(kGroup + 100);
  ASSERT_TRUE(allocator.Allocate(kMaxExtentBlocks).has_value());  // leaves one block of group 0
  EXPECT_EQ(allocator.free_blocks(), 101u);
  EXPECT_EQ(allocator.Allocate(101), std::nullopt);
  auto e = allocator.Allocate(100);
  ASSERT_TRUE(e.has_value());
  EXPECT_EQ(e->block(), kGroup);
}

TEST(ExtentAllocator, WhatIsWrittenTogetherLiesTogether) {
  ExtentAllocator allocator(1000);
  uint64_t next = allocator.Allocate(2)->block() + 2;
  for (int i = 0; i < 100; ++i) {
    auto e = allocator.Allocate(1 + i % 3);
    EXPECT_EQ(e->block(), next);
    next = e->block() + e->blocks();
  }
}

Extent Block(uint64_t block) { return Extent::Of(block, 1); }

TEST(ExtentAllocator, APageGoesToTheChunkWithMostOfItsNeighbors) {
  ExtentAllocator a(kGroup);
  for (const uint64_t block : {10, 11, 100, 101, 102, 104}) a.MarkUsed(Block(block));
  const std::vector<Extent> near = {Block(10), Block(104), Block(102)};
  EXPECT_EQ(a.AllocateNear(1, {}, near)->block() / 64, 1u) << "two of three";
  EXPECT_EQ(a.AllocateNear(1, Block(200), near)->block() / 64, 1u) << "it moves there";
  EXPECT_EQ(a.AllocateNear(4, {}, std::vector<Extent>{Block(104), Block(10)})->block() / 64, 1u) << "the closer one";
  EXPECT_EQ(a.AllocateNear(1, {}, {}), std::nullopt);
  EXPECT_EQ(a.AllocateNear(65, {}, near), std::nullopt) << "longer than a chunk";
  EXPECT_EQ(a.AllocateNear(1, Block(10), {})->block() / 64, 0u) << "where it was before, if it knows no neighbors";
}

// If the chunk with most neighbors is full, then the one with the next most, its own, and one with much room.
TEST(ExtentAllocator, APageOfAFullChunkFindsRoom) {
  ExtentAllocator a(2 * kGroup);
  for (uint64_t block = 0; block < 2 * kGroup; block += 64) a.MarkUsed(Extent::Of(block, 64));
  const std::vector<Extent> near = {Block(640), Block(641), Block(6400)};
  EXPECT_EQ(a.AllocateNear(1, Block(320), near), std::nullopt) << "all are full";
  a.Free(Extent::Of(kGroup + 6400, 63));
  EXPECT_EQ(a.AllocateNear(1, Block(320), near)->block() / 64, (kGroup + 6400) / 64) << "in another group";
  a.Free(Block(330));
  EXPECT_EQ(a.AllocateNear(1, Block(320), near), Block(330));
  a.Free(Block(6401));
  EXPECT_EQ(a.AllocateNear(1, Block(320), near), Block(6401));
  a.Free(Block(650));
  EXPECT_EQ(a.AllocateNear(1, Block(320), near), Block(650));
}

TEST(ExtentAllocator, APlaceIsBetterIfClearlyMoreNeighborsAreThere) {
  ExtentAllocator a(kGroup);
  a.MarkUsed(Extent::Of(0, 64));
  const std::vector<Extent> near = {Block(1), Block(65), Block(2), Block(66), Block(67)};
  EXPECT_TRUE(a.HasBetterPlace(Block(200), near)) << "three of them are in a chunk with room";
  EXPECT_FALSE(a.HasBetterPlace(Block(10), near)) << "one more is not worth a write";
  EXPECT_FALSE(a.HasBetterPlace(Block(70), near));
  EXPECT_FALSE(a.HasBetterPlace(Extent::Of(200, 65), near)) << "longer than a chunk";
  a.MarkUsed(Extent::Of(64, 56));
  EXPECT_FALSE(a.HasBetterPlace(Block(200), near)) << "others are told the same, so there must be room for several";
  a.Free(Block(80));
  EXPECT_TRUE(a.HasBetterPlace(Block(200), near));
}

// The pages of a parent whose chunks are full share chunks, and hardly with those of others. An eighth of the free
// space stays in chunks that are entirely free.
TEST(ExtentAllocator, PagesOfFullChunksShareChunksWithTheirSiblings) {
  ExtentAllocator a(kGroup);
  const uint64_t half = kGroup / 2;
  for (uint64_t block = 0; block < half; block += 64) a.MarkUsed(Extent::Of(block, 64));
  std::map<uint64_t, std::set<uint64_t>> homes_in, chunks_of;  // by chunk, and by home
  std::map<uint64_t, Extent> before;
  for (uint64_t i = 0; i < 40 * 64; ++i) {
    const uint64_t home = i % 64;                                         // 64 parents
    std::vector<Extent> near = {Block(home * 64), Block(home * 64 + 1)};  // and the one before, if any
    if (before.contains(home)) near.push_back(before.at(home));
    const std::optional<Extent> got = a.AllocateNear(1, {}, near);
    ASSERT_TRUE(got);
    before[home] = *got;
    homes_in[got->block() / 64].insert(home);
    chunks_of[home].insert(got->block() / 64);
  }
  for (const auto& [home, chunks] : chunks_of) EXPECT_LE(chunks.size(), 4u) << "home " << home;
  uint64_t pairs = 0;
  for (const auto& [chunk, homes] : homes_in) pairs += homes.size();
  EXPECT_LE(pairs, 3 * homes_in.size()) << "a chunk has pages of few parents";
  uint64_t free_chunks = 0;
  for (uint64_t block = half; block < kGroup; block += 64) free_chunks += !homes_in.contains(block / 64);
  EXPECT_GE(free_chunks * 64 * 4, a.free_blocks()) << "long runs need them";
}

// A page that finds no room beside its siblings opens a chunk that is entirely free rather than joining others.
TEST(ExtentAllocator, APageOfAFullChunkOpensAnotherOne) {
  ExtentAllocator a(kGroup);
  for (uint64_t block = 0; block < kGroup / 2; block += 64) a.MarkUsed(Extent::Of(block, block < 640 ? 64 : 8));
  const std::optional<Extent> got = a.AllocateNear(1, {}, std::vector<Extent>{Block(0)});
  ASSERT_TRUE(got);
  EXPECT_GE(got->block(), kGroup / 2);
}

// Of those, one that continues no run of free chunks.
TEST(ExtentAllocator, LongRunsAreLeftForLongExtents) {
  ExtentAllocator a(kGroup);
  a.MarkUsed(Extent::Of(0, 64));
  for (uint64_t block = 64; block < kGroup; block += 64) {
    if (block % (5 * 64) == 0) a.MarkUsed(Extent::Of(block, 64));
  }
  a.MarkUsed(Extent::Of(2 * 64, 64));  // so chunk 1 is alone
  const std::optional<Extent> got = a.AllocateNear(1, {}, std::vector<Extent>{Block(0)});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->block() / 64, 1u);
}

// If only a quarter of the free space is in chunks that are entirely free, others are filled.
TEST(ExtentAllocator, PagesOfFullChunksLeaveSomeFree) {
  ExtentAllocator a(kGroup);
  for (uint64_t block = 0; block < kGroup; block += 64) a.MarkUsed(Extent::Of(block, block < 640 ? 64 : 40));
  for (uint64_t block = 640; block < 640 + 8 * 64; block += 64) a.Free(Extent::Of(block, 40));
  ASSERT_LT(8 * 64 * 4u, a.free_blocks());
  const std::optional<Extent> got = a.AllocateNear(1, {}, std::vector<Extent>{Block(0)});
  ASSERT_TRUE(got);
  EXPECT_GE(got->block(), 640u + 8 * 64);
}

// A4, compared with a plain model: space set aside is free, is not allocated, and is returned once.
TEST(ExtentAllocator, WhatIsSetAsideIsFreeAndNotGivenOut) {
  constexpr uint64_t kBlocks = 3 * ExtentAllocator::kGroupBlocks / 2, kChunk = ExtentAllocator::kChunkBlocks;
  for (uint64_t seed : Seeds(2)) {
    SCOPED_TRACE(Replay(seed));
    std::mt19937_64 random(seed);
    ExtentAllocator allocator(kBlocks);
    std::vector<Extent> taken;
    std::set<uint64_t> aside, holes;  // first blocks of chunks
    for (int step = 0; step < 1000 && !testing::Test::HasFailure(); ++step) {
      const uint64_t choice = random() % 10;
      if (choice < 4) {
        std::optional<Extent> e = allocator.Allocate(1 + static_cast<uint32_t>(random() % 200));
        if (!e) continue;
        for (uint64_t b = e->block(); b < e->block() + e->blocks(); ++b) {
          EXPECT_FALSE(aside.contains(b / kChunk * kChunk)) << "block " << b << " is set aside";
        }
        taken.push_back(*e);
      } else if (choice < 7 && !taken.empty()) {
        std::swap(taken[random() % taken.size()], taken.back());
        allocator.Free(taken.back());
        taken.pop_back();
      } else if (choice == 7) {
        const bool free_too = random() % 3 > 0;
        std::optional<Extent> run = allocator.TakeToRelease(random() % 5000, free_too);
        if (!run) continue;
        EXPECT_EQ(run->block() % kChunk + run->blocks() % kChunk, 0u);
        const bool punched = random() % 4 > 0;
        for (uint64_t b = run->block(); b < run->block() + run->blocks(); b += kChunk) {
          EXPECT_FALSE(holes.contains(b)) << "a hole must be taken only once";
          EXPECT_TRUE(free_too || aside.contains(b));
          aside.insert(b);
          if (punched) holes.insert(b);
        }
        if (punched) allocator.NoteHole(*run);
      } else if (choice == 8) {
        const auto least = static_cast<uint32_t>(1 + random() % 300);
        std::optional<Extent> run = allocator.FindSetAside(least, 1024, Extent());
        if (!run) continue;
        EXPECT_GE(run->blocks(), least);
        for (uint64_t b = run->block(); b < run->block() + run->blocks(); b += kChunk) {
          EXPECT_EQ(aside.erase(b), 1u);
          holes.erase(b);
        }
        allocator.Return(*run);
      }
      uint64_t used = 0;
      for (Extent e : taken) used += e.blocks();
      ASSERT_EQ(allocator.used_blocks(), used);
      ASSERT_EQ(allocator.set_aside_blocks(), aside.size() * kChunk);
      ASSERT_EQ(allocator.hole_blocks(), holes.size() * kChunk);
      ASSERT_EQ(allocator.free_blocks(), kBlocks - used - aside.size() * kChunk);
    }
    // The stored bitmap says that it is free.
    std::string bitmap(kBlockBytes, '\0');
    for (uint32_t g = 0; g < allocator.group_count(); ++g) {
      allocator.EncodeGroup(g, bitmap.data());
      ExtentAllocator loaded(kBlocks);
      loaded.LoadGroup(g, bitmap.data());
      const uint64_t first = uint64_t{g} * ExtentAllocator::kGroupBlocks;
      for (uint64_t b = first; b < std::min(kBlocks, first + ExtentAllocator::kGroupBlocks); ++b) {
        ASSERT_EQ(loaded.IsUsed(b), allocator.IsUsed(b)) << "block " << b;
      }
    }
  }
}

// A5: the next process finds transient blocks free; this one does not.
TEST(ExtentAllocator, TransientBlocksAreStoredAsFree) {
  ExtentAllocator allocator(300);
  const Extent kept = *allocator.Allocate(70), transient = *allocator.Allocate(70);
  auto stored_as_used = [&](Extent e) {
    std::string bitmap(kBlockBytes, '\0');
    allocator.EncodeGroup(0, bitmap.data());
    ExtentAllocator loaded(300);
    loaded.LoadGroup(0, bitmap.data());
    uint32_t used = 0;
    for (uint64_t b = e.block(); b < e.block() + e.blocks(); ++b) used += loaded.IsUsed(b);
    return used;
  };
  allocator.ClearChanged(0);
  allocator.SetTransient(transient);
  allocator.SetTransient(transient);
  EXPECT_TRUE(allocator.group_changed(0));
  EXPECT_EQ(stored_as_used(kept), 70u);
  EXPECT_EQ(stored_as_used(transient), 0u);
  EXPECT_TRUE(allocator.IsUsed(transient.block()));
  allocator.Grow(ExtentAllocator::kGroupBlocks + 1);  // the bitmap in memory grows too
  allocator.ClearTransient(transient);
  allocator.ClearTransient(transient);
  EXPECT_EQ(stored_as_used(transient), 70u);
  allocator.SetTransient(transient);
  allocator.Free(transient);
  EXPECT_FALSE(allocator.IsUsed(transient.block()));
  allocator.MarkUsed(transient);
  EXPECT_EQ(stored_as_used(transient), 70u) << "a block that was freed is transient no longer";
}

TEST(ExtentAllocator, WhatMayHaveBeenAHoleIsSetAsideAtTheStart) {
  ExtentAllocator allocator(1000);
  allocator.MarkUsed(Extent::Of(0, 7));
  allocator.MarkUsed(Extent::Of(300, 1));
  allocator.SetAsideFreeChunks();
  EXPECT_EQ(allocator.set_aside_blocks(), 13 * 64u)
      << "of 15 whole chunks, only those without a used block are set aside";
  EXPECT_EQ(allocator.hole_blocks(), 0u);
  EXPECT_EQ(allocator.used_blocks(), 8u);
  EXPECT_FALSE(allocator.Allocate(64)) << "only 40 blocks after the last whole chunk and parts of used chunks are free";
  allocator.NoteHole(Extent::Of(64, 64));
  EXPECT_EQ(*allocator.FindSetAside(1, 64, Extent::Of(128, 64)), Extent::Of(192, 64)) << "neither a hole nor excepted";
  EXPECT_EQ(*allocator.FindSetAside(600, 10'000, Extent()), Extent::Of(320, 640));
}

using ExtentAllocatorDeathTest = testing::Test;

// A2: freeing a block that is not in use ends the process.
TEST(ExtentAllocatorDeathTest, WrongAccountingIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ExtentAllocator allocator(1000);
  allocator.MarkUsed(Extent::Of(10, 5));
  EXPECT_DEATH(allocator.MarkUsed(Extent::Of(14, 2)), "already in use");
  EXPECT_DEATH(allocator.Free(Extent::Of(9, 2)), "already free");
  EXPECT_DEATH(allocator.Free(Extent::Of(999, 2)), "past the end");
  allocator.Free(Extent::Of(10, 5));
  EXPECT_DEATH(allocator.Free(Extent::Of(10, 5)), "already free");
}

}  // namespace
}  // namespace pando
