#include "tools/kvadmin/snapshot_lease.h"

namespace pando::admin {

namespace {
// Long enough for a command that was cut short to be resumed, short enough that a forgotten one does no harm.
constexpr std::chrono::milliseconds kTtl = std::chrono::minutes(30);
constexpr std::chrono::milliseconds kRenewEvery = std::chrono::minutes(1);
}  // namespace

Status SnapshotLease::Open() {
  api::OpenSnapshotRequest request;
  request.ttl_ms = static_cast<int32_t>(kTtl.count());
  api::SnapshotReply reply;
  RETURN_IF_ERROR(client_->Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.openSnapshot(reply, context, request);
  }));
  token_ = reply.snapshot;
  version_ = reply.version;
  renewed_ = Clock::now();
  return Status();
}

Status SnapshotLease::Adopt(const std::string& token) {
  token_ = token;
  return Renew();
}

Status SnapshotLease::Keep() { return Clock::now() - renewed_ < kRenewEvery ? Status() : Renew(); }

Status SnapshotLease::Renew() {
  api::RenewSnapshotRequest request;
  request.snapshot = token_;
  request.ttl_ms = static_cast<int32_t>(kTtl.count());
  api::SnapshotReply reply;
  RETURN_IF_ERROR(client_->Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.renewSnapshot(reply, context, request);
  }));
  version_ = reply.version;
  renewed_ = Clock::now();
  return Status();
}

Status SnapshotLease::Release() {
  if (token_.empty()) return Status();
  api::ReleaseSnapshotRequest request;
  request.snapshot = std::exchange(token_, {});
  api::ReleaseSnapshotReply reply;
  return client_->Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.releaseSnapshot(reply, context, request);
  });
}

}  // namespace pando::admin
