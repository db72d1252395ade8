// Base64 with the standard alphabet.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace pando {

std::string Base64Encode(std::string_view bytes);
// The length of the text that so many bytes become.
constexpr size_t Base64Length(size_t bytes) { return (bytes + 2) / 3 * 4; }
// Writes this text where `to` points.
void Base64EncodeTo(std::string_view bytes, char* to);
Result<std::string> Base64Decode(std::string_view text);  // padding is optional

}  // namespace pando
