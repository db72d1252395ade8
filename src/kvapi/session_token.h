// The token of a session: what its client has seen, of each partition (ReplyContext.session). A read with it
// returns nothing older, whichever replica answers it (docs/REPLICATION.md, "Levels").
//
// Format: docs/FORMAT.md, "Session token". The server keeps nothing of a session.
//
// Threads: plain values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/model/types.h"

namespace pando {

inline constexpr uint8_t kSessionTokenVersion = 1;
// A session that has seen more partitions has no token.
inline constexpr size_t kMaxSessionPoints = 1024;

struct SessionToken {
  Uuid cluster;
  std::map<uint32_t, SessionPoint> points;  // by partition

  std::optional<SessionPoint> At(uint32_t partition) const;
  Epoch EpochOf(uint32_t partition) const;  // 0: the session has not seen it
  // Whether the session has seen halves of it, so it was split before. `base`: as in hash_ranges.h.
  bool HasSeenPartOf(uint32_t partition, uint32_t base) const;
  // The session has seen this, too. A point of a lower epoch than one that it has seen already says nothing new.
  void Raise(uint32_t partition, const SessionPoint& seen);
};

// Empty, if the session has seen nothing, or too many partitions.
std::string EncodeSessionToken(const SessionToken& token);
// The same for a single point, without a map.
void AppendSessionToken(const Uuid& cluster, uint32_t partition, const SessionPoint& seen, std::string* out);
// kInvalidArgument if the bytes are not a token, or one of another version or cluster. No bytes: nothing was seen.
Result<SessionToken> DecodeSessionToken(const Uuid& cluster, std::string_view bytes);

}  // namespace pando
