#include "tools/kvbench/runner.h"

#include <fmt/format.h>

#include "src/io/uring_reactor.h"
#include "tools/common/output.h"
#include "tools/kvbench/data.h"
#include "tools/kvbench/process_stats.h"

namespace pando::bench {

namespace {

constexpr uint32_t kLoadConnections = 32;
constexpr uint32_t kLoadDepth = 16;

struct CpuObserver final : WindowObserver {
  explicit CpuObserver(const Server& s) : server(s) {}
  void OnWindowBegin() override {
    stolen_s = -StolenCpuSeconds();
    server_s = -server.CpuSeconds();
  }
  void OnWindowEnd() override {
    server_s += server.CpuSeconds();
    stolen_s += StolenCpuSeconds();
  }
  const Server& server;
  double server_s = 0, stolen_s = 0;  // in the window
};

Task<void> RunAndStop(Reactor* reactor, Generator* generator, Tally* tally, Status* status) {
  // Suspends for the whole run. Reactor::Run does not return before Stop.
  *status = co_await generator->Run(tally);
  reactor->Stop();
}

const char* NameOf(Distribution d) {
  switch (d) {
    case Distribution::kUniform: return "uniform";
    case Distribution::kZipfian: return "zipfian";
    case Distribution::kLatest: return "latest";
  }
  return "";
}

double Micros(uint64_t ns) { return static_cast<double>(ns) * 1e-3; }

}  // namespace

std::unique_ptr<Protocol> MakeProtocol(const std::string& system, const RecordShape& shape, uint32_t wait_replicas) {
  if (system == "redis") return MakeRespProtocol(shape, wait_replicas);
  return system == "etcd" ? MakeEtcdProtocol(shape) : MakeThriftProtocol(shape);
}

Result<Measurement> Measure(const Server& server, const RunSettings& settings) {
  ASSIGN_OR_RETURN(Mix mix, MixOf(settings.workload));
  std::unique_ptr<Protocol> protocol = MakeProtocol(server.system(), settings.shape, settings.wait_replicas);
  if (mix.scan > 0 && !protocol->HasScan()) {
    return Error(Code::kUnsupported, "{} has no ordered scan, so workload {} cannot run on it", server.system(),
                 settings.workload.name);
  }
  GeneratorOptions options = settings.generator;
  options.host = server.host();
  options.port = server.port();
  options.may_miss = mix.insert > 0;
  options.value_seed = Mix64(settings.workload.seed);
  OpStream ops(mix, settings.workload.keys, settings.workload.seed);

  UringOptions uring;
  // Pipelined answers arrive in large pieces, so use fewer and larger buffers in the same memory.
  uring.network.receive_buffers = 128;
  uring.network.receive_buffer_bytes = 64u << 10;
  ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, MakeUringReactor(uring));
  CpuObserver cpu(server);
  auto tally = std::make_unique<Tally>();
  Generator generator(*reactor, *protocol, settings.shape, options, std::move(ops), &cpu);
  Status status(Code::kAborted, "the event loop ended before the run did");
  TaskGroup tasks;
  tasks.Spawn(RunAndStop(reactor.get(), &generator, tally.get(), &status));
  reactor->Run();
  if (!status.ok()) return status;

  Measurement m;
  m.suite = settings.suite;
  m.workload = settings.workload.name;
  m.system = server.system();
  m.distribution = NameOf(mix.distribution);
  m.connections = options.connections;
  m.depth = options.depth;
  m.keys = settings.workload.keys;
  m.key_bytes = settings.shape.key_bytes;
  m.value_bytes = settings.shape.value_bytes;
  m.rate = options.rate;
  m.seconds = tally->seconds;
  m.ops = tally->ops;
  m.rows = tally->rows;
  m.errors = tally->errors;
  m.not_found = tally->not_found;
  m.slow_replies = tally->slow_replies;
  m.checked = tally->checked;
  m.first_error = tally->first_error;
  m.mean_us = tally->latency_ns.mean() * 1e-3;
  m.p50_us = Micros(tally->latency_ns.Percentile(50));
  m.p99_us = Micros(tally->latency_ns.Percentile(99));
  m.p999_us = Micros(tally->latency_ns.Percentile(99.9));
  m.max_us = Micros(tally->latency_ns.max());
  m.server_cpu_s = cpu.server_s;
  m.stolen_cpu_s = cpu.stolen_s;
  m.generator_cpu_s = tally->generator_cpu_s;
  return m;
}

Status LoadRecords(const Server& server, const RunSettings& settings) {
  RunSettings load = settings;
  load.workload.name = "load";
  load.generator.ops = settings.workload.keys;
  load.generator.rate = 0;
  load.generator.connections = kLoadConnections;
  load.generator.pipelining = Pipelining::kWindow;
  Measurement m;
  // A server whose limits are small refuses what is too much at once. Puts may be repeated, so all of them are.
  for (uint32_t depth = kLoadDepth;; depth /= 4) {
    load.generator.depth = depth;
    ASSIGN_OR_RETURN(m, Measure(server, load));
    if (m.errors == 0) break;
    if (depth / 4 == 0) {
      return Error(Code::kIoError, "loading {} records failed: the server refused {}, the first with: {}",
                   settings.workload.keys, m.errors, m.first_error);
    }
  }
  tools::PrintNote("loaded {} records into {} in {:.1f} s ({:.0f} records/s)\n", m.ops, server.system(), m.seconds,
                   m.ops_per_s());
  return Status();
}

}  // namespace pando::bench
