#include "src/node/node_cluster.h"

#include <algorithm>
#include <utility>

#include "src/io/call_on.h"
#include "src/io/directory.h"
#include "src/node/reactor_part.h"
#include "src/node/twin.h"
#include "src/replication/replica_host.h"
#include "src/topology/file_topology.h"
#include "src/topology/topology_spec.h"

namespace pando {

namespace {

constexpr Nanos kStartTimeoutNs = 10 * kSecond;
constexpr Nanos kFollowTimeoutNs = kSecond;
constexpr Nanos kStoreSeenNs = 5 * kSecond;

Task<Result<TopologyEntry>> ReadInTurn(Topology* topology, Semaphore* calls, std::string key, Nanos timeout_ns) {
  co_await calls->Acquire();
  Result<TopologyEntry> entry = co_await topology->Read(std::move(key), timeout_ns);
  calls->Release();
  co_return entry;
}

Task<Result<CasOutcome>> SwapInTurn(Topology* topology, Semaphore* calls, std::string key, Revision expected,
                                    std::string value, Nanos timeout_ns) {
  co_await calls->Acquire();
  Result<CasOutcome> outcome =
      co_await topology->CompareAndSwap(std::move(key), expected, std::move(value), timeout_ns);
  calls->Release();
  co_return outcome;
}

}  // namespace

// -- TopologyAccess

Task<Result<Versioned<PartitionRecord>>> TopologyAccess::Read(uint32_t partition) {
  auto read = [topology = topology_, calls = calls_, key = PartitionKey(partition)](Reactor&) {
    return ReadInTurn(topology, calls, key, kTimeoutNs);
  };
  CO_ASSIGN_OR_RETURN(const TopologyEntry entry, co_await CallOn(reactor_, 0, std::move(read)));
  if (entry.revision == 0) {
    co_return Error(Code::kNotFound, "the topology has no record of partition {}", partition);
  }
  CO_ASSIGN_OR_RETURN(PartitionRecord record, DecodePartition(entry));
  co_return Versioned<PartitionRecord>{std::move(record), entry.revision};
}

Task<replication::RecordCas> TopologyAccess::CompareAndSwap(PartitionRecord desired, Revision expected) {
  replication::RecordCas cas;
  Result<std::string> value = Encode(desired);
  if (!value.ok()) {
    LOG(ERROR) << "partition " << desired.id << ": its new record is not valid: " << value.status().ToString();
    co_return cas;
  }
  auto swap = [topology = topology_, calls = calls_, key = PartitionKey(desired.id), expected,
               v = *std::move(value)](Reactor&) { return SwapInTurn(topology, calls, key, expected, v, kTimeoutNs); };
  Result<CasOutcome> outcome = co_await CallOn(reactor_, 0, std::move(swap));
  if (!outcome.ok()) co_return cas;
  if (outcome->kind == CasOutcome::Kind::kStored) {
    cas.kind = CasOutcome::Kind::kStored;
    cas.now = {std::move(desired), outcome->revision};
  } else if (outcome->kind == CasOutcome::Kind::kConflict) {
    // What is there now says more than that it is something else.
    Result<Versioned<PartitionRecord>> now = co_await Read(desired.id);
    if (now.ok()) {
      cas.kind = CasOutcome::Kind::kConflict;
      cas.now = *std::move(now);
    }
  }
  co_return cas;
}

// -- before the node

namespace {

// A directory that is not a store yet may be that of a topology, by another name than --topology gives it.
Task<Status> CheckHoldsNoMap(Reactor& reactor, const std::string& data_dir) {
  std::string path = data_dir;
  Result<Directory> opened = co_await Directory::Open(reactor, std::move(path));
  if (opened.code() == Code::kNotFound) co_return Status();
  if (!opened.ok()) co_return opened.TakeStatus();
  Result<std::vector<std::string>> names = opened->List();
  CO_RETURN_IF_ERROR(co_await opened->Close());
  if (!names.ok()) co_return names.TakeStatus();
  const auto found = std::find_if(names->begin(), names->end(), FileTopology::IsRevisionName);
  if (found == names->end()) co_return Status();
  co_return Error(Code::kInvalidArgument,
                  "--data_dir={} is the directory of a topology: it holds {}. Give the node a directory of its own",
                  data_dir, *found);
}

}  // namespace

Task<Status> CheckMembership(Reactor& reactor, const NodeOptions& options, bool has_store) {
  CO_ASSIGN_OR_RETURN(const std::optional<NodeIdentity> identity, co_await LoadIdentity(reactor, options.data_dir));
  if (identity && !options.clustered()) {
    co_return Error(Code::kInvalidArgument,
                    "{} belongs to node {} of the cluster {}: give --topology, or what is written to it alone would be "
                    "lost",
                    options.data_dir, identity->node, identity->cluster_id.ToString());
  }
  if (!identity && options.clustered() && has_store) {
    co_return Error(Code::kInvalidArgument,
                    "{} holds a store that belongs to no cluster: leave --topology out, or give the node another "
                    "directory, and copy the records with kvadmin export and load",
                    options.data_dir);
  }
  if (!identity && options.clustered() && options.node_id == 0) {
    co_return Error(
        Code::kInvalidArgument,
        "--node_id is missing: {} does not say yet which node of the cluster it is; give one of the numbers "
        "that kvadmin cluster show lists, another one on each machine",
        options.data_dir);
  }
  if (has_store) co_return Status();
  co_return co_await CheckHoldsNoMap(reactor, options.data_dir);
}

Task<Result<uint32_t>> ReadRanges(Reactor& reactor, const NodeOptions& options) {
  CO_ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(options.topology));
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TopologyStore> store, co_await OpenTopologyStore(reactor, std::move(spec)));
  Topology topology(reactor, std::move(store));
  Result<TopologyEntry> entry = co_await topology.Read(std::string(kClusterKey), kStartTimeoutNs);
  const Status closed = co_await topology.Close();
  CO_RETURN_IF_ERROR(entry.status());
  CO_RETURN_IF_ERROR(closed);
  if (entry->revision == 0) {
    co_return Error(Code::kNotFound, "{} holds no cluster: run kvadmin cluster init first", options.topology);
  }
  CO_ASSIGN_OR_RETURN(const ClusterRecord cluster, DecodeCluster(*entry));
  co_return cluster.partitions;
}

// -- NodeCluster

NodeCluster::NodeCluster(Reactor& reactor, const NodeOptions* options, MemoryBudget* memory, Registry* registry)
    : reactor_(reactor),
      options_(*options),
      memory_(memory),
      registry_(registry),
      guard_(options->guard_descriptor),
      topology_calls_(reactor, kMaxTopologyCalls / 2) {}

NodeCluster::~NodeCluster() { CHECK(topology_ == nullptr) << "a NodeCluster was destroyed before it was closed"; }

Task<Status> NodeCluster::Open() {
  CO_ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(options_.topology));
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TopologyStore> store, co_await OpenTopologyStore(reactor_, std::move(spec)));
  co_return co_await OpenOn(std::move(store));
}

Task<Status> NodeCluster::OpenOn(std::unique_ptr<TopologyStore> store) {
  topology_ = std::make_unique<Topology>(reactor_, std::move(store));
  RegisterTopologyMetrics(registry_, *topology_);
  registry_->AddCollector(topology_.get(), [this](Exposition* out) {
    const TopologyHealth health = topology_health();
    if (health.read_ns == 0) return;
    out->AddGauge("kv_topology_age_seconds", "For how long the topology has not been read as a whole", {},
                  static_cast<double>(reactor_.NowNs() - health.read_ns) / kSecond);
  });
  NodeId node = options_.node_id;
  if (node == 0) {
    CO_ASSIGN_OR_RETURN(const std::optional<NodeIdentity> identity, co_await LoadIdentity(reactor_, options_.data_dir));
    node = identity->node;  // CheckMembership has seen it
  }
  StartCheck no_twin = [this](const Uuid& cluster_id, const NodeRecord& record) {
    return CheckNoTwin(reactor_, cluster_id, record, memory_);
  };
  CO_ASSIGN_OR_RETURN(
      start_, co_await BeginStart(*topology_, reactor_, options_.data_dir, node, kStartTimeoutNs, std::move(no_twin)));
  const Versioned<NodeRecord>& self = start_.map.nodes.at(start_.identity.node);
  first_start_ = self.record.opened == 0;
  LOG_IF(WARNING, start_.history == DirectoryHistory::kRestored)
      << options_.data_dir << ": node " << start_.identity.node
      << " has served with a later state of this directory: it was restored from an old copy, or emptied. Its replicas "
         "get new UUIDs, and copies of their masters' pages";
  const std::vector<std::string> problems = start_.map.Problems();
  if (!problems.empty()) {
    co_return Error(Code::kInvalidArgument, "the topology {} holds no whole cluster: {}", topology_->name(),
                    problems.front());
  }
  newest_ = start_.map;
  co_return Status();
}

Task<Status> NodeCluster::Renewed() {
  NodeIdentity identity = start_.identity;
  identity.renew = false;
  CO_RETURN_IF_ERROR(co_await StoreIdentity(reactor_, options_.data_dir, identity));
  start_.identity = identity;
  co_return Status();
}

Task<void> NodeCluster::TellRecord(uint32_t partition) {
  const auto at = newest_.partitions.find(partition);
  if (at == newest_.partitions.end()) co_return;
  std::vector<Versioned<PartitionRecord>> one{at->second};
  co_await TellRecords(std::move(one));
}

std::vector<NodeCluster::Assigned> NodeCluster::assigned() const {
  std::vector<Assigned> assigned;
  for (const auto& [id, versioned] : start_.map.partitions) {
    const PartitionRecord& record = versioned.record;
    if (record.state == PartitionStage::kRetired) continue;
    for (const auto* replicas : {&record.isr, &record.evicted, &record.learners}) {
      for (const ReplicaRecord& r : *replicas) {
        if (r.node == start_.identity.node) assigned.push_back({id, r.replica, replicas == &record.learners});
      }
    }
  }
  return assigned;
}

// NC1.
Task<Status> NodeCluster::Join(std::string client_address, std::vector<std::string> peer_addresses,
                               const std::vector<ReactorPart*>* parts) {
  std::string data_dir = options_.data_dir;
  CO_ASSIGN_OR_RETURN(directory_, co_await Directory::Open(reactor_, std::move(data_dir)));
  CO_RETURN_IF_ERROR(co_await FinishStart(*topology_, start_.identity.node, start_.identity.start,
                                          std::move(client_address), std::move(peer_addresses), kStartTimeoutNs));
  parts_ = parts;
  co_await TellMembers();
  std::vector<Versioned<PartitionRecord>> records;
  for (const auto& [id, record] : newest_.partitions) records.push_back(record);
  MapNews map_news;
  map_news.partitions = records;
  for (const auto& [id, node] : newest_.nodes) map_news.nodes.push_back(node);
  for (ReactorPart* part : *parts_) {
    auto join = [part](Reactor&) -> Task<void> {
      part->replica_host()->Join();
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(join));
  }
  co_await TellRecords(std::move(records));
  co_await TellMap(std::move(map_news));
  joined_ns_ = reactor_.NowNs();
  watch_ = std::make_unique<TopologyWatch>(topology_.get());
  tasks_.Spawn(Follow());
  co_return Status();
}

void NodeCluster::TellGuard() {
  GuardNews news;
  news.cluster_id = start_.identity.cluster_id;
  news.node = start_.identity.node;
  news.incarnation = start_.incarnation;
  news.protocol = newest_.cluster->record.protocol;
  for (const auto& [id, node] : newest_.nodes) {
    if (id != news.node && node.record.state != NodeState::kRemoved) news.peers[id] = node.record.peer_addresses;
  }
  guard_.Tell(news);
}

Task<void> NodeCluster::TellMembers() {
  TellGuard();
  replication::Members members;
  for (const auto& [id, node] : newest_.nodes) {
    if (node.record.state == NodeState::kRemoved) continue;
    members[id] = {node.record.client_address, node.record.peer_addresses, node.record.starts};
  }
  for (ReactorPart* part : *parts_) {
    auto tell = [part, members, protocol = newest_.cluster->record.protocol](Reactor&) -> Task<void> {
      part->replica_host()->SetMembers(members);
      part->replica_host()->links().SetProtocol(protocol);
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(tell));
  }
}

Task<void> NodeCluster::TellRecords(std::vector<Versioned<PartitionRecord>> records) {
  for (ReactorPart* part : *parts_) {
    std::vector<Versioned<PartitionRecord>> of_part;
    for (const Versioned<PartitionRecord>& record : records) {
      if (record.record.id % parts_->size() == part->index()) of_part.push_back(record);
    }
    if (of_part.empty()) continue;
    auto tell = [part, news = std::move(of_part)](Reactor&) -> Task<void> {
      for (const Versioned<PartitionRecord>& record : news) part->replica_host()->OnRecord(record);
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(tell));
  }
}

Task<void> NodeCluster::TellMap(MapNews news) {
  if (news.empty()) co_return;
  news.one_counter = topology_->one_counter();
  news.base = ranges();
  const uint32_t ids = newest_.partitions.empty() ? 0 : newest_.partitions.rbegin()->first + 1;
  if (ids > places_) co_await AddPlaces(reactor_, parts_, ids);
  places_ = ids;
  for (ReactorPart* part : *parts_) {
    auto tell = [part, news](Reactor&) -> Task<void> {
      part->TellMap(news);
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(tell));
  }
}

NodeCluster::TopologyHealth NodeCluster::topology_health() const {
  TopologyHealth health;
  if (topology_ != nullptr) health.seen = topology_->seen();
  if (watch_ == nullptr) return health;
  health.status = watch_->status();
  health.read_ns = std::max(joined_ns_, watch_->checked_ns());
  health.went_back = !health.status.ok() && !topology_->went_back().ok();
  return health;
}

// As long as no node fails, only this and kvadmin cluster status show it.
void NodeCluster::NoteWhetherTopologyAnswers() {
  const Status& status = watch_->status();
  if (status.ok() == topology_answers_) return;
  topology_answers_ = status.ok();
  LOG_IF(WARNING, !topology_answers_) << "the topology " << topology_->name() << " does not serve: " << status.message()
                                      << ". This node goes on with what it knows, but no partition can get another "
                                         "master or other replicas in sync until the topology serves again";
  LOG_IF(INFO, topology_answers_) << "the topology " << topology_->name() << " serves again";
}

// The replicas of a node that does not hear the topology stand back (ReplicaCore::OnTopologyHeard).
Task<void> NodeCluster::TellHeard() {
  const Nanos heard_ns = watch_->checked_ns();
  if (std::exchange(told_heard_ns_, heard_ns) == heard_ns) co_return;
  for (ReactorPart* part : *parts_) {
    auto tell = [part, heard_ns](Reactor&) -> Task<void> {
      part->replica_host()->OnTopologyHeard(heard_ns);
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(tell));
  }
}

bool NodeCluster::WasDisplaced() const {
  const auto self = newest_.nodes.find(node());
  return self != newest_.nodes.end() && self->second.record.opened > incarnation();
}

// NC3. The others listen to the later process from now on, so nothing that is under way here could still be committed.
Task<void> NodeCluster::EndDisplaced() {
  const NodeRecord& later = newest_.nodes.at(node()).record;
  const Status why =
      Error(Code::kAborted,
            "another process is node {} now: start {} of the node, at {}, came after start {}, which is this process. "
            "This one ends, because two cannot be one node. Look for the one that should not be there, and for the "
            "--node_id that is given twice; a node that is started again takes its place only once the other has "
            "stopped",
            node(), later.opened, later.client_address, incarnation());
  for (ReactorPart* part : *parts_) {
    auto retire = [part](Reactor&) -> Task<void> {
      part->replica_host()->Fail();
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(retire));
  }
  LOG(ERROR) << why.message();
  if (on_displaced_) on_displaced_(why);
}

// As long as the disk is slow, nothing else waits for it.
void NodeCluster::KeepSeen() {
  if (storing_seen_ || reactor_.NowNs() - stored_seen_ns_ < kStoreSeenNs) return;
  NodeIdentity next = start_.identity;
  next.seen = std::max(next.seen, topology_->seen());
  next.epoch = std::max(next.epoch, HighestEpoch(newest_));
  if (next == start_.identity) return;
  storing_seen_ = true;
  tasks_.Spawn(StoreSeen(next));
}

Task<void> NodeCluster::StoreSeen(NodeIdentity next) {
  const Status stored = co_await StoreIdentityIn(&*directory_, next);
  LOG_IF_EVERY_N(WARNING, !stored.ok(), 100)
      << options_.data_dir << ": what was seen of the topology could not be stored: " << stored.ToString();
  if (stored.ok()) start_.identity = next;
  stored_seen_ns_ = reactor_.NowNs();
  storing_seen_ = false;
}

Task<void> NodeCluster::Follow() {
  while (!stopping_) {
    Result<std::vector<TopologyEntry>> news = co_await watch_->Next(kFollowTimeoutNs);
    if (news.code() == Code::kAborted) co_return;
    NoteWhetherTopologyAnswers();
    co_await TellHeard();
    KeepSeen();
    TellGuard();               // what it has not taken yet
    if (!news.ok()) continue;  // NC2
    bool nodes_changed = false;
    std::vector<Versioned<PartitionRecord>> records;
    MapNews map_news;
    for (const TopologyEntry& entry : *news) {
      if (Status applied = newest_.Apply(entry); !applied.ok()) {
        LOG(ERROR) << "the topology " << topology_->name() << ": " << applied.ToString();
        continue;
      }
      nodes_changed = nodes_changed || NodeOfKey(entry.key) || entry.key == kClusterKey;
      if (const std::optional<NodeId> id = NodeOfKey(entry.key)) map_news.nodes.push_back(newest_.nodes.at(*id));
      if (const std::optional<uint32_t> id = PartitionOfKey(entry.key)) records.push_back(newest_.partitions.at(*id));
    }
    news_count_ += !news->empty();
    if (WasDisplaced()) co_return co_await EndDisplaced();
    if (nodes_changed) co_await TellMembers();
    map_news.partitions = records;
    co_await TellRecords(std::move(records));
    co_await TellMap(std::move(map_news));
  }
}

Task<void> NodeCluster::Close() {
  stopping_ = true;
  if (parts_ != nullptr) {
    topology_->EndWaits();
    if (watch_) co_await watch_->Stop();
    co_await tasks_.Drain();
    watch_.reset();
  }
  if (directory_) {
    const Status closed = co_await directory_->Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    directory_.reset();
  }
  if (topology_ == nullptr) co_return;
  const Status closed = co_await topology_->Close();
  LOG_IF(WARNING, !closed.ok()) << "the topology could not be closed: " << closed.ToString();
  registry_->Remove(topology_.get());
  topology_.reset();
}

}  // namespace pando
