// Whether a directory may go on under the replica UUIDs that it holds. An emptied disk, or one that
// was restored from an old image, has forgotten what it acknowledged and promised, so its replicas
// must not pass for those that did.
//
// Each start raises a counter of the node, in the topology by CAS and in the directory, durably, before
// the replicas of the directory do anything. A directory whose counter is behind is an older copy.
// An image that was taken while the same start was running is not recognised: it has the same counter.
//
// Threads: pure functions.
//
// Invariants
//   I9  a replica whose disk was emptied or put back is not in sync: it has another UUID.
#pragma once

#include <cstdint>

#include "src/replication/rules.h"

namespace pando::replication {

enum class DirectoryVerdict : uint8_t {
  kContinues,  // it is what the last start has left
  kIsNew,      // it is empty: new UUIDs
  kIsOld,      // it was put back: new UUIDs
};

inline DirectoryVerdict JudgeDirectory(bool empty, uint64_t counter, uint64_t counter_in_topology, const Rules& rules) {
  if (!rules.identity_is_judged) return DirectoryVerdict::kContinues;
  if (empty) return DirectoryVerdict::kIsNew;
  return counter < counter_in_topology ? DirectoryVerdict::kIsOld : DirectoryVerdict::kContinues;
}

}  // namespace pando::replication
