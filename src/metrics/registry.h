// Registry: what the metrics page shows, rendered as Prometheus text exposition (version 0.0.4).
//
// Names are `kv_<part>_<noun>_<unit>`, in seconds and bytes; counters end in `_total`. Never a label by key: the number
// of series is fixed by the number of reactors and partitions.
//
// Threads: registration and rendering take a mutex (both are rare); what is registered is read without locks, so it
// must be atomic (Counter, Gauge, Histogram) and must outlive the registry or be removed by its owner.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/metrics/histogram.h"
#include "src/metrics/metrics.h"

namespace pando {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// Collects samples and renders them grouped by family, as the format demands.
class Exposition {
 public:
  void AddCounter(std::string_view name, std::string_view help, const MetricLabels& labels, double value);
  void AddGauge(std::string_view name, std::string_view help, const MetricLabels& labels, double value);
  // `scale` turns recorded units into exposed ones: 1e-9 for nanoseconds shown as seconds. Buckets are powers of two.
  void AddHistogram(std::string_view name, std::string_view help, const MetricLabels& labels,
                    const Histogram& histogram, double scale);
  std::string Render() const;

 private:
  struct Family {
    std::string type, help, samples;
  };
  Family& FamilyOf(std::string_view name, std::string_view type, std::string_view help);
  std::map<std::string, Family, std::less<>> families_;
};

class Registry {
 public:
  // `owner` identifies the registrations that Remove takes away together.
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Counter* counter);
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Gauge* gauge);
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Histogram* histogram,
           double scale);
  // Called at each rendering, on the rendering thread.
  void AddCollector(const void* owner, std::function<void(Exposition*)> collector);
  // After it returns nothing of `owner` is read any more.
  void Remove(const void* owner);
  std::string Render() const;

 private:
  struct Entry {
    const void* owner;
    std::function<void(Exposition*)> collect;
  };
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace pando
