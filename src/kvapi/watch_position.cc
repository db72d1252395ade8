#include "src/kvapi/watch_position.h"

#include "src/kvapi/sealed_bytes.h"

namespace pando {

namespace {

constexpr uint64_t kPositionSeed = 0x70616e646f2d7770;  // "pando-wp"
constexpr uint64_t kPrefixSeed = 0x70616e646f2d7772;    // "pando-wr"

}  // namespace

std::string EncodeWatchPosition(const WatchBinding& binding, const WatchPosition& position) {
  CHECK_EQ(position.versions.size(), binding.partitions);
  std::string bytes;
  ByteWriter out(&bytes);
  out.Fixed(kWatchPositionVersion);
  out.Fixed(binding.store.hi);
  out.Fixed(binding.store.lo);
  out.Fixed(Hash64(binding.prefix, kPrefixSeed));
  for (Version version : position.versions) out.Fixed(version);
  Seal(&bytes, kPositionSeed);
  return bytes;
}

Result<WatchPosition> DecodeWatchPosition(const WatchBinding& binding, std::string_view bytes) {
  const std::optional<std::string_view> sealed = Unseal(bytes, kPositionSeed);
  ByteReader in(sealed.value_or(std::string_view()));
  const auto version = in.Fixed<uint8_t>();
  const auto hi = in.Fixed<uint64_t>(), lo = in.Fixed<uint64_t>(), prefix = in.Fixed<uint64_t>();
  if (!sealed || !in.ok() || in.rest().size() % sizeof(Version) != 0) {
    return Error(Code::kInvalidArgument, "the position was not issued by a server, or it was altered or truncated");
  }
  if (version != kWatchPositionVersion) {
    return Error(Code::kInvalidArgument,
                 "the position has version {}; this server reads version {}: watch from the version of a snapshot",
                 version, kWatchPositionVersion);
  }
  if (prefix != Hash64(binding.prefix, kPrefixSeed)) {
    return Error(Code::kInvalidArgument, "the position belongs to another prefix: send the same prefix as before");
  }
  if (hi != binding.store.hi || lo != binding.store.lo || in.rest().size() != binding.partitions * sizeof(Version)) {
    return Error(Code::kNotFound, "the position belongs to another store");
  }
  WatchPosition position;
  for (size_t i = 0; i < binding.partitions; ++i) position.versions.push_back(in.Fixed<uint64_t>());
  return position;
}

}  // namespace pando
