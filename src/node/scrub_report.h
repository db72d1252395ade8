// Publishes the reports of a node's scrubbers: as metrics of each reactor, and as the sum that
// Thrift clients get.
//
// Threads: each reactor sets its own gauges, and any thread may read them. The rest are pure
// functions.
#pragma once

#include "gen-cpp/pando_types.h"
#include "src/metrics/registry.h"
#include "src/verify/scrub.h"

namespace pando {

struct ScrubGauges {
  Counter read_bytes, pages, finished_passes;
  Gauge findings, running, pass_bytes, pass_expected_bytes, last_finished_s;

  void Register(Registry* registry, const void* owner, const MetricLabels& labels);
  void Set(const ScrubReport& report);
};

// Adds one reactor's report to `sum`. `first` says that it is the first one.
void AddReport(const ScrubReport& report, bool first, api::ScrubReply* sum);

}  // namespace pando
