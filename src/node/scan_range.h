// ScanRange: the keys a scan or count covers, and the cursor that carries a scan from page to page.
//
// Cursor format: docs/FORMAT.md, "Scan cursor". It holds the last key given out and a hash of the range it belongs to;
// the server keeps nothing.
//
// Threads: values.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"

namespace pando {

struct ScanRange {
  std::string start;  // inclusive unless start_exclusive; empty = from the first key
  bool start_exclusive = false;
  std::string end;  // exclusive; empty = to the last key
  bool reverse = false;
  bool empty = false;  // no key can lie in it
  // All keys of the range carry this hash tag, so that one partition holds them all.
  std::optional<std::string> tag;

  // The smallest key that is larger than every key with this prefix; empty when there is none.
  static std::string PrefixEnd(std::string_view prefix);
  static ScanRange Of(std::string_view start, std::string_view end, std::string_view prefix, bool reverse);
  // Goes on behind the cursor's key. kInvalidArgument says what is wrong with the cursor.
  static Result<ScanRange> Of(const api::ScanRequest& request);
};

inline constexpr uint8_t kCursorVersion = 1;
std::string EncodeCursor(const api::ScanRequest& request, std::string_view last_key);
// The last key. kInvalidArgument when the bytes are no cursor, of another version, or of another range or direction.
Result<std::string> DecodeCursor(const api::ScanRequest& request, std::string_view cursor);

}  // namespace pando
