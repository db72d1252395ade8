// A writer of Apache Parquet files for records: the columns key and value (BYTE_ARRAY), version (INT64) and
// expires_at_ms (INT64, a UTC timestamp in milliseconds, null if the record never expires).
//
// A file is "PAR1", row groups, and a footer. A row group does not depend on the place where it lies, so several
// threads make one each, and one thread puts them into the file in order. docs/REPORTING.md says what the file holds.
// Debian has no library for this.
//
// Threads: each object belongs to one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/kvapi/row_walk.h"
#include "tools/kvadmin/file_chunk.h"

namespace pando::parquet {
class FileMetaData;
}

namespace pando::admin {

inline constexpr std::string_view kParquetMagic = "PAR1";

enum class ParquetCompression : uint8_t { kNone, kZstd, kLz4 };

// Makes row groups.
class ParquetRowGroup {
 public:
  struct Done {
    std::vector<FileChunk> chunks;  // of all columns
    size_t bytes = 0;               // in them
    std::string metadata;           // a RowGroup whose offsets count from the start of the first chunk
  };

  // `pool` must outlive the object.
  ParquetRowGroup(ParquetCompression compression, ChunkPool* pool);
  ~ParquetRowGroup();
  ParquetRowGroup(const ParquetRowGroup&) = delete;
  ParquetRowGroup& operator=(const ParquetRowGroup&) = delete;

  // REQUIRES: keys ascend.
  void Add(const RowView& row);
  uint64_t rows() const { return rows_; }
  // Ends the row group; the next row begins another one. REQUIRES: it has rows.
  Done Finish();

 private:
  class Column;
  struct Columns;
  std::unique_ptr<Columns> columns_;
  uint64_t rows_ = 0;
};

// Collects what stands at the end of a file.
class ParquetFooter {
 public:
  ParquetFooter();
  ~ParquetFooter();

  // The row group that `metadata` describes (ParquetRowGroup::Done) begins at this offset of the file.
  Status Append(const std::string& metadata, uint64_t file_offset);
  // The bytes that follow the last row group.
  std::string Finish() const;

  // For an export that is interrupted and continued. kInvalidArgument: `saved` is not from Save.
  std::string Save() const;
  Status Restore(const std::string& saved);

 private:
  std::unique_ptr<parquet::FileMetaData> metadata_;
};

}  // namespace pando::admin
