// Tests the bytes of the watch position (docs/FORMAT.md, "Watch position") and the refusal of
// damaged ones.
#include "src/kvapi/watch_position.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

using testing::HasSubstr;

const WatchBinding kBinding{Uuid{0x1111111111111111, 0x2222222222222222}, "user/", 2, {0, 1}};
const WatchPosition kPosition{{0x0102030405060708, 9}};

TEST(WatchPosition, GoldenBytes) {
  const std::string body = HandBytes()
                               .U8(1)
                               .Uuid(0x1111111111111111, 0x2222222222222222)
                               .U64(Hash64("user/", 0x70616e646f2d7772))
                               .U64(0x0102030405060708)
                               .U64(9)
                               .str();
  const std::string want = HandBytes().Text(body).U64(Hash64(body, 0x70616e646f2d7770)).str();
  EXPECT_EQ(FirstDifference(want, EncodeWatchPosition(kBinding, kPosition)), "");
}

TEST(WatchPosition, RoundTrips) {
  Result<WatchPosition> decoded = DecodeWatchPosition(kBinding, EncodeWatchPosition(kBinding, kPosition));
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  EXPECT_EQ(decoded->versions, kPosition.versions);
}

TEST(WatchPosition, EveryFlippedBitAndEveryCutIsRefused) {
  const std::string good = EncodeWatchPosition(kBinding, kPosition);
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodeWatchPosition(kBinding, bad).code(), Code::kInvalidArgument) << bit;
  }
  for (size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_EQ(DecodeWatchPosition(kBinding, good.substr(0, cut)).code(), Code::kInvalidArgument) << cut;
  }
}

// Partition 0 of 2 was split, into 2 and 3.
TEST(WatchPosition, GoldenBytesAfterASplit) {
  WatchBinding split = kBinding;
  split.ids = {2, 3, 1};
  const WatchPosition position{{0x0102030405060708, 9, 10}};
  const std::string body = HandBytes()
                               .U8(2)
                               .Uuid(0x1111111111111111, 0x2222222222222222)
                               .U64(Hash64("user/", 0x70616e646f2d7772))
                               .U32(2)
                               .U64(0x0102030405060708)
                               .U32(3)
                               .U64(9)
                               .U32(1)
                               .U64(10)
                               .str();
  const std::string want = HandBytes().Text(body).U64(Hash64(body, 0x70616e646f2d7770)).str();
  EXPECT_EQ(FirstDifference(want, EncodeWatchPosition(split, position)), "");
  EXPECT_EQ(DecodeWatchPosition(split, want)->versions, position.versions);
}

// The halves go on where the whole ended, also if only one of them was split again.
TEST(WatchPosition, HalvesGoOnFromTheirWhole) {
  const std::string before = EncodeWatchPosition(kBinding, {{40, 9}});
  WatchBinding split = kBinding;
  split.ids = {6, 7, 3, 1};
  const Result<WatchPosition> after = DecodeWatchPosition(split, before);
  ASSERT_TRUE(after.ok()) << after.status().ToString();
  EXPECT_EQ(after->versions, (std::vector<Version>{40, 40, 40, 9}));
  // Of a prefix with a tag, whose partition was split.
  WatchBinding tagged = kBinding;
  tagged.ids = {1};
  const std::string of_tag = EncodeWatchPosition(tagged, {{12}});
  tagged.ids = {5};
  EXPECT_EQ(DecodeWatchPosition(tagged, of_tag)->versions, (std::vector<Version>{12}));
  EXPECT_EQ(DecodeWatchPosition(tagged, EncodeWatchPosition(tagged, {{14}}))->versions, (std::vector<Version>{14}));
}

// Whoever has an older map must not go on from anywhere: changes of one half would be missing.
TEST(WatchPosition, AnOlderMapCannotTakeThePositionOfHalves) {
  WatchBinding split = kBinding;
  split.ids = {2, 3, 1};
  const std::string after = EncodeWatchPosition(split, {{40, 41, 9}});
  EXPECT_EQ(DecodeWatchPosition(kBinding, after).code(), Code::kUnavailable);
  WatchBinding one = kBinding;
  one.ids = {1};
  EXPECT_EQ(DecodeWatchPosition(one, after)->versions, (std::vector<Version>{9}));
}

TEST(WatchPosition, IsBoundToItsPrefixAndItsStore) {
  const std::string good = EncodeWatchPosition(kBinding, kPosition);
  WatchBinding other = kBinding;
  other.prefix = "user";
  EXPECT_THAT(DecodeWatchPosition(other, good).status().message(), HasSubstr("another prefix"));
  other = kBinding;
  other.store.lo ^= 1;
  EXPECT_EQ(DecodeWatchPosition(other, good).code(), Code::kNotFound);
  other = kBinding;
  other.base = 4;
  other.ids = {0, 1, 2, 3};
  EXPECT_EQ(DecodeWatchPosition(other, good).code(), Code::kNotFound);
}

}  // namespace
}  // namespace pando
