// WatchPosition: how far a watcher has got in each of its partitions; it is what WatchReply.position carries.
//
// Format: docs/FORMAT.md, "Watch position". The server keeps nothing of a watcher between two calls.
//
// Threads: values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"

namespace pando {

struct WatchPosition {
  // Of each partition that the prefix may lie in, in order: everything up to this version was told.
  std::vector<Version> versions;
};

// What a position belongs to: a store and a prefix, and so a number of partitions.
struct WatchBinding {
  Uuid store;
  std::string_view prefix;
  size_t partitions = 0;
};

inline constexpr uint8_t kWatchPositionVersion = 1;
std::string EncodeWatchPosition(const WatchBinding& binding, const WatchPosition& position);
// kInvalidArgument: the bytes are no position, or one of another prefix. kNotFound: it is of another store, so that
// nothing is known here about what came after it.
Result<WatchPosition> DecodeWatchPosition(const WatchBinding& binding, std::string_view bytes);

}  // namespace pando
