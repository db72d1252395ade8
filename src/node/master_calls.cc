#include "src/node/master_calls.h"

#include "gen-cpp/Cluster.h"
#include "src/base/address.h"
#include "src/replication/partition_record.h"
#include "src/rpc/rpc_client.h"

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

template <typename Reply, typename Args>
Task<Result<Reply>> MasterCalls::Over(NodeId node, std::string method, Args args) {
  const std::string address = cluster_.newest().nodes.at(node).record.client_address;
  CO_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  RpcClient client(reactor_);
  Status status = co_await client.Connect(at.host, at.port, kConnectNs);
  Reply reply;
  if (status.ok()) status = co_await client.Call(method, &args, &reply, kCallNs);
  co_await client.Close();
  CO_RETURN_IF_ERROR(status);
  if (!reply.__isset.success) {
    co_return Error(Code::kUnavailable, "{}", reply.__isset.error ? reply.error.message : "the answer has no result");
  }
  co_return reply;
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
  auto call = Over<api::Cluster_addReplica_result>(master, "addReplica", std::move(args));
  co_return (co_await call).TakeStatus();
}

Task<Status> MasterCalls::RemoveReplica(uint32_t partition, Uuid replica) {
  CO_ASSIGN_OR_RETURN(const NodeId master, MasterOf(partition));
  if (master == cluster_.node()) {
    co_return (co_await self_.RemoveReplica(reactor_, partition, replica)).TakeStatus();
  }
  api::Cluster_removeReplica_args args;
  args.request.partition = static_cast<int32_t>(partition);
  args.request.replica = replica.ToString();
  auto call = Over<api::Cluster_removeReplica_result>(master, "removeReplica", std::move(args));
  co_return (co_await call).TakeStatus();
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
  auto call = Over<api::Cluster_handover_result>(master, "handover", std::move(args));
  co_return (co_await call).TakeStatus();
}

Task<Result<api::ReplicasReply>> MasterCalls::ReplicasOf(NodeId node) {
  if (node == cluster_.node()) co_return co_await self_.Replicas(reactor_);
  if (!cluster_.newest().nodes.contains(node) || !links_.IsUp(node, 0)) {
    co_return Error(Code::kUnavailable, "node {} is not reached", node);
  }
  auto call = Over<api::Cluster_replicas_result>(node, "replicas", api::Cluster_replicas_args());
  CO_ASSIGN_OR_RETURN(api::Cluster_replicas_result reply, co_await call);
  co_return std::move(reply.success);
}

}  // namespace pando
