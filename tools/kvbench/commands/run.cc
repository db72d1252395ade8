// kvbench run: runs one or more workloads against one server, or against a server and its peer.
#include <fmt/format.h>

#include "tools/kvbench/commands/commands.h"

namespace pando::bench {

namespace {

struct RunCommand {
  CommonSettings common;
  std::vector<std::string> workloads = {"get"};
  std::string address;
  std::string protocol = "pando";
  std::string peer;
  bool load = true;
};

Result<std::unique_ptr<Server>> StartSystem(const RunCommand& c, const std::string& system) {
  if (!c.address.empty() && system == c.protocol) return UseServer(system, c.address);
  if (system == "redis") return StartRedis(c.common.server, RedisDurability::kNone);
  return StartKvnode(c.common.server);
}

Status RunSystem(const RunCommand& c, const std::string& system, Reporter* reporter) {
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, StartSystem(c, system));
  RunSettings settings = c.common.run;
  if (c.load && c.workloads != std::vector<std::string>{"load"}) RETURN_IF_ERROR(LoadRecords(*server, settings));
  for (const std::string& workload : c.workloads) {
    settings.workload.name = workload;
    RunSettings once = settings;
    if (workload == "load") once.generator.ops = settings.workload.keys;
    ASSIGN_OR_RETURN(Measurement m, Measure(*server, once));
    m.version = BinaryVersion(system == "redis" ? c.common.server.redis_binary : c.common.server.binary);
    reporter->Add(std::move(m));
  }
  return Status();
}

Status Run(RunCommand* c) {
  RETURN_IF_ERROR(Prepare(&c->common));
  for (const std::string& name : c->workloads) {
    WorkloadOptions options = c->common.run.workload;
    options.name = name;
    RETURN_IF_ERROR(MixOf(options).status());
  }
  ASSIGN_OR_RETURN(Reporter reporter, Reporter::Open(c->common.json_path));
  RETURN_IF_ERROR(RunSystem(*c, c->protocol, &reporter));
  if (!c->peer.empty() && c->peer != c->protocol) RETURN_IF_ERROR(RunSystem(*c, c->peer, &reporter));
  tools::Print("{}", RenderTable(reporter.all()));
  for (const Measurement& m : reporter.all()) {
    if (m.errors > 0) return Error(Code::kIoError, "{} of {} requests failed: {}", m.errors, m.ops, m.first_error);
  }
  return Status();
}

}  // namespace

void AddRunCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<RunCommand>();
  tools::Command command = app.Add("run", "Run workloads against a kvnode that it starts, a running server, or a peer");
  command.Texts("workload", &c->workloads, fmt::format("Any of {}", fmt::join(WorkloadNames(), ", "))).ShowDefault();
  command.Text("--server", &c->address, "host:port of a running server; default: start one");
  command.Text("--protocol", &c->protocol, "Protocol of --server, or the kind of server to start: pando or redis")
      .ShowDefault()
      .OneOf({"pando", "redis"});
  command.Text("--peer", &c->peer, "Also start this system, and give it the same load").OneOf({"redis"});
  command.Flag("--load,!--no_load", &c->load, "Store all records first (default: on)");

  GeneratorOptions& g = c->common.run.generator;
  command.Number("--connections", &g.connections, "Number of connections", 1, 20'000).ShowDefault();
  command.Number("--depth", &g.depth, "Requests in progress on each connection", 1, 4096).ShowDefault();
  command.Choice(
      "--pipelining", {"batch", "window"},
      [&g](const std::string& name) { g.pipelining = name == "batch" ? Pipelining::kBatch : Pipelining::kWindow; },
      "batch: send depth requests, then wait for all answers; window: send a new request for each answer");
  command.Number("--ops", &g.ops, "Send exactly this many requests, instead of running for --seconds");
  command.Number("--rate", &g.rate, "Open loop: requests per second; latency counts from when a request was due");
  WorkloadOptions& w = c->common.run.workload;
  command.Number("--read_percent", &w.read_percent, "Share of gets in mixed, in percent").ShowDefault();
  command.Number("--scan_rows", &w.scan_rows, "Rows per scan", 1, 10'000).ShowDefault();
  AddDistributionOption(command, &w.distribution, "Distribution of keys");
  AddDataOptions(command, &c->common);
  AddServerOptions(command, &c->common);
  command.Footer(
      "Examples:\n"
      "  kvbench run get --connections=50\n"
      "  kvbench run get put --depth=16 --peer=redis --json=figures.json\n"
      "  kvbench run ycsb-a ycsb-b ycsb-e --keys=5000000 --seconds=30\n"
      "  kvbench run mixed --read_percent=90 --rate=50000 --server=127.0.0.1:7420 --no_load");
  command.OnChosen([c, exit_code] { *exit_code = Report(Run(c.get())); });
}

}  // namespace pando::bench
