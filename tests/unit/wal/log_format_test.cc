#include "src/wal/log_format.h"

#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

#include <cstring>
#include <vector>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {
namespace {

constexpr Uuid kNode{0x0011223344556677, 0x8899aabbccddeeff};
constexpr Uuid kPartition{0x0123456789abcdef, 0xfedcba9876543210};

BatchHeader SomeHeader(uint64_t segment, uint64_t offset) {
  BatchHeader h{};
  h.flags = kBatchEndsGroup;
  h.record_count = 3;
  h.segment_number = segment;
  h.position = MakePosition(segment, offset);
  h.previous_end = MakePosition(segment, offset) - 8;
  h.durable_position = MakePosition(segment, offset) - 8;
  h.previous_checksum = 0xabcdef;
  return h;
}

// A unit of two records, a mark and a cut.
std::string SomePayload() {
  WriteUnit unit{3, 41, 2, 0x1111, 0, "12345"};
  unit.chain_after = UnitChain(unit);
  std::string payload(UnitBytes(5) + kMarkBytes + kCutBytes, '\0');
  char* end = EncodeUnit(kPartition, unit, kUnitStartsAnew, payload.data());
  end = EncodeMark({kPartition, 3, 38, 40, 30, 0x0102030405060708}, end);
  EncodeCut({kPartition, {2, 39, 0x2222}}, end);
  return payload;
}

uint64_t PutBatch(const BatchHeader& header, uint64_t seed, std::string_view payload, char* out) {
  std::memcpy(out + kBatchOverhead, payload.data(), payload.size());
  return SealBatch(header, seed, payload.size(), out);
}

// docs/FORMAT.md, "Log". A change here changes the format: raise kLogFormatVersion.
TEST(LogFormat, GoldenSegmentHeader) {
  std::string block(kBlockBytes, 'x');
  EncodeSegmentHeader(kNode, 42, 8u << 20, block.data());
  EXPECT_EQ(Hex(block.substr(0, sizeof(SegmentHeader))),
            "f94429adebaf1b9550414e444f53454706000000000000007766554433221100ffeeddccbbaa99882a00000000000000"
            "0000800000000000");
  EXPECT_EQ(block.substr(sizeof(SegmentHeader)), std::string(kBlockBytes - sizeof(SegmentHeader), '\0'));
  EXPECT_EQ(SegmentFileName(42), "segment-00000000000000000042.wal");
}

TEST(LogFormat, GoldenBatch) {
  const std::string payload = SomePayload();
  std::string out(BatchBytes(payload.size()), 'x');
  PutBatch(SomeHeader(42, 8192), LogChecksumSeed(kNode), payload, out.data());
  EXPECT_EQ(out.size(), 120u + 40 + 72 + 72 + 56);
  EXPECT_EQ(Hex(out),
            "0e82ffe05852c6c750414e444f4241540600000001000000c80000000300000000000000000000000000000000000000"
            "0000000000000000000000000000000000000000000000002a00000000000000002000002a000000f81f00002a000000"
            "f81f00002a000000efcdab00000000000000000000000000000000000000000000000000000000000000000000000000"
            "0000000000000000000000000000000001020100050000000200000000000000efcdab89674523011032547698badcfe"
            "030000000000000029000000000000001111000000000000e07dc1e1ac2dc82e31323334350000000200000000000000"
            "0000000000000000efcdab89674523011032547698badcfe030000000000000026000000000000002800000000000000"
            "1e00000000000000080706050403020103000000000000000000000000000000efcdab89674523011032547698badcfe"
            "020000000000000027000000000000002222000000000000");
}

// Only a unit that begins with an operation of record format 3 or 4 says that it has that format.
TEST(LogFormat, UnitsSayTheOldestFormatThatTheirRecordsHave) {
  for (const auto& [first, format] : {std::pair('\x01', 2), std::pair('\x08', 2), std::pair('\x09', 3),
                                      std::pair('\x0a', 3), std::pair('\x0b', 4), std::pair('\x0c', 2)}) {
    const std::string records = std::string(1, first) + "more";
    WriteUnit unit{3, 41, 2, 0x1111, 0, records};
    unit.chain_after = UnitChain(unit);
    std::string payload(UnitBytes(records.size()), '\0');
    EncodeUnit(kPartition, unit, 0, payload.data());
    EXPECT_EQ(payload[offsetof(UnitHeader, record_format)], format);
    PayloadReader reader(payload);
    EXPECT_EQ(reader.Next(), PayloadReader::Item::kUnit);
    payload[offsetof(UnitHeader, record_format)] = 5;
    EXPECT_EQ(PayloadReader(payload).Next(), PayloadReader::Item::kDamaged);
  }
}

// Version 1 must stay readable. Never change these bytes.
TEST(LogFormat, VersionOneIsRead) {
  std::string block = FromHex(
      "169fa6614b01f46750414e444f53454701000000000000007766554433221100ffeeddccbbaa99882a00000000000000"
      "0000800000000000");
  block.resize(kBlockBytes, '\0');
  SegmentHeader header;
  ASSERT_EQ(DecodeSegmentHeader(block, &header), HeaderState::kValid);
  EXPECT_EQ(header.segment_number, 42u);
  std::string image(8192, '\0');
  image += FromHex(
      "2ef20793be16202f50414e444f42415401000000010000000500000002000000efcdab89674523011032547698badcfe"
      "0300000000000000290000000000000028000000000000002a00000000000000002000002a000000f81f00002a000000"
      "f81f00002a000000efcdab000000000000000000000000003132333435000000");
  BatchView view;
  ASSERT_EQ(DecodeBatch(image, 42, 8192, LogChecksumSeed(kNode), &view), BatchState::kValid);
  EXPECT_EQ(view.payload, "12345");
  EXPECT_EQ(view.header.first_lsn, 41u);
}

// The same for version 5.
TEST(LogFormat, VersionFiveIsRead) {
  std::string image(8192, '\0');
  image += FromHex(
      "33c0b31b5688d5e250414e444f4241540500000001000000c80000000300000000000000000000000000000000000000"
      "0000000000000000000000000000000000000000000000002a00000000000000002000002a000000f81f00002a000000"
      "f81f00002a000000efcdab00000000000000000000000000000000000000000000000000000000000000000000000000"
      "0000000000000000000000000000000001020100050000000200000000000000efcdab89674523011032547698badcfe"
      "030000000000000029000000000000001111000000000000e07dc1e1ac2dc82e31323334350000000200000000000000"
      "0000000000000000efcdab89674523011032547698badcfe030000000000000026000000000000002800000000000000"
      "1e00000000000000080706050403020103000000000000000000000000000000efcdab89674523011032547698badcfe"
      "020000000000000027000000000000002222000000000000");
  BatchView view;
  ASSERT_EQ(DecodeBatch(image, 42, 8192, LogChecksumSeed(kNode), &view), BatchState::kValid);
  EXPECT_EQ(view.payload, SomePayload());
}

// The same for version 3.
TEST(LogFormat, VersionThreeIsRead) {
  std::string image(8192, '\0');
  image += FromHex(
      "bce8fb6f265a260c50414e444f4241540300000001000000900000000200000000000000000000000000000000000000"
      "0000000000000000000000000000000000000000000000002a00000000000000002000002a000000f81f00002a000000"
      "f81f00002a000000efcdab00000000000000000000000000000000000000000000000000000000000000000000000000"
      "0000000000000000000000000000000001010100050000000200000000000000efcdab89674523011032547698badcfe"
      "030000000000000029000000000000001111000000000000e07dc1e1ac2dc82e31323334350000000200000000000000"
      "0000000000000000efcdab89674523011032547698badcfe030000000000000026000000000000002800000000000000"
      "1e000000000000000807060504030201");
  BatchView view;
  ASSERT_EQ(DecodeBatch(image, 42, 8192, LogChecksumSeed(kNode), &view), BatchState::kValid);
  PayloadReader reader(view.payload);
  ASSERT_EQ(reader.Next(), PayloadReader::Item::kUnit);
  EXPECT_EQ(reader.unit.records, "12345");
  ASSERT_EQ(reader.Next(), PayloadReader::Item::kMark);
  EXPECT_EQ(reader.mark.commit_lsn, 38u);
}

// And for version 4, in which a batch has no cuts.
TEST(LogFormat, VersionFourIsRead) {
  std::string image(8192, '\0');
  image += FromHex(
      "9d584afe035ad2fd50414e444f4241540400000001000000900000000200000000000000000000000000000000000000"
      "0000000000000000000000000000000000000000000000002a00000000000000002000002a000000f81f00002a000000"
      "f81f00002a000000efcdab00000000000000000000000000000000000000000000000000000000000000000000000000"
      "0000000000000000000000000000000001020100050000000200000000000000efcdab89674523011032547698badcfe"
      "030000000000000029000000000000001111000000000000e07dc1e1ac2dc82e31323334350000000200000000000000"
      "0000000000000000efcdab89674523011032547698badcfe030000000000000026000000000000002800000000000000"
      "1e000000000000000807060504030201");
  BatchView view;
  ASSERT_EQ(DecodeBatch(image, 42, 8192, LogChecksumSeed(kNode), &view), BatchState::kValid);
  PayloadReader reader(view.payload);
  ASSERT_EQ(reader.Next(), PayloadReader::Item::kUnit);
  EXPECT_EQ(reader.unit.first_lsn, 41u);
  ASSERT_EQ(reader.Next(), PayloadReader::Item::kMark);
  EXPECT_EQ(reader.mark.hlc, 0x0102030405060708u);
  EXPECT_EQ(reader.Next(), PayloadReader::Item::kEnd);
}

TEST(LogFormat, FileNames) {
  EXPECT_EQ(ParseSegmentFileName(SegmentFileName(1)), 1u);
  EXPECT_EQ(ParseSegmentFileName(SegmentFileName(kMaxSegmentNumber)), kMaxSegmentNumber);
  for (const char* name : {"", "segment-1.wal", "segment-00000000000000000000.wal", "segment-0000000000000000000x.wal",
                           "segment-99999999999999999999.wal", "segment-00000000000000000001.tmp",
                           "segment--0000000000000000001.wal", "preparing.tmp"}) {
    EXPECT_EQ(ParseSegmentFileName(name), std::nullopt) << name;
  }
}

TEST(LogFormat, PositionsGrowAlongTheLog) {
  EXPECT_LT(MakePosition(1, kMaxSegmentBytes), MakePosition(2, 0));
  EXPECT_EQ(PositionSegment(MakePosition(kMaxSegmentNumber, 4096)), kMaxSegmentNumber);
  EXPECT_EQ(PositionOffset(MakePosition(kMaxSegmentNumber, 4096)), 4096u);
}

TEST(LogFormat, EveryFlippedBitOfAHeaderBlockIsSeen) {
  std::string block(kBlockBytes, '\0');
  EncodeSegmentHeader(kNode, 7, 1u << 20, block.data());
  SegmentHeader header;
  ASSERT_EQ(DecodeSegmentHeader(block, &header), HeaderState::kValid);
  EXPECT_EQ(header.node, kNode);
  EXPECT_EQ(header.segment_number, 7u);
  for (size_t bit = 0; bit < block.size() * 8; ++bit) {
    block[bit / 8] ^= static_cast<char>(1 << bit % 8);
    ASSERT_EQ(DecodeSegmentHeader(block, &header), HeaderState::kDamaged) << "bit " << bit;
    block[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
  EXPECT_EQ(DecodeSegmentHeader(std::string_view(block).substr(0, 4095), &header), HeaderState::kDamaged);
}

// Recomputes the checksum after a deliberate change.
void FixHeaderChecksum(std::string* block) {
  StoreLE(block->data(), Hash64(std::string_view(*block).substr(8, kBlockBytes - 8)));
}

TEST(LogFormat, AnotherVersionIsToldFromDamage) {
  std::string block(kBlockBytes, '\0');
  EncodeSegmentHeader(kNode, 7, 1u << 20, block.data());
  StoreLE<uint16_t>(block.data() + offsetof(SegmentHeader, format_version), kLogFormatVersion + 1);
  FixHeaderChecksum(&block);
  SegmentHeader header;
  EXPECT_EQ(DecodeSegmentHeader(block, &header), HeaderState::kOtherVersion);
  EXPECT_EQ(header.format_version, kLogFormatVersion + 1);
  EncodeSegmentHeader(kNode, 7, 1u << 20, block.data());
  StoreLE<uint64_t>(block.data() + offsetof(SegmentHeader, segment_bytes), ~0ull);
  FixHeaderChecksum(&block);
  EXPECT_EQ(DecodeSegmentHeader(block, &header), HeaderState::kDamaged);
}

class BatchImage : public testing::Test {
 protected:
  static constexpr uint64_t kSegment = 5, kOffset = 4096;
  BatchImage() : image_(16384, '\0'), seed_(LogChecksumSeed(kNode)) {}
  void Put(BatchHeader header, std::string payload = SomePayload()) {
    PutBatch(header, seed_, payload, image_.data() + kOffset);
  }
  BatchState State() {
    BatchView view;
    return DecodeBatch(image_, kSegment, kOffset, seed_, &view);
  }
  std::string image_;
  uint64_t seed_;
};

TEST_F(BatchImage, RoundTrips) {
  BatchHeader header = SomeHeader(kSegment, kOffset);
  Put(header);
  BatchView view;
  ASSERT_EQ(DecodeBatch(image_, kSegment, kOffset, seed_, &view), BatchState::kValid);
  EXPECT_EQ(view.payload, SomePayload());
  PayloadReader items(view.payload);
  ASSERT_EQ(items.Next(), PayloadReader::Item::kUnit);
  EXPECT_EQ(items.partition, kPartition);
  EXPECT_EQ(items.unit.first_lsn, 41u);
  EXPECT_EQ(items.unit.last_lsn(), 42u);
  EXPECT_EQ(items.unit.records, "12345");
  EXPECT_EQ(items.unit.chain_after, UnitChain(items.unit));
  ASSERT_EQ(items.Next(), PayloadReader::Item::kMark);
  EXPECT_EQ(items.mark.durable_lsn, 40u);
  EXPECT_EQ(items.mark.hlc, 0x0102030405060708u);
  ASSERT_EQ(items.Next(), PayloadReader::Item::kCut);
  EXPECT_EQ(items.cut.partition, kPartition);
  EXPECT_EQ(items.cut.after.epoch, 2u);
  EXPECT_EQ(items.cut.after.lsn, 39u);
  EXPECT_EQ(items.cut.after.chain, 0x2222u);
  EXPECT_EQ(items.Next(), PayloadReader::Item::kEnd);
  EXPECT_EQ(view.header.durable_position, header.durable_position);
}

TEST_F(BatchImage, EveryFlippedBitIsSeen) {
  Put(SomeHeader(kSegment, kOffset));
  for (size_t bit = 0; bit < (kBatchOverhead + SomePayload().size()) * 8; ++bit) {
    char& byte = image_[kOffset + bit / 8];
    byte ^= static_cast<char>(1 << bit % 8);
    ASSERT_NE(State(), BatchState::kValid) << "bit " << bit;
    byte ^= static_cast<char>(1 << bit % 8);
  }
  EXPECT_EQ(State(), BatchState::kValid);
}

TEST_F(BatchImage, JudgesWhatIsNoBatchOfThisPlace) {
  EXPECT_EQ(State(), BatchState::kNothing);
  Put(SomeHeader(kSegment - 1, kOffset));
  EXPECT_EQ(State(), BatchState::kStale);
  Put(SomeHeader(kSegment, kOffset + 4096));  // misdirected
  EXPECT_EQ(State(), BatchState::kDamaged);
  Put(SomeHeader(kSegment, kOffset));
  BatchView view;
  EXPECT_EQ(DecodeBatch(image_, kSegment, kOffset, LogChecksumSeed(kPartition), &view), BatchState::kDamaged)
      << "a batch of another node";
  EXPECT_EQ(DecodeBatch(image_, kSegment, image_.size() - 8, seed_, &view), BatchState::kNothing);
  EXPECT_EQ(DecodeBatch(image_, kSegment, image_.size() + 8, seed_, &view), BatchState::kNothing);
  EXPECT_EQ(DecodeBatch(std::string_view(image_).substr(0, kOffset + sizeof(BatchHeader) + 6), kSegment, kOffset, seed_,
                        &view),
            BatchState::kDamaged)
      << "longer than the segment";
}

TEST_F(BatchImage, ContradictionsUnderAGoodChecksumAreDamage) {
  auto state_with = [&](auto change, std::string payload = SomePayload()) {
    BatchHeader header = SomeHeader(kSegment, kOffset);
    change(header);
    Put(header, std::move(payload));
    return State();
  };
  EXPECT_EQ(state_with([](BatchHeader&) {}), BatchState::kValid);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.flags |= 0x80; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.flags = 0; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.durable_position = h.position + 8; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.previous_end = h.position + 8; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.record_count = 2; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.partition = kPartition; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.first_lsn = 1; }), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader&) {}, ""), BatchState::kDamaged);
  EXPECT_EQ(state_with([](BatchHeader& h) { h.flags |= kBatchCut; }), BatchState::kDamaged);
}

// Every byte of an item that has only one correct value.
TEST_F(BatchImage, ItemsThatContradictThemselvesAreDamage) {
  auto state_with = [&](size_t at, char byte) {
    std::string payload = SomePayload();
    payload[at] = byte;
    Put(SomeHeader(kSegment, kOffset), std::move(payload));
    return State();
  };
  const size_t mark = UnitBytes(5), cut = mark + kMarkBytes;
  EXPECT_EQ(state_with(0, 1), BatchState::kValid);
  for (const size_t at : {size_t{0}, size_t{1}, size_t{2}, size_t{12}, sizeof(UnitHeader) + 5, mark, mark + 1, mark + 2,
                          mark + 4, mark + 8, cut, cut + 1, cut + 2, cut + 4, cut + 8}) {
    EXPECT_EQ(state_with(at, 0x70), BatchState::kDamaged) << at;
  }
  EXPECT_EQ(state_with(4, 0x7f), BatchState::kDamaged) << "a unit longer than the payload";
  EXPECT_EQ(state_with(8, 0), BatchState::kDamaged) << "no record";
  std::string payload = SomePayload();
  StoreLE(payload.data() + cut + offsetof(CutItem, lsn), ~Lsn{0});
  Put(SomeHeader(kSegment, kOffset), payload);
  EXPECT_EQ(State(), BatchState::kDamaged) << "nothing can follow";
  payload = SomePayload();
  Put(SomeHeader(kSegment, kOffset), payload);
  char* const batch = image_.data() + kOffset;
  StoreLE<uint16_t>(batch + offsetof(BatchHeader, format_version), 4);
  StoreLE(batch, Hash64({batch + 8, kBatchOverhead + payload.size() - 8}, seed_));
  EXPECT_EQ(State(), BatchState::kDamaged) << "version 4 has no cuts";
}

}  // namespace
}  // namespace pando
