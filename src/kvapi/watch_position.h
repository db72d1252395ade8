// WatchPosition says how far a watcher has got in each of its partitions. WatchReply.position
// carries it in encoded form.
//
// Format: docs/FORMAT.md, "Watch position". The server keeps no state of a watcher between calls.
//
// Threads: plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"

namespace pando {

struct WatchPosition {
  // One version for each partition that may hold keys with the prefix, in order of their ids. The
  // watcher has received every change up to that version.
  std::vector<Version> versions;
};

// The store and the prefix that a position belongs to. They determine its number of partitions.
struct WatchBinding {
  Uuid store;
  std::string_view prefix;
  size_t partitions = 0;
};

inline constexpr uint8_t kWatchPositionVersion = 1;
std::string EncodeWatchPosition(const WatchBinding& binding, const WatchPosition& position);
// kInvalidArgument if the bytes are not a position, or one of another version or prefix. kNotFound
// if the position belongs to another store, whose later changes this store does not know.
Result<WatchPosition> DecodeWatchPosition(const WatchBinding& binding, std::string_view bytes);

}  // namespace pando
