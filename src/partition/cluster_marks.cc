#include "src/partition/cluster_marks.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/partition/snapshot_table.h"
#include "src/partition/write_pipeline.h"

namespace pando {

namespace {

std::string UtcTime(int64_t unix_ms) {
  constexpr int64_t kMsPerSecond = 1000;
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(unix_ms / kMsPerSecond)));
}

}  // namespace

// -- the master

Task<Result<Version>> ClusterMarks::Highest() {
  CO_RETURN_IF_ERROR(snapshots_.MayCut());
  const ActiveCall call(&state_);
  for (;;) {
    checkpointer_.HoldOff(state_.reactor.NowNs() + kHoldOffNs);
    if (!checkpointer_.running() || state_.failed()) break;
    co_await checkpointer_.WaitForEnd();
  }
  CO_RETURN_IF_ERROR(snapshots_.MayCut());
  co_return std::max(state_.clock.newest(), VersionAtMs(state_.clock.NowMs()));
}

Status ClusterMarks::CheckMark(const CloseMark& mark) const {
  RETURN_IF_ERROR(snapshots_.MayCut());
  RETURN_IF_ERROR(state_.gate->MayMark());
  if (checkpointer_.running()) {
    return Error(Code::kSnapshotGone,
                 "partition {}: a checkpoint has begun since it was asked for its highest version; take another "
                 "snapshot",
                 state_.id());
  }
  if (!state_.clock.MayMark(mark.version)) {
    return Error(Code::kInvalidArgument,
                 "partition {}: the snapshot of the cluster would end at version {} ({}), which is {} ms ahead of the "
                 "clock of this node; at most {} ms are allowed. If the clock of a node is wrong now, set it. If one "
                 "was ahead and is right again, the versions that it gave remain, and the partitions come back to the "
                 "clocks by one second in 64: there are no snapshots until then, but kvadmin export --latest works",
                 state_.id(), mark.version, UtcTime(VersionMs(mark.version)),
                 VersionMs(mark.version) - state_.reactor.WallMs(), 2 * PartitionClock::kMaxLeadMs);
  }
  if (snapshots_.of_cluster() + closing_.size() < kMaxSnapshots) return Status();
  return Error(Code::kOverloaded,
               "partition {}: {} snapshots of the cluster are open, which is the limit: release those that are not "
               "needed",
               state_.id(), snapshots_.of_cluster());
}

// CM3
Result<SessionPoint> ClusterMarks::Confirm(const CloseMark& mark, std::string_view why_not) const {
  const Result<const SnapshotInfo*> found = snapshots_.Find(mark.id);
  if (!found.ok()) return Error(Code::kSnapshotGone, "partition {}: {}", state_.id(), why_not);
  const SnapshotInfo& snapshot = **found;
  if (snapshot.of_cluster && snapshot.version == mark.version) return SessionPoint{snapshot.epoch, snapshot.lsn};
  return Error(Code::kInvalidArgument,
               "partition {}: the ID {:016x} is that of another snapshot: give each one an ID of its own", state_.id(),
               mark.id);
}

Task<Result<SessionPoint>> ClusterMarks::Close(CloseMark mark) {
  CO_RETURN_IF_ERROR(snapshots_.MayCut());
  const ActiveCall call(&state_);
  // It may have been sent before, and what came of it decides.
  const auto is_closing = [this, &mark] {
    return std::find(closing_.begin(), closing_.end(), mark.id) != closing_.end();
  };
  while (is_closing()) co_await closed_.Wait();
  if (snapshots_.Find(mark.id).ok()) co_return Confirm(mark, "");
  CO_RETURN_IF_ERROR(CheckMark(mark));
  WriteOp op;
  op.op = RecordOp::kClose;
  op.snapshot = mark.id;
  op.version = mark.version;
  op.ttl_mode = TtlMode::kSet;
  op.expires_at_ms = mark.expires_at_ms;
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  checkpointer_.HoldOff(state_.reactor.NowNs() + kHoldOffNs);  // until it is applied
  closing_.push_back(mark.id);
  Result<std::vector<OpResult>> done = co_await pipeline_.Write(std::move(ops), WriteOptions());
  std::erase(closing_, mark.id);
  closed_.NotifyAll();
  CO_RETURN_IF_ERROR(done.status());
  co_return Confirm(mark,
                    "the snapshot could not be kept, or is gone already: the disk is full, or the time for which it "
                    "was to live has passed");
}

Task<Status> ClusterMarks::SetLease(SnapshotId id, std::optional<int64_t> expires_at_ms) {
  CO_RETURN_IF_ERROR(snapshots_.MayCut());
  const ActiveCall call(&state_);
  WriteOp op;
  op.op = RecordOp::kLease;
  op.snapshot = id;
  op.ttl_mode = expires_at_ms ? TtlMode::kSet : TtlMode::kClear;
  op.expires_at_ms = expires_at_ms.value_or(0);
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  Result<std::vector<OpResult>> done = co_await pipeline_.Write(std::move(ops), WriteOptions());
  CO_RETURN_IF_ERROR(done.status());
  if (expires_at_ms) co_return snapshots_.Find(id).status();
  co_return Status();
}

// -- the log

// A snapshot that is over need not be kept. An ID that is given twice is that of the first one.
bool ClusterMarks::Wants(const LogRecord& mark) const {
  return mark.expires_at_ms > state_.reactor.WallMs() && !snapshots_.Find(mark.snapshot).ok();
}

Task<void> ClusterMarks::Prepare(const ApplyUnit* unit) {
  if (IsReady(*unit)) co_return;
  if (!Wants(unit->records.front().record)) {
    ready_ = Ready::kSkipped;
    co_return;
  }
  snapshots_.BeginMark();  // CM6
  const Status reserved = co_await checkpointer_.Reserve();
  snapshots_.EndMark();
  ready_ = reserved.ok() ? Ready::kReserved : Ready::kSkipped;
  LOG_IF(WARNING, !reserved.ok()) << "partition " << state_.id()
                                  << ": a snapshot of the cluster is not kept here: " << reserved.ToString();
}

void ClusterMarks::OnApplied(const ApplyUnit& unit) {
  const LogRecord& record = unit.records.front().record;
  if (!IsClusterMark(record.op)) return;
  ++state_.stats.cluster_marks_total;
  if (record.op == RecordOp::kClose) return Take(record);
  const Result<const SnapshotInfo*> found = snapshots_.Find(record.snapshot);
  if (!found.ok() || !(*found)->of_cluster) return;
  if (record.ttl_mode == TtlMode::kClear) return snapshots_.ReleaseIfOpen(record.snapshot);
  const Status renewed = snapshots_.Renew(record.snapshot, record.expires_at_ms);
  CHECK(renewed.ok()) << renewed.ToString();
}

void ClusterMarks::Take(const LogRecord& mark) {
  const Ready ready = std::exchange(ready_, Ready::kNo);
  CHECK(ready != Ready::kNo) << "CM2: the mark of a snapshot was applied before its generation could end";
  if (ready == Ready::kSkipped) return;
  if (!Wants(mark)) return checkpointer_.End();
  while (snapshots_.of_cluster() >= kMaxSnapshots) snapshots_.ReleaseOldestOfCluster();  // CM4
  SnapshotInfo snapshot;
  snapshot.id = mark.snapshot;
  snapshot.version = mark.version;
  snapshot.expires_at_ms = mark.expires_at_ms;
  snapshot.of_cluster = true;
  snapshots_.TakeReserved(snapshot);
}

void ClusterMarks::Forget() {
  if (std::exchange(ready_, Ready::kNo) == Ready::kReserved) checkpointer_.End();
}

}  // namespace pando
