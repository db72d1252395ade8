// KvService: snapshots, and ranges cut into parts.
#include <utility>

#include "src/node/kv_requests.h"
#include "src/node/kv_service.h"
#include "src/node/split_range.h"

namespace pando {

namespace {

// A token of 0 is nobody's: these calls need one.
Refusal ToToken(const std::string& bytes, SnapshotToken* token) {
  Result<SnapshotToken> decoded = DecodeSnapshotToken(bytes);
  if (!decoded.ok()) return MakeError(ApiCode::kBadRequest, decoded.status().message());
  *token = *decoded;
  return {};
}

template <typename Reply>
void Answer(Result<OpenedSnapshot> opened, Reply* reply) {
  if (!opened.ok()) return SetError(reply, ToKvError(opened.status(), /*is_write=*/false));
  reply->success.snapshot = EncodeSnapshotToken(opened->token);
  reply->success.version = static_cast<int64_t>(opened->token.version);
  reply->success.expires_at_ms = opened->expires_at_ms;
  reply->__isset.success = true;
}

}  // namespace

Task<void> KvService::OpenSnapshot(Call<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>* call) {
  const int32_t ttl_ms = call->args.request.ttl_ms;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckTtl(ttl_ms);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Answer(co_await control_->OpenSnapshot(server_->reactor(), ttl_ms), &call->reply);
}

Task<void> KvService::RenewSnapshot(Call<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>* call) {
  const api::RenewSnapshotRequest& request = call->args.request;
  SnapshotToken token;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckTtl(request.ttl_ms);
  if (!refusal) refusal = ToToken(request.snapshot, &token);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Answer(co_await control_->RenewSnapshot(server_->reactor(), token, request.ttl_ms), &call->reply);
}

Task<void> KvService::ReleaseSnapshot(Call<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>* call) {
  SnapshotToken token;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = ToToken(call->args.request.snapshot, &token);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Result<bool> existed = co_await control_->ReleaseSnapshot(server_->reactor(), token);
  if (!existed.ok()) {
    SetError(&call->reply, ToKvError(existed.status(), /*is_write=*/false));
    co_return;
  }
  call->reply.success.existed = *existed;
  call->reply.__isset.success = true;
}

Task<void> KvService::SplitRange(Call<api::Kv_splitRange_args, api::Kv_splitRange_result>* call) {
  const api::SplitRangeRequest& request = call->args.request;
  SnapshotId snapshot = 0;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckBounds(request.start_key, request.end_key, request.prefix);
  if (!refusal) refusal = ToSnapshotId(request.snapshot, &snapshot);
  if (!refusal && (request.parts < 2 || request.parts > static_cast<int32_t>(kMaxSplitParts))) {
    refusal = MakeError(ApiCode::kBadRequest,
                        fmt::format("parts is {}; it must be from 2 to {}", request.parts, kMaxSplitParts));
  }
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  ScanRange range = ScanRange::Of(request.start_key, request.end_key, request.prefix, /*reverse=*/false);
  std::vector<Partition*> partitions = PartitionsOf(range);
  Result<std::vector<RangePart>> parts = co_await SplitRangeEvenly(std::move(partitions), std::move(range),
                                                                   static_cast<size_t>(request.parts), snapshot);
  if (!parts.ok()) {
    SetError(&call->reply, ToKvError(parts.status(), /*is_write=*/false));
    co_return;
  }
  for (RangePart& part : *parts) {
    api::RangePart& to = call->reply.success.parts.emplace_back();
    to.start_key = std::move(part.start);
    to.end_key = std::move(part.end);
    to.count = static_cast<int64_t>(part.sums.count);
    to.bytes = static_cast<int64_t>(part.sums.bytes);
  }
  call->reply.__isset.success = true;
}

}  // namespace pando
