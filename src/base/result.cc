#include "src/base/result.h"

#include <cerrno>
#include <system_error>

namespace pando {

std::string_view CodeName(Code code) {
  switch (code) {
    case Code::kOk: return "OK";
    case Code::kInvalidArgument: return "INVALID_ARGUMENT";
    case Code::kNotFound: return "NOT_FOUND";
    case Code::kAlreadyExists: return "ALREADY_EXISTS";
    case Code::kLocked: return "LOCKED";
    case Code::kVersion: return "VERSION";
    case Code::kIoError: return "IO_ERROR";
    case Code::kCorruption: return "CORRUPTION";
    case Code::kDiskFull: return "DISK_FULL";
    case Code::kOverloaded: return "OVERLOADED";
    case Code::kDeadline: return "DEADLINE";
    case Code::kUnavailable: return "UNAVAILABLE";
    case Code::kAborted: return "ABORTED";
    case Code::kUnsupported: return "UNSUPPORTED";
    case Code::kSnapshotGone: return "SNAPSHOT_GONE";
    case Code::kNotMaster: return "NOT_MASTER";
    case Code::kTooStale: return "TOO_STALE";
    case Code::kSessionLost: return "SESSION_LOST";
  }
  return "UNKNOWN";
}

Status::Status(Code code, std::string message) {
  CHECK(code != Code::kOk) << "an OK Status must not carry a message";
  rep_ = std::make_unique<Rep>(Rep{code, std::move(message), {}, 0});
}

namespace {
const std::string& Nothing() {
  static const std::string nothing;
  return nothing;
}
}  // namespace

const std::string& Status::message() const { return rep_ ? rep_->message : Nothing(); }
const std::string& Status::master() const { return rep_ ? rep_->master : Nothing(); }

Status&& Status::WithMaster(std::string address, uint64_t epoch) && {
  CHECK(code() == Code::kNotMaster || code() == Code::kTooStale);
  rep_->master = std::move(address);
  rep_->master_epoch = epoch;
  return std::move(*this);
}

std::string Status::ToString() const {
  return rep_ ? fmt::format("{}: {}", CodeName(rep_->code), rep_->message) : "OK";
}

Status ErrnoStatus(int error_number, std::string what) {
  Code code = Code::kIoError;
  // A limit on file size (ulimit -f, EFBIG) is treated like a full disk.
  if (error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG) code = Code::kDiskFull;
  if (error_number == ENOENT) code = Code::kNotFound;
  if (error_number == ECANCELED) code = Code::kAborted;
  return Status(code,
                fmt::format("{}: {} (errno {})", what, std::generic_category().message(error_number), error_number));
}

}  // namespace pando
