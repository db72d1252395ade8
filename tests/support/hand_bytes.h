// HandBytes: the expected bytes of a format, composed field by field as docs/FORMAT.md describes
// them. It does not use the structs with which the bytes are compared.
//
// Threads: a value.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/hash.h"

namespace pando {

class HandBytes {
 public:
  HandBytes& U8(uint64_t v) { return Number(v, 1); }
  HandBytes& U16(uint64_t v) { return Number(v, 2); }
  HandBytes& U32(uint64_t v) { return Number(v, 4); }
  HandBytes& U64(uint64_t v) { return Number(v, 8); }
  HandBytes& Uuid(uint64_t hi, uint64_t lo) { return U64(hi).U64(lo); }
  HandBytes& Text(std::string_view text) {
    bytes_.append(text);
    return *this;
  }
  HandBytes& Zeros(size_t n) {
    bytes_.append(n, '\0');
    return *this;
  }
  // Appends zeros until there are `size` bytes in total.
  HandBytes& PadTo(size_t size) { return Zeros(size - std::min(size, bytes_.size())); }
  // Appends the XXH3-64 of everything so far.
  HandBytes& Checksum() { return U64(Hash64(bytes_)); }

  size_t size() const { return bytes_.size(); }
  const std::string& str() const { return bytes_; }

 private:
  HandBytes& Number(uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) bytes_.push_back(static_cast<char>(v >> (8 * i)));
    return *this;
  }
  std::string bytes_;
};

// The seed of an extent's checksum: XXH3-64 over the partition's UUID and the extent's first block.
inline uint64_t HandSeed(uint64_t uuid_hi, uint64_t uuid_lo, uint64_t block) {
  return Hash64(HandBytes().Uuid(uuid_hi, uuid_lo).U64(block).str());
}

// Returns the first difference, as "offset N: XX where YY was expected", or "".
inline std::string FirstDifference(std::string_view want, std::string_view got) {
  for (size_t i = 0; i < std::min(want.size(), got.size()); ++i) {
    if (want[i] == got[i]) continue;
    return fmt::format("offset {}: {:02x} where {:02x} was expected", i, static_cast<uint8_t>(got[i]),
                       static_cast<uint8_t>(want[i]));
  }
  if (want.size() == got.size()) return "";
  return fmt::format("{} bytes where {} were expected", got.size(), want.size());
}

inline std::string Hex(std::string_view bytes) {
  std::string out;
  for (unsigned char c : bytes) out += fmt::format("{:02x}", c);
  return out;
}

// The inverse of Hex; `hex` must be well-formed.
inline std::string FromHex(std::string_view hex) {
  auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1])));
  return out;
}

}  // namespace pando
