// Hashing and checksums. XXH3-64 serves both purposes; docs/FORMAT.md says where each is used.
#pragma once

#include <cstdint>
#include <string_view>

#include "src/base/ids.h"

struct XXH3_state_s;  // declared in xxhash.h

namespace pando {

// The checksum and general-purpose hash of `bytes`. It is the same in every version and on every
// machine, because it is part of the on-disk formats.
uint64_t Hash64(std::string_view bytes, uint64_t seed = 0);

// A UUID that `bytes` determine: XXH3-128 with the bits of version 8 (RFC 9562). Part of formats, too.
Uuid HashUuid(std::string_view bytes);

// The hash that assigns a key to a partition: XXH3-64 of HashTag(key). Keys that share a {tag}
// therefore share a partition, as in Redis Cluster.
// Each namespace (key_space.h) assigns its keys with its own seed, which is its ID. Requests have the
// namespace 0, so nobody passes another one yet.
uint64_t HashId(std::string_view key, uint32_t namespace_id = 0);

// The bytes that HashId hashes: the part inside the first "{...}" if that part is not empty,
// otherwise the whole key.
std::string_view HashTag(std::string_view key);

// Computes Hash64 of bytes that arrive in several pieces.
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
