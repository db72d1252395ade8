// What the replication core answers to its shell, by name.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <string_view>

#include "src/model/types.h"

namespace pando::replication {

// When a write is acknowledged (model/types.h). The shell waits; the core says how far each level has come:
// ReplicaLog::durable for kOne, ReplicaLog::applied for kQuorum, and ReplicaCore::all_lsn for kAll.
using pando::WriteLevel;

// Whether a write may be appended now. All but kAccepted are definite: the write has no effect.
enum class WriteVerdict : uint8_t {
  kAccepted,
  kRetired,       // nobody is, nor will be: the partition was split, or given up
  kNotOpen,       // it is the master of a half of a partition, which does not serve yet
  kNotMaster,     // this replica is no master, and does not know that it will be one
  kReplaced,      // the writer's session has seen a later master than this one
  kOpening,       // it is the new master, and opens soon: may be held
  kHandingOver,   // another one is to be master soon: may be held until HandoverEnded or CloseMastership
  kFrozen,        // too few replicas are in sync: nothing is committed until that changes
  kTooFewForAll,  // level ALL, and fewer than R replicas are in sync
  kDiskFull,      // on a replica that the commit would wait for
  kDiskStalled,   // on this replica
  kOutOfService,  // this replica is quarantined or discarded
};

// Whether a replica has what a client's session has seen.
enum class SessionState : uint8_t {
  kCovered,
  kNotYet,
  // The write is not in the committed history, or is so old that this replica cannot tell any more.
  kLost,
};

// What became of a change of the partition's entry that was asked for.
enum class ChangeResult : uint8_t {
  kDone,      // the entry is so already
  kProposed,  // a CAS is under way: ask again until kDone
  kLater,     // another change is under way: ask again
  kNotMaster,
  // It would break a rule: fewer members than min_isr, the master itself, or what does not follow upon the state of the
  // partition in a split.
  kNotAllowed,
};

// Why a replica is removed.
enum class Removal : uint8_t {
  kForGood,   // there should be no more from then on than there are
  kReplaced,  // another one has come for it: refused if there would be fewer than there should be
};

// What became of the request to take a partition over without a promotion (ReplicaCore::Force).
enum class ForceVerdict : uint8_t {
  kProposed,      // a CAS is under way: if it lands, the entry has a higher lineage and names this replica
  kServes,        // this replica is the master, and has a lease
  kHearsMaster,   // it hears another one, or has until a moment ago
  kNotAssigned,   // it is no replica that counts: a learner, or in no entry that it knows
  kRetired,       // nobody is to lead it
  kMayLose,       // it is not in sync, so it may lack what was committed, and no loss is accepted
  kOutOfService,  // it is quarantined, discarded, or not installed
};

std::string_view ToString(WriteVerdict verdict);
std::string_view ToString(ForceVerdict verdict);
std::string_view ToString(ChangeResult result);

}  // namespace pando::replication
