#include "src/kvapi/watch_position.h"

#include "src/base/hash_ranges.h"
#include "src/kvapi/sealed_bytes.h"

namespace pando {

namespace {

constexpr uint64_t kPositionSeed = 0x70616e646f2d7770;  // "pando-wp"
constexpr uint64_t kPrefixSeed = 0x70616e646f2d7772;    // "pando-wr"
constexpr uint8_t kWithoutIds = 1;                      // the version of positions without the IDs of partitions

// Whether the number of the partitions says which they are: all that the store was created with, or the one of them
// that the prefix determines.
bool AreOfFirstRow(const WatchBinding& binding) {
  if (binding.ids.size() == 1) return binding.ids.front() < binding.base;
  if (binding.ids.size() != binding.base) return false;
  for (uint32_t i = 0; i < binding.base; ++i) {
    if (binding.ids[i] != i) return false;
  }
  return true;
}

uint32_t FirstRowOf(uint32_t id, uint32_t base) {
  while (const std::optional<uint32_t> whole = WholeOf(id, base)) id = *whole;
  return id;
}

// Nothing: there are not so many partitions.
std::map<uint32_t, Version> ReadWithoutIds(const WatchBinding& binding, ByteReader* in) {
  std::map<uint32_t, Version> versions;
  const size_t count = in->rest().size() / sizeof(Version);
  if (in->rest().size() % sizeof(Version) != 0) return versions;
  if (count == 1 && binding.ids.size() == 1) {
    versions[FirstRowOf(binding.ids.front(), binding.base)] = in->Fixed<uint64_t>();
  } else if (count == binding.base) {
    for (uint32_t id = 0; id < binding.base; ++id) versions[id] = in->Fixed<uint64_t>();
  }
  return versions;
}

std::map<uint32_t, Version> ReadWithIds(ByteReader* in) {
  std::map<uint32_t, Version> versions;
  while (in->ok() && !in->rest().empty()) {
    const auto id = in->Fixed<uint32_t>();
    const auto version = in->Fixed<uint64_t>();
    if (in->ok() && id < kMaxPartitions) versions[id] = version;
  }
  return versions;
}

}  // namespace

std::string EncodeWatchPosition(const WatchBinding& binding, const WatchPosition& position) {
  CHECK_EQ(position.versions.size(), binding.ids.size());
  const bool with_ids = !AreOfFirstRow(binding);
  std::string bytes;
  ByteWriter out(&bytes);
  out.Fixed(with_ids ? kWatchPositionVersion : kWithoutIds);
  out.Fixed(binding.store.hi);
  out.Fixed(binding.store.lo);
  out.Fixed(Hash64(binding.prefix, kPrefixSeed));
  for (size_t i = 0; i < binding.ids.size(); ++i) {
    if (with_ids) out.Fixed(binding.ids[i]);
    out.Fixed(position.versions[i]);
  }
  Seal(&bytes, kPositionSeed);
  return bytes;
}

Result<Version> VersionFor(uint32_t id, uint32_t base, const std::map<uint32_t, Version>& versions) {
  for (std::optional<uint32_t> at = id; at; at = WholeOf(*at, base)) {
    if (const auto found = versions.find(*at); found != versions.end()) return found->second;
  }
  for (const auto& [seen, version] : versions) {
    if (!IsPartOf(seen, id, base)) continue;
    return Error(Code::kUnavailable,
                 "the position was given after partition {} was split, which this process has not learned yet; try "
                 "again",
                 id);
  }
  return Error(Code::kNotFound, "the position belongs to another store");
}

Result<WatchPosition> DecodeWatchPosition(const WatchBinding& binding, std::string_view bytes) {
  const std::optional<std::string_view> sealed = Unseal(bytes, kPositionSeed);
  ByteReader in(sealed.value_or(std::string_view()));
  const auto version = in.Fixed<uint8_t>();
  const auto hi = in.Fixed<uint64_t>(), lo = in.Fixed<uint64_t>(), prefix = in.Fixed<uint64_t>();
  if (!sealed || !in.ok()) {
    return Error(Code::kInvalidArgument, "the position was not issued by a server, or it was altered or truncated");
  }
  if (version != kWithoutIds && version != kWatchPositionVersion) {
    return Error(Code::kInvalidArgument,
                 "the position has version {}; this server reads versions {} and {}: watch from the version of a "
                 "snapshot",
                 version, kWithoutIds, kWatchPositionVersion);
  }
  if (prefix != Hash64(binding.prefix, kPrefixSeed)) {
    return Error(Code::kInvalidArgument, "the position belongs to another prefix: send the same prefix as before");
  }
  if (hi != binding.store.hi || lo != binding.store.lo) {
    return Error(Code::kNotFound, "the position belongs to another store");
  }
  const std::map<uint32_t, Version> versions = version == kWithoutIds ? ReadWithoutIds(binding, &in) : ReadWithIds(&in);
  if (!in.ok()) return Error(Code::kInvalidArgument, "the position ends within a version");
  WatchPosition position;
  for (uint32_t id : binding.ids) {
    ASSIGN_OR_RETURN(const Version of_partition, VersionFor(id, binding.base, versions));
    position.versions.push_back(of_partition);
  }
  return position;
}

}  // namespace pando
