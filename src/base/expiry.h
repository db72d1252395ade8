// When records expire. This is the one place that decides it, so that reads, writes, scans, counts
// and the sweep of expired records agree.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

namespace pando {

// The expiry of a record that never expires.
inline constexpr int64_t kNeverExpires = 0;

// Whether a record that expires at `expires_at_ms` does not exist any more at `now_ms`, although it
// may still be stored. (For a page: whether that holds for the first of its records to expire.) For a
// write, "now" is the version of the write; for a read, it is the reactor's clock or the time of the
// snapshot.
inline constexpr bool HasExpired(int64_t expires_at_ms, int64_t now_ms) {
  return expires_at_ms != kNeverExpires && expires_at_ms <= now_ms;
}

}  // namespace pando
