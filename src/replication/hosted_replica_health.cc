// HostedReplica: a disk that is full, a log that has failed, and data that are lost.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/base/hash.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/partition_record.h"

namespace pando::replication {

Status HostedReplica::CheckDisks(uint64_t bytes) const {
  if (core_ == nullptr || bytes <= core_->leader().Room()) return Status();
  return Error(Code::kDiskFull,
               "partition {}: the disk of a node that holds a replica of it is full (see kvadmin cluster show). Delete "
               "records, or add disk space there",
               id_);
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
