// Sealed bytes: what clients carry for the server and hand back (cursors, tokens), with a checksum over it behind.
//
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {

inline constexpr size_t kSealBytes = sizeof(uint64_t);

// Appends the checksum: XXH3-64 with `seed`, of which each kind of bytes has its own.
inline void Seal(std::string* bytes, uint64_t seed) { ByteWriter(bytes).Fixed(Hash64(*bytes, seed)); }

// What was sealed; none when the checksum does not hold.
inline std::optional<std::string_view> Unseal(std::string_view bytes, uint64_t seed) {
  if (bytes.size() < kSealBytes) return std::nullopt;
  const std::string_view sealed = bytes.substr(0, bytes.size() - kSealBytes);
  if (LoadLE<uint64_t>(bytes.data() + sealed.size()) != Hash64(sealed, seed)) return std::nullopt;
  return sealed;
}

}  // namespace pando
