// SimClock: the clocks of one simulated machine. They run at a rate of their own, and may stand
// still while the machine is frozen. True time is that of the simulation. The boot clock never goes
// back before the machine is booted again; only the wall clock jumps.
//
// Threads: a value.
#pragma once

#include <algorithm>

#include "src/base/check.h"
#include "src/io/reactor.h"

namespace pando {

class SimClock {
 public:
  static constexpr int64_t kStartWallMs = 1'700'000'000'000;  // wall clocks start in November 2023

  // CLOCK_BOOTTIME at a true time.
  Nanos BootNs(Nanos true_ns) const { return Elapsed(true_ns) - boot_origin_ns_; }
  int64_t WallMs(Nanos true_ns) const { return kStartWallMs + Elapsed(true_ns) / kMillisecond + wall_offset_ms_; }
  // The first true time at which the boot clock shows at least `boot_ns`.
  Nanos TrueTimeOf(Nanos boot_ns) const {
    if (boot_ns > kFarNs) return kFarNs;
    const Nanos target = boot_ns + boot_origin_ns_;
    if (target <= base_elapsed_ns_) return base_true_ns_;
    const auto distance = static_cast<Wide>(target - base_elapsed_ns_) * kMillion / (kMillion + ppm_);
    if (distance > kFarNs) return kFarNs;
    Nanos true_ns = base_true_ns_ + static_cast<Nanos>(distance);
    while (true_ns > base_true_ns_ && Elapsed(true_ns - 1) >= target) --true_ns;
    while (Elapsed(true_ns) < target) ++true_ns;
    return true_ns;
  }

  // From now on, a true second lasts 1 + ppm / 1,000,000 seconds of this clock.
  void SetRate(Nanos true_now_ns, int64_t ppm) {
    CHECK_GT(ppm, -kMillion) << "a clock does not go back";
    Rebase(true_now_ns);
    ppm_ = ppm;
  }
  void StandStill(Nanos true_now_ns, Nanos until_true_ns) {
    Rebase(true_now_ns);
    base_true_ns_ = std::max(base_true_ns_, until_true_ns);
  }
  void SetWallOffsetMs(int64_t ms) { wall_offset_ms_ = ms; }
  int64_t wall_offset_ms() const { return wall_offset_ms_; }
  // The machine boots again: its boot clock shows `boot_ns` now.
  void Reboot(Nanos true_now_ns, Nanos boot_ns) { boot_origin_ns_ = Elapsed(true_now_ns) - boot_ns; }

 private:
  __extension__ typedef __int128 Wide;  // NOLINT(modernize-use-using): -Wpedantic accepts only this form
  static constexpr int64_t kMillion = 1'000'000;
  static constexpr Nanos kFarNs = Nanos{1} << 61;  // about 73 years

  Nanos Elapsed(Nanos true_ns) const {
    if (true_ns <= base_true_ns_) return base_elapsed_ns_;
    const Nanos passed = true_ns - base_true_ns_;
    return base_elapsed_ns_ + static_cast<Nanos>(static_cast<Wide>(passed) * (kMillion + ppm_) / kMillion);
  }
  void Rebase(Nanos true_now_ns) {
    base_elapsed_ns_ = Elapsed(true_now_ns);
    base_true_ns_ = std::max(base_true_ns_, true_now_ns);
  }

  Nanos base_true_ns_ = 0, base_elapsed_ns_ = 0;
  int64_t ppm_ = 0;
  Nanos boot_origin_ns_ = 0;
  int64_t wall_offset_ms_ = 0;
};

}  // namespace pando
