// The formats of kvadmin export: JSON lines, CSV and Parquet.
//
// A RowEncoder turns rows into pieces of a file. A piece does not depend on the place where it lies, so several threads
// make pieces, and one thread writes them in order, between what ExportFormatEnds says.
//
// Threads: each object belongs to one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/kvapi/row_walk.h"
#include "tools/kvadmin/file_chunk.h"
#include "tools/kvadmin/parquet_file.h"

namespace pando::admin {

enum class ExportFormat : uint8_t { kJsonLines, kCsv, kParquet };

// "jsonl", "csv" or "parquet", as --format has it.
std::string_view FormatName(ExportFormat format);
ExportFormat FormatNamed(std::string_view name);
// By the end of the name: .csv, .parquet, else JSON lines.
ExportFormat ExportFormatOfFile(const std::string& path);

struct ExportStyle {
  ExportFormat format = ExportFormat::kJsonLines;
  bool base64 = false;  // CSV only: the columns key_b64 and value_b64
  ParquetCompression compression = ParquetCompression::kZstd;
};

class RowEncoder {
 public:
  struct Piece {
    std::vector<FileChunk> chunks;  // its bytes. Who writes them gives their memory back to the pool
    size_t bytes = 0;
    std::string metadata;   // Parquet: of the row group
    uint64_t not_text = 0;  // CSV without base64: the rows with a key or value that is not UTF-8
  };
  virtual ~RowEncoder() = default;
  virtual void Add(const std::vector<RowView>& rows) = 0;
  // What was added since the last Take.
  virtual Piece Take() = 0;
};

// `pool` must outlive the encoder.
std::unique_ptr<RowEncoder> MakeRowEncoder(const ExportStyle& style, ChunkPool* pool);

// What stands before the first piece of a file and after the last one.
class ExportFormatEnds {
 public:
  explicit ExportFormatEnds(const ExportStyle& style);
  std::string Header() const;
  // The piece was written at this offset of the file.
  Status Wrote(const RowEncoder::Piece& piece, uint64_t file_offset);
  std::string Footer() const;
  // For an export that is interrupted and continued: what Footer needs. Bytes, or "" if that is nothing.
  std::string Save() const;
  Status Restore(const std::string& saved);

 private:
  const ExportStyle style_;
  std::optional<ParquetFooter> parquet_;
};

}  // namespace pando::admin
