#include "src/base/hash.h"

#include <xxhash.h>

namespace pando {

uint64_t Hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Uuid HashUuid(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {(hash.high64 & ~0xf000ull) | 0x8000, (hash.low64 & ~(3ull << 62)) | (2ull << 62)};
}

Hasher64::Hasher64(uint64_t seed) : state_(XXH3_createState()) { XXH3_64bits_reset_withSeed(state_, seed); }
Hasher64::~Hasher64() { XXH3_freeState(state_); }
void Hasher64::Update(std::string_view bytes) { XXH3_64bits_update(state_, bytes.data(), bytes.size()); }
uint64_t Hasher64::Finish() const { return XXH3_64bits_digest(state_); }

std::string_view HashTag(std::string_view key) {
  size_t open = key.find('{');
  if (open == std::string_view::npos) return key;
  size_t close = key.find('}', open + 1);
  if (close == std::string_view::npos || close == open + 1) return key;
  return key.substr(open + 1, close - open - 1);
}

uint64_t HashId(std::string_view key, uint32_t namespace_id) { return Hash64(HashTag(key), namespace_id); }

}  // namespace pando
