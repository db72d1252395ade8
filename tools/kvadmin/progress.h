// Progress: shows the progress of a long command on standard error. On a terminal it redraws one
// line in place; elsewhere it prints a line every five seconds.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace pando::admin {

class Progress {
 public:
  // `unit` names what is counted ("records"). `total` has the unit of Update's `done`; 0 = unknown.
  Progress(std::string verb, std::string unit, uint64_t total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // For a total that is not known at the start.
  void SetTotal(uint64_t total) { total_ = total; }
  // For what is done now.
  void SetVerb(std::string verb) { verb_ = std::move(verb); }
  // Cheap: draws at most five times a second on a terminal, and every five seconds elsewhere.
  // `done` / `total` is the fraction that is complete.
  void Update(uint64_t count, uint64_t bytes, uint64_t done);
  // Erases the line. The destructor does this too.
  void Clear();
  double ElapsedSeconds() const;

  // Formats the line, such as "[##..] 41% 82.1M records  1.20M/s  610.0 MiB/s  ETA 1m12s". Public
  // for its test.
  static std::string Line(const std::string& unit, uint64_t count, uint64_t bytes, uint64_t done, uint64_t total,
                          double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  std::string verb_;
  const std::string unit_;
  uint64_t total_;
  const bool quiet_, terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace pando::admin
