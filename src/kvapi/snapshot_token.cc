#include "src/kvapi/snapshot_token.h"

#include "src/kvapi/sealed_bytes.h"

namespace pando {

namespace {
constexpr uint64_t kTokenSeed = 0x70616e646f2d736e;  // "pando-sn"
constexpr size_t kTokenBytes = 1 + 8 + 8 + 8;        // version, id, snapshot version, checksum
}  // namespace

std::string EncodeSnapshotToken(const SnapshotToken& token) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.Fixed(kSnapshotTokenVersion);
  out.Fixed(token.id);
  out.Fixed(token.version);
  Seal(&bytes, kTokenSeed);
  return bytes;
}

Result<SnapshotToken> DecodeSnapshotToken(std::string_view bytes) {
  if (bytes.empty() || static_cast<uint8_t>(bytes[0]) != kSnapshotTokenVersion) {
    return Error(Code::kInvalidArgument,
                 "the snapshot token ({} bytes) is not one that this server can read: open a new snapshot",
                 bytes.size());
  }
  std::optional<std::string_view> sealed = Unseal(bytes, kTokenSeed);
  if (!sealed || bytes.size() != kTokenBytes) {
    return Error(Code::kInvalidArgument, "the snapshot token fails its checksum: it was altered or truncated");
  }
  ByteReader in(sealed->substr(1));
  SnapshotToken token;
  token.id = in.Fixed<uint64_t>();
  token.version = in.Fixed<uint64_t>();
  if (token.id == 0)
    return Error(Code::kInvalidArgument, "the snapshot token has the snapshot id 0, which names no snapshot");
  return token;
}

}  // namespace pando
