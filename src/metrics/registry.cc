#include "src/metrics/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "src/base/check.h"

namespace pando {

namespace {

// The exposed buckets: every power of two from 2^12 to 2^34 units (4 us to 17 s, in nanoseconds).
constexpr unsigned kFirstBucketBits = 12;
constexpr unsigned kLastBucketBits = 34;

std::string EscapeLabel(std::string_view value) {
  std::string out;
  for (char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

std::string RenderLabels(const MetricLabels& labels, std::string_view extra_name = {}, std::string_view extra = {}) {
  std::string out;
  for (const auto& [name, value] : labels) {
    fmt::format_to(std::back_inserter(out), "{}{}=\"{}\"", out.empty() ? "{" : ",", name, EscapeLabel(value));
  }
  if (!extra_name.empty()) {
    fmt::format_to(std::back_inserter(out), "{}{}=\"{}\"", out.empty() ? "{" : ",", extra_name, extra);
  }
  if (!out.empty()) out += '}';
  return out;
}

}  // namespace

Exposition::Family& Exposition::FamilyOf(std::string_view name, std::string_view type, std::string_view help) {
  auto it = families_.find(name);
  if (it == families_.end()) {
    it = families_.emplace(std::string(name), Family{std::string(type), std::string(help), {}}).first;
  }
  DCHECK_EQ(it->second.type, type) << name;
  return it->second;
}

void Exposition::AddCounter(std::string_view name, std::string_view help, const MetricLabels& labels, double value) {
  fmt::format_to(std::back_inserter(FamilyOf(name, "counter", help).samples), "{}{} {}\n", name, RenderLabels(labels),
                 value);
}

void Exposition::AddGauge(std::string_view name, std::string_view help, const MetricLabels& labels, double value) {
  fmt::format_to(std::back_inserter(FamilyOf(name, "gauge", help).samples), "{}{} {}\n", name, RenderLabels(labels),
                 value);
}

void Exposition::AddHistogram(std::string_view name, std::string_view help, const MetricLabels& labels,
                              const Histogram& histogram, double scale) {
  auto out = std::back_inserter(FamilyOf(name, "histogram", help).samples);
  // Read the total first: the writer continues meanwhile, and no bucket may exceed +Inf.
  uint64_t total = histogram.count();
  for (unsigned bits = kFirstBucketBits; bits <= kLastBucketBits; ++bits) {
    uint64_t bound = uint64_t{1} << bits;
    std::string le = fmt::format("{:.9g}", static_cast<double>(bound) * scale);
    fmt::format_to(out, "{}_bucket{} {}\n", name, RenderLabels(labels, "le", le),
                   std::min(total, histogram.CountBelow(bound)));
  }
  fmt::format_to(out, "{}_bucket{} {}\n", name, RenderLabels(labels, "le", "+Inf"), total);
  fmt::format_to(out, "{}_sum{} {}\n", name, RenderLabels(labels), static_cast<double>(histogram.sum()) * scale);
  fmt::format_to(out, "{}_count{} {}\n", name, RenderLabels(labels), total);
}

std::string Exposition::Render() const {
  std::string out;
  for (const auto& [name, family] : families_) {
    fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} {}\n{}", name, family.help, name, family.type,
                   family.samples);
  }
  return out;
}

void Registry::Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Counter* counter) {
  AddCollector(owner,
               [name = std::move(name), help = std::move(help), labels = std::move(labels), counter](Exposition* out) {
                 out->AddCounter(name, help, labels, static_cast<double>(counter->value()));
               });
}
void Registry::Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Gauge* gauge) {
  AddCollector(owner, [name = std::move(name), help = std::move(help), labels = std::move(labels), gauge](
                          Exposition* out) { out->AddGauge(name, help, labels, static_cast<double>(gauge->value())); });
}
void Registry::Add(const void* owner, std::string name, std::string help, MetricLabels labels,
                   const Histogram* histogram, double scale) {
  AddCollector(owner, [name = std::move(name), help = std::move(help), labels = std::move(labels), histogram,
                       scale](Exposition* out) { out->AddHistogram(name, help, labels, *histogram, scale); });
}

void Registry::AddCollector(const void* owner, std::function<void(Exposition*)> collector) {
  std::lock_guard lock(mutex_);
  entries_.push_back({owner, std::move(collector)});
}

void Registry::Remove(const void* owner) {
  std::lock_guard lock(mutex_);
  std::erase_if(entries_, [owner](const Entry& e) { return e.owner == owner; });
}

std::string Registry::Render() const {
  Exposition out;
  std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) entry.collect(&out);
  return out.Render();
}

}  // namespace pando
