// The token that names a snapshot to clients. It holds all that a read needs (docs/FORMAT.md,
// "Snapshot token"): any reactor decodes the partitions' id of the snapshot from it, and the
// partitions report when the snapshot is gone.
//
// Threads: values.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/model/types.h"

namespace pando {

inline constexpr uint8_t kSnapshotTokenVersion = 1;
struct SnapshotToken {
  SnapshotId id = 0;
  Version version = 0;
};
std::string EncodeSnapshotToken(const SnapshotToken& token);
// kInvalidArgument if the bytes are not a token or have another version.
Result<SnapshotToken> DecodeSnapshotToken(std::string_view bytes);

}  // namespace pando
