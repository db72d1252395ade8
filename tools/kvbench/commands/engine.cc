// kvbench engine: measures the embedded engine, RocksDB, LMDB and WiredTiger under the same load.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>

#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/engine_bench.h"

namespace pando::bench {

namespace {

struct EngineCommand {
  EngineBenchOptions options;
  std::string cpus, json_path, plots_dir;
};

// Draws the figures of `json_path` into `dir`, with tools/kvbench/plot.py.
Status Plot(const std::string& json_path, const std::string& dir) {
  std::string script = KVBENCH_PLOT_SCRIPT, python = "/usr/bin/python3", json = json_path, target = dir;
  char* argv[] = {python.data(), script.data(), json.data(), target.data(), nullptr};
  pid_t pid = 0;
  int error = ::posix_spawn(&pid, argv[0], nullptr, nullptr, argv, environ);
  if (error != 0) return ErrnoError(error, "run {}", python);
  int how = 0;
  ::waitpid(pid, &how, 0);
  if (how != 0) return Error(Code::kIoError, "{} {} {} failed; its error message is above", script, json_path, dir);
  return Status();
}

Status RunEngines(EngineCommand* c) {
  if (!c->cpus.empty()) {
    ASSIGN_OR_RETURN(c->options.cpus, ParseCpuList(c->cpus));
  }
  if (!c->plots_dir.empty() && c->json_path.empty()) {
    return Error(Code::kInvalidArgument, "--plots draws the figures in the file of --json, so give --json too");
  }
  RETURN_IF_ERROR(CompleteOptions(&c->options));
  std::FILE* json = nullptr;
  if (!c->json_path.empty()) {
    json = std::fopen(c->json_path.c_str(), "we");
    if (json == nullptr) return ErrnoError(errno, "open {}", c->json_path);
  }
  std::vector<EngineMeasurement> all;
  Status status = RunEngineBench(c->options, [&](const EngineMeasurement& m) {
    tools::PrintNote("{} {} run {}: {:.0f} ops/s, p50 {:.1f} us, p99.9 {:.1f} us, max {:.1f} us{}{}\n", m.workload,
                     m.system, m.run, m.ops_per_s, m.p50_us, m.p999_us, m.max_us, m.stats.empty() ? "" : "; ", m.stats);
    if (json != nullptr) {
      fmt::print(json, "{}\n", nlohmann::json(m).dump());
      std::fflush(json);
    }
    all.push_back(m);
  });
  if (json != nullptr) std::fclose(json);
  tools::Print("{} records of {} + {} bytes, {} MiB of memory (in-memory workloads: twice the data), CPUs {}\n{}",
               c->options.records, c->options.shape.key_bytes, c->options.shape.value_bytes, c->options.memory_mb,
               fmt::join(c->options.cpus, ","), RenderEngineTable(all));
  // Draw what was measured, even if an engine failed.
  Status plotted = c->plots_dir.empty() ? Status() : Plot(c->json_path, c->plots_dir);
  return status.ok() ? std::move(plotted) : std::move(status);
}

// Long function: one entry per option.
void AddEngineOptions(tools::Command command, EngineCommand* c) {
  EngineBenchOptions& o = c->options;
  command
      .Texts("--engines", &o.engines,
             "Any of pando, rocksdb, lmdb, wiredtiger; pando-4k, -8k, -16k, -32k (page sizes); fio (disk reads, "
             "next to get)",
             ',')
      .ShowDefault();
  std::vector<std::string> names;
  for (const EngineWorkload& w : EngineWorkloads()) names.push_back(w.name);
  command.Texts("--workloads", &o.workloads, fmt::format("Any of {}", fmt::join(names, ", ")), ',').ShowDefault();
  command.Text("--dir", &o.dir, "Directory for the stores, on the disk to measure").ShowDefault().ExistingDirectory();
  command.Number("--records", &o.records, "Records in each store", 1).ShowDefault();
  command.Number("--key_bytes", &o.shape.key_bytes, "Length of each key, in bytes", kMinKeyBytes, size_t{500})
      .ShowDefault();
  command
      .Number("--value_bytes", &o.shape.value_bytes, "Length of each value, in bytes", kMinValueBytes, size_t{1} << 20)
      .ShowDefault();
  command
      .Number("--compressible_percent", &o.shape.compressible_percent,
              "Share of each value that compresses, in percent", 0, 100)
      .ShowDefault();
  command.Number("--memory_mb", &o.memory_mb, "Memory of each engine, in MiB; default: an eighth of the data");
  command.Number("--log_mb", &o.log_mb, "Log kept before a checkpoint, in MiB; default: that of each engine");
  command.Number("--clients", &o.clients, "Number of operations in progress", 1, 1000).ShowDefault();
  command.Number("--seconds", &o.seconds, "Seconds to measure", 0.001).ShowDefault();
  command.Number("--warmup_s", &o.warmup_s, "Seconds of load before the measurement", 0).ShowDefault();
  command.Number("--rate", &o.rate, "Operations per second of the open loops; default: half of the saturating rate");
  command
      .Number("--repeat", &o.repeat,
              "Runs of each measurement, alternating between the engines; the table shows medians", 1, 100)
      .ShowDefault();
  AddDistributionOption(command, &o.distribution, "Distribution of keys for get, put and scan");
  command.Number("--page_bytes", &o.page_bytes, "Page size of Pando, in bytes; default: that of Pando");
  command.Number("--partitions", &o.partitions, "Partitions of Pando, all on one reactor").ShowDefault();
  command.Choice(
      "--compression", {"lz4", "none"},
      [&o](const std::string& name) {
        o.compression = name == "lz4" ? BenchCompression::kLz4 : BenchCompression::kNone;
      },
      "For Pando and RocksDB; default: lz4, with which WiredTiger uses snappy");
  command.Text("--cpus", &c->cpus, "CPUs for each engine, as in 0-1; default: all; one-core workloads use the first");
  command.Number("--seed", &o.seed, "Random seed of the operations").ShowDefault();
  command.Number("--timeout_s", &o.timeout_s, "Give up a measurement after this many seconds").ShowDefault();
  command.Flag("--unlimited_page_cache", &o.unlimited_page_cache,
               "Measure LMDB with data larger than memory even if its page cache cannot be limited");
  command.Flag("--keep", &o.keep, "Keep the stores");
  command.Text("--json", &c->json_path, "Write one line of JSON per measurement to this file");
  command.Text("--plots", &c->plots_dir, "Draw the figures of --json as SVG files in this directory");
}

}  // namespace

void AddEngineCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<EngineCommand>();
  // Offer only the engines that are built in, and say which are missing.
  std::string missing;
  std::erase_if(c->options.engines, [&](const std::string& name) {
    const EngineInfo* engine = FindEngine(name);
    if (engine->make) return false;
    missing += fmt::format("\n{} is not built in; install {} and build again.", name, engine->package);
    return true;
  });
  tools::Command command =
      app.Add("engine", "Compare the embedded engine with RocksDB, LMDB and WiredTiger under the same load");
  AddEngineOptions(command, c.get());
  command.Footer("Each measurement runs in its own process. docs/BENCHMARKS.md explains what is compared.\n" + missing +
                 "\nExamples:\n"
                 "  kvbench engine --records=8000000 --seconds=60 --repeat=3 --json=figures.json --plots=plots\n"
                 "  kvbench engine --engines=pando,rocksdb --workloads=put,put-open --page_bytes=4096\n"
                 "  kvbench engine --engines=pando-8k,pando-16k,rocksdb,fio --workloads=get --repeat=7");
  command.OnChosen([c, exit_code, missing] {
    if (!missing.empty()) tools::PrintNote("{}\n", missing.substr(1));
    *exit_code = Report(RunEngines(c.get()));
  });
}

}  // namespace pando::bench
