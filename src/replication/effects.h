// Effects: what the replication core wants done. The shell carries them out in order, after each call
// into the core; a process that stops in between has carried out only the first of them.
//
// Threads: plain values.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "src/base/check.h"
#include "src/replication/messages.h"
#include "src/replication/partition_entry.h"

namespace pando::replication {

struct SendMessage {
  Message message;
};
// Read units after `after` (Log::OpenReader, LiveReader::Read), send them as an Append, and call
// OnShipped with the end of the last one, also if there were none. One at a time for each follower.
struct ShipUnits {
  ReplicaId to;
  Epoch epoch = 0;
  HistoryPoint after;
  Lsn commit_lsn = 0;
};
// Store both in the partition's own file, durably and in one step, then call OnPromiseStored.
struct StorePromise {
  Epoch epoch = 0;
  uint64_t lineage = 0;
};
// Try to replace the entry of revision `desired.revision`, then call OnCasDone. Never retried by the shell.
struct CasTopology {
  PartitionEntry desired;
};
// Read the entry, currently, and call OnTopology.
struct ReadTopology {};
// The mastership serves from now on. REQUIRES of the shell: it reads and writes only within it.
struct OpenMastership {
  Epoch epoch = 0;
};
// The mastership has ended. What waits for a commit has an unknown outcome. What was held and never
// appended (WriteVerdict::kHandingOver) certainly has no effect.
struct CloseMastership {
  Epoch epoch = 0;
  std::string why;
  ReplicaId successor;  // nil: unknown
};
// The handover that ReplicaCore::Handover or HoldForSplit has begun is over. If it is not done, this replica goes on as
// master, or has ended as one for another reason.
struct HandoverEnded {
  ReplicaId target;  // nil: nobody; done: the partition is retired
  bool done = false;
  std::string why;
};
// As master: this replica has lost what it had acknowledged, or contradicts what is committed. It is not
// counted any more and leaves the ISR as soon as it may. For the operator.
struct ReportLostReplica {
  ReplicaId replica;
  std::string why;
};
// As master: what the replica needs is not in this log any more. It is offered a copy of the pages
// (InstallOffer) if it is not in sync; if it is, it leaves the ISR first.
struct InstallReplica {
  ReplicaId replica;
};
// This replica's master has offered a copy of the pages. It acknowledges nothing more. Read the entry, currently: if it
// still has `epoch` and `master`, and this replica is not in the ISR, replace the replica's data; else call
// OnInstalled.
struct FetchPages {
  Epoch epoch = 0;
  ReplicaId master;
};
// The replica cannot be used: its committed past is not the partition's. It takes part in nothing from
// now on, and must be installed anew under another UUID.
struct QuarantineReplica {
  std::string why;
};
// The partition does without this replica: an operator has accepted a loss (another lineage), or it was
// removed from the assigned ones. It takes part in nothing from now on. If the node is to have one, it
// is installed anew under another UUID.
struct DiscardReplica {
  std::string why;
};

using Effect =
    std::variant<SendMessage, ShipUnits, StorePromise, CasTopology, ReadTopology, OpenMastership, CloseMastership,
                 HandoverEnded, ReportLostReplica, InstallReplica, FetchPages, QuarantineReplica, DiscardReplica>;

// The effects of one call. A call has few of them, and a limit on them.
class Effects {
 public:
  static constexpr size_t kMaxPerCall = 16 * kMaxReplicas;

  void Add(Effect effect) {
    CHECK_LT(effects_.size(), kMaxPerCall) << "nobody carries out the effects of the replication core";
    effects_.push_back(std::move(effect));
  }
  std::vector<Effect> Take() { return std::exchange(effects_, {}); }
  // The same without an allocation: the two vectors keep their memory.
  void TakeInto(std::vector<Effect>* effects) {
    effects->clear();
    effects_.swap(*effects);
  }
  bool empty() const { return effects_.empty(); }

 private:
  std::vector<Effect> effects_;
};

}  // namespace pando::replication
