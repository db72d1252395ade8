#include "src/base/base64.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

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

#ifdef __AVX2__
constexpr size_t kVectorBytes = 24, kVectorReads = 28;

// Encodes kVectorBytes bytes, of kVectorReads that can be read, as 32 digits. W. Mula and D. Lemire, "Faster Base64
// Encoding and Decoding Using AVX2 Instructions", 2018.
inline void EncodeVector(const uint8_t* from, char* to) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + kVectorBytes / 2));
  // Each group of three bytes goes into 32 bits, and its four digits into a byte each.
  const __m256i order = _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10,  //
                                         1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
  const __m256i in = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), order);
  const __m256i first_third =
      _mm256_mulhi_epu16(_mm256_and_si256(in, _mm256_set1_epi32(0x0fc0fc00)), _mm256_set1_epi32(0x04000040));
  const __m256i second_fourth =
      _mm256_mullo_epi16(_mm256_and_si256(in, _mm256_set1_epi32(0x003f03f0)), _mm256_set1_epi32(0x01000010));
  const __m256i values = _mm256_or_si256(first_third, second_fourth);
  // What is added to a value, by its range: 13 for A to Z, 0 for a to z, 1 to 10 for digits, 11 for +, 12 for /.
  __m256i range = _mm256_subs_epu8(values, _mm256_set1_epi8(51));
  range =
      _mm256_or_si256(range, _mm256_and_si256(_mm256_cmpgt_epi8(_mm256_set1_epi8(26), values), _mm256_set1_epi8(13)));
  constexpr char kDigit = '0' - 52, kLower = 'a' - 26, kPlus = '+' - 62, kSlash = '/' - 63;
  const __m256i shifts =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(kLower, kDigit, kDigit, kDigit, kDigit, kDigit, kDigit, kDigit, kDigit,
                                                kDigit, kDigit, kPlus, kSlash, 'A', 0, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi8(values, _mm256_shuffle_epi8(shifts, range)));
}
#endif

}  // namespace

std::string Base64Encode(std::string_view bytes) {
  std::string out(Base64Length(bytes.size()), '=');
  Base64EncodeTo(bytes, out.data());
  return out;
}

void Base64EncodeTo(std::string_view bytes, char* to) {
  const auto* from = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto digit = [](uint32_t group, int shift) { return kBase64Digits[group >> shift & 63]; };
  size_t left = bytes.size();
#ifdef __AVX2__
  for (; left >= kVectorReads; left -= kVectorBytes, from += kVectorBytes, to += 32) EncodeVector(from, to);
#endif
  for (; left >= 3; left -= 3, from += 3, to += 4) {
    const uint32_t group = uint32_t{from[0]} << 16 | uint32_t{from[1]} << 8 | from[2];
    to[0] = digit(group, 18);
    to[1] = digit(group, 12);
    to[2] = digit(group, 6);
    to[3] = digit(group, 0);
  }
  if (left == 0) return;
  const uint32_t group = uint32_t{from[0]} << 16 | (left == 2 ? uint32_t{from[1]} << 8 : 0);
  to[0] = digit(group, 18);
  to[1] = digit(group, 12);
  to[2] = left == 2 ? digit(group, 6) : '=';
  to[3] = '=';
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
