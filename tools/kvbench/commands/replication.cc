// kvbench replication: what three replicas cost, beside one; how far followers are behind, and how they catch up.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/common/table.h"
#include "tools/kvbench/catch_up.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/engine_report.h"

namespace pando::bench {

namespace {

constexpr uint32_t kConnections = 50;
constexpr double kLagTargetMs = 10;

struct ReplicationCommand {
  CommonSettings common;
  uint32_t partitions = 16;
  int repeat = 5;
  std::vector<std::string> systems = {"pando", "etcd", "redis"};
  std::vector<std::string> parts = {"cost", "lag", "catch-up"};
  double rate = 0;
  double limit_mb_per_s = 16;
  uint64_t missed_mb = 300;
  uint64_t catch_up_keys = 150'000;
  uint64_t log_budget_mb = 64;
};

bool Wanted(const ReplicationCommand& c, const char* part) {
  return std::find(c.parts.begin(), c.parts.end(), part) != c.parts.end();
}

// One replica, and three, of one system.
struct Pair {
  std::string system, version;
  std::unique_ptr<Cluster> one, three;
};

std::string WorkloadOf(const Cluster& cluster) { return fmt::format("put-r{}", cluster.size()); }

ClusterOptions ClusterOf(const ReplicationCommand& c, size_t nodes) {
  ClusterOptions options;
  options.server = c.common.server;
  options.partitions = c.partitions;
  options.nodes = nodes;
  return options;
}

RunSettings SettingsOf(const ReplicationCommand& c, const Cluster& cluster) {
  RunSettings settings = c.common.run;
  settings.suite = "replication";
  settings.workload.name = "put";
  settings.generator.connections = kConnections;
  if (cluster.system() == "redis" && cluster.size() > 1) {
    settings.wait_replicas = static_cast<uint32_t>(cluster.size()) - 1;
  }
  return settings;
}

Result<Pair> StartPair(const ReplicationCommand& c, const std::string& system) {
  Pair pair;
  pair.system = system;
  pair.version = BinaryVersion(system == "pando"  ? c.common.server.binary
                               : system == "etcd" ? c.common.server.etcd_binary
                                                  : c.common.server.redis_binary);
  const auto start = system == "pando" ? StartPandoCluster : system == "etcd" ? StartEtcdCluster : StartRedisCluster;
  for (auto [cluster, nodes] : {std::pair(&pair.one, size_t{1}), std::pair(&pair.three, size_t{3})}) {
    ASSIGN_OR_RETURN(*cluster, start(ClusterOf(c, nodes)));
    if (system == "pando" && nodes > 1) RETURN_IF_ERROR(LeadFrom(cluster->get(), 0));
    ASSIGN_OR_RETURN(std::unique_ptr<Server> server, ServerOf(cluster->get()));
    RETURN_IF_ERROR(LoadRecords(*server, SettingsOf(c, **cluster)));
  }
  return Result<Pair>(std::move(pair));
}

Status MeasureCost(const ReplicationCommand& c, std::vector<Pair>* pairs, Reporter* reporter) {
  for (int run = 1; run <= c.repeat; ++run) {
    for (Pair& pair : *pairs) {
      for (Cluster* cluster : {pair.one.get(), pair.three.get()}) {
        ASSIGN_OR_RETURN(std::unique_ptr<Server> server, ServerOf(cluster));
        ASSIGN_OR_RETURN(Measurement m, Measure(*server, SettingsOf(c, *cluster)));
        m.workload = WorkloadOf(*cluster);
        m.run = run;
        m.version = pair.version;
        reporter->Add(std::move(m));
      }
    }
  }
  return Status();
}

double CpuMicros(const Measurement& m) { return m.ops > 0 ? 1e6 * m.server_cpu_s / static_cast<double>(m.ops) : 0; }
double Rate(const Measurement& m) { return m.ops_per_s(); }
double P50(const Measurement& m) { return m.p50_us; }
double P99(const Measurement& m) { return m.p99_us; }

// By run.
std::vector<double> Values(const std::vector<Measurement>& all, const std::string& system, const char* workload,
                           double (*value)(const Measurement&)) {
  std::vector<double> values;
  for (const Measurement& m : all) {
    if (m.system == system && m.workload == workload) values.push_back(value(m));
  }
  return values;
}

std::string RenderCost(const std::vector<Pair>& pairs, const std::vector<Measurement>& all) {
  tools::Table table({"system", "rate R=1", "rate R=3", "ratio", "cpu us R=1", "cpu us R=3", "ratio", "p50 us R=1",
                      "p50 us R=3", "ratio", "p99 us R=1", "p99 us R=3", "ratio"});
  for (const Pair& pair : pairs) {
    std::vector<std::string> row = {pair.system};
    for (auto value : {Rate, CpuMicros, P50, P99}) {
      const std::vector<double> one = Values(all, pair.system, "put-r1", value);
      const std::vector<double> three = Values(all, pair.system, "put-r3", value);
      std::vector<double> ratios;  // of runs that followed each other
      for (size_t i = 0; i < std::min(one.size(), three.size()); ++i) {
        if (one[i] > 0) ratios.push_back(three[i] / one[i]);
      }
      row.push_back(fmt::format("{:.0f}", Median(one)));
      row.push_back(fmt::format("{:.0f}", Median(three)));
      row.push_back(fmt::format("{:.2f}", Median(ratios)));
    }
    table.Row(row);
  }
  table.Row({"target", "", "", ">= 0.40", "", "", "<= 3.3", "", "", "<= 2.5", "", "", ""});
  return table.Render();
}

Status ReportLag(const ReplicationCommand& c, Cluster* pando, Reporter* reporter) {
  RunSettings load = SettingsOf(c, *pando);
  load.generator.rate = c.rate;
  if (load.generator.rate == 0) load.generator.rate = Median(Values(reporter->all(), "pando", "put-r3", Rate)) / 2;
  if (load.generator.rate <= 0) return Error(Code::kInvalidArgument, "without the part \"cost\", lag needs --rate");
  ASSIGN_OR_RETURN(Lag lag, MeasureLag(pando, load));
  tools::Print(
      "\nLag at {:.0f} puts/s: p50 {:.1f} ms, p99 {:.1f} ms, max {:.1f} ms of {} samples (target: p99 <= {:.0f})\n",
      load.generator.rate, lag.ms.p50, lag.ms.p99, lag.ms.max, lag.samples, kLagTargetMs);
  lag.load.workload = "lag";
  lag.load.extra = {
      {"lag_p50_ms", lag.ms.p50}, {"lag_p99_ms", lag.ms.p99}, {"lag_max_ms", lag.ms.max}, {"lag_samples", lag.samples}};
  reporter->Add(std::move(lag.load));
  return Status();
}

Status ReportCatchUp(const ReplicationCommand& c, Reporter* reporter) {
  CatchUpOptions options;
  options.cluster = ClusterOf(c, 3);
  options.load = c.common.run;
  options.load.suite = "replication";
  options.load.workload.name = "put";
  options.load.workload.keys = c.catch_up_keys;
  options.load.generator.connections = kConnections;
  options.limit_mb_per_s = c.limit_mb_per_s;
  options.missed_mb = c.missed_mb;
  options.log_budget_mb = c.log_budget_mb;
  // Half of the rate at which copies come, in records.
  options.load.generator.rate = c.limit_mb_per_s * (1 << 20) / 2 / static_cast<double>(c.common.run.shape.value_bytes);
  if (c.rate > 0) options.load.generator.rate = c.rate;
  ASSIGN_OR_RETURN(CatchUp r, MeasureCatchUp(options));
  const double mb_per_s = r.copied_s > 0 ? r.copied_mb / r.copied_s : 0;
  tools::Print(
      "\nCatch-up: {:.0f} MiB of pages in {:.1f} s, {:.1f} MiB/s of a limit of {:.0f} ({:.0f} %; target 90 %); all in\n"
      "sync {:.1f} s after the start, with {:.0f} puts/s meanwhile. p99 of those: {:.1f} ms before, {:.1f} ms "
      "meanwhile\n"
      "({:+.0f} %; target +20 %)\n",
      r.copied_mb, r.copied_s, mb_per_s, c.limit_mb_per_s, 100 * mb_per_s / c.limit_mb_per_s, r.level_s,
      options.load.generator.rate, r.before.p99_us * 1e-3, r.during.p99_us * 1e-3,
      r.before.p99_us > 0 ? 100 * (r.during.p99_us / r.before.p99_us - 1) : 0);
  r.before.workload = "catch-up-before";
  r.during.workload = "catch-up";
  r.during.extra = {{"copied_mb", r.copied_mb},
                    {"copied_s", r.copied_s},
                    {"limit_mb_per_s", c.limit_mb_per_s},
                    {"level_s", r.level_s}};
  reporter->Add(std::move(r.before));
  reporter->Add(std::move(r.during));
  return Status();
}

Status Replication(ReplicationCommand* c) {
  c->common.pin = false;  // the servers share all cores
  RETURN_IF_ERROR(Prepare(&c->common));
  ASSIGN_OR_RETURN(Reporter reporter, Reporter::Open(c->common.json_path));
  if (Wanted(*c, "cost") || Wanted(*c, "lag")) {
    std::vector<Pair> pairs;
    for (const std::string& system : c->systems) {
      if (!Wanted(*c, "cost") && system != "pando") continue;
      ASSIGN_OR_RETURN(Pair pair, StartPair(*c, system));
      pairs.push_back(std::move(pair));
    }
    if (Wanted(*c, "cost")) {
      RETURN_IF_ERROR(MeasureCost(*c, &pairs, &reporter));
      tools::Print("{}\nMedians of {} alternating runs, and of the ratios of runs that followed each other:\n{}",
                   RenderTable(reporter.all()), c->repeat, RenderCost(pairs, reporter.all()));
    }
    for (const Pair& pair : pairs) {
      if (pair.system == "pando" && Wanted(*c, "lag")) RETURN_IF_ERROR(ReportLag(*c, pair.three.get(), &reporter));
    }
  }
  if (Wanted(*c, "catch-up")) RETURN_IF_ERROR(ReportCatchUp(*c, &reporter));
  for (const Measurement& m : reporter.all()) {
    if (m.errors > 0) return Error(Code::kIoError, "{} requests failed on {}: {}", m.errors, m.system, m.first_error);
  }
  return Status();
}

}  // namespace

void AddReplicationCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<ReplicationCommand>();
  c->common.run.generator.seconds = 3;
  c->common.run.generator.warmup_s = 1;
  c->common.run.workload.keys = 20'000;
  tools::Command command = app.Add(
      "replication", "Compare one replica with three, of Pando, etcd and Redis; measure lag and catch-up of Pando");
  command.Number("--repeat", &c->repeat, "Runs of each measurement, alternating between the systems", 1, 100)
      .ShowDefault();
  command.Texts("--systems", &c->systems, "Systems to measure: pando, etcd, redis", ',')
      .OneOf({"pando", "etcd", "redis"});
  command.Texts("--parts", &c->parts, "What to measure: cost, lag, catch-up", ',').OneOf({"cost", "lag", "catch-up"});
  command.Number("--partitions", &c->partitions, "Partitions of Pando, a power of two", 1, 256).ShowDefault();
  command.Number("--rate", &c->rate,
                 "Puts per second for lag and catch-up; default: half of what was measured, or of the limit", 0);
  command.Number("--install_mb_per_s", &c->limit_mb_per_s, "The limit of catch-up, in MiB/s", 1, 10'000).ShowDefault();
  command.Number("--missed_mb", &c->missed_mb, "MiB written while the follower is down", 1, 100'000).ShowDefault();
  command.Number("--catch_up_keys", &c->catch_up_keys, "Records in the store that is copied", 1).ShowDefault();
  command.Number("--log_budget_mb", &c->log_budget_mb, "The log budget of nodes in catch-up", 16).ShowDefault();
  AddDataOptions(command, &c->common);
  AddClusterOptions(command, &c->common.server);
  command.Footer(
      "50 connections put durably: Pando with QUORUM, etcd through its JSON gateway, Redis with appendfsync always, "
      "and\n"
      "with WAIT 2 for three. One node leads everything. Servers are not pinned: three share the cores that one "
      "has.\n\n"
      "Example:\n  kvbench replication --repeat=5 --json=replication.json");
  command.OnChosen([c, exit_code] {
    if ((c->partitions & (c->partitions - 1)) != 0) {
      *exit_code = Report(Error(Code::kInvalidArgument, "--partitions={} is not a power of two", c->partitions));
      return;
    }
    *exit_code = Report(Replication(c.get()));
  });
}

}  // namespace pando::bench
