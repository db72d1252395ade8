// Tests ranges and the bytes of the scan cursor (docs/FORMAT.md, "Scan cursor").
#include "src/kvapi/scan_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

#include "src/base/hash.h"

namespace pando {
namespace {

using testing::HasSubstr;

constexpr uint64_t kScanId = 0x1122334455667788;

api::ScanRequest Request() {
  api::ScanRequest request;
  request.start_key = "a";
  request.end_key = "z";
  request.prefix = "user/";
  return request;
}

TEST(ScanRange, Prefixes) {
  EXPECT_EQ(ScanRange::PrefixEnd("ab"), "ac");
  EXPECT_EQ(ScanRange::PrefixEnd("a\xff\xff"), "b");
  EXPECT_EQ(ScanRange::PrefixEnd("\xff"), "");
  EXPECT_EQ(ScanRange::PrefixEnd(""), "");
  EXPECT_EQ(ScanRange::PrefixEnd("a\x7f"), "a\x80");
}

TEST(ScanRange, Narrows) {
  ScanRange range = ScanRange::Of("b", "y", "user/", false);
  EXPECT_EQ(range.start, "user/");
  EXPECT_EQ(range.end, "user0");
  range = ScanRange::Of("user/5", "user/7", "user/", false);
  EXPECT_EQ(range.start, "user/5");
  EXPECT_EQ(range.end, "user/7");
  EXPECT_FALSE(range.empty);
  EXPECT_TRUE(ScanRange::Of("m", "m", "", false).empty);
  EXPECT_TRUE(ScanRange::Of("v", "", "user/", false).empty);
  EXPECT_FALSE(ScanRange::Of("", "", "", true).empty);
}

TEST(ScanRange, KnowsWhenOneTagHoldsEverything) {
  EXPECT_EQ(ScanRange::Of("", "", "{42}", false).tag, "42");
  EXPECT_EQ(ScanRange::Of("", "", "user{42}/", false).tag, "42");
  EXPECT_FALSE(ScanRange::Of("", "", "user{42", false).tag);  // "user{421}" has this prefix too
  EXPECT_FALSE(ScanRange::Of("", "", "user{}", false).tag);   // an empty tag does not count
  EXPECT_FALSE(ScanRange::Of("user{42}", "user{42}x", "", false).tag);
}

TEST(Cursor, GoldenBytes) {
  EXPECT_EQ(Hex(EncodeCursor(Request(), {kScanId, "user/17"})),
            "02008877665544332211b9d1aae3f9de4520757365722f313737bf3e819fd6a749");
  api::ScanRequest reverse = Request();
  reverse.reverse = true;
  EXPECT_EQ(Hex(EncodeCursor(reverse, {1, std::string("\0\xff", 2)})),
            "02010100000000000000b9d1aae3f9de452000ffb0e1b7e79cbd540f");
}

TEST(Cursor, OfVersion1IsStillRead) {
  const std::string old = HandBytes().U8(1).U8(0).U64(0x2045def9e3aad1b9).Text("user/17").U64(0xa81c24b8560c2022).str();
  Result<ScanCursor> cursor = DecodeCursor(Request(), old);
  ASSERT_TRUE(cursor.ok()) << cursor.status().ToString();
  EXPECT_EQ(cursor->last_key, "user/17");
  EXPECT_EQ(cursor->scan_id, 0u);
  for (size_t cut = 0; cut < old.size(); ++cut) EXPECT_FALSE(DecodeCursor(Request(), old.substr(0, cut)).ok()) << cut;
}

TEST(Cursor, RoundTripsAndGoesOn) {
  api::ScanRequest request = Request();
  request.cursor = EncodeCursor(request, {kScanId, "user/17"});
  Result<ScanRange> range = ScanRange::Of(request);
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->scan_id, kScanId);
  EXPECT_EQ(range->start, "user/17");
  EXPECT_TRUE(range->start_exclusive);
  EXPECT_EQ(range->end, "user0");
  // Without a last key, the range begins where it began.
  request.cursor = EncodeCursor(request, {kScanId, ""});
  range = ScanRange::Of(request);
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->start, "user/");
  EXPECT_FALSE(range->start_exclusive);
  request.reverse = true;
  request.cursor = EncodeCursor(request, {kScanId, "user/17"});
  range = ScanRange::Of(request);
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->start, "user/");
  EXPECT_EQ(range->end, "user/17");
}

TEST(Cursor, EveryFlippedBitAndEveryCutIsRefused) {
  api::ScanRequest request = Request();
  const std::string good = EncodeCursor(request, {kScanId, "user/17"});
  ASSERT_TRUE(DecodeCursor(request, good).ok());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodeCursor(request, bad).code(), Code::kInvalidArgument) << bit;
  }
  for (size_t cut = 0; cut < good.size(); ++cut) EXPECT_FALSE(DecodeCursor(request, good.substr(0, cut)).ok()) << cut;
  EXPECT_FALSE(DecodeCursor(request, std::string(5000, 'x')).ok());
}

// A cursor names a key, so only the request says whose slice it is.
TEST(Cursor, IsBoundToItsSlice) {
  std::vector<api::ScanRequest> requests(5, Request());
  requests[1].slices = 1;
  requests[2].slices = 8;
  requests[3].slices = 8;
  requests[3].slice = 7;
  requests[4] = requests[3];
  requests[4].snapshot = "s";
  for (size_t from = 0; from < requests.size(); ++from) {
    const std::string cursor = EncodeCursor(requests[from], {kScanId, "user/17"});
    for (size_t to = 0; to < requests.size(); ++to) {
      EXPECT_EQ(DecodeCursor(requests[to], cursor).ok(), from == to) << from << " " << to;
    }
  }
}

// The hash of the tag decides for all keys that have it.
TEST(ScanRange, ATagIsInOneSlice) {
  api::ScanRequest request;
  request.prefix = "{tag}/";
  request.slices = 16;
  int with_rows = 0;
  for (; request.slice < request.slices; ++request.slice) {
    Result<ScanRange> range = ScanRange::Of(request);
    ASSERT_TRUE(range.ok());
    EXPECT_EQ(!range->empty, range->slice.Has(HashId("{tag}/7")));
    with_rows += range->empty ? 0 : 1;
  }
  EXPECT_EQ(with_rows, 1);
}

TEST(Cursor, IsBoundToItsRange) {
  const api::ScanRequest request = Request();
  const std::string cursor = EncodeCursor(request, {kScanId, "user/17"});
  api::ScanRequest other = request;
  other.start_key = "b";
  EXPECT_THAT(DecodeCursor(other, cursor).status().message(),
              HasSubstr("another range, direction, snapshot, slice or cluster"));
  other = request;
  other.snapshot = "s";
  EXPECT_FALSE(DecodeCursor(other, cursor).ok());
  other = request;
  other.reverse = true;
  EXPECT_THAT(DecodeCursor(other, cursor).status().message(),
              HasSubstr("another range, direction, snapshot, slice or cluster"));
  // Moving bytes from one field to another makes another range.
  other = request;
  other.start_key = "";
  other.end_key = "az";
  EXPECT_FALSE(DecodeCursor(other, cursor).ok());
  // Limits and keys_only are not part of the range.
  other = request;
  other.limit_rows = 5;
  other.keys_only = true;
  EXPECT_TRUE(DecodeCursor(other, cursor).ok());
  std::string later = cursor;
  later[0] = 3;
  EXPECT_THAT(DecodeCursor(request, later).status().message(), HasSubstr("version 3; this server reads versions 1"));
}

}  // namespace
}  // namespace pando
