#include "tools/kvbench/engine_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tools/common/table.h"

namespace pando::bench {

namespace {

double Micros(uint64_t ns) { return static_cast<double>(ns) * 1e-3; }
std::string ShowMicros(double us) { return us >= 1000 ? fmt::format("{:.0f}", us) : fmt::format("{:.1f}", us); }

// All runs of one engine in one workload.
struct Runs {
  std::vector<const EngineMeasurement*> all;
  double MedianOf(double (*field)(const EngineMeasurement&)) const {
    std::vector<double> values;
    for (const EngineMeasurement* m : all) values.push_back(field(*m));
    return Median(std::move(values));
  }
  double Rate() const {
    return MedianOf([](const EngineMeasurement& m) { return m.ops_per_s; });
  }
};

using Row = std::pair<std::string, std::string>;  // workload, system

std::vector<Row> RowsOf(const std::vector<EngineMeasurement>& all) {
  std::vector<Row> rows;
  for (const EngineMeasurement& m : all) {
    Row row{m.workload, m.system};
    if (std::find(rows.begin(), rows.end(), row) == rows.end()) rows.push_back(std::move(row));
  }
  return rows;
}

Runs RunsOf(const std::vector<EngineMeasurement>& all, const Row& row) {
  Runs runs;
  for (const EngineMeasurement& m : all) {
    if (m.workload == row.first && m.system == row.second) runs.all.push_back(&m);
  }
  return runs;
}

// The peer with the best median rate in a workload. Empty when there is no peer to compare with.
Runs BestPeerOf(const std::vector<EngineMeasurement>& all, const std::vector<Row>& rows, const std::string& workload) {
  Runs best;
  for (const Row& row : rows) {
    const Runs peer = RunsOf(all, row);
    if (row.first != workload || peer.all.front()->role != "peer" || peer.all.front()->memory_unlimited) continue;
    if (best.all.empty() || peer.Rate() > best.Rate()) best = peer;
  }
  return best;
}

// The median of the ratios within each run, not the ratio of the medians. The disk of a shared
// machine may be twice as fast in one minute as in the next, but the measurements of one run are
// close in time and meet the same disk.
double MedianRatio(const Runs& runs, const Runs& peer) {
  std::vector<double> ratios;
  for (const EngineMeasurement* m : runs.all) {
    for (const EngineMeasurement* other : peer.all) {
      if (other->run == m->run && other->ops_per_s > 0) ratios.push_back(m->ops_per_s / other->ops_per_s);
    }
  }
  return Median(std::move(ratios));
}

}  // namespace

void EngineMeasurement::Take(const DriveTally& tally) {
  seconds = tally.seconds;
  ops = tally.ops;
  rows = tally.rows;
  not_found = tally.not_found;
  checked = tally.checked;
  inserts = tally.inserts;
  user_bytes_written = tally.user_bytes_written;
  scanned_mb_per_s = seconds > 0 ? static_cast<double>(tally.scanned_bytes) / seconds * 1e-6 : 0;
  ops_per_s = seconds > 0 ? static_cast<double>(ops) / seconds : 0;
  mean_us = tally.latency_ns.mean() * 1e-3;
  p50_us = Micros(tally.latency_ns.Percentile(50));
  p99_us = Micros(tally.latency_ns.Percentile(99));
  p999_us = Micros(tally.latency_ns.Percentile(99.9));
  max_us = Micros(tally.latency_ns.max());
  for (const DriveTally::Slice& slice : tally.timeline) {
    timeline_ops.push_back(slice.ops);
    timeline_max_us.push_back(static_cast<double>(slice.max_ns) * 1e-3);
  }
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::string RenderEngineTable(const std::vector<EngineMeasurement>& all) {
  tools::Table table({"workload", "engine", "threads", "ops/s", "scanned MB/s", "vs best peer", "p50 us", "p99 us",
                      "p99.9 us", "max us", "written/user", "device/user", "read B/op", "space/live", "peak MiB",
                      "cpu %", "runs", "note"});
  const std::vector<Row> rows = RowsOf(all);
  for (const Row& row : rows) {
    const Runs runs = RunsOf(all, row);
    const Runs best_peer = BestPeerOf(all, rows, row.first);
    // In an open loop the rate is given, so a ratio of rates means nothing. Compare latencies.
    const bool open_loop = runs.all.front()->rate > 0;
    const bool compared = runs.all.front()->role == "pando" && !best_peer.all.empty() && !open_loop;
    using M = EngineMeasurement;
    auto micros = [&](double (*field)(const M&)) { return ShowMicros(runs.MedianOf(field)); };
    const double scanned = runs.MedianOf([](const M& m) { return m.scanned_mb_per_s; });
    const double written = runs.MedianOf([](const M& m) { return m.write_amplification; });
    const double device = runs.MedianOf([](const M& m) { return m.device_write_amplification; });
    table.Row(
        {row.first, row.second, std::to_string(runs.all.front()->threads), fmt::format("{:.0f}", runs.Rate()),
         scanned > 0 ? fmt::format("{:.0f}", scanned) : "",
         compared ? fmt::format("{:.2f}", MedianRatio(runs, best_peer)) : "",
         micros([](const M& m) { return m.p50_us; }), micros([](const M& m) { return m.p99_us; }),
         micros([](const M& m) { return m.p999_us; }), micros([](const M& m) { return m.max_us; }),
         written > 0 ? fmt::format("{:.2f}", written) : "", device > 0 ? fmt::format("{:.2f}", device) : "",
         fmt::format("{:.0f}", runs.MedianOf([](const M& m) { return m.read_bytes_per_op; })),
         fmt::format("{:.2f}", runs.MedianOf([](const M& m) { return m.space_per_live_byte; })),
         fmt::format("{:.0f}",
                     runs.MedianOf([](const M& m) { return static_cast<double>(m.peak_memory_bytes) / (1 << 20); })),
         fmt::format("{:.0f}", 100 * runs.MedianOf([](const M& m) { return m.seconds > 0 ? m.cpu_s / m.seconds : 0; })),
         std::to_string(runs.all.size()), runs.all.front()->note});
  }
  return table.Render();
}

}  // namespace pando::bench
