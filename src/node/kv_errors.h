// The wire's errors: KvError made from Status, and from requests that break a rule.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <utility>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"

namespace pando {

// Values of api::KvError.code; checked against the IDL's constants by a test (thrift makes them non-constexpr).
enum class ApiCode : int32_t {
  kBadRequest = 1,
  kTooLarge = 2,
  kUnauthenticated = 3,
  kDenied = 4,
  kOverloaded = 8,
  kDeadline = 9,
  kUnavailable = 10,
  kSnapshotGone = 12,
  kBadCursor = 13,
  kTokenMismatch = 14,
  kDiskFull = 15,
  kCorrupt = 16,
  kInternal = 17,
  kFeedGone = 20,
};
enum class Applied : int32_t { kUnknown = 0, kNo = 1, kYes = 2 };

// Of a request that was refused before it did anything: APPLIED_NO.
api::KvError MakeError(ApiCode code, std::string message);

// A failed read, or a failed write (`is_write`): a write is APPLIED_NO where the partition promises that nothing
// happened (it refused before the append), and APPLIED_UNKNOWN otherwise.
api::KvError ToKvError(const Status& status, bool is_write);

// Sets the error of a generated result struct (the generator declares its setters but leaves them out).
template <typename Result>
void SetError(Result* result, const api::KvError& error) {
  result->error = error;
  result->__isset.error = true;
}

}  // namespace pando
