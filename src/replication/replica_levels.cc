// HostedReplica: what the levels of reads and writes ask of it, and the writes that wait for a handover.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "src/base/counted.h"
#include "src/io/timed_wait.h"
#include "src/replication/hosted_replica.h"

namespace pando::replication {

namespace {

// The replicas in sync that the master has not heard lately: "node 3 does not answer", "the nodes 1,3 do not answer",
// or "" if it hears all of them.
std::string WhoIsSilent(const ReplicaCore& core, const PartitionRecord& record, Nanos now_ns, Nanos after_ns) {
  std::vector<NodeId> silent;
  if (!core.leader().active()) return "";
  for (const Leader::Following& f : core.leader().Followers()) {
    const auto is_it = [&f](const ReplicaRecord& r) { return r.replica == f.replica; };
    const auto at = std::find_if(record.isr.begin(), record.isr.end(), is_it);
    if (at != record.isr.end() && now_ns - f.heard_ns > after_ns) silent.push_back(at->node);
  }
  if (silent.empty()) return "";
  std::sort(silent.begin(), silent.end());
  const bool one = silent.size() == 1;
  return fmt::format("{} {} {} not answer", one ? "node" : "the nodes", fmt::join(silent, ","), one ? "does" : "do");
}

constexpr char kWhatToDo[] = "Start the nodes that are down, or look at kvadmin cluster status";

}  // namespace

// -- writes

Status HostedReplica::MayWrite(WriteLevel level, Epoch seen) const {
  if (core_ != nullptr && core_->JudgeWrite(level, 0, host_.reactor.NowNs(), seen) == WriteVerdict::kAccepted) {
    return Status();
  }
  return NotServing(level, seen);
}

// SP2. Nodes of older builds cannot read the records.
Status HostedReplica::MayFeed(WriteLevel level, Epoch seen) const {
  const uint32_t speaks = host_.links->protocol();
  if (speaks < kProtocolWithFeeds) {
    return Error(Code::kUnsupported,
                 "partition {}: the cluster speaks version {} of the peer protocol, in which there are no splits; they "
                 "need version {}",
                 id_, speaks, kProtocolWithFeeds);
  }
  if (core_ != nullptr && core_->Serves()) {
    return Error(Code::kAborted, "partition {}: it serves, so nothing is copied into it any more", id_);
  }
  if (core_ == nullptr) return NotServing(level, seen);
  const WriteVerdict verdict = core_->JudgeFeed(level, 0, host_.reactor.NowNs(), seen);
  return verdict == WriteVerdict::kAccepted ? Status() : WhyRefused(verdict, seen);
}

// What has expired in a half that is being built, the feed removes. What is held waits.
bool HostedReplica::MaySweep() const { return Leads() && core_->Serves() && !core_->leader().handover().active(); }

// Why this replica neither writes nor answers reads of the newest state.
Status HostedReplica::NotServing(WriteLevel level, Epoch seen) const {
  if (core_ == nullptr) {
    return Error(Code::kUnavailable, "partition {}: this node {} its cluster; ask another node, or try again", id_,
                 retired_ ? "leaves" : "has not yet joined");
  }
  return WhyRefused(core_->JudgeWrite(level, 0, host_.reactor.NowNs(), seen), seen);
}

Status HostedReplica::WhyRefused(WriteVerdict verdict, Epoch seen) const {
  const PartitionEntry& entry = core_->entry();
  switch (verdict) {
    case WriteVerdict::kRetired:
      return Error(Code::kNotMaster,
                   "partition {}: it is retired; look at the map for the partitions that serve its keys", id_);
    case WriteVerdict::kNotOpen:
      return Error(Code::kNotMaster, "partition {}: it is being built by a split, and serves in a moment; try again",
                   id_);
    case WriteVerdict::kReplaced:
      return Error(Code::kNotMaster,
                   "partition {}: this node is the master of epoch {}, and the session has seen epoch {}: another one "
                   "has taken over, of which this node has not heard; ask another node",
                   id_, core_->leader().epoch(), seen);
    case WriteVerdict::kHandingOver:
      return Error(Code::kNotMaster, "partition {}: another node is to be its master in a moment; try again", id_);
    case WriteVerdict::kOpening: {
      const Nanos now_ns = host_.reactor.NowNs();
      const std::string silent = WhoIsSilent(*core_, record_.record, now_ns, host_.timing.evict_after_ns);
      if (silent.empty()) {
        return Error(Code::kNotMaster, "partition {}: node {} is to be its master in a moment; try again", id_,
                     host_.node);
      }
      return Error(Code::kNotMaster,
                   "partition {}: node {} is to be its master, but must hear all that are in sync before, and {}. {}",
                   id_, host_.node, silent, kWhatToDo);
    }
    case WriteVerdict::kDiskStalled:
      return Error(Code::kUnavailable, "partition {}: the disk of this node does not answer; ask again in a moment",
                   id_);
    case WriteVerdict::kTooFewForAll:
      return Error(
          Code::kUnavailable,
          "partition {}: level ALL needs all of its {} replicas in sync, and {} are; nothing was changed. Write "
          "at level QUORUM, or start the nodes that are down",
          id_, entry.replicas, entry.isr.size());
    case WriteVerdict::kFrozen: return Frozen();
    case WriteVerdict::kOutOfService:
      return Error(Code::kUnavailable, "partition {}: the replica on this node is out of service; ask another node",
                   id_);
    case WriteVerdict::kDiskFull:
    case WriteVerdict::kNotMaster:
    case WriteVerdict::kAccepted: break;
  }
  if (entry.known() && entry.master != replica()) {
    for (const ReplicaRecord& r : record_.record.isr) {
      if (r.replica != entry.master) continue;
      const auto at = host_.members.find(r.node);
      std::string address = at == host_.members.end() ? "" : at->second.client_address;
      return Error(Code::kNotMaster, "partition {}: the master of epoch {} is node {}{}", id_, entry.epoch, r.node,
                   address.empty() ? "" : " at " + address)
          .WithMaster(std::move(address), entry.epoch);
    }
  }
  return Error(Code::kNotMaster, "partition {}: it has no master at the moment; try again", id_);
}

// A commit waits for all that are in sync, and somebody of them cannot be taken out.
Status HostedReplica::Frozen() const {
  const PartitionEntry& entry = core_->entry();
  const std::string silent = WhoIsSilent(*core_, record_.record, host_.reactor.NowNs(), host_.timing.evict_after_ns);
  return Error(Code::kUnavailable,
               "partition {}: node {}, its master, cannot commit: {} {} in sync, {} must be (min_isr), and {}. {}", id_,
               host_.node, Counted(entry.isr.size(), "replica"), entry.isr.size() == 1 ? "is" : "are", entry.min_isr,
               silent.empty() ? "not all of them acknowledge in time" : silent, kWhatToDo);
}

// A master that does not open soon lacks somebody: then nobody knows how long a write would wait.
bool HostedReplica::HoldsWrites() const {
  if (core_ == nullptr || partition_ == nullptr || closing_) return false;
  const Nanos now_ns = host_.reactor.NowNs();
  const WriteVerdict verdict = core_->JudgeWrite(WriteLevel::kQuorum, 0, now_ns);
  if (verdict != WriteVerdict::kOpening) return verdict == WriteVerdict::kHandingOver;
  return opening_since_ns_ == 0 || now_ns - opening_since_ns_ < host_.timing.refuse_writes_after_ns;
}

void HostedReplica::NoteOpening() {
  const bool opening = core_ != nullptr && core_->leader().active() && !core_->leader().is_open();
  if (!opening) {
    opening_since_ns_ = 0;
  } else if (opening_since_ns_ == 0) {
    opening_since_ns_ = host_.reactor.NowNs();
  }
}

// The core ends a handover at its deadline, unless it has proposed it: then the topology decides.
Task<Status> HostedReplica::UntilMayWrite(WriteLevel level, Epoch seen, Nanos deadline_ns) {
  const Waiting waiting(&waiting_);
  host_.metrics.held_writes_total.Add();
  co_await WaitUntil(host_.reactor, moved_, deadline_ns, [this] { return !HoldsWrites(); });
  co_return MayWrite(level, seen);
}

Task<bool> HostedReplica::HasHandedOverTo(ReplicaId target, Epoch before) {
  if (closing_) co_return false;
  const Waiting waiting(&waiting_);
  Result<Versioned<PartitionRecord>> now = co_await host_.topology->Read(id_);
  co_return now.ok() && now->record.epoch > before && now->record.master == target;
}

Task<Status> HostedReplica::UntilOnAll(Lsn lsn, Nanos deadline_ns) {
  const Waiting waiting(&waiting_);
  const auto leads = [this] { return core_ != nullptr && core_->leader().active(); };
  const auto on_all = [this, leads, lsn] { return leads() && core_->all_lsn() >= lsn; };
  if (deadline_ns == 0) deadline_ns = host_.reactor.NowNs() + kOnAllWaitNs;
  co_await WaitUntil(host_.reactor, moved_, deadline_ns, [leads, on_all] { return on_all() || !leads(); });
  if (on_all()) co_return Status();
  co_return Error(
      Code::kAborted,
      "partition {}: the write was committed, but not all replicas are known to have it, as level ALL asks: "
      "{}",
      id_, leads() ? "too few are in sync" : "this node is not the master any more");
}

// -- reads

std::string HostedReplica::MasterAddress() const {
  for (const ReplicaRecord& r : record_.record.isr) {
    if (r.replica != record_.record.master || r.replica == replica()) continue;
    const auto at = host_.members.find(r.node);
    if (at != host_.members.end()) return at->second.client_address;
  }
  return "";
}

// SP4, RC11: why nobody is answered here, whoever leads.
Status HostedReplica::NotOpen() const {
  const PartitionEntry& entry = core_->entry();
  if (entry.retired()) return WhyRefused(WriteVerdict::kRetired, 0);
  if (entry.known()) return WhyRefused(WriteVerdict::kNotOpen, 0);
  return Error(Code::kUnavailable, "partition {}: this node has not yet joined its cluster; ask another node", id_);
}

// LV1, LV2. Each fact stays true while the read looks at the data afterwards: what is applied stays applied.
Status HostedReplica::JudgeRead(const ReplicaRead& read) const {
  if (core_ == nullptr || partition_ == nullptr || core_->out_of_service()) return NotServing();
  if (!core_->entry().known() || core_->entry().stage != PartitionStage::kServing) return NotOpen();
  if (!file_->state().installed) {
    return Error(Code::kUnavailable, "partition {}: the replica on this node is being installed; ask another node",
                 id_);
  }
  if (!core_->Serves()) {
    return Error(Code::kTooStale,
                 "partition {}: this replica has not yet applied what opens the partition; ask its "
                 "master",
                 id_)
        .WithMaster(MasterAddress(), record_.record.epoch);
  }
  if (read.max_staleness_ns) {
    const Nanos now_ns = host_.reactor.FreshNowNs();
    const std::optional<Mastership> serving = core_->Serving();
    const bool leased = serving && core_->LeaseHolds(*serving, now_ns);
    const std::optional<Nanos> fresh_ns = core_->FreshAsOf();
    if (!leased && (!fresh_ns || now_ns - *fresh_ns > *read.max_staleness_ns)) {
      return Error(Code::kTooStale, "partition {}: this replica {}, and the read allows {} ms; ask its master", id_,
                   fresh_ns ? fmt::format("was fresh {} ms ago", (now_ns - *fresh_ns) / kMillisecond)
                            : "does not know how fresh it is",
                   *read.max_staleness_ns / kMillisecond)
          .WithMaster(MasterAddress(), record_.record.epoch);
    }
  }
  if (!read.after) return Status();
  switch (core_->SessionCovers(read.after->epoch, read.after->lsn)) {
    case SessionState::kCovered: return Status();
    case SessionState::kNotYet:
      return Error(
                 Code::kTooStale,
                 "partition {}: this replica has not yet applied what the session has seen (epoch {}, LSN {}); ask its "
                 "master",
                 id_, read.after->epoch, read.after->lsn)
          .WithMaster(MasterAddress(), record_.record.epoch);
    case SessionState::kLost: break;
  }
  return Error(
      Code::kSessionLost,
      "partition {}: what the session has seen (epoch {}, LSN {}) was lost in a change of master, or is too old "
      "to tell; begin a new session",
      id_, read.after->epoch, read.after->lsn);
}

Task<Status> HostedReplica::AwaitRead(ReplicaRead read) {
  Status status = JudgeRead(read);
  if (status.code() != Code::kTooStale) co_return status;
  const Waiting waiting(&waiting_);
  const Nanos until_ns = std::min(read.deadline_ns, host_.reactor.NowNs() + kReadWaitNs);
  co_await WaitUntil(host_.reactor, moved_, until_ns, [this, &read, &status] {
    status = JudgeRead(read);
    return status.code() != Code::kTooStale;
  });
  co_return status;
}

std::optional<SessionPoint> HostedReplica::Shown() const {
  if (partition_ == nullptr) return std::nullopt;
  return partition_->applied();
}

bool HostedReplica::IsLost(const SessionPoint& point) const {
  return core_ != nullptr && partition_ != nullptr &&
         core_->SessionCovers(point.epoch, point.lsn) == SessionState::kLost;
}

Result<Mastership> HostedReplica::BeginRead() const {
  const std::optional<Mastership> serving = core_ == nullptr ? std::nullopt : core_->Serving();
  if (!serving) return NotServing();
  if (!core_->Serves()) return NotOpen();
  return *serving;
}

Status HostedReplica::MayShowSnapshot() const {
  ASSIGN_OR_RETURN(const Mastership mastership, BeginRead());
  return CheckRead(mastership);
}

Status HostedReplica::MayMark() const {
  if (core_ != nullptr && !core_->Serves()) return NotOpen();
  const uint32_t speaks = host_.links->protocol();
  if (speaks >= kProtocolWithMarks) return Status();
  return Error(
      Code::kUnsupported,
      "partition {}: the cluster speaks version {} of the peer protocol, in which there are no snapshots of the "
      "whole cluster; they need version {}",
      id_, speaks, kProtocolWithMarks);
}

Status HostedReplica::CheckRead(const Mastership& mastership) const {
  if (!host_.rules.reads_ask_for_lease) return Status();
  if (core_ != nullptr && core_->LeaseHolds(mastership, host_.reactor.FreshNowNs())) return Status();
  if (core_ != nullptr && core_->Serving() == mastership) {
    const std::string silent = WhoIsSilent(*core_, record_.record, host_.reactor.NowNs(), host_.timing.evict_after_ns);
    if (silent.empty()) {
      return Error(Code::kNotMaster,
                   "partition {}: node {}, its master, does not hold the lease for reads at the moment; try again", id_,
                   host_.node);
    }
    const PartitionEntry& entry = core_->entry();
    return Error(Code::kNotMaster, "partition {}: node {}, its master, does not hold the lease for reads, because {}{}",
                 id_, host_.node, silent,
                 entry.isr.size() > entry.min_isr
                     ? "; try again"
                     : fmt::format(", and {} must be in sync (min_isr). {}", entry.min_isr, kWhatToDo));
  }
  return NotServing();
}

bool HostedReplica::HoldsLease(Nanos fresh_now_ns) const {
  if (!lease_end_ns_) {
    // An open master has applied what opens its partition, so only a new entry changes whether it serves.
    lease_end_ns_ = core_ != nullptr && core_->Serving() && core_->Serves() ? core_->leader().LeaseEnd() : 0;
  }
  if (!host_.rules.reads_ask_for_lease) return *lease_end_ns_ != 0;
  return fresh_now_ns < *lease_end_ns_;
}

}  // namespace pando::replication
