// NodePartitions creates, installs and drops the partitions of a node while it serves. For each change it takes the
// steps of StoreRoster, of the engine of the partition's reactor, and of all reactors, which must know what
// the node holds.
//
// Threads: reactor 0.
//
// Invariants
//   NP1  Changes are made one at a time (SM2).
//   NP2  A partition is served only while it is certain that store.meta names it, so that no acknowledged
//        write is lost with it.
//   NP3  Each change ends: it waits only for the disk, for requests of a partition that refuses them, and for
//        a sender whose pages must keep coming. So Close ends too.
#pragma once

#include <optional>
#include <vector>

#include "src/backup/install.h"
#include "src/io/sync.h"
#include "src/node/reactor_part.h"
#include "src/node/snapshots.h"
#include "src/partition/store_roster.h"
#include "src/replication/replica_file.h"

namespace pando {

// What a partition is installed from, besides its pages: what describeSnapshot says.
struct InstallSource {
  SnapshotRoot root;
  uint32_t ranges = 0, page_bytes = 0, seal_bytes = 0;  // of the store there
  bool namespaced = false;
};

class NodePartitions {
 public:
  // An installation ends if no page comes for so long.
  static constexpr Nanos kInstallPatience = 60 * kSecond;

  // `store`: as the engines of `parts` have opened it. All pointers outlive this object. `memory`: for
  // installations. `lock`: see StoreRoster.
  NodePartitions(Reactor& reactor, const std::vector<ReactorPart*>* parts, Snapshots* snapshots, MemoryBudget* memory,
                 StoreInfo store, std::optional<FileIdentity> lock)
      : reactor_(reactor),
        parts_(*parts),
        snapshots_(*snapshots),
        memory_(memory),
        roster_(reactor, std::move(store), lock),
        turn_(reactor, 1) {}
  ~NodePartitions();

  Task<Status> Open();
  // Refuses changes from now on, and waits for the running one (NP3); an installation is cancelled. Comes
  // before anything else that closes, because a change may wait for what the node does. REQUIRES: the parts'
  // engines are open.
  Task<Status> Close();

  // An empty partition. kAlreadyExists, kInvalidArgument (there is no such range), kOverloaded (there is no
  // memory for another one), kDiskFull, and errors of the disk leave everything as it was.
  Task<Result<PartitionInfo>> Create(uint32_t id);
  // The same for a replica of a partition that other nodes hold too; they all have that UUID.
  Task<Result<PartitionInfo>> CreateReplica(uint32_t id, Uuid uuid, replication::ReplicaState state);
  // A partition that another node holds, as it is in a snapshot there. It keeps its UUID. `pages` outlives the
  // call, which takes as long as the pages take to come; other changes wait for it. No page is asked for if the
  // partition could not be opened. kInvalidArgument: the other store has another form, or there is no UUID.
  // kCorruption: what came is not the snapshot (IN1, IN2). kUnavailable: no page has come for kInstallPatience.
  // The errors of Create. Errors leave everything as it was.
  Task<Result<PartitionInfo>> Install(uint32_t id, InstallSource source, SnapshotPages* pages);
  // The same for the replica that this node is to have of a partition, in place of what it holds of it, if
  // anything, which is dropped first. The replica file says *state, with what the old one had promised; *state
  // gets that also after an error. Then the node may hold nothing of the partition.
  Task<Result<PartitionInfo>> Reinstall(uint32_t id, InstallSource source, SnapshotPages* pages,
                                        replication::ReplicaState* state);
  // Ends the service of a partition and removes its data. kUnavailable: the node does not hold it. After
  // another error the partition is served as before, unless its engine has failed, or it is unknown whether
  // the next start will find the partition: then it is quarantined until that start (NP2).
  Task<Status> Drop(uint32_t id);

  // What store.meta says.
  const StoreInfo& store() const { return roster_.store(); }

 private:
  Task<Status> TakeTurn();
  Task<Result<PartitionInfo>> CreateInTurn(uint32_t id, std::optional<Uuid> uuid,
                                           std::optional<replication::ReplicaState> replica);
  Task<Result<PartitionInfo>> InstallInTurn(uint32_t id, InstallSource source, SnapshotPages* pages,
                                            std::optional<replication::ReplicaState> replica);
  Task<Result<PartitionInfo>> ReinstallInTurn(uint32_t id, InstallSource source, SnapshotPages* pages,
                                              replication::ReplicaState* state);
  Task<Status> MakeReplicaFile(uint32_t id, const PartitionFileOptions& beside,
                               std::optional<replication::ReplicaState> state);
  Status CheckForm(const InstallSource& source) const;
  Task<Status> CheckMayOpen(uint32_t id);
  Task<LogPosition> LogEnd(uint32_t id);
  Task<Status> DropInTurn(uint32_t id, std::optional<replication::ReplicaState>* last = nullptr);
  Task<void> TakeOutOfService(uint32_t id, Status why);
  Task<void> ForgetDropped();
  Task<Result<PartitionInfo>> Serve(PartitionInfo info);
  Task<void> Announce(uint32_t id, bool here);
  ReactorPart* OwnerOf(uint32_t id) const { return parts_[roster_.store().ReactorOf(id)]; }

  Reactor& reactor_;
  const std::vector<ReactorPart*>& parts_;
  Snapshots& snapshots_;
  MemoryBudget* const memory_;
  StoreRoster roster_;
  Semaphore turn_;
  bool open_ = false, closing_ = false;
  SnapshotPages* installing_ = nullptr;
};

}  // namespace pando
