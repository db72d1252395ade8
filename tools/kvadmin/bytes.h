// Conversions between the bytes of keys and values and the text that people type and read.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "src/base/base64.h"
#include "src/base/result.h"

namespace pando::admin {

enum class Encoding : uint8_t { kText, kHex, kBase64 };

// Decodes what the user typed. Text is taken as is. `what` names the input in the error ("key").
Result<std::string> DecodeInput(std::string_view typed, Encoding encoding, std::string_view what);

// Formats bytes for a terminal. As text, valid UTF-8 stays as is, except that control characters
// and backslashes are escaped, as are all other bytes (\n, \r, \t, \\, \xNN). Hex and base64 are
// encoded. With `max_columns` > 0, longer output is cut to that width and ends in "…".
std::string Printable(std::string_view bytes, Encoding encoding, size_t max_columns = 0);

std::string HexEncode(std::string_view bytes);
Result<std::string> HexDecode(std::string_view text);

bool IsUtf8(std::string_view bytes);

// Sets object[name] when the bytes are valid UTF-8, else object[name + "_b64"].
void SetBytes(nlohmann::ordered_json* object, const std::string& name, std::string_view bytes);

}  // namespace pando::admin
