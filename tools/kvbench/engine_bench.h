// EngineBench: measures embedded engines with the same work in one run. Each measurement runs in
// its own forked process, so that its memory, CPU time and I/O are those of one engine. The stores
// stay on disk between measurements.
//
// Threads: the main thread. The process must have no other thread, because EngineBench forks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "tools/kvbench/engine_report.h"
#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

struct EngineWorkload {
  enum class Kind : uint8_t { kLoad, kDrive };
  std::string name;
  Kind kind = Kind::kDrive;
  std::string mix;                // a name for MixOf
  bool sorted = false;            // kLoad
  bool in_memory = false;         // true: enough memory for all data; false: --memory_mb
  bool one_core = false;          // one CPU, and one thread for a blocking engine
  uint32_t max_clients = 0;       // 0 = --clients
  bool open_loop = false;         // at --rate, or half of the engine's closed-loop rate
  bool own_distribution = false;  // that of YCSB or of `distribution`, instead of --distribution
  Distribution distribution = Distribution::kUniform;
};
const std::vector<EngineWorkload>& EngineWorkloads();
const EngineWorkload* FindEngineWorkload(std::string_view name);
// The workloads that the project's performance targets need, in the order they run.
std::vector<std::string> DefaultEngineWorkloads();

struct EngineBenchOptions {
  std::vector<std::string> engines = {"pando", "rocksdb", "lmdb", "wiredtiger"};
  std::vector<std::string> workloads = DefaultEngineWorkloads();
  std::string dir = "/var/tmp";
  uint64_t records = 1'000'000;
  RecordShape shape;
  uint64_t memory_mb = 0;  // 0 = an eighth of the data
  uint32_t clients = 64;
  double warmup_s = 3, seconds = 10;
  double rate = 0;  // of open loops, operations per second; 0 = half of the closed-loop rate
  int repeat = 1;
  Distribution distribution = Distribution::kUniform;
  uint32_t page_bytes = 0, partitions = 1;
  BenchCompression compression = BenchCompression::kLz4;
  uint64_t log_mb = 0;    // 0 = each engine's default
  std::vector<int> cpus;  // empty = all that this process may use
  uint64_t seed = 1;
  bool unlimited_page_cache = false;  // also measure engines whose cache cannot be limited
  bool keep = false;                  // keep the stores
  uint32_t timeout_s = 3600;          // of one measurement
};

// "0-2,5" -> {0, 1, 2, 5}.
Result<std::vector<int>> ParseCpuList(std::string_view text);
// Checks the names of engines and workloads, and fills in defaults. kUnsupported when an engine is
// not built in; the message names the package to install.
Status CompleteOptions(EngineBenchOptions* options);

uint64_t DataBytes(const EngineBenchOptions& options);
// The memory limit that the engine gets in this workload, in bytes.
uint64_t MemoryFor(const EngineBenchOptions& options, const EngineWorkload& workload);

// Runs every measurement and passes each result to `sink` as soon as it exists. Continues after a
// failed measurement, and returns the first error.
Status RunEngineBench(const EngineBenchOptions& options, const std::function<void(const EngineMeasurement&)>& sink);

}  // namespace pando::bench
