// What a node shows of its reactors' scrubbers: metrics, and their sum over Thrift.
//
// Threads: gauges are set by their reactor and read by any; the rest are values.
#pragma once

#include "gen-cpp/pando_types.h"
#include "src/metrics/registry.h"
#include "src/partition/scrub.h"

namespace pando {

struct ScrubGauges {
  Counter read_bytes, pages, finished_passes;
  Gauge findings, running, pass_bytes, pass_expected_bytes, last_finished_s;

  void Register(Registry* registry, const void* owner, const MetricLabels& labels);
  void Set(const ScrubReport& report);
};

// Adds one reactor's report; `first`: it is the first.
void AddReport(const ScrubReport& report, bool first, api::ScrubReply* sum);

}  // namespace pando
