// KvService implements the Thrift services Kv, Admin, Cluster, Routing and ClusterSnapshots on one reactor. It checks
// each request, calls the partitions and fills in the reply.
//
// Threads: one reactor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Cluster.h"
#include "gen-cpp/ClusterSnapshots.h"
#include "gen-cpp/Kv.h"
#include "gen-cpp/Routing.h"
#include "src/io/task.h"
#include "src/kvapi/kv_errors.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/scan_range.h"
#include "src/metrics/histogram.h"
#include "src/node/get_path.h"
#include "src/node/kv_backend.h"
#include "src/node/session_call.h"
#include "src/node/watch_hub.h"
#include "src/node/write_path.h"
#include "src/rpc/rpc_dispatch.h"
#include "src/rpc/rpc_server.h"

namespace pando {

struct DeletedRange;

class KvService final : public RpcService {
 public:
  // All arguments outlive the service.
  KvService(RpcServer* server, KvBackend* backend, NodeControl* control, WatchOptions watch_options = {});
  ~KvService();

  void OnRequest(const RpcRequest& request) override;
  MemoryLane LaneOf(std::string_view method) const override;
  void OnTurnEnd() override {
    gets_.OnTurnEnd();
    writes_.OnTurnEnd();
  }
  void OnReplyRoom() override {
    gets_.OnReplyRoom();
    ForgetClosedOpens();
  }
  // Waits until every running call has ended. REQUIRES: new requests are already refused.
  auto Drain() { return tasks_.Drain(); }
  GetPath& get_path() { return gets_; }
  WritePath& write_path() { return writes_; }
  WatchHub& watchers() { return watchers_; }
  WatchHub& map_watchers() { return map_watchers_; }

  struct MethodMetrics {
    std::string_view name;
    Counter requests_total;
    // Duration of calls that may suspend, to the precision of a turn. Excludes gets that GetPath
    // answers.
    Histogram latency_ns;
  };
  const std::vector<std::unique_ptr<MethodMetrics>>& method_metrics() const { return metrics_; }

 private:
  template <typename Args, typename Reply>
  using Call = RpcCall<Args, Reply>;
  struct Method {
    std::string_view name;
    void (*start)(KvService* service, const RpcRequest& request, size_t index);
    MemoryLane lane = MemoryLane::kOrdinary;
  };
  static const Method kMethods[];
  static const size_t kMethodCount;
  // Start a method whose context must be that of a read, or of a write.
  template <auto Handler>
  static void StartRead(KvService* service, const RpcRequest& request, size_t index);
  template <auto Handler>
  static void StartWrite(KvService* service, const RpcRequest& request, size_t index);
  // The methods of WritePath.
  template <typename Args>
  static void TakeWrite(KvService* service, const RpcRequest& request, size_t index);
  template <auto Handler, typename Args, typename Reply>
  void Start(Task<void> (KvService::*handler)(Call<Args, Reply>*), ContextCheck check, const RpcRequest& request,
             size_t index);

  Task<void> Hello(Call<api::Kv_hello_args, api::Kv_hello_result>* call);
  Task<void> Get(Call<api::Kv_get_args, api::Kv_get_result>* call);
  Task<void> MultiGet(Call<api::Kv_multiGet_args, api::Kv_multiGet_result>* call);
  Task<void> WriteBatch(Call<api::Kv_writeBatch_args, api::Kv_writeBatch_result>* call);
  // kv_ranges.cc
  Task<void> Scan(Call<api::Kv_scan_args, api::Kv_scan_result>* call);
  Task<void> Count(Call<api::Kv_count_args, api::Kv_count_result>* call);
  Task<void> Aggregate(Call<api::Kv_aggregate_args, api::Kv_aggregate_result>* call);
  Task<void> SplitRange(Call<api::Kv_splitRange_args, api::Kv_splitRange_result>* call);
  Task<void> ScanPartitions(Call<api::Routing_scanPartitions_args, api::Routing_scanPartitions_result>* call);
  Task<void> AggregatePartitions(
      Call<api::Routing_aggregatePartitions_args, api::Routing_aggregatePartitions_result>* call);
  Task<void> SamplePartitions(Call<api::Routing_samplePartitions_args, api::Routing_samplePartitions_result>* call);
  // delete_range.cc
  Task<void> DeleteRange(Call<api::Kv_deleteRange_args, api::Kv_deleteRange_result>* call);
  Task<void> DeletePartitions(Call<api::Routing_deletePartitions_args, api::Routing_deletePartitions_result>* call);
  // kv_watch.cc
  Task<void> Watch(Call<api::Kv_watch_args, api::Kv_watch_result>* call);
  Task<void> WatchPartitions(Call<api::Routing_watchPartitions_args, api::Routing_watchPartitions_result>* call);
  // kv_snapshots.cc
  Task<void> OpenSnapshot(Call<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>* call);
  Task<void> RenewSnapshot(Call<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>* call);
  Task<void> DescribeSnapshot(Call<api::Admin_describeSnapshot_args, api::Admin_describeSnapshot_result>* call);
  Task<void> ReadPages(Call<api::Admin_readPages_args, api::Admin_readPages_result>* call);
  Task<void> ReleaseSnapshot(Call<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>* call);
  // kv_service.cc
  Task<void> AdminStatus(Call<api::Admin_status_args, api::Admin_status_result>* call);
  Task<void> AdminCheckpoint(Call<api::Admin_checkpoint_args, api::Admin_checkpoint_result>* call);
  // kv_scrub.cc
  Task<void> AdminScrub(Call<api::Admin_scrub_args, api::Admin_scrub_result>* call);
  // kv_cluster.cc
  Task<void> ClusterReplicas(Call<api::Cluster_replicas_args, api::Cluster_replicas_result>* call);
  Task<void> ClusterTopology(Call<api::Cluster_topology_args, api::Cluster_topology_result>* call);
  Task<void> ClusterHandover(Call<api::Cluster_handover_args, api::Cluster_handover_result>* call);
  Task<void> ClusterForceFailover(Call<api::Cluster_forceFailover_args, api::Cluster_forceFailover_result>* call);
  Task<void> ClusterSetMinIsr(Call<api::Cluster_setMinIsr_args, api::Cluster_setMinIsr_result>* call);
  Task<void> ClusterOpenCopy(Call<api::Cluster_openCopy_args, api::Cluster_openCopy_result>* call);
  Task<void> ClusterRenewCopy(Call<api::Cluster_renewCopy_args, api::Cluster_renewCopy_result>* call);
  Task<void> ClusterReplaceReplica(Call<api::Cluster_replaceReplica_args, api::Cluster_replaceReplica_result>* call);
  Task<void> ClusterAddReplica(Call<api::Cluster_addReplica_args, api::Cluster_addReplica_result>* call);
  Task<void> ClusterSplitPartition(Call<api::Cluster_splitPartition_args, api::Cluster_splitPartition_result>* call);
  Task<void> ClusterRemoveReplica(Call<api::Cluster_removeReplica_args, api::Cluster_removeReplica_result>* call);
  Task<void> ClusterAggregateReplica(
      Call<api::Cluster_aggregateReplica_args, api::Cluster_aggregateReplica_result>* call);

  // kv_map.cc
  Task<void> GetMap(Call<api::Routing_getMap_args, api::Routing_getMap_result>* call);
  // kv_cluster_snapshots.cc
  Task<void> SnapshotsClock(Call<api::ClusterSnapshots_clock_args, api::ClusterSnapshots_clock_result>* call);
  Task<void> SnapshotsPrepare(Call<api::ClusterSnapshots_prepare_args, api::ClusterSnapshots_prepare_result>* call);
  Task<void> SnapshotsRenew(Call<api::ClusterSnapshots_renew_args, api::ClusterSnapshots_renew_result>* call);
  Task<void> SnapshotsRelease(Call<api::ClusterSnapshots_release_args, api::ClusterSnapshots_release_result>* call);
  // Returns true, after setting an error in the reply, if the call names partitions that there are not, or too many.
  template <typename C>
  bool RefusePartitions(C* call);
  int64_t ClusterSnapshotExpiry(Version version, int32_t ttl_ms) const;

  struct SnapshotOpen;
  void ForgetClosedOpens();
  // Which partitions a request asks for. A client asks for all that its range is in. A router names them, and is told
  // what the answer covers.
  struct Asked {
    std::vector<uint32_t> ids;
    std::vector<api::Covered>* covered = nullptr;  // in the reply; null: a client asks
  };
  // What Kv and Routing both do. Nothing, or false: an error is set in the reply of `call`.
  template <typename T, typename C, typename Read>
  Task<std::optional<T>> ReadAsked(C* call, Asked asked, bool of_snapshot, Read read);
  template <typename C>
  Task<std::optional<ScanPage>> PageOf(C* call, const api::ScanRequest* request, ScanRange range, Asked asked);
  template <typename C, typename Request>
  Task<std::optional<RangeAggregates>> AggregatesOf(C* call, const Request* request, Asked asked);
  template <typename C>
  Task<std::optional<DeletedRange>> DeletedOf(C* call, const api::DeleteRangeRequest* request, ScanRange range,
                                              Asked asked);
  struct Watcher;
  template <typename C>
  Task<bool> WatchUntil(C* call, Watcher* watcher, int32_t wait_ms);
  template <typename C>
  Task<bool> LookForChanges(C* call, Watcher* watcher);
  template <typename C>
  Task<bool> GatherMore(C* call, Watcher* watcher, size_t first);
  // Returns the partition that `call` names, or null after setting an error in its reply.
  template <typename C>
  Partition* SnapshotPartition(C* call, SnapshotId* snapshot);
  Refusal Overloaded(size_t bytes);  // and counts it
  // Reserves memory that the handler is about to allocate, or returns OVERLOADED.
  Refusal Reserve(RpcCallBase* call, size_t bytes);
  void SlowGet(const RequestId& id, std::string key, int32_t budget_ms);
  // The partitions that a scan or count must read: all of them, or only the one that holds the
  // range's tag.
  std::vector<uint32_t> IdsOf(const ScanRange& range) const;
  // Waits until all of them can answer, and returns through which places to read them.
  static Task<Result<std::vector<Partition*>>> PlacesFor(SessionCall* session, std::vector<uint32_t> ids,
                                                         Nanos deadline_ns);
  // Whether what was read counts.
  static Task<Status> NoteRead(SessionCall* session, std::vector<uint32_t> ids);
  // `in`: the masterships in which they were read; none: of a snapshot, or at any replica.
  void SetCovered(const Asked& asked, const std::vector<Mastership>& in) const;
  static size_t CoveredBytes(const Asked& asked);

  RpcServer* const server_;
  KvBackend* const backend_;
  NodeControl* const control_;
  TaskGroup tasks_;
  std::vector<std::unique_ptr<MethodMetrics>> metrics_;  // by index of kMethods
  GetPath gets_;
  WritePath writes_;
  WatchHub watchers_, map_watchers_;
  std::vector<SnapshotOpen*> opens_;  // calls that wait for a snapshot
};

}  // namespace pando
