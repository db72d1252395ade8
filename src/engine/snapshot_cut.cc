#include "src/engine/snapshot_cut.h"

#include <algorithm>
#include <functional>

namespace pando {
namespace {

using Call = std::function<Task<Status>(Partition*)>;

Task<void> CallOne(const Call* call, Partition* partition, Status* first_error) {
  Status status = co_await (*call)(partition);
  if (first_error->ok()) *first_error = std::move(status);
}

// Calls all partitions at once. Returns the first error, once every call has returned.
Task<Status> CallAll(std::vector<Partition*> partitions, Call call) {
  Status first_error;
  TaskGroup calls;
  for (Partition* p : partitions) calls.Spawn(CallOne(&call, p, &first_error));
  co_await calls.Drain();
  co_return first_error;
}

Task<Status> HoldOne(Partition* partition, Version* highest) {
  CO_ASSIGN_OR_RETURN(Version version, co_await partition->HoldWrites());
  *highest = std::max(*highest, version);
  co_return Status();
}

Task<Status> AbandonAll(std::vector<Partition*> partitions) {
  return CallAll(std::move(partitions), [](Partition* p) { return p->AbandonCut(); });
}

Task<Result<SnapshotInfo>> Take(Reactor& reactor, std::vector<Partition*> partitions, SnapshotInfo snapshot) {
  auto before = [](const Partition* a, const Partition* b) { return a->id() < b->id(); };
  CHECK(std::is_sorted(partitions.begin(), partitions.end(), before)) << "SC1: partitions must be in the order of IDs";
  std::vector<Partition*> prepared;
  for (Partition* p : partitions) {
    // SC1: one after another, in the given order.
    Status status = co_await p->PrepareCut();
    if (!status.ok()) {
      CO_RETURN_IF_ERROR(co_await AbandonAll(prepared));
      co_return status;
    }
    prepared.push_back(p);
  }
  Call hold = [&snapshot](Partition* p) { return HoldOne(p, &snapshot.version); };
  // No partition may cut before all of them hold their writes back.
  Status status = co_await CallAll(partitions, std::move(hold));
  if (!status.ok()) {
    CO_RETURN_IF_ERROR(co_await AbandonAll(prepared));
    co_return status;
  }
  snapshot.version = std::max(snapshot.version + 1, VersionAtMs(reactor.WallMs()));
  snapshot.id = RandomId(reactor);
  Call cut = [&snapshot](Partition* p) { return p->Cut(snapshot); };
  status = co_await CallAll(partitions, std::move(cut));
  if (!status.ok()) {
    // Some partitions have the snapshot; they release it. The first error is the one to report.
    Status released = co_await ReleaseSnapshot(partitions, snapshot.id);
    LOG_IF(WARNING, !released.ok() && released.code() != Code::kSnapshotGone) << released.ToString();
    co_return status;
  }
  co_return snapshot;
}

}  // namespace

Task<Result<SnapshotInfo>> CutSnapshot(Reactor& reactor, std::vector<Partition*> partitions, int64_t expires_at_ms) {
  SnapshotInfo snapshot;
  snapshot.expires_at_ms = expires_at_ms;
  return Take(reactor, std::move(partitions), snapshot);
}

Task<Result<SnapshotInfo>> CutCopy(Reactor& reactor, Partition* partition, int64_t expires_at_ms) {
  SnapshotInfo copy;
  copy.expires_at_ms = expires_at_ms;
  copy.is_copy = true;
  return Take(reactor, {partition}, copy);
}

Task<Status> RenewSnapshot(std::vector<Partition*> partitions, SnapshotId id, int64_t expires_at_ms) {
  Call renew = [id, expires_at_ms](Partition* p) { return p->RenewSnapshot(id, expires_at_ms); };
  co_return co_await CallAll(std::move(partitions), std::move(renew));
}

Task<Status> ReleaseSnapshot(std::vector<Partition*> partitions, SnapshotId id) {
  Call release = [id](Partition* p) { return p->ReleaseSnapshot(id); };
  co_return co_await CallAll(std::move(partitions), std::move(release));
}

}  // namespace pando
