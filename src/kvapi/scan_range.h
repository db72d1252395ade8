// ScanRange is the range of keys that a scan, count or deleteRange covers. ScanCursor is the
// position that a client carries from one call of a scan or deleteRange to the next.
//
// Cursor format: docs/FORMAT.md, "Scan cursor". A cursor holds the last key returned, a hash of the
// range it belongs to, and the id of the scan. The server keeps no state of a scan between calls.
//
// Threads: plain values.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gen-cpp/pando_types.h"
#include "src/base/hash.h"
#include "src/base/hash_slices.h"
#include "src/base/ids.h"
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
  bool empty = false;  // no key can lie in the range
  // Set if all keys of the range have this hash tag, which means that one partition holds them all.
  std::optional<std::string> tag;
  // Only keys whose hash IDs are in it.
  HashSlice slice;
  // The hash ID of keys with this tag. REQUIRES: tag.
  uint64_t tag_hash() const { return HashId("{" + *tag + "}"); }
  // From the cursor: a random id that all pages of a scan share. 0 = the first page, before the id
  // is drawn.
  uint64_t scan_id = 0;

  // The smallest key that is larger than every key with this prefix; empty if there is none.
  static std::string PrefixEnd(std::string_view prefix);
  static ScanRange Of(std::string_view start, std::string_view end, std::string_view prefix, bool reverse);
  // The range of the request, after the cursor's key if it has a cursor. kInvalidArgument says what
  // is wrong with the cursor. REQUIRES: its slice exists.
  static Result<ScanRange> Of(const api::ScanRequest& request, const Uuid& cluster = {});
  static Result<ScanRange> Of(const api::DeleteRangeRequest& request, const Uuid& cluster = {});
  // What is left of the range after this key, in the direction of the scan.
  void ContinueAfter(std::string key);
};

// The id of the scan that reads `range`: that of its cursor, or on the first page a new one; never 0.
inline uint64_t ScanIdOf(const ScanRange& range, Reactor& reactor) {
  return range.scan_id != 0 ? range.scan_id : RandomId(reactor);
}

inline constexpr uint8_t kCursorVersion = 2;  // version 1 had no scan id and can still be read
// `cluster`: the one whose router issues it; nil: a node does.
std::string EncodeCursor(const api::ScanRequest& request, const ScanCursor& cursor, const Uuid& cluster = {});
std::string EncodeCursor(const api::DeleteRangeRequest& request, const ScanCursor& cursor, const Uuid& cluster = {});
// kInvalidArgument if the bytes are not a cursor, or have another version, range, direction,
// snapshot or cluster.
Result<ScanCursor> DecodeCursor(const api::ScanRequest& request, std::string_view bytes, const Uuid& cluster = {});
Result<ScanCursor> DecodeCursor(const api::DeleteRangeRequest& request, std::string_view bytes,
                                const Uuid& cluster = {});

}  // namespace pando
