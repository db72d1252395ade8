// HostedReplica: a disk that is full, a log that has failed, and data that are lost.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "src/base/hash.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/partition_record.h"

namespace pando::replication {

Status HostedReplica::CheckDisks(uint64_t bytes) const {
  if (core_ == nullptr || bytes <= core_->leader().Room()) return Status();
  // Whose it is; it may have left the wait set a moment ago.
  uint64_t least = std::numeric_limits<uint64_t>::max();
  std::string node = "a node";
  for (const Leader::Following& follower : core_->leader().Followers()) {
    const auto is_it = [&](const ReplicaRecord& r) { return r.replica == follower.replica; };
    const auto& isr = record_.record.isr;
    const auto found = std::find_if(isr.begin(), isr.end(), is_it);
    if (follower.room >= least || found == isr.end()) continue;
    least = follower.room;
    node = fmt::format("node {}", found->node);
  }
  return Error(
      Code::kDiskFull,
      "partition {}: the disk of {}, which holds a replica of it, is full. Delete records, or make room there; "
      "kvadmin cluster status says what else helps",
      id_, node);
}

// A replica that cannot apply what is committed, mostly because its disk is full, must not be waited for. Before it
// comes to that, the master is told how little room there is.
void HostedReplica::NoteApplying() {
  const Nanos now_ns = host_.reactor.NowNs();
  const Lsn applied = partition_->applied_lsn();
  if (applied != applied_ || applied >= partition_->committed_lsn()) applied_since_ns_ = now_ns;
  applied_ = applied;
  const bool stalled = leaving_ || too_large_ || now_ns - applied_since_ns_ > kApplyStallNs;
  const uint64_t room = partition_->Room();
  if (room == room_ && stalled == apply_stalled_) return;
  LOG_IF(WARNING, stalled != apply_stalled_ && !leaving_)
      << "partition " << id_ << ": the replica here " << (stalled ? "cannot apply" : "applies again")
      << " what is committed";
  room_ = room;
  apply_stalled_ = stalled;
  Ask([room, stalled](ReplicaCore& core, Nanos fed_ns) { core.OnRoom(room, stalled, fed_ns); });
}

// What is not sent yet may rest on what the log does not hold. But the others need not wait for its leases.
void HostedReplica::Retire() {
  retired_ = true;
  if (inside_) return;  // Feed calls it
  Wake();
  lease_end_ns_.reset();
  StopShipping();
  holds_.clear();
  EndHandover({{}, false, "the replica here takes part no more"});
  effects_.clear();
  if (core_ == nullptr) return;
  core_->Leave();
  for (Effect& effect : core_->TakeEffects()) effects_.push_back(std::move(effect));
  core_.reset();
  CarryOut();
}

void HostedReplica::OnConnected(NodeId node) {
  const ReplicaRecord* there = ReplicaOn(record_.record, node);
  if (there == nullptr) return;
  Ask([other = there->replica](ReplicaCore& core, Nanos now_ns) { core.OnConnected(other, now_ns); });
}

// It says that it must not be waited for, and acknowledges until it is not.
void HostedReplica::LeaveIsr() {
  leaving_ = true;
  if (!Leads()) Ask([this](ReplicaCore& core, Nanos now_ns) { core.OnRoom(room_, true, now_ns); });
}

bool HostedReplica::HasLeftIsr() const {
  const PartitionRecord& r = record_.record;
  if (core_ == nullptr || core_->out_of_service() || r.master == replica() || r.isr.size() <= r.min_isr) return true;
  return std::none_of(r.isr.begin(), r.isr.end(), [this](const auto& m) { return m.replica == replica(); });
}

void HostedReplica::GiveUp() {
  lost_ = true;
  Retire();
}

// A replica whose time is over keeps its data, as long as nothing needs its place: what was given up with a lineage may
// be wanted again, and what was lost may be put back. Once its partition is to have a replica here, it is another one.
void HostedReplica::MakeRoom() {
  if (ReplicaOn(record_.record, host_.node) == nullptr) return;
  const bool replaced = lost_ && !NodeOf(record_.record, replica());
  if (discarded_ || replaced) BecomeAnotherSoon();
}

void HostedReplica::BecomeAnotherSoon() {
  if (!closing_ && !std::exchange(gave_up_, true)) tasks_.Spawn(BecomeAnother());
}

// I9. What it has promised and acknowledged means nothing any more.
Task<void> HostedReplica::BecomeAnother() {
  const ReplicaId lost = wanted_.replica;
  ReplicaState another;
  another.replica = HashUuid(fmt::format("{} {} {}", lost.ToString(), host_.incarnation, host_.reactor.Random()));
  another.installed = false;
  wanted_ = another;
  const Status stored = co_await file_->Store(another);
  LOG_IF(ERROR, !stored.ok()) << "partition " << id_ << ": the replica file cannot be stored: " << stored.ToString();
  if (stored.ok()) {
    LOG(WARNING) << "partition " << id_ << ": the replica " << lost.ToString() << " is given up; "
                 << another.replica.ToString() << " is to take its place, with a copy of the master's pages";
  }
}

}  // namespace pando::replication
