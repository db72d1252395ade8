// kvbench failover: kills the leaders of clusters under load, and measures for how long no write is acknowledged.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "tools/common/table.h"
#include "tools/kvbench/cluster.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/failover_load.h"
#include "tools/kvbench/pauses.h"

namespace pando::bench {

namespace {

struct Scenario {
  const char* name;
  const char* what;
  double p50_ms, p99_ms;  // targets; 0 = none
};
constexpr Scenario kScenarios[] = {
    {"kill", "kill -9 of the node; its guard tells the others", 200, 500},
    {"silent", "kill -9 of node and guard, so that nobody tells the others", 0, 2500},
    {"restart", "the same, and the node starts again after 0.2 s: from its start", 0, 500},
    {"handover", "SIGTERM", 0, 50}};
constexpr const char* kPeerScenario = "kill";
constexpr int64_t kRestartAfterMs = 200;
constexpr int64_t kWaitMs = 20'000;  // for the next acknowledged write
constexpr int64_t kSettleMs = 300;   // of load after it
constexpr size_t kKeyBytes = 16;

struct FailoverCommand {
  ClusterOptions cluster;
  std::vector<std::string> systems = {"pando", "redis", "etcd"};
  std::vector<std::string> only;
  int runs = 20;
  int peer_runs = 10;
  double rate = 2000;
  double warmup_s = 0.6;
  size_t value_bytes = 100;
  std::string json_path;
};

// One killed leader.
struct Run {
  std::string system, scenario;
  int run = 0;
  size_t partitions = 0;  // that it led
  double pause_ms = 0;    // of the partition that waited longest
  double read_pause_ms = 0;
  double median_partition_ms = 0;
  double before_ms = 0;  // the longest pause of any of them in a like time before
  uint64_t acknowledged = 0, lost = 0;
  uint64_t wrong_reads = 0;  // of acknowledged records, while servers died: not there, or another value
  std::string first_lost, first_wrong;
};

nlohmann::json ToJson(const Run& r, double rate) {
  return {{"suite", "failover"},
          {"workload", r.scenario},
          {"system", r.system},
          {"run", r.run},
          {"rate", rate},
          {"partitions", r.partitions},
          {"pause_ms", r.pause_ms},
          {"median_partition_pause_ms", r.median_partition_ms},
          {"read_pause_ms", r.read_pause_ms},
          {"pause_before_ms", r.before_ms},
          {"acknowledged", r.acknowledged},
          {"lost", r.lost},
          {"wrong_reads", r.wrong_reads}};
}

double Millis(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

// A system under test, with all that was ever acknowledged.
struct Subject {
  std::unique_ptr<Cluster> cluster;
  std::unique_ptr<Protocol> protocol;
  LoadOptions load;
  std::vector<uint64_t> acknowledged;

  bool redis() const { return cluster->system() == "redis"; }
};

class FailoverBench {
 public:
  explicit FailoverBench(const FailoverCommand& command) : c_(command) {}
  ~FailoverBench() {
    if (json_) std::fclose(json_);
  }

  Status Run() {
    if (!c_.json_path.empty() && !(json_ = std::fopen(c_.json_path.c_str(), "w"))) {
      return ErrnoError(errno, "open --json={}", c_.json_path);
    }
    for (const std::string& system : c_.systems) RETURN_IF_ERROR(Start(system));
    for (int run = 1; run <= std::max(c_.runs, c_.peer_runs); ++run) {
      for (Subject& subject : subjects_) {
        for (const Scenario& scenario : kScenarios) RETURN_IF_ERROR(RunOne(&subject, scenario, run));
      }
    }
    RETURN_IF_ERROR(ReadAll());
    tools::Print("{}", Table());
    // What peers lose is a figure of the comparison, and no failure.
    if (lost_ > 0) return Error(Code::kCorruption, "Pando has lost {} acknowledged writes; see above", lost_);
    if (wrong_reads_ == 0) return Status();
    return Error(Code::kCorruption,
                 "{} reads of Pando did not show an acknowledged write that was there later; see above", wrong_reads_);
  }

 private:
  Status Start(const std::string& system) {
    Subject subject;
    ClusterOptions options = c_.cluster;
    options.sentinels = true;
    const auto start = system == "pando" ? StartPandoCluster : system == "etcd" ? StartEtcdCluster : StartRedisCluster;
    ASSIGN_OR_RETURN(subject.cluster, start(options));
    subject.load.ports = subject.cluster->ports();
    subject.load.partitions = subject.cluster->partitions();
    // Peers have one leader, so they get as many clients as there are clients of the leaders of one node of Pando.
    subject.load.writers_per_partition = system == "pando" ? 2 : std::max(c_.cluster.partitions * 2 / 3, 2u);
    subject.load.readers = system != "redis";  // its replicas answer reads of the past
    subject.load.rate = c_.rate;
    subject.load.shape = {kKeyBytes, c_.value_bytes};
    // Two of three servers have each write, as with min_isr 2.
    subject.protocol = MakeProtocol(system, subject.load.shape, system == "redis" ? 1 : 0);
    subjects_.push_back(std::move(subject));
    return Status();
  }

  bool Wanted(const Subject& subject, const Scenario& scenario, int run) const {
    const bool peer = subject.cluster->system() != "pando";
    if (peer && scenario.name != std::string_view(kPeerScenario)) return false;
    if (run > (peer ? c_.peer_runs : c_.runs)) return false;
    return c_.only.empty() || std::find(c_.only.begin(), c_.only.end(), scenario.name) != c_.only.end();
  }

  // The node that leads most, and its partitions.
  static size_t Victim(const std::vector<size_t>& leaders, std::vector<uint32_t>* led) {
    std::map<size_t, size_t> counts;
    for (size_t leader : leaders) ++counts[leader];
    const size_t victim = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                            return a.second < b.second;
                          })->first;
    for (uint32_t p = 0; p < leaders.size(); ++p) {
      if (leaders[p] == victim) led->push_back(p);
    }
    return victim;
  }

  // Returns the time from which the pause counts.
  static Result<int64_t> Strike(Cluster* cluster, size_t victim, std::string_view scenario) {
    int64_t event = MonotonicNs();
    if (scenario == "handover") {
      cluster->Terminate(victim);
    } else if (scenario == "kill") {
      cluster->Kill(victim);
    } else {
      cluster->Silence(victim);
    }
    if (scenario != "restart") return event;
    SleepMs(kRestartAfterMs);
    cluster->WaitEnded(victim);
    event = MonotonicNs();
    RETURN_IF_ERROR(cluster->Start(victim));
    return event;
  }

  Status RunOne(Subject* subject, const Scenario& scenario, int number) {
    if (!Wanted(*subject, scenario, number)) return Status();
    Cluster* cluster = subject->cluster.get();
    RETURN_IF_ERROR(cluster->WaitWhole());
    ASSIGN_OR_RETURN(std::vector<size_t> leaders, cluster->Leaders());
    std::vector<uint32_t> led;
    const size_t victim = Victim(leaders, &led);
    subject->load.first_index += uint64_t{1} << 40;
    FailoverLoad load(*subject->protocol, subject->load);
    const int64_t began = MonotonicNs();
    SleepMs(static_cast<int64_t>(c_.warmup_s * 1000));
    for (int64_t deadline = MonotonicNs() + kWaitMs * 1'000'000; !load.AllServedSince(began, led); SleepMs(1)) {
      if (MonotonicNs() > deadline)
        return Error(Code::kDeadline, "{} does not serve all partitions", cluster->system());
    }
    const int64_t before = MonotonicNs();
    SleepMs(kSettleMs);

    ASSIGN_OR_RETURN(const int64_t event, Strike(cluster, victim, scenario.name));
    if (scenario.name == std::string_view("handover")) cluster->WaitEnded(victim);
    const int64_t deadline = event + kWaitMs * 1'000'000;
    const int64_t struck = MonotonicNs();
    while (!load.AllServedSince(struck, led) && MonotonicNs() < deadline) SleepMs(1);
    SleepMs(kSettleMs);
    const int64_t end = MonotonicNs();
    load.Stop();

    struct Run r;
    r.system = cluster->system();
    r.scenario = scenario.name;
    r.run = number;
    Judge(load, led, before, event, end, &r);
    std::vector<uint64_t> records = load.Acknowledged();
    r.acknowledged = records.size();
    ASSIGN_OR_RETURN(ReadBackResult back, ReadBack(*subject->protocol, subject->load, records, subject->redis()));
    r.lost = back.lost;
    r.first_lost = back.first_lost;
    r.first_wrong = load.first_wrong();
    subject->acknowledged.insert(subject->acknowledged.end(), records.begin(), records.end());
    if (scenario.name != std::string_view("restart")) {
      cluster->WaitEnded(victim);
      RETURN_IF_ERROR(cluster->Start(victim));
    }
    Add(std::move(r));
    return Status();
  }

  static void Judge(const FailoverLoad& load, const std::vector<uint32_t>& led, int64_t before, int64_t event,
                    int64_t end, struct Run* r) {
    const bool restart = r->scenario == "restart";
    std::vector<double> pauses;
    for (uint32_t p : led) {
      const std::vector<int64_t> writes = load.WritesOf(p), reads = load.ReadsOf(p);
      // Nothing is answered while nothing runs, so the first answer after the start ends the pause.
      pauses.push_back(Millis(restart ? FirstAnswerAfter(writes, event, end) : LongestPause(writes, event, end)));
      if (!reads.empty()) {
        r->read_pause_ms = std::max(
            r->read_pause_ms, Millis(restart ? FirstAnswerAfter(reads, event, end) : LongestPause(reads, event, end)));
      }
      r->before_ms = std::max(r->before_ms, Millis(LongestPause(writes, before, before + kSettleMs * 1'000'000)));
    }
    const Spread spread = SpreadOf(pauses);
    r->partitions = led.size();
    r->pause_ms = spread.max;
    r->median_partition_ms = spread.p50;
    r->wrong_reads = load.wrong_reads();
  }

  void Add(struct Run r) {
    tools::PrintNote("{} {} {}: no write for {:.0f} ms, no read for {:.0f} ms ({:.0f} ms before); {} of {} lost{}{}\n",
                     r.system, r.scenario, r.run, r.pause_ms, r.read_pause_ms, r.before_ms, r.lost, r.acknowledged,
                     r.lost > 0 ? fmt::format(": {}", r.first_lost) : "",
                     r.wrong_reads > 0 ? fmt::format("; {} wrong reads: {}", r.wrong_reads, r.first_wrong) : "");
    if (r.system == "pando") {
      lost_ += r.lost;
      wrong_reads_ += r.wrong_reads;
    }
    if (json_) {
      fmt::print(json_, "{}\n", ToJson(r, c_.rate).dump());
      std::fflush(json_);
    }
    runs_.push_back(std::move(r));
  }

  // When all servers are back, everything must still be there: a server that returns must not bring the past back.
  Status ReadAll() {
    for (Subject& subject : subjects_) {
      RETURN_IF_ERROR(subject.cluster->WaitWhole());
      ASSIGN_OR_RETURN(ReadBackResult back,
                       ReadBack(*subject.protocol, subject.load, subject.acknowledged, subject.redis()));
      tools::Print("{}: {} of {} acknowledged writes of all runs are there{}\n", subject.cluster->system(),
                   back.read - back.lost, back.read,
                   back.lost > 0 ? fmt::format("; {} are LOST: {}", back.lost, back.first_lost) : "");
      if (subject.cluster->system() == "pando") lost_ += back.lost;
    }
    return Status();
  }

  std::string Table() const {
    tools::Table table({"scenario", "system", "runs", "p50 ms", "p99 ms", "max ms", "median partition", "reads p50 ms",
                        "reads p99 ms", "before p99 ms", "lost", "wrong reads", "target"});
    for (const Scenario& scenario : kScenarios) {
      for (const Subject& subject : subjects_) {
        const std::string& system = subject.cluster->system();
        std::vector<double> pauses, medians, reads, before;
        uint64_t lost = 0, wrong = 0;
        for (const struct Run& r : runs_) {
          if (r.scenario != scenario.name || r.system != system) continue;
          pauses.push_back(r.pause_ms);
          medians.push_back(r.median_partition_ms);
          reads.push_back(r.read_pause_ms);
          before.push_back(r.before_ms);
          lost += r.lost;
          wrong += r.wrong_reads;
        }
        if (pauses.empty()) continue;
        const Spread spread = SpreadOf(pauses), read = SpreadOf(reads);
        table.Row({scenario.name, system, std::to_string(pauses.size()), fmt::format("{:.0f}", spread.p50),
                   fmt::format("{:.0f}", spread.p99), fmt::format("{:.0f}", spread.max),
                   fmt::format("{:.0f}", PercentileOf(medians, 50)), fmt::format("{:.0f}", read.p50),
                   fmt::format("{:.0f}", read.p99), fmt::format("{:.0f}", SpreadOf(before).p99), std::to_string(lost),
                   std::to_string(wrong), system == "pando" ? Target(scenario) : ""});
      }
    }
    return table.Render();
  }

  static std::string Target(const Scenario& scenario) {
    return scenario.p50_ms > 0 ? fmt::format("p50 {:.0f}, p99 {:.0f}", scenario.p50_ms, scenario.p99_ms)
                               : fmt::format("p99 {:.0f}", scenario.p99_ms);
  }

  const FailoverCommand& c_;
  std::FILE* json_ = nullptr;
  std::vector<Subject> subjects_;
  std::vector<struct Run> runs_;
  uint64_t lost_ = 0, wrong_reads_ = 0;  // of Pando
};

}  // namespace

void AddFailoverCommand(tools::Command app, int* exit_code) {
  auto c = std::make_shared<FailoverCommand>();
  tools::Command command = app.Add(
      "failover", "Kill leaders of Pando, of Redis with Sentinel and of etcd under load, and measure what clients see");
  command.Texts("--systems", &c->systems, "Systems to measure: pando, redis, etcd", ',')
      .OneOf({"pando", "redis", "etcd"});
  std::vector<std::string> names;
  for (const Scenario& scenario : kScenarios) names.emplace_back(scenario.name);
  command.Texts("--only", &c->only, fmt::format("Only these scenarios: {}", fmt::join(names, ", ")), ',').OneOf(names);
  command.Number("--runs", &c->runs, "Leaders of Pando to kill in each scenario", 0, 1000).ShowDefault();
  command.Number("--peer_runs", &c->peer_runs, "Leaders of each other system to kill", 0, 1000).ShowDefault();
  command.Number("--rate", &c->rate, "Writes per second, and as many reads", 1, 1e6).ShowDefault();
  command.Number("--warmup_s", &c->warmup_s, "Seconds of load before a leader is killed", 0, 100).ShowDefault();
  command.Number("--partitions", &c->cluster.partitions, "Partitions of Pando, a power of two", 1, 64).ShowDefault();
  command.Number("--value_bytes", &c->value_bytes, "Length of each value", kMinValueBytes, size_t{1} << 16)
      .ShowDefault();
  command.Text("--json", &c->json_path, "Write one line of JSON per run to this file");
  AddClusterOptions(command, &c->cluster.server);
  command.Footer(
      "Scenarios: kill (SIGKILL; Pando's guard lives and tells the others), silent (guard and node killed), restart\n"
      "(the same, and started again 0.2 s later), handover (SIGTERM). Redis and etcd: kill. A run's figure is that of\n"
      "the partition that waited longest of those that the killed node led. Every acknowledged write is read back.\n"
      "The command fails if Pando has lost one, or a read has not shown one; what peers lose is only reported.\n\n"
      "Example:\n  kvbench failover --runs=20 --json=failover.json");
  command.OnChosen([c, exit_code] {
    if ((c->cluster.partitions & (c->cluster.partitions - 1)) != 0) {
      *exit_code =
          Report(Error(Code::kInvalidArgument, "--partitions={} is not a power of two", c->cluster.partitions));
      return;
    }
    *exit_code = Report(FailoverBench(*c).Run());
  });
}

}  // namespace pando::bench
