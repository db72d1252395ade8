// Encodes and decodes the page cursor, which a client of readPages carries from call to call
// (docs/FORMAT.md, "Page cursor").
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "src/model/types.h"

namespace pando {

inline constexpr uint8_t kPageCursorVersion = 1;
std::string EncodePageCursor(const PageCursor& cursor);
// Empty bytes decode to the cursor of the first page. kInvalidArgument if the bytes are not a
// cursor or have another version.
Result<PageCursor> DecodePageCursor(std::string_view bytes);

}  // namespace pando
