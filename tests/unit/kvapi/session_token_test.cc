// Tests the tokens of sessions.
#include "src/kvapi/session_token.h"

#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

constexpr Uuid kCluster{0x1122334455667788, 0x99aabbccddeeff00};

SessionToken TokenOf(std::map<uint32_t, SessionPoint> points) { return {kCluster, std::move(points)}; }

TEST(SessionToken, GoldenBytes) {
  const std::string token = EncodeSessionToken(TokenOf({{0, {1, 5}}, {300, {7, 70'000}}}));
  EXPECT_EQ(Hex(token),
            "018877665544332211"
            "00ffeeddccbbaa99"
            "000105"
            "ac0207f0a204"
            "bcf296f9a37a21f1");
  std::string one;
  AppendSessionToken(kCluster, 300, {7, 70'000}, &one);
  EXPECT_EQ(one, EncodeSessionToken(TokenOf({{300, {7, 70'000}}})));
}

TEST(SessionToken, ComesBackAsItWas) {
  SessionToken token = TokenOf({});
  for (uint32_t p = 0; p < kMaxSessionPoints; ++p) token.points[p * 3] = {p + 1, UINT64_MAX - p};
  Result<SessionToken> back = DecodeSessionToken(kCluster, EncodeSessionToken(token));
  ASSERT_TRUE(back.ok()) << back.status().ToString();
  EXPECT_EQ(back->points, token.points);
  token.points[1] = {1, 1};
  EXPECT_EQ(EncodeSessionToken(token), "") << "it has seen too many partitions";
  EXPECT_EQ(EncodeSessionToken(TokenOf({})), "");
  back = DecodeSessionToken(kCluster, "");
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(back->points.empty());
}

TEST(SessionToken, EveryFlippedBitAndEveryCutIsRefused) {
  const std::string good = EncodeSessionToken(TokenOf({{0, {1, 5}}, {300, {7, 70'000}}}));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodeSessionToken(kCluster, bad).code(), Code::kInvalidArgument) << bit;
  }
  for (size_t cut = 1; cut < good.size(); ++cut) {
    EXPECT_EQ(DecodeSessionToken(kCluster, good.substr(0, cut)).code(), Code::kInvalidArgument) << cut;
  }
  EXPECT_EQ(DecodeSessionToken(kCluster, good + '\0').code(), Code::kInvalidArgument);
}

TEST(SessionToken, OfAnotherClusterIsRefused) {
  const std::string token = EncodeSessionToken(TokenOf({{0, {1, 5}}}));
  EXPECT_EQ(DecodeSessionToken(Uuid{kCluster.hi, kCluster.lo + 1}, token).code(), Code::kInvalidArgument);
  EXPECT_EQ(DecodeSessionToken(Uuid{kCluster.hi + 1, kCluster.lo}, token).code(), Code::kInvalidArgument);
}

// An LSN alone says nothing: the higher epoch comes later.
TEST(SessionToken, RisesByEpochThenLsn) {
  SessionToken token = TokenOf({});
  token.Raise(2, {3, 10});
  EXPECT_EQ(*token.At(2), (SessionPoint{3, 10}));
  token.Raise(2, {3, 9});
  EXPECT_EQ(*token.At(2), (SessionPoint{3, 10}));
  token.Raise(2, {2, 50});
  EXPECT_EQ(*token.At(2), (SessionPoint{3, 10}));
  token.Raise(2, {4, 9});
  EXPECT_EQ(*token.At(2), (SessionPoint{4, 9}));
  EXPECT_FALSE(token.At(1));
}

}  // namespace
}  // namespace pando
