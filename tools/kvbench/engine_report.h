// EngineMeasurement: what one engine did in one workload, once. It crosses from the measuring process to its parent as
// JSON, and is a line of --json as it is.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/kvbench/engines/drive.h"

namespace pando::bench {

struct EngineMeasurement {
  std::string suite = "engine", workload, system, role = "peer", version, distribution, compression;
  std::string note;               // what limits the comparison
  bool memory_unlimited = false;  // its page cache was not limited though the workload says so: no peer to compare with
  std::string stats;              // what the engine says of itself
  int run = 1;
  uint32_t threads = 1, clients = 1, cpus = 1;
  uint64_t records = 0, key_bytes = 0, value_bytes = 0, memory_bytes = 0, page_bytes = 0;
  uint32_t compressible_percent = 0;  // of a value
  double rate = 0;                    // open loop: operations per second asked for
  double seconds = 0;
  uint64_t ops = 0, rows = 0, not_found = 0, checked = 0, inserts = 0;
  double ops_per_s = 0, mean_us = 0, p50_us = 0, p99_us = 0, p999_us = 0, max_us = 0;
  uint64_t user_bytes_written = 0, written_bytes = 0, read_bytes = 0;
  double write_amplification = 0;     // bytes written per byte of keys and values put
  uint64_t device_written_bytes = 0;  // by the device meanwhile, also for others
  double device_write_amplification = 0;
  double read_bytes_per_op = 0;
  uint64_t data_bytes = 0, log_bytes = 0;  // on disk after the engine was closed
  double space_per_live_byte = 0;          // without the log
  uint64_t peak_memory_bytes = 0;
  double cpu_s = 0;
  double machine_paused_s = 0;          // sometime in the process's life: the figures are then worth little
  std::vector<uint64_t> timeline_ops;   // per DriveTally::kSliceNs
  std::vector<double> timeline_max_us;  // worst latency of what ended in the slice

  void Take(const DriveTally& tally);
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EngineMeasurement, suite, workload, system, role, version, distribution, compression,
                                   note, memory_unlimited, stats, run, threads, clients, cpus, records, key_bytes,
                                   value_bytes, compressible_percent, memory_bytes, page_bytes, rate, seconds, ops,
                                   rows, not_found, checked, inserts, ops_per_s, mean_us, p50_us, p99_us, p999_us,
                                   max_us, user_bytes_written, written_bytes, read_bytes, write_amplification,
                                   device_written_bytes, device_write_amplification, read_bytes_per_op, data_bytes,
                                   log_bytes, space_per_live_byte, peak_memory_bytes, cpu_s, machine_paused_s,
                                   timeline_ops, timeline_max_us)

double Median(std::vector<double> values);  // 0 of none
// Medians of the runs, one line per workload and engine; Pando's with the median of the ratios, run by run, to the peer
// whose median is best.
std::string RenderEngineTable(const std::vector<EngineMeasurement>& all);

}  // namespace pando::bench
