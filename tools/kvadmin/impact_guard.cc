#include "tools/kvadmin/impact_guard.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

using std::chrono::milliseconds;

constexpr auto kWindow = milliseconds(1000);
constexpr auto kSettle = milliseconds(100);  // what was asked for before a pause has been answered
constexpr size_t kWindowsBefore = 5;
constexpr size_t kReadingWindows = 4;  // then it pauses for one
constexpr size_t kPausingKept = 7;     // windows: those before, and then of the last half minute
constexpr size_t kReadingKept = 8;
constexpr double kPercentile = 0.99;
// Two windows in a row that are so much worse need no more evidence.
constexpr double kClearlyWorse = 1.5;

double At(std::vector<float> values, double quantile) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(quantile * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

void AddSamples(double ms, std::vector<float>* window_ms) {
  for (double left_ms = ms; left_ms > 0; left_ms -= kProbeEveryMs) window_ms->push_back(static_cast<float>(left_ms));
}

void WindowPercentile::Add(std::vector<float> window_ms) {
  if (window_ms.size() < kLeastProbes) return;
  const auto p99 = static_cast<float>(At(std::move(window_ms), kPercentile));
  all_ms_.push_back(p99);
  recent_ms_.push_back(p99);
  if (recent_ms_.size() > most_) recent_ms_.pop_front();
}

double WindowPercentile::MedianMs() const { return At({recent_ms_.begin(), recent_ms_.end()}, 0.5); }
double WindowPercentile::LeastOfLastTwoMs() const {
  return recent_ms_.size() < 2 ? 0 : std::min(recent_ms_.back(), recent_ms_[recent_ms_.size() - 2]);
}
double WindowPercentile::MedianOfAllMs() const { return At(all_ms_, 0.5); }

bool RateControl::Adapt(double pausing_ms, double reading_ms, double used_rate) {
  if (used_rate <= 0) return false;  // nothing was read, so whatever was slow was so for another reason
  if (TooMuch(pausing_ms, reading_ms)) {
    rate_ = std::max(std::min(rate_, used_rate) / 2, kLeast);
    step_ = std::max(rate_ / 10, kLeast / 4);
    return true;
  }
  // What is not used says nothing about what would be too much.
  if (used_rate < rate_ / 2) return false;
  rate_ += step_ == 0 ? rate_ / 2 : step_;
  return false;
}

ImpactGuard::ImpactGuard(const Target& target, std::vector<std::string> keys, double most_percent)
    : client_(target), keys_(std::move(keys)), pausing_(kPausingKept), reading_(kReadingKept), control_(most_percent) {
  CHECK(!keys_.empty());
}

ImpactGuard::~ImpactGuard() { (void)Stop(); }

double ImpactGuard::Probe() {
  api::GetRequest request;
  request.key = keys_[next_key_++ % keys_.size()];
  const Clock::time_point begun = Clock::now();
  ++probes_;
  if (!client_.Call(Client::Repeat::kSafe, &api::KvIf::get, request).ok()) ++failed_;
  return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

std::vector<float> ImpactGuard::ProbeFor(Clock::duration duration) {
  std::vector<float> window_ms;
  const Clock::time_point end = Clock::now() + duration;
  for (Clock::time_point next = Clock::now(); next < end && !stopped_;) {
    AddSamples(Probe(), &window_ms);
    next = std::max(next + milliseconds(kProbeEveryMs), Clock::now());
    std::this_thread::sleep_until(next);
  }
  return window_ms;
}

Status ImpactGuard::Start() {
  for (size_t i = 0; i < kWindowsBefore; ++i) {
    pausing_.Add(ProbeFor(kWindow));
    RETURN_IF_ERROR(tools::Interrupts::Check());
  }
  if (pausing_.windows() < kWindowsBefore / 2 || failed_ > probes_ / 2) {
    return Error(Code::kUnavailable,
                 "of {} gets before the export, {} failed, or took too long: its impact cannot be measured", probes_,
                 failed_);
  }
  probes_ = failed_ = 0;
  least_rate_ = most_rate_ = control_.rate();
  try {
    thread_ = std::thread([this] { WatchOrEnd(); });
  } catch (const std::system_error& e) {
    return Error(Code::kIoError, "no thread can be started to measure the impact of the export: {}", e.what());
  }
  return Status();
}

void ImpactGuard::WatchOrEnd() {
  std::string why;
  try {
    return Watch();
  } catch (const std::bad_alloc&) {
    why = "out of memory";
  } catch (const std::exception& e) {
    why = e.what();
  }
  std::lock_guard lock(mutex_);
  control_.KeepLeast();
  least_rate_ = control_.rate();
  ended_ = std::move(why);
}

void ImpactGuard::Watch() {
  while (!stopped_) {
    Clock::time_point begun = Clock::now();
    for (size_t i = 0; i < kReadingWindows && !stopped_; ++i) {
      reading_.Add(ProbeFor(kWindow));
      const double least_ms = reading_.LeastOfLastTwoMs();
      if (!control_.TooMuch(kClearlyWorse * pausing_.MedianMs(), least_ms)) continue;
      Evaluate(least_ms, TakeUsedRate(begun));
      begun = Clock::now();
    }
    const double used_rate = TakeUsedRate(begun);
    {
      std::lock_guard lock(mutex_);
      pause_until_ = Clock::now() + kSettle + kWindow;
    }
    ProbeFor(kSettle);
    {
      // A slow get may have taken a part of the pause.
      std::lock_guard lock(mutex_);
      pause_until_ = Clock::now() + kWindow;
    }
    pausing_.Add(ProbeFor(kWindow));
    if (!stopped_ && reading_.windows() > 0) Evaluate(reading_.MedianMs(), used_rate);
  }
}

double ImpactGuard::TakeUsedRate(Clock::time_point since) {
  std::lock_guard lock(mutex_);
  const double seconds = std::chrono::duration<double>(Clock::now() - since).count();
  return seconds > 0 ? static_cast<double>(std::exchange(used_bytes_, 0)) / seconds : 0;
}

void ImpactGuard::Evaluate(double reading_ms, double used_rate) {
  std::lock_guard lock(mutex_);
  if (control_.Adapt(pausing_.MedianMs(), reading_ms, used_rate)) reading_.Clear();
  least_rate_ = std::min(least_rate_, control_.rate());
  most_rate_ = std::max(most_rate_, control_.rate());
}

std::chrono::nanoseconds ImpactGuard::Reserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  used_bytes_ += bytes;
  const Clock::time_point now = Clock::now();
  const std::chrono::duration<double> takes(static_cast<double>(bytes) / control_.rate());
  free_ = std::max(free_, now) + std::chrono::duration_cast<Clock::duration>(takes);
  return std::max(free_, pause_until_) - now;
}

ImpactGuard::Outcome ImpactGuard::Stop() {
  stopped_ = true;
  if (thread_.joinable()) thread_.join();
  return {pausing_.MedianOfAllMs(), reading_.MedianOfAllMs(), probes_, failed_, least_rate_, most_rate_, ended_};
}

}  // namespace pando::admin
