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

void AppendEscaped(std::string_view text, ByteBuffer* out) {
  static const std::array<std::string, 256> escapes = Escapes();
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string& escape = escapes[static_cast<unsigned char>(text[i])];
    if (escape.empty()) continue;
    out->Append(text.substr(begin, i - begin));
    out->Append(escape);
    begin = i + 1;
  }
  out->Append(text.substr(begin));
}

void AppendBase64(std::string_view bytes, ByteBuffer* out) {
  Base64EncodeTo(bytes, out->Extend(Base64Length(bytes.size())));
}

// A member of an object without its last quote: "name":"text, or "name_b64":"... for bytes that are not UTF-8
// (SetBytes). `before`: what is before it, and its name, as in {"key
void AppendMember(std::string_view before, std::string_view bytes, ByteBuffer* out) {
  out->Append(before);
  if (IsPlain(bytes)) {
    out->Append("\":\"");
    out->Append(bytes);
  } else if (IsUtf8(bytes)) {
    out->Append("\":\"");
    AppendEscaped(bytes, out);
  } else {
    out->Append("_b64\":\"");
    AppendBase64(bytes, out);
  }
}

// The chunks of a piece of text.
class TextPiece {
 public:
  explicit TextPiece(ChunkPool* pool) : pool_(pool) {}
  // Where the next row goes.
  ByteBuffer* out() {
    if (chunk_.size() >= ChunkPool::kChunkBytes) EndChunk();
    if (chunk_.capacity() == 0) chunk_ = pool_->Take();
    return &chunk_;
  }
  RowEncoder::Piece Take(uint64_t not_text) {
    EndChunk();
    RowEncoder::Piece done = std::exchange(piece_, {});
    done.not_text = not_text;
    return done;
  }

 private:
  void EndChunk() {
    if (chunk_.size() == 0) return;
    piece_.bytes += chunk_.size();
    piece_.chunks.push_back({std::move(chunk_), 0});
  }

  ChunkPool* const pool_;
  RowEncoder::Piece piece_;
  ByteBuffer chunk_;
};

class JsonLinesEncoder final : public RowEncoder {
 public:
  explicit JsonLinesEncoder(ChunkPool* pool) : text_(pool) {}
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) {
      ByteBuffer* out = text_.out();
      AppendMember("{\"key", row.key, out);
      AppendMember("\",\"value", row.value, out);
      if (row.expires_at_ms != 0) {
        out->Append("\",\"expires_at_ms\":");
        out->Append(std::to_string(row.expires_at_ms));
        out->Append("}\n");
      } else {
        out->Append("\"}\n");
      }
    }
  }
  Piece Take() override { return text_.Take(0); }

 private:
  TextPiece text_;
};

// RFC 4180: fields in quotes, quotes doubled, CRLF after each record.
class CsvEncoder final : public RowEncoder {
 public:
  CsvEncoder(bool base64, ChunkPool* pool) : base64_(base64), text_(pool) {}
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) {
      ByteBuffer* out = text_.out();
      Field(row.key, out);
      Field(row.value, out);
      out->Append(std::to_string(static_cast<uint64_t>(row.version)));
      out->Append(",");
      if (row.expires_at_ms != 0) out->Append(std::to_string(row.expires_at_ms));
      out->Append("\r\n");
      if (!base64_ && !(IsText(row.key) && IsText(row.value))) ++not_text_;
    }
  }
  Piece Take() override { return text_.Take(std::exchange(not_text_, 0)); }

 private:
  static bool IsText(std::string_view bytes) { return IsPlain(bytes) || IsUtf8(bytes); }
  void Field(std::string_view bytes, ByteBuffer* out) const {
    if (base64_) {
      AppendBase64(bytes, out);
    } else {
      out->Append("\"");
      for (size_t quote; (quote = bytes.find('"')) != std::string_view::npos; bytes.remove_prefix(quote + 1)) {
        out->Append(bytes.substr(0, quote + 1));
        out->Append("\"");
      }
      out->Append(bytes);
      out->Append("\"");
    }
    out->Append(",");
  }

  const bool base64_;
  TextPiece text_;
  uint64_t not_text_ = 0;
};

class ParquetEncoder final : public RowEncoder {
 public:
  ParquetEncoder(ParquetCompression compression, ChunkPool* pool) : group_(compression, pool) {}
  void Add(const std::vector<RowView>& rows) override {
    for (const RowView& row : rows) group_.Add(row);
  }
  Piece Take() override {
    if (group_.rows() == 0) return {};
    ParquetRowGroup::Done done = group_.Finish();
    return {std::move(done.chunks), done.bytes, std::move(done.metadata), 0};
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

std::unique_ptr<RowEncoder> MakeRowEncoder(const ExportStyle& style, ChunkPool* pool) {
  switch (style.format) {
    case ExportFormat::kJsonLines: break;
    case ExportFormat::kCsv: return std::make_unique<CsvEncoder>(style.base64, pool);
    case ExportFormat::kParquet: return std::make_unique<ParquetEncoder>(style.compression, pool);
  }
  return std::make_unique<JsonLinesEncoder>(pool);
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
  return parquet_ && piece.bytes > 0 ? parquet_->Append(piece.metadata, file_offset) : Status();
}

std::string ExportFormatEnds::Footer() const { return parquet_ ? parquet_->Finish() : ""; }
std::string ExportFormatEnds::Save() const { return parquet_ ? parquet_->Save() : ""; }
Status ExportFormatEnds::Restore(const std::string& saved) { return parquet_ ? parquet_->Restore(saved) : Status(); }

}  // namespace pando::admin
