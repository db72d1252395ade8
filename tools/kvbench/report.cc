#include "tools/kvbench/report.h"

#include <fmt/format.h>

#include <cerrno>

#include "tools/common/output.h"
#include "tools/common/table.h"

namespace pando::bench {

namespace {

// The generator is one thread. Near 100 % of a core, the run measures the generator, not the
// server.
constexpr double kBusyGenerator = 0.95;

std::string Micros(double us) { return us >= 1000 ? fmt::format("{:.0f}", us) : fmt::format("{:.1f}", us); }

double GeneratorLoad(const Measurement& m) { return m.seconds > 0 ? m.generator_cpu_s / m.seconds : 0; }
double ServerLoad(const Measurement& m) { return m.seconds > 0 ? m.server_cpu_s / m.seconds : 0; }

}  // namespace

nlohmann::json ToJson(const Measurement& m) {
  nlohmann::json j;
  j["suite"] = m.suite;
  j["workload"] = m.workload;
  j["system"] = m.system;
  j["version"] = m.version;
  j["run"] = m.run;
  j["distribution"] = m.distribution;
  j["threads"] = m.threads;
  j["connections"] = m.connections;
  j["depth"] = m.depth;
  j["keys"] = m.keys;
  j["key_bytes"] = m.key_bytes;
  j["value_bytes"] = m.value_bytes;
  j["rate"] = m.rate;
  j["seconds"] = m.seconds;
  j["ops"] = m.ops;
  j["ops_per_s"] = m.ops_per_s();
  j["rows"] = m.rows;
  j["mean_us"] = m.mean_us;
  j["p50_us"] = m.p50_us;
  j["p99_us"] = m.p99_us;
  j["p999_us"] = m.p999_us;
  j["max_us"] = m.max_us;
  j["errors"] = m.errors;
  j["not_found"] = m.not_found;
  j["checked"] = m.checked;
  j["server_cpu_s"] = m.server_cpu_s;
  j["server_cpu_us_per_op"] = m.ops > 0 ? 1e6 * m.server_cpu_s / static_cast<double>(m.ops) : 0;
  j["ops_per_server_cpu_s"] = m.ops_per_server_cpu_s();
  j["generator_cpu_s"] = m.generator_cpu_s;
  j["stolen_cpu_s"] = m.stolen_cpu_s;
  if (!m.first_error.empty()) j["first_error"] = m.first_error;
  if (m.extra.is_object()) j.update(m.extra);
  return j;
}

std::string RenderTable(const std::vector<Measurement>& measurements) {
  tools::Table table({"workload", "system", "run", "conns", "depth", "ops/s", "p50 us", "p99 us", "p99.9 us", "max us",
                      "errors", "server cpu %", "ops/cpu s", "loop cpu %", "stolen %"});
  for (const Measurement& m : measurements) {
    table.Row({m.workload, m.system, std::to_string(m.run), std::to_string(m.connections), std::to_string(m.depth),
               fmt::format("{:.0f}", m.ops_per_s()), Micros(m.p50_us), Micros(m.p99_us), Micros(m.p999_us),
               Micros(m.max_us), std::to_string(m.errors), fmt::format("{:.0f}", 100 * ServerLoad(m)),
               fmt::format("{:.0f}", m.ops_per_server_cpu_s()), fmt::format("{:.0f}", 100 * GeneratorLoad(m)),
               fmt::format("{:.0f}", 100 * m.stolen_share())});
  }
  return table.Render();
}

Result<Reporter> Reporter::Open(const std::string& json_path) {
  Reporter reporter;
  if (!json_path.empty()) {
    reporter.json_ = std::fopen(json_path.c_str(), "w");
    if (!reporter.json_) return ErrnoError(errno, "open --json={}", json_path);
  }
  return Result<Reporter>(std::move(reporter));
}

Reporter::~Reporter() {
  if (json_) std::fclose(json_);
}

void Reporter::Add(Measurement m) {
  tools::PrintNote("{} on {} (run {}): {} ops/s, p50 {} us, p99 {} us{}\n", m.workload, m.system, m.run,
                   tools::HumanCount(m.ops_per_s()), Micros(m.p50_us), Micros(m.p99_us),
                   m.errors > 0 ? fmt::format(", {} ERRORS, the first: {}", m.errors, m.first_error) : "");
  if (GeneratorLoad(m) > kBusyGenerator) {
    tools::PrintNote("  the generator used {:.0f} % of its core, so the server may be faster than this\n",
                     100 * GeneratorLoad(m));
  }
  if (m.slow_replies * 10 > m.ops && m.ops > 0) {
    tools::PrintNote("  {} answers did not have the expected layout and needed the slow decoder\n", m.slow_replies);
  }
  if (json_) {
    fmt::print(json_, "{}\n", ToJson(m).dump());
    std::fflush(json_);
  }
  all_.push_back(std::move(m));
}

}  // namespace pando::bench
