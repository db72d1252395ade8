// Hashing and checksums: XXH3-64 for both (one well-tested function; see docs/FORMAT.md for where each is used).
#pragma once

#include <cstdint>
#include <string_view>

struct XXH3_state_s;  // of xxhash.h

namespace pando {

// Checksum and general hash of bytes. Stable across versions and machines: it is part of on-disk formats.
uint64_t Hash64(std::string_view bytes, uint64_t seed = 0);

// The hash ID that shards keys: XXH3-64 of the key, or of the part inside the first "{...}" when that part is not
// empty, so that keys sharing a {tag} share a partition (the rule Redis Cluster uses).
uint64_t HashId(std::string_view key);

// The bytes HashId hashes: the tag if the key has one, else the whole key.
std::string_view HashTag(std::string_view key);

// Hash64 of bytes that come in pieces.
class Hasher64 {
 public:
  explicit Hasher64(uint64_t seed = 0);
  ~Hasher64();
  Hasher64(const Hasher64&) = delete;
  Hasher64& operator=(const Hasher64&) = delete;
  void Update(std::string_view bytes);
  uint64_t Finish() const;

 private:
  ::XXH3_state_s* state_;
};

}  // namespace pando
