#include "src/kvapi/session_token.h"

#include <algorithm>

#include "src/base/hash_ranges.h"
#include "src/kvapi/sealed_bytes.h"

namespace pando {
namespace {

constexpr uint64_t kSessionSeed = 0x70616e646f2d7365;  // "pando-se"

void AppendHead(const Uuid& cluster, ByteWriter* out) {
  out->Fixed(kSessionTokenVersion);
  out->Fixed(cluster.hi);
  out->Fixed(cluster.lo);
}

void AppendPoint(uint32_t partition, const SessionPoint& seen, ByteWriter* out) {
  out->Varint(partition);
  out->Varint(seen.epoch);
  out->Varint(seen.lsn);
}

}  // namespace

std::optional<SessionPoint> SessionToken::At(uint32_t partition) const {
  const auto at = points.find(partition);
  return at == points.end() ? std::nullopt : std::optional<SessionPoint>(at->second);
}

bool SessionToken::HasSeenPartOf(uint32_t partition, uint32_t base) const {
  const auto part = [&](const auto& point) { return IsPartOf(point.first, partition, base); };
  return std::any_of(points.upper_bound(partition), points.end(), part);
}

Epoch SessionToken::EpochOf(uint32_t partition) const { return At(partition).value_or(SessionPoint()).epoch; }

void SessionToken::Raise(uint32_t partition, const SessionPoint& seen) {
  SessionPoint& point = points[partition];
  if (seen.epoch > point.epoch) point = seen;
  if (seen.epoch == point.epoch) point.lsn = std::max(point.lsn, seen.lsn);
}

std::string EncodeSessionToken(const SessionToken& token) {
  std::string bytes;
  if (token.points.empty() || token.points.size() > kMaxSessionPoints) return bytes;
  ByteWriter out(&bytes);
  AppendHead(token.cluster, &out);
  for (const auto& [partition, seen] : token.points) AppendPoint(partition, seen, &out);
  Seal(&bytes, kSessionSeed);
  return bytes;
}

void AppendSessionToken(const Uuid& cluster, uint32_t partition, const SessionPoint& seen, std::string* out) {
  const size_t from = out->size();
  ByteWriter writer(out);
  AppendHead(cluster, &writer);
  AppendPoint(partition, seen, &writer);
  writer.Fixed(Hash64(std::string_view(*out).substr(from), kSessionSeed));
}

Result<SessionToken> DecodeSessionToken(const Uuid& cluster, std::string_view bytes) {
  SessionToken token;
  token.cluster = cluster;
  if (bytes.empty()) return token;
  const std::optional<std::string_view> sealed = Unseal(bytes, kSessionSeed);
  ByteReader in(sealed.value_or(std::string_view()));
  const auto version = in.Fixed<uint8_t>();
  if (!sealed || !in.ok()) {
    return Error(Code::kInvalidArgument,
                 "the session token was not issued by a server, or it was altered or truncated");
  }
  if (version != kSessionTokenVersion) {
    return Error(Code::kInvalidArgument,
                 "the session token has version {}; this server reads version {}: begin a new session", version,
                 kSessionTokenVersion);
  }
  const auto hi = in.Fixed<uint64_t>(), lo = in.Fixed<uint64_t>();
  if (in.ok() && (hi != cluster.hi || lo != cluster.lo)) {
    return Error(Code::kInvalidArgument, "the session token belongs to another cluster: begin a new session");
  }
  while (in.ok() && in.remaining() > 0) {
    const uint64_t partition = in.Varint();
    SessionPoint seen;
    seen.epoch = in.Varint();
    seen.lsn = in.Varint();
    const bool rises = token.points.empty() || partition > token.points.rbegin()->first;
    if (!in.ok() || partition > UINT32_MAX || !rises || token.points.size() >= kMaxSessionPoints) {
      return Error(Code::kInvalidArgument, "the session token has a form that no server writes");
    }
    token.points.emplace_hint(token.points.end(), static_cast<uint32_t>(partition), seen);
  }
  if (!in.ok()) return Error(Code::kInvalidArgument, "the session token has a form that no server writes");
  return token;
}

}  // namespace pando
