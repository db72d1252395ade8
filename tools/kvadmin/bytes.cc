#include "tools/kvadmin/bytes.h"

namespace pando::admin {

namespace {

constexpr char kHexDigits[] = "0123456789abcdef";
int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Length of the valid UTF-8 sequence at the front of `s`, or 0 when there is none. Overlong forms,
// surrogates and code points above U+10FFFF are invalid.
size_t Utf8Length(std::string_view s) {
  auto byte = [&](size_t i) { return i < s.size() ? static_cast<uint8_t>(s[i]) : uint8_t{0}; };
  auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  uint8_t a = byte(0);
  if (a < 0x80) return 1;
  if (a >= 0xc2 && a <= 0xdf) return continues(1) ? 2 : 0;
  if (a >= 0xe0 && a <= 0xef) {
    if (!continues(1) || !continues(2)) return 0;
    if (a == 0xe0 && byte(1) < 0xa0) return 0;
    if (a == 0xed && byte(1) > 0x9f) return 0;
    return 3;
  }
  if (a >= 0xf0 && a <= 0xf4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (a == 0xf0 && byte(1) < 0x90) return 0;
    if (a == 0xf4 && byte(1) > 0x8f) return 0;
    return 4;
  }
  return 0;
}

// Includes the C1 control characters (U+0080..U+009F), which terminals obey like the ASCII ones.
bool IsControl(std::string_view sequence) {
  auto a = static_cast<uint8_t>(sequence[0]);
  if (sequence.size() == 1) return a < 0x20 || a == 0x7f;
  return sequence.size() == 2 && a == 0xc2 && static_cast<uint8_t>(sequence[1]) < 0xa0;
}

void AppendEscaped(std::string_view bytes, std::string* out) {
  for (char c : bytes) {
    switch (c) {
      case '\n': *out += "\\n"; break;
      case '\r': *out += "\\r"; break;
      case '\t': *out += "\\t"; break;
      case '\\': *out += "\\\\"; break;
      default: {
        auto b = static_cast<uint8_t>(c);
        *out += "\\x";
        *out += kHexDigits[b >> 4];
        *out += kHexDigits[b & 15];
      }
    }
  }
}

std::string PrintableText(std::string_view bytes, size_t max_columns) {
  std::string out;
  size_t columns = 0;
  while (!bytes.empty()) {
    size_t n = Utf8Length(bytes);
    std::string piece;
    if (n == 0 || IsControl(bytes.substr(0, n)) || bytes[0] == '\\') {
      n = std::max<size_t>(n, 1);
      AppendEscaped(bytes.substr(0, n), &piece);
    } else {
      piece = bytes.substr(0, n);
    }
    size_t width = static_cast<uint8_t>(piece[0]) >= 0x80 ? 1 : piece.size();
    bool last = bytes.size() == n;
    if (max_columns > 0 && columns + width + (last ? 0 : 1) > max_columns) return out + "…";
    out += piece;
    columns += width;
    bytes.remove_prefix(n);
  }
  return out;
}

}  // namespace

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    size_t n = Utf8Length(bytes);
    if (n == 0) return false;
    bytes.remove_prefix(n);
  }
  return true;
}

std::string HexEncode(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) {
    out += kHexDigits[static_cast<uint8_t>(c) >> 4];
    out += kHexDigits[static_cast<uint8_t>(c) & 15];
  }
  return out;
}

Result<std::string> HexDecode(std::string_view text) {
  if (text.size() % 2 != 0) return Error(Code::kInvalidArgument, "hexadecimal text has an odd number of digits");
  std::string out;
  out.reserve(text.size() / 2);
  for (size_t i = 0; i < text.size(); i += 2) {
    int high = HexValue(text[i]), low = HexValue(text[i + 1]);
    if (high < 0 || low < 0) return Error(Code::kInvalidArgument, "not hexadecimal at character {}", i + 1);
    out += static_cast<char>(high << 4 | low);
  }
  return out;
}

Result<std::string> DecodeInput(std::string_view typed, Encoding encoding, std::string_view what) {
  if (encoding == Encoding::kText) return std::string(typed);
  Result<std::string> bytes = encoding == Encoding::kHex ? HexDecode(typed) : Base64Decode(typed);
  if (!bytes.ok()) return Error(Code::kInvalidArgument, "{}: {}", what, bytes.status().message());
  return bytes;
}

std::string Printable(std::string_view bytes, Encoding encoding, size_t max_columns) {
  if (encoding == Encoding::kText) return PrintableText(bytes, max_columns);
  std::string all = encoding == Encoding::kHex ? HexEncode(bytes) : Base64Encode(bytes);
  if (max_columns > 0 && all.size() > max_columns) return all.substr(0, max_columns - 1) + "…";
  return all;
}

void SetBytes(nlohmann::ordered_json* object, const std::string& name, std::string_view bytes) {
  if (IsUtf8(bytes)) {
    (*object)[name] = std::string(bytes);
  } else {
    (*object)[name + "_b64"] = Base64Encode(bytes);
  }
}

}  // namespace pando::admin
