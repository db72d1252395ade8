// Errors of the Pando client. Every error that a call throws is a pando::client::Error or one of its subclasses.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pando::client {

/// What went wrong. Positive values are those of the server's interface (thrift/pando.thrift); a newer server may send
/// ones that are not listed here. Negative values are the client's own.
enum class Code : std::int32_t {
  kTransport = -1,  ///< No connection, a connection that broke, no reply in time, or a reply that makes no sense.
  kClosed = -2,     ///< The client was closed.
  kBadRequest = 1,
  kTooLarge = 2,
  kUnauthenticated = 3,
  kDenied = 4,
  kNotMaster = 5,
  kStaleMap = 6,
  kMoving = 7,
  kOverloaded = 8,
  kDeadline = 9,
  kUnavailable = 10,
  kTooStale = 11,
  kSnapshotGone = 12,
  kBadCursor = 13,
  kTokenMismatch = 14,
  kDiskFull = 15,
  kCorrupt = 16,
  kInternal = 17,
  kQuotaExceeded = 18,
  kCancelled = 19,
  kFeedGone = 20,
  kSessionLost = 21,
};

/// "BAD_REQUEST", as in the interface; "CODE_99" for a code without a name.
std::string name_of(Code code);

/// Whether a write took effect.
enum class Applied : std::int32_t { kUnknown = 0, kNo = 1, kYes = 2 };

/// "UNKNOWN", "NO" or "YES".
std::string_view name_of(Applied applied);

/// What is known of a failure. Plain data: an Error has one, and so has each op of a batch that failed.
struct ErrorInfo {
  Code code = Code::kInternal;
  std::string message;
  /// For reads always kNo.
  Applied applied = Applied::kUnknown;
  /// The same call may succeed later, and making it again does no harm.
  bool retryable = false;
  /// How long the server asks to wait before that; 0 = it does not say.
  std::chrono::milliseconds retry_after{0};
  /// The address of the node that can serve the request, if the server names one.
  std::string master{};
};

/// The base of all errors. what() has the name of the code, the message, and the advice.
class Error : public std::runtime_error {
 public:
  explicit Error(ErrorInfo info, int tries = 0, std::optional<ErrorInfo> cause = std::nullopt);

  Code code() const noexcept { return info_.code; }
  /// The code as a number, also if this client does not know it.
  std::int32_t number() const noexcept { return static_cast<std::int32_t>(info_.code); }
  /// The name of the code, such as "OVERLOADED".
  std::string name() const { return name_of(info_.code); }
  const std::string& message() const noexcept { return info_.message; }
  /// Whether the write took effect, as far as all tries of the call tell. For reads always kNo.
  Applied applied() const noexcept { return info_.applied; }
  /// The same call may succeed later, and making it again does no harm.
  bool retryable() const noexcept { return info_.retryable; }
  /// How long the server asks to wait before that; 0 = it does not say.
  std::chrono::milliseconds retry_after() const noexcept { return info_.retry_after; }
  /// The address of the node that can serve the request, if the server names one.
  const std::string& master() const noexcept { return info_.master; }
  /// One sentence: what to do.
  std::string_view advice() const noexcept;
  /// How often the request was sent, or would have been if there had been a connection.
  int tries() const noexcept { return tries_; }
  /// Of a DeadlineError: the error of the last try, if there was one.
  const std::optional<ErrorInfo>& cause() const noexcept { return cause_; }
  const ErrorInfo& info() const noexcept { return info_; }

 private:
  ErrorInfo info_;
  int tries_;
  std::optional<ErrorInfo> cause_;
};

/// The request cannot succeed as it is: BAD_REQUEST, TOO_LARGE, BAD_CURSOR, TOKEN_MISMATCH.
class BadRequestError : public Error {
  using Error::Error;
};

/// The cluster cannot serve this now: UNAVAILABLE, OVERLOADED, NOT_MASTER, STALE_MAP, MOVING, TOO_STALE, TRANSPORT.
class UnavailableError : public Error {
  using Error::Error;
};

/// No connection, one that broke, or no reply. The server may have carried out the request.
class TransportError : public UnavailableError {
  using UnavailableError::UnavailableError;
};

/// The time of the call is over. cause() is the error of the last try, if there was one.
class DeadlineError : public Error {
  using Error::Error;
};

/// The snapshot has expired, was released, or was lost: open another one.
class SnapshotGoneError : public Error {
  using Error::Error;
};

/// The changes after this position are no longer kept: scan a new snapshot, and watch from its version.
class FeedGoneError : public Error {
  using Error::Error;
};

/// What the session has seen was lost, or it is too old: begin a new session.
class SessionLostError : public Error {
  using Error::Error;
};

/// A disk of the cluster is full.
class DiskFullError : public Error {
  using Error::Error;
};

/// The server found damaged data.
class CorruptError : public Error {
  using Error::Error;
};

/// An error inside the server.
class InternalError : public Error {
  using Error::Error;
};

/// The client was closed before the call or during it.
class ClosedError : public Error {
  using Error::Error;
};

}  // namespace pando::client
