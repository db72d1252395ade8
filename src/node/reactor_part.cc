#include "src/node/reactor_part.h"

#include <algorithm>
#include <utility>

#include "src/io/call_on.h"
#include "src/io/offload.h"

namespace pando {

namespace {

constexpr Nanos kPublishIntervalNs = 500 * kMillisecond;
constexpr int64_t kMsPerSecond = 1000;

// Whether the data of a quarantined partition are lost for certain. An error of the disk says nothing of them: it may
// be gone with the next start (a limit, a permission, a cable), and if it is not, a copy on the same disk is worth
// little.
bool IsLost(const Status& why) { return why.code() == Code::kCorruption || why.code() == Code::kNotFound; }

void SetTotal(Counter* counter, uint64_t total) {
  if (total > counter->value()) counter->Add(total - counter->value());
}

}  // namespace

ReactorPart::~ReactorPart() {
  CHECK(engine_ == nullptr) << "a ReactorPart was destroyed before its engine was closed";
  registry_->Remove(this);  // a partition may have been quarantined while the engine opened or closed
}

Task<Status> ReactorPart::JoinCluster(NodeCluster* cluster, replication::PeerOptions peers) {
  topology_ = std::make_unique<TopologyAccess>(reactor_, cluster->topology(), cluster->topology_calls());
  peers.reactor = index();
  replication::ReplicaHost::Options options;
  options.rules = options_->rules;
  options.peers = peers;
  options.reactors = store_->reactors;
  replication::HostObserver* observer = this;
  host_ = std::make_unique<replication::ReplicaHost>(reactor_, options, topology_.get(), &shared_->memory, observer);
  backend_.read_gate = host_.get();
  backend_.cluster_id = peers.cluster_id;
  CO_ASSIGN_OR_RETURN(directory_, co_await Directory::Open(reactor_, store_->data_dir));
  for (const PartitionInfo& info : store_->partitions) {
    if (store_->ReactorOf(info.id) != index()) continue;
    if (cluster->renews()) CO_RETURN_IF_ERROR(co_await Renew(info));
    Status added = co_await AddReplica(info);
    if (added.code() == Code::kCorruption || added.code() == Code::kNotFound) {
      // What it has promised is not known, so it must not pass for the replica that it was. Another one takes its
      // place.
      LOG(ERROR) << "partition " << info.id << ": the replica here is replaced by a new one: " << added.ToString();
      CO_RETURN_IF_ERROR(co_await Renew(info));
      added = co_await AddReplica(info);
    }
    CO_RETURN_IF_ERROR(added);
  }
  co_return Status();
}

// What the replica has promised means nothing to one with another UUID.
Task<Status> ReactorPart::Renew(PartitionInfo info) {
  replication::ReplicaState state;
  state.replica = NewUuid(reactor_);
  state.installed = false;
  CO_ASSIGN_OR_RETURN(auto file, co_await replication::ReplicaFile::Create(ReplicaPlace(info), state));
  co_return co_await file->Close();
}

Task<Status> ReactorPart::AddReplica(PartitionInfo info) {
  CO_ASSIGN_OR_RETURN(auto file, co_await replication::ReplicaFile::Open(ReplicaPlace(info)));
  host_->Add(info.id, info.uuid, std::move(file));
  co_return Status();
}

replication::ReplicaFile::Place ReactorPart::ReplicaPlace(const PartitionInfo& info) const {
  return {&directory_, StoreInfo::PartitionName(info.id) + "/" + kReplicaFileName, info.uuid};
}

Task<Status> ReactorPart::LeaveCluster(Nanos hand_over_ns) {
  if (!host_) co_return Status();
  co_await host_->Leave(hand_over_ns);
  co_await host_->Close();
  co_return Status();
}

void ReactorPart::OnInstallWanted(uint32_t partition, const Uuid& replica) {
  LOG_EVERY_N(INFO, 100) << "partition " << partition << ": replica " << replica.ToString()
                         << " needs a copy of the pages: the log does not hold what it misses any more";
}

void ReactorPart::OnQuarantined(uint32_t partition, const Status& why) { engine_->Quarantine(partition, why); }

Task<Status> ReactorPart::OpenEngine(EngineOptions options) {
  if (host_) {
    options.make_gate = [this](uint32_t partition) { return host_->MakeGate(partition); };
    options.on_failure = [this, tell = std::move(options.on_failure)](const Status& status) {
      host_->Fail();
      if (tell) tell(status);
    };
  }
  options.on_quarantine = [this, tell = std::move(options.on_quarantine)](const QuarantinedPartition& quarantined) {
    NoteQuarantine(quarantined);
    if (host_ && IsLost(quarantined.why)) host_->GiveUp(quarantined.id);
    if (tell) tell(quarantined);
  };
  options.on_quarantine_end = [this, tell = std::move(options.on_quarantine_end)](uint32_t id) {
    EndQuarantine(id);
    if (tell) tell(id);
  };
  Result<std::unique_ptr<Engine>> engine = co_await Engine::Open(reactor_, std::move(options));
  if (!engine.ok()) co_return engine.TakeStatus();
  engine_ = *std::move(engine);
  backend_.keys = KeySpace::Of(store_->namespaced);
  MakeOwnPlaces(store_->IdLimit());
  for (Partition* partition : engine_->partitions()) backend_.stored[partition->id()] = partition;
  co_return Status();
}

void ReactorPart::MakeOwnPlaces(uint32_t ids) {
  engine_->AddPlaces(ids);
  const auto known = static_cast<uint32_t>(local_.size());
  if (ids <= known) return;
  backend_.stored.resize(ids);
  local_.resize(ids);
  namespaced_.resize(store_->namespaced ? ids : 0);
  for (uint32_t id = known; id < ids; ++id) {
    if (store_->ReactorOf(id) != index()) continue;
    local_[id] = std::make_unique<LocalPartition>(id, &backend_.stored[id], &engine_->newest_change(id), host_.get());
    if (store_->namespaced) namespaced_[id] = std::make_unique<NamespacedPartition>(backend_.keys, local_[id].get());
    if (!host_) continue;
    auto any = std::make_unique<LocalPartition>(id, &backend_.stored[id], &engine_->newest_change(id));
    replicas_[id] = {std::move(any), nullptr};
    if (store_->namespaced) {
      replicas_[id].second = std::make_unique<NamespacedPartition>(backend_.keys, replicas_[id].first.get());
    }
  }
}

void ReactorPart::AddOwnPlaces(std::vector<Place>* places) {
  const auto ids = static_cast<uint32_t>(places->size());
  MakeOwnPlaces(ids);
  for (uint32_t id = 0; id < ids; ++id) {
    if (store_->ReactorOf(id) != index()) continue;
    (*places)[id] = {LocalPlace(id), host_ ? ReplicaPlaceOf(id) : nullptr};
  }
}

void ReactorPart::AddPlaces(const std::vector<Place>& places) {
  for (uint32_t id = backend_.places(); id < places.size(); ++id) {
    const uint32_t owner = store_->ReactorOf(id);
    const auto as_seen_here = [&](Partition* partition) {
      if (owner == index()) return partition;
      remote_.push_back(std::make_unique<RemotePartition>(reactor_, static_cast<int>(owner), partition));
      return static_cast<Partition*>(remote_.back().get());
    };
    backend_.partitions.push_back(as_seen_here(places[id].master));
    if (host_) backend_.replicas.push_back(as_seen_here(places[id].any));
  }
}

Partition* ReactorPart::LocalPlace(uint32_t id) const {
  return store_->namespaced ? static_cast<Partition*>(namespaced_[id].get()) : local_[id].get();
}

Partition* ReactorPart::ReplicaPlaceOf(uint32_t id) const {
  const auto& [local, namespaced] = replicas_.at(id);
  return namespaced ? static_cast<Partition*>(namespaced.get()) : local.get();
}

Task<Status> ReactorPart::OpenPartition(PartitionInfo info) {
  if (host_) CO_RETURN_IF_ERROR(co_await AddReplica(info));
  Result<Partition*> partition = co_await engine_->OpenPartition(info);
  if (!partition.ok() && host_) co_await host_->Remove(info.id);
  CO_RETURN_IF_ERROR(partition.status());
  backend_.stored[info.id] = *partition;
  co_return Status();
}

Task<Status> ReactorPart::DropPartition(uint32_t id, std::optional<replication::ReplicaState>* last) {
  if (backend_.stored[id] != nullptr) {
    // Until it is gone it refuses requests itself, and lets those end a cut that have prepared one.
    CO_RETURN_IF_ERROR(co_await engine_->DropPartition(id, [this, id] { backend_.stored[id] = nullptr; }));
  }
  if (!host_) co_return Status();
  // The partition had a gate of it until now.
  std::optional<replication::ReplicaState> state = co_await host_->Remove(id);
  if (last != nullptr) *last = state;
  co_return Status();
}

void ReactorPart::TellMap(const MapNews& news) {
  std::optional<RangeTable> serving = backend_.map.Take(news);
  if (serving) backend_.serving = *std::move(serving);
}

void ReactorPart::SetHere(uint32_t id, bool here) {
  const auto before = [](const Partition* p, uint32_t wanted) { return p->id() < wanted; };
  const auto at = std::lower_bound(backend_.here.begin(), backend_.here.end(), id, before);
  const bool was_here = at != backend_.here.end() && (*at)->id() == id;
  if (here && !was_here) backend_.here.insert(at, backend_.partitions[id]);
  if (!here && was_here) backend_.here.erase(at);
}

void ReactorPart::Build(const std::vector<ReactorPart*>& parts) {
  backend_.store = store_;
  backend_.reactor = index();
  if (!host_) backend_.map = KnownMap::Alone(*store_);
  backend_.clock = engine_->clock();
  backend_.snapshot_max_age_ms = options_->snapshot_max_age_s * kMsPerSecond;
  backend_.batch_get = [this](std::span<PointRead> reads) { engine_->BatchGet(reads); };
  backend_.batch_write = [this](std::span<PointWrite* const> writes) { engine_->BatchWrite(writes); };
  backend_.serving = RangeTable::Equal(store_->ranges);
  std::vector<Place> places(store_->IdLimit());
  for (uint32_t id = 0; id < places.size(); ++id) {
    const ReactorPart& owner = *parts[store_->ReactorOf(id)];
    places[id] = {owner.LocalPlace(id), host_ ? owner.ReplicaPlaceOf(id) : nullptr};
  }
  AddPlaces(places);
  for (const PartitionInfo& info : store_->partitions) backend_.here.push_back(backend_.partitions[info.id]);
  RpcOptions rpc;
  rpc.max_connections = options_->max_connections;
  rpc.stall_timeout_ns = options_->stall_timeout_s * kSecond;
  rpc.idle_timeout_ns = options_->idle_timeout_s * kSecond;
  rpc.default_budget_ms = options_->default_budget_ms;
  rpc.max_budget_ms = options_->max_budget_ms;
  server_ = std::make_unique<RpcServer>(reactor_, rpc, shared_);
  service_ = std::make_unique<KvService>(server_.get(), &backend_, control_);
  server_->SetService(service_.get());
  RegisterMetrics();
  publish_.part = this;
  publish_.on_fire = [](Timer* t) { static_cast<PublishTimer*>(t)->part->Publish(); };
  Publish();
}

void ReactorPart::Connect(const std::vector<ReactorPart*>& parts) {
  for (ReactorPart* part : parts) {
    backend_.change_counts.push_back(&part->engine_->change_count());
    backend_.peers.push_back(&part->backend_);
    backend_.get_paths.push_back(&part->service_->get_path());
    backend_.write_paths.push_back(&part->service_->write_path());
  }
}

Task<Status> ReactorPart::StopServing(Nanos limit_ns) {
  if (server_ == nullptr) co_return Status();
  // Writes that are not committed would keep their calls, and so the shutdown, waiting for ever.
  co_await server_->Shutdown(limit_ns, [this] { engine_->GiveUpUncommitted(); });
  co_return Status();
}

Task<Status> ReactorPart::DrainCalls() {
  if (server_ == nullptr) co_return Status();
  engine_->GiveUpUncommitted();
  co_await service_->Drain();
  co_return Status();
}

Task<Status> ReactorPart::CloseEngine(bool checkpoint) {
  reactor_.CancelTimer(&publish_);
  registry_->Remove(this);
  service_.reset();
  server_.reset();
  Status status;
  if (engine_) status = co_await engine_->Close(checkpoint);
  engine_.reset();
  host_.reset();  // the partitions had gates of it
  if (directory_.is_open()) {
    Status closed = co_await directory_.Close();
    if (status.ok()) status = std::move(closed);
  }
  co_return status;
}

Task<ReactorPartStatus> ReactorPart::CollectStatus() {
  ReactorPartStatus status;
  status.engine = engine_->stats();
  for (Partition* partition : engine_->partitions()) {
    PartitionStats stats = partition->stats();
    api::PartitionStatus& p = status.partitions.emplace_back();
    p.id = static_cast<int32_t>(partition->id());
    p.uuid = partition->uuid().ToString();
    p.reactor = static_cast<int32_t>(index());
    p.generation = static_cast<int64_t>(stats.generation);
    p.last_lsn = static_cast<int64_t>(stats.last_lsn);
    p.applied_lsn = static_cast<int64_t>(stats.applied_lsn);
    p.checkpoint_lsn = static_cast<int64_t>(stats.checkpoint_lsn);
    p.file_bytes = static_cast<int64_t>(stats.file_bytes);
    p.used_bytes = static_cast<int64_t>(stats.used_bytes);
    p.dirty_pages = static_cast<int64_t>(stats.dirty_pages);
    p.checkpoint_running = stats.checkpoint_running;
    status.disk_full_partitions += stats.disk_full;
    p.snapshots = static_cast<int32_t>(stats.snapshots);
    p.snapshot_pinned_bytes = static_cast<int64_t>(stats.snapshot_pinned_bytes);
    std::optional<QuarantinedPartition> quarantined = engine_->quarantine(partition->id());
    if (!quarantined) continue;
    p.__set_quarantine(quarantined->ToString());
    if (!status.quarantined) status.quarantined = std::move(quarantined);
  }
  co_return status;
}

RequestSums ReactorPart::Requests() const {
  RequestSums sums;
  for (const auto& method : service_->method_metrics()) {
    sums.requests += method->requests_total.value();
    sums.latency_ns += method->latency_ns.sum();
  }
  const RpcMetrics& m = server_->metrics();
  sums.bytes = m.received_bytes_total.value() + m.sent_bytes_total.value();
  return sums;
}

Task<DamageReport> ReactorPart::Scrub(bool start, uint64_t bytes_per_s) {
  if (start) engine_->scrubber().StartPass(bytes_per_s);
  DamageReport report{engine_->scrubber().report()};
  report.Add(*store_, engine_->quarantined(DamageReport::kMaxFindings), engine_->stats().quarantined_partitions);
  co_return report;
}

// One series for each quarantined partition and cause.
void ReactorPart::NoteQuarantine(const QuarantinedPartition& quarantined) {
  EndQuarantine(quarantined.id);
  auto [at, is_new] = quarantined_since_s_.try_emplace({quarantined.id, quarantined.why.code()});
  if (is_new) {
    at->second = std::make_unique<Gauge>();
    registry_->Add(this, "kv_partition_quarantined_since_seconds",
                   "Since when a partition is quarantined (Unix time). The log and kvadmin status say why.",
                   {{"reactor", std::to_string(index())},
                    {"partition", std::to_string(quarantined.id)},
                    {"cause", std::string(CodeName(quarantined.why.code()))}},
                   at->second.get());
  }
  at->second->Set(quarantined.since_ms / kMsPerSecond);
}

void ReactorPart::EndQuarantine(uint32_t partition) {
  for (auto at = quarantined_since_s_.lower_bound({partition, Code::kOk});
       at != quarantined_since_s_.end() && at->first.first == partition; ++at) {
    at->second->Set(0);
  }
}

void ReactorPart::Publish() {
  EngineStats stats = engine_->stats();
  gauges_.pool_pages.Set(static_cast<int64_t>(stats.pool_pages));
  gauges_.pool_free_pages.Set(static_cast<int64_t>(stats.pool_free_pages));
  gauges_.pool_dirty_pages.Set(static_cast<int64_t>(stats.pool_dirty_pages));
  gauges_.pool_bytes.Set(static_cast<int64_t>(stats.pool_bytes));
  SetTotal(&gauges_.pool_hits, stats.pool_hits_total);
  SetTotal(&gauges_.pool_misses, stats.pool_misses_total);
  SetTotal(&gauges_.pool_evictions, stats.pool_evictions_total);
  SetTotal(&gauges_.pool_writes, stats.pool_writes_total);
  SetTotal(&gauges_.ahead_pages, stats.ahead_pages_total);
  SetTotal(&gauges_.ahead_reads, stats.ahead_reads_total);
  SetTotal(&gauges_.damaged_reads, stats.damaged_reads_total);
  gauges_.log_bytes.Set(static_cast<int64_t>(stats.log.unreleased_bytes));
  gauges_.log_records.Set(static_cast<int64_t>(stats.log.unreleased_records));
  gauges_.log_segments.Set(static_cast<int64_t>(stats.log.segments));
  SetTotal(&gauges_.log_appended_records, stats.log.appended_records_total);
  SetTotal(&gauges_.log_appended_bytes, stats.log.appended_bytes_total);
  SetTotal(&gauges_.log_device_writes, stats.log.device_writes_total);
  SetTotal(&gauges_.log_device_bytes, stats.log.device_bytes_total);
  SetTotal(&gauges_.log_waits, stats.log.append_waits_total);
  gauges_.log_readers.Set(static_cast<int64_t>(stats.log.readers));
  gauges_.log_retained_bytes.Set(static_cast<int64_t>(stats.log.retained_bytes));
  SetTotal(&gauges_.log_reader_segments, stats.log.reader_segments_read_total);
  SetTotal(&gauges_.log_readers_gone, stats.log.readers_gone_total);
  SetTotal(&gauges_.checkpoints, stats.checkpoints_total);
  SetTotal(&gauges_.write_waits, stats.write_waits_total);
  SetTotal(&gauges_.disk_full, stats.disk_full_total);
  gauges_.partitions.Set(static_cast<int64_t>(stats.partitions));
  gauges_.partition_limit.Set(static_cast<int64_t>(stats.max_partitions));
  gauges_.quarantined.Set(static_cast<int64_t>(stats.quarantined_partitions));
  SetTotal(&gauges_.released_bytes, stats.release.bytes_total);
  gauges_.release_refused_files.Set(static_cast<int64_t>(stats.release.refused_files));
  SumPartitions();
  server_->PublishMetrics();
  scrub_gauges_.Set(engine_->scrubber().report(), stats.quarantined_partitions);
  gauges_.frame_bytes.Set(static_cast<int64_t>(FrameBytesOnThisThread()));
  reactor_.ArmTimer(&publish_, reactor_.NowNs() + kPublishIntervalNs);
}

// Publishes the sums of the partitions once it has all of them.
void ReactorPart::SumPartitions() {
  const std::optional<PartitionStats> all = sums_.Add(engine_->partitions(), engine_->dropped_counters());
  if (!all) return;
  const PartitionStats& sums = *all;
  SetTotal(&gauges_.reads, sums.reads_total);
  SetTotal(&gauges_.writes, sums.writes_total);
  SetTotal(&gauges_.scans, sums.scans_total);
  SetTotal(&gauges_.gathered_leaves, sums.gathered_leaves_total);
  SetTotal(&gauges_.uncommitted_refused, sums.uncommitted_refused_total);
  SetTotal(&gauges_.lanes_refused, sums.lanes_refused_total);
  gauges_.uncommitted_bytes.Set(static_cast<int64_t>(sums.uncommitted_bytes));
  gauges_.partition_file_bytes.Set(static_cast<int64_t>(sums.file_bytes));
  gauges_.partition_used_bytes.Set(static_cast<int64_t>(sums.used_bytes));
  gauges_.partition_hole_bytes.Set(static_cast<int64_t>(sums.hole_bytes));
  gauges_.changes_kept.Set(static_cast<int64_t>(sums.changes_kept));
  gauges_.snapshots.Set(static_cast<int64_t>(sums.snapshots));
  gauges_.cluster_snapshots.Set(static_cast<int64_t>(sums.cluster_snapshots));
  SetTotal(&gauges_.cluster_marks, sums.cluster_marks_total);
  SetTotal(&gauges_.clocks_ahead, sums.clocks_ahead_total);
  gauges_.snapshot_pinned_bytes.Set(static_cast<int64_t>(sums.snapshot_pinned_bytes));
}

// Long function: one entry per metric.
void ReactorPart::RegisterClusterMetrics() {
  MetricLabels labels{{"reactor", std::to_string(index())}};
  auto add = [&](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), labels, metric);
  };
  const replication::HostMetrics& host = host_->metrics();
  add("kv_replica_masters_count", "Partitions whose master this node is.", &host.masters);
  add("kv_replica_followers_count", "Partitions of which this node holds another replica.", &host.followers);
  add("kv_replica_masterships_opened_total", "Masterships that began to serve.", &host.masterships_opened_total);
  add("kv_replica_masterships_closed_total", "Masterships that ended.", &host.masterships_closed_total);
  add("kv_replica_sent_messages_total", "Messages to other replicas that were handed to a link.",
      &host.messages_sent_total);
  add("kv_replica_dropped_messages_total", "Messages to other replicas for which there was no link, or no room.",
      &host.messages_dropped_total);
  add("kv_replica_received_messages_total", "Messages of other replicas.", &host.messages_received_total);
  add("kv_replica_misdirected_messages_total", "Messages for a replica that is not here.",
      &host.messages_misdirected_total);
  add("kv_replica_shipped_bytes_total", "Bytes of log sent to other replicas.", &host.shipped_bytes_total);
  add("kv_replica_ship_reads_total", "Reads of the log for other replicas.", &host.ship_reads_total);
  add("kv_replica_waiting_append_bytes", "Bytes of log from masters that wait for room in this node's log.",
      &host.waiting_append_bytes);
  add("kv_replica_dropped_appends_total", "Pieces of log from masters for which there was no room in time.",
      &host.appends_dropped_total);
  add("kv_replica_held_writes_total", "Writes that waited for a handover to end.", &host.held_writes_total);
  add("kv_topology_partition_writes_total", "Attempts to change the record of a partition.",
      &host.topology_writes_total);
  add("kv_topology_partition_conflicts_total", "Of these, those that found another record.",
      &host.topology_conflicts_total);
  add("kv_topology_partition_unknown_total", "Of these, those whose outcome was not known at first.",
      &host.topology_unknown_total);
  const replication::PeerMetrics& peers = host_->links().metrics();
  add("kv_peer_links_count", "Links to reactors of other nodes.", &peers.links);
  add("kv_peer_links_up_count", "Of these, those that carry messages.", &peers.links_up);
  add("kv_peer_accepted_count", "Links from reactors of other nodes.", &peers.accepted);
  add("kv_peer_strangers_count", "Connections to the peer port that have not said who they are.", &peers.strangers);
  add("kv_peer_buffered_bytes", "Bytes that wait on links, or have arrived in part.", &peers.buffered_bytes);
  add("kv_peer_lost_links_total", "Links that broke.", &peers.lost_total);
  add("kv_peer_failed_connects_total", "Attempts to connect to another node that failed.", &peers.connect_failed_total);
  add("kv_peer_refused_hellos_total", "Connections to the peer port that were refused.", &peers.refused_total);
  add("kv_peer_refused_by_peer_total", "Links that another node has refused.", &peers.refused_by_peer_total);
  add("kv_peer_garbage_total", "Connections closed because of what they sent.", &peers.garbage_total);
  add("kv_peer_timeouts_total", "Connections closed because their other end was silent or too slow.",
      &peers.timeout_total);
  add("kv_peer_refused_messages_total", "Messages for which a link had no room.", &peers.refused_messages_total);
  add("kv_peer_dropped_messages_total", "Messages that waited when their link broke.", &peers.dropped_messages_total);
  add("kv_peer_sent_bytes_total", "Bytes sent to other nodes.", &peers.sent_bytes_total);
  add("kv_peer_received_bytes_total", "Bytes received from other nodes.", &peers.received_bytes_total);
}

// Long function: one entry per metric.
void ReactorPart::RegisterMetrics() {
  if (host_) RegisterClusterMetrics();
  MetricLabels labels{{"reactor", std::to_string(index())}};
  auto add = [&](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), labels, metric);
  };
  server_->RegisterMetrics(registry_, this, labels);
  add("kv_get_batched_total", "Gets that were looked up in memory in batches.",
      &service_->get_path().metrics().gets_total);
  add("kv_get_misses_total", "Gets that took the slow path, mostly because their page was not in memory.",
      &service_->get_path().metrics().misses_total);
  add("kv_get_remote_total", "Gets passed to another reactor.", &service_->get_path().metrics().remote_total);
  add("kv_get_parked_total", "Gets that waited until their client read earlier replies.",
      &service_->get_path().metrics().parked_total);
  const WritePath::Metrics& writes = service_->write_path().metrics();
  add("kv_write_batched_total", "Writes of one record that waited for nothing but the log.", &writes.begun_total);
  add("kv_write_slow_total", "Writes of one record that waited for a page or for space.", &writes.slowly_total);
  add("kv_write_remote_total", "Writes of one record passed to another reactor.", &writes.remote_total);
  const WatchHub::Metrics& watch = service_->watchers().metrics();
  add("kv_watch_waiting_count", "Watchers that wait for a change, at most 1024 per reactor.", &watch.waiting);
  add("kv_watch_changes_total", "Changes sent to watchers.", &watch.changes_total);
  add("kv_watch_gone_total", "Watchers told that the changes they need are no longer kept.", &watch.gone_total);
  add("kv_watch_refused_total", "Watchers refused because too many were waiting.", &watch.refused_total);
  const WatchHub::Metrics& of_map = service_->map_watchers().metrics();
  add("kv_map_waiting_count", "Calls that wait for a newer map, at most 1024 per reactor.", &of_map.waiting);
  add("kv_map_refused_total", "Calls for a newer map refused because too many were waiting.", &of_map.refused_total);
  for (const auto& method : service_->method_metrics()) {
    MetricLabels with_method = labels;
    with_method.emplace_back("method", method->name);
    registry_->Add(this, "kv_rpc_requests_total", "Requests by method.", with_method, &method->requests_total);
    registry_->Add(this, "kv_rpc_request_seconds",
                   "Duration of requests, to the precision of a reactor turn, without gets answered from memory.",
                   with_method, &method->latency_ns, 1e-9);
  }
  scrub_gauges_.Register(registry_, this, labels);
  const EngineGauges& g = gauges_;
  add("kv_pool_pages_count", "Pages the buffer pool can hold.", &g.pool_pages);
  add("kv_pool_free_pages_count", "Free pages of the buffer pool.", &g.pool_free_pages);
  add("kv_pool_dirty_pages_count", "Modified pages not yet written to disk.", &g.pool_dirty_pages);
  add("kv_pool_memory_bytes", "Memory of the buffer pool.", &g.pool_bytes);
  add("kv_pool_hits_total", "Pages found in the pool.", &g.pool_hits);
  add("kv_pool_misses_total", "Pages read from disk.", &g.pool_misses);
  add("kv_pool_evictions_total", "Pages evicted.", &g.pool_evictions);
  add("kv_pool_writes_total", "Pages written.", &g.pool_writes);
  add("kv_pool_ahead_pages_total", "Pages read from disk before a scan reached them.", &g.ahead_pages);
  add("kv_pool_ahead_reads_total", "Reads that fetched them. Pages that lie together share one.", &g.ahead_reads);
  add("kv_pool_damaged_reads_total",
      "Pages and values that could not be read from disk, or failed a check, by requests or in the background.",
      &g.damaged_reads);
  add("kv_log_unreleased_bytes", "Bytes of log that recovery would read.", &g.log_bytes);
  add("kv_log_unreleased_records_count", "Log records that recovery would replay.", &g.log_records);
  add("kv_log_segments_count", "Log segment files.", &g.log_segments);
  add("kv_log_appended_records_total", "Records appended to the log.", &g.log_appended_records);
  add("kv_log_appended_bytes_total", "Bytes of records appended to the log.", &g.log_appended_bytes);
  add("kv_log_device_writes_total", "Writes of the log to its device.", &g.log_device_writes);
  add("kv_log_device_bytes_total", "Bytes written to the log's device.", &g.log_device_bytes);
  add("kv_log_space_waits_total", "Writes that waited for room in the log.", &g.log_waits);
  add("kv_log_readers_count", "Followers that read the log while it is written.", &g.log_readers);
  add("kv_log_retained_bytes", "Segments that only followers may still need.", &g.log_retained_bytes);
  add("kv_log_reader_segments_read_total", "Segments read for followers that lag.", &g.log_reader_segments);
  add("kv_log_readers_gone_total", "Followers that lagged further than the log goes back.", &g.log_readers_gone);
  add("kv_partition_checkpoints_total", "Checkpoints finished.", &g.checkpoints);
  add("kv_partition_disk_full_total", "Writes refused because the disk is full.", &g.disk_full);
  add("kv_partition_open_count", "Partitions of the node.", &g.partitions);
  add("kv_partition_limit_count", "Partitions for which memory is kept. More cannot be created before the next start.",
      &g.partition_limit);
  add("kv_partitions_quarantined", "Partitions that refuse every request, because they are damaged.", &g.quarantined);
  add("kv_partition_uncommitted_bytes", "Records in the log that are not committed.", &g.uncommitted_bytes);
  add("kv_partition_uncommitted_refused_total", "Writes refused because too much waits to be committed.",
      &g.uncommitted_refused);
  add("kv_partition_lanes_refused_total",
      "Named writes of new clients refused because the partition remembers too many clients.", &g.lanes_refused);
  add("kv_partition_write_waits_total", "Writes that waited for the buffer pool or the log.", &g.write_waits);
  add("kv_partition_reads_total", "Records read.", &g.reads);
  add("kv_partition_writes_total", "Records written.", &g.writes);
  add("kv_partition_scans_total", "Scans.", &g.scans);
  add("kv_partition_gathered_leaves_total", "Scattered leaves that were written anew, for the sake of scans.",
      &g.gathered_leaves);
  add("kv_partition_file_bytes", "Size of the data files.", &g.partition_file_bytes);
  add("kv_partition_used_bytes", "Bytes of the data files in use.", &g.partition_used_bytes);
  add("kv_partition_hole_bytes", "Part of the data files' size that was given back to the file system.",
      &g.partition_hole_bytes);
  add("kv_partition_released_bytes_total", "Bytes given back to the file system.", &g.released_bytes);
  add("kv_partition_release_refused_files_count",
      "Data files on a file system that does not support giving space back.", &g.release_refused_files);
  add("kv_partition_snapshots_count", "Open snapshots.", &g.snapshots);
  add("kv_partition_cluster_snapshots_count", "Open snapshots that are of the whole cluster.", &g.cluster_snapshots);
  add("kv_partition_cluster_marks_total", "Marks of snapshots of the cluster, and of their leases, that were applied.",
      &g.cluster_marks);
  add("kv_partition_clocks_ahead_total",
      "Writes whose writer has seen versions that are too far ahead of the clock here.", &g.clocks_ahead);
  add("kv_partition_snapshot_pinned_bytes", "Bytes of replaced pages that only snapshots still hold.",
      &g.snapshot_pinned_bytes);
  add("kv_partition_changes_kept_count", "Recent changes kept in memory for watchers.", &g.changes_kept);
  add("kv_process_coroutine_bytes", "Memory of coroutine frames.", &g.frame_bytes);
  const OffloadMetrics& offload = reactor_.offload_metrics();
  add("kv_offload_waiting_count", "Pieces of long work that wait for a place in the pool of threads.",
      &offload.waiting);
  add("kv_offload_pool_count", "Pieces of long work in the pool of threads, at most 16 per reactor.", &offload.in_pool);
  registry_->Add(this, "kv_offload_wait_seconds", "Time that long work waited before a thread began it.", labels,
                 &offload.wait_ns, 1e-9);
  registry_->Add(this, "kv_offload_work_seconds", "Time that long work took.", labels, &offload.work_ns, 1e-9);
}

Task<void> AddPlaces(Reactor& first, const std::vector<ReactorPart*>* parts, uint32_t ids) {
  std::vector<ReactorPart::Place> places(ids);
  for (ReactorPart* part : *parts) {
    auto own = [part, &places](Reactor&) -> Task<void> {
      part->AddOwnPlaces(&places);
      co_return;
    };
    co_await CallOn(first, static_cast<int>(part->index()), std::move(own));
  }
  for (ReactorPart* part : *parts) {
    auto all = [part, &places](Reactor&) -> Task<void> {
      part->AddPlaces(places);
      co_return;
    };
    co_await CallOn(first, static_cast<int>(part->index()), std::move(all));
  }
}

}  // namespace pando
