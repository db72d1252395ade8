// RecentLatency: how long calls took within the last seconds, in a fixed memory of 2 KiB. It keeps two windows: one
// that fills, and the one before it. What is asked is answered from both, so it forgets what is older than two windows.
//
// Values are kept to an eighth of their power of two.
//
// Threads: one reactor, or a plain value.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "src/io/reactor.h"

namespace pando {

class RecentLatency {
 public:
  static constexpr Nanos kWindowNs = 10 * kSecond;

  void Record(Nanos took_ns, Nanos now_ns) {
    Turn(now_ns);
    ++windows_[0][BucketOf(took_ns)];
  }
  // Forgets what is too old. Whoever asks does this first.
  void Turn(Nanos now_ns) {
    if (now_ns - began_ns_ < kWindowNs) return;
    windows_[1] = now_ns - began_ns_ < 2 * kWindowNs ? windows_[0] : Window{};
    windows_[0] = Window{};
    began_ns_ = now_ns;
  }
  void Merge(const RecentLatency& other) {
    for (size_t i = 0; i < kBuckets; ++i) windows_[0][i] += other.windows_[0][i] + other.windows_[1][i];
  }
  uint64_t count() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < kBuckets; ++i) sum += windows_[0][i] + windows_[1][i];
    return sum;
  }
  // The time that `percent` of the calls did not exceed, rounded up to the end of its bucket; 0: there were none.
  Nanos Percentile(double percent) const {
    const uint64_t all = count();
    if (all == 0) return 0;
    const auto rank = std::max<uint64_t>(static_cast<uint64_t>(percent / 100 * static_cast<double>(all) + 0.5), 1);
    uint64_t below = 0;
    for (size_t i = 0; i < kBuckets; ++i) {
      below += windows_[0][i] + windows_[1][i];
      if (below >= rank) return EndOf(i);
    }
    return EndOf(kBuckets - 1);
  }

 private:
  static constexpr unsigned kSubBits = 3, kFirstBit = 10, kLastBit = 40;  // 1 us to 18 min
  static constexpr size_t kBuckets = (kLastBit - kFirstBit) << kSubBits;
  using Window = std::array<uint32_t, kBuckets>;

  static size_t BucketOf(Nanos ns) {
    const auto value = static_cast<uint64_t>(std::clamp<Nanos>(ns, Nanos{1} << kFirstBit, (Nanos{1} << kLastBit) - 1));
    const auto top = static_cast<unsigned>(std::bit_width(value)) - 1;
    return ((top - kFirstBit) << kSubBits) + ((value >> (top - kSubBits)) & ((1u << kSubBits) - 1));
  }
  static Nanos EndOf(size_t bucket) {
    const auto top = static_cast<unsigned>(bucket >> kSubBits) + kFirstBit;
    const Nanos eighths = static_cast<Nanos>(bucket & ((1u << kSubBits) - 1)) + (1 << kSubBits) + 1;
    return eighths << (top - kSubBits);
  }

  std::array<Window, 2> windows_{};
  Nanos began_ns_ = 0;
};

}  // namespace pando
