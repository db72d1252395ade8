#include "src/base/base64.h"

#include <array>
#include <cstdint>

namespace pando {
namespace {

constexpr char kBase64Digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoDigit = 0xff;

constexpr std::array<uint8_t, 256> MakeBase64Values() {
  std::array<uint8_t, 256> values{};
  for (auto& v : values) v = kNoDigit;
  for (uint8_t i = 0; i < 64; ++i) values[static_cast<uint8_t>(kBase64Digits[i])] = i;
  return values;
}
constexpr std::array<uint8_t, 256> kBase64Values = MakeBase64Values();

}  // namespace

std::string Base64Encode(std::string_view bytes) {
  // Of the right length at once: exports encode gigabytes.
  std::string out((bytes.size() + 2) / 3 * 4, '=');
  char* to = out.data();
  const auto* from = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto digit = [](uint32_t group, int shift) { return kBase64Digits[group >> shift & 63]; };
  size_t left = bytes.size();
  for (; left >= 3; left -= 3, from += 3, to += 4) {
    const uint32_t group = uint32_t{from[0]} << 16 | uint32_t{from[1]} << 8 | from[2];
    to[0] = digit(group, 18);
    to[1] = digit(group, 12);
    to[2] = digit(group, 6);
    to[3] = digit(group, 0);
  }
  if (left > 0) {
    const uint32_t group = uint32_t{from[0]} << 16 | (left == 2 ? uint32_t{from[1]} << 8 : 0);
    to[0] = digit(group, 18);
    to[1] = digit(group, 12);
    if (left == 2) to[2] = digit(group, 6);
  }
  return out;
}

Result<std::string> Base64Decode(std::string_view text) {
  std::string_view digits = text;
  for (int pad = 0; pad < 2 && digits.ends_with('='); ++pad) digits.remove_suffix(1);
  if (digits.size() % 4 == 1 || (digits.size() != text.size() && text.size() % 4 != 0)) {
    return Error(Code::kInvalidArgument, "base64 text cannot have {} characters", text.size());
  }
  std::string out;
  out.reserve(digits.size() / 4 * 3 + 2);
  uint32_t bits = 0;
  unsigned have = 0;
  for (size_t i = 0; i < digits.size(); ++i) {
    uint8_t v = kBase64Values[static_cast<uint8_t>(digits[i])];
    if (v == kNoDigit) return Error(Code::kInvalidArgument, "not base64 at character {}", i + 1);
    bits = bits << 6 | v;
    have += 6;
    if (have >= 8) out += static_cast<char>(bits >> (have -= 8) & 0xff);
  }
  return out;
}

}  // namespace pando
