// Measurement: the result of one run of one workload. It is printed as a table row, and is a JSON
// object for --json.
//
// Threads: the main thread.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace pando::bench {

struct Measurement {
  std::string suite, workload, system, version, distribution;
  int run = 1;
  uint32_t threads = 1, connections = 0, depth = 1;
  uint64_t keys = 0, key_bytes = 0, value_bytes = 0;
  double rate = 0;  // open loop: the requested rate, requests per second; 0 = closed loop
  double seconds = 0;
  uint64_t ops = 0, rows = 0, errors = 0, not_found = 0, slow_replies = 0, checked = 0;
  std::string first_error;
  double mean_us = 0, p50_us = 0, p99_us = 0, p999_us = 0, max_us = 0;
  double server_cpu_s = 0, generator_cpu_s = 0;
  double stolen_cpu_s = 0;  // taken by the hypervisor, summed over all CPUs
  nlohmann::json extra;     // further fields of the JSON object

  double ops_per_s() const { return seconds > 0 ? static_cast<double>(ops) / seconds : 0; }
  double stolen_share() const { return seconds > 0 ? stolen_cpu_s / seconds : 0; }  // of one CPU
  // What the server could do with a core of its own. Load from other processes hardly changes this
  // number. 0 for a server that kvbench did not start.
  double ops_per_server_cpu_s() const { return server_cpu_s > 0 ? static_cast<double>(ops) / server_cpu_s : 0; }
};

nlohmann::json ToJson(const Measurement& measurement);
std::string RenderTable(const std::vector<Measurement>& measurements);

// Reports each measurement as soon as it exists: a line on standard error, and an object in the
// --json file. The file has JSON lines and is flushed after each, so an interrupted run keeps its
// measurements.
class Reporter {
 public:
  static Result<Reporter> Open(const std::string& json_path);  // "" = no file
  Reporter(Reporter&& other) noexcept : json_(std::exchange(other.json_, nullptr)), all_(std::move(other.all_)) {}
  Reporter& operator=(Reporter&&) = delete;
  ~Reporter();
  void Add(Measurement measurement);
  const std::vector<Measurement>& all() const { return all_; }

 private:
  Reporter() = default;
  std::FILE* json_ = nullptr;
  std::vector<Measurement> all_;
};

}  // namespace pando::bench
