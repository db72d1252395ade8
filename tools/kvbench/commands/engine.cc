// kvbench engine: the embedded engine against RocksDB, LMDB and WiredTiger.
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

// Draws the figures of `json_path` into `dir`, with the script that lies beside the sources.
Status Plot(const std::string& json_path, const std::string& dir) {
  std::string script = KVBENCH_PLOT_SCRIPT, python = "/usr/bin/python3", json = json_path, target = dir;
  char* argv[] = {python.data(), script.data(), json.data(), target.data(), nullptr};
  pid_t pid = 0;
  int error = ::posix_spawn(&pid, argv[0], nullptr, nullptr, argv, environ);
  if (error != 0) return ErrnoError(error, "run {}", python);
  int how = 0;
  ::waitpid(pid, &how, 0);
  if (how != 0) return Error(Code::kIoError, "{} {} {} failed", script, json_path, dir);
  return Status();
}

Status RunEngines(EngineCommand* c) {
  if (!c->cpus.empty()) {
    ASSIGN_OR_RETURN(c->options.cpus, ParseCpuList(c->cpus));
  }
  if (!c->plots_dir.empty() && c->json_path.empty()) {
    return Error(Code::kInvalidArgument, "--plots draws what is in the file of --json: give that too");
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
  tools::Print("{} records of {} + {} bytes, {} MiB of memory unless in memory, CPUs {}\n{}", c->options.records,
               c->options.shape.key_bytes, c->options.shape.value_bytes, c->options.memory_mb,
               fmt::join(c->options.cpus, ","), RenderEngineTable(all));
  // What was measured is drawn, also when an engine had to be left out.
  Status plotted = c->plots_dir.empty() ? Status() : Plot(c->json_path, c->plots_dir);
  return status.ok() ? std::move(plotted) : std::move(status);
}

void AddEngineOptions(CLI::App* command, EngineCommand* c) {
  EngineBenchOptions& o = c->options;
  command
      ->add_option("--engines", o.engines,
                   "pando, rocksdb, lmdb, wiredtiger; pando-4k, -8k, -16k, -32k (sizes of pages); fio (reads of the "
                   "disk, beside get)")
      ->delimiter(',')
      ->capture_default_str();
  std::vector<std::string> names;
  for (const EngineWorkload& w : EngineWorkloads()) names.push_back(w.name);
  command->add_option("--workloads", o.workloads, fmt::format("Any of {}", fmt::join(names, ", ")))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--dir", o.dir, "Where the stores are made: on the disk to measure")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  tools::AddNumber(command, "--records", &o.records, "Records in each store")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  tools::AddNumber(command, "--key_bytes", &o.shape.key_bytes, "Length of every key")
      ->capture_default_str()
      ->check(CLI::Range(kMinKeyBytes, size_t{500}));
  tools::AddNumber(command, "--value_bytes", &o.shape.value_bytes, "Length of every value")
      ->capture_default_str()
      ->check(CLI::Range(kMinValueBytes, size_t{1} << 20));
  tools::AddNumber(command, "--compressible_percent", &o.shape.compressible_percent, "Share of a value that compresses")
      ->capture_default_str()
      ->check(CLI::Range(0, 100));
  tools::AddNumber(command, "--memory_mb", &o.memory_mb, "Memory of each engine; default: an eighth of the data");
  tools::AddNumber(command, "--log_mb", &o.log_mb, "Log kept before a checkpoint; default: each engine's own");
  tools::AddNumber(command, "--clients", &o.clients, "Operations in progress")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  tools::AddNumber(command, "--seconds", &o.seconds, "Measured seconds")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  tools::AddNumber(command, "--warmup_s", &o.warmup_s, "Seconds that run before the measured ones")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  tools::AddNumber(command, "--rate", &o.rate,
                   "Of the open loops, operations per second; default: half of what saturates");
  tools::AddNumber(command, "--repeat", &o.repeat,
                   "Runs of each measurement, engines alternating; the table has medians")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  command->add_option("--distribution", o.distribution, "Of get, put and scan: uniform or zipfian (scattered)")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Distribution>{{"uniform", Distribution::kUniform},
                                                                              {"zipfian", Distribution::kZipfian}}));
  tools::AddNumber(command, "--page_bytes", &o.page_bytes, "Pando's pages; default: its own");
  tools::AddNumber(command, "--partitions", &o.partitions, "Pando's trees, all on one reactor")->capture_default_str();
  command
      ->add_option("--compression", o.compression, "lz4 or none, of Pando and RocksDB; with lz4 WiredTiger has snappy")
      ->default_str("lz4")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, BenchCompression>{{"none", BenchCompression::kNone}, {"lz4", BenchCompression::kLz4}}));
  command->add_option("--cpus", c->cpus, "CPUs of every engine, like 0-1; default: all; one-core workloads: the first");
  tools::AddNumber(command, "--seed", &o.seed, "Seed of the operations")->capture_default_str();
  tools::AddNumber(command, "--timeout_s", &o.timeout_s, "After which one measurement is given up")
      ->capture_default_str();
  command->add_flag("--unlimited_page_cache", o.unlimited_page_cache,
                    "Measure LMDB beyond memory also where its page cache cannot be limited");
  command->add_flag("--keep", o.keep, "Leave the stores behind");
  command->add_option("--json", c->json_path, "Write one JSON object per measurement and line to this file");
  command->add_option("--plots", c->plots_dir, "Draw the figures of --json as SVG into this directory");
}

}  // namespace

void AddEngineCommand(CLI::App& app, int* exit_code) {
  auto c = std::make_shared<EngineCommand>();
  // Only what is built in, and a word about what is not.
  std::string missing;
  std::erase_if(c->options.engines, [&](const std::string& name) {
    const EngineInfo* engine = FindEngine(name);
    if (engine->make) return false;
    missing += fmt::format("\n{} is not built in: install {} and build again.", name, engine->package);
    return true;
  });
  CLI::App* command =
      app.add_subcommand("engine", "The embedded engine against RocksDB, LMDB and WiredTiger, same work, one run");
  AddEngineOptions(command, c.get());
  command->footer("Each measurement is made in a process of its own; docs/BENCHMARKS.md says what is compared.\n" +
                  missing +
                  "\nExamples:\n"
                  "  kvbench engine --records=8000000 --seconds=60 --repeat=3 --json=figures.json --plots=plots\n"
                  "  kvbench engine --engines=pando,rocksdb --workloads=put,put-open --page_bytes=4096\n"
                  "  kvbench engine --engines=pando-8k,pando-16k,rocksdb,fio --workloads=get --repeat=7");
  command->callback([c, exit_code, missing] {
    if (!missing.empty()) tools::PrintNote("{}\n", missing.substr(1));
    *exit_code = Report(RunEngines(c.get()));
  });
}

}  // namespace pando::bench
