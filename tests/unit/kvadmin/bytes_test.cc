#include "tools/kvadmin/bytes.h"

#include <gtest/gtest.h>

#include "tools/common/table.h"
#include "tools/kvadmin/progress.h"

namespace pando::admin {
namespace {

TEST(Base64, KnownAnswersAndRoundTrips) {
  const std::pair<const char*, const char*> known[] = {{"", ""},
                                                       {"f", "Zg=="},
                                                       {"fo", "Zm8="},
                                                       {"foo", "Zm9v"},
                                                       {"foob", "Zm9vYg=="},
                                                       {"fooba", "Zm9vYmE="},
                                                       {"foobar", "Zm9vYmFy"}};  // RFC 4648, section 10
  for (auto [plain, encoded] : known) {
    EXPECT_EQ(Base64Encode(plain), encoded);
    EXPECT_EQ(*Base64Decode(encoded), plain);
  }
  EXPECT_EQ(*Base64Decode("Zg"), "f") << "padding is optional";
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(*Base64Decode(Base64Encode(all)), all);
  for (const char* bad : {"Z", "Zg=", "Zg===", "Z===", "Zm9*", "Zm 9v", "Zg==Zg==", "====", "Zm9vY"}) {
    EXPECT_FALSE(Base64Decode(bad).ok()) << bad;
  }
}

TEST(Hex, RoundTripsAndErrors) {
  EXPECT_EQ(HexEncode(std::string("\x00\xff\x1a", 3)), "00ff1a");
  EXPECT_EQ(*HexDecode("00fF1A"), std::string("\x00\xff\x1a", 3));
  EXPECT_FALSE(HexDecode("0").ok());
  EXPECT_FALSE(HexDecode("0g").ok());
  EXPECT_NE(DecodeInput("0g", Encoding::kHex, "key").status().message().find("key: "), std::string::npos);
}

TEST(Utf8, AcceptsAndRefuses) {
  for (const char* good : {"", "a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x8c\xb3", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsUtf8(good)) << HexEncode(good);
  }
  // A lone continuation byte, truncated sequences, overlong forms, a surrogate, a code point above
  // U+10FFFF, and bytes that never occur.
  for (const char* bad : {"\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x8c", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf",
                          "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "a\xfe"}) {
    EXPECT_FALSE(IsUtf8(bad)) << HexEncode(bad);
  }
}

TEST(PrintableText, EscapesWhatATerminalWouldActOn) {
  EXPECT_EQ(Printable("plain \xc3\xa4 text", Encoding::kText), "plain \xc3\xa4 text");
  EXPECT_EQ(Printable(std::string("a\0b\x1b[2J\n\r\t\\\x7f\xff", 13), Encoding::kText),
            "a\\x00b\\x1b[2J\\n\\r\\t\\\\\\x7f\\xff");
  EXPECT_EQ(Printable("\xc2\x9b", Encoding::kText), "\\xc2\\x9b") << "a C1 control character";
  EXPECT_EQ(Printable("\xff\x01", Encoding::kHex), "ff01");
}

TEST(PrintableText, IsCutAtItsWidthAndNeverInsideACharacter) {
  EXPECT_EQ(Printable("abcdef", Encoding::kText, 6), "abcdef");
  EXPECT_EQ(Printable("abcdefg", Encoding::kText, 6), "abcde…");
  EXPECT_EQ(Printable("\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4", Encoding::kText, 3), "\xc3\xa4\xc3\xa4…");
  EXPECT_EQ(Printable("ab\x01\x01", Encoding::kText, 6), "ab…");
  for (size_t width = 1; width < 12; ++width) {
    EXPECT_LE(tools::DisplayWidth(Printable("a\x01\xc3\xa4\xff-long enough", Encoding::kText, width)), width);
  }
  EXPECT_EQ(Printable("abcd", Encoding::kHex, 4), "616…");
}

// Long texts are encoded in vectors, and their ends are not.
TEST(Base64, AnyLength) {
  std::string plain;
  for (int i = 0; i < 300; ++i) {
    const std::string text = Base64Encode(plain);
    ASSERT_EQ(text.size(), Base64Length(plain.size()));
    ASSERT_EQ(*Base64Decode(text), plain);
    plain += static_cast<char>(i * 197 + i / 7);
  }
  std::string all;  // digits, each of which stands for itself in each place
  for (int i = 0; i < 64 * 3; i += 3) all += std::string{static_cast<char>(i / 3 << 2), 0, 0};
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < digits.size(); ++i) EXPECT_EQ(Base64Encode(all)[4 * i], digits[i]);
}

TEST(SetBytes, TextStaysTextAndOtherBytesBecomeBase64) {
  nlohmann::ordered_json j;
  SetBytes(&j, "key", "k\n");
  SetBytes(&j, "value", "\xff");
  EXPECT_EQ(j.dump(), R"({"key":"k\n","value_b64":"/w=="})");
}

TEST(ProgressLine, ShowsShareRateAndTimeLeft) {
  EXPECT_EQ(Progress::Line("records", 1'000'000, 512u << 20, 250, 1000, 10),
            "[#####...............]  25% 1.00M records  100.0k/s  51.2 MiB/s  ETA 30s");
  EXPECT_EQ(Progress::Line("records", 42, 0, 42, 0, 1), "42 records  42/s  0 B/s");
  EXPECT_EQ(Progress::Line("rows", 7, 10, 20, 10, 1).substr(0, 27), "[####################] 100%");
}

TEST(Table, AlignsNumbersRightAndTextLeft) {
  tools::Table table({"NAME", "COUNT"});
  table.Row({"a", "5"});
  table.Row({"\xc3\xa4rger", "1234567"});
  EXPECT_EQ(table.Render(), "NAME     COUNT\na            5\n\xc3\xa4rger  1234567\n");
}

}  // namespace
}  // namespace pando::admin
