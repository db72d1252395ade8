// KvBackend: the partitions as one reactor of a node sees them: its own directly, the others through proxies.
//
// Threads: one reactor.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/io/task.h"
#include "src/node/snapshots.h"
#include "src/partition/partition.h"
#include "src/partition/store.h"

namespace pando {

class GetPath;

struct KvBackend {
  const StoreInfo* store = nullptr;
  uint32_t reactor = 0;
  std::vector<Partition*> partitions;  // by id; proxies for those of other reactors
  // Engine::BatchGet of this reactor.
  std::function<void(std::span<PointRead>)> batch_get;
  // The same, and the get paths, of all reactors by index: reads of their partitions are batched. Filled in before the
  // first request and never changed after.
  std::vector<KvBackend*> peers;
  std::vector<GetPath*> get_paths;

  bool IsLocal(uint32_t partition) const { return store->ReactorOf(partition) == reactor; }
};

// What only the whole node can do; implemented by Node.
class NodeControl {
 public:
  virtual Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) = 0;
  virtual Task<Status> CheckpointAll(Reactor& caller) = 0;
  virtual Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms) = 0;
  virtual Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) = 0;
  virtual Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) = 0;
  // Of all reactors; `start` begins a pass at `bytes_per_s` (0: the node's own rate).
  virtual Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) = 0;
  virtual std::string server_version() const = 0;

 protected:
  ~NodeControl() = default;
};

}  // namespace pando
