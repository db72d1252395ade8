// kvbench compare: measures Pando and Redis alternately, and prints medians, ratios and the
// project's targets.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tools/common/table.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/engine_report.h"

namespace pando::bench {

namespace {

struct CompareCommand {
  CommonSettings common;
  int repeat = 3;
  std::vector<std::string> only;
};

struct Case {
  const char* name;
  const char* workload;
  uint32_t depth;
  bool durable;
  // The ratio pando / redis: of the requests per second of the server's CPU, which hardly depend on
  // what else the machine does, and for durable sets of the rate too.
  double target;
};
constexpr std::array<Case, 4> kCases = {{{"get", "get", 1, false, 1.2},
                                         {"get-16-deep", "get", 16, false, 1.5},
                                         {"durable-set", "put", 1, true, 1.3},
                                         {"durable-set-8-deep", "put", 8, true, 1.3}}};
constexpr uint32_t kConnections = 50;
// A run is repeated if the hypervisor took more than this share of a CPU from it.
constexpr double kMaxStolenShare = 0.03;
constexpr int kTries = 20;

bool Wanted(const CompareCommand& c, const Case& wanted) {
  return c.only.empty() || std::find(c.only.begin(), c.only.end(), wanted.name) != c.only.end();
}

struct Servers {
  std::unique_ptr<Server> pando, redis, nothing;
};

// Pando and Redis hold the same records. Each server is paused while another one is measured.
Result<Servers> StartServers(const CompareCommand& c, bool durable) {
  Servers servers;
  ASSIGN_OR_RETURN(servers.pando, StartKvnode(c.common.server));
  RETURN_IF_ERROR(LoadRecords(*servers.pando, c.common.run));
  servers.pando->Pause();
  ASSIGN_OR_RETURN(servers.redis,
                   StartRedis(c.common.server, durable ? RedisDurability::kAlways : RedisDurability::kNone));
  RETURN_IF_ERROR(LoadRecords(*servers.redis, c.common.run));
  if (durable) RETURN_IF_ERROR(MakeRedisDurable(*servers.redis));
  servers.redis->Pause();
  ASSIGN_OR_RETURN(servers.nothing, StartResponder(c.common.server, c.common.run.shape.value_bytes));
  servers.nothing->Pause();
  return Result<Servers>(std::move(servers));
}

bool Disturbed(const Measurement& m) { return m.stolen_share() > kMaxStolenShare; }

// Repeats the measurement until it was not disturbed, but at most kTries times.
Result<Measurement> MeasureUndisturbed(Server* server, const RunSettings& settings) {
  for (int tries = 1;; ++tries) {
    server->Resume();
    Result<Measurement> measured = Measure(*server, settings);
    server->Pause();
    if (!measured.ok() || !Disturbed(*measured) || tries == kTries) return measured;
    tools::PrintNote("{} on {}: the hypervisor took {:.0f} % of a CPU; measuring again\n", settings.workload.name,
                     server->system(), 100 * measured->stolen_share());
  }
}

Status MeasureCase(const CompareCommand& c, const Case& what, const Servers& servers, Reporter* reporter) {
  RunSettings settings = c.common.run;
  settings.suite = "redis";
  settings.workload.name = what.workload;
  settings.generator.connections = kConnections;
  settings.generator.depth = what.depth;
  for (int run = 1; run <= c.repeat; ++run) {
    for (Server* server : {servers.pando.get(), servers.redis.get(), servers.nothing.get()}) {
      const bool nothing = server == servers.nothing.get();
      RunSettings unchecked = settings;  // a server that does nothing has none of the values
      unchecked.generator.check_every = UINT32_MAX;
      Result<Measurement> measured = MeasureUndisturbed(server, nothing ? unchecked : settings);
      if (!measured.ok()) return measured.TakeStatus();
      measured->workload = what.name;
      measured->run = run;
      const bool redis = server->system() == "redis";
      if (!nothing) {
        measured->version = BinaryVersion(redis ? c.common.server.redis_binary : c.common.server.binary);
      }
      reporter->Add(*std::move(measured));
    }
  }
  return Status();
}

std::string RenderComparison(const CompareCommand& c, const std::vector<Measurement>& all) {
  tools::Table table({"workload", "pando ops/s", "redis ops/s", "ratio", "pando cpu us", "redis cpu us",
                      "ratio per cpu", "target", "of nothing", "pando p99 us", "redis p99 us", "pando p99.9 us",
                      "redis p99.9 us", "runs"});
  for (const Case& what : kCases) {
    if (!Wanted(c, what)) continue;
    auto median = [&](const char* system, double (*value)(const Measurement&)) {
      std::vector<double> values;
      for (const Measurement& m : all) {
        if (m.workload == what.name && m.system == system && !Disturbed(m)) values.push_back(value(m));
      }
      return Median(std::move(values));
    };
    auto undisturbed = [&](const char* system) {
      return std::count_if(all.begin(), all.end(), [&](const Measurement& m) {
        return m.workload == what.name && m.system == system && !Disturbed(m);
      });
    };
    auto rate = [](const Measurement& m) { return m.ops_per_s(); };
    auto per_cpu = [](const Measurement& m) { return m.ops_per_server_cpu_s(); };
    auto ratio = [](double a, double b) { return b > 0 ? a / b : 0; };
    auto p99 = [](const Measurement& m) { return m.p99_us; };
    auto p999 = [](const Measurement& m) { return m.p999_us; };
    double pando = median("pando", rate), redis = median("redis", rate);
    double pando_per_cpu = median("pando", per_cpu), redis_per_cpu = median("redis", per_cpu);
    // The share of the CPU that the requests would take anyway, on this reactor.
    const double of_nothing = ratio(pando_per_cpu, median("nothing", per_cpu));
    table.Row({what.name, fmt::format("{:.0f}", pando), fmt::format("{:.0f}", redis),
               fmt::format("{:.2f}", ratio(pando, redis)), fmt::format("{:.2f}", ratio(1e6, pando_per_cpu)),
               fmt::format("{:.2f}", ratio(1e6, redis_per_cpu)),
               fmt::format("{:.2f}", ratio(pando_per_cpu, redis_per_cpu)), fmt::format("{:.1f}", what.target),
               fmt::format("{:.0f} %", 100 * of_nothing), fmt::format("{:.0f}", median("pando", p99)),
               fmt::format("{:.0f}", median("redis", p99)), fmt::format("{:.0f}", median("pando", p999)),
               fmt::format("{:.0f}", median("redis", p999)),
               fmt::format("{}+{}", undisturbed("pando"), undisturbed("redis"))});
  }
  return table.Render();
}

Status Compare(CompareCommand* c) {
  RETURN_IF_ERROR(Prepare(&c->common));
  ASSIGN_OR_RETURN(Reporter reporter, Reporter::Open(c->common.json_path));
  for (bool durable : {false, true}) {
    Servers servers;
    for (const Case& what : kCases) {
      if (what.durable != durable || !Wanted(*c, what)) continue;
      if (!servers.pando) {
        ASSIGN_OR_RETURN(servers, StartServers(*c, durable));
      }
      RETURN_IF_ERROR(MeasureCase(*c, what, servers, &reporter));
    }
  }
  tools::Print("{}\nMedians of the undisturbed runs out of {} alternating ones:\n{}", RenderTable(reporter.all()),
               c->repeat, RenderComparison(*c, reporter.all()));
  for (const Measurement& m : reporter.all()) {
    if (m.errors > 0) return Error(Code::kIoError, "{} requests failed on {}: {}", m.errors, m.system, m.first_error);
  }
  return Status();
}

}  // namespace

void AddCompareCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<CompareCommand>();
  c->common.run.generator.seconds = 10;
  c->common.run.generator.warmup_s = 2;
  tools::Command command =
      app.Add("compare",
              "Compare Pando with Redis: gets and durable sets, alone and pipelined; 50 connections, one server core");
  command.Number("--repeat", &c->repeat, "Runs of each measurement, alternating between the servers", 1, 100)
      .ShowDefault();
  std::vector<std::string> names;
  for (const Case& what : kCases) names.emplace_back(what.name);
  command.Texts("--only", &c->only, fmt::format("Run only these measurements: {}", fmt::join(names, ", ")))
      .OneOf(names);
  AddDataOptions(command, &c->common);
  AddServerOptions(command, &c->common);
  command.Footer(
      "The servers are pinned to the same core and hold the same records. Each is stopped (SIGSTOP) while another one\n"
      "is measured. Redis runs without snapshots. For durable sets, it runs with appendonly yes and appendfsync\n"
      "always. \"of nothing\" compares with a server on Pando's own reactor that only sends prepared answers: the\n"
      "share of Pando's CPU time that no server on this reactor can save.\n\n"
      "Example:\n  kvbench compare --repeat=5 --json=figures.json");
  command.OnChosen([c, exit_code] { *exit_code = Report(Compare(c.get())); });
}

}  // namespace pando::bench
