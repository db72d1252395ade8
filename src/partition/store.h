// Store layout: what a data directory holds beside the partitions' own files, and how it is split over reactors.
//
//   DIR/store.meta            node UUID, partitions, reactors, page size; written once (docs/FORMAT.md, "Store file")
//   DIR/lock                  locked while a process has the store open
//   DIR/wal-R/                the log of reactor R
//   DIR/partition-P/data      the tree of partition P; P runs on reactor P mod reactors
//
// The number of reactors is fixed when the store is made, because a partition's records live in its reactor's log.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/file.h"
#include "src/io/reactor.h"

namespace pando {

inline constexpr char kLockName[] = "lock";  // in the data directory

struct PartitionFileOptions;  // partition_file.h

struct StoreOptions {
  std::string data_dir;
  uint32_t partitions = 16;  // a power of two
  uint32_t reactors = 1;
  uint32_t page_bytes = 0;  // 0 = the default for a new store, or what an existing store has
};

struct PartitionInfo {
  uint32_t id = 0;
  Uuid uuid;
  uint64_t first_hash = 0, last_hash = 0;  // inclusive range of hash IDs
};

struct StoreInfo {
  std::string data_dir;
  Uuid node;
  uint32_t reactors = 0;
  uint32_t page_bytes = 0;
  std::vector<PartitionInfo> partitions;  // by id; ranges ascend and cover the 64-bit space

  uint32_t PartitionOf(std::string_view key) const;  // index into `partitions`
  uint32_t ReactorOf(uint32_t partition) const { return partition % reactors; }
  static std::string PartitionName(uint32_t partition);  // of its directory in data_dir
  std::string PartitionDirectory(uint32_t partition) const;
  std::string LogDirectory(uint32_t reactor) const;
};

// Reads DIR/store.meta; kNotFound when the directory holds no store. `partitions` and `reactors` differing from what
// an existing store has is kInvalidArgument only where given as non-zero and different.
Task<Result<StoreInfo>> LoadStore(Reactor& reactor, std::string data_dir);
// Creates or opens. On an existing store zero fields of `options` mean "as it is"; a non-zero, different value is an
// error naming both values and the remedy.
Task<Result<StoreInfo>> OpenStore(Reactor& reactor, StoreOptions options);
// A new store out of partitions that are there already (a backup's): with their UUIDs and a node UUID of its own.
// `make_partition` makes the file of each; the store exists once all are made. kAlreadyExists when there is a store.
using MakePartitionFile = std::function<Task<Status>(uint32_t id, PartitionFileOptions options)>;
Task<Result<StoreInfo>> CreateStoreOf(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                      MakePartitionFile make_partition);
// Takes DIR/lock; kLocked names the directory. Hold the file as long as the store is open, then Close it.
Task<Result<File>> LockStore(Reactor& reactor, std::string data_dir);

}  // namespace pando
