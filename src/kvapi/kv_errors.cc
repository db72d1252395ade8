#include "src/kvapi/kv_errors.h"

#include <utility>

namespace pando {

namespace {

constexpr int32_t kOverloadedRetryMs = 50;
constexpr int32_t kUnavailableRetryMs = 1000;
constexpr int32_t kNotMasterRetryMs = 20;

struct Mapping {
  ApiCode code;
  ApiApplied applied;  // for a write
  bool retryable;
  int32_t retry_after_ms;
};

Mapping MappingOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kUnsupported: return {ApiCode::kBadRequest, ApiApplied::kNo, false, 0};
    case Code::kSnapshotGone: return {ApiCode::kSnapshotGone, ApiApplied::kNo, false, 0};
    case Code::kDiskFull: return {ApiCode::kDiskFull, ApiApplied::kNo, false, 0};
    case Code::kNotMaster: return {ApiCode::kNotMaster, ApiApplied::kNo, true, kNotMasterRetryMs};
    case Code::kTooStale: return {ApiCode::kTooStale, ApiApplied::kNo, true, kNotMasterRetryMs};
    case Code::kSessionLost: return {ApiCode::kSessionLost, ApiApplied::kNo, false, 0};
    case Code::kOverloaded: return {ApiCode::kOverloaded, ApiApplied::kNo, true, kOverloadedRetryMs};
    case Code::kUnavailable: return {ApiCode::kUnavailable, ApiApplied::kNo, true, kUnavailableRetryMs};
    case Code::kAborted: return {ApiCode::kUnavailable, ApiApplied::kUnknown, false, kUnavailableRetryMs};
    // A partition returns kDeadline only for a write that it has not appended.
    case Code::kDeadline: return {ApiCode::kDeadline, ApiApplied::kNo, true, 0};
    // A page that the request needs cannot be read. A partition reads it before it appends a write.
    case Code::kCorruption: return {ApiCode::kCorrupt, ApiApplied::kNo, false, 0};
    case Code::kIoError: return {ApiCode::kInternal, ApiApplied::kNo, false, 0};
    case Code::kOk:
    case Code::kLocked:
    case Code::kVersion: break;
  }
  return {ApiCode::kInternal, ApiApplied::kUnknown, false, 0};
}

}  // namespace

api::KvError MakeError(ApiCode code, std::string message) {
  api::KvError error;
  error.code = static_cast<int32_t>(code);
  error.message = std::move(message);
  error.applied = static_cast<int32_t>(ApiApplied::kNo);
  return error;
}

api::KvError MakeBusy(std::string message, int32_t retry_after_ms) {
  api::KvError error = MakeError(ApiCode::kOverloaded, std::move(message));
  error.retryable = true;
  error.retry_after_ms = retry_after_ms;
  return error;
}

api::KvError ToKvError(const Status& status, bool is_write) {
  Mapping m = MappingOf(status.code());
  api::KvError error = MakeError(m.code, status.message());
  error.applied = static_cast<int32_t>(is_write ? m.applied : ApiApplied::kNo);
  // A read may be retried whenever waiting can help; a write only if it certainly was not applied.
  error.retryable = m.retryable || (!is_write && status.code() == Code::kAborted);
  error.retry_after_ms = m.retry_after_ms;
  if (!status.master().empty()) error.__set_master(status.master());
  if (status.master_epoch() > 0) error.__set_epoch(static_cast<int64_t>(status.master_epoch()));
  return error;
}

}  // namespace pando
