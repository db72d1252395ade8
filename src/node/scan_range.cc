#include "src/node/scan_range.h"

#include <algorithm>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/node/sealed_bytes.h"

namespace pando {

namespace {

constexpr uint64_t kRangeSeed = 0x70616e646f2d7263;   // "pando-rc"
constexpr uint64_t kCursorSeed = 0x70616e646f2d6373;  // "pando-cs"
constexpr size_t kCursorFixedBytes = 1 + 1 + 8 + 8;   // version, flags, range hash, checksum
constexpr uint8_t kReverseFlag = 1;

uint64_t RangeHash(const api::ScanRequest& request) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.LengthPrefixed(request.start_key);
  out.LengthPrefixed(request.end_key);
  out.LengthPrefixed(request.prefix);
  if (!request.snapshot.empty() || !request.since.empty()) out.LengthPrefixed(request.snapshot);
  if (!request.since.empty()) out.LengthPrefixed(request.since);
  return Hash64(bytes, kRangeSeed);
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

Result<ScanRange> ScanRange::Of(const api::ScanRequest& request) {
  ScanRange range = Of(request.start_key, request.end_key, request.prefix, request.reverse);
  if (request.cursor.empty()) return range;
  ASSIGN_OR_RETURN(std::string last, DecodeCursor(request, request.cursor));
  if (request.reverse) {
    range.end = last;
    range.empty = range.empty || range.start >= last;
  } else {
    range.start = last;
    range.start_exclusive = true;
  }
  return range;
}

std::string EncodeCursor(const api::ScanRequest& request, std::string_view last_key) {
  std::string cursor;
  ByteWriter out(&cursor);
  out.Fixed(kCursorVersion);
  out.Fixed<uint8_t>(request.reverse ? kReverseFlag : 0);
  out.Fixed(RangeHash(request));
  out.Bytes(last_key);
  Seal(&cursor, kCursorSeed);
  return cursor;
}

Result<std::string> DecodeCursor(const api::ScanRequest& request, std::string_view cursor) {
  if (cursor.size() <= kCursorFixedBytes || cursor.size() > kCursorFixedBytes + kMaxKeyBytes) {
    return Error(Code::kInvalidArgument, "{} bytes are no cursor of this server", cursor.size());
  }
  ByteReader in(cursor.substr(0, cursor.size() - kSealBytes));
  auto version = in.Fixed<uint8_t>();
  if (version != kCursorVersion) {
    return Error(Code::kInvalidArgument,
                 "the cursor is of version {}; this server reads version {}: start the scan anew", version,
                 kCursorVersion);
  }
  auto flags = in.Fixed<uint8_t>();
  auto range_hash = in.Fixed<uint64_t>();
  std::string_view last_key = in.rest();
  if (!Unseal(cursor, kCursorSeed)) {
    return Error(Code::kInvalidArgument, "the cursor fails its checksum: it was changed or cut on its way");
  }
  if (range_hash != RangeHash(request) || (flags & kReverseFlag) != (request.reverse ? kReverseFlag : 0)) {
    return Error(Code::kInvalidArgument,
                 "the cursor belongs to another range, direction or snapshot: send the same start_key, "
                 "end_key, prefix, reverse and snapshot as before");
  }
  return std::string(last_key);
}

}  // namespace pando
