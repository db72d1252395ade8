// ScanPage: the rows that a scan returns.
//
// Keys and values of the rows lie in the page's arena, so a row takes no allocation. They live as long as the page, or
// as the page that has adopted its bytes. A page is moved, never copied.
//
// Threads: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/arena.h"
#include "src/model/record.h"

namespace pando {

struct ScanRow {
  std::string_view key;
  std::string_view value;
  Version version = 0;
  int64_t expires_at_ms = 0;
  bool removed = false;       // since ScanSpec::since; the other fields are empty
  uint32_t value_bytes = 0;   // set with ScanSpec::sizes_only
  uint32_t unread_bytes = 0;  // size of a value that was left out because of ScanSpec::hard_bytes
  size_t bytes() const { return key.size() + value.size(); }
};

struct ScanPage {
  std::vector<ScanRow> rows;
  Arena bytes;              // of their keys and values
  bool exhausted = false;   // the range has nothing after the last row
  size_t examined = 0;      // with ScanSpec::slice: records, whether they are in the slice or not
  std::string examined_to;  // the page has ended because of ScanSpec::max_examined, after this key; empty: it has not
  // Up to where the range was read, in the direction of the scan. Nothing: to its end, or nothing was read.
  std::optional<std::string_view> read_to() const {
    if (exhausted) return std::nullopt;
    if (!examined_to.empty()) return examined_to;
    if (rows.empty()) return std::nullopt;
    return rows.back().key;
  }
};

}  // namespace pando
