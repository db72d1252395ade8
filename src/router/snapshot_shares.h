// SnapshotShares: which clients have opened how many of the snapshots that a cluster can have, as far as one router
// knows. It does not know of those that were opened through other routers; the nodes have the last word.
//
// Threads: any; it belongs to all reactors.
//
// Invariants
//   RS3  Of the snapshots that can be open, no client has more than kClientShare times those that are free (a dynamic
//        threshold, as UP3). A snapshot counts until it is released or has expired.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "src/model/types.h"

namespace pando {

class SnapshotShares {
 public:
  static constexpr size_t kMost = 64;  // as of the nodes
  static constexpr size_t kClientShare = 2;

  // A place for a snapshot that is being opened. 0: the client has its share.
  uint64_t Take(uint64_t client, int64_t now_ms);
  // It is open, or was not opened.
  void Keep(uint64_t place, SnapshotId id, int64_t expires_at_ms);
  void Drop(uint64_t place);
  // Of snapshots that are known here.
  void NoteRenewed(SnapshotId id, int64_t expires_at_ms);
  void NoteReleased(SnapshotId id);

 private:
  struct Open {
    uint64_t client = 0;
    SnapshotId id = 0;  // 0: it is being opened
    int64_t expires_at_ms = 0;
  };
  std::mutex mutex_;
  std::unordered_map<uint64_t, Open> open_;  // at most kMost
  uint64_t last_place_ = 0;
};

}  // namespace pando
