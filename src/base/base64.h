// Base64 with the standard alphabet.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace pando {

std::string Base64Encode(std::string_view bytes);
Result<std::string> Base64Decode(std::string_view text);  // padding is optional

}  // namespace pando
