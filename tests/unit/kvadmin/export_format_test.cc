// What rows look like in the files of an export.
#include "tools/kvadmin/export_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/received_page.h"

namespace pando::admin {
namespace {

api::Row RowOf(std::string key, std::string value, int64_t version = 1, int64_t expires_at_ms = 0) {
  api::Row row;
  row.key = std::move(key);
  row.value = std::move(value);
  row.version = version;
  row.expires_at_ms = expires_at_ms;
  return row;
}

std::string BytesOf(const RowEncoder::Piece& piece) {
  std::string bytes;
  for (const FileChunk& chunk : piece.chunks) bytes += chunk.view();
  EXPECT_EQ(bytes.size(), piece.bytes);
  return bytes;
}

std::string Encoded(const ExportStyle& style, const std::vector<api::Row>& rows) {
  ChunkPool pool;
  auto encoder = MakeRowEncoder(style, &pool);
  encoder->Add(ViewsOf(rows));
  return BytesOf(encoder->Take());
}

TEST(ExportFormatTest, JsonLinesAreThoseOfTheJsonLibrary) {
  std::vector<std::string> texts = {"",           "plain",       "12345678",  "123456789 and more",
                                    "\"quoted\"", "back\\slash", "a\tb\r\nc", "\xc3\xa4\xe2\x82\xac",
                                    "\xff\xfe",   "1234567\xff", "del\x7f",   std::string("nul\0", 4)};
  for (int c = 0; c < 256; ++c) {
    for (const size_t before : {0, 3, 7, 15, 62, 63, 64, 130}) {
      texts.push_back(std::string(before, 'x') + static_cast<char>(c) + "y");
    }
  }
  for (const std::string& text : texts) {
    nlohmann::ordered_json expected;
    SetBytes(&expected, "key", text);
    SetBytes(&expected, "value", text + text);
    EXPECT_EQ(Encoded({}, {RowOf(text, text + text)}), expected.dump() + "\n");
    expected["expires_at_ms"] = 5;
    EXPECT_EQ(Encoded({}, {RowOf(text, text + text, 1, 5)}), expected.dump() + "\n");
  }
}

TEST(ExportFormatTest, CsvIsThatOfRfc4180) {
  const ExportStyle csv{ExportFormat::kCsv, false, {}};
  EXPECT_EQ(ExportFormatEnds(csv).Header(), "key,value,version,expires_at_ms\r\n");
  EXPECT_EQ(Encoded(csv, {RowOf("a", "1,2\n\"x\"\"", -1), RowOf("b", "", 7, 99)}),
            "\"a\",\"1,2\n\"\"x\"\"\"\"\",18446744073709551615,\r\n\"b\",\"\",7,99\r\n");
  const ExportStyle base64{ExportFormat::kCsv, true, {}};
  EXPECT_EQ(ExportFormatEnds(base64).Header(), "key_b64,value_b64,version,expires_at_ms\r\n");
  EXPECT_EQ(Encoded(base64, {RowOf("a", "\xff")}), "YQ==,/w==,1,\r\n");
  ChunkPool pool;
  auto encoder = MakeRowEncoder(csv, &pool);
  encoder->Add(ViewsOf({RowOf("a", "\xff"), RowOf("b", "\xc3\xa4"), RowOf("\xff", "c")}));
  EXPECT_EQ(encoder->Take().not_text, 2u);
  encoder->Add(ViewsOf({RowOf("c", "d")}));
  EXPECT_EQ(encoder->Take().not_text, 0u);
}

// tests/integration/test_kvadmin_export.py reads such files with another program.
TEST(ExportFormatTest, AParquetFileGoesOnWithWhatWasSaved) {
  for (const ParquetCompression compression : {ParquetCompression::kNone, ParquetCompression::kZstd}) {
    const ExportStyle style{ExportFormat::kParquet, false, compression};
    ChunkPool pool;
    auto encoder = MakeRowEncoder(style, &pool);
    EXPECT_EQ(BytesOf(encoder->Take()), "");
    std::vector<RowEncoder::Piece> pieces;
    for (int i = 0; i < 3; ++i) {
      encoder->Add(ViewsOf({RowOf(std::string(1, 'a' + i), std::string(2 << 20, 'x'), i, i)}));
      pieces.push_back(encoder->Take());
    }
    ExportFormatEnds whole(style), first(style), second(style);
    EXPECT_EQ(whole.Header(), "PAR1");
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_TRUE(whole.Wrote(pieces[i], 100 * i).ok());
      if (i == 1) {
        ASSERT_TRUE(second.Restore(first.Save()).ok());
      }
      ASSERT_TRUE((i == 0 ? first : second).Wrote(pieces[i], 100 * i).ok());
    }
    EXPECT_EQ(whole.Footer(), second.Footer());
    EXPECT_TRUE(whole.Footer().ends_with("PAR1"));
    EXPECT_EQ(second.Restore("\x15nonsense").code(), Code::kInvalidArgument);
  }
}

// What does not fit in a chunk comes in several, and a row of any size in one.
TEST(ExportFormatTest, ChunksAreUsedAgain) {
  ChunkPool pool;
  for (const ExportFormat format : {ExportFormat::kJsonLines, ExportFormat::kCsv, ExportFormat::kParquet}) {
    const ExportStyle style{format, false, ParquetCompression::kNone};
    std::string first;
    for (int round = 0; round < 3; ++round) {
      auto encoder = MakeRowEncoder(style, &pool);
      size_t bytes = 0;
      for (int i = 0; i < 6; ++i) {
        const std::string value(i == 3 ? 6u << 20 : 700'000, static_cast<char>('a' + i));
        encoder->Add(ViewsOf({RowOf(fmt::format("k{}", i), value)}));
        bytes += value.size();
      }
      RowEncoder::Piece piece = encoder->Take();
      EXPECT_GE(piece.chunks.size(), 3u);
      EXPECT_GT(piece.bytes, bytes);
      if (round == 0) first = BytesOf(piece);
      EXPECT_EQ(BytesOf(piece), first);
      for (FileChunk& chunk : piece.chunks) pool.Give(std::move(chunk.buffer));
    }
  }
}

TEST(ExportFormatTest, TheNameOfAFileSaysItsFormat) {
  EXPECT_EQ(ExportFormatOfFile("a.csv"), ExportFormat::kCsv);
  EXPECT_EQ(ExportFormatOfFile("a.parquet"), ExportFormat::kParquet);
  EXPECT_EQ(ExportFormatOfFile("-"), ExportFormat::kJsonLines);
  for (const char* name : {"jsonl", "csv", "parquet"}) EXPECT_EQ(FormatName(FormatNamed(name)), name);
}

}  // namespace
}  // namespace pando::admin
