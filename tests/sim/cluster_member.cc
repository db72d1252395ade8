#include "tests/sim/cluster_member.h"

#include <utility>

#include "src/io/directory.h"
#include "src/topology/placement.h"

namespace pando {
namespace {

constexpr Nanos kStopWithinNs = 2 * kSecond;
constexpr int64_t kSnapshotMaxAgeMs = 3'600'000, kCopyTtlMs = 30'000;

void Keep(Status* first, Status next) {
  if (first->ok()) *first = std::move(next);
}

}  // namespace

ClusterMember::ClusterMember(SimMachine* machine, ClusterMemberOptions options)
    : machine_(machine), reactor_(*machine->reactor(0)), options_(std::move(options)) {
  node_options_.data_dir = "/data";
  node_options_.topology = "simulated";
  node_options_.node_id = options_.node;
  node_options_.rules = options_.rules;
}

Task<Status> ClusterMember::Start(std::unique_ptr<TopologyStore> topology) {
  const std::string& dir = node_options_.data_dir;
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor_, dir));
  Result<File> lock = co_await LockStore(reactor_, dir);
  CO_RETURN_IF_ERROR(lock.status());
  lock_ = *std::move(lock);
  cluster_ = std::make_unique<NodeCluster>(reactor_, &node_options_, &shared_.memory, &registry_);
  CO_RETURN_IF_ERROR(co_await cluster_->OpenOn(std::move(topology)));
  incarnation_ = cluster_->incarnation();
  StoreOptions store;
  store.data_dir = dir;
  store.partitions = cluster_->ranges();
  store.empty = true;
  store.reactors = 1;
  store.page_bytes = 4096;
  Result<StoreInfo> opened = co_await OpenStore(reactor_, std::move(store));
  CO_RETURN_IF_ERROR(opened.status());
  store_ = *std::move(opened);
  CO_RETURN_IF_ERROR(co_await RemoveLeftovers(reactor_, &store_));
  part_ = std::make_unique<ReactorPart>(reactor_, &store_, &node_options_, &shared_, &registry_, this);
  parts_.push_back(part_.get());
  replication::PeerOptions peers;
  peers.cluster_id = cluster_->cluster_id();
  peers.node = cluster_->node();
  peers.incarnation = cluster_->incarnation();
  peers.protocol = cluster_->map().cluster->record.protocol;
  CO_RETURN_IF_ERROR(co_await part_->JoinCluster(cluster_.get(), peers));
  if (cluster_->renews()) CO_RETURN_IF_ERROR(co_await cluster_->Renewed());
  CO_RETURN_IF_ERROR(co_await OpenEngine());
  part_->Build(parts_);
  part_->Connect(parts_);
  snapshots_ = std::make_unique<Snapshots>(reactor_, &part_->here(), kSnapshotMaxAgeMs);
  CO_ASSIGN_OR_RETURN(const FileIdentity identity, lock_.Identity());
  partitions_ =
      std::make_unique<NodePartitions>(reactor_, &parts_, snapshots_.get(), &shared_.memory, store_, identity);
  CO_RETURN_IF_ERROR(co_await partitions_->Open());
  installer_ = std::make_unique<ReplicaInstaller>(reactor_, cluster_.get(), partitions_.get(), &parts_, &shared_.memory,
                                                  &registry_, 0);
  CO_RETURN_IF_ERROR(co_await MakeAssigned());
  CO_RETURN_IF_ERROR(co_await Enter());
  installer_->Start();
  if (options_.drives_splits) {
    splits_ = std::make_unique<SplitDriver>(reactor_, cluster_.get(), partitions_.get(), &parts_, this, &shared_.memory,
                                            &registry_);
    splits_->Start();
  }
  serving_ = true;
  co_return Status();
}

Task<Status> ClusterMember::OpenEngine() {
  EngineOptions engine = options_.engine;
  engine.clock = std::make_shared<StoreClock>();
  engine.store = store_;
  CO_ASSIGN_OR_RETURN(engine.lock, lock_.Identity());
  engine.on_failure = [this](const Status& status) { Keep(&failure_, status); };
  engine.on_quarantine = [this](const QuarantinedPartition& q) { Keep(&quarantine_, q.why); };
  co_return co_await part_->OpenEngine(std::move(engine));
}

Task<Status> ClusterMember::MakeAssigned() {
  for (const NodeCluster::Assigned& a : cluster_->assigned()) {
    if (partitions_->store().Find(a.partition) != nullptr) continue;
    if (!cluster_->first_start()) {
      installer_->AddMissing(a.partition);
      continue;
    }
    replication::ReplicaState state;
    state.replica = a.replica;
    state.installed = !a.learner;
    Result<PartitionInfo> made =
        co_await partitions_->CreateReplica(a.partition, PartitionUuid(cluster_->cluster_id(), a.partition), state);
    CO_RETURN_IF_ERROR(made.status());
  }
  co_return Status();
}

Task<Status> ClusterMember::Enter() {
  ListenOptions listen;
  listen.host = machine_->host();
  listen.port = options_.port;
  CO_RETURN_IF_ERROR(part_->Listen(listen).status());
  listen.port = options_.peer_port;
  listen.kind = ListenerKind::kPeer;
  CO_RETURN_IF_ERROR(part_->ListenToPeers(listen).status());
  std::vector<std::string> addresses{fmt::format("{}:{}", machine_->host(), options_.peer_port)};
  co_return co_await cluster_->Join(fmt::format("{}:{}", machine_->host(), options_.port), std::move(addresses),
                                    &parts_);
}

Task<Status> ClusterMember::Stop() {
  serving_ = false;
  Status status;
  if (splits_) co_await splits_->Stop();
  if (installer_) co_await installer_->Stop();
  if (partitions_) status = co_await partitions_->Close();
  if (part_) {
    Keep(&status, co_await part_->LeaveCluster(kStopWithinNs));
    Keep(&status, co_await part_->StopServing(kStopWithinNs));
    Keep(&status, co_await part_->DrainCalls());
  }
  co_await calls_.Drain();
  if (splits_) co_await splits_->Drain();
  splits_.reset();
  installer_.reset();
  partitions_.reset();
  snapshots_.reset();
  if (cluster_) co_await cluster_->Close();
  if (part_) Keep(&status, co_await part_->CloseEngine(failure_.ok()));
  cluster_.reset();
  parts_.clear();
  part_.reset();
  if (lock_.is_open()) Keep(&status, co_await lock_.Close());
  co_return status;
}

// -- NodeControl

Task<Result<api::NodeStatus>> ClusterMember::CollectStatus(Reactor&) {
  co_return Error(Code::kUnsupported, "a simulated node does not report its status");
}
Task<Status> ClusterMember::CheckpointAll(Reactor&) { return part_->engine()->CheckpointAll(); }
Task<Result<OpenedSnapshot>> ClusterMember::OpenSnapshot(Reactor&, int64_t ttl_ms, UnwantedFlag unwanted) {
  return snapshots_->Open(ttl_ms, std::move(unwanted));
}
Task<Result<OpenedSnapshot>> ClusterMember::RenewSnapshot(Reactor&, SnapshotToken token, int64_t ttl_ms) {
  return snapshots_->Renew(token, ttl_ms);
}
Task<Result<bool>> ClusterMember::ReleaseSnapshot(Reactor&, SnapshotToken token) { return snapshots_->Release(token); }
Task<Result<api::ScrubReply>> ClusterMember::Scrub(Reactor&, bool, uint64_t) {
  co_return Error(Code::kUnsupported, "a simulated node does not scrub");
}

// As cluster_control.cc does it.
Task<Result<api::HandoverReply>> ClusterMember::Handover(Reactor&, uint32_t partition, uint32_t node, Epoch epoch,
                                                         Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(const replication::HandoverResult result,
                      co_await host()->HandOver(partition, node, epoch, timeout_ns));
  api::HandoverReply reply;
  reply.node = static_cast<int32_t>(result.node);
  co_return reply;
}
Task<Result<OpenedCopy>> ClusterMember::OpenCopy(Reactor& caller, uint32_t partition, Uuid replica) {
  OpenedCopy copy;
  const Nanos until_ns = caller.NowNs() + kCopyTtlMs * kMillisecond;
  CO_ASSIGN_OR_RETURN(copy.log, host()->KeepLogFor(partition, replica, until_ns, /*anew=*/true));
  CO_ASSIGN_OR_RETURN(copy.snapshot, co_await snapshots_->OpenCopy(part_->place(partition), kCopyTtlMs));
  co_return copy;
}
Task<Result<OpenedCopy>> ClusterMember::RenewCopy(Reactor& caller, uint32_t partition, Uuid replica,
                                                  SnapshotToken token) {
  OpenedCopy copy;
  const Nanos until_ns = caller.NowNs() + kCopyTtlMs * kMillisecond;
  CO_ASSIGN_OR_RETURN(copy.log, host()->KeepLogFor(partition, replica, until_ns, /*anew=*/false));
  CO_ASSIGN_OR_RETURN(copy.snapshot, co_await snapshots_->Renew(token, kCopyTtlMs));
  co_return copy;
}
Task<Result<bool>> ClusterMember::ReplaceReplica(Reactor&, uint32_t partition, Uuid replica, uint32_t node,
                                                 std::optional<Uuid> leaves) {
  co_return host()->Replace(partition, replica, node, leaves);
}

}  // namespace pando
