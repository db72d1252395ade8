#include "tests/sim/large_cluster.h"

#include <algorithm>
#include <utility>

#include "src/partition/store.h"
#include "src/topology/cluster_init.h"

namespace pando::replication {

namespace {

constexpr uint16_t kPeerPort = 7500;

uint64_t BytesOf(const std::vector<TopologyEntry>& entries) {
  uint64_t bytes = 0;
  for (const TopologyEntry& entry : entries) bytes += entry.key.size() + entry.value.size();
  return bytes;
}

class CountingTopology final : public TopologyStore {
 public:
  CountingTopology(Reactor& reactor, SimTopologyServer* server, TopologyTraffic* traffic)
      : inner_(reactor, server), traffic_(traffic) {}
  Task<Result<TopologyEntry>> Read(std::string key, Nanos deadline_ns) override {
    ++traffic_->reads;
    co_return co_await inner_.Read(std::move(key), deadline_ns);
  }
  Task<Result<TopologyListing>> List(Nanos deadline_ns) override {
    ++traffic_->lists;
    Result<TopologyListing> listing = co_await inner_.List(deadline_ns);
    if (listing.ok()) traffic_->listed_bytes += BytesOf(listing->entries);
    co_return listing;
  }
  Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos deadline_ns) override {
    ++traffic_->checks;
    Result<TopologyChanges> changes = co_await inner_.ReadChanges(after, deadline_ns);
    if (changes.ok()) traffic_->checked_bytes += BytesOf(changes->entries);
    co_return changes;
  }
  Task<Result<pando::CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value,
                                                 Nanos deadline_ns) override {
    ++traffic_->swaps;
    traffic_->written_bytes += value.size();
    co_return co_await inner_.CompareAndSwap(std::move(key), expected, std::move(value), deadline_ns);
  }
  Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos deadline_ns) override {
    ++traffic_->waits;
    Result<TopologyChanges> changes = co_await inner_.WaitForChange(after, deadline_ns);
    if (changes.ok()) traffic_->change_bytes += BytesOf(changes->entries);
    co_return changes;
  }
  void EndWaits() override { inner_.EndWaits(); }
  Task<Status> Close() override { co_return co_await inner_.Close(); }
  bool one_counter() const override { return inner_.one_counter(); }
  const std::string& name() const override { return inner_.name(); }

 private:
  SimTopology inner_;
  TopologyTraffic* const traffic_;
};

// Of machines that have lost their power: what they have begun is never resumed nor destroyed (K3).
std::vector<std::unique_ptr<LargeNode>>& Graveyard() {
  static auto* const graveyard = new std::vector<std::unique_ptr<LargeNode>>();
  return *graveyard;
}

}  // namespace

TopologyTraffic TopologyTraffic::operator-(const TopologyTraffic& other) const {
  TopologyTraffic d = *this;
  d.reads -= other.reads, d.lists -= other.lists, d.swaps -= other.swaps, d.waits -= other.waits;
  d.checks -= other.checks, d.checked_bytes -= other.checked_bytes;
  d.listed_bytes -= other.listed_bytes, d.change_bytes -= other.change_bytes, d.written_bytes -= other.written_bytes;
  return d;
}

// -- a node

LargeNode::LargeNode(SimReactor* reactor, NodeId id, uint64_t incarnation, const Uuid& cluster_id,
                     SimTopologyServer* server, TopologyTraffic* traffic, Disks disks)
    : reactor_(*reactor),
      id_(id),
      incarnation_(incarnation),
      cluster_id_(cluster_id),
      disks_(std::move(disks)),
      topology_(std::make_unique<Topology>(*reactor, std::make_unique<CountingTopology>(*reactor, server, traffic))),
      calls_(*reactor, kMaxTopologyCalls / 2) {
  PeerOptions options;
  options.cluster_id = cluster_id;
  options.node = id;
  options.incarnation = incarnation;
  links_ = std::make_unique<PeerLinks>(reactor_, options, &budget_, static_cast<PeerHandler*>(this));
  tick_.node = this;
  tick_.on_fire = [](Timer* timer) { static_cast<TickTimer*>(timer)->node->OnTick(); };
}

LargeNode::~LargeNode() = default;

void LargeNode::Start() {
  ListenOptions listen;
  listen.host = reactor_.machine().host();
  listen.port = kPeerPort;
  CHECK(links_->Listen(listen).ok());
  watch_ = std::make_unique<TopologyWatch>(topology_.get());
  tasks_.Spawn(Follow());
  // Nodes do not tick at the same moments.
  reactor_.ArmTimer(&tick_, reactor_.NowNs() + 1 + static_cast<Nanos>(reactor_.Random() % kTickNs));
}

Task<void> LargeNode::Stop() {
  stopping_ = true;
  reactor_.CancelTimer(&tick_);
  topology_->EndWaits();
  co_await watch_->Stop();
  co_await links_->Close();
  co_await tasks_.Drain();
  CHECK((co_await topology_->Close()).ok());
}

Task<void> LargeNode::Follow() {
  while (!stopping_) {
    Result<std::vector<TopologyEntry>> news = co_await watch_->Next(kSecond);
    if (!news.ok()) continue;
    bool nodes_changed = false;
    for (const TopologyEntry& entry : *news) {
      CHECK(map_.Apply(entry).ok()) << entry.key;
      nodes_changed = nodes_changed || NodeOfKey(entry.key);
    }
    if (nodes_changed) TellMembers();
    for (const TopologyEntry& entry : *news) Take(entry);
  }
}

void LargeNode::TellMembers() {
  std::map<NodeId, std::vector<std::string>> addresses;
  std::map<NodeId, uint64_t> starts;
  for (const auto& [id, node] : map_.nodes) {
    if (id == id_) continue;
    addresses[id] = node.record.peer_addresses;
    starts[id] = node.record.starts;
  }
  links_->SetStarts(std::move(starts));
  CHECK(links_->SetAddresses(std::move(addresses)).ok());
}

void LargeNode::Take(const TopologyEntry& entry) {
  const std::optional<uint32_t> partition = PartitionOfKey(entry.key);
  if (!partition) return;
  const Versioned<PartitionRecord>& record = map_.partitions.at(*partition);
  const ReplicaRecord* own = ReplicaOn(record.record, id_);
  if (own != nullptr && Find(*partition) == nullptr) Make(record, own->replica);
  Replica* replica = Find(*partition);
  if (replica == nullptr) return;
  Know(replica, record);
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.OnTopology(EntryOf(record), now_ns); });
}

LargeNode::Replica* LargeNode::Find(uint32_t partition) const {
  return partition < by_id_.size() ? by_id_[partition] : nullptr;
}

void LargeNode::Make(const Versioned<PartitionRecord>& record, const ReplicaId& id) {
  auto replica = std::make_unique<Replica>();
  Replica* const r = replica.get();
  r->partition = record.record.id;
  r->id = id;
  std::shared_ptr<Disk>& disk = disks_[r->partition];
  if (disk == nullptr) disk = std::make_shared<Disk>();
  r->disk = disk;
  SimLog& log = disk->log;
  log.Recover();
  log.on_append = [this, r](const SimUnit&) {
    if (!std::exchange(r->syncing, true)) tasks_.Spawn(Sync(r));
  };
  log.on_commit = [r](Lsn up_to) { r->committed = up_to; };
  CoreConfig config;
  config.partition = PartitionUuid(cluster_id_, r->partition);
  config.self = id;
  config.incarnation = incarnation_;
  config.seed = reactor_.Random();
  RecoveredReplica found;
  found.promised = disk->promised;
  found.lineage = disk->lineage;
  found.committed_lsn = std::min(log.mark(), log.durable().lsn);
  r->core = std::make_unique<ReplicaCore>(config, found, log, reactor_.NowNs());
  if (by_id_.size() <= r->partition) by_id_.resize(r->partition + 1, nullptr);
  by_id_[r->partition] = r;
  replicas_.emplace(r->partition, std::move(replica));
}

void LargeNode::Know(Replica* replica, const Versioned<PartitionRecord>& record) {
  if (record.revision <= replica->record.revision) return;
  replica->record = record;
  replica->newcomers.clear();
}

void LargeNode::OnTick() {
  phase_ = (phase_ + 1) % kTickPhases;
  const Nanos heard_ns = watch_->checked_ns();
  for (const auto& [id, replica] : replicas_) {
    if (id % kTickPhases != phase_) continue;
    Feed(replica.get(), [heard_ns](ReplicaCore& core, Nanos now_ns) {
      if (heard_ns != 0) core.OnTopologyHeard(heard_ns);
      core.Tick(now_ns);
    });
  }
  reactor_.ArmTimer(&tick_, reactor_.NowNs() + kTickNs);
}

void LargeNode::OnMessage(uint32_t partition, NodeId, const Message& message) {
  Replica* const replica = Find(partition);
  if (replica == nullptr || message.to != replica->id) return;
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.Step(message, now_ns); });
}

void LargeNode::OnConnected(NodeId node) {
  for (const auto& [id, replica] : replicas_) {
    const ReplicaRecord* there = ReplicaOn(replica->record.record, node);
    if (there == nullptr) continue;
    Feed(replica.get(), [&](ReplicaCore& core, Nanos now_ns) { core.OnConnected(there->replica, now_ns); });
  }
}

// As HostedReplica::Feed and CarryOut (RH1).
template <typename Input>
void LargeNode::Feed(Replica* replica, Input input) {
  if (stopping_ || replica->removed) return;
  input(*replica->core, reactor_.NowNs());
  for (Effect& effect : replica->core->TakeEffects()) replica->effects.push_back(std::move(effect));
  CarryOut(replica);
}

void LargeNode::CarryOut(Replica* replica) {
  if (std::exchange(replica->carrying, true)) return;
  while (true) {
    if (replica->committed > replica->disk->log.applied()) {
      replica->disk->log.SetApplied(replica->committed);
      Feed(replica, [](ReplicaCore& core, Nanos now_ns) { core.OnApplied(now_ns); });
      continue;
    }
    if (replica->effects.empty()) break;
    Effect effect = std::move(replica->effects.front());
    replica->effects.pop_front();
    Do(replica, effect);
  }
  replica->carrying = false;
}

void LargeNode::Do(Replica* replica, Effect& effect) {
  if (auto* send = std::get_if<SendMessage>(&effect)) return Send(replica, send->message);
  if (auto* ship = std::get_if<ShipUnits>(&effect)) return tasks_.Spawn(Ship(replica, *ship));
  if (auto* store = std::get_if<StorePromise>(&effect)) return tasks_.Spawn(Store(replica, *store));
  if (auto* cas = std::get_if<CasTopology>(&effect)) return tasks_.Spawn(TryCas(replica, cas->desired));
  if (std::holds_alternative<ReadTopology>(effect)) return tasks_.Spawn(ReadRecord(replica));
  if (auto* ended = std::get_if<HandoverEnded>(&effect)) replica->handed_over = ended->done;
  if (auto* closed = std::get_if<CloseMastership>(&effect)) replica->handed_over = closed->successor != ReplicaId();
  CHECK(!std::holds_alternative<QuarantineReplica>(effect)) << "partition " << replica->partition;
  replica->removed = replica->removed || std::holds_alternative<DiscardReplica>(effect);
}

void LargeNode::Send(Replica* replica, const Message& message) {
  const std::optional<NodeId> node = NodeOf(replica->record.record, message.to);
  if (node) (void)links_->Send(*node, 0, replica->partition, message);
}

Task<void> LargeNode::Sync(Replica* replica) {
  SimLog& log = replica->disk->log;
  while (log.NeedsSync() && !stopping_) {
    const SimLog::Sync sync = log.BeginSync();
    co_await Sleep(reactor_, kDiskNs);
    if (log.EndSync(sync)) Feed(replica, [](ReplicaCore& core, Nanos now_ns) { core.OnDurable(now_ns); });
  }
  replica->syncing = false;
}

Task<void> LargeNode::Ship(Replica* replica, ShipUnits what) {
  const std::optional<NodeId> node = NodeOf(replica->record.record, what.to);
  const bool up = node && links_->IsUp(*node, 0);
  if (!up) co_await Sleep(reactor_, 20 * kMillisecond);
  if (stopping_ || replica->core->leader().epoch() != what.epoch) co_return;
  HistoryPoint end = what.after;
  if (up) {
    Append append{what.epoch, what.after, {}, replica->core->commit_lsn()};
    const auto& units = replica->disk->log.units();
    for (size_t at = replica->disk->log.IndexAfter(what.after.lsn); at < units.size(); ++at) {
      const size_t before = append.units.size();
      append.units.resize(before + UnitBytes(units[at]->records.size()));
      EncodeUnit(PartitionUuid(cluster_id_, replica->partition), units[at]->View(), 0, append.units.data() + before);
      end = units[at]->end();
    }
    if (!links_->Send(*node, 0, replica->partition, {replica->id, what.to, std::move(append)})) end = what.after;
  }
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.OnShipped(what.to, what.epoch, end, now_ns); });
}

Task<void> LargeNode::Store(Replica* replica, StorePromise what) {
  co_await Sleep(reactor_, kDiskNs);
  replica->disk->promised = std::max(replica->disk->promised, what.epoch);
  replica->disk->lineage = what.lineage;
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.OnPromiseStored(what.epoch, now_ns); });
}

// As HostedReplica::TryCas and TopologyAccess.
Task<void> LargeNode::TryCas(Replica* replica, PartitionEntry desired) {
  CasOutcome outcome = CasOutcome::kConflict;
  if (replica->record.revision == desired.revision) {
    PartitionRecord before = replica->record.record;
    for (const auto& [learner, node] : replica->newcomers) {
      if (!NodeOf(before, learner)) before.learners.push_back({node, learner, {}});
    }
    PartitionRecord record = RecordOf(desired, before);
    std::string value = *Encode(record), key = PartitionKey(replica->partition);
    const Revision expected = desired.revision;
    co_await calls_.Acquire();
    Result<pando::CasOutcome> stored = Error(Code::kAborted, "stopping");
    if (!stopping_) stored = co_await topology_->CompareAndSwap(key, expected, value, kCallNs);
    calls_.Release();
    outcome = CasOutcome::kUnknown;
    if (stored.ok() && stored->kind == pando::CasOutcome::Kind::kStored) {
      outcome = CasOutcome::kApplied;
      Know(replica, {std::move(record), stored->revision});
    } else if (stored.ok() && stored->kind == pando::CasOutcome::Kind::kConflict) {
      outcome = CasOutcome::kConflict;
      Result<TopologyEntry> now = co_await topology_->Read(key, kCallNs);
      if (now.ok()) Know(replica, {*DecodePartition(*now), now->revision});
    }
  }
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) {
    core.OnCasDone(desired.op_id, outcome, EntryOf(replica->record), now_ns);
  });
}

Task<void> LargeNode::ReadRecord(Replica* replica) {
  co_await calls_.Acquire();
  std::string key = PartitionKey(replica->partition);
  Result<TopologyEntry> now = Error(Code::kAborted, "stopping");
  if (!stopping_) now = co_await topology_->Read(std::move(key), kCallNs);
  calls_.Release();
  if (!now.ok()) co_return;
  Know(replica, {*DecodePartition(*now), now->revision});
  Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.OnTopology(EntryOf(replica->record), now_ns); });
}

bool LargeNode::Serves(uint32_t partition) const {
  const Replica* replica = Find(partition);
  if (replica == nullptr || replica->removed) return false;
  const std::optional<Mastership> serving = replica->core->Serving();
  return serving && replica->core->LeaseHolds(*serving, reactor_.FreshNowNs());
}

size_t LargeNode::replicas() const {
  return static_cast<size_t>(
      std::count_if(replicas_.begin(), replicas_.end(), [](const auto& r) { return !r.second->removed; }));
}

size_t LargeNode::masters() const {
  return static_cast<size_t>(
      std::count_if(replicas_.begin(), replicas_.end(), [&](const auto& r) { return Serves(r.first); }));
}

Task<bool> LargeNode::HandOver(uint32_t partition, NodeId to) {
  Replica* const replica = Find(partition);
  const ReplicaRecord* target = ReplicaOn(replica->record.record, to);
  bool begun = false;
  replica->handed_over.reset();
  Feed(replica,
       [&](ReplicaCore& core, Nanos now_ns) { begun = core.Handover(target->replica, now_ns, now_ns + 2 * kSecond); });
  while (begun && !replica->handed_over) co_await Sleep(reactor_, kMillisecond);
  co_return begun&& * replica->handed_over;
}

void LargeNode::StepMove(uint32_t partition, NodeId from, NodeId to) {
  Replica* const replica = Find(partition);
  const ReplicaRecord* comes = ReplicaOn(replica->record.record, to);
  const ReplicaRecord* leaves = ReplicaOn(replica->record.record, from);
  if (comes == nullptr) {
    const bool asked = std::any_of(replica->newcomers.begin(), replica->newcomers.end(),
                                   [to](const auto& newcomer) { return newcomer.second == to; });
    if (asked) return;
    const ReplicaId learner = NewUuid(reactor_);
    replica->newcomers[learner] = to;
    ChangeResult result = ChangeResult::kLater;
    Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { result = core.Assign(learner, std::nullopt, now_ns); });
    if (result != ChangeResult::kProposed) replica->newcomers.erase(learner);
    return;
  }
  const PartitionEntry entry = EntryOf(replica->record);
  if (leaves == nullptr || !entry.isr.Contains(comes->replica)) return;
  if (from == id_) {
    const ReplicaId target = comes->replica;
    Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.Handover(target, now_ns, now_ns + 2 * kSecond); });
  } else {
    const ReplicaId old = leaves->replica;
    Feed(replica, [&](ReplicaCore& core, Nanos now_ns) { core.Remove(old, Removal::kReplaced, now_ns); });
  }
}

// -- the cluster

LargeCluster::LargeCluster(uint32_t nodes, uint32_t partitions, uint64_t seed)
    : count_(nodes), partitions_(partitions), kernel_(seed) {
  kernel_.options().random_chunks = false;
  server_.kept_changes = 4096;  // etcd forgets none until it is compacted
  operator_reactor_ = kernel_.AddMachine("10.250.0.1")->Boot();
}

LargeCluster::~LargeCluster() {
  for (auto& [id, node] : nodes_) {
    if (node != nullptr) kernel_.RunTask(node->reactor(), node->Stop());
  }
}

namespace {

Task<Status> CreateIn(Topology* topology, ClusterPlan plan) {
  Reactor* const reactor = &topology->reactor();
  Result<CreatedCluster> created = co_await CreateCluster(
      *topology, std::move(plan), [reactor] { return NewUuid(*reactor); }, 10 * kSecond);
  Status closed = co_await topology->Close();
  co_return created.ok() ? closed : created.TakeStatus();
}

Task<Status> WriteRecord(Topology* topology, NodeRecord record, Revision revision) {
  std::string key = NodeKey(record.id), value = *Encode(record);
  Result<pando::CasOutcome> stored =
      co_await topology->CompareAndSwap(std::move(key), revision, std::move(value), kSecond);
  Status closed = co_await topology->Close();
  if (stored.ok()) CHECK(stored->kind == pando::CasOutcome::Kind::kStored);
  co_return stored.ok() ? closed : stored.TakeStatus();
}

}  // namespace

Nanos LargeCluster::Create() {
  const Nanos before_ns = kernel_.now_ns();
  ClusterPlan plan;
  for (NodeId id = 1; id <= count_; ++id) plan.nodes.push_back({id, ZoneOf(id), 1});
  plan.partitions = partitions_;
  plan.replicas = 3;
  plan.min_isr = 2;
  Topology topology(*operator_reactor_, std::make_unique<CountingTopology>(*operator_reactor_, &server_, &traffic_));
  const Status created = *kernel_.RunTask(*operator_reactor_, CreateIn(&topology, std::move(plan)));
  CHECK(created.ok()) << created.ToString();
  cluster_id_ = DecodeCluster(server_.entries().at(std::string(kClusterKey)))->cluster_id;
  return kernel_.now_ns() - before_ns;
}

void LargeCluster::WriteNode(NodeId id, uint64_t starts) {
  const auto found = server_.entries().find(NodeKey(id));
  const Revision revision = found == server_.entries().end() ? 0 : found->second.revision;
  NodeRecord record;
  record.id = id;
  record.zone = ZoneOf(id);
  if (revision != 0) record = *DecodeNode(found->second);
  record.client_address = fmt::format("{}:7420", HostOf(id));
  record.peer_addresses = {fmt::format("{}:{}", HostOf(id), kPeerPort)};
  record.starts = record.opened = starts;
  Topology topology(*operator_reactor_, std::make_unique<CountingTopology>(*operator_reactor_, &server_, &traffic_));
  const Status written = *kernel_.RunTask(*operator_reactor_, WriteRecord(&topology, record, revision));
  CHECK(written.ok()) << written.ToString();
}

void LargeCluster::StartAll() {
  for (NodeId id = 1; id <= count_; ++id) WriteNode(id, starts_[id] = 1);
  for (NodeId id = 1; id <= count_; ++id) {
    kernel_.AddMachine(HostOf(id));
    Boot(id, {});
  }
}

void LargeCluster::Boot(NodeId id, LargeNode::Disks disks) {
  SimReactor* const reactor = kernel_.machine(HostOf(id))->Boot();
  nodes_[id] =
      std::make_unique<LargeNode>(reactor, id, starts_.at(id), cluster_id_, &server_, &traffic_, std::move(disks));
  nodes_[id]->Start();
}

void LargeCluster::Add(NodeId id) {
  WriteNode(id, starts_[id] = 1);
  kernel_.AddMachine(HostOf(id));
  Boot(id, {});
}

void LargeCluster::Kill(NodeId id) {
  dead_[id] = nodes_.at(id)->disks();
  for (const auto& [partition, disk] : dead_[id]) {
    SimRandom random(partition);
    disk->log.Crash(random, /*power_loss=*/true);
  }
  kernel_.machine(HostOf(id))->PowerLoss(1);
  Graveyard().push_back(std::move(nodes_.at(id)));
  nodes_.erase(id);
}

void LargeCluster::Restart(NodeId id) {
  WriteNode(id, ++starts_[id]);
  Boot(id, dead_.at(id));
}

MoveInput LargeCluster::Placed(uint64_t bytes) const {
  MoveInput input;
  for (const auto& [id, node] : nodes_) input.nodes.push_back({id, ZoneOf(id), 1});
  for (uint32_t p = 0; p < partitions_; ++p) input.partitions.push_back({p, bytes, NodesOf(p)});
  return input;
}

// Whether it is made.
bool LargeCluster::StepMove(const ReplicaMove& move) {
  const std::vector<NodeId> nodes = NodesOf(move.partition);
  if (std::find(nodes.begin(), nodes.end(), move.from) == nodes.end()) return true;
  if (LargeNode& master = *nodes_.at(nodes.front()); master.Serves(move.partition)) {
    master.StepMove(move.partition, move.from, move.to);
  }
  return false;
}

std::optional<Nanos> LargeCluster::Make(const std::vector<ReplicaMove>& moves, size_t at_once, Nanos limit_ns) {
  std::deque<ReplicaMove> waiting(moves.begin(), moves.end());
  std::vector<ReplicaMove> running;
  return Until(
      [&] {
        std::erase_if(running, [this](const ReplicaMove& move) { return StepMove(move); });
        while (running.size() < at_once && !waiting.empty()) {
          running.push_back(waiting.front());
          waiting.pop_front();
        }
        return running.empty();
      },
      limit_ns);
}

std::optional<Nanos> LargeCluster::Until(const std::function<bool()>& done, Nanos limit_ns) {
  const Nanos before_ns = kernel_.now_ns();
  while (!done()) {
    if (kernel_.now_ns() - before_ns > limit_ns) return std::nullopt;
    kernel_.RunFor(10 * kMillisecond);
  }
  return kernel_.now_ns() - before_ns;
}

PartitionRecord LargeCluster::RecordOf(uint32_t partition) const {
  return *DecodePartition(server_.entries().at(PartitionKey(partition)));
}

std::vector<NodeId> LargeCluster::NodesOf(uint32_t partition) const {
  const PartitionRecord record = RecordOf(partition);
  std::vector<NodeId> nodes{*NodeOf(record, record.master)};
  for (const auto* replicas : {&record.isr, &record.evicted}) {
    for (const ReplicaRecord& replica : *replicas) {
      if (replica.replica != record.master) nodes.push_back(replica.node);
    }
  }
  return nodes;
}

std::vector<uint32_t> LargeCluster::LedBy(NodeId id) const {
  std::vector<uint32_t> led;
  for (uint32_t p = 0; p < partitions_; ++p) {
    if (NodesOf(p).front() == id) led.push_back(p);
  }
  return led;
}

bool LargeCluster::Served(const std::vector<uint32_t>& partitions) const {
  return std::all_of(partitions.begin(), partitions.end(), [this](uint32_t p) {
    return std::any_of(nodes_.begin(), nodes_.end(), [p](const auto& n) { return n.second->Serves(p); });
  });
}

bool LargeCluster::AllServed() const {
  size_t masters = 0;
  for (const auto& [id, node] : nodes_) masters += node->masters();
  return masters >= partitions_;
}

bool LargeCluster::AllInSync() const {
  for (uint32_t p = 0; p < partitions_; ++p) {
    if (RecordOf(p).isr.size() < 3) return false;
  }
  return true;
}

std::map<NodeId, size_t> LargeCluster::Masters() const {
  std::map<NodeId, size_t> masters;
  for (const auto& [id, node] : nodes_) masters[id] = node->masters();
  return masters;
}

}  // namespace pando::replication
