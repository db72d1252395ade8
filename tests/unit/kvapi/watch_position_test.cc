// Tests the bytes of the watch position (docs/FORMAT.md, "Watch position") and the refusal of
// damaged ones.
#include "src/kvapi/watch_position.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

using testing::HasSubstr;

const WatchBinding kBinding{Uuid{0x1111111111111111, 0x2222222222222222}, "user/", 2};
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

TEST(WatchPosition, IsBoundToItsPrefixAndItsStore) {
  const std::string good = EncodeWatchPosition(kBinding, kPosition);
  WatchBinding other = kBinding;
  other.prefix = "user";
  EXPECT_THAT(DecodeWatchPosition(other, good).status().message(), HasSubstr("another prefix"));
  other = kBinding;
  other.store.lo ^= 1;
  EXPECT_EQ(DecodeWatchPosition(other, good).code(), Code::kNotFound);
  other = kBinding;
  other.partitions = 3;
  EXPECT_EQ(DecodeWatchPosition(other, good).code(), Code::kNotFound);
}

}  // namespace
}  // namespace pando
