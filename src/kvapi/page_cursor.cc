#include "src/kvapi/page_cursor.h"

#include "src/kvapi/sealed_bytes.h"

namespace pando {

namespace {
constexpr uint64_t kSeed = 0x70616e646f2d7063;  // "pando-pc"
}  // namespace

std::string EncodePageCursor(const PageCursor& cursor) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.Fixed(kPageCursorVersion);
  out.Fixed(cursor.parts);
  out.Bytes(cursor.key);
  Seal(&bytes, kSeed);
  return bytes;
}

Result<PageCursor> DecodePageCursor(std::string_view bytes) {
  PageCursor cursor;
  if (bytes.empty()) return cursor;
  std::optional<std::string_view> sealed = Unseal(bytes, kSeed);
  ByteReader in(sealed.value_or(std::string_view()));
  const auto version = in.Fixed<uint8_t>();
  cursor.parts = in.Fixed<uint32_t>();
  cursor.key = in.rest();
  if (!sealed || !in.ok() || version != kPageCursorVersion) {
    return Error(
        Code::kInvalidArgument,
        "the cursor ({} bytes) is not a page cursor that this server can read: start again with an empty cursor",
        bytes.size());
  }
  return cursor;
}

}  // namespace pando
