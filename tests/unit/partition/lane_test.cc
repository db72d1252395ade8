// The record of a lane: golden bytes, and bytes that no write produces.
#include "src/partition/lane.h"

#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

constexpr Version kBase = 0x0102030405060708;

OpResult Result(OpOutcome outcome, Version version, bool existed, int64_t number = 0) {
  OpResult result;
  result.outcome = outcome;
  result.version = version;
  result.existed = existed;
  result.number = number;
  return result;
}

std::string Encode(uint64_t sequence, const std::vector<OpResult>& results, size_t max_bytes = 1000) {
  LaneEncoder encoder(sequence, kBase, 0x1122334455667788);
  for (const OpResult& result : results) encoder.Add(result);
  return std::move(encoder).Finish(max_bytes);
}

TEST(LaneTest, GoldenBytes) {
  const std::string bytes = Encode(
      300, {Result(OpOutcome::kApplied, kBase + 1, true, -3), Result(OpOutcome::kConditionFailed, kBase - 2, true),
            Result(OpOutcome::kBatchRefused, 0, false), Result(OpOutcome::kApplied, kBase + 64, false)});
  EXPECT_EQ(bytes, FromHex("02"                // format
                           "ac02"              // sequence 300
                           "0807060504030201"  // version
                           "8877665544332211"  // digest
                           "04"                // results
                           "3805"              // applied, existed, a number: the next version, -3
                           "0903"              // condition failed, existed: version - 2
                           "04"                // refused with its batch
                           "008001"));         // applied: version + 64
  const pando::Result<Lane> lane = DecodeLane(bytes);
  ASSERT_TRUE(lane.ok()) << lane.status().ToString();
  EXPECT_EQ(lane->sequence, 300u);
  EXPECT_EQ(lane->version, kBase);
  EXPECT_EQ(lane->digest, 0x1122334455667788u);
  ASSERT_EQ(lane->results.size(), 4u);
  EXPECT_EQ(lane->results[0].version, kBase + 1);
  EXPECT_EQ(lane->results[0].number, -3);
  EXPECT_TRUE(lane->results[0].existed);
  EXPECT_EQ(lane->results[1].outcome, OpOutcome::kConditionFailed);
  EXPECT_EQ(lane->results[1].current.version, kBase - 2);
  EXPECT_TRUE(lane->results[1].current.found && lane->results[1].value_omitted);
  EXPECT_TRUE(lane->results[1].current_forgotten);
  EXPECT_EQ(lane->results[2].outcome, OpOutcome::kBatchRefused);
  EXPECT_EQ(lane->results[3].version, kBase + 64);
  EXPECT_FALSE(lane->results[3].value_omitted);
}

// Of a lane that an earlier version wrote, or whose write it put into the log, the digest means nothing.
TEST(LaneTest, FormatOneHasNoDigest) {
  const std::string bytes = FromHex(
      "01"
      "ac02"
      "0807060504030201"
      "8877665544332211"
      "01"
      "20");
  const pando::Result<Lane> lane = DecodeLane(bytes);
  ASSERT_TRUE(lane.ok()) << lane.status().ToString();
  EXPECT_EQ(lane->sequence, 300u);
  EXPECT_FALSE(lane->digest.has_value());
  ASSERT_EQ(lane->results.size(), 1u);
  EXPECT_EQ(lane->results[0].version, kBase + 1);
  LaneEncoder encoder(300, kBase, std::nullopt);
  encoder.Add(Result(OpOutcome::kApplied, kBase + 1, false));
  EXPECT_EQ(std::move(encoder).Finish(1000), FromHex("01"
                                                     "ac02"
                                                     "0807060504030201"
                                                     "0000000000000000"
                                                     "01"
                                                     "20"));
}

TEST(LaneTest, TooManyResultsAreLeftOut) {
  std::vector<OpResult> results(100, Result(OpOutcome::kApplied, kBase + 1, false));
  const std::string bytes = Encode(7, results, 150);
  EXPECT_EQ(bytes, FromHex("02"
                           "07"
                           "0807060504030201"
                           "8877665544332211"
                           "00"));
  EXPECT_TRUE(DecodeLane(bytes)->results.empty());
  EXPECT_EQ(DecodeLane(Encode(7, results, 300))->results.size(), 100u);
}

// The largest batch of puts fits in the pages of most stores.
TEST(LaneTest, VersionsThatFollowEachOtherTakeNoRoom) {
  std::vector<OpResult> results;
  for (size_t i = 1; i <= kMaxBatchOps; ++i) results.push_back(Result(OpOutcome::kApplied, kBase + i, i % 3 == 0));
  const std::string bytes = Encode(7, results, 2000);
  EXPECT_LT(bytes.size(), kMaxBatchOps + 32);
  const pando::Result<Lane> lane = DecodeLane(bytes);
  ASSERT_EQ(lane->results.size(), kMaxBatchOps);
  EXPECT_EQ(lane->results.back().version, kBase + kMaxBatchOps);
}

TEST(LaneTest, OtherBytesAreCorruption) {
  const std::string sound = Encode(1, {Result(OpOutcome::kApplied, kBase + 1, true, 5)});
  for (size_t bytes = 0; bytes < sound.size(); ++bytes) {
    EXPECT_EQ(DecodeLane(sound.substr(0, bytes)).code(), Code::kCorruption) << bytes;
  }
  EXPECT_EQ(DecodeLane(sound + '\0').code(), Code::kCorruption);
  std::string other_format = sound, unknown_outcome = sound, unknown_bit = sound;
  other_format[0] = 3;
  unknown_outcome[19] = 0x05;
  unknown_bit[19] = 0x40;
  for (const std::string& bytes : {other_format, unknown_outcome, unknown_bit}) {
    EXPECT_EQ(DecodeLane(bytes).code(), Code::kCorruption);
  }
}

}  // namespace
}  // namespace pando
