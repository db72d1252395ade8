// RecordReader: reads records from JSON lines or CSV, one at a time, each with the number of the
// line it begins on.
//
// Threads: one.
//
//   JSON lines  {"key": "text", "value": "text"}, with "key_b64" or "value_b64" for bytes that
//               are not UTF-8, and optionally "ttl_ms" or "expires_at_ms" (as export writes it).
//               Other members are ignored. Blank lines are skipped.
//   CSV         RFC 4180 with a header line that names the columns key (or key_b64), value (or
//               value_b64) and optionally ttl_ms and expires_at_ms, in any order. Other columns
//               and spaces around the names are ignored.
//
// An invalid record does not end the reading. Next returns it with `error` set, which says what is
// wrong. For malformed CSV it also names the line.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

struct InputRecord {
  uint64_t line = 0;  // from 1
  std::string key, value;
  int64_t ttl_ms = 0;         // 0 = none
  int64_t expires_at_ms = 0;  // 0 = none
  std::string error;          // if not empty: why the record is invalid; only `line` is then valid
};

class RecordReader {
 public:
  virtual ~RecordReader() = default;
  // Returns false at the end of the input. An error concerns the input as a whole: it cannot be
  // read, or the CSV header is invalid.
  virtual Result<bool> Next(InputRecord* record) = 0;
  virtual uint64_t bytes_read() const = 0;
  virtual uint64_t lines_read() const = 0;  // up to the last record that Next returned
};

enum class Format : uint8_t { kJsonLines, kCsv };

// `in` must outlive the reader.
std::unique_ptr<RecordReader> MakeRecordReader(Format format, std::istream& in);
// kCsv when the name ends in ".csv", else kJsonLines.
Format FormatOfFile(const std::string& path);

}  // namespace pando::admin
