#include "tools/kvadmin/snapshot_lease.h"

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {
constexpr std::chrono::milliseconds kRenewEvery = std::chrono::minutes(1);
constexpr int64_t kCleanupBudgetMs = 3000;
}  // namespace

SnapshotLease::~SnapshotLease() {
  if (token_.empty()) return;
  // The command failed or was interrupted, and reports that itself. If the release fails too, the
  // server frees the snapshot when its time is over.
  tools::Interrupts::Shield shield;
  client_->LimitBudget(kCleanupBudgetMs);
  if (!Release().ok()) token_.clear();
}

Status SnapshotLease::Open() {
  // Not interruptible, because a snapshot without a known token cannot be released.
  tools::Interrupts::Shield shield;
  api::OpenSnapshotRequest request;
  request.ttl_ms = static_cast<int32_t>(kOpenTtl.count());
  ASSIGN_OR_RETURN(api::SnapshotReply reply, client_->Call(Client::Repeat::kSafe, &api::KvIf::openSnapshot, request));
  token_ = reply.snapshot;
  version_ = reply.version;
  renewed_ = {};  // makes the next Keep renew the snapshot for `ttl_`
  return Status();
}

Status SnapshotLease::Adopt(const std::string& token) {
  token_ = token;
  Status renewed = Renew();
  if (!renewed.ok()) token_.clear();  // not owned, so it must not be released
  return renewed;
}

Status SnapshotLease::Keep() { return Clock::now() - renewed_ < kRenewEvery ? Status() : Renew(); }

Status SnapshotLease::Renew() {
  api::RenewSnapshotRequest request;
  request.snapshot = token_;
  request.ttl_ms = static_cast<int32_t>(ttl_.count());
  ASSIGN_OR_RETURN(api::SnapshotReply reply, client_->Call(Client::Repeat::kSafe, &api::KvIf::renewSnapshot, request));
  version_ = reply.version;
  renewed_ = Clock::now();
  return Status();
}

Status SnapshotLease::Leave() {
  if (token_.empty()) return Status();
  tools::Interrupts::Shield shield;
  client_->LimitBudget(kCleanupBudgetMs);
  Status renewed = Renew();
  token_.clear();
  return renewed;
}

Status SnapshotLease::Release() {
  if (token_.empty()) return Status();
  api::ReleaseSnapshotRequest request;
  request.snapshot = token_;
  ASSIGN_OR_RETURN(api::ReleaseSnapshotReply reply,
                   client_->Call(Client::Repeat::kSafe, &api::KvIf::releaseSnapshot, request));
  token_.clear();
  return Status();
}

}  // namespace pando::admin
