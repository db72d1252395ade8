// HostedReplica: a disk that is full, a log that has failed, and data that are lost.
#include <fmt/format.h>

#include <utility>

#include "src/base/hash.h"
#include "src/replication/hosted_replica.h"

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
