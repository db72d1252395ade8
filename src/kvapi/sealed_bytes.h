// Seals the bytes that clients carry for the server and send back (cursors, tokens, positions):
// appends a checksum that reveals altered or truncated bytes.
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

// Appends the checksum, XXH3-64 with `seed`. Each kind of bytes has its own seed.
inline void Seal(std::string* bytes, uint64_t seed) { ByteWriter(bytes).Fixed(Hash64(*bytes, seed)); }

// Returns the bytes without the checksum, or nullopt if the checksum is wrong.
inline std::optional<std::string_view> Unseal(std::string_view bytes, uint64_t seed) {
  if (bytes.size() < kSealBytes) return std::nullopt;
  const std::string_view sealed = bytes.substr(0, bytes.size() - kSealBytes);
  if (LoadLE<uint64_t>(bytes.data() + sealed.size()) != Hash64(sealed, seed)) return std::nullopt;
  return sealed;
}

}  // namespace pando
