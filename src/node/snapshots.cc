#include "src/node/snapshots.h"

#include <algorithm>

#include "src/engine/snapshot_cut.h"

namespace pando {

int64_t Snapshots::ExpiryOf(int64_t opened_at_ms, int64_t ttl_ms, bool is_copy) const {
  if (is_copy) return reactor_.WallMs() + ttl_ms;
  const int64_t ttl = ttl_ms == 0 ? kDefaultSnapshotTtlMs : std::min(ttl_ms, max_age_ms_);
  return std::min(reactor_.WallMs() + ttl, opened_at_ms + max_age_ms_);
}

void Snapshots::ForgetExpired() {
  std::erase_if(open_, [now_ms = reactor_.WallMs()](const auto& s) { return s.second.opened.expires_at_ms <= now_ms; });
}

Task<Result<OpenedSnapshot>> Snapshots::Open(int64_t ttl_ms, UnwantedFlag unwanted) {
  co_await turn_.Acquire();  // SN3: only one snapshot is opened at a time
  if (unwanted && unwanted->load(std::memory_order_relaxed)) {
    turn_.Release();
    co_return Error(Code::kDeadline, "nobody waits for this snapshot any more; it was not opened");
  }
  Result<OpenedSnapshot> opened = co_await OpenInTurn(partitions_, /*is_copy=*/false, ttl_ms);
  turn_.Release();
  co_return opened;
}

Task<Result<OpenedSnapshot>> Snapshots::OpenCopy(Partition* partition, int64_t ttl_ms) {
  co_await turn_.Acquire();
  std::vector<Partition*> one{partition};
  Result<OpenedSnapshot> opened = co_await OpenInTurn(std::move(one), /*is_copy=*/true, ttl_ms);
  turn_.Release();
  co_return opened;
}

// Partitions may come and go meanwhile. One that goes fails the call, or the snapshot is not in it.
Task<Result<OpenedSnapshot>> Snapshots::OpenInTurn(std::vector<Partition*> partitions, bool is_copy, int64_t ttl_ms) {
  ForgetExpired();
  const auto same = [is_copy](const auto& s) { return s.second.is_copy == is_copy; };
  const auto count = static_cast<size_t>(std::count_if(open_.begin(), open_.end(), same));
  if (count >= (is_copy ? kMaxCopies : kMaxSnapshots)) {
    co_return Error(Code::kOverloaded, "{} {} are open, which is the limit{}", count,
                    is_copy ? "copies for other replicas" : "snapshots",
                    is_copy ? "; try again later" : ": release those that are not needed");
  }
  OpenedSnapshot opened;
  opened.expires_at_ms = ExpiryOf(reactor_.WallMs(), ttl_ms, is_copy);
  Task<Result<SnapshotInfo>> cutting = is_copy ? CutCopy(reactor_, partitions.front(), opened.expires_at_ms)
                                               : CutSnapshot(reactor_, partitions, opened.expires_at_ms);
  CO_ASSIGN_OR_RETURN(SnapshotInfo cut, co_await cutting);
  opened.token = {cut.id, cut.version};
  std::erase_if(partitions, [this](const Partition* p) {
    return std::find(partitions_.begin(), partitions_.end(), p) == partitions_.end();
  });
  open_[cut.id] = {opened, std::move(partitions), is_copy};
  co_return opened;
}

Task<Result<OpenedSnapshot>> Snapshots::Renew(SnapshotToken token, int64_t ttl_ms) {
  const Status gone = Error(Code::kSnapshotGone, "the snapshot has expired or was released: open another");
  auto opened = open_.find(token.id);
  // SN2: the client may have invented the version. The age limit counts from the true one.
  if (opened == open_.end() || opened->second.opened.token.version != token.version) co_return gone;
  const int64_t expires_at_ms = ExpiryOf(VersionMs(token.version), ttl_ms, opened->second.is_copy);
  std::vector<Partition*> partitions = opened->second.partitions;
  Status status = co_await RenewSnapshot(partitions, token.id, expires_at_ms);
  opened = open_.find(token.id);
  if (opened == open_.end()) {
    // It was released meanwhile, and some partitions may have been renewed after that.
    Status released = co_await ReleaseSnapshot(std::move(partitions), token.id);
    LOG_IF(WARNING, !released.ok() && released.code() != Code::kSnapshotGone) << released.ToString();
    co_return gone;
  }
  if (status.code() == Code::kSnapshotGone) open_.erase(opened);
  CO_RETURN_IF_ERROR(status);
  OpenedSnapshot& renewed = opened->second.opened;
  renewed.expires_at_ms = std::max(renewed.expires_at_ms, expires_at_ms);
  co_return renewed;
}

void Snapshots::Forget(const Partition* partition) {
  for (auto& [id, open] : open_) std::erase(open.partitions, partition);
}

Task<Result<bool>> Snapshots::Release(SnapshotToken token) {
  const auto opened = open_.find(token.id);
  std::vector<Partition*> partitions = opened == open_.end() ? partitions_ : std::move(opened->second.partitions);
  open_.erase(token.id);
  Status status = co_await ReleaseSnapshot(std::move(partitions), token.id);
  if (!status.ok() && status.code() != Code::kSnapshotGone) co_return status;
  co_return status.ok();
}

}  // namespace pando
