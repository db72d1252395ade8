// The page cursor on the wire: a PageCursor as clients of readPages carry it (docs/FORMAT.md, "Page cursor").
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "src/partition/types.h"

namespace pando {

inline constexpr uint8_t kPageCursorVersion = 1;
std::string EncodePageCursor(const PageCursor& cursor);
// Empty bytes are the cursor of the first page. kInvalidArgument when they are no cursor, or of another version.
Result<PageCursor> DecodePageCursor(std::string_view bytes);

}  // namespace pando
