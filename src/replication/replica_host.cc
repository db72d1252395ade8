#include "src/replication/replica_host.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "src/replication/hosted_replica.h"

namespace pando::replication {
namespace {

PeerOptions PeersOf(const ReplicaHost::Options& options) {
  PeerOptions peers = options.peers;
  peers.newest_process_only = options.rules.hello_is_of_newest_process;
  return peers;
}

}  // namespace

namespace {

Status NotHere(uint32_t partition) { return Error(Code::kUnavailable, "partition {} is not on this node", partition); }

}  // namespace

ReplicaHost::ReplicaHost(Reactor& reactor, Options options, PartitionTopology* topology, MemoryBudget* memory,
                         HostObserver* observer)
    : reactor_(options.peers.reactor),
      reactors_(options.reactors),
      links_(reactor, PeersOf(options), memory, this),
      context_{.reactor = reactor,
               .node = options.peers.node,
               .incarnation = options.peers.incarnation,
               .timing = options.timing,
               .rules = options.rules,
               .links = &links_,
               .topology = topology,
               .memory = memory,
               .observer = observer,
               .members = {},
               .metrics = {},
               .ship_slots = Semaphore(reactor, kShipSlots),
               .appended = [this](HostedReplica* replica) {
                 if (appended_.empty()) context_.reactor.ArmTurnHook(this);
                 appended_.push_back(replica);
               }} {
  tick_.host = this;
  tick_.on_fire = [](Timer* timer) { static_cast<TickTimer*>(timer)->host->OnTick(); };
}

ReplicaHost::~ReplicaHost() { CHECK(closed_) << "a ReplicaHost was destroyed before it was closed"; }

void ReplicaHost::Add(uint32_t partition, Uuid partition_uuid, std::unique_ptr<ReplicaFile> file) {
  CHECK(Find(partition) == nullptr) << "partition " << partition << " has a replica here already";
  auto replica = std::make_unique<HostedReplica>(context_, partition, partition_uuid, std::move(file));
  if (begun_) replica->Begin();
  if (by_id_.size() <= partition) by_id_.resize(partition + 1, nullptr);
  by_id_[partition] = replica.get();
  replicas_.emplace(partition, std::move(replica));
}

Task<std::optional<ReplicaState>> ReplicaHost::Remove(uint32_t partition) {
  const auto at = replicas_.find(partition);
  if (at == replicas_.end()) co_return std::nullopt;
  by_id_[partition] = nullptr;
  std::unique_ptr<HostedReplica> replica = std::move(at->second);
  replicas_.erase(at);
  std::erase(appended_, replica.get());
  co_await replica->Close();
  co_return replica->state();
}

std::unique_ptr<CommitGate> ReplicaHost::MakeGate(uint32_t partition) {
  HostedReplica* replica = Find(partition);
  CHECK(replica != nullptr) << "partition " << partition << " has no replica file";
  return replica->MakeGate();
}

void ReplicaHost::Join() {
  begun_ = true;
  for (const auto& [id, replica] : replicas_) replica->Begin();
  context_.reactor.ArmTimer(&tick_, context_.reactor.NowNs() + kTickNs);
}

void ReplicaHost::Fail() {
  for (const auto& [id, replica] : replicas_) replica->Fail();
}

void ReplicaHost::GiveUp(uint32_t partition) {
  if (HostedReplica* replica = Find(partition)) replica->GiveUp();
}

Task<void> ReplicaHost::Close() {
  if (std::exchange(closed_, true)) co_return;
  context_.reactor.CancelTimer(&tick_);
  // What waits for a link ends with the links.
  for (const auto& [id, replica] : replicas_) replica->Stop();
  // What they have said last leaves at the end of a turn.
  for (int turns = 0; turns < 2; ++turns) co_await Yield(context_.reactor);
  co_await links_.Close();
  for (const auto& [id, replica] : replicas_) co_await replica->Close();
}

Task<Result<HandoverResult>> ReplicaHost::HandOver(uint32_t partition, NodeId to, Epoch epoch, Nanos timeout_ns) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) co_return NotHere(partition);
  co_return co_await replica->HandOver(to, epoch, timeout_ns);
}

Task<void> ReplicaHost::HandOverNext(std::vector<uint32_t>* partitions, Nanos deadline_ns) {
  while (!partitions->empty() && context_.reactor.NowNs() < deadline_ns) {
    const uint32_t partition = partitions->back();
    partitions->pop_back();
    Result<HandoverResult> done = co_await HandOver(partition, 0, 0, deadline_ns - context_.reactor.NowNs());
    LOG_IF(WARNING, !done.ok()) << "not handed over: " << done.status().ToString();
  }
}

Task<void> ReplicaHost::HandOverAll(Nanos timeout_ns) {
  std::vector<uint32_t> led;
  for (const auto& [id, replica] : replicas_) {
    if (replica->Leads()) led.push_back(id);
  }
  const Nanos deadline_ns = context_.reactor.NowNs() + timeout_ns;
  const size_t in_half_the_time = 2 * led.size() * kHandoverNs / std::max<Nanos>(timeout_ns, 1);
  const size_t at_once = std::clamp(in_half_the_time, kMinHandovers, kMaxHandovers);
  TaskGroup tasks;
  for (size_t i = 0; i < at_once; ++i) tasks.Spawn(HandOverNext(&led, deadline_ns));
  co_await tasks.Drain();
}

Task<void> ReplicaHost::Leave(Nanos timeout_ns) {
  const Nanos deadline_ns = context_.reactor.NowNs() + timeout_ns;
  co_await HandOverAll(timeout_ns);
  for (const auto& [id, replica] : replicas_) replica->LeaveIsr();
  const Nanos until_ns = std::min(deadline_ns, context_.reactor.NowNs() + kLeaveNs);
  const auto waits = [](const auto& hosted) { return !hosted.second->HasLeftIsr(); };
  while (std::any_of(replicas_.begin(), replicas_.end(), waits) && context_.reactor.NowNs() < until_ns) {
    co_await Sleep(context_.reactor, kLeaveLookNs);
  }
}

// The replica may go away meanwhile, so its task does the work, and this only looks.
Task<Result<ForcedMastership>> ReplicaHost::Force(uint32_t partition, ForceOrder order) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) co_return NotHere(partition);
  auto outcome = std::make_shared<std::optional<Result<ForcedMastership>>>();
  replica->BeginForce(order, outcome);
  while (!outcome->has_value()) co_await Sleep(context_.reactor, kForceLookNs);
  co_return std::move(**outcome);
}

Result<bool> ReplicaHost::SetMinIsr(uint32_t partition, uint32_t min_isr) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->SetMinIsr(min_isr);
}

Result<bool> ReplicaHost::SetSplit(uint32_t partition, const std::optional<SplitOrder>& split) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->SetSplit(split);
}

Task<Status> ReplicaHost::HoldForSplit(uint32_t partition, Nanos timeout_ns) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) co_return NotHere(partition);
  co_return co_await replica->HoldForSplit(timeout_ns);
}

void ReplicaHost::LetGo(uint32_t partition) {
  if (HostedReplica* replica = Find(partition)) replica->LetGo();
}

Task<Status> ReplicaHost::Retire(uint32_t partition, Nanos timeout_ns) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) co_return NotHere(partition);
  co_return co_await replica->RetirePartition(timeout_ns);
}

Result<bool> ReplicaHost::SetServing(uint32_t partition, Lsn opened_lsn) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->SetServing(opened_lsn);
}

std::vector<ReplicaHost::Wanting> ReplicaHost::WantingPages() const {
  std::vector<Wanting> wanting;
  for (const auto& [id, replica] : replicas_) {
    const ReplicaState& state = replica->state();
    if (replica->wants_pages()) wanting.push_back({id, state.replica, state.promised, state.lineage});
  }
  return wanting;
}

std::vector<uint32_t> ReplicaHost::RemovedReplicas() const {
  std::vector<uint32_t> removed;
  for (const auto& [id, replica] : replicas_) {
    const Versioned<PartitionRecord>& record = replica->record();
    if (record.revision != 0 && WasRemoved(record.record, context_.node, replica->state())) removed.push_back(id);
  }
  return removed;
}

Result<KeptLog> ReplicaHost::KeepLogFor(uint32_t partition, const ReplicaId& learner, Nanos until_ns, bool anew) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->KeepLogFor(learner, until_ns, anew);
}

Result<bool> ReplicaHost::Replace(uint32_t partition, const ReplicaId& learner, NodeId node,
                                  const std::optional<ReplicaId>& leaves) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->Replace(learner, node, leaves);
}

Result<ReplicaChange> ReplicaHost::AddOn(uint32_t partition, NodeId node, bool replaces) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->AddOn(node, replaces);
}

Result<bool> ReplicaHost::RemoveOther(uint32_t partition, const ReplicaId& other, Removal why) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->RemoveOther(other, why);
}

HostedReplica* ReplicaHost::Find(uint32_t partition) const {
  return partition < by_id_.size() ? by_id_[partition] : nullptr;
}

// -- news

void ReplicaHost::SetMembers(const Members& members) {
  context_.members = members;
  connected_.Keep(members);
  std::map<NodeId, std::vector<std::string>> addresses;
  std::map<NodeId, uint64_t> starts;
  for (const auto& [node, member] : members) {
    if (node == context_.node) continue;
    starts[node] = member.starts;
    std::vector<std::string>& of_node = addresses[node] = member.peer_addresses;
    // Partition P is on reactor P mod reactors, of both nodes: so reactors that share no partition need no link.
    const size_t common = std::gcd(reactors_, std::max<size_t>(of_node.size(), 1));
    for (size_t r = 0; r < of_node.size(); ++r) {
      if (r % common != reactor_ % common) of_node[r].clear();
    }
  }
  links_.SetStarts(std::move(starts));
  const Status set = links_.SetAddresses(std::move(addresses));
  LOG_IF(ERROR, !set.ok()) << "the topology has an address that is none: " << set.ToString();
}

void ReplicaHost::OnRecord(const Versioned<PartitionRecord>& record) {
  if (HostedReplica* replica = Find(record.record.id)) replica->OnRecord(record);
}

void ReplicaHost::OnMessage(uint32_t partition, NodeId from, const Message& message) {
  context_.metrics.messages_received_total.Add();
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) return context_.metrics.messages_misdirected_total.Add();
  replica->OnMessage(from, message);
}

void ReplicaHost::OnDeathNotice(NodeId node, uint64_t incarnation) {
  uint64_t& told = ended_[node];
  LOG_IF(INFO, incarnation > told) << "the process " << incarnation << " of node " << node << " has ended";
  told = std::max(told, incarnation);
  for (const auto& [id, replica] : replicas_) replica->OnDeath(node, incarnation);
}

void ReplicaHost::OnConnected(NodeId node) {
  if (connected_.Note(node, context_.reactor.NowNs())) LookAt(node);
}

void ReplicaHost::LookAt(NodeId node) {
  for (const auto& [id, replica] : replicas_) replica->OnConnected(node);
}

void ReplicaHost::OnTurnEnd() {
  std::vector<HostedReplica*> appended;
  appended.swap(appended_);
  for (HostedReplica* replica : appended) replica->TellAppended();
}

void ReplicaHost::OnTick() {
  phase_ = (phase_ + 1) % kTickPhases;
  for (const NodeId node : connected_.Due(context_.reactor.NowNs())) LookAt(node);
  int64_t masters = 0;
  for (const auto& [id, replica] : replicas_) {
    if (id % kTickPhases == phase_) replica->Tick();
    masters += replica->Leads();
  }
  context_.metrics.masters.Set(masters);
  context_.metrics.followers.Set(static_cast<int64_t>(replicas_.size()) - masters);
  context_.reactor.ArmTimer(&tick_, context_.reactor.NowNs() + kTickNs);
}

// -- reads

Result<Mastership> ReplicaHost::Begin(uint32_t partition) const {
  const HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->BeginRead();
}

Status ReplicaHost::Check(uint32_t partition, const Mastership& mastership) const {
  const HostedReplica* replica = Find(partition);
  if (replica == nullptr) return NotHere(partition);
  return replica->CheckRead(mastership);
}

bool ReplicaHost::Holds(uint32_t partition, Nanos fresh_now_ns) const {
  const HostedReplica* replica = Find(partition);
  return replica != nullptr && replica->HoldsLease(fresh_now_ns);
}

Task<Status> ReplicaHost::Await(uint32_t partition, ReplicaRead read) {
  HostedReplica* replica = Find(partition);
  if (replica == nullptr) co_return NotHere(partition);
  co_return co_await replica->AwaitRead(read);
}

std::optional<SessionPoint> ReplicaHost::Shown(uint32_t partition) const {
  const HostedReplica* replica = Find(partition);
  return replica == nullptr ? std::nullopt : replica->Shown();
}

bool ReplicaHost::IsLost(uint32_t partition, const SessionPoint& point) const {
  const HostedReplica* replica = Find(partition);
  return replica != nullptr && replica->IsLost(point);
}

std::vector<ReplicaReport> ReplicaHost::Report() const {
  std::vector<ReplicaReport> reports;
  reports.reserve(replicas_.size());
  for (const auto& [id, replica] : replicas_) reports.push_back(replica->Report());
  return reports;
}

}  // namespace pando::replication
