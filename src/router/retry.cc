#include "src/router/retry.h"

#include <fmt/format.h>

#include "src/kvapi/kv_errors.h"

namespace pando {

namespace {

struct Range {
  Nanos first_ns, most_ns;
};

Range RangeOf(RetryCause cause) {
  switch (cause) {
    case RetryCause::kMisrouted: return {2 * kMillisecond, 500 * kMillisecond};
    case RetryCause::kDown: return {5 * kMillisecond, 500 * kMillisecond};
    case RetryCause::kBusy: return {20 * kMillisecond, 2 * kSecond};
    case RetryCause::kNotNow: return {5 * kMillisecond, 500 * kMillisecond};
    case RetryCause::kBroken: return {kMillisecond, 500 * kMillisecond};
    case RetryCause::kNone: break;
  }
  return {kMillisecond, kMillisecond};
}

// IDL constants that this build has no name for in ApiCode.
constexpr int32_t kMoving = 7;

}  // namespace

RetryCause CauseOf(const api::KvError& error) {
  if (error.applied != static_cast<int32_t>(ApiApplied::kNo)) return RetryCause::kNone;
  switch (error.code) {
    case static_cast<int32_t>(ApiCode::kNotMaster):
    case static_cast<int32_t>(ApiCode::kTooStale):
    case static_cast<int32_t>(ApiCode::kStaleMap):
    case kMoving: return RetryCause::kMisrouted;
    case static_cast<int32_t>(ApiCode::kOverloaded): return error.retryable ? RetryCause::kBusy : RetryCause::kNone;
    case static_cast<int32_t>(ApiCode::kUnavailable): return error.retryable ? RetryCause::kNotNow : RetryCause::kNone;
    default: return RetryCause::kNone;
  }
}

Nanos Backoff::Next(RetryCause cause, Nanos asked_ns) {
  ++tries_;
  int& tries = tries_by_cause_[static_cast<int>(cause)];
  const Range range = RangeOf(cause);
  const Nanos pause_ns = std::min(range.first_ns << std::min(tries++, 20), range.most_ns);
  const Nanos spread_ns = pause_ns / 2 + static_cast<Nanos>(reactor_.Random() % static_cast<uint64_t>(pause_ns));
  return std::max(spread_ns, std::min(asked_ns, range.most_ns));
}

api::KvError GaveUp(const api::KvError& last, int tries, int32_t budget_ms) {
  api::KvError error = last;
  if (CauseOf(last) == RetryCause::kMisrouted) {
    // Clients of a router do not ask the master themselves.
    error = ToKvError(Error(Code::kUnavailable, "{}", last.message), /*is_write=*/true);
  }
  error.message = fmt::format("{} (tried {} times within the budget of {} ms)", last.message, tries, budget_ms);
  return error;
}

}  // namespace pando
