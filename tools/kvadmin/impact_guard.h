// ImpactGuard: keeps a long command from making the requests of others slower than a given share.
//
// It gets records of the range at a low rate, through the same servers, before the command reads and while it reads,
// and compares the 99th percentiles. While the command reads, the rate of its reads grows as long as the percentile
// stays within the share, and is halved when it does not (RateControl). What it measures is what a client sees beside
// the command on this machine: if the machine of the command is itself busy, that counts too.
//
// Threads: the object belongs to one. Reserve may be called by any. It has a thread of its own between Start and Stop.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/base/result.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

// Additive increase, multiplicative decrease. At first it grows faster, until it has been too much once.
class RateControl {
 public:
  static constexpr double kLeast = 1e6, kFirst = 8e6;  // bytes/s

  // The percentile may be `most_percent` percent above `before_ms`.
  RateControl(double before_ms, double most_percent) : most_ms_(before_ms * (1 + most_percent / 100)) {}
  double most_ms() const { return most_ms_; }
  double rate() const { return rate_; }
  // Takes the percentile of the last seconds, and how fast was read. True: the rate was lowered, and what was measured
  // says nothing about the new one.
  bool Adapt(double p99_ms, double used_rate);

 private:
  const double most_ms_;
  double rate_ = kFirst;
  double step_ = 0;  // 0: it was never too much
};

class ImpactGuard {
 public:
  struct Outcome {
    double before_p99_ms = 0, during_p99_ms = 0;
    size_t probes = 0, failed = 0;         // during
    double least_rate = 0, most_rate = 0;  // bytes/s that were allowed
    double percent() const { return before_p99_ms > 0 ? (during_p99_ms / before_p99_ms - 1) * 100 : 0; }
  };

  // Gets these keys. REQUIRES: there is one.
  ImpactGuard(const Target& target, std::vector<std::string> keys, double most_percent);
  ~ImpactGuard();
  ImpactGuard(const ImpactGuard&) = delete;
  ImpactGuard& operator=(const ImpactGuard&) = delete;

  // Measures for kBefore, and then begins to watch. Fails if most gets do, or after a signal.
  Status Start();
  // A reader has read so many bytes. Returns for how long it must pause.
  std::chrono::nanoseconds Reserve(uint64_t bytes);
  Outcome Stop();

 private:
  using Clock = std::chrono::steady_clock;
  // The latency of one get in ms; below 0 if it failed.
  double Probe();
  void Watch();
  void Evaluate(double seconds);

  Client client_;
  const std::vector<std::string> keys_;
  const double most_percent_;
  size_t next_key_ = 0;
  std::vector<float> before_ms_;

  std::thread thread_;
  std::atomic<bool> stopped_ = false;
  // Of the thread, until it has ended.
  std::vector<float> during_ms_;
  std::deque<float> recent_ms_;
  size_t failed_ = 0;

  std::mutex mutex_;  // protects what follows
  std::unique_ptr<RateControl> control_;
  Clock::time_point free_;   // when what was reserved will have passed
  uint64_t used_bytes_ = 0;  // since the last evaluation
  double least_rate_ = 0, most_rate_ = 0;
};

}  // namespace pando::admin
