// KvService: the Admin call that starts a scrub or reports on it.
#include "src/kvapi/kv_requests.h"
#include "src/node/kv_service.h"
#include "src/node/scrub_report.h"

namespace pando {

namespace {

constexpr int32_t kMaxScrubMbPerS = 1'000'000;

}  // namespace

Task<void> KvService::AdminScrub(Call<api::Admin_scrub_args, api::Admin_scrub_result>* call) {
  const api::ScrubRequest& request = call->args.request;
  if (request.mb_per_s < 0 || request.mb_per_s > kMaxScrubMbPerS) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest, fmt::format("mb_per_s is {}; it must be from 0 to {}",
                                                                       request.mb_per_s, kMaxScrubMbPerS)));
    co_return;
  }
  if (Refuse(call, Reserve(call, DamageReport::kMaxBytes * backend_->peers.size()))) co_return;
  const uint64_t bytes_per_s = static_cast<uint64_t>(request.mb_per_s) << 20;
  Result<api::ScrubReply> reply = co_await control_->Scrub(server_->reactor(), request.start, bytes_per_s);
  if (Failed(call, reply.status())) co_return;
  call->reply.success = *std::move(reply);
}

}  // namespace pando
