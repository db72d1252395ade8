// The benchmark's data: keys, values and the choice of keys, all functions of (index, seed), so that every system is
// given the same bytes and any reply can be checked without keeping a copy.
//
// Threads: KeyMaker, FillValue and CheckValue are pure; a chooser belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pando::bench {

inline constexpr size_t kMinKeyBytes = 16;
inline constexpr size_t kMinValueBytes = 16;  // room for the seed that makes a value checkable
inline constexpr uint32_t kCompressiblePercent = 50;

// SplitMix64's output function: a bijection of the 64-bit numbers that looks random.
uint64_t Mix64(uint64_t x);

// xoshiro256**: the generator's own randomness, so that a run with one --seed sends the same requests everywhere.
class Random {
 public:
  explicit Random(uint64_t seed);
  uint64_t Next();
  uint64_t Below(uint64_t bound);  // uniform in [0, bound); bound > 0
  double Fraction();               // uniform in [0, 1)

 private:
  uint64_t s_[4];
};

// Writes the key of record `index` (16 hexadecimal digits of a bijection of it, then dots up to `bytes`) to `out`.
// Keys of neighbouring indexes are far apart, so that loading in index order inserts all over the tree.
void WriteKey(uint64_t index, size_t bytes, char* out);
std::string MakeKey(uint64_t index, size_t bytes);

// Writes a value of `bytes` (>= kMinValueBytes): the 8-byte seed, random bytes, then repetitive text, which is the
// share that compresses.
void FillValue(std::string_view key, uint64_t seed, char* out, size_t bytes,
               uint32_t compressible_percent = kCompressiblePercent);
// True when `value` is what FillValue wrote for `key` with whatever seed it names, and of `bytes`.
bool CheckValue(std::string_view key, std::string_view value, size_t bytes,
                uint32_t compressible_percent = kCompressiblePercent);

enum class Distribution : uint8_t { kUniform, kZipfian, kLatest };

// Ranks 0..n-1 with P(rank) ~ 1/(rank+1)^0.99, after Gray et al., "Quickly Generating Billion-Record Synthetic
// Databases" (the method YCSB uses). The table-free form needs zeta(n), which is summed once.
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

// Chooses record indexes below a count that may grow (inserts).
class KeyChooser {
 public:
  KeyChooser(Distribution distribution, uint64_t count);
  uint64_t Next(Random& random);
  // After an insert. The shape over ranks stays that of the first count: extending zeta would cost more than a request.
  void Grow(uint64_t count) { count_ = count; }
  uint64_t count() const { return count_; }

 private:
  Distribution distribution_;
  uint64_t count_;
  uint64_t first_count_;  // what ranks are scattered over: the popular records stay the same ones while inserts go on
  Zipfian zipfian_;
};

}  // namespace pando::bench
