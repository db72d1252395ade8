#include "tools/kvadmin/record_reader.h"

#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace pando::admin {
namespace {

// "line:key=value" for a record, "line!error" for an invalid record.
std::vector<std::string> ReadAll(Format format, const std::string& input) {
  std::istringstream in(input);
  auto reader = MakeRecordReader(format, in);
  std::vector<std::string> out;
  InputRecord record;
  for (;;) {
    Result<bool> any = reader->Next(&record);
    if (!any.ok()) {
      out.push_back("ERROR " + any.status().message());
      return out;
    }
    if (!*any) break;
    std::string line = std::to_string(record.line);
    out.push_back(record.error.empty() ? line + ":" + record.key + "=" + record.value : line + "!" + record.error);
  }
  EXPECT_GE(reader->bytes_read() + 1, input.size());
  return out;
}

using Lines = std::vector<std::string>;

TEST(JsonLines, RecordsAndTheirLines) {
  EXPECT_EQ(ReadAll(Format::kJsonLines,
                    "{\"key\":\"a\",\"value\":\"1\"}\n\n  \r\n{\"value_b64\":\"Mg==\",\"key_b64\":\"Yg==\"}"),
            (Lines{"1:a=1", "4:b=2"}));
  EXPECT_EQ(ReadAll(Format::kJsonLines, ""), Lines{});
}

TEST(JsonLines, AWrongLineIsNamedAndTheNextOneRead) {
  Lines got =
      ReadAll(Format::kJsonLines, "{\n{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"\xff\",\"value\":\"\"}\n[]\n");
  ASSERT_EQ(got.size(), 4u);
  EXPECT_EQ(got[0].substr(0, 10), "1!not JSON");
  EXPECT_EQ(got[1], "2:a=1");
  EXPECT_EQ(got[2].substr(0, 10), "3!not JSON") << "bytes that are not UTF-8 belong in key_b64";
  EXPECT_EQ(got[3], "4!not a JSON object");
}

TEST(JsonLines, NothingAfterANulIsDropped) {
  const std::string a = "{\"key\":\"a\",\"value\":\"1\"}", nul(1, '\0');
  EXPECT_EQ(ReadAll(Format::kJsonLines, a + nul + a + "\n" + a + nul + "\n" + nul + a + "\n" + a),
            (Lines{"1!not JSON: column 24: there is a NUL byte", "2!not JSON: column 24: there is a NUL byte",
                   "3!not JSON: column 1: there is a NUL byte", "4:a=1"}));
}

TEST(JsonLines, ErrorsNameTheColumnAndNoOtherLine) {
  for (const Lines& got :
       {ReadAll(Format::kJsonLines, "\n{\"key\":\n"), ReadAll(Format::kJsonLines, "\n{\"key\" x}\n")}) {
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].substr(0, 18), "2!not JSON: column");
    EXPECT_EQ(got[0].find("line"), std::string::npos) << got[0];
  }
}

TEST(JsonLines, AByteOrderMarkIsDropped) {
  EXPECT_EQ(ReadAll(Format::kJsonLines, "\xef\xbb\xbf{\"key\":\"a\",\"value\":\"1\"}\n"), Lines{"1:a=1"});
}

// The memory for a line is bounded, and the lines after it have their right numbers.
TEST(JsonLines, ALineWithoutEndIsRefused) {
  const std::string a = "{\"key\":\"a\",\"value\":\"1\"}\n", endless(40u << 20, ' ');
  EXPECT_EQ(ReadAll(Format::kJsonLines, a + endless + "\n" + a + endless),
            (Lines{"1:a=1", "2!the line is longer than 16 MiB", "3:a=1", "4!the line is longer than 16 MiB"}));
  const std::string fits(15u << 20, ' ');
  EXPECT_EQ(ReadAll(Format::kJsonLines, fits + a + a), (Lines{"1:a=1", "2:a=1"}));
  // Lines around the size of the buffer that they are read with.
  for (size_t bytes = (64u << 10) - 3; bytes < (64u << 10) + 3; ++bytes) {
    EXPECT_EQ(ReadAll(Format::kJsonLines, std::string(bytes - a.size(), ' ') + a + a), (Lines{"1:a=1", "2:a=1"}));
  }
}

TEST(JsonLines, Expiry) {
  std::istringstream in(
      "{\"key\":\"a\",\"value\":\"\",\"ttl_ms\":5}\n{\"key\":\"a\",\"value\":\"\",\"expires_at_ms\":7}\n"
      "{\"key\":\"a\",\"value\":\"\",\"ttl_ms\":-1}\n{\"key\":\"a\",\"value\":\"\",\"ttl_ms\":1.5}\n");
  auto reader = MakeRecordReader(Format::kJsonLines, in);
  InputRecord record;
  ASSERT_TRUE(*reader->Next(&record));
  EXPECT_EQ(record.ttl_ms, 5);
  ASSERT_TRUE(*reader->Next(&record));
  EXPECT_EQ(record.ttl_ms, 0);
  EXPECT_EQ(record.expires_at_ms, 7);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(*reader->Next(&record));
    EXPECT_NE(record.error, "");
  }
}

TEST(Csv, QuotesLineEndsAndLineNumbers) {
  EXPECT_EQ(ReadAll(Format::kCsv, "key,value\na,1\r\n\r\n\"b\",\"x\ny \"\"z\"\"\"\nc, 3 \nd,"),
            (Lines{"2:a=1", "4:b=x\ny \"z\"", "6:c= 3 ", "7:d="}));
  EXPECT_EQ(ReadAll(Format::kCsv, "\xef\xbb\xbfvalue,other,key\n1,2,3\n"), (Lines{"2:3=1"}))
      << "columns in any order, with a byte order mark";
  EXPECT_EQ(ReadAll(Format::kCsv, "key_b64,value_b64\nYQ==,/w==\n"), (Lines{"2:a=\xff"}));
}

TEST(Csv, BinaryInQuotes) {
  std::string bytes("\0\n\r,\xff", 5);
  EXPECT_EQ(ReadAll(Format::kCsv, "key,value\nk,\"" + bytes + "\"\nl,1\n"), (Lines{"2:k=" + bytes, "4:l=1"}));
}

TEST(Csv, WrongRowsAreNamedAndTheNextOneRead) {
  Lines got = ReadAll(Format::kCsv, "key,value\na\nb,2\nc,\"x\"y\nd,4\ne,5,6\nf,\"open\ng,7\n");
  ASSERT_EQ(got.size(), 6u);
  EXPECT_EQ(got[0], "2!the record has 1 fields, but the header has 2");
  EXPECT_EQ(got[1], "3:b=2");
  EXPECT_EQ(got[2].substr(0, 9), "4!not CSV");
  EXPECT_EQ(got[3], "5:d=4");
  EXPECT_EQ(got[4], "6!the record has 3 fields, but the header has 2");
  EXPECT_EQ(got[5].substr(0, 9), "7!not CSV") << "an unclosed quote swallows the rest of the input";
}

TEST(Csv, SpacesInTheHeaderAreNotPartOfTheNames) {
  EXPECT_EQ(ReadAll(Format::kCsv, " key , value\na, 1\n"), (Lines{"2:a= 1"})) << "spaces in a field are part of it";
  EXPECT_EQ(ReadAll(Format::kCsv, "\"key\", \"value\"\nb,2\n"), (Lines{"2:b=2"}));
  EXPECT_EQ(ReadAll(Format::kCsv, "\xef\xbb\xbfkey\t,value\nc,3\n"), (Lines{"2:c=3"}));
}

TEST(Csv, ErrorsNameLineColumnAndReason) {
  Lines got = ReadAll(Format::kCsv, "key,value\na,b\"c\nd,\"e\"f\ng,\"two\nlines\"x\nh,1\ni,\"open\n");
  ASSERT_EQ(got.size(), 5u);
  EXPECT_EQ(got[0],
            "2!not CSV: line 2, column 4: there is a quote in an unquoted field; quote the whole field and "
            "double each quote in it");
  EXPECT_EQ(got[1],
            "3!not CSV: line 3, column 6: there is text after the end quote of a field; double each quote inside "
            "a quoted field");
  EXPECT_EQ(got[2].substr(0, 30), "4!not CSV: line 5, column 7: t")
      << "the first line of the row, then the line of the mistake";
  EXPECT_EQ(got[3], "6:h=1");
  EXPECT_EQ(got[4], "7!not CSV: the record that begins on line 7 has a quoted field without an end quote");
}

TEST(Records, LinesReadCountsWholeRecords) {
  std::istringstream in("key,value\na,\"1\n2\"\nb,2\n");
  auto reader = MakeRecordReader(Format::kCsv, in);
  InputRecord record;
  ASSERT_TRUE(*reader->Next(&record));
  EXPECT_EQ(reader->lines_read(), 3u);
  ASSERT_TRUE(*reader->Next(&record));
  EXPECT_EQ(record.line, 4u);
  EXPECT_EQ(reader->lines_read(), 4u);
}

TEST(Records, NumbersThatDoNotFitAreErrors) {
  for (const char* number : {"9223372036854775808", "18446744073709551616", "1e3", "-1", "\"5\"", "1.5"}) {
    Lines got = ReadAll(Format::kJsonLines, fmt::format("{{\"key\":\"a\",\"value\":\"\",\"ttl_ms\":{}}}\n", number));
    EXPECT_EQ(got[0].substr(0, 2), "1!") << number;
  }
  for (const char* number : {"9223372036854775808", "010", "0x10", "-1", "1.5", " 5"}) {
    Lines got = ReadAll(Format::kCsv, fmt::format("key,value,ttl_ms\na,b,{}\n", number));
    EXPECT_EQ(got[0].substr(0, 2), "2!") << number;
  }
}

TEST(Csv, HeadersThatDoNotSay) {
  for (const char* header : {"", "a,b\n", "key\n", "key,key_b64,value\n", "key,value,value\n"}) {
    Lines got = ReadAll(Format::kCsv, header);
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].substr(0, 5), "ERROR") << header;
  }
}

TEST(Csv, AByteOrderMarkMayPrecedeAQuotedHeader) {
  EXPECT_EQ(ReadAll(Format::kCsv, "\xef\xbb\xbf\"key\",\"value\"\r\n\"a\",\"1\"\r\n"), Lines{"2:a=1"});
  EXPECT_EQ(ReadAll(Format::kCsv, "\xef\xbb\xbfkey,value\na,1\n"), Lines{"2:a=1"});
}

TEST(Csv, ARecordWithoutEndIsRefused) {
  const std::string endless(20u << 20, 'x');
  EXPECT_EQ(ReadAll(Format::kCsv, "key,value\n" + endless + "\na,1\n"),
            (Lines{"2!not CSV: the record that begins on line 2 is longer than 16 MiB", "3:a=1"}));
  std::string lines = "key,value\nk,\"";
  for (int i = 0; i < 20; ++i) lines += std::string(1u << 20, 'x') + "\n";
  const Lines got = ReadAll(Format::kCsv, lines);
  ASSERT_FALSE(got.empty());
  EXPECT_EQ(got[0], "2!not CSV: the record that begins on line 2 is longer than 16 MiB");
}

}  // namespace
}  // namespace pando::admin
