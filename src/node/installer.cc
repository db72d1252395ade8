#include "src/node/installer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "src/base/address.h"
#include "src/io/call_on.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/replica_host.h"

namespace pando {

using replication::ReplicaState;

ReplicaInstaller::ReplicaInstaller(Reactor& reactor, NodeCluster* cluster, NodePartitions* partitions,
                                   const std::vector<ReactorPart*>* parts, MemoryBudget* memory, Registry* registry,
                                   uint64_t bytes_per_s)
    : reactor_(reactor),
      cluster_(*cluster),
      partitions_(*partitions),
      parts_(*parts),
      memory_(memory),
      registry_(registry),
      pace_(bytes_per_s) {
  auto add = [this](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), {}, metric);
  };
  add("kv_install_waiting_count", "Replicas that get a copy of their master's pages, or wait for it.", &waiting_);
  add("kv_install_done_bytes", "Bytes of pages that have come for the replica that is being installed.", &done_bytes_);
  add("kv_install_expected_bytes", "About how many bytes of pages that replica needs.", &of_bytes_);
  add("kv_install_installed_total", "Replicas that were installed.", &installed_total_);
  add("kv_install_failed_total", "Installations that began and failed; they begin again.", &failed_total_);
  add("kv_install_received_bytes_total", "Bytes of pages that have come.", &bytes_total_);
  add("kv_removed_replicas_dropped_total",
      "Replicas that were dropped because they were removed from their partitions.", &dropped_total_);
}

ReplicaInstaller::~ReplicaInstaller() {
  CHECK(stopped_) << "an ReplicaInstaller was destroyed before it was stopped";
  registry_->Remove(this);
}

// IS2.
void ReplicaInstaller::AddMissing(uint32_t partition) {
  Wanted& wanted = wanted_[partition];
  if (wanted.state.replica.IsNil()) wanted.state.replica = NewUuid(reactor_);
}

void ReplicaInstaller::Start() {
  stopped_ = false;
  tasks_.Spawn(Run());
}

Task<void> ReplicaInstaller::Stop() {
  stopping_ = true;
  if (copying_ != nullptr) copying_->Cancel();
  co_await tasks_.Drain();
  stopped_ = true;
}

std::vector<ReplicaInstaller::Report> ReplicaInstaller::reports() const {
  std::vector<Report> reports;
  for (const auto& [id, wanted] : wanted_) {
    Report& report = reports.emplace_back(Report{id, wanted.state.replica, wanted.state.promised, {}, wanted.problem});
    if (copying_ != nullptr && copied_partition_ == id) report.progress = copying_->progress();
  }
  return reports;
}

// IS3.
Task<void> ReplicaInstaller::Run() {
  while (!stopping_) {
    co_await DropRemoved();
    co_await Look();
    LookAtTopology();
    waiting_.Set(static_cast<int64_t>(wanted_.size()));
    bool installed = false;
    if (const std::optional<uint32_t> due = NextDue(); due && !stopping_) installed = co_await TryOne(*due);
    waiting_.Set(static_cast<int64_t>(wanted_.size()));
    if (!stopping_ && !installed) co_await Sleep(reactor_, kLookNs);
  }
}

// -- what there is to do

Task<void> ReplicaInstaller::Look() {
  std::set<uint32_t> held;
  for (ReactorPart* part : parts_) {
    auto ask = [part](Reactor&) -> Task<std::vector<replication::ReplicaHost::Wanting>> {
      co_return part->replica_host()->WantingPages();
    };
    const auto wanting = co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(ask));
    for (const replication::ReplicaHost::Wanting& w : wanting) {
      Wanted& wanted = wanted_[w.partition];
      wanted.held = true;
      wanted.state.replica = w.replica;
      wanted.state.promised = w.promised;
      wanted.state.lineage = w.lineage;
      held.insert(w.partition);
    }
  }
  std::erase_if(wanted_, [&](const auto& w) { return w.second.held && !held.contains(w.first); });
}

// A replica that the topology has come to assign to this node since it started: nobody has had its UUID.
void ReplicaInstaller::LookAtTopology() {
  for (const auto& [id, versioned] : cluster_.newest().partitions) {
    if (versioned.record.state == PartitionStage::kRetired) continue;
    if (wanted_.contains(id) || partitions_.store().Find(id) != nullptr) continue;
    for (const ReplicaRecord& learner : versioned.record.learners) {
      if (learner.node == cluster_.node()) wanted_[id].state.replica = learner.replica;
    }
  }
}

Task<void> ReplicaInstaller::DropRemoved() {
  for (ReactorPart* part : parts_) {
    auto ask = [part](Reactor&) -> Task<std::vector<uint32_t>> { co_return part->replica_host()->RemovedReplicas(); };
    const std::vector<uint32_t> removed = co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(ask));
    for (const uint32_t partition : removed) {
      if (stopping_) co_return;
      const Status dropped = co_await DropIfRemoved(partition);
      LOG_IF_EVERY_N(WARNING, !dropped.ok() && !stopping_, 100)
          << "partition " << partition
          << ": the replica here was removed, and could not be dropped yet: " << dropped.ToString();
    }
  }
}

Task<Result<PartitionRecord>> ReplicaInstaller::ReadRecord(uint32_t partition) {
  Semaphore& calls = *cluster_.topology_calls();
  co_await calls.Acquire();
  Result<TopologyEntry> entry = co_await cluster_.topology()->Read(PartitionKey(partition), kReadNs);
  calls.Release();
  CO_RETURN_IF_ERROR(entry.status());
  if (entry->revision == 0) co_return Error(Code::kNotFound, "the topology has no record of partition {}", partition);
  co_return DecodePartition(*entry);
}

// Whether the partition was split and its halves are not open yet. Until then it is what was ever acknowledged.
Task<Result<bool>> ReplicaInstaller::IsStillNeeded(const PartitionRecord& record) {
  const std::optional<std::array<uint32_t, 2>> halves = HalvesOf(record.id, cluster_.ranges());
  if (record.state != PartitionStage::kRetired || !halves) co_return false;
  for (const uint32_t half : *halves) {
    const Result<PartitionRecord> of_half = co_await ReadRecord(half);
    if (of_half.code() == Code::kNotFound) co_return false;  // of a split that was given up
    CO_RETURN_IF_ERROR(of_half.status());
    if (of_half->state == PartitionStage::kBuilding) co_return true;
  }
  co_return false;
}

// IS4, IS5.
Task<Status> ReplicaInstaller::DropIfRemoved(uint32_t partition) {
  CO_ASSIGN_OR_RETURN(const PartitionRecord record, co_await ReadRecord(partition));
  CO_ASSIGN_OR_RETURN(const bool needed, co_await IsStillNeeded(record));
  if (needed) co_return Status();
  ReactorPart* part = parts_[partition % parts_.size()];
  auto ask = [part, partition](Reactor&) -> Task<std::optional<ReplicaState>> {
    const replication::HostedReplica* held = part->replica_host()->Find(partition);
    co_return held == nullptr ? std::nullopt : std::optional<ReplicaState>(held->state());
  };
  const std::optional<ReplicaState> held = co_await CallOn(reactor_, static_cast<int>(part->index()), std::move(ask));
  if (!held || !replication::WasRemoved(record, cluster_.node(), *held)) co_return Status();
  CO_RETURN_IF_ERROR(co_await partitions_.Drop(partition));
  dropped_total_.Add();
  LOG(INFO) << "partition " << partition << ": its replica here, " << held->replica.ToString()
            << (record.state == PartitionStage::kRetired ? ", is not needed any more, and is dropped"
                                                         : ", was removed from the partition, and is dropped");
  co_return Status();
}

std::optional<uint32_t> ReplicaInstaller::NextDue() const {
  const auto first = std::min_element(wanted_.begin(), wanted_.end(),
                                      [](const auto& a, const auto& b) { return a.second.next_ns < b.second.next_ns; });
  if (first == wanted_.end() || first->second.next_ns > reactor_.NowNs()) return std::nullopt;
  return first->first;
}

Task<bool> ReplicaInstaller::TryOne(uint32_t partition) {
  const Result<bool> installed = co_await Advance(partition, wanted_.at(partition));
  done_bytes_.Set(0);
  of_bytes_.Set(0);
  const auto at = wanted_.find(partition);
  if (installed.ok() && *installed) {
    installed_total_.Add();
    wanted_.erase(at);
    co_await cluster_.TellRecord(partition);
    co_return true;
  }
  Wanted& wanted = at->second;
  const Listed listed = Find(partition, wanted.state.replica);
  wanted.held = partitions_.store().Find(partition) != nullptr;
  if (!wanted.held && !listed.self && listed.old.IsNil()) {
    LOG(INFO) << "partition " << partition << ": the topology assigns no replica of it to this node any more";
    wanted_.erase(at);
    co_return false;
  }
  wanted.problem = installed.ok() ? "" : installed.status().ToString();
  if (installed.ok()) {
    wanted.next_ns = reactor_.NowNs() + kLookNs;
    co_return false;
  }
  failed_total_.Add();
  wanted.wait_ns = std::clamp(2 * wanted.wait_ns, kLookNs, kMaxWaitNs);
  wanted.next_ns = reactor_.NowNs() + wanted.wait_ns;
  LOG_IF(WARNING, !stopping_) << "partition " << partition << ": its replica here, " << wanted.state.replica.ToString()
                              << ", needs a copy of the pages, and did not get it; it tries again: "
                              << installed.status().ToString();
  co_return false;
}

// -- one replica

ReplicaInstaller::Listed ReplicaInstaller::Find(uint32_t partition, const Uuid& replica) const {
  Listed listed;
  const auto at = cluster_.newest().partitions.find(partition);
  if (at == cluster_.newest().partitions.end()) return listed;
  const PartitionRecord& record = at->second.record;
  if (record.state == PartitionStage::kRetired) return listed;
  size_t count = 0;
  for (const auto* replicas : {&record.isr, &record.evicted, &record.learners}) {
    for (const ReplicaRecord& r : *replicas) {
      ++count;
      if (r.replica == replica) listed.self = true;
      if (r.replica != replica && r.node == cluster_.node()) listed.old = r.replica;
    }
  }
  listed.has_room = count < record.replicas;
  return listed;
}

Result<std::string> ReplicaInstaller::MasterOf(uint32_t partition) const {
  const ClusterMap& map = cluster_.newest();
  const auto at = map.partitions.find(partition);
  if (at == map.partitions.end()) return Error(Code::kNotFound, "the topology has no partition {}", partition);
  const PartitionRecord& record = at->second.record;
  for (const ReplicaRecord& r : record.isr) {
    if (r.replica != record.master) continue;
    const auto node = map.nodes.find(r.node);
    if (r.node == cluster_.node() || node == map.nodes.end() || node->second.record.client_address.empty()) break;
    return node->second.record.client_address;
  }
  return Error(Code::kUnavailable,
               "partition {}: the topology names no other node as its master, and only a master can give a copy. Start "
               "the nodes that are down, or restore the partition from a backup",
               partition);
}

Task<Result<bool>> ReplicaInstaller::Advance(uint32_t partition, Wanted wanted) {
  const Listed listed = Find(partition, wanted.state.replica);
  if (!listed.self && listed.old.IsNil() && !listed.has_room) {
    co_return Error(Code::kNotFound, "partition {}: the topology assigns no replica of it to this node any more",
                    partition);
  }
  CO_ASSIGN_OR_RETURN(const std::string address, MasterOf(partition));
  CO_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  CopiedPages pages(reactor_, partition, wanted.state.replica, &pace_, &bytes_total_);
  copied_partition_ = partition;
  copying_ = &pages;
  Result<bool> installed = false;
  if (Status connected = co_await pages.Connect(at.host, at.port); connected.ok()) {
    installed = co_await AdvanceWith(&pages, partition, std::move(wanted));
  } else {
    installed = std::move(connected);
  }
  copying_ = nullptr;
  co_await pages.Close();
  co_return installed;
}

Task<Result<bool>> ReplicaInstaller::AdvanceWith(CopiedPages* pages, uint32_t partition, Wanted wanted) {
  const Listed listed = Find(partition, wanted.state.replica);
  if (!listed.self || !listed.old.IsNil()) {
    CO_RETURN_IF_ERROR((co_await pages->Replace(cluster_.node(), listed.old)).status());
    if (!listed.self) co_return false;
    Nanos& listed_ns = wanted_.at(partition).listed_ns;
    if (listed_ns == 0) listed_ns = reactor_.NowNs();
    if (reactor_.NowNs() - listed_ns < kLeaveNs) co_return false;
  }
  if (stopping_) co_return Error(Code::kUnavailable, "the node is closing");
  if (memory_ != nullptr && !memory_->TryReserve(CopiedPages::kMemoryBytes)) {
    co_return Error(Code::kOverloaded, "there is no memory for a batch of pages now");
  }
  Status status = co_await Install(pages, partition, wanted.state);
  if (memory_ != nullptr) memory_->Release(CopiedPages::kMemoryBytes);
  CO_RETURN_IF_ERROR(status);
  co_return true;
}

// IS1: the copy is open and described before anything is dropped.
Task<Status> ReplicaInstaller::Install(CopiedPages* pages, uint32_t partition, ReplicaState state) {
  const uint32_t ranges = partitions_.store().ranges;
  const Nanos began_ns = reactor_.NowNs();
  CO_ASSIGN_OR_RETURN(InstallSource source,
                      co_await pages->Open(PartitionUuid(cluster_.cluster_id(), partition), ranges));
  of_bytes_.Set(static_cast<int64_t>(pages->progress().of_bytes));
  LOG(INFO) << "partition " << partition << ": the replica " << state.replica.ToString() << " gets a copy of about "
            << pages->progress().of_bytes << " bytes, as of LSN " << source.root.lsn << " of epoch "
            << source.root.epoch;
  const Lsn lsn = source.root.lsn;
  Result<PartitionInfo> installed = co_await partitions_.Reinstall(partition, std::move(source), pages, &state);
  wanted_.at(partition).state = state;
  CO_RETURN_IF_ERROR(installed.status());
  LOG(INFO) << "partition " << partition << ": the replica " << state.replica.ToString() << " is installed up to LSN "
            << lsn << "; it took " << (reactor_.NowNs() - began_ns) / kMillisecond << " ms for "
            << pages->progress().bytes << " bytes";
  co_return Status();
}

}  // namespace pando
