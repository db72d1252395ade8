// Result<T> and Status report failures that come from outside the program: the disk, peers and
// users.
//
// Broken program logic is never a Status; it is a CHECK (base/check.h). Bytes from a disk or a peer
// that cannot be decoded are always a Status (kCorruption), never a CHECK.
//
// Threads: plain values; an object must not be shared between threads. An OK Status is one null
// pointer.
#pragma once

#include <fmt/core.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/check.h"

namespace pando {

enum class Code : int32_t {
  kOk = 0,
  kInvalidArgument,  // the caller's input violates a documented rule or limit
  kNotFound,         // the named file, node, method or other object does not exist
  kAlreadyExists,    // it already exists, but must not
  kLocked,           // another process holds the data directory
  kVersion,          // a file or peer uses a format version that this build does not support
  kIoError,          // an operating system call failed
  kCorruption,       // bytes fail their checksum or violate their format
  kDiskFull,         // there is no space for a write
  kOverloaded,       // a bounded queue or budget is full; retry later
  kDeadline,         // the request's time budget ran out
  kUnavailable,      // this node is shutting down, or a peer cannot be reached
  kAborted,          // cut short by cancellation or a closed connection
  kUnsupported,      // the kernel or file system lacks something Pando needs
  kSnapshotGone,     // the snapshot has expired or was released; open another
  kNotMaster,        // another node is, or will be, master of the partition; Status::master() may know which
  kTooStale,         // this replica does not have what the read asks for; another one, or the master, may
  kSessionLost,      // what the session has seen is not in the history any more
};

std::string_view CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(Code code, std::string message);
  Status(Status&&) = default;
  Status& operator=(Status&&) = default;
  Status(const Status& other) : rep_(other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr) {}
  Status& operator=(const Status& other) {
    if (this != &other) rep_ = other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr;
    return *this;
  }

  bool ok() const { return rep_ == nullptr; }
  Code code() const { return rep_ ? rep_->code : Code::kOk; }
  // What happened, to which file, key range or peer, and what to do. Empty for OK.
  const std::string& message() const;
  std::string ToString() const;
  // Of kNotMaster and kTooStale: the address at which the master serves clients, and its epoch. Empty, 0: not known.
  const std::string& master() const;
  uint64_t master_epoch() const { return rep_ ? rep_->master_epoch : 0; }
  Status&& WithMaster(std::string address, uint64_t epoch) &&;

 private:
  struct Rep {
    Code code;
    std::string message, master;
    uint64_t master_epoch = 0;
  };
  std::unique_ptr<Rep> rep_;
};

// Example: Error(Code::kCorruption, "{}: block {} fails its checksum", path, block)
template <typename... Args>
Status Error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// Creates a Status from an errno value and adds its text: ErrnoError(ENOSPC, "write {}", path).
// ENOSPC, EDQUOT and EFBIG become kDiskFull, ENOENT becomes kNotFound, ECANCELED becomes kAborted,
// and any other error becomes kIoError.
Status ErrnoStatus(int error_number, std::string what);
template <typename... Args>
Status ErrnoError(int error_number, fmt::format_string<Args...> format, Args&&... args) {
  return ErrnoStatus(error_number, fmt::format(format, std::forward<Args>(args)...));
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) {
    CHECK(!status_.ok()) << "a Result without a value must hold an error";
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  Status TakeStatus() { return std::move(status_); }
  Code code() const { return status_.code(); }

  T& operator*() & { return Checked(); }
  const T& operator*() const& { return const_cast<Result*>(this)->Checked(); }
  T&& operator*() && { return std::move(Checked()); }
  T* operator->() { return &Checked(); }
  const T* operator->() const { return &const_cast<Result*>(this)->Checked(); }

 private:
  T& Checked() {
    CHECK(value_.has_value()) << "the value of a failed Result was read: " << status_.ToString();
    return *value_;
  }
  std::optional<T> value_;
  Status status_;
};

}  // namespace pando

#define PANDO_CONCAT_(a, b) a##b
#define PANDO_CONCAT(a, b) PANDO_CONCAT_(a, b)

// For functions that return Status or Result: return early with the error.
#define RETURN_IF_ERROR(expr)                               \
  do {                                                      \
    if (auto pando_status_ = (expr); !pando_status_.ok()) { \
      return pando_status_;                                 \
    }                                                       \
  } while (0)
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_(PANDO_CONCAT(pando_result_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                      \
  if (!tmp.ok()) return tmp.TakeStatus(); \
  lhs = *std::move(tmp)

// The same for coroutines that return Task<Status> or Task<Result<T>>. Example:
// CO_RETURN_IF_ERROR(co_await file.Sync());
#define CO_RETURN_IF_ERROR(expr)                            \
  do {                                                      \
    if (auto pando_status_ = (expr); !pando_status_.ok()) { \
      co_return pando_status_;                              \
    }                                                       \
  } while (0)
#define CO_ASSIGN_OR_RETURN(lhs, expr) CO_ASSIGN_OR_RETURN_(PANDO_CONCAT(pando_result_, __LINE__), lhs, expr)
#define CO_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                         \
  if (!tmp.ok()) co_return tmp.TakeStatus(); \
  lhs = *std::move(tmp)
