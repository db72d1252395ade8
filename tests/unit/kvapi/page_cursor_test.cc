// Tests the bytes of the page cursor and the refusal of damaged ones.
#include "src/kvapi/page_cursor.h"

#include <gtest/gtest.h>

#include "src/base/hash.h"
#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

// docs/FORMAT.md, "Page cursor".
TEST(PageCursor, GoldenBytes) {
  const std::string body = HandBytes().U8(1).U32(0x01020304).Text("user/17").str();
  const std::string want = HandBytes().Text(body).U64(Hash64(body, 0x70616e646f2d7063)).str();
  EXPECT_EQ(FirstDifference(want, EncodePageCursor({"user/17", 0x01020304})), "");
}

TEST(PageCursor, RoundTrips) {
  for (const PageCursor& cursor : {PageCursor{"", 0}, PageCursor{std::string("\0\xff", 2), 7}}) {
    Result<PageCursor> decoded = DecodePageCursor(EncodePageCursor(cursor));
    ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
    EXPECT_EQ(*decoded, cursor);
  }
  EXPECT_EQ(*DecodePageCursor(""), PageCursor()) << "the first page";
}

TEST(PageCursor, EveryFlippedBitAndEveryCutIsRefused) {
  const std::string good = EncodePageCursor({"key", 3});
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodePageCursor(bad).code(), Code::kInvalidArgument) << bit;
  }
  for (size_t cut = 1; cut < good.size(); ++cut) EXPECT_FALSE(DecodePageCursor(good.substr(0, cut)).ok()) << cut;
}

}  // namespace
}  // namespace pando
