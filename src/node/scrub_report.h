// Publishes the reports of a node's scrubbers: as metrics of each reactor, and as the sum that
// Thrift clients get.
//
// Threads: each reactor sets its own gauges, and any thread may read them. The rest are pure
// functions.
#pragma once

#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/metrics/registry.h"
#include "src/partition/quarantine.h"
#include "src/partition/store.h"
#include "src/verify/scrub.h"

namespace pando {

struct ScrubGauges {
  Counter read_bytes, pages, finished_passes;
  Gauge findings, running, pass_bytes, pass_expected_bytes, last_finished_s;

  void Register(Registry* registry, const void* owner, const MetricLabels& labels);
  void Set(const ScrubReport& report, uint64_t quarantined);
};

// What one reactor knows to be damaged: what its scrubber has found, and quarantined partitions.
// The scrubber does not read these, because what is wrong with them is known.
struct DamageReport {
  static constexpr size_t kMaxFindings = Scrubber::kMaxFindings;
  // The most memory that a report takes, also as a part of a reply.
  static constexpr size_t kMaxBytes = kMaxFindings * 2048;

  // Adds the first of `all` quarantined partitions, as far as there is room for findings.
  void Add(const StoreInfo& store, const std::vector<QuarantinedPartition>& first, uint64_t all);

  ScrubReport scrub;
  uint64_t findings_total = scrub.findings.size();
};

// Adds one reactor's report to `sum`. `first` says that it is the first one.
void AddReport(const DamageReport& report, bool first, api::ScrubReply* sum);

}  // namespace pando
