// ScanRange: the keys a scan, count or deleteRange covers, and the cursor that carries one from call to call.
//
// Cursor format: docs/FORMAT.md, "Scan cursor". It holds the last key given out, a hash of the range it belongs to, and
// the scan's name; the server keeps nothing.
//
// Threads: values.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"
#include "src/io/reactor.h"

namespace pando {

struct ScanCursor {
  uint64_t scan_id = 0;
  std::string last_key;
};

struct ScanRange {
  std::string start;  // inclusive unless start_exclusive; empty = from the first key
  bool start_exclusive = false;
  std::string end;  // exclusive; empty = to the last key
  bool reverse = false;
  bool empty = false;  // no key can lie in it
  // All keys of the range carry this hash tag, so that one partition holds them all.
  std::optional<std::string> tag;
  // Of the cursor: a random name that all pages of a scan share. 0 = the first page, which has yet to draw one.
  uint64_t scan_id = 0;

  // The smallest key that is larger than every key with this prefix; empty when there is none.
  static std::string PrefixEnd(std::string_view prefix);
  static ScanRange Of(std::string_view start, std::string_view end, std::string_view prefix, bool reverse);
  // Continues after the cursor's key. kInvalidArgument says what is wrong with the cursor.
  static Result<ScanRange> Of(const api::ScanRequest& request);
  static Result<ScanRange> Of(const api::DeleteRangeRequest& request);

 private:
  void GoOnAfter(ScanCursor cursor);
};

// A name for a scan that begins: never 0.
inline uint64_t NewScanId(Reactor& reactor) { return std::max<uint64_t>(reactor.Random(), 1); }

inline constexpr uint8_t kCursorVersion = 2;  // 1 had no scan id; it is still read
std::string EncodeCursor(const api::ScanRequest& request, const ScanCursor& cursor);
std::string EncodeCursor(const api::DeleteRangeRequest& request, const ScanCursor& cursor);
// kInvalidArgument when the bytes are no cursor, of another version, or of another range or direction.
Result<ScanCursor> DecodeCursor(const api::ScanRequest& request, std::string_view bytes);
Result<ScanCursor> DecodeCursor(const api::DeleteRangeRequest& request, std::string_view bytes);

}  // namespace pando
