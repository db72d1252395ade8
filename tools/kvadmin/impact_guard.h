// ImpactGuard: keeps a long command from making the requests of others slower than a given share.
//
// It gets records of the range at a low rate, through the same servers. The command reads for some windows of time, and
// then pauses for one, again and again: so what it is compared with is always of the last half minute, whatever else
// the cluster does meanwhile. Of each window the 99th percentile counts, and of several windows the median of those,
// because the percentile of a second varies by much more than what is to be found. While the command reads, its rate
// grows as long as the median stays within the share, and is halved when it does not (RateControl).
//
// What it measures is what a client sees beside the command on this machine: if the machine of the command is itself
// busy, that counts too.
//
// Threads: the object belongs to one. Reserve may be called by any. It has a thread of its own between Start and Stop.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/base/result.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

constexpr int kProbeEveryMs = 4;
// Adds what a get that took so long, or failed after that time, says about those that others may have begun meanwhile:
// a sample for each that would have been begun every kProbeEveryMs. One get at a time would else miss most of a stall.
void AddSamples(double ms, std::vector<float>* window_ms);

// The median of the 99th percentiles of the last windows.
class WindowPercentile {
 public:
  explicit WindowPercentile(size_t windows) : most_(windows) {}
  // The latencies of one window. Few say nothing, and are left out.
  void Add(std::vector<float> window_ms);
  void Clear() { recent_ms_.clear(); }
  size_t windows() const { return recent_ms_.size(); }
  // 0 without windows.
  double MedianMs() const;
  // Of all windows since the beginning.
  double MedianOfAllMs() const;
  // The lowest of the last two; 0 if there is only one.
  double LeastOfLastTwoMs() const;

  static constexpr size_t kLeastProbes = 40;  // in a window

 private:
  const size_t most_;
  std::deque<float> recent_ms_;
  std::vector<float> all_ms_;
};

// Additive increase, multiplicative decrease. At first it grows faster, until it has been too much once.
class RateControl {
 public:
  static constexpr double kLeast = 1e6, kFirst = 4e6;  // bytes/s

  // Latencies while the command reads may be `most_percent` percent above those while it pauses.
  explicit RateControl(double most_percent) : factor_(1 + most_percent / 100) {}
  double rate() const { return rate_; }
  bool TooMuch(double pausing_ms, double reading_ms) const { return reading_ms > pausing_ms * factor_; }
  // Takes the percentiles, and how fast was read. True: the rate was lowered, and what was measured says nothing about
  // the new one.
  bool Adapt(double pausing_ms, double reading_ms, double used_rate);
  // Nothing is measured any more.
  void KeepLeast() { rate_ = kLeast; }

 private:
  const double factor_;
  double rate_ = kFirst;
  double step_ = 0;  // 0: it was never too much
};

class ImpactGuard {
 public:
  struct Outcome {
    // Medians of windows while it paused (also before it began), and while it read.
    double pausing_p99_ms = 0, reading_p99_ms = 0;
    size_t probes = 0, failed = 0;         // since it began
    double least_rate = 0, most_rate = 0;  // bytes/s that were allowed
    std::string ended;  // why it stopped measuring, and let the least rate be read from then on; usually empty
    double percent() const { return pausing_p99_ms > 0 ? (reading_p99_ms / pausing_p99_ms - 1) * 100 : 0; }
  };

  // Gets these keys. REQUIRES: there is one.
  ImpactGuard(const Target& target, std::vector<std::string> keys, double most_percent);
  ~ImpactGuard();
  ImpactGuard(const ImpactGuard&) = delete;
  ImpactGuard& operator=(const ImpactGuard&) = delete;

  // Measures some windows, and then begins to watch. Fails if most gets do, or after a signal.
  Status Start();
  // A reader has read so many bytes. Returns for how long it must pause, as far as is known now.
  std::chrono::nanoseconds Reserve(uint64_t bytes);
  Outcome Stop();

 private:
  using Clock = std::chrono::steady_clock;
  // The time that one get took in ms, also if it failed.
  double Probe();
  // Probes for so long, or until Stop.
  std::vector<float> ProbeFor(Clock::duration duration);
  void Watch();
  void WatchOrEnd();  // with an error, the export goes on, slowly
  void Evaluate(double reading_ms, double used_rate);
  // Since then, and begins anew.
  double TakeUsedRate(Clock::time_point since);

  Client client_;
  const std::vector<std::string> keys_;
  size_t next_key_ = 0;

  std::thread thread_;
  std::atomic<bool> stopped_ = false;
  // Of the thread, until it has ended.
  WindowPercentile pausing_, reading_;
  size_t probes_ = 0, failed_ = 0;

  std::mutex mutex_;  // protects what follows
  RateControl control_;
  Clock::time_point pause_until_;  // nothing is read before
  Clock::time_point free_;         // when what was reserved will have passed
  uint64_t used_bytes_ = 0;        // since the last evaluation
  double least_rate_ = 0, most_rate_ = 0;
  std::string ended_;
};

}  // namespace pando::admin
