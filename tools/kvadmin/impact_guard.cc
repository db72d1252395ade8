#include "tools/kvadmin/impact_guard.h"

#include <algorithm>
#include <utility>

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

constexpr auto kProbeEvery = std::chrono::milliseconds(5);
constexpr size_t kProbesBefore = 1000;
constexpr size_t kRecent = 1000;         // probes whose percentile counts
constexpr size_t kLeastProbes = 200;     // below that, a percentile says nothing
constexpr size_t kMostKept = 4'000'000;  // 16 MB, five hours
constexpr auto kEvaluateEvery = std::chrono::seconds(1);
constexpr double kPercentile = 0.99;

template <typename Values>
double P99(const Values& values) {
  if (values.empty()) return 0;
  std::vector<float> sorted(values.begin(), values.end());
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(kPercentile * static_cast<double>(sorted.size() - 1));
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

}  // namespace

bool RateControl::Adapt(double p99_ms, double used_rate) {
  if (p99_ms > most_ms_) {
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
    : client_(target), keys_(std::move(keys)), most_percent_(most_percent) {
  CHECK(!keys_.empty());
}

ImpactGuard::~ImpactGuard() { (void)Stop(); }

double ImpactGuard::Probe() {
  api::GetRequest request;
  request.key = keys_[next_key_++ % keys_.size()];
  const Clock::time_point begun = Clock::now();
  const bool ok = client_.Call(Client::Repeat::kSafe, &api::KvIf::get, request).ok();
  return ok ? std::chrono::duration<double, std::milli>(Clock::now() - begun).count() : -1;
}

Status ImpactGuard::Start() {
  Clock::time_point next = Clock::now();
  for (size_t i = 0; i < kProbesBefore; ++i) {
    const double ms = Probe();
    RETURN_IF_ERROR(tools::Interrupts::Check());
    if (ms >= 0) before_ms_.push_back(static_cast<float>(ms));
    next = std::max(next + kProbeEvery, Clock::now());
    std::this_thread::sleep_until(next);
  }
  if (before_ms_.size() < kProbesBefore / 2) {
    return Error(Code::kUnavailable,
                 "of {} gets before the export, only {} were answered: its impact cannot be measured", kProbesBefore,
                 before_ms_.size());
  }
  control_ = std::make_unique<RateControl>(P99(before_ms_), most_percent_);
  least_rate_ = most_rate_ = control_->rate();
  thread_ = std::thread([this] { Watch(); });
  return Status();
}

void ImpactGuard::Watch() {
  Clock::time_point next = Clock::now(), evaluated = next;
  while (!stopped_) {
    const double ms = Probe();
    if (ms < 0) {
      ++failed_;
    } else {
      if (during_ms_.size() < kMostKept) during_ms_.push_back(static_cast<float>(ms));
      recent_ms_.push_back(static_cast<float>(ms));
      if (recent_ms_.size() > kRecent) recent_ms_.pop_front();
    }
    const Clock::time_point now = Clock::now();
    if (now - evaluated >= kEvaluateEvery)
      Evaluate(std::chrono::duration<double>(now - std::exchange(evaluated, now)).count());
    next = std::max(next + kProbeEvery, now);
    std::this_thread::sleep_until(next);
  }
}

void ImpactGuard::Evaluate(double seconds) {
  std::lock_guard lock(mutex_);
  const double used_rate = static_cast<double>(std::exchange(used_bytes_, 0)) / seconds;
  if (recent_ms_.size() < kLeastProbes) return;
  if (control_->Adapt(P99(recent_ms_), used_rate)) recent_ms_.clear();
  least_rate_ = std::min(least_rate_, control_->rate());
  most_rate_ = std::max(most_rate_, control_->rate());
}

std::chrono::nanoseconds ImpactGuard::Reserve(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  used_bytes_ += bytes;
  const Clock::time_point now = Clock::now();
  const std::chrono::duration<double> takes(static_cast<double>(bytes) / control_->rate());
  free_ = std::max(free_, now) + std::chrono::duration_cast<Clock::duration>(takes);
  return free_ - now;
}

ImpactGuard::Outcome ImpactGuard::Stop() {
  stopped_ = true;
  if (thread_.joinable()) thread_.join();
  return {P99(before_ms_), P99(during_ms_), during_ms_.size(), failed_, least_rate_, most_rate_};
}

}  // namespace pando::admin
