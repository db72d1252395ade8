#include "src/node/master_calls.h"

#include "gen-cpp/Cluster.h"
#include "src/node/node_call.h"
#include "src/replication/partition_record.h"

namespace pando {

Result<NodeId> MasterCalls::MasterOf(uint32_t partition) const {
  const auto at = cluster_.newest().partitions.find(partition);
  if (at == cluster_.newest().partitions.end()) return Error(Code::kNotFound, "there is no such partition");
  const PartitionRecord& record = at->second.record;
  const NodeId master = replication::NodeOf(record, record.master).value_or(0);
  const bool reached =
      master == cluster_.node() || (cluster_.newest().nodes.contains(master) && links_.IsUp(master, 0));
  if (!reached) return Error(Code::kUnavailable, "its master is on node {}, which is not reached", master);
  return master;
}

template <typename Args, typename CallResult>
Task<Status> MasterCalls::Over(NodeId node, const char* method, Args* args, CallResult* result) {
  std::string address = cluster_.newest().nodes.at(node).record.client_address;
  co_return co_await CallNode(reactor_, std::move(address), method, args, result, kCallNs);
}

Task<Status> MasterCalls::AddReplica(uint32_t partition, NodeId node) {
  CO_ASSIGN_OR_RETURN(const NodeId master, MasterOf(partition));
  if (master == cluster_.node()) {
    co_return (co_await self_.AddReplica(reactor_, partition, node, /*replaces=*/true)).TakeStatus();
  }
  api::Cluster_addReplica_args args;
  args.request.partition = static_cast<int32_t>(partition);
  args.request.node = static_cast<int32_t>(node);
  args.request.replaces = true;
  api::Cluster_addReplica_result result;
  co_return co_await Over(master, "addReplica", &args, &result);
}

Task<Status> MasterCalls::RemoveReplica(uint32_t partition, Uuid replica) {
  CO_ASSIGN_OR_RETURN(const NodeId master, MasterOf(partition));
  if (master == cluster_.node()) {
    co_return (co_await self_.RemoveReplica(reactor_, partition, replica, /*replaced=*/true)).TakeStatus();
  }
  api::Cluster_removeReplica_args args;
  args.request.partition = static_cast<int32_t>(partition);
  args.request.replica = replica.ToString();
  args.request.replaced = true;
  api::Cluster_removeReplica_result result;
  co_return co_await Over(master, "removeReplica", &args, &result);
}

Task<Status> MasterCalls::HandOver(uint32_t partition, NodeId to, Epoch epoch) {
  CO_ASSIGN_OR_RETURN(const NodeId master, MasterOf(partition));
  if (master == cluster_.node()) {
    co_return (co_await self_.Handover(reactor_, partition, to, epoch, kHandOverNs)).TakeStatus();
  }
  api::Cluster_handover_args args;
  args.request.partition = static_cast<int32_t>(partition);
  args.request.node = static_cast<int32_t>(to);
  args.request.epoch = static_cast<int64_t>(epoch);
  args.request.timeout_ms = static_cast<int32_t>(kHandOverNs / kMillisecond);
  api::Cluster_handover_result result;
  co_return co_await Over(master, "handover", &args, &result);
}

Task<Result<api::ReplicasReply>> MasterCalls::ReplicasOf(NodeId node) {
  if (node == cluster_.node()) co_return co_await self_.Replicas(reactor_);
  if (!cluster_.newest().nodes.contains(node) || !links_.IsUp(node, 0)) {
    co_return Error(Code::kUnavailable, "node {} is not reached", node);
  }
  api::Cluster_replicas_args args;
  api::Cluster_replicas_result result;
  CO_RETURN_IF_ERROR(co_await Over(node, "replicas", &args, &result));
  co_return std::move(result.success);
}

}  // namespace pando
