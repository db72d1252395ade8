// EngineMeasurement: the result of one engine in one run of one workload. The measuring process
// sends it to its parent as JSON. The same object is a line of the --json file.
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
  std::string note;  // what limits the comparison
  // Its page cache was not limited although the workload has a limit. It is then not compared.
  bool memory_unlimited = false;
  std::string stats;  // the engine's own statistics
  int run = 1;
  uint32_t threads = 1, clients = 1, cpus = 1;
  uint64_t records = 0, key_bytes = 0, value_bytes = 0, memory_bytes = 0, page_bytes = 0;
  uint32_t compressible_percent = 0;  // of a value
  double rate = 0;                    // open loop: requested operations per second; else 0
  double seconds = 0;
  uint64_t ops = 0, rows = 0, not_found = 0, checked = 0, inserts = 0;
  double ops_per_s = 0, mean_us = 0, p50_us = 0, p99_us = 0, p999_us = 0, max_us = 0;
  uint64_t user_bytes_written = 0, written_bytes = 0, read_bytes = 0;
  double scanned_mb_per_s = 0;        // 10^6 bytes of keys and values returned by scans
  double write_amplification = 0;     // bytes written per byte of keys and values put
  uint64_t device_written_bytes = 0;  // by the block device, for all processes
  double device_write_amplification = 0;
  double read_bytes_per_op = 0;
  uint64_t data_bytes = 0, log_bytes = 0;  // on disk after the engine was closed
  double space_per_live_byte = 0;          // without the log
  uint64_t peak_memory_bytes = 0;
  double cpu_s = 0;
  double machine_paused_s = 0;          // during the process's life; if > 0, distrust the figures
  std::vector<uint64_t> timeline_ops;   // per DriveTally::kSliceNs
  std::vector<double> timeline_max_us;  // worst latency of the operations that ended in the slice

  void Take(const DriveTally& tally);
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EngineMeasurement, suite, workload, system, role, version, distribution, compression,
                                   note, memory_unlimited, stats, run, threads, clients, cpus, records, key_bytes,
                                   value_bytes, compressible_percent, memory_bytes, page_bytes, rate, seconds, ops,
                                   rows, not_found, checked, inserts, ops_per_s, mean_us, p50_us, p99_us, p999_us,
                                   max_us, user_bytes_written, written_bytes, read_bytes, scanned_mb_per_s,
                                   write_amplification, device_written_bytes, device_write_amplification,
                                   read_bytes_per_op, data_bytes, log_bytes, space_per_live_byte, peak_memory_bytes,
                                   cpu_s, machine_paused_s, timeline_ops, timeline_max_us)

double Median(std::vector<double> values);  // 0 when empty
// Renders the medians of the runs, one line for each workload and engine. Pando's lines also have
// the median of its ratios to the best peer. A ratio compares two measurements of the same run; the
// best peer is the one with the highest median rate.
std::string RenderEngineTable(const std::vector<EngineMeasurement>& all);

}  // namespace pando::bench
