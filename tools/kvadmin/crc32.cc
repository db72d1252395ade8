#include "tools/kvadmin/crc32.h"

#include <zlib.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace pando::admin {

namespace {

uint32_t ZlibCrc32(uint32_t crc, std::string_view bytes) {
  return static_cast<uint32_t>(
      ::crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<z_size_t>(bytes.size())));
}

#ifdef __x86_64__
#define PANDO_CLMUL __attribute__((target("pclmul,sse4.1")))

// V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009, for the
// bit-reflected polynomial 0xEDB88320. A lane of 128 bits is folded into the one that lies `by` behind it: each half is
// multiplied with a power of x modulo the polynomial.
PANDO_CLMUL inline __m128i Fold(__m128i lane, __m128i by, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(lane, by, 0x00), high = _mm_clmulepi64_si128(lane, by, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// The remainder of 128 bits, as 32.
PANDO_CLMUL inline uint32_t Reduce(__m128i lane) {
  const __m128i low_32 = _mm_setr_epi32(-1, 0, -1, 0);
  const __m128i k3_k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  lane = _mm_xor_si128(_mm_srli_si128(lane, 8), _mm_clmulepi64_si128(lane, k3_k4, 0x10));
  const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124);
  lane = _mm_xor_si128(_mm_srli_si128(lane, 4), _mm_clmulepi64_si128(_mm_and_si128(lane, low_32), k5, 0x00));
  // Barrett's reduction: the polynomial, and its inverse.
  const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  __m128i quotient = _mm_clmulepi64_si128(_mm_and_si128(lane, low_32), poly, 0x10);
  quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low_32), poly, 0x00);
  return static_cast<uint32_t>(_mm_extract_epi32(_mm_xor_si128(lane, quotient), 1));
}

// Of the first bytes, as many as are whole blocks of 64. REQUIRES: there is one.
PANDO_CLMUL uint32_t ClmulCrc32(std::string_view bytes) {
  const auto* from = reinterpret_cast<const __m128i*>(bytes.data());
  size_t blocks = bytes.size() / 64;
  const __m128i k1_k2 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  const __m128i k3_k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  __m128i a = _mm_xor_si128(_mm_loadu_si128(from), _mm_cvtsi32_si128(-1)), b = _mm_loadu_si128(from + 1);
  __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
  for (from += 4; --blocks > 0; from += 4) {
    a = Fold(a, k1_k2, _mm_loadu_si128(from));
    b = Fold(b, k1_k2, _mm_loadu_si128(from + 1));
    c = Fold(c, k1_k2, _mm_loadu_si128(from + 2));
    d = Fold(d, k1_k2, _mm_loadu_si128(from + 3));
  }
  return ~Reduce(Fold(Fold(Fold(a, k3_k4, b), k3_k4, c), k3_k4, d));
}
#undef PANDO_CLMUL
#endif

}  // namespace

uint32_t Crc32(std::string_view bytes) {
#ifdef __x86_64__
  static const bool fast = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  if (fast && bytes.size() >= 64) {
    const size_t blocks = bytes.size() / 64 * 64;
    return ZlibCrc32(ClmulCrc32(bytes), bytes.substr(blocks));
  }
#endif
  return ZlibCrc32(0, bytes);
}

}  // namespace pando::admin
