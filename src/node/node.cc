#include "src/node/node.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "src/base/address.h"
#include "src/base/counted.h"
#include "src/engine/log_layout.h"
#include "src/io/process.h"
#include "src/rpc/listen_patiently.h"

namespace pando {

namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr int64_t kMsPerSecond = 1000;
// malloc maps allocations above this size, and returns them to the system when they are freed.
constexpr int kMmapThresholdBytes = 256 << 10;

// Of a new store.
Status CheckReactors(uint32_t reactors, uint32_t partitions) {
  if (reactors <= partitions) return {};
  return Error(Code::kInvalidArgument,
               "--reactors={}, but the new store would have --partitions={}, and a reactor without a partition has "
               "nothing to do: give as many reactors at most",
               reactors, partitions);
}

template <typename Fn>
Task<void> RunOn(Reactor* caller, int reactor, Fn fn, Status* result) {
  Status status = co_await CallOn(*caller, reactor, std::move(fn));
  if (result->ok()) *result = std::move(status);
}

}  // namespace

Node::Node(NodeOptions options, std::function<void(const Status&)> on_failure,
           std::function<void(const Status&)> on_displaced)
    : options_(std::move(options)), on_failure_(std::move(on_failure)), on_displaced_(std::move(on_displaced)) {}

static_assert(kMaxHttpSockets >= 2 * kMaxHttpConnections, "connections that are being closed need places too (HS1)");

Node::~Node() { CHECK(group_ == nullptr) << "a Node was destroyed before it was stopped"; }

template <typename Fn>
Task<Status> Node::OnAllReactors(Reactor& caller, Fn fn) {
  Status result;
  TaskGroup calls;
  for (int i = 0; i < group_->size(); ++i) {
    auto on_reactor = [this, i, fn](Reactor& reactor) mutable { return fn(reactor, parts_[static_cast<size_t>(i)]); };
    calls.Spawn(RunOn(&caller, i, std::move(on_reactor), &result));
  }
  co_await calls.Drain();
  co_return result;
}

// -- starting

Status Node::Start() {
  RETURN_IF_ERROR(CheckOptions(options_));
  // An existing store may say how many reactors there are, so read it before they are created.
  uint32_t reactors = options_.reactors;
  StoreShape shape;
  {
    ASSIGN_OR_RETURN(std::unique_ptr<Reactor> probe, MakeUringReactor({}));
    Result<StoreInfo> found = RunBlocking(*probe, LoadStore(*probe, options_.data_dir));
    if (found.ok() && reactors == 0) reactors = found->reactors;
    if (found.ok() && options_.page_bytes == 0) options_.page_bytes = found->page_bytes;
    if (!found.ok() && found.code() != Code::kNotFound) return found.TakeStatus();
    RETURN_IF_ERROR(RunBlocking(*probe, CheckMembership(*probe, options_, found.ok())));
    if (!found.ok() && options_.clustered()) {
      ASSIGN_OR_RETURN(options_.partitions, RunBlocking(*probe, ReadRanges(*probe, options_)));
    }
    if (!found.ok() && options_.partitions == 0) options_.partitions = kDefaultPartitions;
    if (!found.ok()) RETURN_IF_ERROR(CheckReactors(reactors, options_.partitions));
    if (reactors == 0) reactors = static_cast<uint32_t>(UsableCpus());
    if (!found.ok()) reactors = std::min(reactors, options_.partitions);
    shape = found.ok() ? ShapeOf(*found, reactors) : ShapeOfNew(options_.partitions, options_.page_bytes, reactors);
  }
  options_.reactors = reactors;
  RETURN_IF_ERROR(CheckPorts(options_));
  ASSIGN_OR_RETURN(descriptors_, SplitDescriptors(options_, RaiseDescriptorLimit(), shape));
  LOG_IF(WARNING, descriptors_.connections < options_.max_connections)
      << "of the " << options_.max_connections << " connections of --max_connections, only " << descriptors_.connections
      << " are possible: the process may open " << descriptors_.limit << " file descriptors and reserves "
      << descriptors_.reserved
      << " of them for its own use. Raise RLIMIT_NOFILE (ulimit -Hn, or LimitNOFILE= in a systemd unit)";
  options_.max_connections = descriptors_.connections;
  budgets_ = std::make_unique<ConnectionBudgets>(
      ConnectionBudgets::Limits{descriptors_.sockets, std::max(descriptors_.peer_sockets, 1u), kMaxHttpSockets});
  ASSIGN_OR_RETURN(memory_, SplitMemory(options_, shape));
  shared_ = std::make_unique<RpcShared>(static_cast<int64_t>(memory_.request_bytes));
  mallopt(M_MMAP_THRESHOLD, kMmapThresholdBytes);
  mallopt(M_TRIM_THRESHOLD, 4 * kMmapThresholdBytes);
  mallopt(M_ARENA_MAX, static_cast<int>(reactors) + 1);
  RETURN_IF_ERROR(CheckLogBudget(options_, reactors));

  parts_.resize(reactors, nullptr);
  main_waits_.resize(reactors, nullptr);
  AddMetrics();
  ReactorGroupOptions group;
  group.reactors = static_cast<int>(reactors);
  group.pin_threads = options_.pin_threads;
  // Longer than the RPC server's stall timeout, so that the server closes a slow client first and
  // counts it as stalled.
  group.uring.network.peer_timeout_ns = 2 * options_.stall_timeout_s * kSecond;
  Result<std::unique_ptr<ReactorGroup>> made =
      ReactorGroup::Start(group, [this](Reactor& reactor) { return ReactorMain(reactor); });
  if (!made.ok()) return made.TakeStatus();
  group_ = *std::move(made);
  Status status = group_->RunOn(0, [this](Reactor& first) { return StartOnReactor(first); });
  if (!status.ok()) {
    LOG_IF(ERROR, !Stop().ok()) << "the node could not be stopped cleanly after it failed to start";
  }
  return status;
}

// What concerns the whole process.
void Node::AddMetrics() {
  registry_.AddCollector(this, [this](Exposition* out) {
    out->AddGauge("kv_process_resident_bytes", "Resident memory.", {}, static_cast<double>(ResidentBytes()));
    out->AddGauge("kv_process_memory_limit_bytes", "--memory_limit_mb.", {},
                  static_cast<double>(options_.memory_limit_bytes));
    auto add_count = [out](std::string name, std::string help, auto value) {
      out->AddGauge(std::move(name), std::move(help), {}, static_cast<double>(value));
    };
    add_count("kv_process_descriptor_limit_count", "File descriptors that the process may open.", descriptors_.limit);
    add_count("kv_process_reserved_descriptors_count",
              "File descriptors reserved for uses other than client connections.", descriptors_.reserved);
    add_count("kv_rpc_connection_limit_count", "Limit of concurrent client connections.", descriptors_.connections);
    add_count("kv_rpc_sockets_count", "Sockets of client connections, including those being closed.",
              budgets_->of(ListenerKind::kClient).in_use());
    out->AddGauge("kv_rpc_memory_bytes", "Request memory that is reserved, on all reactors.", {},
                  static_cast<double>(shared_->memory.used_bytes()));
    out->AddGauge("kv_rpc_memory_limit_bytes", "Limit of reserved request memory, above which requests are refused.",
                  {}, static_cast<double>(shared_->memory.limit_bytes()));
  });
}

Task<void> Node::ReactorMain(Reactor& reactor) {
  auto index = static_cast<size_t>(reactor.index());
  ReactorPart part(reactor, &store_, &options_, shared_.get(), &registry_, this);
  WaitQueue wait(reactor);
  parts_[index] = &part;
  main_waits_[index] = &wait;
  co_await wait.Wait();  // the part lives in this frame until Stop sends a LeaveCall
}

Task<Status> Node::StartOnReactor(Reactor& first) {
  Nanos begin_ns = first.NowNs();
  started_ns_ = begin_ns;
  // HTTP starts first, so that /readyz and /metrics answer during recovery.
  CO_RETURN_IF_ERROR(co_await ServeHttp(first));
  CO_RETURN_IF_ERROR(co_await MakeDirectory(first, options_.data_dir));
  Result<File> lock = co_await LockStore(first, options_.data_dir);
  if (!lock.ok()) co_return lock.TakeStatus();
  lock_ = *std::move(lock);
  if (options_.clustered()) CO_RETURN_IF_ERROR(co_await OpenCluster(first));
  StoreOptions store;
  store.data_dir = options_.data_dir;
  store.partitions = options_.partitions;
  store.empty = options_.clustered();
  store.reactors = options_.reactors;
  store.page_bytes = options_.page_bytes;
  Result<StoreInfo> opened = co_await OpenStore(first, std::move(store));
  if (!opened.ok()) co_return opened.TakeStatus();
  store_ = *std::move(opened);
  CO_RETURN_IF_ERROR(co_await RemoveLeftovers(first, &store_));
  CO_RETURN_IF_ERROR(co_await ChangeReactorsIfNeeded(first));
  if (cluster_) CO_RETURN_IF_ERROR(co_await JoinHosts(first));
  CO_RETURN_IF_ERROR(co_await OpenEngines(first));
  recovery_seconds_ = static_cast<double>(first.NowNs() - begin_ns) / kSecond;

  auto build = [this](Reactor&, ReactorPart* part) -> Task<Status> {
    part->Build(parts_);
    co_return Status();
  };
  CO_RETURN_IF_ERROR(co_await OnAllReactors(first, build));
  // Connect reads the services of all parts, so it starts only after every Build.
  auto connect = [this](Reactor&, ReactorPart* part) -> Task<Status> {
    part->Connect(parts_);
    co_return Status();
  };
  CO_RETURN_IF_ERROR(co_await OnAllReactors(first, connect));
  snapshots_ = std::make_unique<Snapshots>(first, &parts_[0]->here(), options_.snapshot_max_age_s * kMsPerSecond);
  CO_ASSIGN_OR_RETURN(const FileIdentity lock_identity, lock_.Identity());
  partitions_ =
      std::make_unique<NodePartitions>(first, &parts_, snapshots_.get(), &shared_->memory, store_, lock_identity);
  CO_RETURN_IF_ERROR(co_await partitions_->Open());
  if (cluster_) {
    installer_ = std::make_unique<ReplicaInstaller>(first, cluster_.get(), partitions_.get(), &parts_, &shared_->memory,
                                                    &registry_, options_.install_mb_per_s * kMiB);
    CO_RETURN_IF_ERROR(co_await MakeAssigned());
  }
  CO_RETURN_IF_ERROR(co_await ListenAll(first));
  if (cluster_) CO_RETURN_IF_ERROR(co_await EnterCluster(first));
  health_.ready.store(true, std::memory_order_relaxed);
  co_return Status();
}

Task<Status> Node::OpenCluster(Reactor& first) {
  cluster_ = std::make_unique<NodeCluster>(first, &options_, &shared_->memory, &registry_);
  cluster_->SetOnDisplaced([this](const Status& status) { OnDisplaced(status); });
  CO_RETURN_IF_ERROR(co_await cluster_->Open());
  membership_ = cluster_->identity();
  if (options_.partitions == 0) options_.partitions = cluster_->ranges();
  co_return Status();
}

// Before the engines ask for the gates of the replicas.
Task<Status> Node::JoinHosts(Reactor& first) {
  replication::PeerOptions peers;
  peers.cluster_id = cluster_->cluster_id();
  peers.node = cluster_->node();
  peers.incarnation = cluster_->incarnation();
  peers.protocol = cluster_->map().cluster->record.protocol;
  auto join = [this, peers](Reactor&, ReactorPart* part) { return part->JoinCluster(cluster_.get(), peers); };
  CO_RETURN_IF_ERROR(co_await OnAllReactors(first, join));
  if (cluster_->renews()) CO_RETURN_IF_ERROR(co_await cluster_->Renewed());
  co_return Status();
}

// The replicas that the topology assigns to this node, and that are not here. If the node has never served,
// nobody has had them. Else they are lost, and others take their place.
Task<Status> Node::MakeAssigned() {
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

Task<Status> Node::EnterCluster(Reactor& first) {
  std::vector<std::string> addresses;
  const std::string host = options_.peer_host.empty() ? options_.host : options_.peer_host;
  for (size_t i = 0; i < parts_.size(); ++i) {
    ListenOptions listen;
    listen.host = host;
    listen.port = options_.peer_port == 0 ? uint16_t{0} : static_cast<uint16_t>(options_.peer_port + i);
    listen.kind = ListenerKind::kPeer;
    listen.budgets = budgets_.get();
    listen.reuse_port = false;
    auto on_reactor = [part = parts_[i], listen](Reactor& reactor) {
      return ListenPatiently(reactor, [part, listen] { return part->ListenToPeers(listen); });
    };
    CO_ASSIGN_OR_RETURN(const uint16_t port, co_await CallOn(first, static_cast<int>(i), std::move(on_reactor)));
    addresses.push_back(FormatHostPort(host, port));
  }
  CO_RETURN_IF_ERROR(co_await cluster_->Join(FormatHostPort(options_.host, port_), std::move(addresses), &parts_));
  installer_->Start();
  NodeControl* self = this;
  controller_ =
      std::make_unique<Controller>(first, cluster_.get(), &parts_[0]->replica_host()->links(), self, &registry_,
                                   options_.replace_after_s * kSecond, options_.auto_balance != AutoBalance::kOff);
  controller_->Start();
  splits_ = std::make_unique<SplitDriver>(first, cluster_.get(), partitions_.get(), &parts_, self, &shared_->memory,
                                          &registry_);
  splits_->Start();
  if (options_.auto_balance == AutoBalance::kOff) co_return Status();
  balancer_ = std::make_unique<Balancer>(first, cluster_.get(), &parts_[0]->replica_host()->links(), self,
                                         controller_.get(), &registry_, options_);
  balancer_->Start();
  co_return Status();
}

Task<Status> Node::ServeHttp(Reactor& first) {
  if (options_.http_port < 0) co_return Status();
  http_ = std::make_unique<HttpServer>(first, &registry_, &health_, &shared_->memory);
  http_->AddPage("/wanted_nodes", kHttpJson, [this] { return WantedNodesPage(); });
  auto listen = [this] {
    return http_->Listen(options_.host, static_cast<uint16_t>(options_.http_port), budgets_.get());
  };
  CO_ASSIGN_OR_RETURN(http_port_, co_await ListenPatiently(first, std::move(listen)));
  http_->RegisterMetrics(&registry_);
  LOG(INFO) << "serving http " << FormatHostPort(options_.host, http_port_)
            << "; /readyz answers 503 until the storage engine has recovered";
  co_return Status();
}

Task<HttpPage> Node::WantedNodesPage() const {
  if (!options_.clustered()) co_return HttpPage::NotKnown("this node belongs to no cluster\n");
  if (options_.auto_balance == AutoBalance::kOff) {
    co_return HttpPage::NotKnown(
        "nobody measures the traffic: start all nodes with --auto_balance=log or --auto_balance=on\n");
  }
  co_return balancer_ ? balancer_->Page() : HttpPage::NotKnown("not ready: starting or stopping\n");
}

// An engine of one of the old reactors gets the memory of all new ones.
Task<Status> Node::ChangeReactorsIfNeeded(Reactor& first) {
  if (store_.reactors == options_.reactors) co_return Status();
  LOG(INFO) << options_.data_dir << ": is a store of " << store_.reactors << " reactors; it is given to "
            << options_.reactors << " before it is served";
  EngineOptions options;
  options.memory_bytes = memory_.engine_bytes * options_.reactors;
  options.spare_partitions = 0;  // none comes meanwhile
  options.compression = options_.compression;
  options.log_budget_bytes = options_.log_budget_bytes / store_.reactors;
  options.log_budget_records = options_.log_budget_records / store_.reactors;
  CO_ASSIGN_OR_RETURN(options.lock, lock_.Identity());
  options.on_failure = [this](const Status& status) { OnEngineFailure(status); };
  co_return co_await ChangeReactors(first, std::move(options), options_.reactors, &store_);
}

Task<Status> Node::OpenEngines(Reactor& first) {
  EngineOptions options;
  options.store = store_;
  options.clock = std::make_shared<StoreClock>();
  options.memory_bytes = memory_.engine_bytes;
  options.spare_partitions = descriptors_.spare_partitions;
  options.compression = options_.compression;
  options.log_budget_bytes = options_.log_budget_bytes / store_.reactors;
  options.log_budget_records = options_.log_budget_records / store_.reactors;
  options.log_retained_bytes = options_.log_retained_bytes / store_.reactors;
  CO_ASSIGN_OR_RETURN(options.lock, lock_.Identity());
  options.checkpoint_interval_ns = options_.checkpoint_interval_s * kSecond;
  options.scrub.bytes_per_s = (options_.scrub_mb_per_s << 20) / store_.reactors;
  options.scrub.interval_ns = options_.scrub_interval_h * 3600 * kSecond;
  options.gather_bytes_per_s = (options_.gather_mb_per_s << 20) / store_.reactors;
  options.release.bytes_per_s = (options_.release_space_mb_per_s << 20) / store_.reactors;
  options.release.after_ns = options_.release_space_after_s * kSecond;
  options.on_failure = [this](const Status& status) { OnEngineFailure(status); };
  options.on_quarantine = [this](const QuarantinedPartition& q) { health_.quarantined.Set(q.id, q.ToString()); };
  options.on_quarantine_end = [this](uint32_t id) { health_.quarantined.Remove(id); };
  auto open = [options](Reactor&, ReactorPart* part) mutable {
    options.reactor_index = part->index();
    return part->OpenEngine(std::move(options));
  };
  CO_RETURN_IF_ERROR(co_await OnAllReactors(first, std::move(open)));
  for (ReactorPart* part : parts_) recovered_records_ += part->engine()->stats().log.unreleased_records;
  co_return Status();
}

// Makes a reactor's main task return.
struct LeaveCall final : RemoteCall {
  void Start() override {
    wait->NotifyAll();
    target_reactor->Return(this);
  }
  void Finish() override {}
  WaitQueue* wait = nullptr;
};

// Listens only to find out whether the port is free, and closes every connection at once.
class PortProbe final : public AcceptHandler, private ConnectionHandler {
 public:
  void OnAccept(Connection* connection) override {
    connection->SetHandler(this);
    connection->Close(/*now=*/true);
  }

 private:
  void OnData(std::span<const char>) override {}
  void OnSent() override {}
  void OnClosed(const Status&) override {}
};

Task<Status> Node::ListenAll(Reactor& first) {
  ListenOptions listen;
  listen.host = options_.host;
  listen.port = options_.port;
  listen.kind = ListenerKind::kClient;
  listen.budgets = budgets_.get();
  listen.reuse_port = store_.reactors > 1;
  if (listen.reuse_port && listen.port != 0) {
    // With reuse_port, another process of the same user could share the port unnoticed. So first
    // listen without it, which fails if any process has the port.
    static PortProbe probe;
    ListenOptions alone = listen;
    alone.reuse_port = false;
    auto look = [&first, alone] { return first.Listen(alone, &probe); };
    Result<uint16_t> free = co_await ListenPatiently(first, std::move(look));
    if (!free.ok()) co_return free.TakeStatus();
    first.StopListening(&probe);
    co_await Yield(first);  // gives the probe's socket a turn to close
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto on_reactor = [part = parts_[i], listen](Reactor& reactor) {
      return ListenPatiently(reactor, [part, listen] { return part->Listen(listen); });
    };
    Result<uint16_t> port = co_await CallOn(first, static_cast<int>(i), std::move(on_reactor));
    if (!port.ok()) co_return port.TakeStatus();
    port_ = listen.port = *port;
  }
  co_return Status();
}

void Node::OnEngineFailure(const Status& status) {
  health_.failed.store(true, std::memory_order_relaxed);
  health_.ready.store(false, std::memory_order_relaxed);
  on_failure_(status);
}

void Node::OnDisplaced(const Status& status) {
  health_.ready.store(false, std::memory_order_relaxed);
  on_displaced_(status);
}

// -- stopping

Status Node::Stop() {
  if (group_ == nullptr) return {};
  health_.ready.store(false, std::memory_order_relaxed);
  Status status = group_->RunOn(0, [this](Reactor& first) { return StopOnReactor(first); });
  // A loop ends when its main task returns, perhaps before the answer to its LeaveCall is
  // delivered. So nothing waits for the answers, and the calls live until Join returns.
  std::vector<LeaveCall> leaves(parts_.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    leaves[i].wait = main_waits_[i];
    group_->Post(static_cast<int>(i), &leaves[i]);
  }
  group_->Join();
  group_.reset();
  registry_.Remove(this);
  return status;
}

Task<Status> Node::StopOnReactor(Reactor& first) {
  bool checkpoint = !health_.failed.load(std::memory_order_relaxed);
  // First, while everything that a change may wait for still goes on.
  Status status;
  if (splits_) co_await splits_->Stop();
  if (balancer_) co_await balancer_->Stop();
  balancer_.reset();
  if (controller_) co_await controller_->Stop();
  controller_.reset();
  if (installer_) co_await installer_->Stop();
  if (partitions_) status = co_await partitions_->Close();
  auto leave = [limit_ns = options_.shutdown_timeout_ms * kMillisecond](Reactor&, ReactorPart* part) {
    return part->LeaveCluster(limit_ns);
  };
  Status left = co_await OnAllReactors(first, leave);
  if (status.ok()) status = std::move(left);
  auto stop = [limit_ns = options_.shutdown_timeout_ms * kMillisecond](Reactor&, ReactorPart* part) {
    return part->StopServing(limit_ns);
  };
  // Requests of one part use the engines of the others, so all parts stop serving before any
  // engine closes.
  Status stopped = co_await OnAllReactors(first, stop);
  if (status.ok()) status = std::move(stopped);
  auto drain = [](Reactor&, ReactorPart* part) { return part->DrainCalls(); };
  Status drained = co_await OnAllReactors(first, drain);
  if (status.ok()) status = std::move(drained);
  if (splits_) co_await splits_->Drain();
  splits_.reset();
  installer_.reset();
  partitions_.reset();
  snapshots_.reset();  // only requests and changes of partitions use it, and all of them have ended
  // Its news go to the hosts, which end with the engines.
  if (cluster_) co_await cluster_->Close();
  auto close = [checkpoint](Reactor&, ReactorPart* part) { return part->CloseEngine(checkpoint); };
  Status closed = co_await OnAllReactors(first, close);
  if (status.ok()) status = std::move(closed);
  cluster_.reset();
  // HTTP ends last, so that /healthz answers while the store closes.
  if (http_) {
    co_await http_->Shutdown();
    registry_.Remove(http_.get());
    http_.reset();
  }
  if (lock_.is_open()) {
    Status unlocked = co_await lock_.Close();
    if (status.ok()) status = std::move(unlocked);
  }
  co_return status;
}

// -- NodeControl

Task<Status> Node::CheckpointAll(Reactor& caller) {
  auto checkpoint = [](Reactor&, ReactorPart* part) { return part->engine()->CheckpointAll(); };
  co_return co_await OnAllReactors(caller, checkpoint);
}

Task<Result<OpenedSnapshot>> Node::OpenSnapshot(Reactor& caller, int64_t ttl_ms, UnwantedFlag unwanted) {
  auto open = [this, ttl_ms, unwanted](Reactor&) { return snapshots_->Open(ttl_ms, unwanted); };
  co_return co_await CallOn(caller, 0, std::move(open));
}

Task<Result<OpenedSnapshot>> Node::RenewSnapshot(Reactor& caller, SnapshotToken token, int64_t ttl_ms) {
  auto renew = [this, token, ttl_ms](Reactor&) { return snapshots_->Renew(token, ttl_ms); };
  co_return co_await CallOn(caller, 0, std::move(renew));
}

Task<Result<bool>> Node::ReleaseSnapshot(Reactor& caller, SnapshotToken token) {
  auto release = [this, token](Reactor&) { return snapshots_->Release(token); };
  co_return co_await CallOn(caller, 0, std::move(release));
}

Task<Result<api::NodeStatus>> Node::CollectStatus(Reactor& caller) {
  api::NodeStatus out;
  out.node_id = store_.node.ToString();
  out.server_version = kServerVersion;
  out.uptime_ms = (caller.NowNs() - started_ns_) / kMillisecond;
  out.data_dir = options_.data_dir;
  out.page_bytes = static_cast<int32_t>(store_.page_bytes);
  out.memory_limit_bytes = static_cast<int64_t>(options_.memory_limit_bytes);
  out.resident_bytes = static_cast<int64_t>(ResidentBytes());
  out.log_budget_bytes = static_cast<int64_t>(options_.log_budget_bytes);
  out.connections = static_cast<int32_t>(shared_->connections.load(std::memory_order_relaxed));
  out.http_port = http_port_;
  out.reactors = static_cast<int32_t>(store_.reactors);
  out.ranges = static_cast<int32_t>(store_.ranges);
  out.cluster_node = static_cast<int32_t>(membership_.node);
  int disk_full_partitions = 0;
  std::optional<QuarantinedPartition> quarantined;
  uint64_t quarantined_total = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto collect = [part = parts_[i]](Reactor&) { return part->CollectStatus(); };
    ReactorPartStatus part = co_await CallOn(caller, static_cast<int>(i), std::move(collect));
    out.pool_pages += static_cast<int64_t>(part.engine.pool_pages);
    out.pool_free_pages += static_cast<int64_t>(part.engine.pool_free_pages);
    out.log_bytes += static_cast<int64_t>(part.engine.log.unreleased_bytes);
    disk_full_partitions += part.disk_full_partitions;
    if (!quarantined) quarantined = std::move(part.quarantined);
    quarantined_total += part.engine.quarantined_partitions;
    std::move(part.partitions.begin(), part.partitions.end(), std::back_inserter(out.partitions));
  }
  std::sort(out.partitions.begin(), out.partitions.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  CO_ASSIGN_OR_RETURN(out.scrub, co_await Scrub(caller, /*start=*/false, /*bytes_per_s=*/0));
  if (health_.failed.load(std::memory_order_relaxed)) {
    out.verdict = "the engine has stopped because a disk failed or data is damaged";
    out.advice = "read the log; run kvadmin check on the data directory; restart on a sound disk";
  } else if (quarantined) {
    // The partitions say the rest (PartitionStatus::quarantine).
    const std::string more = quarantined_total > 1 ? fmt::format("; {} more {} too", quarantined_total - 1,
                                                                 quarantined_total == 2 ? "is" : "are")
                                                   : "";
    out.verdict = fmt::format("serving, but {}{}", quarantined->What(), more);
    out.advice = quarantined->Advice();
  } else if (out.scrub.findings_total > 0) {
    out.verdict = fmt::format("serving, with {} damaged places on disk", out.scrub.findings_total);
    out.advice = "run kvadmin check --online to list them and what to do about each";
  } else if (disk_full_partitions > 0) {
    out.verdict = fmt::format("serving, but the disk is full: writes are refused in {}",
                              Counted(disk_full_partitions, "partition"));
    out.advice = "delete records, release snapshots, or add disk space";
  } else {
    out.verdict = "ok";
  }
  co_return out;
}

std::string Node::Describe() const {
  std::string http = http_ ? "http " + FormatHostPort(options_.host, http_port_) : "no http";
  return fmt::format(
      "kvnode ready: thrift {}, {}, data_dir {}, {} on {}, pages of {} bytes, limit {} "
      "MiB, recovered in {:.3f} s ({} log records)",
      FormatHostPort(options_.host, port_), http, options_.data_dir, Counted(store_.partitions.size(), "partition"),
      Counted(store_.reactors, "reactor"), store_.page_bytes, options_.memory_limit_bytes / kMiB, recovery_seconds_,
      recovered_records_);
}

}  // namespace pando
