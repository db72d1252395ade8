// Any bytes as a scan's cursor, under any range: refused, or the cursor of exactly this range and last key.
#include <cstdint>
#include <string>

#include "src/base/codec.h"
#include "src/base/limits.h"
#include "src/node/scan_range.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;
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

  // A cursor made here is accepted; with one byte changed it is not.
  std::string key = request.start_key.empty() ? "k" : request.start_key.substr(0, kMaxKeyBytes);
  std::string cursor = EncodeCursor(request, {size + 1, key});
  auto decoded = DecodeCursor(request, cursor);
  CHECK(decoded.ok() && decoded->last_key == key && decoded->scan_id == size + 1);
  cursor[size % cursor.size()] = static_cast<char>(cursor[size % cursor.size()] ^ 0x10);
  CHECK(!DecodeCursor(request, cursor).ok());
  return 0;
}
