// KvService: the calls of the ClusterSnapshots service. Each asks several partitions at once, and answers for each.
#include <algorithm>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/snapshot_token.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

constexpr size_t kPartitionAnswerBytes = 1024;  // of one partition in a reply, with an error

struct AskedPartition {
  uint32_t id = 0;
  Status status;
  SessionPoint end;
  Version version = 0;
};

Refusal CheckPartitions(const std::vector<int32_t>& partitions, const KvBackend& backend) {
  if (partitions.empty() || partitions.size() > backend.places()) {
    return MakeError(ApiCode::kBadRequest, fmt::format("{} partitions: the store is divided into {}, and at least one "
                                                       "must be named",
                                                       partitions.size(), backend.places()));
  }
  for (const int32_t id : partitions) {
    if (Refusal refusal = backend.CheckServing(id)) return refusal;
  }
  return {};
}

Refusal CheckMark(const api::PrepareRequest& request) {
  if (request.id != 0 && request.version > 0) return {};
  return MakeError(ApiCode::kBadRequest, fmt::format("version {}, id {}: the version is positive, and the ID not 0",
                                                     request.version, request.id));
}

// `ask(partition, asked)` -> Task<void>, for all of them at once.
template <typename Ask>
Task<std::vector<AskedPartition>> AskAll(KvBackend* backend, const std::vector<int32_t>* partitions, Ask ask) {
  std::vector<AskedPartition> all(partitions->size());
  TaskGroup calls;
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].id = static_cast<uint32_t>((*partitions)[i]);
    calls.Spawn(ask(backend->partitions[all[i].id], &all[i]));
  }
  co_await calls.Drain();
  co_return all;
}

// A mark whose commit is unknown may be there: sending it again tells.
void ToMarks(const std::vector<AskedPartition>& all, std::vector<api::PartitionMark>* out) {
  out->resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    api::PartitionMark& mark = (*out)[i];
    mark.partition = static_cast<int32_t>(all[i].id);
    mark.confirmed = all[i].status.ok();
    mark.epoch = static_cast<int64_t>(all[i].end.epoch);
    mark.lsn = static_cast<int64_t>(all[i].end.lsn);
    if (!mark.confirmed) mark.__set_error(ToKvError(all[i].status, /*is_write=*/true));
  }
}

// Coroutines without captures: their arguments live as long as they do.
Task<void> AskHighest(Partition* partition, AskedPartition* asked) {
  const Result<Version> highest = co_await partition->HighestVersion();
  asked->status = highest.status();
  if (highest.ok()) asked->version = *highest;
}

Task<void> AskToClose(Partition* partition, AskedPartition* asked, CloseMark mark) {
  const Result<SessionPoint> end = co_await partition->CloseAt(mark);
  asked->status = end.status();
  if (end.ok()) asked->end = *end;
}

Task<void> AskToRenew(Partition* partition, AskedPartition* asked, SnapshotId id, int64_t expires_at_ms) {
  asked->status = co_await partition->RenewSnapshot(id, expires_at_ms);
}

Task<void> AskToRelease(Partition* partition, AskedPartition* asked, SnapshotId id) {
  asked->status = co_await partition->ReleaseSnapshot(id);
}

}  // namespace

template <typename C>
bool KvService::RefusePartitions(C* call) {
  const std::vector<int32_t>& partitions = call->args.request.partitions;
  if (Refuse(call, CheckPartitions(partitions, *backend_))) return true;
  return Refuse(call, Reserve(call, partitions.size() * (kFanOutBytes + kPartitionAnswerBytes)));
}

// SN2
int64_t KvService::ClusterSnapshotExpiry(Version version, int32_t ttl_ms) const {
  const int64_t now_ms = server_->reactor().WallMs(), max_ms = backend_->snapshot_max_age_ms;
  const int64_t ttl = ttl_ms == 0 ? kDefaultSnapshotTtlMs : int64_t{ttl_ms};
  return std::min(now_ms + std::min(ttl, max_ms), VersionMs(version) + max_ms);
}

Task<void> KvService::SnapshotsClock(Call<api::ClusterSnapshots_clock_args, api::ClusterSnapshots_clock_result>* call) {
  if (RefusePartitions(call)) co_return;
  const auto all = co_await AskAll(backend_, &call->args.request.partitions, &AskHighest);
  api::ClockReply& reply = call->reply.success;
  reply.partitions.resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    api::PartitionHighest& to = reply.partitions[i];
    to.partition = static_cast<int32_t>(all[i].id);
    to.version = static_cast<int64_t>(all[i].version);
    if (!all[i].status.ok()) to.__set_error(ToKvError(all[i].status, /*is_write=*/false));
    reply.highest = std::max(reply.highest, to.version);
  }
}

Task<void> KvService::SnapshotsPrepare(
    Call<api::ClusterSnapshots_prepare_args, api::ClusterSnapshots_prepare_result>* call) {
  const api::PrepareRequest& request = call->args.request;
  if (Refuse(call, CheckMark(request)) || Refuse(call, CheckTtl(request.ttl_ms)) || RefusePartitions(call)) co_return;
  CloseMark mark{static_cast<SnapshotId>(request.id), static_cast<Version>(request.version), 0};
  mark.expires_at_ms = ClusterSnapshotExpiry(mark.version, request.ttl_ms);
  const auto ask = [mark](Partition* partition, AskedPartition* asked) { return AskToClose(partition, asked, mark); };
  const auto all = co_await AskAll(backend_, &request.partitions, ask);
  api::PrepareReply& reply = call->reply.success;
  ToMarks(all, &reply.partitions);
  reply.snapshot = EncodeSnapshotToken({mark.id, mark.version});
  reply.expires_at_ms = mark.expires_at_ms;
}

Task<void> KvService::SnapshotsRenew(Call<api::ClusterSnapshots_renew_args, api::ClusterSnapshots_renew_result>* call) {
  const api::RenewRequest& request = call->args.request;
  SnapshotToken token;
  if (Refuse(call, CheckTtl(request.ttl_ms)) || Refuse(call, ToSnapshotToken(request.snapshot, &token))) co_return;
  if (RefusePartitions(call)) co_return;
  const int64_t expires_at_ms = ClusterSnapshotExpiry(token.version, request.ttl_ms);
  const auto ask = [id = token.id, expires_at_ms](Partition* partition, AskedPartition* asked) {
    return AskToRenew(partition, asked, id, expires_at_ms);
  };
  const auto all = co_await AskAll(backend_, &request.partitions, ask);
  ToMarks(all, &call->reply.success.partitions);
  call->reply.success.expires_at_ms = expires_at_ms;
}

Task<void> KvService::SnapshotsRelease(
    Call<api::ClusterSnapshots_release_args, api::ClusterSnapshots_release_result>* call) {
  SnapshotToken token;
  if (Refuse(call, ToSnapshotToken(call->args.request.snapshot, &token)) || RefusePartitions(call)) co_return;
  const auto ask = [id = token.id](Partition* partition, AskedPartition* asked) {
    return AskToRelease(partition, asked, id);
  };
  const auto all = co_await AskAll(backend_, &call->args.request.partitions, ask);
  ToMarks(all, &call->reply.success.partitions);
}

}  // namespace pando
