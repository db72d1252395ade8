#include "pando/error.h"

#include "failure.h"

namespace pando::client {
namespace {

struct CodeText {
  Code code;
  std::string_view name;
  std::string_view advice;
};

constexpr CodeText kCodes[] = {
    {Code::kTransport, "TRANSPORT", "Check that the addresses are those of routers or nodes that run, then try again."},
    {Code::kClosed, "CLOSED", "Make a new Client."},
    {Code::kBadRequest, "BAD_REQUEST", "Correct the request; the message says what is wrong with it."},
    {Code::kTooLarge, "TOO_LARGE", "Make the request smaller; Client::server_info has the limits."},
    {Code::kUnauthenticated, "UNAUTHENTICATED", "Check the credentials of this client."},
    {Code::kDenied, "DENIED", "Ask for the permission that the message names."},
    {Code::kNotMaster, "NOT_MASTER", "Try again, or connect to a router, which finds the master."},
    {Code::kStaleMap, "STALE_MAP", "Try again, or connect to a router, which follows the map."},
    {Code::kMoving, "MOVING", "Try again; the partition is being moved."},
    {Code::kOverloaded, "OVERLOADED", "Send fewer requests at a time, and try again later."},
    {Code::kDeadline, "DEADLINE", "Check whether the cluster is well, or give the call more time."},
    {Code::kUnavailable, "UNAVAILABLE", "Check whether the cluster is well, and try again later."},
    {Code::kTooStale, "TOO_STALE", "Read at a master (ReadLevel::kLinearizable), or try again later."},
    {Code::kSnapshotGone, "SNAPSHOT_GONE", "Open another snapshot."},
    {Code::kBadCursor, "BAD_CURSOR", "Use a cursor only with the range, direction, snapshots and slice it came from."},
    {Code::kTokenMismatch, "TOKEN_MISMATCH", "Use a token only at the cluster that issued it."},
    {Code::kDiskFull, "DISK_FULL", "Free space on the servers' disks, or add some."},
    {Code::kCorrupt, "CORRUPT", "Tell the operator; the message names what is damaged."},
    {Code::kInternal, "INTERNAL", "Tell the operator, with the message and the server's log."},
    {Code::kQuotaExceeded, "QUOTA_EXCEEDED", "Remove data, or ask for a larger quota."},
    {Code::kCancelled, "CANCELLED", "Make the call again if it is still wanted."},
    {Code::kFeedGone, "FEED_GONE", "Open a snapshot, scan it, and watch from its version."},
    {Code::kSessionLost, "SESSION_LOST", "Begin a new session."},
};

const CodeText* find(Code code) {
  for (const CodeText& text : kCodes) {
    if (text.code == code) return &text;
  }
  return nullptr;
}

std::string_view advice_of(Code code) {
  const CodeText* text = find(code);
  return text != nullptr ? text->advice : "Use a newer client, which knows this code.";
}

std::string what_of(const ErrorInfo& info, int tries, const std::optional<ErrorInfo>& cause) {
  std::string what = name_of(info.code) + ": " + info.message;
  if (cause)
    what += "; the last of " + std::to_string(tries) + " tries: " + name_of(cause->code) + ": " + cause->message;
  what += " (applied: " + std::string(name_of(info.applied)) + "). ";
  return what.append(advice_of(info.code));
}

}  // namespace

std::string name_of(Code code) {
  const CodeText* text = find(code);
  return text != nullptr ? std::string(text->name) : "CODE_" + std::to_string(static_cast<std::int32_t>(code));
}

std::string_view name_of(Applied applied) {
  switch (applied) {
    case Applied::kNo: return "NO";
    case Applied::kYes: return "YES";
    case Applied::kUnknown: break;
  }
  return "UNKNOWN";  // also a value that a newer server may send
}

Error::Error(ErrorInfo info, int tries, std::optional<ErrorInfo> cause)
    : std::runtime_error(what_of(info, tries, cause)),
      info_(std::move(info)),
      tries_(tries),
      cause_(std::move(cause)) {}

std::string_view Error::advice() const noexcept { return advice_of(info_.code); }

void detail::throw_error(ErrorInfo info, int tries, std::optional<ErrorInfo> cause) {
  switch (info.code) {
    case Code::kTransport: throw TransportError(std::move(info), tries, std::move(cause));
    case Code::kClosed: throw ClosedError(std::move(info), tries, std::move(cause));
    case Code::kBadRequest:
    case Code::kTooLarge:
    case Code::kBadCursor:
    case Code::kTokenMismatch: throw BadRequestError(std::move(info), tries, std::move(cause));
    case Code::kNotMaster:
    case Code::kStaleMap:
    case Code::kMoving:
    case Code::kOverloaded:
    case Code::kUnavailable:
    case Code::kTooStale: throw UnavailableError(std::move(info), tries, std::move(cause));
    case Code::kDeadline: throw DeadlineError(std::move(info), tries, std::move(cause));
    case Code::kSnapshotGone: throw SnapshotGoneError(std::move(info), tries, std::move(cause));
    case Code::kDiskFull: throw DiskFullError(std::move(info), tries, std::move(cause));
    case Code::kCorrupt: throw CorruptError(std::move(info), tries, std::move(cause));
    case Code::kInternal: throw InternalError(std::move(info), tries, std::move(cause));
    case Code::kFeedGone: throw FeedGoneError(std::move(info), tries, std::move(cause));
    case Code::kSessionLost: throw SessionLostError(std::move(info), tries, std::move(cause));
    case Code::kUnauthenticated:
    case Code::kDenied:
    case Code::kQuotaExceeded:
    case Code::kCancelled: break;
  }
  throw Error(std::move(info), tries, std::move(cause));
}

}  // namespace pando::client
