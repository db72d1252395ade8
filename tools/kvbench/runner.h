// Runner: runs one measurement against one running server.
//
// Threads: each call creates a reactor and runs it on the calling thread until the end.
#pragma once

#include "src/base/result.h"
#include "tools/kvbench/generator.h"
#include "tools/kvbench/protocol.h"
#include "tools/kvbench/report.h"
#include "tools/kvbench/server.h"
#include "tools/kvbench/workload.h"

namespace pando::bench {

struct RunSettings {
  std::string suite = "wire";
  WorkloadOptions workload;
  RecordShape shape;
  GeneratorOptions generator;  // host and port are the server's
  uint32_t wait_replicas = 0;  // Redis: a WAIT for so many replicas follows each put
};

std::unique_ptr<Protocol> MakeProtocol(const std::string& system, const RecordShape& shape, uint32_t wait_replicas = 0);

// Runs `settings.workload` and returns the measurement. A failed connection or a wrong answer is an
// error. Error answers, such as from an overloaded server, are counted in the measurement.
Result<Measurement> Measure(const Server& server, const RunSettings& settings);

// Puts records 0..keys-1, pipelined. An error when any of them was not stored.
Status LoadRecords(const Server& server, const RunSettings& settings);

}  // namespace pando::bench
