#include "src/node/scrub_report.h"

#include <algorithm>

namespace pando {

namespace {

constexpr int64_t kMsPerSecond = 1000;

void SetTotal(Counter* counter, uint64_t total) {
  if (total > counter->value()) counter->Add(total - counter->value());
}

}  // namespace

void ScrubGauges::Register(Registry* registry, const void* owner, const MetricLabels& labels) {
  auto add = [&](std::string name, std::string help, const auto* metric) {
    registry->Add(owner, std::move(name), std::move(help), labels, metric);
  };
  add("kv_scrub_read_bytes_total", "Bytes that the scrub read from disk and verified.", &read_bytes);
  add("kv_scrub_pages_total", "Pages that the scrub verified.", &pages);
  add("kv_scrub_finished_passes_total", "Scrub passes finished.", &finished_passes);
  add("kv_scrub_findings_count", "Known damaged places on disk. kvadmin check --online lists them.", &findings);
  add("kv_scrub_running_count", "1 while a scrub pass is running, else 0.", &running);
  add("kv_scrub_pass_bytes", "Bytes read by the running pass, or by the last one.", &pass_bytes);
  add("kv_scrub_pass_expected_bytes", "Bytes that this pass was expected to read, estimated when it began.",
      &pass_expected_bytes);
  add("kv_scrub_last_finished_seconds", "Unix time when the last pass finished; 0 if none has.", &last_finished_s);
}

void ScrubGauges::Set(const ScrubReport& report, uint64_t quarantined) {
  SetTotal(&read_bytes, report.bytes_total);
  SetTotal(&pages, report.pages_total);
  SetTotal(&finished_passes, report.passes_finished);
  findings.Set(static_cast<int64_t>(report.findings.size() + quarantined));
  running.Set(report.running);
  pass_bytes.Set(static_cast<int64_t>(report.bytes));
  pass_expected_bytes.Set(static_cast<int64_t>(report.expected_bytes));
  last_finished_s.Set(report.last_finished_ms / kMsPerSecond);
}

void DamageReport::Add(const StoreInfo& store, const std::vector<QuarantinedPartition>& first, uint64_t all) {
  findings_total += all;
  for (const QuarantinedPartition& q : first) {
    if (scrub.findings.size() >= kMaxFindings) return;
    ScrubFinding& finding = scrub.findings.emplace_back();
    finding.problem = {store.PartitionFilePath(q.id), 0, q.What(), std::string(q.Advice()), q.id};
    finding.pass = scrub.passes_started;
    finding.first_seen_ms = q.since_ms;
  }
}

void AddReport(const DamageReport& damage, bool first, api::ScrubReply* sum) {
  const ScrubReport& report = damage.scrub;
  const auto finished = static_cast<int64_t>(report.passes_finished);
  sum->running |= report.running;
  sum->bytes += static_cast<int64_t>(report.bytes);
  sum->expected_bytes += static_cast<int64_t>(report.expected_bytes);
  sum->rate_bytes_per_s += static_cast<int64_t>(report.rate_bytes_per_s);
  sum->pages += static_cast<int64_t>(report.pages);
  sum->values += static_cast<int64_t>(report.values);
  sum->log_batches += static_cast<int64_t>(report.batches);
  sum->skipped_partitions += static_cast<int32_t>(report.skipped);
  sum->passes_finished = first ? finished : std::min(sum->passes_finished, finished);
  sum->last_finished_ms = first ? report.last_finished_ms : std::min(sum->last_finished_ms, report.last_finished_ms);
  sum->findings_total += static_cast<int64_t>(damage.findings_total);
  for (const ScrubFinding& f : report.findings) {
    api::ScrubFinding& to = sum->findings.emplace_back();
    to.file = f.problem.file;
    to.offset = static_cast<int64_t>(f.problem.offset_bytes);
    to.what = f.problem.what;
    to.advice = f.problem.advice;
    to.first_seen_ms = f.first_seen_ms;
  }
}

}  // namespace pando
