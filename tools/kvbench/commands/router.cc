// kvbench router: measures a kvnode and a redis-server, each alone and behind routers and proxies, in alternation.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tools/common/table.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/engine_report.h"

namespace pando::bench {

namespace {

struct RouterCommand {
  CommonSettings common;
  int repeat = 5;
  std::vector<std::string> only;
};

struct Case {
  const char* name;
  const char* workload;
  uint32_t connections, depth;
  bool durable;
};
// One connection shows what a router adds to the time of a request; fifty, what it costs.
constexpr std::array<Case, 4> kCases = {{{"get", "get", 50, 1, false},
                                         {"get-16-deep", "get", 50, 16, false},
                                         {"get-alone", "get", 1, 1, false},
                                         {"durable-set", "put", 50, 1, true}}};

bool Wanted(const RouterCommand& c, const Case& wanted) {
  return c.only.empty() || std::find(c.only.begin(), c.only.end(), wanted.name) != c.only.end();
}

// One way to a server. `paused`: the processes that take part in it.
struct Way {
  std::string name;
  Server* entrance = nullptr;
  std::vector<Server*> processes;
};

struct Servers {
  std::unique_ptr<Server> pando, kvrouter, redis, nutcracker, haproxy;

  std::vector<Way> Ways() const {
    return {{"pando", pando.get(), {pando.get()}},
            {"kvrouter", kvrouter.get(), {pando.get(), kvrouter.get()}},
            {"redis", redis.get(), {redis.get()}},
            {"nutcracker", nutcracker.get(), {redis.get(), nutcracker.get()}},
            {"haproxy", haproxy.get(), {redis.get(), haproxy.get()}}};
  }
};

Result<Servers> StartServers(const RouterCommand& c, bool durable) {
  Servers servers;
  const ServerOptions& options = c.common.server;
  ASSIGN_OR_RETURN(servers.pando, StartKvnode(options));
  RETURN_IF_ERROR(LoadRecords(*servers.pando, c.common.run));
  ASSIGN_OR_RETURN(servers.kvrouter, StartKvrouter(options, *servers.pando));
  ASSIGN_OR_RETURN(servers.redis, StartRedis(options, durable ? RedisDurability::kAlways : RedisDurability::kNone));
  RETURN_IF_ERROR(LoadRecords(*servers.redis, c.common.run));
  if (durable) RETURN_IF_ERROR(MakeRedisDurable(*servers.redis));
  ASSIGN_OR_RETURN(servers.nutcracker, StartNutcracker(options, *servers.redis));
  ASSIGN_OR_RETURN(servers.haproxy, StartHaproxy(options, *servers.redis));
  for (const Way& way : servers.Ways()) way.entrance->Pause();
  return Result<Servers>(std::move(servers));
}

Status MeasureCase(const RouterCommand& c, const Case& what, const Servers& servers, Reporter* reporter) {
  RunSettings settings = c.common.run;
  settings.suite = "router";
  settings.workload.name = what.workload;
  settings.generator.connections = what.connections;
  settings.generator.depth = what.depth;
  for (int run = 1; run <= c.repeat; ++run) {
    for (const Way& way : servers.Ways()) {
      for (Server* process : way.processes) process->Resume();
      Result<Measurement> measured = Measure(*way.entrance, settings);
      for (Server* process : way.processes) process->Pause();
      if (!measured.ok()) return Error(measured.code(), "{}: {}", way.name, measured.status().message());
      measured->workload = what.name;
      measured->system = way.name;
      measured->run = run;
      reporter->Add(*std::move(measured));
    }
  }
  return Status();
}

std::string RenderRatios(const RouterCommand& c, const std::vector<Measurement>& all) {
  tools::Table table({"workload", "through", "ops/s", "of direct", "own cpu us", "p50 us", "added p50 us", "p99 us"});
  for (const Case& what : kCases) {
    if (!Wanted(c, what)) continue;
    auto median = [&](std::string_view system, double (*value)(const Measurement&)) {
      std::vector<double> values;
      for (const Measurement& m : all) {
        if (m.workload == what.name && m.system == system) values.push_back(value(m));
      }
      return Median(std::move(values));
    };
    auto rate = [](const Measurement& m) { return m.ops_per_s(); };
    auto cpu_us = [](const Measurement& m) {
      return m.ops_per_server_cpu_s() > 0 ? 1e6 / m.ops_per_server_cpu_s() : 0;
    };
    auto p50 = [](const Measurement& m) { return m.p50_us; };
    auto p99 = [](const Measurement& m) { return m.p99_us; };
    const std::pair<const char*, const char*> ways[] = {
        {"pando", "pando"}, {"kvrouter", "pando"}, {"redis", "redis"}, {"nutcracker", "redis"}, {"haproxy", "redis"}};
    for (const auto& [way, direct] : ways) {
      const double of = median(direct, rate);
      const bool through = std::string_view(way) != direct;
      table.Row({what.name, through ? way : fmt::format("{}, direct", way), fmt::format("{:.0f}", median(way, rate)),
                 through && of > 0 ? fmt::format("{:.2f}", median(way, rate) / of) : "",
                 fmt::format("{:.2f}", median(way, cpu_us)), fmt::format("{:.0f}", median(way, p50)),
                 through ? fmt::format("{:.0f}", median(way, p50) - median(direct, p50)) : "",
                 fmt::format("{:.0f}", median(way, p99))});
    }
  }
  return table.Render();
}

Status Run(RouterCommand* c) {
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
  tools::Print("{}\nMedians of {} alternating runs:\n{}", RenderTable(reporter.all()), c->repeat,
               RenderRatios(*c, reporter.all()));
  for (const Measurement& m : reporter.all()) {
    if (m.errors > 0) return Error(Code::kIoError, "{} requests failed on {}: {}", m.errors, m.system, m.first_error);
  }
  return Status();
}

}  // namespace

void AddRouterCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<RouterCommand>();
  c->common.run.generator.seconds = 5;
  c->common.run.generator.warmup_s = 1;
  c->common.run.workload.keys = 200'000;
  tools::Command command =
      app.Add("router", "Compare kvrouter before a kvnode with nutcracker and haproxy before Redis, on one core");
  command.Number("--repeat", &c->repeat, "Runs of each measurement, alternating between the ways", 1, 100)
      .ShowDefault();
  std::vector<std::string> names;
  for (const Case& what : kCases) names.emplace_back(what.name);
  command.Texts("--only", &c->only, fmt::format("Run only these measurements: {}", fmt::join(names, ", ")))
      .OneOf(names);
  AddDataOptions(command, &c->common);
  AddServerOptions(command, &c->common);
  command.Text("--kvrouter", &c->common.server.kvrouter_binary, "The kvrouter binary to start").ShowDefault();
  command.Text("--nutcracker", &c->common.server.nutcracker_binary, "The nutcracker binary to start").ShowDefault();
  command.Text("--haproxy", &c->common.server.haproxy_binary, "The haproxy binary to start").ShowDefault();
  command.Footer(
      "A server and what stands before it are pinned to the same core, so \"of direct\" says how much of the core is\n"
      "left for the server. \"own cpu us\" is that of the router or proxy alone. haproxy passes connections on "
      "without\n"
      "looking at requests.\n\nExample:\n  kvbench router --only get --json=figures.json");
  command.OnChosen([c, exit_code] { *exit_code = Report(Run(c.get())); });
}

}  // namespace pando::bench
