// Progress: how far a long command is, on standard error: one line redrawn in place on a terminal, a plain line every
// few seconds elsewhere.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace pando::admin {

class Progress {
 public:
  // `unit` names what is counted ("records"). `total`: in whatever measure Update's `done` has; 0 = unknown.
  Progress(std::string verb, std::string unit, uint64_t total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // When it is known only later.
  void SetTotal(uint64_t total) { total_ = total; }
  // Cheap; draws at most five times a second (a terminal) or every five seconds. `done` of `total` gives the share.
  void Update(uint64_t count, uint64_t bytes, uint64_t done);
  // Takes the line away; also done by the destructor.
  void Clear();
  double ElapsedSeconds() const;

  // "41% 82.1M records 610.0 MiB/s 1.20M/s ETA 1m12s", exposed for its test.
  static std::string Line(const std::string& unit, uint64_t count, uint64_t bytes, uint64_t done, uint64_t total,
                          double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  const std::string verb_, unit_;
  uint64_t total_;
  const bool quiet_, terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace pando::admin
