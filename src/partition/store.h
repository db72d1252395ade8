// Store layout: the contents of a data directory besides the partitions' own files, and how they
// are divided among reactors.
//
//   DIR/store.meta            node UUID, partitions, reactors, page size, seal; written once
//                             (docs/FORMAT.md, "Store file")
//   DIR/lock                  locked while a process has the store open
//   DIR/wal-R/                the log of reactor R
//   DIR/partition-P/data      the tree of partition P; P runs on reactor P mod reactors
//
// The number of reactors is fixed when the store is created, because a partition's records live in
// the log of its reactor.
//
// Threads: values; the functions run on one reactor.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/buffer_pool/page.h"
#include "src/io/file.h"
#include "src/io/reactor.h"

namespace pando {

inline constexpr uint32_t kMaxPartitions = 128;
inline constexpr char kLockName[] = "lock";  // in the data directory

struct PartitionFileOptions;  // partition_file_options.h

struct StoreOptions {
  std::string data_dir;
  uint32_t partitions = 16;  // a power of two
  uint32_t reactors = 1;
  uint32_t page_bytes = 0;  // 0 = the default for a new store, or the page size of an existing one
  // What a new store leaves free at the end of every extent (page.h): 0 or kSealBytes.
  uint32_t seal_bytes = kSealBytes;
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
  uint32_t seal_bytes = 0;
  // By ID; the hash ranges ascend and cover the 64-bit space.
  std::vector<PartitionInfo> partitions;

  uint32_t PartitionOf(std::string_view key) const;  // index into `partitions`
  uint32_t ReactorOf(uint32_t partition) const { return partition % reactors; }
  static std::string PartitionName(uint32_t partition);  // of its directory in data_dir
  std::string PartitionDirectory(uint32_t partition) const;
  std::string LogDirectory(uint32_t reactor) const;
};

// Reads DIR/store.meta. kNotFound: the directory has no store.
Task<Result<StoreInfo>> LoadStore(Reactor& reactor, std::string data_dir);
// Opens the store, creating it if it does not exist. For an existing store, zero fields of
// `options` mean "as it is". A non-zero field that differs is kInvalidArgument; the error names
// both values and the remedy.
Task<Result<StoreInfo>> OpenStore(Reactor& reactor, StoreOptions options);
// Creates a new store from existing partitions, such as those of a backup. It keeps their UUIDs and
// gets a new node UUID. `make_partition` creates the file of each partition. The store exists once
// all of them have been created. kAlreadyExists: the directory has a store.
using MakePartitionFile = std::function<Task<Status>(uint32_t id, PartitionFileOptions options)>;
Task<Result<StoreInfo>> CreateStoreOf(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                      MakePartitionFile make_partition);
// Takes DIR/lock. kLocked names the directory. Keep the file open as long as the store is open,
// then Close it.
Task<Result<File>> LockStore(Reactor& reactor, std::string data_dir);

}  // namespace pando
