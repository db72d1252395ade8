#include "tools/kvbench/catch_up.h"

#include <atomic>
#include <map>
#include <thread>

#include "tools/common/output.h"
#include "tools/kvbench/failover_load.h"

namespace pando::bench {

namespace {

constexpr double kMiB = 1 << 20;
constexpr int64_t kLagEveryMs = 5;
constexpr int64_t kMostSeconds = 120;  // for a follower to become level
constexpr int64_t kMetricsAgeMs = 3000;
constexpr size_t kFollower = 1;  // of the nodes, the one that is stopped

// Asks one follower until it has applied `targets`, by partition, and notes how long after `since` each was there.
Status AwaitApplied(NodeCalls* follower, std::map<int32_t, int64_t> targets, int64_t since, std::vector<double>* ms) {
  while (!targets.empty()) {
    ASSIGN_OR_RETURN(api::ReplicasReply reply, follower->Replicas());
    const double passed = static_cast<double>(MonotonicNs() - since) * 1e-6;
    for (const api::ReplicaStatus& replica : reply.replicas) {
      const auto target = targets.find(replica.partition);
      if (target == targets.end() || replica.applied_lsn < target->second) continue;
      ms->push_back(passed);
      targets.erase(target);
    }
  }
  return Status();
}

Status SampleLag(const std::vector<uint16_t>& ports, const std::atomic<bool>& stop, std::vector<double>* ms) {
  std::vector<NodeCalls> calls;
  for (uint16_t port : ports) calls.emplace_back(port);
  std::map<int32_t, int64_t> seen;
  for (size_t turn = 0; !stop; ++turn) {
    SleepMs(kLagEveryMs);
    const int64_t since = MonotonicNs();
    ASSIGN_OR_RETURN(api::ReplicasReply reply, calls[0].Replicas());
    std::map<int32_t, int64_t> targets;  // of the partitions that were written since the last time
    for (const api::ReplicaStatus& replica : reply.replicas) {
      if (std::exchange(seen[replica.partition], replica.applied_lsn) != replica.applied_lsn) {
        targets[replica.partition] = replica.applied_lsn;
      }
    }
    RETURN_IF_ERROR(AwaitApplied(&calls[1 + turn % (calls.size() - 1)], std::move(targets), since, ms));
  }
  return Status();
}

// Runs the foreground until the follower is level.
class Watcher {
 public:
  Watcher(Cluster* cluster, CatchUp* result) : cluster_(cluster), result_(result), thread_(&Watcher::Run, this) {}
  const std::atomic<bool>& done() const { return done_; }
  Status Join() {
    thread_.join();
    return std::move(status_);
  }

 private:
  void Run() {
    const int64_t began = MonotonicNs();
    double copied = 0;
    int64_t first = 0, last = 0;
    auto note_copied = [&] {
      Result<double> bytes = cluster_->Metric(kFollower, "kv_install_received_bytes_total");
      if (!bytes.ok() || *bytes <= copied) return;
      last = MonotonicNs();
      if (first == 0) first = last;
      copied = *bytes;
    };
    std::vector<NodeCalls> calls;
    for (uint16_t port : cluster_->ports()) calls.emplace_back(port);
    while (true) {
      SleepMs(20);
      const int64_t now = MonotonicNs();
      note_copied();
      if (Level(&calls[0], cluster_->size(), cluster_->partitions())) {
        result_->level_s = static_cast<double>(now - began) * 1e-9;
        break;
      }
      if (now - began > kMostSeconds * 1'000'000'000) {
        status_ = Error(Code::kDeadline, "the follower is not level after {} s", kMostSeconds);
        break;
      }
    }
    // Nodes publish their metrics now and then, and the copy may have been quicker.
    for (int64_t waited_ms = 0; copied == 0 && waited_ms < kMetricsAgeMs; waited_ms += 20) {
      SleepMs(20);
      note_copied();
    }
    result_->copied_mb = copied / kMiB;
    result_->copied_s = static_cast<double>(last - first) * 1e-9;
    done_ = true;
  }
  static bool Level(NodeCalls* leader, size_t nodes, uint32_t partitions) {
    Result<api::ReplicasReply> reply = leader->Replicas();
    if (!reply.ok()) return false;
    size_t level = 0;
    for (const api::ReplicaStatus& replica : reply->replicas) {
      level += replica.role == "master" && static_cast<size_t>(replica.in_sync) == nodes;
    }
    return level == partitions;
  }

  Cluster* cluster_;
  CatchUp* result_;
  std::atomic<bool> done_{false};
  Status status_;
  std::thread thread_;
};

}  // namespace

Result<Lag> MeasureLag(Cluster* cluster, const RunSettings& load) {
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, ServerOf(cluster));
  std::atomic<bool> stop{false};
  std::vector<double> ms;
  Status sampled;
  std::thread sampler([&] { sampled = SampleLag(cluster->ports(), stop, &ms); });
  Result<Measurement> measured = Measure(*server, load);
  stop = true;
  sampler.join();
  if (!measured.ok()) return measured.TakeStatus();
  RETURN_IF_ERROR(sampled);
  Lag lag;
  lag.load = *std::move(measured);
  lag.ms = SpreadOf(ms);
  lag.samples = ms.size();
  return Result<Lag>(std::move(lag));
}

Result<CatchUp> MeasureCatchUp(const CatchUpOptions& options) {
  ClusterOptions cluster_options = options.cluster;
  cluster_options.server.extra_args.push_back(fmt::format("--log_budget_mb={}", options.log_budget_mb));
  cluster_options.server.extra_args.push_back(fmt::format("--install_mb_per_s={:.0f}", options.limit_mb_per_s));
  ASSIGN_OR_RETURN(std::unique_ptr<Cluster> cluster, StartPandoCluster(cluster_options));
  RETURN_IF_ERROR(LeadFrom(cluster.get(), 0));
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server, ServerOf(cluster.get()));
  RETURN_IF_ERROR(LoadRecords(*server, options.load));
  CatchUp result;
  ASSIGN_OR_RETURN(result.before, Measure(*server, options.load));

  cluster->Silence(kFollower);
  cluster->WaitEnded(kFollower);
  RunSettings missed = options.load;
  missed.generator.rate = 0;
  missed.generator.depth = 8;
  missed.generator.ops = options.missed_mb * static_cast<uint64_t>(kMiB) / options.load.shape.value_bytes;
  ASSIGN_OR_RETURN(Measurement wrote, Measure(*server, missed));
  tools::PrintNote("wrote {} MiB without node {}, at {:.0f} puts/s\n", options.missed_mb, kFollower + 1,
                   wrote.ops_per_s());
  RETURN_IF_ERROR(cluster->Start(kFollower));
  Watcher watcher(cluster.get(), &result);
  RunSettings foreground = options.load;
  foreground.generator.warmup_s = 0;
  foreground.generator.seconds = static_cast<double>(kMostSeconds) + 10;
  foreground.generator.until = &watcher.done();
  Result<Measurement> during = Measure(*server, foreground);
  RETURN_IF_ERROR(watcher.Join());
  if (!during.ok()) return during.TakeStatus();
  result.during = *std::move(during);
  return Result<CatchUp>(std::move(result));
}

}  // namespace pando::bench
