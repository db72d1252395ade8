#include "src/kvapi/kv_errors.h"

#include <utility>

namespace pando {

namespace {

constexpr int32_t kOverloadedRetryMs = 50;
constexpr int32_t kUnavailableRetryMs = 1000;

struct Mapping {
  ApiCode code;
  Applied applied;  // for a write
  bool retryable;
  int32_t retry_after_ms;
};

Mapping MappingOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kUnsupported: return {ApiCode::kBadRequest, Applied::kNo, false, 0};
    case Code::kSnapshotGone: return {ApiCode::kSnapshotGone, Applied::kNo, false, 0};
    case Code::kDiskFull: return {ApiCode::kDiskFull, Applied::kNo, false, 0};
    case Code::kOverloaded: return {ApiCode::kOverloaded, Applied::kNo, true, kOverloadedRetryMs};
    case Code::kUnavailable: return {ApiCode::kUnavailable, Applied::kNo, true, kUnavailableRetryMs};
    case Code::kAborted: return {ApiCode::kUnavailable, Applied::kUnknown, false, kUnavailableRetryMs};
    // A partition returns kDeadline only for a write that it has not appended.
    case Code::kDeadline: return {ApiCode::kDeadline, Applied::kNo, true, 0};
    case Code::kCorruption: return {ApiCode::kCorrupt, Applied::kUnknown, false, 0};
    case Code::kOk:
    case Code::kLocked:
    case Code::kVersion:
    case Code::kIoError: break;
  }
  return {ApiCode::kInternal, Applied::kUnknown, false, 0};
}

}  // namespace

api::KvError MakeError(ApiCode code, std::string message) {
  api::KvError error;
  error.code = static_cast<int32_t>(code);
  error.message = std::move(message);
  error.applied = static_cast<int32_t>(Applied::kNo);
  return error;
}

api::KvError ToKvError(const Status& status, bool is_write) {
  Mapping m = MappingOf(status.code());
  api::KvError error = MakeError(m.code, status.message());
  error.applied = static_cast<int32_t>(is_write ? m.applied : Applied::kNo);
  // A read may be retried whenever waiting can help; a write only if it certainly was not applied.
  error.retryable = m.retryable || (!is_write && status.code() == Code::kAborted);
  error.retry_after_ms = m.retry_after_ms;
  return error;
}

}  // namespace pando
