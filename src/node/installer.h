// ReplicaInstaller: gives the node's replicas a copy of their master's pages, where the log does not hold what they
// miss: a replica that was away for too long, a learner, and one whose data were lost or restored.
//
// It looks at the replicas and the topology again and again, so nothing needs to be remembered or repeated, and
// a failed round begins anew: with a change of the master, a lost connection, or a restart of either side.
//
//   look      which replicas are not installed (RH5), which does the topology assign that are not here
//   replace   a replica with a new UUID: ask the master to take it in place of the node's old one, or of one
//             that was taken out of the partition because it had lost its past
//   copy      open a copy at the master, drop what is here, install the pages, open the partition
//   follow    tell the replica the newest record; its master ships the log from the copy's end
//   drop      what the node holds of a replica that its partition does not have any more
//
// If the log after the copy has outgrown what its master keeps for it, the master offers another copy, and a whole
// new round begins.
//
// Threads: reactor 0.
//
// Invariants
//   IS1  Data is dropped only of a replica that RH5 allows, and only once its master has opened a copy for it. So
//        while a partition has no master, nobody drops anything.
//   IS2  A replica comes to be under its UUID only with all that it has promised (ReplicaState), or under a UUID
//        that nobody has had. What a crash leaves behind is one that is there as before, is installed, or is
//        missing; one that is missing at a start gets a new UUID.
//   IS4  A replica that was removed is dropped only if the topology, read after it was seen to be missing there, still
//        does not list it (WasRemoved). If the node ends before that, it looks again at its next start.
//   IS5  A replica of a partition that was split is dropped only if the records of both halves, read after its own, say
//        that they serve.
//   IS3  One installation at a time; the others wait, at most one for each partition.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/metrics/registry.h"
#include "src/node/copied_pages.h"
#include "src/node/node_cluster.h"
#include "src/node/node_partitions.h"
#include "src/node/reactor_part.h"
#include "src/replication/replica_file.h"

namespace pando {

class ReplicaInstaller {
 public:
  // All pointers outlive this object. `bytes_per_s`: of pages that come; 0: no limit.
  ReplicaInstaller(Reactor& reactor, NodeCluster* cluster, NodePartitions* partitions,
                   const std::vector<ReactorPart*>* parts, MemoryBudget* memory, Registry* registry,
                   uint64_t bytes_per_s);
  ~ReplicaInstaller();  // REQUIRES: Stop has returned

  // The topology assigns a replica of the partition to this node, and it is not here: it will be another one.
  void AddMissing(uint32_t partition);
  // Once the node has joined.
  void Start();
  // Gives up what goes on.
  Task<void> Stop();

  // One that is being installed, or waits for it.
  struct Report {
    uint32_t partition = 0;
    Uuid replica;
    Epoch promised = 0;
    CopiedPages::Progress progress;
    std::string problem;  // why the last try failed; empty: none has since there was progress
  };
  std::vector<Report> reports() const;

 private:
  struct Wanted {
    replication::ReplicaState state;  // as it is to be, except for `installed`
    bool held = false;                // the node holds old data of it
    Nanos next_ns = 0, wait_ns = 0;   // when to try again
    Nanos listed_ns = 0;              // since when the topology lists it; 0: not yet
    std::string problem;              // why the last try failed
  };
  static constexpr Nanos kLookNs = 200 * kMillisecond, kMaxWaitNs = 10 * kSecond;
  static constexpr Nanos kReadNs = 2 * kSecond;
  // One that is replaced leaves the ISR in this time, unless it must stay until the new one is in it.
  static constexpr Nanos kLeaveNs = 2 * kSecond;

  Task<void> Run();
  Task<void> Look();
  void LookAtTopology();
  Task<void> DropRemoved();
  Task<Result<PartitionRecord>> ReadRecord(uint32_t partition);
  Task<Result<bool>> IsStillNeeded(const PartitionRecord& record);
  Task<Status> DropIfRemoved(uint32_t partition);
  // Of those that are due, the one that has waited longest.
  std::optional<uint32_t> NextDue() const;
  // Whether it is installed now.
  Task<bool> TryOne(uint32_t partition);
  // Each returns true once the replica is installed, and false if the next step must wait for the topology.
  Task<Result<bool>> Advance(uint32_t partition, Wanted wanted);
  Task<Result<bool>> AdvanceWith(CopiedPages* pages, uint32_t partition, Wanted wanted);
  Task<Status> Install(CopiedPages* pages, uint32_t partition, replication::ReplicaState state);
  // Where the master of the partition serves clients.
  Result<std::string> MasterOf(uint32_t partition) const;
  // What the topology lists of a partition.
  struct Listed {
    bool self = false;      // the replica that was asked about
    bool has_room = false;  // there are fewer replicas than there should be
    Uuid old;               // another replica of this node; nil: none
  };
  Listed Find(uint32_t partition, const Uuid& replica) const;

  Reactor& reactor_;
  NodeCluster& cluster_;
  NodePartitions& partitions_;
  const std::vector<ReactorPart*>& parts_;
  MemoryBudget* const memory_;
  Registry* const registry_;
  Pace pace_;
  std::map<uint32_t, Wanted> wanted_;
  CopiedPages* copying_ = nullptr;
  uint32_t copied_partition_ = 0;
  bool stopping_ = false, stopped_ = true;
  Gauge waiting_, done_bytes_, of_bytes_;
  Counter installed_total_, failed_total_, bytes_total_, dropped_total_;
  TaskGroup tasks_;
};

}  // namespace pando
