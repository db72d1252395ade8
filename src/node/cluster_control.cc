// Node: what the Cluster service asks of the whole node, and leaving the cluster in good order.
#include "src/io/process.h"
#include "src/node/node.h"
#include "src/node/replica_sums.h"
#include "src/replication/hosted_replica.h"

namespace pando {

namespace {

api::ReplicaStatus ToStatus(const replication::ReplicaReport& report) {
  api::ReplicaStatus out;
  out.partition = static_cast<int32_t>(report.partition);
  out.replica = report.replica.ToString();
  out.role = report.role;
  out.epoch = static_cast<int64_t>(report.epoch);
  out.promised = static_cast<int64_t>(report.promised);
  out.last_lsn = static_cast<int64_t>(report.last_lsn);
  out.last_epoch = static_cast<int64_t>(report.last_epoch);
  out.durable_lsn = static_cast<int64_t>(report.durable_lsn);
  out.commit_lsn = static_cast<int64_t>(report.commit_lsn);
  out.applied_lsn = static_cast<int64_t>(report.applied_lsn);
  out.in_sync = static_cast<int32_t>(report.in_sync);
  out.replicas = static_cast<int32_t>(report.replicas);
  out.min_isr = static_cast<int32_t>(report.min_isr);
  out.leased = report.leased;
  out.master_node = static_cast<int32_t>(report.master_node);
  for (const replication::ReplicaReport::Follower& f : report.followers) {
    api::FollowerStatus& follower = out.followers.emplace_back();
    follower.replica = f.replica.ToString();
    follower.node = static_cast<int32_t>(f.node);
    follower.in_sync = f.in_sync;
    follower.learner = f.learner;
    follower.durable_lsn = static_cast<int64_t>(f.durable_lsn);
    // Of one that has acknowledged nothing to this master, all of the log would be counted.
    const bool known = f.durable_lsn > 0 || report.last_lsn == 0;
    const Lsn behind = report.last_lsn - std::min(report.last_lsn, f.durable_lsn);
    follower.behind_records = known ? static_cast<int64_t>(behind) : -1;
    follower.behind_ms = known ? f.behind_ns / kMillisecond : -1;
    follower.silent_ms = f.silent_ns / kMillisecond;
  }
  return out;
}

// A replica that is being installed may not be here yet.
void AddInstallations(const std::vector<ReplicaInstaller::Report>& reports, api::ReplicasReply* reply) {
  for (const ReplicaInstaller::Report& report : reports) {
    const auto partition = static_cast<int32_t>(report.partition);
    auto at = std::find_if(reply->replicas.begin(), reply->replicas.end(),
                           [partition](const auto& r) { return r.partition == partition; });
    if (at == reply->replicas.end()) {
      at = reply->replicas.emplace(at);
      at->partition = partition;
      at->replica = report.replica.ToString();
      at->promised = static_cast<int64_t>(report.promised);
    }
    at->role = "installing";
    at->installed_bytes = static_cast<int64_t>(report.progress.bytes);
    at->install_bytes = static_cast<int64_t>(report.progress.of_bytes);
    at->install_problem = report.problem;
  }
}

void AddTopologyHealth(const NodeCluster::TopologyHealth& health, Nanos now_ns, api::ReplicasReply* reply) {
  reply->topology_revision = static_cast<int64_t>(health.seen);
  if (health.status.ok()) return;
  api::TopologyTrouble trouble;
  trouble.problem = health.status.message();
  trouble.silent_ms = (now_ns - health.read_ns) / kMillisecond;
  trouble.went_back = health.went_back;
  reply->__set_topology_trouble(trouble);
}

template <typename Record>
Status AddKey(std::string key, const Versioned<Record>& known, api::TopologyReply* reply) {
  api::TopologyKey& out = reply->keys.emplace_back();
  out.key = std::move(key);
  out.revision = static_cast<int64_t>(known.revision);
  ASSIGN_OR_RETURN(out.value, Encode(known.record));
  return Status();
}

Task<Result<api::SplitPartitionReply>> NotJoined() {
  co_return Error(Code::kUnavailable, "this node has not joined the cluster yet; try again");
}

// For so long a copy is kept for a replica that does not ask for it again.
constexpr int64_t kCopyTtlMs = 30'000;
constexpr Nanos kReadTopologyNs = 2 * kSecond;

}  // namespace

Task<Result<api::ReplicasReply>> Node::Replicas(Reactor& caller) {
  if (!options_.clustered()) co_return co_await NodeControl::Replicas(caller);
  api::ReplicasReply reply;
  reply.node = static_cast<int32_t>(membership_.node);
  reply.cluster_id = membership_.cluster_id.ToString();
  reply.incarnation = static_cast<int64_t>(membership_.start);
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto ask = [part = parts_[i]](Reactor&) -> Task<std::vector<api::ReplicaStatus>> {
      std::vector<api::ReplicaStatus> replicas;
      for (const replication::ReplicaReport& report : part->replica_host()->Report()) {
        const Version newest = part->engine()->newest_change(report.partition).load(std::memory_order_relaxed);
        replicas.push_back(ToStatus(report));
        if (const Partition* held = part->engine()->partition(report.partition)) {
          const PartitionStats stats = held->stats();
          replicas.back().disk_full = stats.disk_full;
          replicas.back().reads_total = static_cast<int64_t>(stats.reads_total);
          replicas.back().writes_total = static_cast<int64_t>(stats.writes_total);
          replicas.back().scans_total = static_cast<int64_t>(stats.scans_total);
          replicas.back().used_bytes = static_cast<int64_t>(stats.used_bytes);
        }
        if (newest != UINT64_MAX) replicas.back().newest_change_ms = static_cast<int64_t>(VersionMs(newest));
      }
      co_return replicas;
    };
    const std::vector<api::ReplicaStatus> replicas = co_await CallOn(caller, static_cast<int>(i), std::move(ask));
    reply.replicas.insert(reply.replicas.end(), replicas.begin(), replicas.end());
  }
  auto installing = [this, &reply](Reactor& first) -> Task<std::vector<ReplicaInstaller::Report>> {
    AddTopologyHealth(cluster_->topology_health(), first.NowNs(), &reply);
    reply.clock_ms = first.WallMs();
    reply.versions_ms = parts_[0]->engine()->clock()->NowMs(first);
    if (controller_) {
      api::ControllerStatus status = controller_->status();
      if (balancer_) status.wanted_nodes = static_cast<int32_t>(balancer_->wanted_nodes());
      reply.__set_controller(status);
    }
    if (splits_) reply.splits = splits_->status();
    co_return installer_ ? installer_->reports() : std::vector<ReplicaInstaller::Report>();
  };
  const std::vector<ReplicaInstaller::Report> reports = co_await CallOn(caller, 0, std::move(installing));
  AddInstallations(reports, &reply);
  // A node that stops gives all masterships away, and is to get none back.
  if (options_.auto_balance != AutoBalance::kOff && health_.ready.load(std::memory_order_relaxed)) {
    const api::NodeTraffic traffic = co_await Traffic(caller);
    reply.__set_traffic(traffic);
  }
  std::sort(reply.replicas.begin(), reply.replicas.end(),
            [](const auto& a, const auto& b) { return a.partition < b.partition; });
  co_return reply;
}

// All since the node has started.
Task<api::NodeTraffic> Node::Traffic(Reactor& caller) {
  api::NodeTraffic traffic;
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto ask = [part = parts_[i]](Reactor&) -> Task<RequestSums> { co_return part->Requests(); };
    const RequestSums sums = co_await CallOn(caller, static_cast<int>(i), std::move(ask));
    traffic.requests += static_cast<int64_t>(sums.requests);
    traffic.latency_us += static_cast<int64_t>(sums.latency_ns / 1000);
    traffic.bytes += static_cast<int64_t>(sums.bytes);
  }
  traffic.clock_ms = caller.NowNs() / kMillisecond;
  traffic.cpu_us = static_cast<int64_t>(CpuTimeNs() / 1000);
  traffic.processors = std::min(static_cast<int32_t>(parts_.size()), UsableCpus());
  co_return traffic;
}

Task<Result<api::TopologyReply>> Node::KnownTopology(Reactor& caller) {
  if (!options_.clustered()) co_return co_await NodeControl::KnownTopology(caller);
  auto encode = [this](Reactor&) -> Task<Result<api::TopologyReply>> {
    api::TopologyReply reply;
    const ClusterMap& map = cluster_->newest();
    if (map.cluster) CO_RETURN_IF_ERROR(AddKey(std::string(kClusterKey), *map.cluster, &reply));
    if (map.controller) CO_RETURN_IF_ERROR(AddKey(std::string(kControllerKey), *map.controller, &reply));
    for (const auto& [id, node] : map.nodes) CO_RETURN_IF_ERROR(AddKey(NodeKey(id), node, &reply));
    for (const auto& [id, partition] : map.partitions) {
      CO_RETURN_IF_ERROR(AddKey(PartitionKey(id), partition, &reply));
    }
    co_return reply;
  };
  co_return co_await CallOn(caller, 0, std::move(encode));
}

// Before a change that an operator asks for. A master that had proposed another one would neither read nor write until
// the topology says what came of it, and other changes would only be asked for again and again.
Task<Status> Node::CheckTopologyAnswers(Reactor& caller, uint32_t partition) {
  auto read = [this, partition](Reactor&) -> Task<Status> {
    co_await cluster_->topology_calls()->Acquire();
    Result<TopologyEntry> entry = co_await cluster_->topology()->Read(PartitionKey(partition), kReadTopologyNs);
    cluster_->topology_calls()->Release();
    co_return entry.status();
  };
  const Status status = co_await CallOn(caller, 0, std::move(read));
  if (status.ok()) co_return status;
  co_return Error(Code::kUnavailable,
                  "partition {}: the topology does not answer, and only there its master and its replicas can be "
                  "changed; nothing was changed: {}",
                  partition, status.message());
}

Task<Result<api::HandoverReply>> Node::Handover(Reactor& caller, uint32_t partition, uint32_t node, Epoch epoch,
                                                Nanos timeout_ns) {
  if (!options_.clustered()) co_return co_await NodeControl::Handover(caller, partition, node, epoch, timeout_ns);
  CO_RETURN_IF_ERROR(co_await CheckTopologyAnswers(caller, partition));
  const size_t owner = partition % parts_.size();
  auto hand_over = [part = parts_[owner], partition, node, epoch, timeout_ns](Reactor&) {
    return part->replica_host()->HandOver(partition, node, epoch, timeout_ns);
  };
  CO_ASSIGN_OR_RETURN(const replication::HandoverResult result,
                      co_await CallOn(caller, static_cast<int>(owner), std::move(hand_over)));
  api::HandoverReply reply;
  reply.node = static_cast<int32_t>(result.node);
  reply.pause_ms = result.pause_ns / kMillisecond;
  co_return reply;
}

Task<Result<api::ForceFailoverReply>> Node::ForceFailover(Reactor& caller, api::ForceFailoverRequest request) {
  if (!options_.clustered()) co_return co_await NodeControl::ForceFailover(caller, std::move(request));
  const auto partition = static_cast<uint32_t>(request.partition);
  const size_t owner = partition % parts_.size();
  replication::ForceOrder order;
  order.epoch = static_cast<Epoch>(request.epoch);
  order.lineage = static_cast<uint64_t>(request.lineage);
  order.accept_loss = request.accept_loss;
  order.timeout_ns = request.timeout_ms * kMillisecond;
  auto force = [part = parts_[owner], partition, order](Reactor&) {
    return part->replica_host()->Force(partition, order);
  };
  CO_ASSIGN_OR_RETURN(const replication::ForcedMastership forced,
                      co_await CallOn(caller, static_cast<int>(owner), std::move(force)));
  api::ForceFailoverReply reply;
  reply.epoch = static_cast<int64_t>(forced.epoch);
  reply.lineage = static_cast<int64_t>(forced.lineage);
  reply.nothing_lost = forced.was_member;
  reply.open = forced.open;
  co_return reply;
}

Task<Result<bool>> Node::SetMinIsr(Reactor& caller, uint32_t partition, uint32_t min_isr) {
  if (!options_.clustered()) co_return co_await NodeControl::SetMinIsr(caller, partition, min_isr);
  CO_RETURN_IF_ERROR(co_await CheckTopologyAnswers(caller, partition));
  const size_t owner = partition % parts_.size();
  auto set = [part = parts_[owner], partition, min_isr](Reactor&) -> Task<Result<bool>> {
    co_return part->replica_host()->SetMinIsr(partition, min_isr);
  };
  co_return co_await CallOn(caller, static_cast<int>(owner), std::move(set));
}

// -- copies for other replicas

Task<Result<KeptLog>> Node::KeepLogFor(Reactor& caller, uint32_t partition, Uuid replica, bool anew) {
  const size_t owner = partition % parts_.size();
  auto keep = [part = parts_[owner], partition, replica, anew](Reactor& reactor) -> Task<Result<KeptLog>> {
    co_return part->replica_host()->KeepLogFor(partition, replica, reactor.NowNs() + kCopyTtlMs * kMillisecond, anew);
  };
  co_return co_await CallOn(caller, static_cast<int>(owner), std::move(keep));
}

// The log is kept from before the cut, so that nothing is missing between the copy and the log.
Task<Result<OpenedCopy>> Node::OpenCopy(Reactor& caller, uint32_t partition, Uuid replica) {
  if (!options_.clustered()) co_return co_await NodeControl::OpenCopy(caller, partition, replica);
  OpenedCopy copy;
  CO_ASSIGN_OR_RETURN(copy.log, co_await KeepLogFor(caller, partition, replica, /*anew=*/true));
  auto open = [this, partition](Reactor&) { return snapshots_->OpenCopy(parts_[0]->place(partition), kCopyTtlMs); };
  CO_ASSIGN_OR_RETURN(copy.snapshot, co_await CallOn(caller, 0, std::move(open)));
  co_return copy;
}

Task<Result<OpenedCopy>> Node::RenewCopy(Reactor& caller, uint32_t partition, Uuid replica, SnapshotToken token) {
  if (!options_.clustered()) co_return co_await NodeControl::RenewCopy(caller, partition, replica, token);
  OpenedCopy copy;
  CO_ASSIGN_OR_RETURN(copy.log, co_await KeepLogFor(caller, partition, replica, /*anew=*/false));
  auto renew = [this, token](Reactor&) { return snapshots_->Renew(token, kCopyTtlMs); };
  CO_ASSIGN_OR_RETURN(copy.snapshot, co_await CallOn(caller, 0, std::move(renew)));
  co_return copy;
}

Task<Result<bool>> Node::ReplaceReplica(Reactor& caller, uint32_t partition, Uuid replica, uint32_t node,
                                        std::optional<Uuid> leaves) {
  if (!options_.clustered()) co_return co_await NodeControl::ReplaceReplica(caller, partition, replica, node, leaves);
  const size_t owner = partition % parts_.size();
  auto replace = [part = parts_[owner], partition, replica, node, leaves](Reactor&) -> Task<Result<bool>> {
    co_return part->replica_host()->Replace(partition, replica, node, leaves);
  };
  co_return co_await CallOn(caller, static_cast<int>(owner), std::move(replace));
}

// -- replicas that come and go

Task<Result<api::AddReplicaReply>> Node::AddReplica(Reactor& caller, uint32_t partition, uint32_t node, bool replaces) {
  if (!options_.clustered()) co_return co_await NodeControl::AddReplica(caller, partition, node, replaces);
  CO_RETURN_IF_ERROR(co_await CheckTopologyAnswers(caller, partition));
  const size_t owner = partition % parts_.size();
  auto add = [part = parts_[owner], partition, node, replaces](Reactor&) -> Task<Result<replication::ReplicaChange>> {
    co_return part->replica_host()->AddOn(partition, node, replaces);
  };
  CO_ASSIGN_OR_RETURN(const replication::ReplicaChange change,
                      co_await CallOn(caller, static_cast<int>(owner), std::move(add)));
  api::AddReplicaReply reply;
  reply.replica = change.replica.ToString();
  reply.done = change.done;
  co_return reply;
}

Task<Result<bool>> Node::RemoveReplica(Reactor& caller, uint32_t partition, Uuid replica, bool replaced) {
  if (!options_.clustered()) co_return co_await NodeControl::RemoveReplica(caller, partition, replica, replaced);
  CO_RETURN_IF_ERROR(co_await CheckTopologyAnswers(caller, partition));
  const size_t owner = partition % parts_.size();
  auto remove = [part = parts_[owner], partition, replica, replaced](Reactor&) -> Task<Result<bool>> {
    using replication::Removal;
    co_return part->replica_host()->RemoveOther(partition, replica, replaced ? Removal::kReplaced : Removal::kForGood);
  };
  co_return co_await CallOn(caller, static_cast<int>(owner), std::move(remove));
}

Task<Result<api::SplitPartitionReply>> Node::SplitPartition(Reactor& caller, api::SplitPartitionRequest request) {
  if (!options_.clustered()) co_return co_await NodeControl::SplitPartition(caller, std::move(request));
  CO_RETURN_IF_ERROR(co_await CheckTopologyAnswers(caller, static_cast<uint32_t>(request.partition)));
  auto order = [this, request = std::move(request)](Reactor&) -> Task<Result<api::SplitPartitionReply>> {
    if (splits_) return splits_->Order(request);
    return NotJoined();
  };
  co_return co_await CallOn(caller, 0, std::move(order));
}

Task<Result<api::AggregateReplicaReply>> Node::AggregateReplica(Reactor& caller, api::AggregateReplicaRequest request) {
  if (!options_.clustered()) co_return co_await NodeControl::AggregateReplica(caller, std::move(request));
  const size_t owner = static_cast<uint32_t>(request.partition) % parts_.size();
  auto aggregate = [part = parts_[owner], request = std::move(request)](Reactor&) {
    return AggregateHeldReplica(part, request);
  };
  co_return co_await CallOn(caller, static_cast<int>(owner), std::move(aggregate));
}

}  // namespace pando
