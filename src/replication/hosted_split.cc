// HostedReplica: what a split asks of the master of the partition that is split, and of those of its halves
// (docs/SPLIT.md). The core proposes the change; whoever asked asks again until the topology shows it.
#include <algorithm>

#include "src/io/timed_wait.h"
#include "src/replication/hosted_replica.h"

namespace pando::replication {

Result<bool> HostedReplica::ToDone(ChangeResult result, std::string_view why_not) const {
  if (result == ChangeResult::kNotMaster) return NotServing();
  if (result == ChangeResult::kNotAllowed) return Error(Code::kInvalidArgument, "partition {}: {}", id_, why_not);
  return result == ChangeResult::kDone;
}

Result<bool> HostedReplica::SetSplit(const std::optional<SplitOrder>& split) {
  const ChangeResult result = Change([&](ReplicaCore& core, Nanos now_ns) { return core.SetSplit(split, now_ns); });
  return ToDone(result, "it does not serve, so it cannot be split");
}

Result<bool> HostedReplica::SetServing(Lsn opened_lsn) {
  const ChangeResult result =
      Change([&](ReplicaCore& core, Nanos now_ns) { return core.SetServing(opened_lsn, now_ns); });
  return ToDone(result, "it is not being built, or what opens it is not applied, so it cannot begin to serve");
}

Task<Status> HostedReplica::HoldForSplit(Nanos timeout_ns) {
  if (core_ == nullptr || !core_->Serving()) co_return NotServing();
  const Waiting waiting(&waiting_);
  const Nanos deadline_ns = host_.reactor.NowNs() + timeout_ns;
  bool begun = false;
  Ask([&](ReplicaCore& core, Nanos now_ns) { begun = core.HoldForSplit(now_ns, deadline_ns); });
  if (!begun) {
    co_return Error(Code::kOverloaded,
                    "partition {}: another change of its master or its replicas is under way; try again", id_);
  }
  const auto holds = [this] { return core_ != nullptr && core_->leader().handover().holds(); };
  const auto quiet = [this] { return core_->leader().IsQuiet(); };
  co_await WaitUntil(host_.reactor, moved_, deadline_ns, [holds, quiet] { return !holds() || quiet(); });
  if (holds() && quiet()) co_return Status();
  LetGo();
  if (!Leads()) co_return NotServing();
  co_return Error(Code::kUnavailable,
                  "partition {}: what was written has not been committed in time, so its writes are not held any more",
                  id_);
}

void HostedReplica::LetGo() {
  Ask([](ReplicaCore& core, Nanos now_ns) { core.LetGo(now_ns); });
}

// Nothing: it is not known yet. A core that leads, and retires nothing, knows that no proposal can land any more.
std::optional<Status> HostedReplica::HowRetired() const {
  if (record_.record.state == PartitionStage::kRetired) return Status();
  const bool leads = core_ != nullptr && core_->leader().active();
  if (leads && core_->leader().handover().retires()) return std::nullopt;
  if (!leads && retire_revision_ != 0 && record_.revision <= retire_revision_) return std::nullopt;
  return Error(Code::kAborted,
               "partition {}: it was not retired, and goes on: its writes are not held, no split runs any more, or its "
               "record was changed first",
               id_);
}

Task<Status> HostedReplica::RetirePartition(Nanos timeout_ns) {
  const Waiting waiting(&waiting_);
  const Nanos began_ns = host_.reactor.NowNs();
  Ask([&](ReplicaCore& core, Nanos now_ns) { core.Retire(now_ns, now_ns + timeout_ns); });
  // Once it is proposed, only the topology can end it, which may not answer for long.
  const Nanos deadline_ns = began_ns + timeout_ns + kHandoverGraceNs;
  const auto known = [this] { return closing_ || HowRetired().has_value(); };
  while (!known() && host_.reactor.NowNs() < deadline_ns) {
    if (core_ == nullptr || !core_->leader().active()) {
      ReadTopology again;
      Do(again);
    }
    const Nanos until_ns = std::min(deadline_ns, host_.reactor.NowNs() + host_.timing.cas_retry_ns);
    co_await WaitUntil(host_.reactor, moved_, until_ns, known);
  }
  if (const std::optional<Status> how = HowRetired()) co_return *how;
  co_return Error(Code::kUnavailable,
                  "partition {}: the topology has not said in time whether it is retired now, so this node neither "
                  "reads nor writes it; ask again",
                  id_);
}

}  // namespace pando::replication
