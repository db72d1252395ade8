// ReactorPart is the part of a node that one reactor owns: its engine, its Thrift server, and its view
// of the partitions.
//
// Threads: its reactor, with two exceptions. Any thread may read the registered metrics, and Build
// and Connect read pointers of other parts while the node starts.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/engine/engine.h"
#include "src/io/sync.h"
#include "src/metrics/registry.h"
#include "src/node/kv_backend.h"
#include "src/node/kv_service.h"
#include "src/node/local_partition.h"
#include "src/node/namespaced_partition.h"
#include "src/node/node_cluster.h"
#include "src/node/node_options.h"
#include "src/node/partition_sums.h"
#include "src/node/remote_partition.h"
#include "src/node/scrub_report.h"
#include "src/replication/replica_file.h"
#include "src/replication/replica_host.h"
#include "src/rpc/http_server.h"
#include "src/rpc/rpc_server.h"

namespace pando {

// Numbers that a timer copies from the engine for the metrics page.
struct EngineGauges {
  Gauge pool_pages, pool_free_pages, pool_dirty_pages, pool_bytes;
  Counter pool_hits, pool_misses, pool_evictions, pool_writes, damaged_reads;
  Counter ahead_pages, ahead_reads;
  Gauge log_bytes, log_records, log_segments;
  Counter log_appended_records, log_appended_bytes, log_device_writes, log_device_bytes, log_waits;
  Gauge log_readers, log_retained_bytes;
  Counter log_reader_segments, log_readers_gone;
  Counter checkpoints, write_waits, disk_full, uncommitted_refused, lanes_refused, reads, writes, scans,
      gathered_leaves, cluster_marks, clocks_ahead;
  Gauge uncommitted_bytes, partitions, partition_limit, quarantined;
  Gauge partition_file_bytes, partition_used_bytes, partition_hole_bytes, frame_bytes;
  Counter released_bytes;
  Gauge release_refused_files;
  Gauge snapshots, cluster_snapshots, snapshot_pinned_bytes, changes_kept;
};

// Of clients, since the start.
struct RequestSums {
  uint64_t requests = 0, latency_ns = 0;  // of all of them together; gets that are answered from memory take none
  uint64_t bytes = 0;                     // received and sent
};

struct ReactorPartStatus {
  std::vector<api::PartitionStatus> partitions;
  std::optional<QuarantinedPartition> quarantined;  // the first one
  int disk_full_partitions = 0;                     // of those: they refused writes lately for lack of disk space
  EngineStats engine;
};

class ReactorPart final : private replication::HostObserver {
 public:
  ReactorPart(Reactor& reactor, const StoreInfo* store, const NodeOptions* options, RpcShared* shared,
              Registry* registry, NodeControl* control)
      : reactor_(reactor), store_(store), options_(options), shared_(shared), registry_(registry), control_(control) {}
  ~ReactorPart();

  // Makes this reactor's replicas members of a cluster. Before OpenEngine. `cluster` belongs to reactor 0. If it
  // renews, they get new UUIDs, and take part only once they are installed anew.
  Task<Status> JoinCluster(NodeCluster* cluster, replication::PeerOptions peers);
  Result<uint16_t> ListenToPeers(const ListenOptions& listen) { return host_->Listen(listen); }
  // Null: this node is alone.
  replication::ReplicaHost* replica_host() { return host_.get(); }
  // The replicas hand over what they lead, for at most so long, and leave the cluster. Before anything else stops.
  Task<Status> LeaveCluster(Nanos hand_over_ns);

  Task<Status> OpenEngine(EngineOptions options);
  // The places of a partition, on its own reactor: as requests see them, for its master and for any replica.
  struct Place {
    Partition* master = nullptr;
    Partition* any = nullptr;  // null: this node is alone
  };
  // Makes places for the partitions of this reactor with IDs below the size of `places`, and puts all of them there.
  // REQUIRES: OpenEngine.
  void AddOwnPlaces(std::vector<Place>* places);
  // The places of all partitions, by ID. REQUIRES: OpenEngine.
  void AddPlaces(const std::vector<Place>& places);
  // Build creates the service over all partitions. REQUIRES: every part's engine is open.
  // Connect makes the services known to each other. REQUIRES: Build has run on every part.
  void Build(const std::vector<ReactorPart*>& parts);
  void Connect(const std::vector<ReactorPart*>& parts);
  Result<uint16_t> Listen(const ListenOptions& listen) { return server_->Listen(listen); }
  // Refuses new requests and waits up to limit_ns for running ones to be answered. Calls may outlive
  // the connections that are closed then.
  Task<Status> StopServing(Nanos limit_ns);
  // Waits until all calls have ended. They no longer wait for a commit. REQUIRES: StopServing has
  // returned on every part.
  Task<Status> DrainCalls();
  // REQUIRES: DrainCalls has returned on every part.
  Task<Status> CloseEngine(bool checkpoint);

  Engine* engine() { return engine_.get(); }
  // The partitions that the node holds, as this reactor sees them. REQUIRES: Build.
  const std::vector<Partition*>& here() const { return backend_.here; }
  // The place of a partition, which the node may hold or not. REQUIRES: Build.
  Partition* place(uint32_t id) const { return backend_.partitions[id]; }
  // In a cluster, of this reactor: the place for reads that any replica may answer.
  Partition* ReplicaPlaceOf(uint32_t id) const;
  // The same, by the keys that it stores: for the feed of a split.
  Partition* StoredPlaceOf(uint32_t id) const { return replicas_.at(id).first.get(); }

  // -- partitions that come and go (NodePartitions)
  // Of this reactor: begins and ends their service.
  // In a cluster: its replica file is there, and `last` gets what it said last, before it was dropped.
  Task<Status> OpenPartition(PartitionInfo info);
  Task<Status> DropPartition(uint32_t id, std::optional<replication::ReplicaState>* last = nullptr);
  // Of any reactor: whether the node holds the partition. REQUIRES: Build.
  void SetHere(uint32_t id, bool here);
  // Of any reactor, in a cluster: what is new in its map.
  void TellMap(const MapNews& news);
  Task<ReactorPartStatus> CollectStatus();
  RequestSums Requests() const;
  // What is known to be damaged here. With `start`, first begins a pass at
  // `bytes_per_s` (0 = the engine's configured rate).
  Task<DamageReport> Scrub(bool start, uint64_t bytes_per_s);
  uint32_t index() const { return static_cast<uint32_t>(reactor_.index()); }

 private:
  struct PublishTimer : Timer {
    ReactorPart* part = nullptr;
  };
  void MakeOwnPlaces(uint32_t ids);
  // The place of a partition of this reactor as requests see it.
  Partition* LocalPlace(uint32_t id) const;
  Task<Status> Renew(PartitionInfo info);
  Task<Status> AddReplica(PartitionInfo info);
  void RegisterMetrics();
  void RegisterClusterMetrics();
  // -- HostObserver
  void OnInstallWanted(uint32_t partition, const Uuid& replica) override;
  void OnQuarantined(uint32_t partition, const Status& why) override;
  void Publish();
  void SumPartitions();
  void NoteQuarantine(const QuarantinedPartition& quarantined);
  void EndQuarantine(uint32_t partition);

  Reactor& reactor_;
  const StoreInfo* const store_;
  const NodeOptions* const options_;
  RpcShared* const shared_;
  Registry* const registry_;
  NodeControl* const control_;
  replication::ReplicaFile::Place ReplicaPlace(const PartitionInfo& info) const;

  std::unique_ptr<TopologyAccess> topology_;
  Directory directory_;  // of the store, for the replica files; not open: this node is alone
  std::unique_ptr<replication::ReplicaHost> host_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<LocalPartition>> local_;  // of this reactor by ID
  // The same, as requests see them; empty if stored keys have no namespace.
  std::vector<std::unique_ptr<NamespacedPartition>> namespaced_;
  // In a cluster, the same two for reads that any replica may answer.
  std::map<uint32_t, std::pair<std::unique_ptr<LocalPartition>, std::unique_ptr<NamespacedPartition>>> replicas_;
  std::vector<std::unique_ptr<RemotePartition>> remote_;
  KvBackend backend_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<KvService> service_;
  EngineGauges gauges_;
  ScrubGauges scrub_gauges_;
  // By partition and cause. 0 once it is quarantined no more, or for another reason.
  std::map<std::pair<uint32_t, Code>, std::unique_ptr<Gauge>> quarantined_since_s_;
  PublishTimer publish_;
  PartitionSums sums_;
};

// Makes places on all reactors for the partitions with IDs below `ids`. Called on reactor 0, as often as one likes.
Task<void> AddPlaces(Reactor& first, const std::vector<ReactorPart*>* parts, uint32_t ids);

}  // namespace pando
