// WatchPosition says how far a watcher has got in each of its partitions. WatchReply.position
// carries it in encoded form.
//
// Format: docs/FORMAT.md, "Watch position". The server keeps no state of a watcher between calls.
//
// Threads: plain values.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"

namespace pando {

struct WatchPosition {
  // One version for each of WatchBinding::ids. The watcher has received every change up to that version.
  std::vector<Version> versions;
};

// The store and the prefix that a position belongs to.
struct WatchBinding {
  Uuid store;
  std::string_view prefix;
  uint32_t base = 0;          // how many partitions the store was created with
  std::vector<uint32_t> ids;  // those that may hold keys with the prefix now
};

// A position of a store none of whose partitions was split has version 1, else 2.
inline constexpr uint8_t kWatchPositionVersion = 2;
std::string EncodeWatchPosition(const WatchBinding& binding, const WatchPosition& position);
// The position for the partitions of the binding. The halves of a partition go on where it ended.
// kInvalidArgument if the bytes are not a position, or one of another version or prefix. kNotFound
// if the position belongs to another store, whose later changes this store does not know. kUnavailable
// if it was given after one of these partitions was split.
Result<WatchPosition> DecodeWatchPosition(const WatchBinding& binding, std::string_view bytes);
// What a watcher whose position is `versions`, by partition, has received of the partition or of one that
// it is a part of. kUnavailable: the position has only parts of it. kNotFound: nothing of it.
Result<Version> VersionFor(uint32_t id, uint32_t base, const std::map<uint32_t, Version>& versions);

}  // namespace pando
