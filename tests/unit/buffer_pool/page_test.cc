#include "src/buffer_pool/page.h"

#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <random>
#include <vector>

#include "src/base/hash.h"
#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

constexpr uint64_t kHi = 0x0011223344556677, kLo = 0x8899aabbccddeeff;

// The header fields that vary between pages (docs/FORMAT.md, "Page").
struct HeaderFields {
  uint64_t format = 1, level = 0, compression = 0, heat = 0, stored_bytes = 0, heap_begin = 0, heap_dead = 0, slots = 0;
};

HandBytes Header(const HeaderFields& f) {
  HandBytes h;
  h.Text("PDPG").U8(f.format).U8(f.level).U8(f.compression).U8(f.heat);
  h.U32(f.stored_bytes).U32(f.heap_begin).U32(f.heap_dead);
  h.U16(f.slots).U16(3).U16(4).U16(5).U16(0x0fe0).U16(0x0fd0);
  h.U8(1).Zeros(7).U64(0x1122334455667788).U64(0x99aabbccddeeff00);
  EXPECT_EQ(h.size(), 56u);
  return h;
}

constexpr uint32_t kPage = 8192;

// An in-memory page with `slots` slots and a heap of `heap_bytes`. `at` supplies byte i of each.
std::string PageInMemory(uint32_t slots, uint32_t heap_bytes, char (*at)(size_t)) {
  std::string page = Header({.heat = 3, .heap_begin = kPage - heap_bytes, .heap_dead = 9, .slots = slots}).str();
  for (uint32_t i = 0; i < slots * 8; ++i) page.push_back(at(i));
  page.resize(kPage - heap_bytes, '?');  // the gap may hold anything
  for (uint32_t i = 0; i < heap_bytes; ++i) page.push_back(at(slots * 8 + i));
  return page;
}

std::string BodyOf(const std::string& page, uint32_t slots, uint32_t heap_bytes) {
  return page.substr(56, slots * 8) + page.substr(kPage - heap_bytes);
}

char Letter(size_t i) { return static_cast<char>('a' + i % 26); }
char Noise(size_t i) { return static_cast<char>(Hash64({reinterpret_cast<const char*>(&i), sizeof(i)})); }

std::string Encode(const std::string& page, Compression compression) {
  std::string image(kPage, '#'), scratch(kPage, '\0');
  const uint32_t blocks = EncodePageImage(page.data(), kPage, compression, image.data(), scratch.data());
  image.resize(blocks * 4096);
  return image;
}

Status Decode(std::string* image) {
  const uint32_t blocks = static_cast<uint32_t>(image->size() / 4096);
  image->resize(kPage);
  std::string scratch(kPage, '\0');
  return DecodePageImage(image->data(), kPage, blocks, scratch.data());
}

// The expected in-memory form: the header without its on-disk fields, then slots and heap in their
// original places.
void ExpectInMemory(const std::string& image, const std::string& page, uint32_t slots, uint32_t heap_bytes) {
  const std::string header = Header({.heap_begin = kPage - heap_bytes, .heap_dead = 9, .slots = slots}).str();
  EXPECT_EQ(FirstDifference(header, image.substr(0, 56)), "");
  EXPECT_EQ(FirstDifference(BodyOf(page, slots, heap_bytes), BodyOf(image, slots, heap_bytes)), "");
}

TEST(PageFormat, GoldenReferences) {
  EXPECT_EQ(Extent::Of(0x123456789abc, 0x7fff).packed, 0x123456789abc7fff);
  EXPECT_EQ(Extent{0x50003}.block(), 5u);
  EXPECT_EQ(Extent{0x50003}.blocks(), 3u);
  EXPECT_EQ(Extent{0x50003}.offset_bytes(), 20480u);
  EXPECT_EQ(Extent{0x50003}.size_bytes(), 12288u);
  ChildRef ref;
  ref.location = Extent::Of(5, 3);
  ref.birth = 7;
  ref.checksum = 0x0102030405060708;
  ref.count = 9;
  ref.bytes = 10;
  ref.content_hash = 11;
  ref.earliest_expiry_ms = -2;
  const std::string want =
      HandBytes().U64(0x50003).U64(7).U64(0x0102030405060708).U64(9).U64(10).U64(11).U64(~1ull).str();
  EXPECT_EQ(FirstDifference(want, {reinterpret_cast<const char*>(&ref), sizeof(ref)}), "");
}

TEST(PageFormat, GoldenChecksumSeed) {
  EXPECT_EQ(ChecksumSeed({kHi, kLo}, 77), HandSeed(kHi, kLo, 77));
  EXPECT_EQ(ChecksumSeed({kHi, kLo}, 77), 2906748788721147472u);
  EXPECT_NE(ChecksumSeed({kHi, kLo}, 78), ChecksumSeed({kHi, kLo}, 77));
  EXPECT_NE(ChecksumSeed({kLo, kHi}, 77), ChecksumSeed({kHi, kLo}, 77));
}

TEST(PageFormat, GoldenPlainImage) {
  const std::string page = PageInMemory(2, 10, Letter);
  HandBytes want = Header({.stored_bytes = 82, .heap_begin = kPage - 10, .heap_dead = 9, .slots = 2});
  want.Text("abcdefghijklmnop").Text("qrstuvwxyz").PadTo(4096);
  // The image takes a single block, so compression cannot save one.
  for (Compression c : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    std::string image = Encode(page, c);
    EXPECT_EQ(FirstDifference(want.str(), image), "");
    EXPECT_TRUE(Decode(&image).ok());
    ExpectInMemory(image, page, 2, 10);
  }
}

// The bodies are built without the libraries: stored uncompressed, in the framing of each format.
TEST(PageFormat, GoldenCompressedImages) {
  const uint32_t slots = 1, heap = 300, body_bytes = 308;
  const std::string page = PageInMemory(slots, heap, Letter), body = BodyOf(page, slots, heap);
  HandBytes lz4;  // one sequence: a token for 15 or more literals, then the literals
  lz4.U8(0xf0).U8(255).U8(body_bytes - 15 - 255).Text(body);
  HandBytes zstd;  // a frame of known size (single segment) with one raw last block
  zstd.U32(0xfd2fb528).U8(0x60).U16(body_bytes - 256).U16(1 | (body_bytes << 3 & 0xffff)).U8(0).Text(body);
  for (auto& [compression, bytes] : {std::pair{1, lz4.str()}, std::pair{2, zstd.str()}}) {
    HandBytes image = Header({.compression = static_cast<uint64_t>(compression),
                              .stored_bytes = 56 + bytes.size(),
                              .heap_begin = kPage - heap,
                              .heap_dead = 9,
                              .slots = slots});
    std::string decoded = image.Text(bytes).PadTo(4096).str();
    Status status = Decode(&decoded);
    ASSERT_TRUE(status.ok()) << status.ToString();
    ExpectInMemory(decoded, page, slots, heap);
  }
}

TEST(PageFormat, CompressionsHaveNames) {
  for (Compression c : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    Result<Compression> parsed = ParseCompression(CompressionName(c));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, c);
  }
  EXPECT_EQ(ParseCompression("gzip").status().message(), "\"gzip\" is not none, lz4 or zstd");
  EXPECT_FALSE(ParseCompression("").ok());
}

TEST(PageFormat, CompressesOnlyWhatSavesABlock) {
  const uint32_t slots = 20, heap = 5000;
  const std::string text = PageInMemory(slots, heap, Letter), noise = PageInMemory(slots, heap, Noise);
  for (Compression c : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    std::string image = Encode(noise, c);
    EXPECT_EQ(image.size(), 8192u);
    EXPECT_EQ(image[6], 0) << "compressed without saving a block";
    EXPECT_TRUE(Decode(&image).ok());
    ExpectInMemory(image, noise, slots, heap);

    image = Encode(text, c);
    EXPECT_EQ(image.size(), c == Compression::kNone ? 8192u : 4096u);
    EXPECT_EQ(image[6], static_cast<char>(c));
    if (c != Compression::kNone) {
      // The bytes after the header are in the plain format of the library, so its own decoder reads
      // them.
      uint32_t stored = 0;
      std::memcpy(&stored, image.data() + 8, 4);
      std::string body(slots * 8 + heap, '\0');
      const int room = static_cast<int>(body.size());
      if (c == Compression::kLz4) {
        EXPECT_EQ(LZ4_decompress_safe(image.data() + 56, body.data(), static_cast<int>(stored - 56), room), room);
      } else {
        EXPECT_EQ(ZSTD_decompress(body.data(), body.size(), image.data() + 56, stored - 56), body.size());
      }
      EXPECT_EQ(FirstDifference(BodyOf(text, slots, heap), body), "");
      EXPECT_EQ(image.substr(stored), std::string(4096 - stored, '\0'));
    }
    EXPECT_TRUE(Decode(&image).ok());
    ExpectInMemory(image, text, slots, heap);
  }
}

TEST(PageFormat, MalformedImagesAreRefused) {
  const std::string good = Encode(PageInMemory(2, 10, Letter), Compression::kNone);
  struct Case {
    const char* what;
    size_t offset;
    std::string bytes;
    Code code;
  };
  const Case cases[] = {
      {"magic", 0, "QDPG", Code::kCorruption},
      {"another format", 4, HandBytes().U8(2).str(), Code::kVersion},
      {"another compression", 6, HandBytes().U8(3).str(), Code::kVersion},
      {"stored bytes beyond its blocks", 8, HandBytes().U32(4097).str(), Code::kCorruption},
      {"stored bytes below the header", 8, HandBytes().U32(55).str(), Code::kCorruption},
      {"stored bytes of another heap", 8, HandBytes().U32(83).str(), Code::kCorruption},
      {"heap past the end of the page", 12, HandBytes().U32(kPage + 1).str(), Code::kCorruption},
      {"heap inside the slots", 12, HandBytes().U32(56).str(), Code::kCorruption},
      {"a heap that was not stored", 12, HandBytes().U32(kPage - 11).str(), Code::kCorruption},
      {"more slots than fit", 20, HandBytes().U16(0xffff).str(), Code::kCorruption},
      {"not LZ4", 6, HandBytes().U8(1).str(), Code::kCorruption},
      {"not zstd", 6, HandBytes().U8(2).str(), Code::kCorruption},
  };
  for (const Case& c : cases) {
    std::string image = good;
    image.replace(c.offset, c.bytes.size(), c.bytes);
    Status status = Decode(&image);
    EXPECT_EQ(status.code(), c.code) << c.what << ": " << status.ToString();
  }
}

// A length that differs from that of the compressed bytes.
TEST(PageFormat, CompressedBodiesOfAnotherLengthAreRefused) {
  for (Compression c : {Compression::kLz4, Compression::kZstd}) {
    const std::string good = Encode(PageInMemory(20, 5000, Letter), c);
    for (int delta : {-1, 1}) {
      std::string image = good;
      const uint32_t heap_begin = static_cast<uint32_t>(static_cast<int>(kPage) - 5000 + delta);
      image.replace(12, 4, HandBytes().U32(heap_begin).str());
      EXPECT_EQ(Decode(&image).code(), Code::kCorruption) << static_cast<int>(c) << " " << delta;
    }
  }
}

TEST(PageFormat, EveryPageSizeComesBack) {
  std::mt19937_64 random(7);
  for (uint32_t page_bytes = kMinPageBytes; page_bytes <= kMaxPageBytes; page_bytes *= 2) {
    for (int round = 0; round < 30; ++round) {
      const uint32_t seal_bytes = round / 3 % 2 == 0 ? kSealBytes : 0, usable = UsablePageBytes(page_bytes, seal_bytes);
      const uint32_t slots = static_cast<uint32_t>(random() % (page_bytes / 16));
      const uint32_t heap = static_cast<uint32_t>(random() % (usable - 56 - slots * 8 + 1));
      std::string page = Header({.heap_begin = usable - heap, .slots = slots}).str();
      while (page.size() < page_bytes) page.push_back(static_cast<char>('a' + random() % (round % 2 ? 2 : 256)));
      std::string image(page_bytes, '#'), scratch(page_bytes, '\0');
      const auto compression = static_cast<Compression>(round % 3);
      const uint32_t blocks = EncodePageImage(page.data(), usable, compression, image.data(), scratch.data());
      std::string read(page_bytes, '\0');
      std::memcpy(read.data(), image.data(), blocks * 4096);
      ASSERT_TRUE(DecodePageImage(read.data(), usable, blocks, scratch.data()).ok());
      const uint32_t front = 56 + slots * 8;
      ASSERT_EQ(FirstDifference(page.substr(0, front), read.substr(0, front)), "") << page_bytes << " " << round;
      ASSERT_EQ(FirstDifference(page.substr(usable - heap, heap), read.substr(usable - heap, heap)), "");
    }
  }
}

}  // namespace
}  // namespace pando
