#include "src/partition/superblock.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

const char* const kPath = "/data/partition-00003/data";

// Builds a superblock by hand, after docs/FORMAT.md, "Superblock".
std::string HandSuperblock(uint32_t format, uint64_t features, uint64_t generation, uint64_t lsn,
                           uint64_t log_end = 0x7'0000'2000, uint32_t seal_bytes = 0) {
  HandBytes b;
  b.Text("PPANDSB1").U32(format).U32(8192).U64(features);
  b.Uuid(0x0011223344556677, 0x8899aabbccddeeff).Uuid(0x0123456789abcdef, 0xfedcba9876543210);
  b.U64(generation).U64(3).U64(lsn).U64(0x1234567890).U64(77).U64(1024);
  b.U64(0x50002).U64(generation).U64(0xc0c0).U64(10).U64(11).U64(12).U64(13);  // root
  b.U32(2).U32(32768);
  b.U64(0x60001).U64(0xd0d0).U64(1);   // group directory
  b.U64(0x70001).U64(0xe0e0).U64(42);  // dead list
  EXPECT_EQ(b.size(), 216u);
  b.U64(log_end).U64(0xf0f0).U32(seal_bytes);
  return b.PadTo(4088).Checksum().str();
}

std::string Good(uint64_t generation, uint64_t lsn) { return HandSuperblock(2, 0, generation, lsn); }

const std::string kZeros(4096, '\0');
std::string Damaged(std::string block) {
  block[2000] ^= 1;
  return block;
}

struct Choice {
  Status status;
  Superblock superblock;
  Lsn older_lsn = 99;
};

Choice Choose(const std::string& copy0, const std::string& copy1, const std::string& copy2, const std::string& copy3) {
  Choice c;
  Result<Superblock> chosen = ChooseSuperblock(copy0 + copy1 + copy2 + copy3, kPath, &c.older_lsn);
  if (chosen.ok()) c.superblock = *chosen;
  if (!chosen.ok()) c.status = chosen.TakeStatus();
  return c;
}

void ExpectChosen(const Choice& c, Generation generation, Lsn older_lsn) {
  ASSERT_TRUE(c.status.ok()) << c.status.ToString();
  EXPECT_EQ(c.superblock.generation, generation);
  EXPECT_EQ(c.older_lsn, older_lsn);
}

std::string Judge(const std::string& copy0, const std::string& copy1, const std::string& copy2,
                  const std::string& copy3) {
  const Uuid node{0x0011223344556677, 0x8899aabbccddeeff}, partition{0x0123456789abcdef, 0xfedcba9876543210};
  std::string text;
  for (const SuperblockFault& f : JudgeSuperblocks(copy0 + copy1 + copy2 + copy3, node, partition)) {
    text += fmt::format("{}: {}; ", f.copy, f.what);
  }
  return text;
}

TEST(SuperblockFormat, EveryCopyIsJudged) {
  const std::string a = Good(6, 500), b = Good(7, 600);
  EXPECT_EQ(Judge(a, a, b, b), "");
  EXPECT_EQ(Judge(kZeros, kZeros, Good(1, 0), Good(1, 0)), "") << "a new file";
  EXPECT_EQ(Judge(a, Damaged(a), b, b), "1: checksum mismatch; ");
  EXPECT_EQ(Judge(kZeros, a, b, b), "0: empty, but generation 6 was written here; ");
  EXPECT_EQ(Judge(a, a, b, Good(5, 400)), "3: generation 5, but generation 7 was written here; ") << "a lost write";
  EXPECT_EQ(Judge(b, a, b, b), "0: generation 7 belongs in the other slot; ") << "a misdirected write";
  EXPECT_NE(Judge(a, a, HandSuperblock(3, 0, 7, 600), b), "");
  EXPECT_EQ(Judge(HandSuperblock(1, 0, 6, 500), HandSuperblock(1, 0, 6, 500), b, b), "") << "just upgraded";
}

TEST(SuperblockFormat, Golden) {
  const std::string want = Good(6, 500);
  Superblock sb;
  sb.page_bytes = 8192;
  sb.node = {0x0011223344556677, 0x8899aabbccddeeff};
  sb.partition = {0x0123456789abcdef, 0xfedcba9876543210};
  sb.generation = 6;
  sb.epoch = 3;
  sb.checkpoint_lsn = 500;
  sb.last_version = 0x1234567890;
  sb.next_page_id = 77;
  sb.file_blocks = 1024;
  sb.root = {Extent::Of(5, 2), 6, 0xc0c0, 10, 11, 12, 13};
  sb.root_level = 2;
  sb.group_blocks = 32768;
  sb.groups = {Extent::Of(6, 1), 0xd0d0, 1};
  sb.dead = {Extent::Of(7, 1), 0xe0e0, 42};
  sb.log_end = MakePosition(7, 8192);
  sb.chain = 0xf0f0;
  std::string block(4096, '#');
  EncodeSuperblock(sb, block.data());
  EXPECT_EQ(FirstDifference(want, block), "");
  Superblock parsed;
  ASSERT_TRUE(ParseSuperblock(want, &parsed).ok());
  EXPECT_EQ(std::memcmp(&parsed, &sb, sizeof(sb)), 0);
  // With room for a seal.
  sb.LeaveSeal(40);
  EncodeSuperblock(sb, block.data());
  const std::string want_seal = HandSuperblock(2, 1, 6, 500, MakePosition(7, 8192), 40);
  EXPECT_EQ(FirstDifference(want_seal, block), "");
  ASSERT_TRUE(ParseSuperblock(want_seal, &parsed).ok());
  EXPECT_EQ(parsed.seal_bytes, 40u);
}

// A build that does not know a seal of this size must not take its place for data.
TEST(SuperblockFormat, SealsOfAnotherSizeAreRefused) {
  Superblock parsed;
  EXPECT_EQ(ParseSuperblock(HandSuperblock(2, 1, 6, 500, 0, 48), &parsed).code(), Code::kVersion);
  EXPECT_EQ(ParseSuperblock(HandSuperblock(2, 1, 6, 500, 0, 0), &parsed).code(), Code::kVersion);
  EXPECT_EQ(ParseSuperblock(HandSuperblock(2, 0, 6, 500, 0, 40), &parsed).code(), Code::kVersion);
}

TEST(SuperblockFormat, WithoutTheLogEndItIsNotKnown) {
  Superblock parsed;
  ASSERT_TRUE(ParseSuperblock(HandSuperblock(1, 0, 6, 500, 0), &parsed).ok()) << "versions before 2 wrote this";
  EXPECT_EQ(parsed.log_end, 0u);
  EXPECT_EQ(parsed.checkpoint_lsn, 500u);
}

TEST(Superblock, EveryFlippedBitIsSeen) {
  std::string block = Good(6, 500);
  Superblock parsed;
  for (size_t bit = 0; bit < block.size() * 8; ++bit) {
    block[bit / 8] ^= static_cast<char>(1 << bit % 8);
    ASSERT_EQ(ParseSuperblock(block, &parsed).code(), Code::kCorruption) << "bit " << bit;
    block[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
}

TEST(Superblock, TheNewerSlotCounts) {
  ExpectChosen(Choose(Good(6, 60), Good(6, 60), Good(5, 50), Good(5, 50)), 6, 50);
  ExpectChosen(Choose(Good(6, 60), Good(6, 60), Good(7, 70), Good(7, 70)), 7, 60);
  ExpectChosen(Choose(kZeros, kZeros, Good(1, 10), Good(1, 10)), 1, 0);
}

TEST(Superblock, OneCopyOfASlotIsEnough) {
  ExpectChosen(Choose(Damaged(Good(6, 60)), Good(6, 60), Good(5, 50), Good(5, 50)), 6, 50);
  ExpectChosen(Choose(Good(6, 60), Damaged(Good(6, 60)), Good(5, 50), Damaged(Good(5, 50))), 6, 50);
  // The write of generation 8 stopped between the two copies, in either order.
  ExpectChosen(Choose(Good(8, 80), Good(6, 60), Good(7, 70), Good(7, 70)), 8, 70);
  ExpectChosen(Choose(Good(6, 60), Good(8, 80), Good(7, 70), Good(7, 70)), 8, 70);
}

TEST(Superblock, ATornNewestSlotFallsBackToTheOlder) {
  ExpectChosen(Choose(Damaged(Good(6, 60)), Damaged(Good(6, 60)), Good(5, 50), Good(5, 50)), 5, 0);
  ExpectChosen(Choose(Good(6, 60), Good(6, 60), Damaged(Good(7, 70)), kZeros), 6, 0);
  // The first copy is torn. The second is still the one from two generations ago, which is older
  // than the other slot.
  const std::string torn = Good(8, 80).substr(0, 512) + Good(6, 60).substr(512);
  ExpectChosen(Choose(torn, Good(6, 60), Good(7, 70), Good(7, 70)), 7, 60);
}

TEST(Superblock, WithoutAnIntactCopyTheFileAndEachOffsetIsNamed) {
  const std::string bad = Damaged(Good(6, 60));
  Choice c = Choose(bad, bad, std::string(4096, 'x'), bad);
  EXPECT_EQ(c.status.code(), Code::kCorruption);
  for (const char* part : {kPath, "offset 0: checksum", "offset 4096: checksum", "offset 8192: no superblock",
                           "offset 12288: checksum", "restore"}) {
    EXPECT_NE(c.status.message().find(part), std::string::npos) << part << " in " << c.status.ToString();
  }
  c = Choose(kZeros, kZeros, kZeros, kZeros);
  EXPECT_EQ(c.status.code(), Code::kCorruption);
  EXPECT_NE(c.status.message().find("all zeros"), std::string::npos) << c.status.ToString();
}

TEST(Superblock, EachSlotHasItsOwnOfTheFormatsThatAreRead) {
  const std::string old = HandSuperblock(1, 0, 7, 70);
  Choice c = Choose(Good(6, 60), Good(6, 60), old, old);
  ExpectChosen(c, 7, 60);
  EXPECT_EQ(c.superblock.format, 1u);
  c = Choose(Good(8, 80), Good(8, 80), old, old);
  ExpectChosen(c, 8, 70);
  EXPECT_EQ(c.superblock.format, 2u);
}

TEST(Superblock, AnotherVersionIsRefusedWhereverItIs) {
  for (const std::string& other :
       {HandSuperblock(0, 0, 4, 40), HandSuperblock(3, 0, 4, 40), HandSuperblock(2, 1ull << 40, 4, 40)}) {
    for (size_t at = 0; at < 4; ++at) {
      std::string copies[4] = {Good(6, 60), Good(6, 60), Good(5, 50), Damaged(Good(5, 50))};
      copies[at] = other;
      Choice c = Choose(copies[0], copies[1], copies[2], copies[3]);
      EXPECT_EQ(c.status.code(), Code::kVersion) << c.status.ToString();
      EXPECT_NE(c.status.message().find(kPath), std::string::npos) << c.status.ToString();
      EXPECT_NE(c.status.message().find(fmt::format("offset {}:", at * 4096)), std::string::npos)
          << c.status.ToString();
    }
  }
  // A damaged copy of another version counts as damage.
  ExpectChosen(Choose(Damaged(HandSuperblock(3, 0, 6, 60)), Good(6, 60), Good(5, 50), Good(5, 50)), 6, 50);
}

}  // namespace
}  // namespace pando
