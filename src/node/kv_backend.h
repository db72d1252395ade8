// KvBackend gives one reactor access to all partitions of the node: its own directly, the others
// through proxies.
//
// Threads: one reactor.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gen-cpp/cluster_types.h"
#include "gen-cpp/pando_types.h"
#include "src/base/hash_ranges.h"
#include "src/io/task.h"
#include "src/kvapi/kv_requests.h"
#include "src/model/key_space.h"
#include "src/model/partition.h"
#include "src/model/point_write.h"
#include "src/model/read_gate.h"
#include "src/node/known_map.h"
#include "src/node/snapshots.h"
#include "src/partition/partition_clock.h"
#include "src/partition/store.h"

namespace pando {

class GetPath;
class WritePath;

struct KvBackend {
  const StoreInfo* store = nullptr;
  uint32_t reactor = 0;
  // Which partition has a key, of those that serve clients.
  RangeTable serving;
  // By ID, as requests see them: their keys are those of requests. Proxies for the partitions of other
  // reactors. There is one for each range that the node knows, for as long as it runs: what the node does
  // not hold answers that it is not here.
  std::vector<Partition*> partitions;
  // Of these, those that the node holds now, by ID.
  std::vector<Partition*> here;
  // By ID, of this reactor only: their keys are those that `keys` stores. Null: not here, or not of this
  // reactor. Valid until the next suspension.
  std::deque<Partition*> stored;  // its elements stay where they are
  KeySpace keys;
  std::shared_ptr<const StoreClock> clock = std::make_shared<StoreClock>();
  // Engine::change_count of all reactors. Empty: the partitions are asked one by one.
  std::vector<const std::atomic<uint64_t>*> change_counts;
  // Engine::BatchGet of this reactor, for partitions of `stored`.
  std::function<void(std::span<PointRead>)> batch_get;
  // Of the partitions of this reactor. Null: each is the only replica.
  ReadGate* read_gate = nullptr;
  // Of the cluster that the node belongs to, whose sessions it knows. Nothing: it is alone.
  std::optional<Uuid> cluster_id;
  // That routers are told.
  KnownMap map;
  // As `partitions`, for reads that any replica may answer: they do not ask for the lease. Empty: it is alone.
  std::vector<Partition*> replicas;
  // A snapshot lives no longer, however often it is renewed.
  int64_t snapshot_max_age_ms = 24 * 3600 * 1000;
  // Engine::BatchWrite of this reactor, for partitions of `stored`.
  std::function<void(std::span<PointWrite* const>)> batch_write;
  // The backends, get paths and write paths of all reactors, by reactor index, so that requests for
  // their partitions can be batched. Set before the first request; constant afterwards.
  std::vector<KvBackend*> peers;
  std::vector<GetPath*> get_paths;
  std::vector<WritePath*> write_paths;

  // At or above the version of every change of the partition here that was acknowledged or read; 0: not known. Of any
  // partition of the node.
  Version HlcOf(uint32_t partition) const {
    const Version newest = partitions[partition]->newest_change();
    return newest == UINT64_MAX ? 0 : newest;  // it serves nothing
  }
  // Refuses a partition that does not serve.
  Refusal CheckServing(int32_t partition) const { return pando::CheckServing(partition, serving, Clustered()); }
  Refusal ToPartitions(const std::vector<int32_t>& named, std::vector<uint32_t>* ids) const {
    return pando::ToPartitions(named, serving, Clustered(), ids);
  }
  bool Clustered() const { return cluster_id.has_value(); }
  uint32_t places() const { return static_cast<uint32_t>(partitions.size()); }
  // Whether a write that has a name (kOnce) is applied once. The names need a namespace of their own.
  bool RemembersWrites() const { return store->namespaced; }
  bool IsLocal(uint32_t partition) const { return store->ReactorOf(partition) == reactor; }
};

// Operations that involve the whole node. Node implements them.
class NodeControl {
 public:
  virtual Task<Result<api::NodeStatus>> CollectStatus(Reactor& caller) = 0;
  virtual Task<Status> CheckpointAll(Reactor& caller) = 0;
  virtual Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor& caller, int64_t ttl_ms, UnwantedFlag unwanted) = 0;
  virtual Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) = 0;
  virtual Task<Result<bool>> ReleaseSnapshot(Reactor& caller, SnapshotToken token) = 0;
  // Reports on the scrubs of all reactors. With `start`, first begins a pass at `bytes_per_s` for
  // the whole node (0 = the configured rate).
  virtual Task<Result<api::ScrubReply>> Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) = 0;
  virtual std::string server_version() const = 0;
  // Of a node of a cluster; others answer kInvalidArgument.
  virtual Task<Result<api::ReplicasReply>> Replicas(Reactor& caller);
  virtual Task<Result<api::TopologyReply>> KnownTopology(Reactor& caller);
  virtual Task<Result<api::HandoverReply>> Handover(Reactor& caller, uint32_t partition, uint32_t node, Epoch epoch,
                                                    Nanos timeout_ns);
  virtual Task<Result<api::ForceFailoverReply>> ForceFailover(Reactor& caller, api::ForceFailoverRequest request);
  virtual Task<Result<bool>> SetMinIsr(Reactor& caller, uint32_t partition, uint32_t min_isr);
  virtual Task<Result<OpenedCopy>> OpenCopy(Reactor& caller, uint32_t partition, Uuid replica);
  virtual Task<Result<OpenedCopy>> RenewCopy(Reactor& caller, uint32_t partition, Uuid replica, SnapshotToken token);
  virtual Task<Result<bool>> ReplaceReplica(Reactor& caller, uint32_t partition, Uuid replica, uint32_t node,
                                            std::optional<Uuid> leaves);
  virtual Task<Result<api::AddReplicaReply>> AddReplica(Reactor& caller, uint32_t partition, uint32_t node,
                                                        bool replaces);
  virtual Task<Result<bool>> RemoveReplica(Reactor& caller, uint32_t partition, Uuid replica, bool replaced);
  virtual Task<Result<api::SplitPartitionReply>> SplitPartition(Reactor& caller, api::SplitPartitionRequest request);
  virtual Task<Result<api::AggregateReplicaReply>> AggregateReplica(Reactor& caller,
                                                                    api::AggregateReplicaRequest request);

 protected:
  ~NodeControl() = default;
};

}  // namespace pando
