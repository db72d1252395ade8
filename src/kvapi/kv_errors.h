// Converts a Status, or a rule that a request breaks, to the KvError that a client receives.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <utility>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"

namespace pando {

// Values of api::KvError.code. A test compares them with the constants of the IDL, which Thrift
// does not generate as constexpr.
enum class ApiCode : int32_t {
  kBadRequest = 1,
  kTooLarge = 2,
  kUnauthenticated = 3,
  kDenied = 4,
  kNotMaster = 5,
  kStaleMap = 6,
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
  kFeedGone = 20,
  kSessionLost = 21,
};
enum class ApiApplied : int32_t { kUnknown = 0, kNo = 1, kYes = 2 };

// The error of a request that was refused before it did anything; its `applied` is NO.
api::KvError MakeError(ApiCode code, std::string message);

// The error of a request that exceeds a limit of what may wait or run at once: OVERLOADED, and a
// retry after this time may succeed.
api::KvError MakeBusy(std::string message, int32_t retry_after_ms);

// The error of a failed read, or of a failed write (`is_write`). For a write, `applied` is NO if
// the partition guarantees that nothing happened (it refused the write before the append), and
// UNKNOWN otherwise.
api::KvError ToKvError(const Status& status, bool is_write);

// Sets the error of a generated result struct. (The Thrift generator declares the setter but does
// not define it.)
template <typename Result>
void SetError(Result* result, const api::KvError& error) {
  result->error = error;
  result->__isset.error = true;
}

}  // namespace pando
