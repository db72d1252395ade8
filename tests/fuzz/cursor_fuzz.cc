// Fuzzes the cursors of scan and deleteRange and the watch position, with any range: the bytes are
// refused, or they are exactly those that belong to this request.
#include <cstdint>
#include <string>

#include "src/base/codec.h"
#include "src/base/limits.h"
#include "src/kvapi/scan_range.h"
#include "src/kvapi/watch_position.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  ByteReader in({reinterpret_cast<const char*>(data), size});
  api::ScanRequest request;
  request.reverse = in.Fixed<uint8_t>() & 1;
  request.start_key = in.LengthPrefixed();
  request.end_key = in.LengthPrefixed();
  request.prefix = in.LengthPrefixed();
  request.cursor = in.rest();
  auto given = DecodeCursor(request, request.cursor);
  if (given.ok()) {
    CHECK(request.cursor[0] == 1 ? given->scan_id == 0 : EncodeCursor(request, *given) == request.cursor);
  }
  auto range = ScanRange::Of(request);
  CHECK(range.ok() == (given.ok() || request.cursor.empty()));

  // A cursor that the encoder produced is accepted; with one byte changed it is refused.
  std::string key = request.start_key.empty() ? "k" : request.start_key.substr(0, kMaxKeyBytes);
  std::string cursor = EncodeCursor(request, {size + 1, key});
  auto decoded = DecodeCursor(request, cursor);
  CHECK(decoded.ok() && decoded->last_key == key && decoded->scan_id == size + 1);
  cursor[size % cursor.size()] = static_cast<char>(cursor[size % cursor.size()] ^ 0x10);
  CHECK(!DecodeCursor(request, cursor).ok());

  // The same bytes for deleteRange: no cursor of one call is valid for the other.
  api::DeleteRangeRequest removes;
  removes.start_key = request.start_key;
  removes.end_key = request.end_key;
  removes.prefix = request.prefix;
  removes.max_version = static_cast<int64_t>(size % 3);
  auto of_delete = DecodeCursor(removes, request.cursor);
  CHECK(!of_delete.ok() || !given.ok());
  if (of_delete.ok() && request.cursor[0] != 1) CHECK(EncodeCursor(removes, *of_delete) == request.cursor);

  // The same bytes as a watch position.
  WatchBinding binding{Uuid{1, 2}, request.prefix, 2, {0, 1}};
  if (size % 3 == 1) binding.ids = {2, 3, 1};  // the first one was split
  if (size % 3 == 2) binding.ids = {1};
  auto position = DecodeWatchPosition(binding, request.cursor);
  WatchPosition made;
  for (size_t i = 0; i < binding.ids.size(); ++i) made.versions.push_back(size * i);
  std::string bytes = EncodeWatchPosition(binding, made);
  auto again = DecodeWatchPosition(binding, bytes);
  CHECK(again.ok() && again->versions == made.versions);
  bytes[size % bytes.size()] = static_cast<char>(bytes[size % bytes.size()] ^ 1);
  CHECK(!DecodeWatchPosition(binding, bytes).ok());
  return 0;
}
