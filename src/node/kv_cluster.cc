// KvService: the calls of the Cluster service.
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/snapshot_token.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

constexpr size_t kReplicaStatusBytes = 2048;  // of one replica, with what it knows of the others
constexpr size_t kTopologyKeyBytes = 4096;    // of one key of the topology, with its value
constexpr size_t kMaxClusterKeys = 64;        // of the cluster and its nodes, about
constexpr int32_t kMaxShownRecords = 64;
constexpr size_t kShownBytes = 2u << 20;  // what reading them takes, of keys and values
constexpr int32_t kDefaultHandoverMs = 3000, kDefaultForceMs = 10'000, kMaxHandoverMs = 60'000;

// A replica of a partition, as requests name it.
struct Named {
  uint32_t partition = 0;
  Uuid replica;
};

Status CheckPartition(int32_t partition, uint32_t places) {
  if (partition >= 0 && static_cast<uint32_t>(partition) < places) return Status();
  return Error(Code::kInvalidArgument, "there is no partition {}: the store is divided into {}", partition, places);
}

template <typename Request>
Result<Named> NameOf(const Request& request, uint32_t places) {
  const std::optional<Uuid> replica = Uuid::Parse(request.replica);
  RETURN_IF_ERROR(CheckPartition(request.partition, places));
  if (!replica || replica->IsNil()) {
    return Error(Code::kInvalidArgument, "the replica {} is not a UUID", request.replica);
  }
  return Named{static_cast<uint32_t>(request.partition), *replica};
}

template <typename Call>
void AnswerCopy(Call* call, const Result<OpenedCopy>& opened) {
  if (Failed(call, opened.status())) return;
  api::CopyReply& reply = call->reply.success;
  reply.snapshot = EncodeSnapshotToken(opened->snapshot.token);
  reply.expires_at_ms = opened->snapshot.expires_at_ms;
  reply.log_bytes = static_cast<int64_t>(opened->log.bytes);
  reply.log_limit_bytes = static_cast<int64_t>(opened->log.limit_bytes);
  reply.log_incomplete = !opened->log.complete;
}

Status NoCluster() {
  return Error(Code::kInvalidArgument, "this node belongs to no cluster: it was started without --topology");
}

}  // namespace

Task<Result<api::ReplicasReply>> NodeControl::Replicas(Reactor&) { co_return NoCluster(); }

Task<Result<api::TopologyReply>> NodeControl::KnownTopology(Reactor&) { co_return NoCluster(); }

Task<Result<api::HandoverReply>> NodeControl::Handover(Reactor&, uint32_t, uint32_t, Epoch, Nanos) {
  co_return NoCluster();
}

Task<Result<api::ForceFailoverReply>> NodeControl::ForceFailover(Reactor&, api::ForceFailoverRequest) {
  co_return NoCluster();
}

Task<Result<bool>> NodeControl::SetMinIsr(Reactor&, uint32_t, uint32_t) { co_return NoCluster(); }

Task<Result<OpenedCopy>> NodeControl::OpenCopy(Reactor&, uint32_t, Uuid) { co_return NoCluster(); }

Task<Result<OpenedCopy>> NodeControl::RenewCopy(Reactor&, uint32_t, Uuid, SnapshotToken) { co_return NoCluster(); }

Task<Result<bool>> NodeControl::ReplaceReplica(Reactor&, uint32_t, Uuid, uint32_t, std::optional<Uuid>) {
  co_return NoCluster();
}

Task<Result<api::AddReplicaReply>> NodeControl::AddReplica(Reactor&, uint32_t, uint32_t, bool) {
  co_return NoCluster();
}

Task<Result<bool>> NodeControl::RemoveReplica(Reactor&, uint32_t, Uuid, bool) { co_return NoCluster(); }

Task<Result<api::AggregateReplicaReply>> NodeControl::AggregateReplica(Reactor&, api::AggregateReplicaRequest) {
  co_return NoCluster();
}

Task<Result<api::SplitPartitionReply>> NodeControl::SplitPartition(Reactor&, api::SplitPartitionRequest) {
  co_return NoCluster();
}

Task<void> KvService::ClusterReplicas(Call<api::Cluster_replicas_args, api::Cluster_replicas_result>* call) {
  if (Refuse(call, Reserve(call, kReplicaStatusBytes * (1 + backend_->here.size())))) co_return;
  Result<api::ReplicasReply> reply = co_await control_->Replicas(server_->reactor());
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterTopology(Call<api::Cluster_topology_args, api::Cluster_topology_result>* call) {
  if (Refuse(call, Reserve(call, kTopologyKeyBytes * (kMaxClusterKeys + backend_->places())))) co_return;
  Result<api::TopologyReply> reply = co_await control_->KnownTopology(server_->reactor());
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterHandover(Call<api::Cluster_handover_args, api::Cluster_handover_result>* call) {
  const api::HandoverRequest& request = call->args.request;
  if (request.partition < 0 || static_cast<uint32_t>(request.partition) >= backend_->places() || request.node < 0 ||
      request.epoch < 0 || request.timeout_ms < 0 || request.timeout_ms > kMaxHandoverMs) {
    SetError(&call->reply,
             MakeError(
                 ApiCode::kBadRequest,
                 fmt::format("partition {}, node {}, timeout_ms {}: there are {} partitions, node IDs begin at 1, "
                             "and the time is at most {} ms",
                             request.partition, request.node, request.timeout_ms, backend_->places(), kMaxHandoverMs)));
    co_return;
  }
  const int32_t timeout_ms = request.timeout_ms == 0 ? kDefaultHandoverMs : request.timeout_ms;
  Result<api::HandoverReply> reply = co_await control_->Handover(
      server_->reactor(), static_cast<uint32_t>(request.partition), static_cast<uint32_t>(request.node),
      static_cast<Epoch>(request.epoch), timeout_ms * kMillisecond);
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterForceFailover(
    Call<api::Cluster_forceFailover_args, api::Cluster_forceFailover_result>* call) {
  api::ForceFailoverRequest request = call->args.request;
  if (request.partition < 0 || static_cast<uint32_t>(request.partition) >= backend_->places() || request.epoch < 0 ||
      request.lineage < 0 || request.timeout_ms < 0 || request.timeout_ms > kMaxHandoverMs) {
    SetError(
        &call->reply,
        MakeError(ApiCode::kBadRequest,
                  fmt::format("partition {}, epoch {}, lineage {}, timeout_ms {}: there are {} partitions, none of "
                              "these is negative, and the time is at most {} ms",
                              request.partition, request.epoch, request.lineage, request.timeout_ms, backend_->places(),
                              kMaxHandoverMs)));
    co_return;
  }
  if (request.timeout_ms == 0) request.timeout_ms = kDefaultForceMs;
  Result<api::ForceFailoverReply> reply = co_await control_->ForceFailover(server_->reactor(), std::move(request));
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterSetMinIsr(Call<api::Cluster_setMinIsr_args, api::Cluster_setMinIsr_result>* call) {
  const api::SetMinIsrRequest& request = call->args.request;
  if (request.partition < 0 || static_cast<uint32_t>(request.partition) >= backend_->places() || request.min_isr < 1) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest,
                                     fmt::format("partition {}, min_isr {}: there are {} partitions, and min_isr is at "
                                                 "least 1",
                                                 request.partition, request.min_isr, backend_->places())));
    co_return;
  }
  const Result<bool> done = co_await control_->SetMinIsr(server_->reactor(), static_cast<uint32_t>(request.partition),
                                                         static_cast<uint32_t>(request.min_isr));
  if (!Failed(call, done.status())) call->reply.success.done = *done;
}

Task<void> KvService::ClusterOpenCopy(Call<api::Cluster_openCopy_args, api::Cluster_openCopy_result>* call) {
  const Result<Named> named = NameOf(call->args.request, backend_->places());
  if (Failed(call, named.status())) co_return;
  AnswerCopy(call, co_await control_->OpenCopy(server_->reactor(), named->partition, named->replica));
}

Task<void> KvService::ClusterRenewCopy(Call<api::Cluster_renewCopy_args, api::Cluster_renewCopy_result>* call) {
  const Result<Named> named = NameOf(call->args.request, backend_->places());
  if (Failed(call, named.status())) co_return;
  SnapshotToken token;
  if (Refuse(call, ToSnapshotToken(call->args.request.snapshot, &token))) co_return;
  AnswerCopy(call, co_await control_->RenewCopy(server_->reactor(), named->partition, named->replica, token));
}

Task<void> KvService::ClusterReplaceReplica(
    Call<api::Cluster_replaceReplica_args, api::Cluster_replaceReplica_result>* call) {
  const api::ReplaceReplicaRequest& request = call->args.request;
  const Result<Named> named = NameOf(request, backend_->places());
  if (Failed(call, named.status())) co_return;
  const std::optional<Uuid> leaves = Uuid::Parse(request.leaves);
  if ((!leaves && !request.leaves.empty()) || request.node <= 0) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest,
                                     fmt::format("node {}, leaves {}: node IDs begin at 1, and a replica has a UUID",
                                                 request.node, request.leaves)));
    co_return;
  }
  Result<bool> done = co_await control_->ReplaceReplica(server_->reactor(), named->partition, named->replica,
                                                        static_cast<uint32_t>(request.node), leaves);
  if (!Failed(call, done.status())) call->reply.success.done = *done;
}

// -- replicas that come and go

Task<void> KvService::ClusterAddReplica(Call<api::Cluster_addReplica_args, api::Cluster_addReplica_result>* call) {
  const api::AddReplicaRequest& request = call->args.request;
  if (Failed(call, CheckPartition(request.partition, backend_->places()))) co_return;
  if (request.node <= 0) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest, fmt::format("node {}: node IDs begin at 1", request.node)));
    co_return;
  }
  Result<api::AddReplicaReply> reply =
      co_await control_->AddReplica(server_->reactor(), static_cast<uint32_t>(request.partition),
                                    static_cast<uint32_t>(request.node), request.replaces);
  if (!Failed(call, reply.status())) call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterRemoveReplica(
    Call<api::Cluster_removeReplica_args, api::Cluster_removeReplica_result>* call) {
  const Result<Named> named = NameOf(call->args.request, backend_->places());
  if (Failed(call, named.status())) co_return;
  Result<bool> done = co_await control_->RemoveReplica(server_->reactor(), named->partition, named->replica,
                                                       call->args.request.replaced);
  if (!Failed(call, done.status())) call->reply.success.done = *done;
}

Task<void> KvService::ClusterSplitPartition(
    Call<api::Cluster_splitPartition_args, api::Cluster_splitPartition_result>* call) {
  const api::SplitPartitionRequest& request = call->args.request;
  if (Failed(call, CheckPartition(request.partition, backend_->places()))) co_return;
  if (request.rate_mb_s < 0) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest,
                       fmt::format("rate_mb_s {}: it is not negative, and 0 is no limit", request.rate_mb_s)));
    co_return;
  }
  Result<api::SplitPartitionReply> reply = co_await control_->SplitPartition(server_->reactor(), request);
  if (!Failed(call, reply.status())) call->reply.success = *std::move(reply);
}

Task<void> KvService::ClusterAggregateReplica(
    Call<api::Cluster_aggregateReplica_args, api::Cluster_aggregateReplica_result>* call) {
  const api::AggregateReplicaRequest& request = call->args.request;
  if (Failed(call, CheckPartition(request.partition, backend_->places()))) co_return;
  if (request.records < 0 || request.records > kMaxShownRecords) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest, fmt::format("{} records: at most {}", request.records, kMaxShownRecords)));
    co_return;
  }
  if (request.records > 0 && Refuse(call, Reserve(call, kShownBytes))) co_return;
  Result<api::AggregateReplicaReply> reply = co_await control_->AggregateReplica(server_->reactor(), request);
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
  call->reply.success.namespaced = backend_->store->namespaced;
}

}  // namespace pando
