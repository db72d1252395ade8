// Tests what is said of a flag that is no number, or one out of its range.
#include "src/base/flag_range.h"

#include <gflags/gflags.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

DEFINE_int64(test_age_s, 0, "");
DEFINE_int32(test_port, 0, "");
DEFINE_uint64(test_rate_mb_per_s, 0, "");
DEFINE_uint32(test_count, 0, "");
DEFINE_double(test_part_percent, 0, "");
DEFINE_bool(test_on, true, "");
DEFINE_string(test_name, "", "");

namespace pando {
namespace {

using testing::HasSubstr;

constexpr FlagRange kRanges[] = {
    {"test_age_s", 1, 600, 0, "0 for never"},
    {"test_port", 0, 65535},
    {"test_rate_mb_per_s", 1, INT64_MAX},
};

std::string Refusal(std::vector<std::string> arguments) {
  std::vector<char*> argv{arguments[0].data()};  // stands for the program
  for (std::string& argument : arguments) argv.push_back(argument.data());
  const Status status = CheckNumberFlags(static_cast<int>(argv.size()), argv.data(), kRanges);
  EXPECT_TRUE(status.ok() || status.code() == Code::kInvalidArgument);
  return status.message();
}

TEST(FlagRange, ANumberIsExplained) {
  EXPECT_EQ(Refusal({"--test_age_s=1h"}),
            "--test_age_s=1h; it must be a whole number of seconds, without letters, from 1 to 600, or 0 for never");
  EXPECT_EQ(Refusal({"--test_age_s", "1h"}), Refusal({"--test_age_s=1h"}));
  EXPECT_EQ(Refusal({"-test-age-s=1h"}), Refusal({"--test_age_s=1h"}));
  EXPECT_EQ(Refusal({"--test_age_s="}),
            "--test_age_s=; it must be a whole number of seconds, from 1 to 600, or 0 for never");
  EXPECT_EQ(Refusal({"--test_age_s=99999999999999999999"}),
            "--test_age_s=99999999999999999999; it must be a whole number of seconds, from 1 to 600, or 0 for never");
  EXPECT_EQ(Refusal({"--test_rate_mb_per_s=-3"}),
            "--test_rate_mb_per_s=-3; it must be a whole number of MiB/s, at least 1");
  EXPECT_EQ(Refusal({"--test_port=4294967296"}), "--test_port=4294967296; it must be a whole number, from 0 to 65535");
  EXPECT_EQ(Refusal({"--test_count=1.5"}), "--test_count=1.5; it must be a whole number") << "it has no range";
  EXPECT_EQ(Refusal({"--test_part_percent=10%"}), "--test_part_percent=10%; it must be a number of percent");
}

TEST(FlagRange, WhatGflagsTakesIsTaken) {
  for (const char* good :
       {"--test_age_s=60", "--test_age_s=0x3c", "--test_age_s=-7", "--test_age_s=100000", "--test_port=-1",
        "--test_rate_mb_per_s=18446744073709551615", "--test_count=0", "--test_part_percent=0.5", "--test_on=perhaps",
        "--test_name=1h", "--no_such_flag=1h", "stray", "-", "--test_age_s"}) {
    EXPECT_EQ(Refusal({good}), "") << good;
  }
  EXPECT_EQ(Refusal({"--test_name", "--test_age_s=1h"}), "") << "it is the value of --test_name";
  EXPECT_NE(Refusal({"--test_on", "--test_age_s=1h"}), "") << "a bool takes no value after it";
  EXPECT_EQ(Refusal({"--", "--test_age_s=1h"}), "");
}

TEST(FlagRange, NumbersOutOfRange) {
  for (const int64_t good : {0, 1, 600}) EXPECT_TRUE(CheckRange(kRanges, "test_age_s", good).ok()) << good;
  for (const int64_t bad : {-1, 601}) EXPECT_FALSE(CheckRange(kRanges, "test_age_s", bad).ok()) << bad;
  EXPECT_THAT(CheckRange(kRanges, "test_age_s", -1).message(),
              HasSubstr("--test_age_s=-1; it must be from 1 to 600, or 0 for never"));
  EXPECT_TRUE(CheckRange(kRanges, "test_rate_mb_per_s", uint64_t{1}).ok());
  EXPECT_THAT(CheckRange(kRanges, "test_rate_mb_per_s", UINT64_MAX).message(),
              HasSubstr("=18446744073709551615; it must"));
}

}  // namespace
}  // namespace pando
