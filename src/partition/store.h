// Store layout: the contents of a data directory besides the partitions' own files, and how they
// are divided among reactors.
//
//   DIR/store.meta            node UUID, partitions, reactors, page size, seal, and where the logs are
//                             (docs/FORMAT.md, "Store file"); replaced as a whole
//   DIR/lock                  locked while a process has the store open
//   DIR/wal-R/                the log of reactor R, in layout 0; in layout L: DIR/wal-L-R/
//   DIR/partition-P/data      the tree of partition P; P runs on reactor P mod reactors
//   DIR/partition-P/replica   what its replica here must never forget, if it has several
//                             (src/replication/replica_file.h)
//
// The hash space was divided into `ranges` equal parts. A partition has the number of its range as its
// ID, which can also be a half of one of them (src/base/hash_ranges.h). A store need not hold a
// partition for each range.
//
// Threads: values; the functions run on one reactor.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/hash_ranges.h"
#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/buffer_pool/page.h"
#include "src/io/file.h"
#include "src/io/reactor.h"
#include "src/wal/log_format.h"

namespace pando {

inline constexpr char kLockName[] = "lock";  // in the data directory
// In the directory of a partition: its file, and those that are to become it and may not be complete yet: of a
// partition that is created or installed, and of accept_loss.h.
inline constexpr char kPartitionFileName[] = "data", kInstallingName[] = "installing", kReplacingName[] = "data.new";
// The same of its replica file.
inline constexpr char kReplicaFileName[] = "replica", kNewReplicaFileName[] = "replica.new";

class Directory;
struct PartitionFileOptions;  // partition_file_options.h

struct StoreOptions {
  std::string data_dir;
  uint32_t partitions = 16;  // a power of two: the ranges of a new store
  uint32_t reactors = 1;
  uint32_t page_bytes = 0;  // 0 = the default for a new store, or the page size of an existing one
  // What a new store leaves free at the end of every extent (page.h): 0 or kSealBytes.
  uint32_t seal_bytes = kSealBytes;
  // Whether a new store stores keys with their namespace (key_space.h).
  bool namespaced = true;
  // Whether a new store holds no partition at first, else one for each range. A node of a cluster holds those
  // that are assigned to it.
  bool empty = false;
};

struct PartitionInfo {
  uint32_t id = 0;
  Uuid uuid;
  uint64_t first_hash = 0, last_hash = 0;  // inclusive range of hash IDs
};

struct StoreInfo {
  std::string data_dir;
  Uuid node;
  uint32_t reactors = 0;  // that the logs belong to
  uint32_t page_bytes = 0;
  uint32_t seal_bytes = 0;
  bool namespaced = false;  // stored keys begin with a namespace (key_space.h)
  uint32_t ranges = 0;      // those it was created with: a power of two
  // Counts how often the logs have been replaced by those of another number of reactors.
  uint64_t layout = 0;
  std::vector<PartitionInfo> partitions;                        // ascending by ID
  static constexpr LogPosition kAnyPosition = ~LogPosition{0};  // after every other one
  struct Dropped {
    Uuid uuid;
    LogPosition until = kAnyPosition;  // its records in the log before this mean nothing
  };
  // Partitions that were dropped, as long as the logs may hold their records. Also a partition that the
  // store holds can be there: an operator has accepted that what the log holds of it before that position
  // is lost (verify/accept_loss.h, verify/accept_log_loss.h).
  std::vector<Dropped> dropped;

  // The ID of the range that has the key, of those that the store was created with. A node of a cluster asks
  // its RangeTable instead, because partitions may have been split since.
  uint32_t PartitionOf(std::string_view key) const;
  // IDs of its partitions, and of the ranges that it was created with, are below it.
  uint32_t IdLimit() const { return partitions.empty() ? ranges : std::max(ranges, partitions.back().id + 1); }
  // Null: the store does not hold it.
  const PartitionInfo* Find(uint32_t id) const;
  const Dropped* FindDropped(const Uuid& uuid) const;
  // What the log holds of the partition before this position means nothing from now on.
  void BeginAnew(const Uuid& uuid, LogPosition at);
  // What the log of this reactor holds of these partitions before these positions means nothing. If the
  // reactor holds a partition with the UUID again, what comes later belongs to it. (The position is one in
  // that log: it says nothing about those of other reactors.)
  std::vector<std::pair<Uuid, LogPosition>> DroppedInLog(uint32_t reactor) const;
  // What a new partition with this ID and UUID is like. REQUIRES: id < kMaxPartitions.
  PartitionInfo InfoOf(uint32_t id, const Uuid& uuid) const;
  uint32_t ReactorOf(uint32_t partition) const { return partition % reactors; }
  static std::string PartitionName(uint32_t partition);  // of its directory in data_dir
  std::string PartitionDirectory(uint32_t partition) const;
  std::string PartitionFilePath(uint32_t partition) const;
  std::string LogDirectory(uint32_t reactor) const;
};

// Invariants
//   SM1  store.meta names only partitions whose files are complete and durable under their final
//        names. Whatever else the directory holds belongs to nothing.
//   SM2  store.meta is replaced in one step: a crash leaves the old one or the new one.
//   SM3  A UUID is in StoreInfo::dropped from the moment when store.meta stops naming its partition
//        until no log holds anything of it and its file is gone.

// Reads DIR/store.meta. kNotFound: the directory has no store.
Task<Result<StoreInfo>> LoadStore(Reactor& reactor, std::string data_dir);
// Opens the store, creating it if it does not exist. For an existing store, zero fields of
// `options` mean "as it is", and `reactors` means nothing: ChangeReactors (src/engine/log_layout.h)
// changes that. Another non-zero field that differs is kInvalidArgument; the error names both values
// and the remedy.
Task<Result<StoreInfo>> OpenStore(Reactor& reactor, StoreOptions options);
// Creates a new store from existing partitions, such as those of a backup. It keeps their UUIDs and
// gets a new node UUID. `make_partition` creates the file of each partition. The store exists once
// all of them have been created. kAlreadyExists: the directory has a store.
using MakePartitionFile = std::function<Task<Status>(uint32_t id, PartitionFileOptions options)>;
Task<Result<StoreInfo>> CreateStoreOf(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                      MakePartitionFile make_partition);
// Replaces DIR/store.meta by one that says `*info` (SM2). Only who holds the lock may call it. Both
// steps, and the same with one call. After an error of PrepareStore, nothing has changed; after one of
// PublishStore, it is unknown which of the two a restart will find.
Task<Status> PrepareStore(const Directory* directory, const StoreInfo* info);
Task<Status> PublishStore(const Directory* directory);
Task<Status> WriteStore(Reactor& reactor, const StoreInfo* info);
// What to do when the log of a reactor is damaged as a whole, and no sound copy brings it back.
std::string LogLossAdvice(const StoreInfo& info, uint32_t reactor);
// A random one.
Uuid NewUuid(Reactor& reactor);
// What a request for a partition that this node does not hold is answered.
Status PartitionNotHere(uint32_t id);
// Whether the file of a partition that store.meta does not name may hold the only copy of something.
// `directory` is that of the store.
Task<bool> MayBeNeeded(const StoreInfo* info, const Directory* directory, uint32_t partition);
// Removes these files of a partition that store.meta does not name, if they are there. Its directory stays.
Task<Status> RemovePartitionFiles(const Directory* directory, uint32_t partition, std::vector<const char*> names);
// Removes the files of logs and partitions that *info does not name: a crash has left them (SM1).
// Only who holds the lock may call it. A partition's file that may hold the only copy of something
// is left where it is, and logged. So is what is not the store's.
Task<Status> RemoveLeftovers(Reactor& reactor, const StoreInfo* info);
// Takes DIR/lock. kLocked names the directory. Keep the file open as long as the store is open,
// then Close it.
Task<Result<File>> LockStore(Reactor& reactor, std::string data_dir);

}  // namespace pando
