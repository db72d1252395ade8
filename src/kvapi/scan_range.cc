#include "src/kvapi/scan_range.h"

#include <algorithm>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/kvapi/sealed_bytes.h"

namespace pando {

namespace {

constexpr uint64_t kRangeSeed = 0x70616e646f2d7263;   // "pando-rc"
constexpr uint64_t kDeleteSeed = 0x70616e646f2d7264;  // "pando-rd"
constexpr uint64_t kCursorSeed = 0x70616e646f2d6373;  // "pando-cs"
// Version, flags, scan id, range hash, checksum.
constexpr size_t kCursorFixedBytes = 1 + 1 + 8 + 8 + 8;
constexpr uint8_t kReverseFlag = 1;

// The properties of a request that a cursor is bound to.
struct Binding {
  uint64_t range_hash = 0;
  bool reverse = false;
};

template <typename Request>
std::string RangeBytes(const Request& request, const Uuid& cluster) {
  std::string bytes;
  ByteWriter out(&bytes);
  if (!cluster.IsNil()) {
    out.Fixed(cluster.hi);
    out.Fixed(cluster.lo);
  }
  out.LengthPrefixed(request.start_key);
  out.LengthPrefixed(request.end_key);
  out.LengthPrefixed(request.prefix);
  return bytes;
}

Binding BindingOf(const api::ScanRequest& request, const Uuid& cluster) {
  std::string bytes = RangeBytes(request, cluster);
  ByteWriter out(&bytes);
  if (!request.snapshot.empty() || !request.since.empty() || request.slices != 0) out.LengthPrefixed(request.snapshot);
  if (!request.since.empty() || request.slices != 0) out.LengthPrefixed(request.since);
  if (request.slices != 0) {
    out.Fixed(request.slices);
    out.Fixed(request.slice);
  }
  return {Hash64(bytes, kRangeSeed), request.reverse};
}

Binding BindingOf(const api::DeleteRangeRequest& request, const Uuid& cluster) {
  std::string bytes = RangeBytes(request, cluster);
  ByteWriter(&bytes).Fixed(request.max_version);
  return {Hash64(bytes, kDeleteSeed), /*reverse=*/false};
}

std::string Encode(const Binding& binding, const ScanCursor& cursor) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.Fixed(kCursorVersion);
  out.Fixed<uint8_t>(binding.reverse ? kReverseFlag : 0);
  out.Fixed(cursor.scan_id);
  out.Fixed(binding.range_hash);
  out.Bytes(cursor.last_key);
  Seal(&bytes, kCursorSeed);
  return bytes;
}

Result<ScanCursor> Decode(const Binding& binding, std::string_view bytes) {
  const uint8_t version = bytes.empty() ? 0 : static_cast<uint8_t>(bytes.front());
  const size_t fixed_bytes = version == 1 ? kCursorFixedBytes - sizeof(ScanCursor::scan_id) : kCursorFixedBytes;
  if (bytes.size() < fixed_bytes || bytes.size() > fixed_bytes + kMaxKeyBytes) {
    return Error(Code::kInvalidArgument, "the cursor was not issued by this server: no cursor has {} bytes",
                 bytes.size());
  }
  if (version != 1 && version != kCursorVersion) {
    return Error(Code::kInvalidArgument,
                 "the cursor has version {}; this server reads versions 1 and {}: start the scan again", version,
                 kCursorVersion);
  }
  if (!Unseal(bytes, kCursorSeed)) {
    return Error(Code::kInvalidArgument, "the cursor fails its checksum: it was altered or truncated");
  }
  ByteReader in(bytes.substr(0, bytes.size() - kSealBytes));
  in.Fixed<uint8_t>();  // the version
  const auto flags = in.Fixed<uint8_t>();
  ScanCursor cursor;
  if (version != 1) cursor.scan_id = in.Fixed<uint64_t>();
  const auto range_hash = in.Fixed<uint64_t>();
  cursor.last_key = in.rest();
  if (range_hash != binding.range_hash || (flags & kReverseFlag) != (binding.reverse ? kReverseFlag : 0)) {
    return Error(
        Code::kInvalidArgument,
        "the cursor belongs to another range, direction, snapshot, slice or cluster: send the same request as before, "
        "with this cursor");
  }
  return cursor;
}

}  // namespace

std::string ScanRange::PrefixEnd(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<uint8_t>(end.back()) == 0xff) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(static_cast<uint8_t>(end.back()) + 1);
  return end;
}

ScanRange ScanRange::Of(std::string_view start, std::string_view end, std::string_view prefix, bool reverse) {
  ScanRange range;
  range.reverse = reverse;
  range.start = std::max(start, prefix);
  std::string prefix_end = PrefixEnd(prefix);
  range.end = end.empty() || (!prefix_end.empty() && prefix_end < end) ? prefix_end : std::string(end);
  range.empty = !range.end.empty() && range.start >= range.end;
  if (std::string_view tag = HashTag(prefix); tag.size() < prefix.size()) range.tag = std::string(tag);
  return range;
}

void ScanRange::ContinueAfter(std::string key) {
  if (reverse) {
    if (end.empty() || key < end) end = std::move(key);
    empty = empty || start >= end;
  } else {
    if (key < start) return;
    start = std::move(key);
    start_exclusive = true;
    empty = empty || (!end.empty() && start >= end);
  }
}

Result<ScanRange> ScanRange::Of(const api::ScanRequest& request, const Uuid& cluster) {
  ScanRange range = Of(request.start_key, request.end_key, request.prefix, request.reverse);
  if (request.slices != 0) {
    range.slice = HashSlice::Of(static_cast<uint32_t>(request.slices), static_cast<uint32_t>(request.slice));
    range.empty |= range.tag && !range.slice.Has(range.tag_hash());
  }
  if (request.cursor.empty()) return range;
  ASSIGN_OR_RETURN(ScanCursor cursor, DecodeCursor(request, request.cursor, cluster));
  range.scan_id = cursor.scan_id;
  if (!cursor.last_key.empty()) range.ContinueAfter(std::move(cursor.last_key));
  return range;
}

Result<ScanRange> ScanRange::Of(const api::DeleteRangeRequest& request, const Uuid& cluster) {
  ScanRange range = Of(request.start_key, request.end_key, request.prefix, /*reverse=*/false);
  if (request.cursor.empty()) return range;
  ASSIGN_OR_RETURN(ScanCursor cursor, DecodeCursor(request, request.cursor, cluster));
  range.scan_id = cursor.scan_id;
  if (!cursor.last_key.empty()) range.ContinueAfter(std::move(cursor.last_key));
  return range;
}

std::string EncodeCursor(const api::ScanRequest& request, const ScanCursor& cursor, const Uuid& cluster) {
  return Encode(BindingOf(request, cluster), cursor);
}
std::string EncodeCursor(const api::DeleteRangeRequest& request, const ScanCursor& cursor, const Uuid& cluster) {
  return Encode(BindingOf(request, cluster), cursor);
}
Result<ScanCursor> DecodeCursor(const api::ScanRequest& request, std::string_view bytes, const Uuid& cluster) {
  return Decode(BindingOf(request, cluster), bytes);
}
Result<ScanCursor> DecodeCursor(const api::DeleteRangeRequest& request, std::string_view bytes, const Uuid& cluster) {
  return Decode(BindingOf(request, cluster), bytes);
}

}  // namespace pando
