#include "tools/kvbench/data.h"

#include <algorithm>
#include <cmath>

#include "src/base/check.h"
#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando::bench {

namespace {

constexpr std::string_view kText = "pando: one root system, many trunks; the half of a value that compresses. ";

uint64_t RotateLeft(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

}  // namespace

uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

Random::Random(uint64_t seed) {
  for (uint64_t& s : s_) s = seed = Mix64(seed);
}

uint64_t Random::Next() {
  uint64_t result = RotateLeft(s_[1] * 5, 7) * 9;
  uint64_t t = s_[1] << 17;
  s_[2] ^= s_[0];
  s_[3] ^= s_[1];
  s_[1] ^= s_[2];
  s_[0] ^= s_[3];
  s_[2] ^= t;
  s_[3] = RotateLeft(s_[3], 45);
  return result;
}

// The multiply-shift method. Its bias is below bound / 2^64.
uint64_t Random::Below(uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(Next()) * bound) >> 64);
}

double Random::Fraction() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

void WriteKey(uint64_t index, size_t bytes, char* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  uint64_t x = Mix64(index);
  for (int i = 15; i >= 0; --i, x >>= 4) out[i] = kHex[x & 15];
  std::fill(out + 16, out + bytes, '.');
}

std::string MakeKey(uint64_t index, size_t bytes) {
  std::string key(bytes, '\0');
  WriteKey(index, bytes, key.data());
  return key;
}

void FillValue(std::string_view key, uint64_t seed, char* out, size_t bytes, uint32_t compressible_percent) {
  StoreLE<uint64_t>(out, seed);
  uint64_t state = Hash64(key, seed);
  size_t at = 8;
  const size_t text_begin = std::max<size_t>(bytes * (100 - compressible_percent) / 100, 8) & ~size_t{7};
  for (; at < text_begin; at += 8) StoreLE<uint64_t>(out + at, Mix64(state++));
  if (compressible_percent == 0 && at < bytes) {
    const uint64_t last = Mix64(state);
    std::memcpy(out + at, &last, bytes - at);
    at = bytes;
  }
  while (at < bytes) {
    size_t n = std::min(kText.size(), bytes - at);
    std::memcpy(out + at, kText.data(), n);
    at += n;
  }
}

bool CheckValue(std::string_view key, std::string_view value, size_t bytes, uint32_t compressible_percent) {
  if (value.size() != bytes || bytes < kMinValueBytes) return false;
  std::string expected(bytes, '\0');
  FillValue(key, LoadLE<uint64_t>(value.data()), expected.data(), bytes, compressible_percent);
  return expected == value;
}

Zipfian::Zipfian(uint64_t n) {
  zeta_2_ = 1 + std::pow(0.5, kTheta);
  alpha_ = 1 / (1 - kTheta);
  for (; n_ < n; ++n_) zeta_n_ += 1 / std::pow(static_cast<double>(n_ + 1), kTheta);
  eta_ = (1 - std::pow(2.0 / static_cast<double>(n_), 1 - kTheta)) / (1 - zeta_2_ / zeta_n_);
}

uint64_t Zipfian::Next(Random& random) {
  double u = random.Fraction();
  double uz = u * zeta_n_;
  if (uz < 1) return 0;
  if (uz < zeta_2_) return std::min<uint64_t>(1, n_ - 1);
  auto rank = static_cast<uint64_t>(static_cast<double>(n_) * std::pow(eta_ * u - eta_ + 1, alpha_));
  return std::min(rank, n_ - 1);
}

KeyChooser::KeyChooser(Distribution distribution, uint64_t count)
    : distribution_(distribution),
      count_(count),
      first_count_(count),
      zipfian_(distribution == Distribution::kUniform ? 1 : std::max<uint64_t>(count, 1)) {
  CHECK_GT(count, 0u);
}

uint64_t KeyChooser::Next(Random& random) {
  switch (distribution_) {
    case Distribution::kUniform: return random.Below(count_);
    // Scrambled, so that the popular records lie all over the key space and not at its start.
    case Distribution::kZipfian: return Mix64(zipfian_.Next(random)) % first_count_;
    case Distribution::kLatest: return count_ - 1 - std::min(zipfian_.Next(random), count_ - 1);
  }
  LOG(FATAL) << "unknown distribution";
  __builtin_unreachable();
}

}  // namespace pando::bench
