#include "tools/kvadmin/export_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/base64.h"
#include "tools/kvadmin/bytes.h"

namespace pando::admin {

namespace {

// Whether the bytes are printable ASCII without quotes and backslashes. So most keys and values are copied as they are.
bool IsPlain(std::string_view bytes) {
  const auto special = [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return static_cast<uint8_t>(static_cast<uint8_t>(byte - 0x20) >= 0x60) | static_cast<uint8_t>(byte == '"') |
           static_cast<uint8_t>(byte == '\\');
  };
  constexpr size_t kBlock = 64;  // of a fixed size, so that compilers use vectors
  for (; bytes.size() >= kBlock; bytes.remove_prefix(kBlock)) {
    uint8_t any = 0;
    for (size_t i = 0; i < kBlock; ++i) any = static_cast<uint8_t>(any | special(bytes[i]));
    if (any != 0) return false;
  }
  return std::none_of(bytes.begin(), bytes.end(), [&](char c) { return special(c) != 0; });
}

// What a byte of UTF-8 text becomes in a JSON string: itself if it is empty. As nlohmann::json writes it.
std::array<std::string, 256> Escapes() {
  std::array<std::string, 256> escapes;
  for (size_t c = 0; c < 0x20; ++c) escapes[c] = fmt::format("\\u{:04x}", c);
  for (const auto& [byte, letter] : {std::pair('\b', 'b'), {'\t', 't'}, {'\n', 'n'}, {'\f', 'f'}, {'\r', 'r'}}) {
    escapes[static_cast<size_t>(byte)] = {'\\', letter};
  }
  escapes['"'] = "\\\"";
  escapes['\\'] = "\\\\";
  return escapes;
}

void AppendEscaped(std::string_view text, std::string* out) {
  static const std::array<std::string, 256> escapes = Escapes();
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string& escape = escapes[static_cast<unsigned char>(text[i])];
    if (escape.empty()) continue;
    out->append(text, begin, i - begin);
    *out += escape;
    begin = i + 1;
  }
  out->append(text, begin);
}

// "name":"text", or "name_b64":"..." for bytes that are not UTF-8 (SetBytes).
void AppendMember(std::string_view name, std::string_view bytes, std::string* out) {
  *out += '"';
  *out += name;
  if (IsPlain(bytes)) {
    *out += "\":\"";
    *out += bytes;
  } else if (IsUtf8(bytes)) {
    *out += "\":\"";
    AppendEscaped(bytes, out);
  } else {
    *out += "_b64\":\"";
    *out += Base64Encode(bytes);
  }
  *out += '"';
}

// The bytes of a piece of text. The next one will have about as many.
class TextPiece {
 public:
  RowEncoder::Piece* operator->() { return &piece_; }
  RowEncoder::Piece Take() {
    const size_t likely = piece_.bytes.size() + piece_.bytes.size() / 16;
    RowEncoder::Piece done = std::exchange(piece_, {});
    piece_.bytes.reserve(likely);
    return done;
  }

 private:
  RowEncoder::Piece piece_;
};

class JsonLinesEncoder final : public RowEncoder {
 public:
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) {
      piece_->bytes += '{';
      AppendMember("key", row.key, &piece_->bytes);
      piece_->bytes += ',';
      AppendMember("value", row.value, &piece_->bytes);
      if (row.expires_at_ms != 0) {
        piece_->bytes += ",\"expires_at_ms\":";
        piece_->bytes += std::to_string(row.expires_at_ms);
      }
      piece_->bytes += "}\n";
    }
  }
  Piece Take() override { return piece_.Take(); }

 private:
  TextPiece piece_;
};

// RFC 4180: fields in quotes, quotes doubled, CRLF after each record.
class CsvEncoder final : public RowEncoder {
 public:
  explicit CsvEncoder(bool base64) : base64_(base64) {}
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) {
      Field(row.key);
      Field(row.value);
      piece_->bytes += std::to_string(static_cast<uint64_t>(row.version));
      piece_->bytes += ',';
      if (row.expires_at_ms != 0) piece_->bytes += std::to_string(row.expires_at_ms);
      piece_->bytes += "\r\n";
      if (!base64_ && !(IsText(row.key) && IsText(row.value))) ++piece_->not_text;
    }
  }
  Piece Take() override { return piece_.Take(); }

 private:
  static bool IsText(std::string_view bytes) { return IsPlain(bytes) || IsUtf8(bytes); }
  void Field(std::string_view bytes) {
    std::string& out = piece_->bytes;
    if (base64_) {
      out += Base64Encode(bytes);
    } else {
      out += '"';
      for (size_t quote; (quote = bytes.find('"')) != std::string_view::npos; bytes.remove_prefix(quote + 1)) {
        out += bytes.substr(0, quote + 1);
        out += '"';
      }
      out += bytes;
      out += '"';
    }
    out += ',';
  }

  const bool base64_;
  TextPiece piece_;
};

class ParquetEncoder final : public RowEncoder {
 public:
  explicit ParquetEncoder(ParquetCompression compression) : group_(compression) {}
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) group_.Add(row);
  }
  Piece Take() override {
    if (group_.rows() == 0) return {};
    ParquetRowGroup::Done done = group_.Finish();
    return {std::move(done.bytes), std::move(done.metadata), 0};
  }

 private:
  ParquetRowGroup group_;
};

}  // namespace

std::string_view FormatName(ExportFormat format) {
  switch (format) {
    case ExportFormat::kJsonLines: return "jsonl";
    case ExportFormat::kCsv: return "csv";
    case ExportFormat::kParquet: return "parquet";
  }
  return "";
}

ExportFormat FormatNamed(std::string_view name) {
  if (name == "csv") return ExportFormat::kCsv;
  return name == "parquet" ? ExportFormat::kParquet : ExportFormat::kJsonLines;
}

ExportFormat ExportFormatOfFile(const std::string& path) {
  if (path.ends_with(".parquet")) return ExportFormat::kParquet;
  return path.ends_with(".csv") ? ExportFormat::kCsv : ExportFormat::kJsonLines;
}

std::unique_ptr<RowEncoder> MakeRowEncoder(const ExportStyle& style) {
  switch (style.format) {
    case ExportFormat::kJsonLines: break;
    case ExportFormat::kCsv: return std::make_unique<CsvEncoder>(style.base64);
    case ExportFormat::kParquet: return std::make_unique<ParquetEncoder>(style.compression);
  }
  return std::make_unique<JsonLinesEncoder>();
}

ExportFormatEnds::ExportFormatEnds(const ExportStyle& style) : style_(style) {
  if (style.format == ExportFormat::kParquet) parquet_.emplace();
}

std::string ExportFormatEnds::Header() const {
  switch (style_.format) {
    case ExportFormat::kJsonLines: break;
    case ExportFormat::kCsv:
      return style_.base64 ? "key_b64,value_b64,version,expires_at_ms\r\n" : "key,value,version,expires_at_ms\r\n";
    case ExportFormat::kParquet: return std::string(kParquetMagic);
  }
  return "";
}

Status ExportFormatEnds::Wrote(const RowEncoder::Piece& piece, uint64_t file_offset) {
  return parquet_ && !piece.bytes.empty() ? parquet_->Append(piece.metadata, file_offset) : Status();
}

std::string ExportFormatEnds::Footer() const { return parquet_ ? parquet_->Finish() : ""; }
std::string ExportFormatEnds::Save() const { return parquet_ ? parquet_->Save() : ""; }
Status ExportFormatEnds::Restore(const std::string& saved) { return parquet_ ? parquet_->Restore(saved) : Status(); }

}  // namespace pando::admin
