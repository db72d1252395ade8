// Registry: the metrics of the metrics page, rendered as Prometheus text exposition (version
// 0.0.4).
//
// Names are `kv_<part>_<noun>_<unit>`, in seconds and bytes; counters end in `_total`. A key is
// never a label: the numbers of reactors and partitions bound the number of series.
//
// Threads: registration and rendering take a mutex; both are rare. Rendering reads the registered
// objects without further locks, so they must be atomic (Counter, Gauge, Histogram), and must
// outlive the registry or be removed by their owner.
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

// Collects samples and renders them grouped by family, as the format requires.
class Exposition {
 public:
  void AddCounter(std::string_view name, std::string_view help, const MetricLabels& labels, double value);
  void AddGauge(std::string_view name, std::string_view help, const MetricLabels& labels, double value);
  // `scale` converts recorded units into exposed ones: 1e-9 for nanoseconds shown as seconds.
  // Buckets are powers of two.
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
  // `owner` identifies the registrations that one call of Remove removes.
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Counter* counter);
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Gauge* gauge);
  void Add(const void* owner, std::string name, std::string help, MetricLabels labels, const Histogram* histogram,
           double scale);
  // `collector` is called for each rendering, on the thread that renders.
  void AddCollector(const void* owner, std::function<void(Exposition*)> collector);
  // After this returns, nothing that `owner` registered is read anymore.
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
