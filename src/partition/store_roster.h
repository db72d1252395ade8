// StoreRoster: changes which partitions an open store holds. It is the only writer of store.meta.
//
// It deals with files; the engine of the partition's reactor opens and closes the partition itself:
//
//   create   Create, then Engine::OpenPartition
//   install  Install, then Engine::OpenPartition
//   drop     Drop, then Engine::DropPartition, then RemoveFiles
//
// Threads: one reactor, which need not be that of the partitions. One call at a time.
//
// Invariants: SM1, SM2 and SM3 of store.h, plus
//   RO1  A crash anywhere leaves a partition wholly in the store, or wholly out of it. What is left of
//        one that is out is removed by RemoveLeftovers at the next start.
//   RO2  Once it is unknown which store.meta a restart will find, nothing is changed any more.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "src/io/directory.h"
#include "src/partition/partition_file_options.h"
#include "src/partition/store.h"

namespace pando {

class StoreRoster {
 public:
  // The most dropped partitions of which the logs may hold something.
  static constexpr size_t kMaxDropped = 65536;

  // `lock`: the identity of the lock file. Nothing is changed if the directory has another one or none,
  // because another process may have opened the store. Not set: no check.
  StoreRoster(Reactor& reactor, StoreInfo store, std::optional<FileIdentity> lock = std::nullopt)
      : reactor_(reactor), store_(std::move(store)), lock_(lock), id_limit_(store_.IdLimit()) {}

  Task<Status> Open();
  Task<Status> Close();
  // What store.meta says, if that is certain.
  const StoreInfo& store() const { return store_; }
  // RO2: whether it is known which store.meta a restart will find.
  bool certain() const { return failure_.ok(); }

  // The store belongs to a node of a cluster, whose partitions may be split: from now on it may hold halves.
  void AllowHalves() { id_limit_ = kMaxPartitions; }

  // Whether the store may be changed (RO2), may have such a range, and holds no partition for it. Create and Install
  // begin with it.
  Status CheckNew(uint32_t id) const;

  // Makes the file of an empty partition, with a new UUID, and names it in store.meta.
  // kAlreadyExists: the store holds it, or there is a file of it that may be needed.
  Task<Result<PartitionInfo>> Create(uint32_t id);

  // The same for one of several replicas of a partition, which share its UUID. For `until`, and errors, see
  // Install.
  Task<Result<PartitionInfo>> CreateReplica(uint32_t id, Uuid uuid, LogPosition until);

  // The same for a partition whose file `make` makes, and which keeps the UUID that it has elsewhere.
  // This store may have held a partition with the same UUID before. What its log holds of that one lies
  // before `until`. If `make` fails, its error is returned, and nothing is left. kInvalidArgument: the UUID is
  // nil.
  using MakeFile = std::function<Task<Status>(PartitionFileOptions)>;
  Task<Result<PartitionInfo>> Install(uint32_t id, Uuid uuid, LogPosition until, MakeFile make);

  // store.meta stops naming the partition. kUnavailable: the store does not hold it.
  Task<Result<PartitionInfo>> Drop(uint32_t id);
  // Removes the files of a partition that has been dropped and is not open any more. If this fails, the
  // next start does it. Files that an operator or kvadmin has put beside them stay.
  Task<Status> RemoveFiles(PartitionInfo dropped);

  // Forgets dropped partitions (SM3) except those in `in_logs`, of which some log may hold something.
  // The next change of store.meta says so.
  void ForgetDropped(const std::set<Uuid>& in_logs);

 private:
  Status StillOurs() const;
  Status NoteDropped(const Uuid& uuid, LogPosition until, StoreInfo* store) const;
  PartitionFileOptions FileOptions(const PartitionInfo& info) const;
  Task<Status> SyncNames(uint32_t id);
  Task<Status> CheckNothingIsThere(uint32_t id) const;
  Task<Status> MakeAndName(PartitionInfo info, const MakeFile* make, bool* in_place);
  Task<Status> AddPartition(PartitionInfo info, const MakeFile* make);
  // Makes store.meta say `store`.
  Task<Status> Write(StoreInfo store);

  Reactor& reactor_;
  StoreInfo store_;
  const std::optional<FileIdentity> lock_;
  uint32_t id_limit_;  // IDs are below it
  Directory directory_;
  Status failure_;  // RO2
  // Dropped, or being installed: the file of this UUID may still be there under this ID.
  std::set<std::pair<Uuid, uint32_t>> with_files_;
};

}  // namespace pando
