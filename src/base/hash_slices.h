// HashSlice: one of several equal parts of all hashes, whatever ranges the partitions have. Those who read all of a
// store side by side read a slice each.
//
// Threads: plain values.
//
// Invariants
//   SL1  Each hash is in exactly one of `slices` slices.
#pragma once

#include <cstdint>

namespace pando {

inline constexpr uint32_t kMaxSlices = 65536;

struct HashSlice {
  uint64_t first = 0, last = UINT64_MAX;  // both included

  // Number `slice` of `slices`. REQUIRES: slice < slices <= kMaxSlices.
  static constexpr HashSlice Of(uint32_t slices, uint32_t slice) {
    return {FirstOf(slices, slice), slice + 1 == slices ? UINT64_MAX : FirstOf(slices, slice + 1) - 1};
  }
  constexpr bool all() const { return first == 0 && last == UINT64_MAX; }
  constexpr bool Has(uint64_t hash) const { return first <= hash && hash <= last; }
  constexpr bool Overlaps(uint64_t from, uint64_t to) const { return from <= last && first <= to; }
  constexpr bool HasAll(uint64_t from, uint64_t to) const { return first <= from && to <= last; }
  constexpr bool operator==(const HashSlice&) const = default;

 private:
  // slice * 2^64 / slices, rounded up, so that a hash h is in the slice h * slices / 2^64.
  static constexpr uint64_t FirstOf(uint32_t slices, uint32_t slice) {
    const uint64_t whole = UINT64_MAX / slices, rest = UINT64_MAX % slices + 1;  // 2^64 = whole * slices + rest
    return slice * whole + (slice * rest + slices - 1) / slices;
  }
};

}  // namespace pando
