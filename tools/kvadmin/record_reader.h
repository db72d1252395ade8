// RecordReader: records from JSON lines or CSV, one at a time, each with the line it began on.
//
//   JSON lines  {"key": "text", "value": "text"}, with "key_b64" / "value_b64" for bytes that are not UTF-8, and
//               optionally "ttl_ms" or "expires_at_ms" (as export writes it). Other members are ignored. Empty lines
//               are skipped.
//   CSV         RFC 4180 with a header line naming the columns key (or key_b64), value (or value_b64) and optionally
//               ttl_ms, expires_at_ms, in any order; other columns are ignored, and spaces around the names.
//
// A record that is wrong does not end the reading: Next returns it with its `error` set, which says what is wrong and,
// where the record spans lines, in which line.
//
// Threads: one.
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
  std::string error;          // not empty: why this is no record; the other fields then mean nothing
};

class RecordReader {
 public:
  virtual ~RecordReader() = default;
  // False at the end of the input. An error is one of the input as a whole: unreadable, no header.
  virtual Result<bool> Next(InputRecord* record) = 0;
  virtual uint64_t bytes_read() const = 0;
  virtual uint64_t lines_read() const = 0;  // those of the records that Next has returned
};

enum class Format : uint8_t { kJsonLines, kCsv };

// `in` must outlive the reader.
std::unique_ptr<RecordReader> MakeRecordReader(Format format, std::istream& in);
// By the file name's end; JSON lines when it says nothing.
Format FormatOfFile(const std::string& path);

}  // namespace pando::admin
