// Bytes in and out: keys and values are binary; people type and read text.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "src/base/result.h"

namespace pando::admin {

enum class Encoding : uint8_t { kText, kHex, kBase64 };

// What the user typed, as bytes. Text is taken as it is. `what` names it in the error ("key").
Result<std::string> DecodeInput(std::string_view typed, Encoding encoding, std::string_view what);

// For a terminal: text that is UTF-8 stays, control characters, backslashes and other bytes become \xNN, \n, \t, \\;
// hex and base64 are themselves. With `max_columns` > 0 it is cut there, ending in "…".
std::string Printable(std::string_view bytes, Encoding encoding, size_t max_columns = 0);

std::string Base64Encode(std::string_view bytes);
Result<std::string> Base64Decode(std::string_view text);  // standard alphabet; padding may be missing
std::string HexEncode(std::string_view bytes);
Result<std::string> HexDecode(std::string_view text);

bool IsUtf8(std::string_view bytes);

// Sets object[name] when the bytes are UTF-8, else object[name + "_b64"].
void SetBytes(nlohmann::ordered_json* object, const std::string& name, std::string_view bytes);

}  // namespace pando::admin
