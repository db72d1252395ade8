// EngineBench: the embedded engines doing the same work in one run. Each measurement is made by a forked process of its
// own, so that memory, CPU time and bytes moved are that engine's alone; the stores stay on disk between them.
//
// Threads: the main thread, while the process has no other (it forks).
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
  bool in_memory = false;         // enough memory for all data; else the limit
  bool one_core = false;          // one CPU, and one thread for a blocking engine
  uint32_t max_clients = 0;       // 0 = --clients
  bool open_loop = false;         // at half of the rate that the same engine saturates at
  bool own_distribution = false;  // YCSB's, or the one that the name says; else --distribution
  Distribution distribution = Distribution::kUniform;
};
const std::vector<EngineWorkload>& EngineWorkloads();
const EngineWorkload* FindEngineWorkload(std::string_view name);
// What the project's targets need, in the order they are run.
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
  double rate = 0;  // of open loops; 0 = half of the saturated one
  int repeat = 1;
  Distribution distribution = Distribution::kUniform;
  uint32_t page_bytes = 0, partitions = 1;
  BenchCompression compression = BenchCompression::kLz4;
  uint64_t log_mb = 0;    // 0 = each engine's default
  std::vector<int> cpus;  // empty = all that this process may use
  uint64_t seed = 1;
  bool unlimited_page_cache = false;  // measure engines whose cache cannot be limited all the same
  bool keep = false;                  // the stores
  uint32_t timeout_s = 3600;          // of one measurement
};

// "0-2,5" -> {0, 1, 2, 5}.
Result<std::vector<int>> ParseCpuList(std::string_view text);
// Names, sizes, and whether every engine asked for is built in; says which package is missing. Fills in defaults.
Status CompleteOptions(EngineBenchOptions* options);

uint64_t DataBytes(const EngineBenchOptions& options);
// The limit that a workload's engine is given.
uint64_t MemoryFor(const EngineBenchOptions& options, const EngineWorkload& workload);

// Measures everything asked for, and tells `sink` of each as it is made.
Status RunEngineBench(const EngineBenchOptions& options, const std::function<void(const EngineMeasurement&)>& sink);

}  // namespace pando::bench
