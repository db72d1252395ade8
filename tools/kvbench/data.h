// The benchmark's data: keys, values and the choice of keys. All are functions of (index, seed), so
// every system gets the same bytes, and any reply can be checked without a copy of the data.
//
// Threads: Mix64, WriteKey, MakeKey, FillValue and CheckValue are pure functions. A Random, Zipfian
// or KeyChooser belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pando::bench {

inline constexpr size_t kMinKeyBytes = 16;
inline constexpr size_t kMinValueBytes = 16;  // room for the seed that makes a value checkable
inline constexpr uint32_t kCompressiblePercent = 50;

// SplitMix64's output function: a bijection of the 64-bit numbers whose output looks random.
uint64_t Mix64(uint64_t x);

// The xoshiro256** generator. Runs with the same --seed send the same requests on every platform.
class Random {
 public:
  explicit Random(uint64_t seed);
  uint64_t Next();
  uint64_t Below(uint64_t bound);  // uniform in [0, bound); bound > 0
  double Fraction();               // uniform in [0, 1)

 private:
  uint64_t s_[4];
};

// Writes the key of record `index` to `out`: Mix64(index) as 16 hexadecimal digits, then dots up to
// `bytes`. Keys of neighboring indexes are far apart, so loading in index order inserts all over
// the tree.
void WriteKey(uint64_t index, size_t bytes, char* out);
std::string MakeKey(uint64_t index, size_t bytes);

// Writes a value of `bytes` (>= kMinValueBytes): the 8-byte seed, random bytes, then repetitive
// text. The text is the part that compresses, `compressible_percent` of the value.
void FillValue(std::string_view key, uint64_t seed, char* out, size_t bytes,
               uint32_t compressible_percent = kCompressiblePercent);
// True when `value` has `bytes` bytes and is what FillValue writes for `key` with the seed that the
// value begins with.
bool CheckValue(std::string_view key, std::string_view value, size_t bytes,
                uint32_t compressible_percent = kCompressiblePercent);

enum class Distribution : uint8_t { kUniform, kZipfian, kLatest };

// Draws ranks 0..n-1 with P(rank) ~ 1/(rank+1)^0.99, after Gray et al., "Quickly Generating
// Billion-Record Synthetic Databases" (the method YCSB uses). It needs no table, only zeta(n),
// which the constructor sums once.
class Zipfian {
 public:
  static constexpr double kTheta = 0.99;
  explicit Zipfian(uint64_t n);
  uint64_t Next(Random& random);
  uint64_t n() const { return n_; }

 private:
  uint64_t n_ = 0;
  double zeta_n_ = 0, zeta_2_ = 0, alpha_ = 0, eta_ = 0;
};

// Chooses record indexes below a count, which may grow through inserts.
class KeyChooser {
 public:
  KeyChooser(Distribution distribution, uint64_t count);
  uint64_t Next(Random& random);
  // Call it after an insert. The distribution over ranks stays that of the first count, because
  // extending zeta would cost more than a request.
  void Grow(uint64_t count) { count_ = count; }
  uint64_t count() const { return count_; }

 private:
  Distribution distribution_;
  uint64_t count_;
  // kZipfian scatters its ranks over this count, so that the popular records stay the same during
  // inserts.
  uint64_t first_count_;
  Zipfian zipfian_;
};

}  // namespace pando::bench
