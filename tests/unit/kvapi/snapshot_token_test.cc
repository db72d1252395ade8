// Tests the tokens that name snapshots.
#include "src/kvapi/snapshot_token.h"

#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

TEST(SnapshotToken, GoldenBytes) {
  const std::string token = EncodeSnapshotToken({0x1122334455667788, 0x0102030405060708});
  EXPECT_EQ(Hex(token), "0188776655443322110807060504030201811eaadcd1d58274");
}

TEST(SnapshotToken, EveryFlippedBitAndEveryCutIsRefused) {
  const std::string good = EncodeSnapshotToken({5, 7});
  Result<SnapshotToken> token = DecodeSnapshotToken(good);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->id, 5u);
  EXPECT_EQ(token->version, 7u);
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodeSnapshotToken(bad).code(), Code::kInvalidArgument) << bit;
  }
  for (size_t cut = 0; cut < good.size(); ++cut) EXPECT_FALSE(DecodeSnapshotToken(good.substr(0, cut)).ok()) << cut;
  EXPECT_FALSE(DecodeSnapshotToken(good + '\0').ok());
  EXPECT_FALSE(DecodeSnapshotToken(EncodeSnapshotToken({0, 7})).ok()) << "version 0 means the newest state";
}

}  // namespace
}  // namespace pando
