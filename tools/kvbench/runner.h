// Runner: one measurement against one running server, on a reactor of its own in the calling thread.
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
};

std::unique_ptr<Protocol> MakeProtocol(const std::string& system, const RecordShape& shape);

// Runs `settings.workload` and fills a measurement. An error when the connection fails or an answer is wrong; error
// answers (an overloaded server, say) are counted in the measurement.
Result<Measurement> Measure(const Server& server, const RunSettings& settings);

// Puts records 0..keys-1, pipelined. An error when any of them was not stored.
Status LoadRecords(const Server& server, const RunSettings& settings);

}  // namespace pando::bench
