// Identifier types that all layers share.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pando {

using Lsn = uint64_t;         // dense per partition, from 1; 0 = none
using Epoch = uint64_t;       // replication configuration number, from 1
using Generation = uint64_t;  // copy-on-write generation of one tree, from 1

// A hybrid logical clock value: 48 bits of Unix milliseconds, then 16 bits of counter. It orders
// writes and records when each was made.
using Version = uint64_t;
inline constexpr unsigned kVersionCounterBits = 16;
inline constexpr int64_t VersionMs(Version v) { return static_cast<int64_t>(v >> kVersionCounterBits); }
inline constexpr Version VersionAtMs(int64_t unix_ms) { return static_cast<Version>(unix_ms) << kVersionCounterBits; }

struct Uuid {
  uint64_t hi = 0, lo = 0;
  auto operator<=>(const Uuid&) const = default;
  bool IsNil() const { return hi == 0 && lo == 0; }
  std::string ToString() const;                             // 8-4-4-4-12 lowercase hex digits
  static std::optional<Uuid> Parse(std::string_view text);  // of exactly that form
};
static_assert(sizeof(Uuid) == 16);

struct UuidHash {
  size_t operator()(const Uuid& u) const { return u.hi ^ (u.lo * 0x9e3779b97f4a7c15ull); }
};

}  // namespace pando
